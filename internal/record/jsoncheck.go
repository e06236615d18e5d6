package record

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// serverDepth is how deep the server's parser goes; one more is a terminal
// error that ends the whole stream. Two levels are our envelope: the record
// object and the data object.
//
// Source: FasterXML jackson-core StreamReadConstraints, maxNestingDepth.
const (
	serverDepth   = 1000
	maxValueDepth = serverDepth - 2
)

// fault is what checkJSON found.
type fault uint8

const (
	faultNone fault = iota
	faultSyntax
	faultUTF8
	faultDepth
)

// checkJSON checks that b is exactly one JSON value, in UTF-8, nested at most
// maxDepth (≤ serverDepth) deep, white space around it allowed. On a syntax or
// depth fault at is where it was seen.
//
// Strict as RFC 8259: no comments, no leading zeros, no raw controls.
func checkJSON(b []byte, maxDepth int) (f fault, at int) {
	var (
		object [serverDepth/64 + 1]uint64 // bit d: level d is an object
		depth  int
		inObj  bool
		i      int
		seen   uint64 // bytes of strings, ORed
		high   uint64
		ok     bool
	)
value:
	if i = skipSpace(b, i); i == len(b) {
		return faultSyntax, i
	}
	switch c := b[i]; {
	case c == '"':
		if i, high = scanString(b, i+1); i < 0 {
			return faultSyntax, ^i
		}
		seen |= high
	case c == '{', c == '[':
		if depth == maxDepth {
			return faultDepth, i
		}
		depth++
		inObj = c == '{'
		word, bit := depth>>6, uint64(1)<<(depth&63)
		if inObj {
			object[word] |= bit
		} else {
			object[word] &^= bit
		}
		if i = skipSpace(b, i+1); i == len(b) {
			return faultSyntax, i
		}
		if b[i] == c+2 { // '{'+2 is '}', '['+2 is ']'
			goto closing
		}
		if inObj {
			goto name
		}
		goto value
	case c == '-' || c-'0' < 10:
		if i, ok = scanNumber(b, i); !ok {
			return faultSyntax, i
		}
	default:
		if i, ok = scanLiteral(b, i); !ok {
			return faultSyntax, i
		}
	}
after:
	if i = skipSpace(b, i); depth == 0 {
		if i != len(b) {
			return faultSyntax, i
		}
		if seen&highs != 0 && !utf8.Valid(b) {
			return faultUTF8, 0
		}
		return faultNone, 0
	}
	if i == len(b) {
		return faultSyntax, i
	}
	switch b[i] {
	case ',':
		i++
		if !inObj {
			goto value
		}
		i = skipSpace(b, i)
		goto name
	case '}', ']':
		if inObj != (b[i] == '}') {
			return faultSyntax, i
		}
	default:
		return faultSyntax, i
	}
closing:
	i++
	depth--
	inObj = object[depth>>6]>>(depth&63)&1 != 0
	goto after
name:
	if i == len(b) || b[i] != '"' {
		return faultSyntax, i
	}
	if i, high = scanString(b, i+1); i < 0 {
		return faultSyntax, ^i
	}
	seen |= high
	if i = skipSpace(b, i); i == len(b) || b[i] != ':' {
		return faultSyntax, i
	}
	i++
	goto value
}

// skipSpace returns the index of the first byte from i on that is not JSON
// white space, len(b) without one.
func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// scanString checks a string whose opening quote is before i and returns the
// index after its closing quote, ^ of where the fault is in an invalid one,
// and the OR of all words looked at.
func scanString(b []byte, i int) (end int, seen uint64) {
	for {
		if i+8 <= len(b) {
			x := binary.LittleEndian.Uint64(b[i:])
			seen |= x
			m := specials(x)
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		} else {
			for i < len(b) && b[i] >= 0x20 && b[i] != '"' && b[i] != '\\' {
				seen |= uint64(b[i])
				i++
			}
			if i == len(b) {
				return ^i, seen
			}
		}
		switch b[i] {
		case '"':
			return i + 1, seen
		case '\\':
			n := escapeLen(b[i:])
			if n == 0 {
				return ^i, seen
			}
			i += n
		default:
			return ^i, seen
		}
	}
}

// escapeLen returns the length of the escape b starts with, 0 if it is not one.
func escapeLen(b []byte) int {
	if len(b) < 2 {
		return 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(b) >= 6 && isHex(b[2]) && isHex(b[3]) && isHex(b[4]) && isHex(b[5]) {
			return 6
		}
	}
	return 0
}

func isHex(c byte) bool { return c-'0' < 10 || c|0x20-'a' < 6 }

// scanNumber checks the number at i and returns the index after it.
func scanNumber(b []byte, i int) (int, bool) {
	if b[i] == '-' {
		i++
	}
	if i == len(b) {
		return i, false
	}
	switch {
	case b[i] == '0':
		i++
	case b[i]-'1' < 9:
		i = skipDigits(b, i)
	default:
		return i, false
	}
	if i < len(b) && b[i] == '.' {
		j := skipDigits(b, i+1)
		if j == i+1 {
			return j, false
		}
		i = j
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		j := skipDigits(b, i)
		if j == i {
			return j, false
		}
		i = j
	}
	return i, true
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' < 10 {
		i++
	}
	return i
}

// scanLiteral checks true, false or null at i and returns the index after it.
func scanLiteral(b []byte, i int) (int, bool) {
	word := "null"
	switch b[i] {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	case 'n':
	default:
		return i, false
	}
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return i, false
	}
	return i + len(word), true
}
