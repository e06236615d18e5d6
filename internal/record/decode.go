package record

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	simd "github.com/emmansun/base64"
)

// Parts is one record taken apart, so that a person can read it and
// AppendEnvelope can put it together again.
type Parts struct {
	Payload  []byte // the bytes that were sent; nil for Null
	Type     Type   // String, JSON or Binary; Auto for Raw
	Null     bool   // a tombstone
	Envelope []byte // all other members as one JSON object; nil without any
	// Raw: the value is not of the form our encoders write (a schema kind, no
	// value, members after it). Payload is then the whole record, Envelope nil;
	// send it again with AppendRaw.
	Raw bool
}

// Decode takes apart one encoded record. The payload is exactly what the
// encoder was given, also where that was not valid JSON and not validated.
//
// Ownership: Parts may point into rec. Allocates: it is for rejected records.
// Errors: *InvalidError where rec is not one record.
func Decode(rec []byte) (Parts, error) {
	rec = bytes.TrimSuffix(rec, []byte{'\n'})
	if f, at := checkJSON(rec, serverDepth); f != faultNone {
		if p, ok := decodeUnchecked(rec); ok {
			return p, nil
		}
		return Parts{}, invalid(ReasonInvalidRecord, "decode record: no JSON object, seen at byte "+strconv.Itoa(at)+
			": it cannot be taken apart, mend it where it came from")
	}
	raw := Parts{Payload: rec, Raw: true}
	w := walkObject(rec)
	first := w.i
	for w.next() {
		if string(plainName(w.name)) != "value" {
			continue
		}
		p, ok := decodeData(w.value)
		p.Envelope = envelopeOf(rec[first:w.start])
		if !ok || w.next() {
			return raw, nil
		}
		return p, nil
	}
	if rec[skipSpace(rec, 0)] != '{' {
		return Parts{}, invalid(ReasonInvalidRecord, "decode record: it is JSON, but not an object")
	}
	return raw, nil
}

// envelopeOf makes an object of the members before the value; nil of none.
func envelopeOf(members []byte) []byte {
	members = bytes.Trim(members, ", \t\r\n")
	if len(members) == 0 {
		return nil
	}
	out := append(make([]byte, 0, len(members)+2), '{')
	return append(append(out, members...), '}')
}

// decodeData takes apart a data object of exactly {"type":…,"data":…}.
func decodeData(object []byte) (p Parts, ok bool) {
	w := walkObject(object)
	if !w.next() || string(w.name) != "type" {
		return p, false
	}
	switch string(w.value) {
	case `"STRING"`:
		p.Type = String
	case `"JSON"`:
		p.Type = JSON
	case `"BINARY"`:
		p.Type = Binary
	default:
		return p, false
	}
	if !w.next() || string(w.name) != "data" {
		return p, false
	}
	data, all := w.value, object[w.colon:len(object)-1]
	if w.next() {
		return p, false
	}
	if string(data) == "null" {
		p.Null = true
		return p, true
	}
	if p.Type == JSON {
		p.Payload = all // white space around it was the payload's
		return p, true
	}
	if data[0] != '"' {
		return p, false
	}
	data = data[1 : len(data)-1]
	if p.Type == String {
		p.Payload, ok = appendUnescaped(make([]byte, 0, len(data)), data)
		return p, ok
	}
	if bytes.IndexByte(data, '\\') >= 0 {
		return p, false
	}
	var err error
	p.Payload, err = base64.StdEncoding.AppendDecode(make([]byte, 0, len(data)), data)
	return p, err == nil
}

// decodeUnchecked takes apart a record whose JSON payload is not valid JSON.
// Everything before the payload is our encoder's own and is.
func decodeUnchecked(rec []byte) (p Parts, ok bool) {
	const value = `"value":{"type":"JSON","data":`
	w := walkObject(rec)
	first := w.i
	for {
		at := w.i
		if at < len(rec) && rec[at] == ',' {
			at++
		}
		if payload, found := bytes.CutPrefix(rec[at:], []byte(value)); found {
			payload, found = bytes.CutSuffix(payload, []byte("}}"))
			return Parts{Payload: payload, Type: JSON, Envelope: envelopeOf(rec[first:at])}, found
		}
		if !w.next() {
			return p, false
		}
	}
}

// AppendPayloadJSON appends payload as a JSON string: as it is where it is
// valid UTF-8, else in base64, which encoding then says ("" or "base64").
//
// Ownership: payload is read, never kept. Allocates only to grow dst.
func AppendPayloadJSON(dst, payload []byte) (out []byte, encoding string) {
	dst = append(dst, '"')
	if utf8.Valid(payload) {
		dst, _ = appendEscaped(dst, payload)
		return append(dst, '"'), ""
	}
	dst = simd.StdEncoding.AppendEncode(dst, payload)
	return append(dst, '"'), "base64"
}

// AppendEnvelope puts together what Decode took apart: envelope's members
// (nil or empty: none), then the value, and a newline. Auto picks STRING or
// BINARY.
//
// Ownership: envelope and payload are read, never kept.
// Errors: *InvalidError where the result would not be a record the server
// takes, as after an edit by hand; dst is returned as it was.
func AppendEnvelope(dst, envelope []byte, t Type, payload []byte, null bool) ([]byte, error) {
	start := len(dst)
	out := append(dst, '{')
	if envelope = bytes.Trim(envelope, " \t\r\n"); len(envelope) > 0 {
		if !ValidObject(envelope) {
			return dst, invalid(ReasonInvalidRecord, "envelope is not a JSON object: mend it, or leave it out")
		}
		w := walkObject(envelope)
		for w.next() {
			if string(plainName(w.name)) == "value" {
				return dst, invalid(ReasonInvalidRecord, `envelope has a member "value", which is the record's: leave it out`)
			}
		}
		if members := bytes.Trim(envelope[1:len(envelope)-1], " \t\r\n"); len(members) > 0 {
			out = append(append(out, members...), ',')
		}
	}
	c := DefaultEncoderConfig()
	c.ValueType = t
	e, err := NewEncoder(c)
	if err != nil {
		return dst, invalid(ReasonInvalidRecord, err.Error())
	}
	if null {
		out = appendNull(out, &e.value, t)
	} else if out, err = e.appendValue(out, payload, &e.value, false, false); err != nil {
		return dst, err
	}
	if err := CheckRecord(out[start:]); err != nil {
		return dst, err
	}
	return out, nil
}
