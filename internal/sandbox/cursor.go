package sandbox

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// cursor walks JSON that a scanner has already accepted; it checks no syntax.
type cursor struct {
	b []byte
	i int
}

// peek skips white space and returns the next byte without taking it.
func (c *cursor) peek() byte {
	for {
		switch b := c.b[c.i]; b {
		case ' ', '\t', '\r', '\n':
			c.i++
		default:
			return b
		}
	}
}

// open takes the '{' or '[' at the cursor and says whether it holds anything.
func (c *cursor) open() bool {
	c.peek()
	c.i++
	if b := c.peek(); b == '}' || b == ']' {
		c.i++
		return false
	}
	return true
}

// more takes the ',' or the closing bracket behind a member or element.
func (c *cursor) more() bool {
	b := c.peek()
	c.i++
	return b == ','
}

// str takes the string at the cursor and returns what stands between its
// quotes, and whether that holds escapes.
func (c *cursor) str() (raw []byte, escaped bool) {
	c.peek()
	c.i++
	start := c.i
	end := start + bytes.IndexByte(c.b[start:], '"')
	if bytes.IndexByte(c.b[start:end], '\\') < 0 {
		c.i = end + 1
		return c.b[start:end], false
	}
	for {
		switch c.b[c.i] {
		case '"':
			raw = c.b[start:c.i]
			c.i++
			return raw, escaped
		case '\\':
			escaped = true
			c.i += 2
		default:
			c.i++
		}
	}
}

// name takes a member's name and the colon, and returns the name unescaped.
func (c *cursor) name() []byte {
	raw, escaped := c.str()
	c.peek()
	c.i++
	if escaped {
		raw, _ = appendUnescaped(nil, raw)
	}
	return raw
}

// value takes one whole value and returns its bytes, white space inside kept.
func (c *cursor) value() []byte {
	first := c.peek()
	start := c.i
	switch first {
	case '"':
		c.str()
	case '{', '[':
		depth := 0
		for {
			switch c.b[c.i] {
			case '"':
				c.str()
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			c.i++
			if depth == 0 {
				return c.b[start:c.i]
			}
		}
	default:
		for c.i < len(c.b) && !endsScalar(c.b[c.i]) {
			c.i++
		}
	}
	return c.b[start:c.i]
}

func endsScalar(b byte) bool {
	return b == ',' || b == '}' || b == ']' || b == ' ' || b == '\n' || b == '\r' || b == '\t'
}

// appendUnescaped appends the string whose source is raw, as UTF-8. lone says
// whether a surrogate without its other half was met; it is written as '?',
// which is what Java's String.getBytes(UTF_8) makes of it.
func appendUnescaped(dst, raw []byte) (out []byte, lone bool) {
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			j := i
			for j < len(raw) && raw[j] != '\\' {
				j++
			}
			dst = append(dst, raw[i:j]...)
			i = j
			continue
		}
		if raw[i+1] != 'u' {
			dst = append(dst, unescapeByte(raw[i+1]))
			i += 2
			continue
		}
		r := hex4(raw[i+2:])
		i += 6
		if utf16.IsSurrogate(r) {
			r2 := rune(0)
			if i+6 <= len(raw) && raw[i] == '\\' && raw[i+1] == 'u' {
				r2 = hex4(raw[i+2:])
			}
			if pair := utf16.DecodeRune(r, r2); pair != utf8.RuneError {
				r = pair
				i += 6
			} else {
				r, lone = '?', true
			}
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst, lone
}

func unescapeByte(b byte) byte {
	switch b {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return b // quote, backslash, slash
}

func hex4(b []byte) rune {
	n, _ := strconv.ParseUint(string(b[:4]), 16, 32)
	return rune(n)
}
