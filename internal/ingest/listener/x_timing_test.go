package listener

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

// straight settles each batch at once.
type straight struct{ origin ingest.Origin }

func (s *straight) Submit(b *record.Batch) error {
	if s.origin != nil {
		s.origin.Delivered(b.Pos)
	}
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func (s *straight) Reject(int32, string, record.Position, []byte, *record.InvalidError) error {
	panic("BUG: a record of a benchmark is rejected")
}

func (s *straight) Register(o ingest.Origin) int32 {
	s.origin = o
	return 1
}

func (s *straight) Release(int32) {}

// looped is a connection whose client sends n requests, one after the other's
// answer.
type looped struct {
	request  []byte
	rest     []byte
	n        int
	answered []byte // the last answer
}

func (c *looped) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		if c.n == 0 {
			return 0, io.EOF
		}
		c.n--
		c.rest = c.request
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *looped) Write(p []byte) (int, error) {
	c.answered = append(c.answered[:0], p...)
	return len(p), nil
}
func (c *looped) Close() error        { return nil }
func (c *looped) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

func (c *looped) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c *looped) SetDeadline(time.Time) error      { return nil }
func (c *looped) SetReadDeadline(time.Time) error  { return nil }
func (c *looped) SetWriteDeadline(time.Time) error { return nil }

// ndjson is n lines of some 200 bytes.
func ndjson(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"ts":"2026-01-01T00:00:00Z","level":"info","n":%d,"msg":"%s"}`+"\n", i, strings.Repeat("some words of a log ", 7))
	}
	return b.Bytes()
}

// timed returns a listener without a network and its sink.
func timed(b testing.TB) (*Listener, *straight) {
	b.Helper()
	s := &straight{}
	router, err := ingest.NewRouter(ingest.RouterConfig{
		Batch:  ingest.BatchConfig{Bytes: 64 << 10},
		Routes: []ingest.Route{{Topic: "t", Encoder: record.DefaultEncoderConfig()}}, MaxRecordBytes: 8e6,
	}, s)
	if err != nil {
		b.Fatal(err)
	}
	l := newListener(config().Config, router, s, slog.New(slog.DiscardHandler))
	return l, s
}

// request is one that carries body.
func post(path, contentType string, body []byte) []byte {
	return append(fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", path, contentType, len(body)), body...)
}

// BenchmarkNDJSON100 is NDJSON in requests of 100 records, HTTP included. The
// bar is 1.5 times BenchmarkReader, per record.
func BenchmarkNDJSON100(b *testing.B) {
	l, _ := timed(b)
	body := ndjson(100)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	c := &looped{request: post("/", "application/x-ndjson", body), n: b.N}
	l.running.Add(1)
	(&conn{Conn: c, raw: c, l: l}).serve()
	close(l.over)
	if want := `{"accepted":100,"rejected":[]}`; b.N > 0 && !bytes.Contains(c.answered, []byte(want)) {
		b.Fatalf("%s", c.answered)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/record")
}

// BenchmarkReader is the same lines as a file has them.
func BenchmarkReader(b *testing.B) {
	l, s := timed(b)
	s.Register(nothing{})
	body := bytes.Repeat(ndjson(100), 100)
	r := ingest.NewReader(ingest.LineConfig{MaxRecordBytes: 8e6}, l.router)
	b.SetBytes(int64(len(body)) / 100)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n%100 == 1 {
			if err := r.Read(bytes.NewReader(body), 1, "x", false); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64((n+99)/100*100)/100, "ns/record")
}

// nothing is an Origin that keeps none.
type nothing struct{}

func (nothing) Where(record.Position) (source string, offset int64) { return "", 0 }
func (nothing) Delivered([]record.Position)                         {}
func (nothing) Rejected(record.Position, int, string)               {}
func (nothing) Buffered([]record.Position)                          {}
func (nothing) Refused([]record.Position, error)                    {}

// BenchmarkStream is a stream of REST v3, per record.
func BenchmarkStream(b *testing.B) {
	l, _ := timed(b)
	one := []byte(`{"value":{"type":"STRING","data":"` + strings.Repeat("some words of a log ", 10) + `"}}` + "\n")
	body := bytes.Repeat(one, b.N)
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	c := &looped{request: post(records, "application/json", body), n: 1}
	l.running.Add(1)
	b.ResetTimer()
	(&conn{Conn: c, raw: c, l: l}).serve()
	l.running.Wait() // the stream has gone on without serve
	close(l.over)
}
