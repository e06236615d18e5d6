//go:build amd64 && !purego

package record

import (
	"bytes"
	"strings"
	"testing"
)

// TestEscapeBlocksStaysInside: no store goes beyond the 2n+16 bytes that are
// reserved, none before dst.
func TestEscapeBlocksStaysInside(t *testing.T) {
	if !fastEscape {
		t.Skip("this processor has no SSSE3")
	}
	f := func(src string, read, written int) {
		t.Helper()
		const guard = 64
		buf := bytes.Repeat([]byte{0xaa}, guard+2*len(src)+16+guard)
		in := []byte(src)
		r, w, _ := escapeBlocks(&buf[guard], &in[0], len(in))
		if r != read || w != written {
			t.Errorf("escapeBlocks(%q) read %d, wrote %d; want %d, %d", src, r, w, read, written)
		}
		for i, c := range buf {
			if inside := i >= guard && i < len(buf)-guard; !inside && c != 0xaa {
				t.Errorf("escapeBlocks(%q) wrote at %d, of %d bytes allowed", src, i-guard, len(buf)-2*guard)
				return
			}
		}
	}
	f(strings.Repeat(`"`, 16), 16, 32)
	f(strings.Repeat(`\`, 256), 256, 512)
	f(strings.Repeat("x", 48), 48, 48)
	f(strings.Repeat("x", 31), 16, 16)
	f("fifteen bytes..", 0, 0)
	f(`"`+strings.Repeat("x", 30)+"\n", 16, 17)
	f("\x00"+strings.Repeat(`"`, 20), 0, 0)
}
