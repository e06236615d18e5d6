package tail

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
	"github.com/produce-agent/produce-agent/internal/record"
)

// One file of 64 MiB, by the Tail and by the one-shot Reader: what
// following costs beyond reading.
func BenchmarkFile(b *testing.B) {
	const size = 64 << 20
	line := strings.Repeat("x", 199) + "\n"
	text := bytes.Repeat([]byte(line), size/len(line))
	path := b.TempDir() + "/a.log"
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	router := func(s ingest.Sink) *ingest.Router {
		r, err := ingest.NewRouter(ingest.RouterConfig{
			Batch: ingest.DefaultBatchConfig(), Routes: []ingest.Route{{Topic: "t", Encoder: record.DefaultEncoderConfig()}}, MaxRecordBytes: 8e6,
		}, s)
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	b.Run("tail", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			log := slog.New(slog.NewTextHandler(io.Discard, nil))
			store, err := checkpoint.Open(b.TempDir(), log)
			if err != nil {
				b.Fatal(err)
			}
			s := &counting{}
			cfg := DefaultConfig()
			cfg.Include, cfg.Follow = []string{path}, false
			tl, err := New(cfg, router(s), s, store, log)
			if err == nil {
				err = tl.Run(b.Context())
			}
			if err == nil {
				err = store.Close()
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("reader", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			f, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			s := &counting{o: deaf{}}
			r := ingest.NewReader(ingest.LineConfig{MaxRecordBytes: 8e6}, router(s))
			if err := r.Read(f, 1, "", false); err != nil {
				b.Fatal(err)
			}
			f.Close()
		}
	})
}
