package record

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/emmansun/base64"
)

// Header is one Kafka record header.
type Header struct {
	Name  string
	Value []byte // nil is a null value, empty is an empty one
}

// EncoderConfig says what goes around each value. Start from
// DefaultEncoderConfig: the zero value means partition 0 and no validation.
type EncoderConfig struct {
	ValueType Type    // Auto: STRING where valid UTF-8, else BINARY
	Validate  bool    // JSON only: check syntax, UTF-8 and depth before sending
	NullValue *string // a value equal to this becomes a Kafka null (tombstone); nil: none does

	Key      []byte // one key for all records; only with HasKey, may be empty
	HasKey   bool
	KeyField string // key from this field of the JSON line (see Field); missing or null: null key
	KeyDelim []byte // key before the first of these, value after it; a line without it has a null key
	KeyType  Type   // of any key; Auto as for values

	Partition      int32    // -1: the partitioner's choice
	Headers        []Header // the same for all records
	TimestampField string   // field with the record's time (see parseTimestamp); missing or null: server clock
	RecordIDHeader string   // name of the header that holds the id given to Append; "": none

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
// Concurrency: not safe, it has scratch of its own; use one per goroutine.
// Source: Confluent REST v3 OpenAPI, ProduceRequest.
type Encoder struct {
	cfg       EncoderConfig
	nullValue []byte

	// A record is head, [id, tail], [key], [timestamp], value[type], payload.
	head  []byte
	tail  []byte
	value [Binary + 1][]byte
	// full is head and value[type] in one where nothing comes between.
	full  [Binary + 1][]byte
	fixed bool

	keyField, timeField *Field
	scratch             []byte
}

// NewEncoder checks cfg and precomputes what all records share.
//
// Ownership: cfg's slices are copied into the prefix, but for KeyDelim, which
// must stay unchanged.
// Errors: name the flag that is wrong.
func NewEncoder(cfg EncoderConfig) (*Encoder, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	e := &Encoder{cfg: cfg}
	if cfg.NullValue != nil {
		e.nullValue = []byte(*cfg.NullValue)
	}
	if cfg.KeyField != "" {
		e.keyField = NewField(cfg.KeyField)
	}
	if cfg.TimestampField != "" {
		e.timeField = NewField(cfg.TimestampField)
	}
	if err := e.buildPrefix(); err != nil {
		return nil, err
	}
	return e, nil
}

func (c *EncoderConfig) check() error {
	keys := 0
	for _, given := range []bool{c.HasKey, c.KeyField != "", len(c.KeyDelim) > 0} {
		if given {
			keys++
		}
	}
	switch {
	case c.ValueType > Binary:
		return fmt.Errorf("--value-type=%v: must be auto, string, json or binary", c.ValueType)
	case c.KeyType > Binary:
		return fmt.Errorf("--key-type=%v: must be auto, string, json or binary", c.KeyType)
	case keys > 1:
		return errors.New("--key, --key-field and -K: a record has one key, give only one of them")
	case c.Partition < -1:
		return fmt.Errorf("--partition=%d: must be 0 or more, or -1 for the partitioner's choice", c.Partition)
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

func (e *Encoder) buildPrefix() error {
	c := &e.cfg
	head := []byte{'{'}
	if c.Partition >= 0 {
		head = append(head, `"partition_id":`...)
		head = strconv.AppendInt(head, int64(c.Partition), 10)
		head = append(head, ',')
	}
	if len(c.Headers) > 0 || c.RecordIDHeader != "" {
		head = append(head, `"headers":[`...)
		for i, h := range c.Headers {
			if i > 0 {
				head = append(head, ',')
			}
			head = appendHeader(head, h)
		}
		if c.RecordIDHeader == "" {
			head = append(head, `],`...)
		}
	}
	last := &head
	if c.RecordIDHeader != "" {
		if len(c.Headers) > 0 {
			head = append(head, ',')
		}
		head = append(head, `{"name":"`...)
		head, _ = appendEscaped(head, []byte(c.RecordIDHeader))
		head = append(head, `","value":"`...)
		e.tail = []byte(`"}],`)
		last = &e.tail
	}
	if c.HasKey {
		var err error
		if *last, err = e.appendKey(*last, c.Key); err != nil {
			return fmt.Errorf("--key: %w", err)
		}
	}
	e.head = head
	e.fixed = c.RecordIDHeader == "" && e.keyField == nil && len(c.KeyDelim) == 0 && e.timeField == nil
	for t := String; t <= Binary; t++ {
		e.value[t] = []byte(`"value":{"type":"` + t.String() + `","data":`)
		if t != JSON {
			e.value[t] = append(e.value[t], '"')
		}
		e.full[t] = append(bytes.Clone(head), e.value[t]...)
	}
	return nil
}

func appendHeader(dst []byte, h Header) []byte {
	dst = append(dst, `{"name":"`...)
	dst, _ = appendEscaped(dst, []byte(h.Name))
	if h.Value == nil {
		return append(dst, `","value":null}`...)
	}
	dst = append(dst, `","value":"`...)
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
	limit := e.cfg.MaxRecordBytes
	if limit > 0 && len(line) > limit {
		return dst, tooLarge("record", len(line), limit)
	}
	start := len(dst)
	out, err := e.appendRecord(dst, line, id)
	if err != nil {
		return dst, err
	}
	if limit > 0 && len(out)-start > limit {
		return dst, tooLarge("encoded record", len(out)-start, limit)
	}
	return out, nil
}

func (e *Encoder) appendRecord(dst, line, id []byte) ([]byte, error) {
	if e.fixed {
		return e.appendValue(dst, line, &e.full)
	}
	dst = append(dst, e.head...)
	if e.cfg.RecordIDHeader != "" {
		dst = base64.StdEncoding.AppendEncode(dst, id)
		dst = append(dst, e.tail...)
	}
	var err error
	if delim := e.cfg.KeyDelim; len(delim) > 0 {
		if i := bytes.Index(line, delim); i >= 0 {
			if dst, err = e.appendKey(dst, line[:i]); err != nil {
				return nil, err
			}
			line = line[i+len(delim):]
		}
	}
	if (e.keyField != nil || e.timeField != nil) && !e.isNull(line) {
		if dst, err = e.appendFields(dst, line); err != nil {
			return nil, err
		}
	}
	return e.appendValue(dst, line, &e.value)
}

func (e *Encoder) isNull(line []byte) bool {
	return e.cfg.NullValue != nil && bytes.Equal(line, e.nullValue)
}

// appendValue appends prefix[type], the data and the end of the record.
func (e *Encoder) appendValue(dst, line []byte, prefix *[Binary + 1][]byte) ([]byte, error) {
	if e.isNull(line) {
		return appendNull(dst, prefix, e.cfg.ValueType), nil
	}
	start := len(dst)
	switch e.cfg.ValueType {
	case Binary:
	case JSON:
		if err := e.checkJSONLine(line); err != nil {
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
func (e *Encoder) checkJSONLine(line []byte) error {
	if e.cfg.Validate && e.keyField == nil && e.timeField == nil { // else appendFields has checked it
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
	switch f, at := checkJSON(line, maxValueDepth); f {
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

// appendFields appends the key and the timestamp that are in fields of line.
func (e *Encoder) appendFields(dst, line []byte) ([]byte, error) {
	if i := skipSpace(line, 0); i == len(line) || line[i] != '{' {
		reason, name := ReasonNoKeyField, e.cfg.KeyField
		if e.keyField == nil {
			reason, name = ReasonBadTimestamp, e.cfg.TimestampField
		}
		return nil, invalid(reason, "line is not a JSON object, so it has no field "+strconv.Quote(name)+
			": send such lines without --key-field and --timestamp-field")
	}
	if err := checkValue(line); err != nil {
		return nil, err
	}
	findBoth(line, e.keyField, e.timeField)
	if raw, ok := e.keyField.found(); ok && string(raw) != "null" {
		dst = e.appendRawKey(dst, raw)
	}
	raw, ok := e.timeField.found()
	if !ok || string(raw) == "null" {
		return dst, nil
	}
	millis, ok := parseTimestamp(raw)
	if !ok {
		return nil, invalid(ReasonBadTimestamp, "field "+strconv.Quote(e.cfg.TimestampField)+" is "+
			clip(raw)+", not a time from 1970 to 9999: give RFC 3339 with an offset, or epoch s, ms, µs or ns")
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
