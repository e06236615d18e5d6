package listener

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/produce-agent/produce-agent/internal/record"
)

// What is in a body, and what the answer says.
func TestBodies(t *testing.T) {
	cfg := config()
	g := start(t, cfg)
	f := func(contentType, body string, wantStatus int, wantAnswer string, want ...string) {
		t.Helper()
		before := g.sink.count()
		status, answer := g.post(t, "/", contentType, body)
		if status != wantStatus || !strings.Contains(answer, wantAnswer) {
			t.Errorf("%s %.40q: %d %s, want %d %s", contentType, body, status, answer, wantStatus, wantAnswer)
		}
		if got := g.sink.payloads()[before:]; !slices.Equal(got, want) {
			t.Errorf("%s %.40q: records %q, want %q", contentType, body, got, want)
		}
	}
	ok := func(n string) string { return `{"accepted":` + n + `,"rejected":[]}` }
	f("", "a\nb\n", 200, ok("2"), "a", "b")
	f("text/plain", "a\nb", 200, ok("2"), "a", "b")
	f("text/plain; charset=utf-8", "a\r\n\n\xff", 200, ok("3"), "a\r", "", "\xff")
	f("text/plain", "", 200, ok("0"))
	f("application/x-ndjson", "{\"a\":1}\n\n  \r\n[2]\n", 200, ok("2"), `{"a":1}`, `[2]`)
	f("application/json", ` {"a": [1,2]} `, 200, ok("1"), `{"a": [1,2]}`)
	f("application/json", `[]`, 200, ok("0"))
	f("application/json", ` [ {"a":"]\"}"} ,1 , "x,[\\" ,[2,[3]],null,true ] `, 200, ok("6"), `{"a":"]\"}"}`, "1", `"x,[\\"`, "[2,[3]]", "null", "true")
	f("application/json", `[{"a":1},`, 400, "not one JSON value, at byte 9")
	f("application/json", "{}\n{}", 400, "a value a line is application/x-ndjson")
	f("application/json", " ", 400, "the body is empty")
	f("application/json; charset=latin1", "{}", 415, "JSON is UTF-8")
	f("application/x-www-form-urlencoded", "a", 415, "send text/plain")
	f("text/html", "a", 415, `\"text/html\" is not taken`)
}

func TestPaths(t *testing.T) {
	g := start(t, config())
	f := func(method, path string, want int) {
		t.Helper()
		resp, _ := g.do(t, method, path, "text/plain", strings.NewReader("x"))
		if resp.StatusCode != want {
			t.Errorf("%s %s: %d, want %d", method, path, resp.StatusCode, want)
		}
	}
	f("POST", "/", 200)
	f("POST", "/ingest", 200)
	f("POST", "/ingest/", 200)
	f("POST", "/ingest/edge", 200)
	f("POST", "/ingest/edge?x=1", 200)
	f("POST", "/ingest/other", 404)
	f("POST", "/ingestion", 404)
	f("POST", "/x", 404)
	f("PUT", "/", 405)
	f("GET", "/ingest", 405)
	if resp, _ := g.do(t, http.MethodGet, "/", "", nil); resp.Header.Get("Allow") != "POST" {
		t.Error("405 without Allow")
	}
}

// What becomes of records, and what the answer says of them.
func TestAnswers(t *testing.T) {
	f := func(decide func(one) verdict, body string, status int, want string) {
		t.Helper()
		cfg := config()
		cfg.sink.decide = decide
		g := start(t, cfg)
		resp, answer := g.do(t, "POST", "/", "", strings.NewReader(body))
		if resp.StatusCode != status || answer != want {
			t.Errorf("%q: %d %s, want %d %s", body, resp.StatusCode, answer, status, want)
		}
		if (status == 503) != (resp.Header.Get("Retry-After") == "1") {
			t.Errorf("%q: Retry-After %q with %d", body, resp.Header.Get("Retry-After"), status)
		}
	}
	f(func(o one) verdict {
		if o.payload == "b" {
			return verdict{code: 40301, message: "not \"authorized\""}
		}
		return verdict{}
	}, "a\nb\nc", 200, `{"accepted":2,"rejected":[{"line":2,"error_code":40301,"message":"not \"authorized\""}]}`)
	f(func(one) verdict { return verdict{buffered: true} }, "a\nb", 200, `{"accepted":2,"rejected":[]}`)
	full := errors.New("the spool is full")
	f(func(o one) verdict {
		if o.payload == "b" || o.payload == "c" || o.payload == "e" {
			return verdict{refused: full}
		}
		return verdict{}
	}, "a\nb\nc\nd\ne", 503, `{"error_code":503,"message":"3 of 5 records could not be taken: send those again (the spool is full)","accepted":2,"rejected":[],"refused":3,"refused_lines":[[2,3],[5,5]]}`)
}

