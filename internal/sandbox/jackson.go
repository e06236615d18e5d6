package sandbox

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// appendJackson appends src, one JSON value the scanner accepted, as
// ObjectMapper.writeValueAsBytes writes the JsonNode tree read from it: no
// white space; a repeated member keeps its first place and its last value;
// whole numbers kept; others through Java's double ("1.10" is 1.1, "1e3" is
// 1000.0, "1e400" is "Infinity"); escapes resolved and only the necessary
// ones written, in upper-case hex; characters outside the basic plane written
// as escaped surrogate pairs.
//
// Source: Jackson's JsonNodeDeserializer, NumberOutput and UTF8JsonGenerator
// (JsonWriteFeature.COMBINE_UNICODE_SURROGATES_IN_UTF8 is off by default).
func appendJackson(dst, src []byte) []byte {
	c := cursor{b: src}
	return appendNode(dst, &c)
}

func appendNode(dst []byte, c *cursor) []byte {
	switch c.peek() {
	case '{':
		return appendObject(dst, c)
	case '[':
		dst = append(dst, '[')
		for ok, first := c.open(), true; ok; ok, first = c.more(), false {
			if !first {
				dst = append(dst, ',')
			}
			dst = appendNode(dst, c)
		}
		return append(dst, ']')
	case '"':
		raw, escaped := c.str()
		return appendQuoted(dst, raw, escaped)
	case 't', 'f', 'n':
		return append(dst, c.value()...)
	default:
		return appendNumber(dst, c.value())
	}
}

// span is where a member stands in the output: its quoted name and its value.
type span struct{ name, colon, end int }

// appendObject appends an object. Names are compared as they were written, so
// two spellings of one name are one member.
func appendObject(dst []byte, c *cursor) []byte {
	dst = append(dst, '{')
	var few [16]span
	members := few[:0]
	var many map[string]int
	for ok := c.open(); ok; ok = c.more() {
		raw, escaped := c.str()
		c.peek()
		c.i++ // colon
		name := len(dst)
		if len(members) > 0 {
			dst = append(dst, ',')
			name++
		}
		dst = appendQuoted(dst, raw, escaped)
		colon := len(dst)
		dup := -1
		if many != nil {
			if i, ok := many[string(dst[name:colon])]; ok {
				dup = i
			}
		} else {
			for i, m := range members {
				if bytes.Equal(dst[m.name:m.colon], dst[name:colon]) {
					dup = i
					break
				}
			}
		}
		if dup >= 0 {
			value := appendNode(nil, c)
			dst = dst[:members[len(members)-1].end]
			dst = replaceValue(dst, members, dup, value)
			continue
		}
		dst = append(dst, ':')
		dst = appendNode(dst, c)
		members = append(members, span{name, colon, len(dst)})
		switch {
		case many != nil:
			many[string(dst[name:colon])] = len(members) - 1
		case len(members) == len(few):
			many = make(map[string]int, 2*len(few))
			for i, m := range members {
				many[string(dst[m.name:m.colon])] = i
			}
		}
	}
	return append(dst, '}')
}

// replaceValue puts value in place of member i's and moves the later ones.
func replaceValue(dst []byte, members []span, i int, value []byte) []byte {
	m := &members[i]
	tail := append([]byte(nil), dst[m.end:]...)
	shift := m.colon + 1 + len(value) - m.end
	dst = append(append(dst[:m.colon+1], value...), tail...)
	m.end += shift
	for j := i + 1; j < len(members); j++ {
		members[j].name += shift
		members[j].colon += shift
		members[j].end += shift
	}
	return dst
}

const upperHex = "0123456789ABCDEF"

// plainOut marks the bytes that UTF8JsonGenerator copies as they are.
var plainOut = func() (t [256]bool) {
	for i := 0x20; i < 0x80; i++ {
		t[i] = i != '"' && i != '\\'
	}
	return t
}()

// appendQuoted appends the string whose source is raw, quoted by Jackson's rules.
func appendQuoted(dst, raw []byte, escaped bool) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(raw); {
		j := i
		for j < len(raw) && plainOut[raw[j]] {
			j++
		}
		dst = append(dst, raw[i:j]...)
		if i = j; i == len(raw) {
			break
		}
		if escaped && raw[i] == '\\' {
			if raw[i+1] == 'u' {
				dst = appendUnit(dst, hex4(raw[i+2:]))
				i += 6
			} else {
				dst = appendEscaped(dst, unescapeByte(raw[i+1]))
				i += 2
			}
			continue
		}
		r, n := utf8.DecodeRune(raw[i:])
		if r > 0xffff {
			hi, lo := utf16.EncodeRune(r)
			dst = appendHex(appendHex(dst, hi), lo)
		} else {
			dst = append(dst, raw[i:i+n]...)
		}
		i += n
	}
	return append(dst, '"')
}

// appendUnit appends one UTF-16 unit that was written as \uXXXX.
func appendUnit(dst []byte, r rune) []byte {
	switch {
	case r < 0x80:
		return appendEscaped(dst, byte(r))
	case utf16.IsSurrogate(r):
		return appendHex(dst, r)
	}
	return utf8.AppendRune(dst, r)
}

func appendEscaped(dst []byte, b byte) []byte {
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\b':
		return append(dst, `\b`...)
	case '\t':
		return append(dst, `\t`...)
	case '\n':
		return append(dst, `\n`...)
	case '\f':
		return append(dst, `\f`...)
	case '\r':
		return append(dst, `\r`...)
	}
	if b < 0x20 {
		return appendHex(dst, rune(b))
	}
	return append(dst, b)
}

func appendHex(dst []byte, r rune) []byte {
	return append(dst, '\\', 'u', upperHex[r>>12&15], upperHex[r>>8&15], upperHex[r>>4&15], upperHex[r&15])
}

// appendNumber appends a number: a whole one as it is, another as a double.
func appendNumber(dst, src []byte) []byte {
	if bytes.ContainsAny(src, ".eE") {
		f, _ := strconv.ParseFloat(string(src), 64) // ±Inf on overflow, as in Java
		return appendJavaDouble(dst, f)
	}
	if string(src) == "-0" {
		return append(dst, '0')
	}
	return append(dst, src...)
}

// appendJavaDouble appends f as Double.toString does from JDK 19 on (the
// shortest decimal that reads back the same): plain between 1e-3 and 1e7,
// else d.dddE±n. Jackson quotes what is not a JSON number.
func appendJavaDouble(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	case f == 0 && math.Signbit(f):
		return append(dst, "-0.0"...)
	case f == 0:
		return append(dst, "0.0"...)
	}
	if a := math.Abs(f); a >= 1e-3 && a < 1e7 {
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
		if bytes.IndexByte(dst[start:], '.') < 0 {
			dst = append(dst, ".0"...)
		}
		return dst
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	mantissa, exp, _ := strings.Cut(s, "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	n, _ := strconv.Atoi(exp)
	dst = append(append(dst, mantissa...), 'E')
	return strconv.AppendInt(dst, int64(n), 10)
}
