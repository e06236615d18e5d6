package record

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/emmansun/base64"
)

// Header is one Kafka record header.
type Header struct {
	Name     string
	Value    []byte    // nil is a null value, empty is an empty one
	Template *Template // makes the value instead, nil: Value is it; with a field in it that is missing or null the header is left out
}

// EncoderConfig says what goes around each value. Start from
// DefaultEncoderConfig: the zero value means partition 0 and no validation.
//
// A field is one of the payload's (see Scope.Field). Where one is named, a
// payload that is not a JSON object is rejected, unless it is the NullValue.
type EncoderConfig struct {
	Decode     Decoding // what a payload is taken for
	ValueType  Type     // Auto: STRING where valid UTF-8, else BINARY
	Validate   bool     // JSON only: check syntax, UTF-8 and depth before sending
	NullValue  *string  // a value equal to this becomes a Kafka null (tombstone); nil: none does
	NullField  string   // a payload with NullEquals in this field becomes one too; "": none does
	NullEquals *string  // a text; nil: the field is there, and null

	Key         []byte // one key for all records; only with HasKey, may be empty
	HasKey      bool
	KeyField    string    // key from this field; missing or null: null key
	KeyTemplate *Template // key made of fields; one missing or null: null key
	KeyDelim    []byte    // key before the first of these, value after it; a line without it has a null key
	KeyType     Type      // of any key; Auto as for values

	Partition      int32      // -1: the partitioner's choice
	PartitionField string     // partition from this field, an integer or a string of one; missing or null: the partitioner's choice
	Headers        []Header   // in this order
	TimestampField string     // field with the record's time (see parseTimestamp); missing or null: server clock
	TimeFormat     TimeFormat // of TimestampField
	RecordIDHeader string     // name of the header that holds the id given to Append; "": none

	MaxRecordBytes int // bounds the line and the encoded record, each; 0: no limit
}

// DefaultEncoderConfig sends every line unchanged (Auto), keys as STRING, no
// partition, JSON validated: a syntax error on the wire would end the stream
// for all records behind it.
func DefaultEncoderConfig() EncoderConfig {
	return EncoderConfig{ValueType: Auto, KeyType: String, Partition: -1, Validate: true}
}

// Encoder turns payloads into Kafka REST v3 produce records.
//
// Shape: {"partition_id":0,"headers":[…],"key":{…},"timestamp":"…","value":{"type":"…","data":…}}\n
// with only the members that are there. Everything before the payload that is
// the same for all records is one precomputed prefix, and the payload is last.
//
// Concurrency: not safe, it has scratch of its own and its Scope's; use one
// per goroutine.
// Source: Confluent REST v3 OpenAPI, ProduceRequest.
type Encoder struct {
	cfg       EncoderConfig
	scope     *Scope
	nullValue []byte

	// A record is head, [partition], [headers] or mid, [id, tail], [key],
	// [timestamp], value[type], payload.
	head    []byte
	mid     []byte
	headers []header // where one of them is not the same for all records
	tail    []byte
	value   [Binary + 1][]byte
	// full is head and value[type] in one where nothing comes between.
	full  [Binary + 1][]byte
	fixed bool

	key                                       *Text
	keyField, timeField, partField, nullField Ref
	fields                                    string // one of the payload's fields that a rule needs; "": none does
	scratch                                   []byte
}

// header is one header as it goes on the wire, comma included.
type header struct {
	wire  []byte // all of it, or up to the value's opening quote
	value *Text  // nil: it is the same for all records
}

// NewEncoder returns an Encoder that has a Scope to itself.
func NewEncoder(cfg EncoderConfig) (*Encoder, error) { return NewScope(Vars{}).NewEncoder(cfg) }

// NewEncoder checks cfg and precomputes what all records share. The encoder
// looks at payloads through s.
//
// Ownership: cfg's slices are copied into the prefix, but for KeyDelim, which
// must stay unchanged.
// Errors: name the flag that is wrong.
func (s *Scope) NewEncoder(cfg EncoderConfig) (*Encoder, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	e := &Encoder{cfg: cfg, scope: s}
	if cfg.NullValue != nil {
		e.nullValue = []byte(*cfg.NullValue)
	}
	if err := e.bind(); err != nil {
		return nil, err
	}
	if err := e.buildPrefix(); err != nil {
		return nil, err
	}
	return e, nil
}

