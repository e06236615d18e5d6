//go:build amd64 && !purego

package record

import (
	"math/bits"
	"slices"

	"golang.org/x/sys/cpu"
)

// fastEscape: every amd64 processor since about 2009 has both.
var fastEscape = cpu.X86.HasSSSE3 && cpu.X86.HasPOPCNT

// escapeShuffle[m] spreads eight bytes so that each one with its bit in m has
// a backslash before it: the index of its source byte, 8 for the backslash.
var escapeShuffle = func() (table [256][16]byte) {
	for m := range table {
		at := 0
		for j := range byte(8) {
			if m>>j&1 != 0 {
				table[m][at] = 8
				at++
			}
			table[m][at] = j
			at++
		}
		if at != 8+bits.OnesCount8(uint8(m)) {
			panic("BUG: escape table")
		}
	}
	return table
}()

// escapeBlocks escapes whole blocks of 16 bytes from src, n bytes long, to
// dst, and stops before a block with a control character. It returns how many
// bytes it read and wrote, and in high a bit for some byte from 0x80 up.
//
// dst must have room for 2n+16 bytes: a block is stored wider than it counts.
//
//go:noescape
func escapeBlocks(dst, src *byte, n int) (read, written, high int)

// appendEscaped appends s as the inside of a JSON string and reports whether s
// is all ASCII. UTF-8 is not checked here: bytes from 0x80 up are copied.
//
// Ownership: s is read, never kept. Allocates only to grow dst.
func appendEscaped(dst, s []byte) (out []byte, ascii bool) {
	if !fastEscape {
		return appendEscapedPlain(dst, s)
	}
	ascii = true
	for len(s) >= 16 {
		part := s[:min(len(s), escapeBlock)]
		dst = slices.Grow(dst, 2*len(part)+16)
		o := len(dst)
		read, written, high := escapeBlocks(&dst[:o+1][o], &part[0], len(part))
		ascii = ascii && high == 0
		dst, s = dst[:o+written], s[read:]
		if len(part)-read >= 16 { // a control character
			var a bool
			dst, a = appendEscapedPlain(dst, s[:16])
			ascii, s = ascii && a, s[16:]
		}
	}
	if len(s) == 0 {
		return dst, ascii
	}
	// The rest as a block padded with what is copied as it is.
	pad := [16]byte{' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '}
	copy(pad[:], s)
	dst = slices.Grow(dst, 48)
	o := len(dst)
	read, written, high := escapeBlocks(&dst[:o+1][o], &pad[0], 16)
	if read == 0 {
		out, a := appendEscapedPlain(dst, s)
		return out, ascii && a
	}
	return dst[:o+written-(16-len(s))], ascii && high == 0
}