// Records that the route refuses are told of by line; more than fit are counted.
func TestManyRejected(t *testing.T) {
	cfg := config()
	cfg.encoder.Decode = record.DecodeJSON
	g := start(t, cfg)
	_, answer := g.post(t, "/", "application/x-ndjson", "{}\nnope\n\n[")
	if !strings.HasPrefix(answer, `{"accepted":1,"rejected":[{"line":2,"error_code":400,"message":"`) || !strings.Contains(answer, `},{"line":4,"error_code":400,`) {
		t.Error(answer)
	}
	_, answer = g.post(t, "/", "application/x-ndjson", strings.Repeat("x\n", maxRejected+5))
	if n := strings.Count(answer, `"line"`); n != maxRejected || !strings.Contains(answer, `],"rejected_count":1005}`) {
		t.Errorf("%d rejections told of: %.200s", n, answer[len(answer)-200:])
	}
}

// Record ids: of the client's key, else of their own, and never the same twice.
func TestRecordIDs(t *testing.T) {
	cfg := config()
	cfg.RecordIDs, cfg.encoder.RecordIDHeader = true, "id"
	g := start(t, cfg)
	seen := map[string]bool{}
	ids := func(header ...string) (out []string) {
		before := g.sink.count()
		g.post(t, "/", "", "a\nb", header...)
		for _, o := range g.sink.got[before:] {
			_, rest, _ := strings.Cut(o.wire, `"name":"id","value":"`)
			raw, err := base64.StdEncoding.DecodeString(rest[:strings.IndexByte(rest, '"')])
			if err != nil {
				t.Fatal(o.wire)
			}
			out = append(out, string(raw))
		}
		return out
	}
	for range 2 {
		for _, id := range ids() {
			if seen[id] {
				t.Errorf("id %s twice", id)
			}
			seen[id] = true
		}
	}
	if got := ids("Idempotency-Key", "k1"); !slices.Equal(got, []string{"k1:1", "k1:2"}) {
		t.Error(got)
	}
}

// A router that waits makes requests time out, not hang.
func TestBlocked(t *testing.T) {
	cfg := config()
	cfg.RespondTimeout = 50 * time.Millisecond
	cfg.batch.Linger = 0
	cfg.sink.block = make(chan struct{})
	g := start(t, cfg)
	status, answer := g.post(t, "/", "", "a\nb")
	if status != 503 || !strings.Contains(answer, "the fate of those of this body") {
		t.Error(status, answer)
	}
	status, answer = g.post(t, "/", "", "c")
	if status != 503 || !strings.Contains(answer, "nothing of this body was taken") {
		t.Error(status, answer)
	}
	if n := g.Stats().InFlight; n == 0 || n > keptBuffer {
		t.Errorf("%d bytes in flight: want those of the first body", n)
	}
	close(cfg.sink.block)
	eventually(t, "the first body's records", func() bool { return g.sink.count() == 2 && g.Stats().InFlight == 0 })
	cfg.sink.mu.Lock()
	cfg.sink.block = nil
	cfg.sink.mu.Unlock()
	if status, answer = g.post(t, "/", "", "d"); status != 200 {
		t.Error(status, answer)
	}
}

// An answer that goes out past a handler that is held up is the only one, and
// never comes in front of those to requests before it.
func TestBlockedPipeline(t *testing.T) {
	f := func(ahead string, want string) {
		t.Helper()
		cfg := config()
		cfg.RespondTimeout = 50 * time.Millisecond
		cfg.batch.Linger = 0
		cfg.sink.block = make(chan struct{})
		g := start(t, cfg)
		one := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"
		answer := g.raw(t, ahead+one+one)
		if want == "" && answer != "" || strings.Count(answer, "HTTP/1.1 ") > 1 || !strings.HasPrefix(answer, want) {
			t.Errorf("%q", answer)
		}
		close(cfg.sink.block)
		eventually(t, "the connection's end", func() bool { return g.connections() == 0 })
	}
	f("", "HTTP/1.1 503 ")
	f("GET /v3/clusters HTTP/1.1\r\nHost: x\r\n\r\n", "") // its answer was not written yet
}