func (c *EncoderConfig) check() error {
	keys := 0
	for _, given := range []bool{c.HasKey, c.KeyField != "", c.KeyTemplate != nil, len(c.KeyDelim) > 0} {
		if given {
			keys++
		}
	}
	switch {
	case c.Decode > DecodeJSON:
		return fmt.Errorf("decode=%v: must be json, text, bytes or any", c.Decode)
	case c.ValueType > Binary:
		return fmt.Errorf("--value-type=%v: must be auto, string, json or binary", c.ValueType)
	case c.KeyType > Binary:
		return fmt.Errorf("--key-type=%v: must be auto, string, json or binary", c.KeyType)
	case keys > 1:
		return errors.New("--key, --key-field and -K: a record has one key, give only one of them")
	case c.Partition < -1:
		return fmt.Errorf("--partition=%d: must be 0 or more, or -1 for the partitioner's choice", c.Partition)
	case c.Partition >= 0 && c.PartitionField != "":
		return fmt.Errorf("--partition=%d: the partition comes from field %q already, give only one of them", c.Partition, c.PartitionField)
	case c.NullEquals != nil && c.NullField == "":
		return fmt.Errorf("null equals %q: name the field that is to be compared", *c.NullEquals)
	case int(c.TimeFormat) >= len(timeFormats):
		return fmt.Errorf("time format %v: must be one of %s", c.TimeFormat, strings.Join(timeFormats[:], ", "))
	case c.MaxRecordBytes < 0:
		return fmt.Errorf("--max-record-bytes=%d: must be 0 (no limit) or more", c.MaxRecordBytes)
	case !utf8.ValidString(c.RecordIDHeader):
		return fmt.Errorf("--record-id-header=%q: must be valid UTF-8", c.RecordIDHeader)
	}
	for _, h := range c.Headers {
		if h.Name == "" || !utf8.ValidString(h.Name) {
			return fmt.Errorf("-H %q: a header needs a name, in valid UTF-8", h.Name)
		}
	}
	return nil
}

// bind looks up the fields that cfg names.
func (e *Encoder) bind() error {
	c := &e.cfg
	ref := func(name string) Ref {
		if name == "" {
			return 0
		}
		e.fields = name
		return e.scope.Field(name)
	}
	text := func(t *Template) *Text {
		if fields := t.Fields(); len(fields) > 0 {
			e.fields = fields[0]
		}
		return e.scope.Bind(t)
	}
	// Of several fields the first of these is what a rejection speaks of.
	e.headers = make([]header, len(c.Headers))
	c.Headers = slices.Clone(c.Headers)
	constant := true
	for i, h := range c.Headers {
		if h.Template == nil {
			continue
		}
		x := text(h.Template)
		if value, ok := x.Constant(); ok {
			c.Headers[i] = Header{Name: h.Name, Value: append([]byte{}, value...)}
			continue
		}
		constant, e.headers[i].value = false, x
	}
	if constant {
		e.headers = nil
	}
	e.partField = ref(c.PartitionField)
	e.nullField = ref(c.NullField)
	e.timeField = ref(c.TimestampField)
	e.keyField = ref(c.KeyField)
	if c.KeyTemplate != nil {
		e.key = text(c.KeyTemplate)
		if value, ok := e.key.Constant(); ok {
			c.HasKey, c.Key, e.key = true, []byte(value), nil
		}
	}
	if e.fields != "" && (c.Decode == DecodeText || c.Decode == DecodeBytes) {
		return fmt.Errorf("decode: %v, and field %q is used: a payload has fields only with decode: json", c.Decode, e.fields)
	}
	return nil
}

