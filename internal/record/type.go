package record

import (
	"fmt"
	"strings"
)

// Type is how the server is told to turn a record's data into bytes.
type Type uint8

// The value types. Auto is ours: STRING where the bytes are valid UTF-8,
// BINARY where they are not; both give the consumer exactly the bytes read.
//
// Source: Confluent REST v3 OpenAPI, ProduceRequestData.type.
const (
	Auto Type = iota
	String
	JSON
	Binary
)

var typeNames = [...]string{Auto: "AUTO", String: "STRING", JSON: "JSON", Binary: "BINARY"}

// String returns the name as the wire spells it; AUTO for Auto, which is never
// on the wire.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("TYPE(%d)", uint8(t))
}

// ParseType reads auto, string, json or binary, in any case.
func ParseType(s string) (Type, error) {
	for t, name := range typeNames {
		if strings.EqualFold(s, name) {
			return Type(t), nil
		}
	}
	return Auto, fmt.Errorf("type %q: must be auto, string, json or binary", s)
}

// Decoding is what a payload is taken for before it is encoded.
type Decoding uint8

// The decodings. With all of them the bytes are sent as they came.
const (
	DecodeAny   Decoding = iota // looked at where a rule needs a field of it; must be a JSON object then
	DecodeText                  // never looked at
	DecodeBytes                 // never looked at; a value type of Auto is BINARY
	DecodeJSON                  // one JSON value, an object where a rule needs a field of it; else rejected
)

var decodeNames = [...]string{DecodeAny: "any", DecodeText: "text", DecodeBytes: "bytes", DecodeJSON: "json"}

// String returns the name ParseDecoding reads.
func (d Decoding) String() string {
	if int(d) < len(decodeNames) {
		return decodeNames[d]
	}
	return fmt.Sprintf("decode(%d)", uint8(d))
}

// ParseDecoding reads bytes, text, json or any.
func ParseDecoding(s string) (Decoding, error) {
	for d, name := range decodeNames {
		if s == name {
			return Decoding(d), nil
		}
	}
	return DecodeAny, fmt.Errorf("decode %q: must be json, text, bytes or any", s)
}