// Records that are not settled in time: their fate is said to be unknown.
func TestTimeout(t *testing.T) {
	cfg := config()
	cfg.RespondTimeout = 50 * time.Millisecond
	cfg.sink.decide = func(o one) verdict { return verdict{late: o.payload != "a"} }
	g := start(t, cfg)
	status, answer := g.post(t, "/", "", "a\nb\nc")
	if status != 503 || !strings.Contains(answer, "within 50ms: the fate of 2 of 3 records is not known yet") ||
		!strings.HasSuffix(answer, `"accepted":1,"rejected":[],"unknown":2}`) {
		t.Error(status, answer)
	}
	if g.reg.left() != 1 {
		t.Error("given back with records on their way")
	}
	g.sink.settle()
}

// The router's end is the input's.
func TestRouterFails(t *testing.T) {
	cfg := config()
	cfg.batch.Linger = 0
	g := startLeaky(t, cfg)
	s := g.stream(t, records)
	s.send(rec("a"))
	eventually(t, "the stream's record", func() bool { return g.sink.count() == 1 })
	g.sink.mu.Lock()
	g.sink.fail = errors.New("no cluster")
	g.sink.mu.Unlock()
	status, answer := g.post(t, "/", "", "a")
	if status != 503 || !strings.Contains(answer, "before this input ended") {
		t.Error(status, answer)
	}
	err := <-g.served
	if err == nil || err.Error() != `input "edge": no cluster` || g.Trouble() == nil {
		t.Error(err, g.Trouble())
	}
	g.served <- nil
	if _, err := net.Dial("tcp", g.Addr().String()); err == nil {
		t.Error("it still listens")
	}
	s.in.Close() // net/http tells of the end only when it need not send any more
	if got, err := s.all(t); err == nil {
		t.Errorf("a stream went on: %q", got)
	}
}