func (e *Encoder) buildPrefix() error {
	c := &e.cfg
	e.head = []byte{'{'}
	if c.Partition >= 0 {
		e.head = append(e.head, `"partition_id":`...)
		e.head = strconv.AppendInt(e.head, int64(c.Partition), 10)
		e.head = append(e.head, ',')
	}
	if e.headers == nil {
		e.mid = e.constantHeaders()
	} else {
		e.wireHeaders()
	}
	last := &e.mid
	if c.RecordIDHeader != "" {
		if e.headers == nil {
			e.tail = []byte(`"}],`)
		}
		last = &e.tail
	} else if e.headers != nil {
		last = &e.tail
	}
	if c.HasKey {
		var err error
		if *last, err = e.appendKey(*last, c.Key); err != nil {
			return fmt.Errorf("--key: %w", err)
		}
	}
	if e.partField == 0 && e.headers == nil {
		e.head, e.mid = append(e.head, e.mid...), nil
	}
	e.fixed = c.RecordIDHeader == "" && len(c.KeyDelim) == 0 && e.fields == "" && e.headers == nil && e.key == nil &&
		(c.Decode != DecodeJSON || c.ValueType == JSON)
	if c.Decode == DecodeBytes && c.ValueType == Auto {
		c.ValueType = Binary
	}
	c.Validate = c.Validate || c.Decode == DecodeJSON
	for t := String; t <= Binary; t++ {
		e.value[t] = []byte(`"value":{"type":"` + t.String() + `","data":`)
		if t != JSON {
			e.value[t] = append(e.value[t], '"')
		}
		e.full[t] = append(bytes.Clone(e.head), e.value[t]...)
	}
	return nil
}

// constantHeaders returns the headers member, up to the id's value where there
// is to be one; empty without any.
func (e *Encoder) constantHeaders() (dst []byte) {
	c := &e.cfg
	if len(c.Headers) == 0 && c.RecordIDHeader == "" {
		return nil
	}
	dst = append(dst, `"headers":[`...)
	for i, h := range c.Headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendHeader(dst, h)
	}
	if c.RecordIDHeader == "" {
		return append(dst, `],`...)
	}
	if len(c.Headers) > 0 {
		dst = append(dst, ',')
	}
	return appendHeaderName(dst, c.RecordIDHeader)
}

// wireHeaders prepares headers that differ from record to record, the id's
// name last.
func (e *Encoder) wireHeaders() {
	for i, h := range e.cfg.Headers {
		if e.headers[i].value == nil {
			e.headers[i].wire = append(appendHeader(nil, h), ',')
		} else {
			e.headers[i].wire = appendHeaderName(nil, h.Name)
		}
	}
	if e.cfg.RecordIDHeader != "" {
		e.mid = appendHeaderName(nil, e.cfg.RecordIDHeader)
	}
}

// appendHeaderName appends a header up to its value's opening quote.
func appendHeaderName(dst []byte, name string) []byte {
	dst = append(dst, `{"name":"`...)
	dst, _ = appendEscaped(dst, []byte(name))
	return append(dst, `","value":"`...)
}

// appendHeader appends a header of a constant value.
func appendHeader(dst []byte, h Header) []byte {
	dst = appendHeaderName(dst, h.Name)
	if h.Value == nil {
		return append(dst[:len(dst)-1], `null}`...)
	}
	dst = base64.StdEncoding.AppendEncode(dst, h.Value)
	return append(dst, `"}`...)
}

// Append appends line as one record, newline included, and returns the
// extended slice. id is the value of RecordIDHeader; without that it is unused.
//
// A line that is the null value has an explicit null as its data: unlike a
// missing value its report still has a value member (size -1), so a tombstone
// can be told from a record whose value was lost.
//
// Ownership: line and id are read, never kept.
// Units: STRING is at most 6 bytes a byte, BINARY 4 for 3.
// Errors: *InvalidError, and dst as it was: that line can never be sent.
// Concurrency: not safe. Allocates only to grow dst and on an error.
func (e *Encoder) Append(dst, line, id []byte) ([]byte, error) {
	return e.append(dst, line, id, false)
}

// AppendSeen is Append for a line whose Value the Scope has been set to, so
// that what was parsed of it is not parsed again.
func (e *Encoder) AppendSeen(dst, line, id []byte) ([]byte, error) {
	return e.append(dst, line, id, true)
}

// Value returns the part of line that is the record's value and has the fields:
// what is behind the key's delimiter, all of it without one.
func (e *Encoder) Value(line []byte) []byte {
	_, value, _ := e.cut(line)
	return value
}

