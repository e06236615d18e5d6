package sandbox

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	classRequest = "io.confluent.kafkarest.entities.v3.ProduceRequest"
	classHeader  = "io.confluent.kafkarest.entities.v3.ProduceRequest$ProduceRequestHeader"
	classData    = "io.confluent.kafkarest.entities.v3.ProduceRequest$ProduceRequestData"
	classFormat  = "io.confluent.kafkarest.entities.EmbeddedFormat"
)

// dataFormat is the type member of a key or value.
type dataFormat uint8

const (
	formatNone dataFormat = iota // no type member
	formatBinary
	formatJSON
	formatString
	formatAvro
	formatJSONSchema
	formatProtobuf
)

var formatNames = [...]string{"", "BINARY", "JSON", "STRING", "AVRO", "JSONSCHEMA", "PROTOBUF"}

func (f dataFormat) String() string { return formatNames[f] }

// produceData is a key or value object as bound, not yet serialised.
type produceData struct {
	present bool
	format  dataFormat
	hasData bool
	raw     []byte // source of the data member; points into the record
	null    bool   // data was null

	subject, strategy, schema bool // whether the member is there
	schemaID, schemaVersion   bool
}

// produceRecord is one bound ProduceRequest. Its byte slices point into the
// record's source and live as long as that.
type produceRecord struct {
	partition    int32
	hasPartition bool
	headers      []kgo.RecordHeader
	key, value   produceData
	timestamp    time.Time // zero: none given
	id           []byte    // of a batch's entry; nil where it is no string
}

// bindRecord fills r from one JSON value that the scanner accepted. Unknown
// members are refused at every level, a repeated member's last value counts,
// and scalars are coerced as Jackson's defaults do.
//
// Errors: the text of the per-record 400 report.
// Source: kafka-rest entities/v3/ProduceRequest, Jackson's defaults.
func bindRecord(r *produceRecord, src []byte) error { return bindMembers(r, src, false) }

// bindEntry is bindRecord for one entry of a batch, which has an id as well.
func bindEntry(r *produceRecord, src []byte) error { return bindMembers(r, src, true) }

