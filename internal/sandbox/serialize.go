package sandbox

import (
	"bytes"
	"encoding/base64"
	"fmt"
)

// codeError is an outcome other than success: what a report will say.
type codeError struct {
	code int
	text string
}

func (e *codeError) Error() string { return fmt.Sprintf("%d: %s", e.code, e.text) }

func badRequest(format string, args ...any) *codeError {
	return &codeError{400, "Bad Request: " + fmt.Sprintf(format, args...)}
}

// appendData appends the bytes that Kafka gets for d, and returns the extended
// arena and the part that is d's: nil for a Kafka null, else not nil.
//
// Ownership: the result points into the arena.
// Source: kafka-rest NoSchemaRecordSerializer: BINARY is standard base64
// without white space, padding optional (Guava BaseEncoding.base64); STRING is
// the text's UTF-8; JSON is written again by Jackson. No schema registry is
// attached, so all else is 422.
func appendData(arena []byte, d *produceData) (grown, out []byte, cerr *codeError) {
	if !d.present {
		return arena, nil, nil
	}
	if d.format == formatNone || d.format >= formatAvro {
		return arena, nil, &codeError{422, "Error: 42206 : Payload error. Schema Registry must be configured when using schemas."}
	}
	if d.null {
		return arena, nil, nil
	}
	start := len(arena)
	switch d.format {
	case formatJSON:
		arena = appendJackson(arena, d.raw)
	case formatString:
		if d.raw[0] != '"' {
			return arena, nil, badRequest("data=%s is not a string.", clip(d.raw))
		}
		src := d.raw[1 : len(d.raw)-1]
		if bytes.IndexByte(src, '\\') < 0 {
			arena = append(arena, src...)
		} else {
			arena, _ = appendUnescaped(arena, src)
		}
	case formatBinary:
		if d.raw[0] != '"' {
			return arena, nil, badRequest("data=%s is not a base64 string.", clip(d.raw))
		}
		var ok bool
		if arena, ok = appendBase64(arena, d.raw[1:len(d.raw)-1]); !ok {
			return arena[:start], nil, badRequest("data=%s is not a valid base64 string.", clip(d.raw))
		}
	}
	if arena == nil {
		arena = []byte{}
	}
	return arena, arena[start:len(arena):len(arena)], nil
}

// appendBase64 decodes the source of a JSON string as Guava's base64() does:
// any number of '=' at the end, no white space, no URL-safe letters.
func appendBase64(dst, src []byte) ([]byte, bool) {
	if bytes.IndexByte(src, '\\') >= 0 {
		src, _ = appendUnescaped(nil, src)
	}
	src = bytes.TrimRight(src, "=")
	if hasNewline(src) {
		return dst, false
	}
	start := len(dst)
	need := base64.RawStdEncoding.DecodedLen(len(src))
	dst = append(dst, make([]byte, need)...)
	n, err := base64.RawStdEncoding.Decode(dst[start:], src)
	if err != nil {
		return dst[:start], false
	}
	return dst[:start+n], true
}

// clip keeps messages about data short enough for a log line.
func clip(b []byte) []byte {
	const most = 256
	if len(b) > most {
		return append(append([]byte(nil), b[:most]...), "..."...)
	}
	return b
}