func (e *Encoder) cut(line []byte) (key, value []byte, found bool) {
	if delim := e.cfg.KeyDelim; len(delim) > 0 {
		if i := bytes.Index(line, delim); i >= 0 {
			return line[:i], line[i+len(delim):], true
		}
	}
	return nil, line, false
}

// append encodes line; seen says that the scope is set to its value.
func (e *Encoder) append(dst, line, id []byte, seen bool) ([]byte, error) {
	limit := e.cfg.MaxRecordBytes
	if limit > 0 && len(line) > limit {
		return dst, tooLarge("record", len(line), limit)
	}
	start := len(dst)
	out, err := e.appendRecord(dst, line, id, seen)
	if err != nil {
		return dst, err
	}
	if limit > 0 && len(out)-start > limit {
		return dst, tooLarge("encoded record", len(out)-start, limit)
	}
	return out, nil
}

func (e *Encoder) appendRecord(dst, line, id []byte, seen bool) ([]byte, error) {
	checked := seen && e.scope.state == stateObject
	if e.fixed {
		return e.appendValue(dst, line, &e.full, e.isNull(line), checked)
	}
	key, line, keyed := e.cut(line)
	if !seen {
		e.scope.Set(line)
	}
	null := e.isNull(line)
	switch {
	case null:
		e.scope.setEmpty()
	case e.fields != "":
		if !e.scope.object() {
			return nil, e.noFields()
		}
		checked = true
		null = e.nullField != 0 && e.nullByField()
	case e.cfg.Decode == DecodeJSON && !checked:
		if err := checkValue(line); err != nil {
			return nil, err
		}
		checked = true
	}
	var err error
	dst = append(dst, e.head...)
	if e.partField != 0 {
		if dst, err = e.appendPartition(dst); err != nil {
			return nil, err
		}
	}
	if e.headers != nil {
		dst = e.appendHeaders(dst, id)
	} else {
		dst = append(dst, e.mid...)
		if e.cfg.RecordIDHeader != "" {
			dst = base64.StdEncoding.AppendEncode(dst, id)
		}
	}
	dst = append(dst, e.tail...)
	switch {
	case keyed:
		dst, err = e.appendKey(dst, key)
	case e.keyField != 0:
		if raw := e.scope.raw(e.keyField); raw != nil && string(raw) != "null" {
			dst = e.appendRawKey(dst, raw)
		}
	case e.key != nil:
		var ok bool
		if e.scratch, ok = e.key.Append(e.scratch[:0]); ok {
			dst, err = e.appendKey(dst, e.scratch)
		}
	}
	if err != nil {
		return nil, err
	}
	if e.timeField != 0 {
		if dst, err = e.appendTime(dst); err != nil {
			return nil, err
		}
	}
	return e.appendValue(dst, line, &e.value, null, checked)
}

func (e *Encoder) isNull(line []byte) bool {
	return e.cfg.NullValue != nil && bytes.Equal(line, e.nullValue)
}

// nullByField says that a field makes the record a tombstone.
func (e *Encoder) nullByField() bool {
	if e.cfg.NullEquals == nil {
		return string(e.scope.raw(e.nullField)) == "null"
	}
	text, kind := e.scope.Get(e.nullField)
	return kind == Scalar && string(text) == *e.cfg.NullEquals
}

// appendHeaders appends the headers member, without those that have no value;
// nothing without any.
func (e *Encoder) appendHeaders(dst, id []byte) []byte {
	start := len(dst)
	dst = append(dst, `"headers":[`...)
	empty := len(dst)
	for i := range e.headers {
		h := &e.headers[i]
		if h.value != nil {
			var ok bool
			if e.scratch, ok = h.value.Append(e.scratch[:0]); !ok {
				continue
			}
			dst = append(dst, h.wire...)
			dst = base64.StdEncoding.AppendEncode(dst, e.scratch)
			dst = append(dst, `"},`...)
			continue
		}
		dst = append(dst, h.wire...)
	}
	if e.cfg.RecordIDHeader != "" {
		dst = append(dst, e.mid...)
		dst = base64.StdEncoding.AppendEncode(dst, id)
		dst = append(dst, `"},`...)
	}
	if len(dst) == empty {
		return dst[:start]
	}
	return append(dst[:len(dst)-1], `],`...)
}

