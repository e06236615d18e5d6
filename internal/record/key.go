package record

import (
	"bytes"
	"encoding/base64"
	"strconv"
)

// stringKey is how a record of an Encoder without partition and headers begins
// that has a key of type STRING.
var stringKey = []byte(`{"key":{"type":"STRING","data":"`)

// Key returns the bytes that rec's key has in Kafka; ok is false for a record
// without a key or with a null one.
//
// Two spellings of one key give the same bytes: a STRING is without its
// escapes, BINARY decoded, anything else its JSON text without white space,
// strings in it without escapes, and numbers that the server writes anew by
// their value. What is not as CheckRecord wants it gives some bytes, and no
// error: two records of one text give the same.
//
// Shape: rec is one REST v3 record as it goes on the wire.
// Ownership: key is a part of rec, or is behind what room holds. Allocates only
// to grow room.
// Concurrency: safe with distinct rooms.
func Key(room, rec []byte) (key []byte, ok bool) {
	if bytes.HasPrefix(rec, stringKey) {
		rest := rec[len(stringKey):]
		if end, escaped := skipString(rest, 0); end <= len(rest) && !escaped {
			return rest[:end-1], true
		}
	}
	key, ok = appendKey(room, rec)
	return key[len(room):], ok
}

func appendKey(dst, rec []byte) ([]byte, bool) {
	var data []byte
	for w := walkObject(rec); w.next(); {
		if w.is("key") {
			data = w.value
		}
	}
	if len(data) == 0 || data[0] != '{' {
		return dst, false
	}
	return appendKeyData(dst, data)
}

// is says whether the member's name is name, however it is spelled.
func (w *walker) is(name string) bool {
	if !w.escaped {
		return string(w.name) == name
	}
	return string(plainName(w.name)) == name
}

// appendKeyData appends the bytes of a data object.
func appendKeyData(dst, object []byte) ([]byte, bool) {
	var kind, data []byte
	for w := walkObject(object); w.next(); {
		switch {
		case w.is("type"):
			kind = w.value
		case w.is("data"):
			data = w.value
		}
	}
	switch {
	case len(data) == 0 || string(data) == "null":
		return dst, false
	case string(kind) == `"STRING"`:
		return AppendText(dst, data), true
	case string(kind) == `"BINARY"`:
		start := len(dst)
		dst = AppendText(dst, data)
		n, err := base64.StdEncoding.Decode(dst[start:], dst[start:])
		if err != nil {
			return AppendText(dst[:start], data), true
		}
		return dst[:start+n], true
	}
	return appendCanonical(dst, data), true
}

// appendCanonical appends JSON text without what its spelling is free in.
func appendCanonical(dst, text []byte) []byte {
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c <= ' ':
			i++
		case c == '"':
			end, escaped := skipString(text, i+1)
			end = min(end, len(text))
			if escaped && end-1 > i {
				dst = append(dst, '"')
				dst, _ = appendUnescaped(dst, text[i+1:end-1])
				dst = append(dst, '"')
			} else {
				dst = append(dst, text[i:end]...)
			}
			i = end
		case c == '-' || c-'0' < 10:
			end := skipValue(text, i)
			dst = appendNumber(dst, text[i:end])
			i = end
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

// appendNumber appends an integer as it is and any other number by its value.
func appendNumber(dst, text []byte) []byte {
	if bytes.ContainsAny(text, ".eE") {
		if v, err := strconv.ParseFloat(string(text), 64); err == nil {
			return strconv.AppendFloat(dst, v, 'g', -1, 64)
		}
	}
	return append(dst, text...)
}
