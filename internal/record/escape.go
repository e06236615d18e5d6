package record

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
	lows  = 0x7f7f7f7f7f7f7f7f
)

// specials returns a word with the high bit set in every byte of x that a JSON
// string cannot hold as it is: quote, backslash, control. Exact: no byte
// disturbs its neighbour, bytes from 0x80 up are not special.
func specials(x uint64) uint64 {
	y := x & lows
	plain := ((y ^ '"'*ones) + lows) & ((y ^ '\\'*ones) + lows) & (y + 0x60*ones)
	return ^(plain | x) & highs
}

const hexDigits = "0123456789abcdef"

// shortEscape holds the letter of two-byte escapes; 0 where there is none.
var shortEscape = [256]byte{'"': '"', '\\': '\\', '\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// appendEscaped appends s as the inside of a JSON string and reports whether s
// is all ASCII. UTF-8 is not checked here: bytes from 0x80 up are copied.
//
// Ownership: s is read, never kept. Allocates only to grow dst.
func appendEscaped(dst, s []byte) (out []byte, ascii bool) {
	const block = 512 // bounds what is reserved ahead: twice this, not six times a huge line
	var seen uint64
	for len(s) > 0 {
		part := s
		if len(part) > block {
			part = s[:block]
		}
		s = s[len(part):]
		dst = slices.Grow(dst, 2*len(part)+8)
		o := len(dst)
		buf := dst[:cap(dst)]
		i := 0
		for i+8 <= len(part) {
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
			c := part[i+n]
			i += n + 1
			o += n
			if e := shortEscape[c]; e != 0 {
				buf[o], buf[o+1] = '\\', e
				o += 2
				continue
			}
			dst = appendHexEscape(dst[:o], c, 2*(len(part)-i)+8)
			o, buf = len(dst), dst[:cap(dst)]
		}
		for ; i < len(part); i++ {
			c := part[i]
			seen |= uint64(c)
			if c >= 0x20 && c != '"' && c != '\\' {
				buf[o] = c
				o++
				continue
			}
			if e := shortEscape[c]; e != 0 {
				buf[o], buf[o+1] = '\\', e
				o += 2
				continue
			}
			dst = appendHexEscape(dst[:o], c, 2*(len(part)-i)+8)
			o, buf = len(dst), dst[:cap(dst)]
		}
		dst = dst[:o]
	}
	return dst, seen&highs == 0
}

// appendHexEscape appends \u00XX and reserves room for what follows.
func appendHexEscape(dst []byte, c byte, room int) []byte {
	dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	return slices.Grow(dst, room)
}
