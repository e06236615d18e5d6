package record

import (
	"bytes"
	"errors"

	"github.com/emmansun/base64"
)

// Wire is one wire record taken apart without copying: for those who send it in
// another form than REST v3's.
//
// Ownership: the slices point into the record.
type Wire struct {
	Partition  int32 // -1: the server's choice
	Key, Value Data
	Headers    []byte // the array as it stands; nil without any
	Timestamp  []byte // the raw JSON value; nil: the server's clock
}

// DataKind is what a data object holds.
type DataKind uint8

// The kinds of data.
const (
	DataNull   DataKind = iota // a Kafka null, declared or by leaving it out
	DataString                 // Text is a JSON string's inside
	DataJSON                   // Text is the JSON as it stands
	DataBinary                 // Text is base64, as a JSON string's inside
	DataSchema                 // of a schema registry's kind
)

// Data is a key or a value.
type Data struct {
	Kind DataKind
	Text []byte
}

var (
	errNoRecord  = errors.New("it is no REST v3 record object")
	errPartition = errors.New("its partition_id is no partition number")
	errHeaders   = errors.New("its headers are no array of {\"name\",\"value\"}")
	errData      = errors.New("its key or value has no data of the type it names")
	errBase64    = errors.New("its BINARY data is not base64")
	errText      = errors.New("its text holds half a character (a lone surrogate)")
	errTime      = errors.New("its timestamp cannot be read")
)

// A value of the encoders' that may hold whatever the input held.
var jsonValue = []byte(`"value":{"type":"JSON","data":`)

// Scan takes rec apart. Members may stand in any order and of equal names the
// last counts, as on the server. Payloads of the encoders that were not
// validated come out as they went in.
//
// Errors: of the record's own, without its text. Allocates nothing.
func (w *Wire) Scan(rec []byte) error {
	*w = Wire{Partition: -1}
	o := walkObject(rec)
	if o.i == len(rec) {
		return errNoRecord
	}
	for {
		if done, ok := w.lastValue(rec, o.i); done {
			if !ok {
				return errNoRecord
			}
			return nil
		}
		if !o.next() {
			break
		}
		if err := w.member(plainName(o.name), o.value); err != nil {
			return err
		}
	}
	if i := skipSpace(rec, o.i); i >= len(rec) || rec[i] != '}' {
		return errNoRecord
	}
	return nil
}

// lastValue takes the value the encoders write, when it begins at rec[at] and
// is the record's last member: everything up to the closing braces.
func (w *Wire) lastValue(rec []byte, at int) (done, ok bool) {
	if at < len(rec) && rec[at] == ',' {
		at++
	}
	payload, found := bytes.CutPrefix(rec[at:], jsonValue)
	if !found {
		return false, false
	}
	payload, found = bytes.CutSuffix(bytes.TrimSuffix(payload, []byte{'\n'}), []byte("}}"))
	from := skipSpace(payload, 0)
	if end := skipValue(payload, from); !found || end > len(payload) || skipSpace(payload, end) < len(payload) {
		// More members, or a payload that is no JSON.
		if f, _ := checkJSON(rec, serverDepth); f == faultNone {
			return false, false
		}
	}
	w.Value = Data{DataJSON, payload}
	if string(bytes.TrimSpace(payload)) == "null" {
		w.Value = Data{}
	}
	return true, found
}

func (w *Wire) member(name, value []byte) error {
	null := string(value) == "null"
	switch string(name) {
	case "partition_id":
		if null {
			w.Partition = -1
			return nil
		}
		n, ok := parsePartition(value)
		if !ok {
			return errPartition
		}
		w.Partition = int32(n)
	case "headers":
		w.Headers = nil
		if null {
			return nil
		}
		if value[0] != '[' {
			return errHeaders
		}
		if value[skipSpace(value, 1)] != ']' {
			w.Headers = value
		}
	case "timestamp":
		w.Timestamp = nil
		if !null {
			w.Timestamp = value
		}
	case "key":
		return w.Key.scan(value)
	case "value":
		return w.Value.scan(value)
	}
	return nil
}

// scan takes a data object apart.
func (d *Data) scan(object []byte) error {
	*d = Data{}
	if string(object) == "null" {
		return nil
	}
	if object[0] != '{' {
		return errData
	}
	var data []byte
	kind := DataSchema // without a type the registry's latest schema is meant
	w := walkObject(object)
	for w.next() {
		switch string(plainName(w.name)) {
		case "data":
			data = w.value
		case "type":
			switch string(w.value) {
			case `"STRING"`:
				kind = DataString
			case `"JSON"`:
				kind = DataJSON
			case `"BINARY"`:
				kind = DataBinary
			default:
				kind = DataSchema
			}
		}
	}
	switch {
	case data == nil:
		return errData
	case string(data) == "null" && kind != DataSchema:
		return nil
	case kind == DataString || kind == DataBinary:
		if len(data) < 2 || data[0] != '"' || data[len(data)-1] != '"' {
			return errData
		}
		data = data[1 : len(data)-1]
	}
	d.Kind, d.Text = kind, data
	return nil
}

