package ingest

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Lines are what bytes.Split says, however they are read, and what a batch
// holds decodes to them.
func FuzzFramer(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n\xff\nlast"), []byte{0}, uint8(0))
	f.Add([]byte("a\r\n\r\n\n"), []byte{1, 2}, uint8(3))
	f.Add([]byte(long(3000)+"\nx"), []byte{9}, uint8(4))
	f.Add([]byte("\n"), []byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, in, cuts []byte, flags uint8) {
		cfg := lineConfig()
		cfg.StripCR, cfg.SkipEmpty = flags&1 != 0, flags&2 != 0
		if flags&4 != 0 {
			cfg.MaxRecordBytes = 1000
		}
		lines := bytes.Split(in, []byte{'\n'})
		if len(lines[len(lines)-1]) == 0 {
			lines = lines[:len(lines)-1]
		}
		var want []string
		offset := 0
		for _, l := range lines {
			size := min(len(l)+1, len(in)-offset)
			if cfg.StripCR {
				l = bytes.TrimSuffix(l, []byte{'\r'})
			}
			if !cfg.SkipEmpty || len(l) > 0 {
				want = append(want, fmt.Sprintf("%d+%d %q", offset, size, l))
			}
			offset += size
		}
		var have []string
		for _, g := range read(t, cfg, &cutter{data: in, sizes: cuts}) {
			if g.reason != "" && (g.reason != record.ReasonTooLarge || cfg.MaxRecordBytes > 1000) {
				t.Fatalf("rejected: %+v", g)
			}
			have = append(have, fmt.Sprintf("%d+%d %q", g.pos.Offset, g.pos.Len, g.payload))
		}
		if fmt.Sprint(have) != fmt.Sprint(want) {
			t.Fatalf("in pieces of %v:\n got %.500s\nwant %.500s", cuts, have, want)
		}
	})
}

// Records come out alike however their bytes come in.
func FuzzValues(f *testing.F) {
	f.Add([]byte(`{"value":{"data":1}}{"value":{"data":"}"}} x {"a":1}`+"\n{}"), []byte{0})
	f.Add([]byte("{\"a\":\"\n\"}\n{\"value\":{\"data\":null}}"), []byte{3, 1})
	f.Add([]byte("\xef\xbb\xbf{} ]\n{"), []byte{0, 7})
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		cfg := lineConfig()
		cfg.Values = true
		whole := show(read(t, cfg, bytes.NewReader(in)))
		if parts := show(read(t, cfg, &cutter{data: in, sizes: cuts})); parts != whole {
			t.Fatalf("in pieces of %v:\n got %.500s\nwant %.500s", cuts, parts, whole)
		}
	})
}
