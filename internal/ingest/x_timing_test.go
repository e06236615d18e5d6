package ingest

import (
	"bytes"
	"strconv"
	"strings"
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
	b.Run("a topic of a field", func(b *testing.B) { benchAdd(b, []Route{{Topic: "logs-{{ .service }}", Encoder: c}}, logLine) })
	b.Run("a topic of a field, JSON", func(b *testing.B) { benchAdd(b, []Route{{Topic: "logs-{{ .service }}", Encoder: j}}, logLine) })
	b.Run("100 topics", func(b *testing.B) {
		lines := make([]string, 100)
		for i := range lines {
			lines[i] = strings.ReplaceAll(logLine, "checkout", "check"+strconv.Itoa(100+i))
		}
		benchAdd(b, []Route{{Topic: "logs-{{ .service }}", Encoder: c}}, lines...)
	})
	b.Run("second route, JSON", func(b *testing.B) {
		benchAdd(b, []Route{{Topic: "errors", Match: equals("level", "error"), Encoder: j}, {Topic: "logs", Encoder: j}}, logLine)
	})
	k.Headers = []record.Header{{Name: "trace", Template: template(b, "{{ .trace }}")}}
	b.Run("match, topic, key, time, header", func(b *testing.B) {
		benchAdd(b, []Route{{Topic: "errors", Match: equals("level", "error"), Encoder: j}, {Topic: "logs-{{ .service }}", Encoder: k}}, logLine)
	})
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