// AppendBase64 appends the bytes that d stands for in padded base64: a STRING's
// UTF-8, a BINARY's bytes, a JSON's text as it was sent.
//
// Ownership: scratch is used and grown for data with escapes; nil will do.
// Errors: data that the server would refuse, or change.
func (d *Data) AppendBase64(dst []byte, scratch *[]byte) ([]byte, error) {
	text := d.Text
	if d.Kind == DataJSON {
		return base64.StdEncoding.AppendEncode(dst, text), nil
	}
	if bytes.IndexByte(text, '\\') >= 0 {
		var exact bool
		*scratch, exact = appendUnescaped((*scratch)[:0], text)
		if text = *scratch; !exact {
			return dst, errText
		}
	}
	if d.Kind != DataBinary {
		return base64.StdEncoding.AppendEncode(dst, text), nil
	}
	if !isBase64(text) {
		return dst, errBase64
	}
	dst = append(dst, text...)
	for n := len(text); n&3 != 0; n++ { // v3 takes it without padding
		dst = append(dst, '=')
	}
	return dst, nil
}

// isBase64 says whether text is standard base64, padded or not.
func isBase64(text []byte) bool {
	n := len(text)
	for n > 0 && len(text)-n < 2 && text[n-1] == '=' {
		n--
	}
	for _, c := range text[:n] {
		if !base64Digit[c] {
			return false
		}
	}
	return n&3 != 1 && (n == len(text) || len(text)&3 == 0)
}

var base64Digit = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		t[c] = true
	}
	return t
}()

// Millis returns the record's own timestamp in milliseconds since 1970. A bare
// number is seconds, as the server takes it.
func (w *Wire) Millis() (int64, error) {
	f := TimeRFC3339
	if len(w.Timestamp) > 0 && w.Timestamp[0] != '"' {
		f = TimeUnix
	}
	millis, ok := parseTimestamp(w.Timestamp, f)
	if !ok {
		return 0, errTime
	}
	return millis, nil
}

// WireHeader returns the first header of a headers array and what is left of the
// array behind it; more is false at its end. name is a JSON string as it
// stands, quotes included, and value likewise, nil for a null one.
func WireHeader(headers []byte) (name, value, rest []byte, more bool, err error) {
	i := 0
	if len(headers) > 0 && (headers[0] == '[' || headers[0] == ',') {
		i = 1
	}
	if i = skipSpace(headers, i); i >= len(headers) || headers[i] == ']' {
		return nil, nil, nil, false, nil
	}
	end := skipValue(headers, i)
	if end > len(headers) || headers[i] != '{' {
		return nil, nil, nil, false, errHeaders
	}
	w := walkObject(headers[i:end])
	for w.next() {
		switch string(plainName(w.name)) {
		case "name":
			name = w.value
		case "value":
			if value = w.value; string(value) == "null" {
				value = nil
			}
		}
	}
	if len(name) < 2 || name[0] != '"' || value != nil && value[0] != '"' {
		return nil, nil, nil, false, errHeaders
	}
	return name, value, headers[skipSpace(headers, end):], true, nil
}

// Members goes over the members of a JSON object that is known to be valid.
// Start it with MembersOf.
type Members struct{ w walker }

// MembersOf returns the members of object; none where it is no object.
func MembersOf(object []byte) Members { return Members{walkObject(object)} }

// Next steps to the next member and reports whether there is one.
func (m *Members) Next() bool { return m.w.next() }

// Name is the member's name, without its quotes and escapes as they stand.
func (m *Members) Name() []byte { return m.w.name }

// Value is the member's value as it stands.
func (m *Members) Value() []byte { return m.w.value }

// Item returns the first item of a valid JSON array, and the array from behind
// it on, for the next call; more is false at its end.
func Item(array []byte) (item, rest []byte, more bool) {
	i := 0
	if len(array) > 0 && (array[0] == '[' || array[0] == ',') {
		i = 1
	}
	if i = skipSpace(array, i); i >= len(array) || array[i] == ']' {
		return nil, nil, false
	}
	end := min(skipValue(array, i), len(array))
	return array[i:end], array[skipSpace(array, end):], end > i
}
