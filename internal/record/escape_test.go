package record

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestAppendEscapedAgainstPlain(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20000 {
		alphabet := []string{"ab\"\\", "ab\"\\\n\x01\xff #]!\x1f\x7f\x80", "a"}[i%3]
		s := make([]byte, r.IntN(50)+i%100/99*r.IntN(3000))
		for j := range s {
			s[j] = alphabet[r.IntN(len(alphabet))]
		}
		// a tight buffer shows a store beyond the reserved room
		want, wantASCII := appendEscapedPlain([]byte("x"), s)
		got, ascii := appendEscaped([]byte("x"), s)
		if !bytes.Equal(got, want) || ascii != wantASCII {
			t.Fatalf("appendEscaped(%q) = %q, %v; want %q, %v", s, got, ascii, want, wantASCII)
		}
	}
}
