package record

import (
	"bytes"
	"encoding/base64"
	"strconv"
)

// CheckRecord returns why the server would refuse rec, one REST v3 record
// object as a user wrote it: syntax, UTF-8, depth, a member the server does
// not know (it ignores none), two keys, headers and data objects of the wrong shape.
// Schema kinds (AVRO and the like) pass; what their data must be only the
// server's registry knows.
//
// Errors: *InvalidError, Code 400.
// Source: Confluent REST v3 OpenAPI, ProduceRequest; confluentinc/kafka-rest
// ProduceRequest, which fails on unknown properties.
func CheckRecord(rec []byte) error {
	switch f, at := checkJSON(rec, serverDepth); f {
	case faultSyntax:
		return invalid(ReasonInvalidJSON, "record is not valid JSON at byte "+strconv.Itoa(at)+
			": on the wire it would end the stream; mend it")
	case faultUTF8:
		return invalid(ReasonInvalidUTF8, "record is not valid UTF-8: send such bytes as BINARY, in base64")
	case faultDepth:
		return invalid(ReasonTooDeep, "record is nested over "+strconv.Itoa(serverDepth)+
			" deep: on the wire it would end the stream; send the value as STRING")
	}
	if rec[skipSpace(rec, 0)] != '{' {
		return invalid(ReasonInvalidRecord,
			`record is not a JSON object: it should look like {"value":{"type":"STRING","data":"text"}}`)
	}
	keyed := false
	w := walkObject(rec)
	for w.next() {
		var err error
		switch name := plainName(w.name); string(name) {
		case "partition_id", "timestamp", "originalSize":
			if c := w.value[0]; c == '{' || c == '[' {
				err = invalid(ReasonInvalidRecord, "record: member "+strconv.Quote(string(name))+" cannot be an object or array")
			}
		case "headers":
			err = checkHeaders(w.value)
		case "key", "value":
			err = checkData(string(name), w.value)
			if string(name) == "key" && keyed && err == nil { // which of them it is would be the server's guess, and ours
				err = invalid(ReasonInvalidRecord, "record: member \"key\" stands twice: leave one of them out")
			}
			keyed = keyed || string(name) == "key"
		default:
			err = unknownMember("record", name, "partition_id, headers, key, value and timestamp")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// AppendRaw appends rec, which CheckRecord found good, as one record and
// returns the extended slice. White space inside stays, so a pretty-printed
// record keeps its newlines; the server takes any white space between tokens.
//
// Ownership: rec is read, never kept. Allocates only to grow dst.
func AppendRaw(dst, rec []byte) []byte {
	return append(append(dst, bytes.Trim(rec, " \t\r\n")...), '\n')
}

func unknownMember(where string, name []byte, known string) error {
	return invalid(ReasonInvalidRecord, where+": unknown member "+strconv.Quote(clip(name))+
		", which the server would refuse: it knows "+known)
}

// plainName returns a member name without escapes.
func plainName(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted
	}
	name, _ := appendUnescaped(nil, quoted)
	return name
}

func checkHeaders(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	if raw[0] != '[' {
		return invalid(ReasonInvalidRecord, `record: headers must be an array: [{"name":"n","value":"base64"}]`)
	}
	for i := skipSpace(raw, 1); raw[i] != ']'; {
		end := skipValue(raw, i)
		if err := checkHeader(raw[i:end]); err != nil {
			return err
		}
		if i = skipSpace(raw, end); raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	return nil
}

func checkHeader(raw []byte) error {
	if raw[0] != '{' {
		return invalid(ReasonInvalidRecord, `record: a header must be an object: {"name":"n","value":"base64"}`)
	}
	named := false
	w := walkObject(raw)
	for w.next() {
		switch name := plainName(w.name); string(name) {
		case "name":
			named = w.value[0] == '"'
		case "value":
			if string(w.value) == "null" {
				continue
			}
			if w.value[0] == '"' {
				if _, err := base64.StdEncoding.DecodeString(string(AppendText(nil, w.value))); err == nil {
					continue
				}
			}
			return invalid(ReasonInvalidRecord, "record: header value "+clip(w.value)+
				" must be a string of padded standard base64, or null")
		default:
			return unknownMember("record: header", name, "name and value")
		}
	}
	if !named {
		return invalid(ReasonInvalidRecord, "record: a header has no name, or one that is not a string")
	}
	return nil
}

func checkData(member string, raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	if raw[0] != '{' {
		return invalid(ReasonInvalidRecord, "record: "+member+
			` must be null or a data object, like {"type":"STRING","data":"text"}`)
	}
	data := false
	w := walkObject(raw)
	for w.next() {
		switch name := plainName(w.name); string(name) {
		case "data":
			data = true
		case "type", "subject", "subject_name_strategy", "schema_id", "schema_version", "schema":
		default:
			return unknownMember("record: "+member, name,
				"type, data, subject, subject_name_strategy, schema_id, schema_version and schema")
		}
	}
	if !data {
		return invalid(ReasonInvalidRecord, "record: "+member+` has no data member: for a Kafka null say "data":null`)
	}
	return nil
}
