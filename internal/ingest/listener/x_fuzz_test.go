package listener

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

// cut is a looped connection that gives its bytes in pieces, and keeps all that
// is answered.
type cut struct {
	looped
	sizes []byte
	i     int
	all   bytes.Buffer
}

func (c *cut) Read(p []byte) (int, error) {
	if len(c.sizes) > 0 {
		p = p[:min(len(p), int(c.sizes[c.i%len(c.sizes)])+1)]
		c.i++
	}
	return c.looped.Read(p)
}

func (c *cut) Write(p []byte) (int, error) { return c.all.Write(p) }

// exchange serves one connection without a network and returns the answers and
// the records that came through.
func exchange(t *testing.T, sent, sizes []byte) (string, []string) {
	t.Helper()
	reg := &registry{origins: map[int32]ingest.Origin{}}
	s := &sink{reg: reg, decide: func(o one) verdict {
		return verdict{report: `{"error_code":200,"offset":` + fmt.Sprint(len(o.wire)) + `}`}
	}}
	router, err := ingest.NewRouter(ingest.RouterConfig{
		Batch:  ingest.BatchConfig{Bytes: 64 << 10},
		Routes: []ingest.Route{{Topic: "t", Encoder: record.DefaultEncoderConfig()}}, RawReports: true,
	}, s)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config().Config
	cfg.MaxBody, cfg.MaxRecordBytes, cfg.MaxInFlight = 1<<20, 300, 2<<20
	l := newListener(cfg, router, reg, slog.New(slog.DiscardHandler))
	c := &cut{looped: looped{request: sent, n: 1}, sizes: sizes}
	l.running.Add(1)
	(&conn{Conn: c, raw: c, l: l}).serve()
	l.running.Wait()
	close(l.over)
	if err := router.Close(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Second); reg.left() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if n := reg.left(); n != 0 {
		t.Errorf("%d origins not given back", n)
	}
	if n := l.memory.inUse(); n != 0 {
		t.Errorf("%d bytes in flight at the end", n)
	}
	return c.all.String(), s.payloads()
}

// withoutDate makes answers of two moments the same.
func withoutDate(answer string) string {
	var out []string
	for _, line := range strings.Split(answer, "\r\n") {
		if !strings.HasPrefix(line, "Date: ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\r\n")
}

// FuzzConnection sends anything. However it is cut, as much succeeds and the
// records are the same, none panics, and nothing is left behind.
func FuzzConnection(f *testing.F) {
	for _, s := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na\nb",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\nb\r\n0\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nc",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n[1,\"a\\\"]\",{}]",
		"POST " + records + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n1\r\n\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /v3/clusters HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: zstd\r\nContent-Length: 9\r\n\r\n\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00",
	} {
		f.Add([]byte(s), []byte{0, 3, 100})
	}
	f.Fuzz(func(t *testing.T, sent, sizes []byte) {
		whole, records := exchange(t, sent, nil)
		pieces, again := exchange(t, sent, append([]byte{7}, sizes...))
		const ok = "HTTP/1.1 200 OK\r\n" // of a head that is cut fasthttp says this or that
		if strings.Count(whole, ok) != strings.Count(pieces, ok) {
			t.Errorf("whole:\n%q\nin pieces:\n%q", whole, pieces)
		}
		if fmt.Sprint(records) != fmt.Sprint(again) {
			t.Errorf("whole: %q, in pieces: %q", records, again)
		}
	})
}

// FuzzStream sends a body of REST v3. However it is cut, the reports are the
// same, and as many say 200 as records came through.
func FuzzStream(f *testing.F) {
	for _, s := range []string{
		rec("a") + rec("b"), "\xef\xbb\xbf{}\n\n{}", rec("a") + ",", "null 12 [{}] {}", `{"value":{"data":`, "{\"a\":\"\n", "{\"a\":}{}",
		rec(strings.Repeat("long", 100)) + rec("b"), `{"key":{"schema_id":1,"data":[]}}`,
	} {
		f.Add([]byte(s), []byte{0, 3, 100})
	}
	f.Fuzz(func(t *testing.T, body, sizes []byte) {
		sent := post(records, "application/json", body)
		whole, got := exchange(t, sent, nil)
		pieces, _ := exchange(t, sent, append([]byte{7}, sizes...))
		if withoutDate(whole) != withoutDate(pieces) {
			t.Errorf("whole:\n%q\nin pieces:\n%q", whole, pieces)
		}
		if n := strings.Count(whole, `{"error_code":200,`); n != len(got) {
			t.Errorf("%d records came through, %d reports say so:\n%s", len(got), n, whole)
		}
		if !strings.HasSuffix(whole, "0\r\n\r\n") {
			t.Errorf("the answer does not end: %q", whole)
		}
	})
}
