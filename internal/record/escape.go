package record

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// specials returns a word whose lowest set bit is in the first byte of x that
// a JSON string cannot hold as it is: quote, backslash, control. It is 0 where
// x has none; bits above the lowest may be wrong (a borrow). Bytes from 0x80
// up are not special.
//
// A byte xored with 2 is below 0x21 only for controls and the quote: xor swaps
// quote and space.
func specials(x uint64) uint64 {
	return (((x ^ 2*ones) - 0x21*ones) | ((x ^ '\\'*ones) - ones)) & ^x & highs
}

const hexDigits = "0123456789abcdef"

// shortEscape holds the letter of two-byte escapes; 0 where there is none.
var shortEscape = [256]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// escapeBlock bounds what is reserved ahead: twice this, not six times a huge
// line.
const escapeBlock = 1024

// appendEscapedPlain is appendEscaped without assembly: eight bytes at a time,
// stored before they are judged, for most need no escape.
func appendEscapedPlain(dst, s []byte) (out []byte, ascii bool) {
	var seen uint64
	for len(s) > 0 {
		part := s[:min(len(s), escapeBlock)]
		s = s[len(part):]
		dst = slices.Grow(dst, 2*len(part)+8)
		o := len(dst)
		buf := dst[:cap(dst)]
		for i := 0; i < len(part); {
			var c byte
			if i+8 <= len(part) {
				x := binary.LittleEndian.Uint64(part[i:])
				binary.LittleEndian.PutUint64(buf[o:], x)
				seen |= x
				m := specials(x)
				if m == 0 {
					i += 8
					o += 8
					continue
				}
				n := bits.TrailingZeros64(m) >> 3
				c = part[i+n]
				i += n + 1
				o += n
			} else {
				c = part[i]
				seen |= uint64(c)
				i++
				if c >= 0x20 && c != '"' && c != '\\' {
					buf[o] = c
					o++
					continue
				}
			}
			if e := shortEscape[c]; e != 0 {
				buf[o], buf[o+1] = '\\', e
				o += 2
				continue
			}
			dst = append(dst[:o], '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			dst = slices.Grow(dst, 2*(len(part)-i)+8)
			o, buf = len(dst), dst[:cap(dst)]
		}
		dst = dst[:o]
	}
	return dst, seen&highs == 0
}