// A body that is cut adds nothing, whatever it was made of.
func TestCutBody(t *testing.T) {
	g := start(t, config())
	f := func(request string) {
		t.Helper()
		nc := g.dial(t)
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(nc, request)
		_ = nc.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(nc)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") || !strings.Contains(string(answer), "nothing of it was taken") {
			t.Errorf("%q: %s", request, answer)
		}
		if n := g.sink.count(); n != 0 {
			t.Fatalf("%q: %d records of a body that was cut", request, n)
		}
	}
	f("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na\nb\n")
	f("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na\nb\n\r\n")
	f("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na\nb\nXX")
	f("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
	zipped := zip(t, "gzip", "a\nb\n")
	f(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", len(zipped)-3, zipped[:len(zipped)-3]))
	zipped = zip(t, "zstd", "a\nb\n")
	f(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: zstd\r\nContent-Length: %d\r\n\r\n%s", len(zipped)-3, zipped[:len(zipped)-3]))
}

func zip(t testing.TB, encoding, text string) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	if encoding == "gzip" {
		w = gzip.NewWriter(&b)
	} else {
		e, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = e
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEncodings(t *testing.T) {
	cfg := config()
	cfg.MaxBody = 100_000
	g := start(t, cfg)
	f := func(encoding, body string, status int, want string) {
		t.Helper()
		got, answer := g.post(t, "/", "", body, "Content-Encoding", encoding)
		if got != status || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %s, want %d %s", encoding, got, answer, status, want)
		}
	}
	f("gzip", zip(t, "gzip", "a\nb"), 200, `"accepted":2`)
	f("GZIP", zip(t, "gzip", "a\n")+zip(t, "gzip", "b\n"), 200, `"accepted":2`)
	f("zstd", zip(t, "zstd", "a\nb"), 200, `"accepted":2`)
	f("zstd", zip(t, "zstd", "a\n")+zip(t, "zstd", "b\nc"), 200, `"accepted":3`)
	f("identity", "a", 200, `"accepted":1`)
	f("gzip", zip(t, "gzip", strings.Repeat("a", 100_000)), 200, `"accepted":1`)
	f("gzip", zip(t, "gzip", strings.Repeat("a", 100_001)), 413, "decodes to is over max_body 100000")
	f("zstd", zip(t, "zstd", strings.Repeat("a", 100_001)), 413, "decodes to is over max_body 100000")
	f("identity", strings.Repeat("a", 100_000), 200, `"accepted":1`)
	f("identity", strings.Repeat("a", 100_001), 413, "the body of 100001 bytes is over max_body")
	f("gzip", "", 400, "not the gzip it says it is")
	f("zstd", "", 400, "not the zstd it says it is")
	f("gzip", "plain", 400, "not the gzip it says it is")
	f("gzip", zip(t, "gzip", "a")+"rest", 400, "not the gzip it says it is")
	f("zstd", "plain", 400, "not the zstd it says it is")
	f("br", "x", 415, `Content-Encoding \"br\" is not known`)
	f("gzip, zstd", "x", 415, "is not known")
	all, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	f("zstd", string(all.EncodeAll(make([]byte, 100_001), nil)), 413, "decodes to is over max_body") // it says how long it is
	f("zstd", string(all.EncodeAll(bytes.Repeat([]byte("a\n"), 50_000), nil)), 200, `"accepted":50000`)
	// A window of 128 MiB, in 18 bytes.
	f("zstd", "\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00", 413, "window")
	resp, answer := g.do(t, "POST", "/", "", struct{ io.Reader }{strings.NewReader(strings.Repeat("a", 100_001))})
	if resp.StatusCode != 413 {
		t.Error("chunked and too long:", resp.StatusCode, answer)
	}
	if n := g.Stats().InFlight; n != 0 {
		t.Errorf("%d bytes in flight at rest", n)
	}
}

// A hundred bombs at a time hold no more than the bytes that may be in flight.
func TestBombs(t *testing.T) {
	cfg := config()
	cfg.MaxBody, cfg.MaxInFlight = 4<<20, 16<<20
	g := start(t, cfg)
	var bombs []string
	for _, e := range []string{"gzip", "zstd"} {
		bombs = append(bombs, zip(t, e, strings.Repeat("\x00", 64<<20)))
	}
	var most atomic.Int64
	stop := make(chan struct{})
	watched := make(chan struct{})
	debug.FreeOSMemory()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var heap uint64
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				most.Store(max(most.Load(), g.Stats().InFlight))
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				heap = max(heap, m.Sys-m.HeapReleased)
			}
		}
	}()
	var all sync.WaitGroup
	for i := range 100 {
		all.Add(1)
		go func() {
			defer all.Done()
			encoding := []string{"gzip", "zstd"}[i%2]
			status, answer := g.post(t, "/", "", bombs[i%2], "Content-Encoding", encoding)
			if status != 413 && status != 503 {
				t.Error(status, answer)
			}
		}()
	}
	all.Wait()
	close(stop)
	<-watched
	if n := most.Load(); n > cfg.MaxInFlight {
		t.Errorf("%d bytes in flight, may be %d", n, cfg.MaxInFlight)
	}
	// The bar is on top of the program, which has clients and bombs in it here.
	if rise := int64(heap) - int64(before.Sys-before.HeapReleased); rise > cfg.MaxInFlight+48<<20 && !raceEnabled {
		t.Errorf("memory rose by %d MB", rise>>20)
	}
	if n := g.sink.count(); n != 0 {
		t.Errorf("%d records of bombs", n)
	}
	if status, answer := g.post(t, "/", "", "a"); status != 200 {
		t.Error(status, answer)
	}
}

// Bodies that come at a time have room for max_in_flight.
func TestInFlight(t *testing.T) {
	cfg := config()
	cfg.MaxBody, cfg.MaxInFlight = 600_000, 1_000_000
	g := start(t, cfg)
	first := g.dial(t)
	defer first.Close()
	fmt.Fprintf(first, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 599999\r\n\r\n%s", strings.Repeat("a", 590_000))
	eventually(t, "the first body", func() bool { return g.Stats().InFlight == 600_000 })
	resp, answer := g.do(t, "POST", "/", "", strings.NewReader(strings.Repeat("b", 599_000)))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(answer, "max_in_flight") {
		t.Error(resp.StatusCode, answer)
	}
	if status, answer := g.post(t, "/", "", "small"); status != 200 {
		t.Error("a small one has room:", status, answer)
	}
	io.WriteString(first, strings.Repeat("a", 9_999))
	_ = first.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, 15)
	if _, err := io.ReadFull(first, head); err != nil || string(head) != "HTTP/1.1 200 OK" {
		t.Errorf("the first body: %q %v", head, err)
	}
	if s := g.Stats(); s.Refused != 1 || s.Requests[503] != 1 || s.Requests[200] != 2 || s.Bytes < 600_000 {
		t.Errorf("%+v", s)
	}
}