func bindMembers(r *produceRecord, src []byte, entry bool) error {
	*r = produceRecord{headers: r.headers[:0]}
	c := cursor{b: src}
	if c.peek() != '{' {
		return wrongToken(classRequest, &c)
	}
	for ok := c.open(); ok; ok = c.more() {
		name := c.name()
		var err error
		if entry && string(name) == "id" {
			r.id = bindID(&c)
			continue
		}
		switch string(name) {
		case "partition_id":
			r.partition, r.hasPartition, err = bindInt(&c)
		case "headers":
			r.headers, err = bindHeaders(&c, r.headers[:0])
		case "key":
			err = bindData(&r.key, &c)
		case "value":
			err = bindData(&r.value, &c)
		case "timestamp":
			r.timestamp, err = bindInstant(&c)
		case "originalSize":
			_, _, err = bindInt(&c)
		default:
			err = fmt.Errorf("Unrecognized field %q (class %s$Builder), not marked as ignorable (6 known properties: \"originalSize\", \"timestamp\", \"partition_id\", \"headers\", \"value\", \"key\"])", name, classRequest) //nolint:staticcheck // the server's text
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bindID takes an entry's id; what is not a string is none.
func bindID(c *cursor) []byte {
	if c.peek() != '"' {
		c.value()
		return nil
	}
	raw, escaped := c.str()
	if escaped {
		raw, _ = appendUnescaped(nil, raw)
	}
	return raw
}

// bindData binds a key or value object; null leaves it absent.
func bindData(d *produceData, c *cursor) error {
	*d = produceData{}
	switch c.peek() {
	case 'n':
		c.value()
		return nil
	case '{':
	default:
		return wrongToken(classData, c)
	}
	d.present = true
	for ok := c.open(); ok; ok = c.more() {
		name := c.name()
		var err error
		switch string(name) {
		case "type":
			d.format, err = bindFormat(c)
		case "data":
			d.raw, d.hasData = c.value(), true
			d.null = d.raw[0] == 'n'
		case "subject":
			d.subject, err = bindText(c)
		case "subject_name_strategy":
			d.strategy, err = bindStrategy(c)
		case "schema":
			d.schema, err = bindText(c)
		case "schema_id":
			_, d.schemaID, err = bindInt(c)
		case "schema_version":
			_, d.schemaVersion, err = bindInt(c)
		default:
			err = fmt.Errorf("Unrecognized field %q (class %s$Builder), not marked as ignorable (7 known properties: \"type\", \"subject\", \"subject_name_strategy\", \"schema_id\", \"schema_version\", \"schema\", \"data\"])", name, classData) //nolint:staticcheck // the server's text
		}
		if err != nil {
			return err
		}
	}
	return d.check()
}

// check refuses the member combinations that the data object's constructor
// refuses.
func (d *produceData) check() error {
	var problem string
	schemas := count(d.schemaID, d.schemaVersion, d.schema)
	switch {
	case d.subject && d.strategy:
		problem = "Only one of 'subject' or 'subject_name_strategy' can be used."
	case schemas > 1:
		problem = "Only one of 'schema_id', 'schema_version' or 'schema' can be used."
	case d.format >= formatAvro && (d.schemaID || d.schemaVersion):
		problem = fmt.Sprintf("'type=%s' can only be used with 'schema'.", d.format)
	case d.format >= formatAvro && !d.schema:
		problem = fmt.Sprintf("'type=%s' requires 'schema'.", d.format)
	case d.format != formatNone && d.format < formatAvro && (schemas > 0 || d.subject || d.strategy):
		problem = fmt.Sprintf("'type=%s' cannot be used with a schema or a subject.", d.format)
	case d.schema && d.format == formatNone:
		problem = "'schema' requires 'type'."
	case !d.hasData:
		problem = "Null data"
	default:
		return nil
	}
	return fmt.Errorf("Cannot construct instance of `%s`, problem: %s", classData, problem) //nolint:staticcheck // the server's text
}

func count(bs ...bool) (n int) {
	for _, b := range bs {
		if b {
			n++
		}
	}
	return n
}

// bindHeaders binds the headers array; null is an empty one.
func bindHeaders(c *cursor, dst []kgo.RecordHeader) ([]kgo.RecordHeader, error) {
	switch c.peek() {
	case 'n':
		c.value()
		return dst, nil
	case '[':
	default:
		return dst, wrongToken("java.util.ArrayList<"+classHeader+">", c)
	}
	for ok := c.open(); ok; ok = c.more() {
		h, err := bindHeader(c)
		if err != nil {
			return dst, err
		}
		dst = append(dst, h)
	}
	return dst, nil
}

func bindHeader(c *cursor) (h kgo.RecordHeader, err error) {
	if c.peek() == 'n' {
		return h, fmt.Errorf("Cannot construct instance of `%s`, problem: Null header", classRequest) //nolint:staticcheck // the server's text
	}
	if c.peek() != '{' {
		return h, wrongToken(classHeader, c)
	}
	named := false
	for ok := c.open(); ok; ok = c.more() {
		name := c.name()
		switch string(name) {
		case "name":
			h.Key, named, err = bindString(c)
		case "value":
			h.Value, err = bindHeaderValue(c)
		default:
			err = fmt.Errorf("Unrecognized field %q (class %s), not marked as ignorable (2 known properties: \"name\", \"value\"])", name, classHeader) //nolint:staticcheck // the server's text
		}
		if err != nil {
			return h, err
		}
	}
	if !named {
		return h, fmt.Errorf("Cannot construct instance of `%s`, problem: Null name", classHeader) //nolint:staticcheck // the server's text
	}
	return h, nil
}

// bindHeaderValue decodes padded standard base64, the variant Jackson calls
// MIME-NO-LINEFEEDS; null is a null header value.
func bindHeaderValue(c *cursor) ([]byte, error) {
	switch c.peek() {
	case 'n':
		c.value()
		return nil, nil
	case '"':
	default:
		return nil, wrongToken("com.google.protobuf.ByteString", c)
	}
	raw, escaped := c.str()
	if escaped {
		raw, _ = appendUnescaped(nil, raw)
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
	n, err := base64.StdEncoding.Decode(out, raw)
	if err != nil || hasNewline(raw) {
		return nil, fmt.Errorf("Cannot deserialize value of type `byte[]` from String %q: Failed to decode VALUE_STRING as base64 (MIME-NO-LINEFEEDS): illegal content", raw) //nolint:staticcheck // the server's text
	}
	return out[:n], nil
}

// hasNewline: Go's base64 decoder skips these two, the server's refuses them.
func hasNewline(b []byte) bool {
	for _, c := range b {
		if c == '\n' || c == '\r' {
			return true
		}
	}
	return false
}

// bindString takes a string, or a scalar that Jackson turns into one. The
// second result is false for null.
func bindString(c *cursor) (string, bool, error) {
	switch c.peek() {
	case '"':
		raw, escaped := c.str()
		if escaped {
			raw, _ = appendUnescaped(nil, raw)
		}
		return string(raw), true, nil
	case 'n':
		c.value()
		return "", false, nil
	case '{', '[':
		return "", false, wrongToken("java.lang.String", c)
	}
	return string(c.value()), true, nil
}

// bindText says whether a string member is there and not null.
func bindText(c *cursor) (bool, error) {
	_, ok, err := bindString(c)
	return ok, err
}

func bindFormat(c *cursor) (dataFormat, error) {
	s, ok, err := bindEnum(c, classFormat)
	if err != nil || !ok {
		return formatNone, err
	}
	for f := formatBinary; f <= formatProtobuf; f++ {
		if s == formatNames[f] {
			return f, nil
		}
	}
	return 0, notInEnum(classFormat, s, "[AVRO, PROTOBUF, BINARY, JSONSCHEMA, JSON, STRING]")
}

func bindStrategy(c *cursor) (bool, error) {
	const class = "io.confluent.kafkarest.entities.EnumSubjectNameStrategy"
	s, ok, err := bindEnum(c, class)
	if err != nil || !ok {
		return false, err
	}
	switch s {
	case "TOPIC_NAME", "RECORD_NAME", "TOPIC_RECORD_NAME":
		return true, nil
	}
	return false, notInEnum(class, s, "[TOPIC_RECORD_NAME, TOPIC_NAME, RECORD_NAME]")
}

func notInEnum(class, s, values string) error {
	return fmt.Errorf("Cannot deserialize value of type `%s` from String %q: not one of the values accepted for Enum class: %s", class, s, values) //nolint:staticcheck // the server's text
}

func bindEnum(c *cursor, class string) (string, bool, error) {
	switch c.peek() {
	case '"', 'n':
		return bindString(c)
	}
	return "", false, wrongToken(class, c)
}

// bindInt binds an Integer: a number is cut to its whole part, a string is
// parsed, "" and null are none.
func bindInt(c *cursor) (int32, bool, error) {
	switch c.peek() {
	case 'n':
		c.value()
		return 0, false, nil
	case '"':
		s, _, _ := bindString(c)
		s = strings.TrimSpace(s)
		if s == "" || s == "null" {
			return 0, false, nil
		}
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return 0, false, fmt.Errorf("Cannot deserialize value of type `java.lang.Integer` from String %q: not a valid `java.lang.Integer` value", s) //nolint:staticcheck // the server's text
		}
		return int32(n), true, nil
	case '{', '[', 't', 'f':
		return 0, false, wrongToken("java.lang.Integer", c)
	}
	src := string(c.value())
	if n, err := strconv.ParseInt(src, 10, 32); err == nil {
		return int32(n), true, nil
	}
	if f, err := strconv.ParseFloat(src, 64); err == nil && strings.ContainsAny(src, ".eE") && f > math.MinInt32-1 && f < math.MaxInt32+1 {
		return int32(f), true, nil
	}
	return 0, false, fmt.Errorf("Numeric value (%s) out of range of int (-2147483648 - 2147483647)", src) //nolint:staticcheck // the server's text
}

// bindInstant binds a timestamp: ISO-8601 text, or epoch seconds as a number
// or as text that looks like one.
// Source: jackson-datatype-jsr310 InstantDeserializer.
func bindInstant(c *cursor) (time.Time, error) {
	switch c.peek() {
	case 'n':
		c.value()
		return time.Time{}, nil
	case '{', '[', 't', 'f':
		return time.Time{}, wrongToken("java.time.Instant", c)
	case '"':
	default:
		return epochSeconds(string(c.value()))
	}
	s, _, _ := bindString(c)
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, nil
	}
	if strings.Trim(s, "0123456789.") == "" && strings.Count(s, ".") <= 1 {
		if t, err := epochSeconds(s); err == nil {
			return t, nil
		}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || strings.ContainsRune(s, ',') {
		return time.Time{}, fmt.Errorf("Cannot deserialize value of type `java.time.Instant` from String %q: Failed to deserialize java.time.Instant: (java.time.format.DateTimeParseException) Text '%s' could not be parsed at index 0", s, s) //nolint:staticcheck // the server's text
	}
	return t.UTC(), nil
}

// maxInstant is the last second that both sides can count in nanoseconds.
const maxInstant = math.MaxInt64 / int64(time.Second)

func epochSeconds(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n < maxInstant && n > -maxInstant {
		return time.Unix(n, 0).UTC(), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.Abs(f) >= float64(maxInstant) || len(s) > maxNumberLen {
		return time.Time{}, fmt.Errorf("Cannot deserialize value of type `java.time.Instant` from number %s: Instant exceeds minimum or maximum instant", s) //nolint:staticcheck // the server's text
	}
	if math.Abs(f) < 1e-9 { // also keeps huge negative exponents from big.Rat
		return time.Unix(0, 0).UTC(), nil
	}
	exact, ok := new(big.Rat).SetString(s)
	if !ok {
		panic("BUG: a number that float64 takes and big.Rat does not: " + s)
	}
	nanos := exact.Mul(exact, big.NewRat(int64(time.Second), 1))
	n := new(big.Int).Quo(nanos.Num(), nanos.Denom()).Int64()
	return time.Unix(0, n).UTC(), nil
}

// wrongToken is Jackson's refusal of a value of the wrong shape.
func wrongToken(class string, c *cursor) error {
	first := c.peek()
	src := c.value()
	scalar := class == classRequest || class == classData || class == classHeader
	var from string
	switch {
	case first == '[':
		from = "Array value (token `JsonToken.START_ARRAY`)"
	case first == '{':
		from = "Object value (token `JsonToken.START_OBJECT`)"
	case first == 't' && !scalar:
		from = "Boolean value (token `JsonToken.VALUE_TRUE`)"
	case first == 'f' && !scalar:
		from = "Boolean value (token `JsonToken.VALUE_FALSE`)"
	case first == 'n':
		return fmt.Errorf("Cannot deserialize value of type `%s` from null", class) //nolint:staticcheck // the server's text
	case first == 't' || first == 'f':
		from = fmt.Sprintf("(although at least one Creator exists): no boolean/Boolean-argument constructor/factory method to deserialize from boolean value (%s)", src)
	case first == '"':
		from = fmt.Sprintf("(although at least one Creator exists): no String-argument constructor/factory method to deserialize from String value ('%s')", src[1:len(src)-1])
	default:
		from = fmt.Sprintf("(although at least one Creator exists): no int/Int-argument constructor/factory method to deserialize from Number value (%s)", src)
	}
	if strings.HasPrefix(from, "(") {
		return fmt.Errorf("Cannot construct instance of `%s` %s", class, from) //nolint:staticcheck // the server's text
	}
	return fmt.Errorf("Cannot deserialize value of type `%s` from %s", class, from) //nolint:staticcheck // the server's text
}
