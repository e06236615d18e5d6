package ingest

import (
	"bytes"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
)

// logLine is an application's log event: 200 bytes, 28 quotes.
const logLine = `{"ts":"2026-11-22T10:15:30.123456Z","level":"info","service":"checkout",` +
	`"msg":"order placed for customer after a retry","path":"/api/v1/orders","user_id":48213377,"ms":12.75,"trace":"6f9619ff8b86d0"}`

func benchAdd(b *testing.B, routes []Route, lines ...string) {
	r, err := NewRouter(RouterConfig{Batch: DefaultBatchConfig(), Routes: routes, MaxRecordBytes: 8e6}, sinkFunc(func(*record.Batch) {}))
	if err != nil {
		b.Fatal(err)
	}
	payloads := make([][]byte, len(lines))
	for i, l := range lines {
		payloads[i] = []byte(l)
	}
	r.Lock()
	defer r.Unlock()
	b.SetBytes(int64(len(lines[0])))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := r.Add(payloads[i%len(payloads)], nil, record.Position{Offset: int64(i)}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRouter(b *testing.B) {
	c := record.DefaultEncoderConfig()
	b.Run("one topic", func(b *testing.B) { benchAdd(b, []Route{{Topic: "logs", Encoder: c}}, logLine) })
	j := c
	j.ValueType = record.JSON
	b.Run("one topic, JSON", func(b *testing.B) { benchAdd(b, []Route{{Topic: "logs", Encoder: j}}, logLine) })
	k := j
	k.KeyField, k.TimestampField = "user_id", "ts"
	b.Run("one topic, key and time", func(b *testing.B) { benchAdd(b, []Route{{Topic: "logs", Encoder: k}}, logLine) })
}

func BenchmarkReader(b *testing.B) {
	in := bytes.Repeat([]byte(logLine+"\n"), 1000)
	r := newReader(b, lineConfig(), sinkFunc(func(*record.Batch) {}))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Read(bytes.NewReader(in), 0, "id", false); err != nil {
			b.Fatal(err)
		}
	}
}