// appendPartition appends the partition that is in a field.
func (e *Encoder) appendPartition(dst []byte) ([]byte, error) {
	text, kind := e.scope.Get(e.partField)
	if kind == Missing {
		return dst, nil
	}
	n, ok := parsePartition(text)
	if kind != Scalar || !ok {
		return nil, invalid(ReasonBadPartition, "field "+strconv.Quote(e.cfg.PartitionField)+" is "+clip(text)+
			", not a partition: give an integer from 0 to 2147483647, or null for the partitioner's choice")
	}
	dst = append(dst, `"partition_id":`...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, ','), nil
}

func parsePartition(text []byte) (n int64, ok bool) {
	if len(text) == 0 || len(text) > 10 {
		return 0, false
	}
	for _, c := range text {
		if c-'0' >= 10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, n <= 1<<31-1
}

// appendValue appends prefix[type], the data and the end of the record. checked
// says that line is known to be valid JSON.
func (e *Encoder) appendValue(dst, line []byte, prefix *[Binary + 1][]byte, null, checked bool) ([]byte, error) {
	if null {
		return appendNull(dst, prefix, e.cfg.ValueType), nil
	}
	start := len(dst)
	switch e.cfg.ValueType {
	case Binary:
	case JSON:
		if err := e.checkJSONLine(line, checked); err != nil {
			return nil, err
		}
		dst = append(dst, prefix[JSON]...)
		dst = append(dst, line...)
		return append(dst, "}}\n"...), nil
	default:
		dst = append(dst, prefix[String]...)
		out, ascii := appendEscaped(dst, line)
		if ascii || utf8.Valid(line) {
			return append(out, "\"}}\n"...), nil
		}
		if e.cfg.ValueType == String {
			return nil, invalid(ReasonInvalidUTF8,
				"value is not valid UTF-8, so it cannot be sent as STRING: use --value-type auto or binary")
		}
		dst = out[:start]
	}
	dst = append(dst, prefix[Binary]...)
	dst = base64.StdEncoding.AppendEncode(dst, line)
	return append(dst, "\"}}\n"...), nil
}

// appendNull appends a value of Kafka null, under the type the others have.
func appendNull(dst []byte, prefix *[Binary + 1][]byte, t Type) []byte {
	if t == Auto {
		t = String
	}
	dst = append(dst, prefix[t]...)
	if t != JSON {
		dst = dst[:len(dst)-1] // the quote
	}
	return append(dst, "null}}\n"...)
}

// checkJSONLine returns why line cannot be the data of a JSON record. Without
// Validate only what would not even be one line's own trouble is refused: no
// data at all, and a null that nobody asked for.
func (e *Encoder) checkJSONLine(line []byte, checked bool) error {
	if e.cfg.Validate && !checked {
		if err := checkValue(line); err != nil {
			return err
		}
	}
	i := skipSpace(line, 0)
	if i == len(line) {
		return invalid(ReasonInvalidJSON, "value is empty, which is not JSON: use --skip-empty or --value-type auto")
	}
	if line[i] == 'n' && string(bytes.TrimRight(line[i:], " \t\r\n")) == "null" {
		return invalid(ReasonNullValue,
			"value is a JSON null, which the server would store as a tombstone: say --null-value null if that is meant")
	}
	return nil
}

// checkValue returns why line cannot be the data of a JSON record.
func checkValue(line []byte) error {
	return faultError(checkJSON(line, maxValueDepth))
}

// faultError puts into words what checkJSON found; nil for nothing.
func faultError(f fault, at int) error {
	switch f {
	case faultSyntax:
		return invalid(ReasonInvalidJSON, "value is not valid JSON at byte "+strconv.Itoa(at)+
			": mend it, or use --value-type auto to send the bytes as they are")
	case faultUTF8:
		return invalid(ReasonInvalidUTF8,
			"value is not valid UTF-8, as JSON must be: use --value-type auto or binary")
	case faultDepth:
		return invalid(ReasonTooDeep, "value is nested over "+strconv.Itoa(maxValueDepth)+
			" deep, the server's parser would refuse it and end the stream: use --value-type auto")
	}
	return nil
}

// noFields returns why the payload, which is no JSON object, has no fields.
func (e *Encoder) noFields() error {
	if e.scope.state == stateBroken {
		return faultError(e.scope.fault, e.scope.at)
	}
	reason := ReasonNoFields
	switch {
	case e.keyField != 0, e.key != nil && e.key.OfPayload():
		reason = ReasonNoKeyField
	case e.timeField != 0:
		reason = ReasonBadTimestamp
	}
	return invalid(reason, "line is not a JSON object, so it has no field "+strconv.Quote(e.fields)+
		": send such lines without --key-field and --timestamp-field, or by a route that uses no field")
}

// appendTime appends the timestamp that is in a field.
func (e *Encoder) appendTime(dst []byte) ([]byte, error) {
	raw := e.scope.raw(e.timeField)
	if raw == nil || string(raw) == "null" {
		return dst, nil
	}
	millis, ok := parseTimestamp(raw, e.cfg.TimeFormat)
	if !ok {
		return nil, invalid(ReasonBadTimestamp, "field "+strconv.Quote(e.cfg.TimestampField)+" is "+
			clip(raw)+", not a time from 1970 to 9999: give "+e.cfg.TimeFormat.wanted())
	}
	dst = append(dst, `"timestamp":"`...)
	dst = appendTimestamp(dst, millis)
	return append(dst, `",`...), nil
}

// clip shortens raw for an error text.
func clip(raw []byte) string {
	const most = 60
	if len(raw) <= most {
		return string(raw)
	}
	return string(bytes.ToValidUTF8(raw[:most], nil)) + "…"
}

// appendKey appends the key member for plain bytes.
func (e *Encoder) appendKey(dst, key []byte) ([]byte, error) {
	switch e.cfg.KeyType {
	case Binary:
		return appendBinaryKey(dst, key), nil
	case JSON:
		if f, _ := checkJSON(key, maxValueDepth); f != faultNone {
			return nil, invalid(ReasonInvalidKey, "key "+strconv.Quote(clip(key))+
				" is not valid JSON: use --key-type string, auto or binary")
		}
		if string(bytes.Trim(key, " \t\r\n")) == "null" {
			return dst, nil // the server would make it a null key
		}
		return appendTokenKey(dst, JSON, key), nil
	}
	if !utf8.Valid(key) {
		if e.cfg.KeyType == String {
			return nil, invalid(ReasonInvalidKey, "key "+strconv.Quote(clip(key))+
				" is not valid UTF-8: use --key-type auto or binary")
		}
		return appendBinaryKey(dst, key), nil
	}
	return appendStringKey(dst, key), nil
}

// appendRawKey appends the key member for a raw JSON value that was checked
// with its line: a string goes through under its own escapes, anything else as
// its text.
func (e *Encoder) appendRawKey(dst, raw []byte) []byte {
	switch {
	case e.cfg.KeyType == JSON:
		return appendTokenKey(dst, JSON, raw)
	case e.cfg.KeyType == Binary:
		if raw[0] == '"' {
			e.scratch = AppendText(e.scratch[:0], raw)
			raw = e.scratch
		}
		return appendBinaryKey(dst, raw)
	case raw[0] == '"':
		return appendTokenKey(dst, String, raw)
	}
	return appendStringKey(dst, raw)
}

func appendStringKey(dst, key []byte) []byte {
	dst = append(dst, `"key":{"type":"STRING","data":"`...)
	dst, _ = appendEscaped(dst, key)
	return append(dst, `"},`...)
}

func appendBinaryKey(dst, key []byte) []byte {
	dst = append(dst, `"key":{"type":"BINARY","data":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, key)
	return append(dst, `"},`...)
}

func appendTokenKey(dst []byte, t Type, raw []byte) []byte {
	if t == JSON {
		dst = append(dst, `"key":{"type":"JSON","data":`...)
	} else {
		dst = append(dst, `"key":{"type":"STRING","data":`...)
	}
	dst = append(dst, raw...)
	return append(dst, `},`...)
}
