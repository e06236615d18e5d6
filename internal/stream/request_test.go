package stream

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// A request that is refused for its size comes again in halves, down to single
// records; one that is too large alone is rejected.
func TestRequestTooLarge(t *testing.T) {
	for _, d := range []dialect.Dialect{dialect.V2Pandaproxy, dialect.V2Karapace} {
		s := newV2Server(t, func(_ int, r []v2Record) (int, string) {
			size := 0
			for _, one := range r {
				size += len(one.value())
			}
			if size > 100_000 {
				return 413, ``
			}
			return 200, goodAnswer(d, r)
		})
		p, k := dialectPool(t, fastConfig(), s.URL, d, limit.Profile{})
		submit(t, p, batchOf("t", 20_000, ids("r", 40)...))
		submit(t, p, batchOf("t", 150_000, "huge"))
		submit(t, p, batchOf("t", 20_000, ids("s", 40)...))
		drain(t, p, 10*time.Second)
		if n, bad := k.counts(); n != 80 || bad != 1 || k.rejected["t/huge"].Code != 413 || k.rejected["t/huge"].Reason != "too_large" {
			t.Errorf("%s: delivered %d, rejected %+v", d, n, k.rejected)
		}
		if st := p.Stats(); st.Unknown != 0 {
			t.Errorf("%s: %d unknown, but what is refused for its size was not produced", d, st.Unknown)
		}
	}
}

// An endpoint that calls every record too large is not believed: nothing is
// rejected, and a run ends with the remedy.
func TestRequestTooLargeForAnything(t *testing.T) {
	s := newV2Server(t, func(int, []v2Record) (int, string) { return 413, `` })
	p, k := dialectPool(t, onceConfig(), s.URL, dialect.V2Karapace, limit.Profile{})
	submit(t, p, batchOf("t", 20, ids("r", 40)...))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := p.Drain(ctx)
	if n, bad := k.counts(); err == nil || n != 0 || bad != 0 || !strings.Contains(fmt.Sprint(p.Trouble()), "size of a request body") {
		t.Errorf("delivered %d, rejected %d: %v, %v", n, bad, err, p.Trouble())
	}
}

// One that does so for a while is asked again.
func TestRequestTooLargeForAWhile(t *testing.T) {
	s := newV2Server(t, func(n int, r []v2Record) (int, string) {
		if n > 1 && n < 8 {
			return 413, ``
		}
		return 200, goodAnswer(dialect.V2Karapace, r)
	})
	p, k := dialectPool(t, fastConfig(), s.URL, dialect.V2Karapace, limit.Profile{})
	submit(t, p, batchOf("t", 20, ids("q", 40)...))
	drain(t, p, 10*time.Second)
	submit(t, p, batchOf("t", 20, ids("r", 40)...))
	drain(t, p, 10*time.Second)
	if n, bad := k.counts(); n != 80 || bad != 0 {
		t.Errorf("delivered %d, rejected %+v", n, k.rejected)
	}
}

// An endpoint that is late loses no record of the requests that found nobody.
func TestRequestBeforeEndpoint(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	p, k := dialectPool(t, fastConfig(), "http://"+addr, dialect.V2Karapace, limit.Profile{})
	for i := range 4 {
		submit(t, p, batchOf("t", 20, ids(string(rune('a'+i)), 40)...))
	}
	eventually(t, 5*time.Second, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.fails > 3 }, "four dials")
	if ln, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Records []v2Record }
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		io.WriteString(w, goodAnswer(dialect.V2Karapace, body.Records))
	})}
	t.Cleanup(func() { srv.Close() })
	go srv.Serve(ln)
	drain(t, p, 10*time.Second)
	if n, bad := k.counts(); n != 160 || bad != 0 {
		t.Errorf("%d delivered, %d rejected", n, bad)
	}
}

// One record that makes a server refuse whole requests is found and rejected,
// once the endpoint has shown that it takes any.
func TestRequestPoison(t *testing.T) {
	refuse := func(poison string) *v2Server {
		return newV2Server(t, func(_ int, r []v2Record) (int, string) {
			for _, one := range r {
				if strings.HasPrefix(one.value(), poison) {
					return 422, `{"error_code":422,"message":"parse error at offset 7"}`
				}
			}
			return 200, goodAnswer(dialect.V2Karapace, r)
		})
	}
	p, k := dialectPool(t, fastConfig(), refuse("r7 ").URL, dialect.V2Karapace, limit.Profile{})
	submit(t, p, batchOf("t", 60, "first"))
	drain(t, p, 5*time.Second)
	submit(t, p, batchOf("t", 60, ids("r", 20)...))
	drain(t, p, 10*time.Second)
	got := k.rejected["t/r7"]
	if n, bad := k.counts(); n != 20 || bad != 1 || got.Reason != "bad_request" || got.Code != 422 || !strings.Contains(got.Message, "parse error") {
		t.Errorf("delivered %d, rejected %+v", n, k.rejected)
	}

	// Where everything is refused it is not the records' doing.
	p, k = dialectPool(t, onceConfig(), refuse("r").URL, dialect.V2Karapace, limit.Profile{})
	submit(t, p, batchOf("t", 60, "first"))
	drain(t, p, 5*time.Second)
	submit(t, p, batchOf("t", 60, ids("r", 20)...))
	if err := p.Drain(t.Context()); err == nil || !strings.Contains(err.Error(), "parse error") {
		t.Errorf("drain: %v", err)
	}
	if n, bad := k.counts(); n != 1 || bad != loneMost {
		t.Errorf("delivered %d, rejected %d, want 1 and %d", n, bad, loneMost)
	}
}

// batchServer answers records:batch.
func batchServer(t *testing.T, answer func(n int, entries []map[string]json.RawMessage) (int, string)) *httptest.Server {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		var body struct{ Entries []map[string]json.RawMessage }
		raw, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(raw, &body); err != nil || r.ContentLength < 0 || r.URL.Path != "/v3/clusters/lkc-x/topics/t/records:batch" {
			t.Errorf("%s, length %d: %v: %s", r.URL, r.ContentLength, err, raw)
		}
		mu.Lock()
		n++
		status, text := answer(n, body.Entries)
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	return s
}

// batchAnswer makes the answer for entries, in reverse order; say is asked for
// each: "" is success, "-" leaves it out.
func batchAnswer(entries []map[string]json.RawMessage, say func(id string) string) string {
	var good, bad []string
	for i := len(entries) - 1; i >= 0; i-- {
		id := idOf(append([]byte(`{"value":`), entries[i]["value"]...))
		switch why := say(id); why {
		case "-":
		case "":
			good = append(good, fmt.Sprintf(`{"id":%s,"cluster_id":"c","topic_name":"t","partition_id":1,"offset":%d,"timestamp":"2021-12-13T16:29:10.951Z"}`, entries[i]["id"], 100+i))
		default:
			bad = append(bad, fmt.Sprintf(`{"id":%s,%s}`, entries[i]["id"], why))
		}
	}
	return `{"successes":[` + strings.Join(good, ",") + `],"failures":[` + strings.Join(bad, ",") + `]}`
}

// Outcomes are found by id, in whatever order they come.
func TestV3Batch(t *testing.T) {
	var sizes []int
	s := batchServer(t, func(n int, entries []map[string]json.RawMessage) (int, string) {
		sizes = append(sizes, len(entries))
		return 207, batchAnswer(entries, func(id string) string {
			switch {
			case id == "r3":
				return `"error_code":400,"message":"Bad Request: data=\"x\" is no"`
			case id == "r4" && n == 1:
				return `"error_code":50003,"message":"later"`
			case id == "r5" && n == 1:
				return "-"
			}
			return ""
		})
	})
	cfg := fastConfig()
	cfg.Reports = true
	p, k := dialectPool(t, cfg, s.URL, dialect.V3Batch, limit.Profile{})
	submit(t, p, batchOf("t", 60, ids("r", 25)...))
	submit(t, p, rawBatch("t", `{ }`, "{\n\"value\": {\"type\":\"STRING\",\"data\":\"z x\"}\n}"))
	drain(t, p, 10*time.Second)
	if n, bad := k.counts(); bad != 1 || k.rejected["t/r3"].Code != 400 || n != 26 {
		t.Errorf("delivered %d, rejected %+v", n, k.rejected)
	}
	if st := p.Stats(); st.Retried["kafka_retriable"] != 1 || st.Retried["unreadable_report"] != 1 {
		t.Errorf("retried %v", st.Retried)
	}
	if slices.Max(sizes) > 10 || sizes[0] != 10 {
		t.Errorf("requests of %v", sizes)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.reports) != 29 || k.reports[0] != "r0 200" || k.reports[3] != "r3 400" || k.reports[5] != "r5 0" {
		t.Errorf("reports %q", k.reports)
	}
}

// A server that takes fewer entries gets fewer; one without the route says so.
func TestV3BatchRefused(t *testing.T) {
	s := batchServer(t, func(_ int, entries []map[string]json.RawMessage) (int, string) {
		if len(entries) > 3 {
			return 422, `{"error_code":42208,"message":"Too many entries in batch."}`
		}
		return 207, batchAnswer(entries, func(string) string { return "" })
	})
	p, k := dialectPool(t, fastConfig(), s.URL, dialect.V3Batch, limit.Profile{})
	submit(t, p, batchOf("t", 60, ids("r", 25)...))
	drain(t, p, 10*time.Second)
	if n, _ := k.counts(); n != 25 {
		t.Errorf("delivered %d", n)
	}
	for _, status := range []int{404, 405} {
		s := batchServer(t, func(int, []map[string]json.RawMessage) (int, string) {
			return status, fmt.Sprintf(`{"error_code":%d,"message":"HTTP %d"}`, status, status)
		})
		p, _ := dialectPool(t, onceConfig(), s.URL, dialect.V3Batch, limit.Profile{})
		submit(t, p, batchOf("t", 60, "a"))
		if err := p.Drain(t.Context()); err == nil || !strings.Contains(err.Error(), "no records:batch") || !strings.Contains(err.Error(), "v3-stream") {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// Requests of concatenated records get the same reports as a stream, over a
// connection that is used again.
func TestV3Records(t *testing.T) {
	var mu sync.Mutex
	conns, posts := map[string]bool{}, 0
	var got []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength <= 0 {
			t.Errorf("a request without a length")
		}
		body := bufio.NewScanner(r.Body)
		w.Header().Set("Content-Type", "application/json")
		mu.Lock()
		defer mu.Unlock()
		conns[r.RemoteAddr] = true
		posts++
		for body.Scan() {
			id := idOf(body.Bytes())
			if !slices.Contains(got, id) && strings.HasSuffix(id, "3") {
				fmt.Fprint(w, `{"error_code":429,"message":"slow"}`+"\r\n")
			} else {
				fmt.Fprint(w, goodReport(len(got))+"\r\n")
			}
			got = append(got, id)
		}
	}))
	t.Cleanup(s.Close)
	p, k := dialectPool(t, fastConfig(), s.URL, dialect.V3Records, limit.Profile{})
	for i := range 10 {
		submit(t, p, batchOf("t", 60, ids(fmt.Sprintf("%d-", i), 10)...))
		drain(t, p, 5*time.Second)
	}
	if n, bad := k.counts(); n != 100 || bad != 0 || len(k.twice) > 0 {
		t.Errorf("delivered %d, rejected %d, twice %v", n, bad, k.twice)
	}
	if len(conns) > 2 || posts < 20 {
		t.Errorf("%d connections for %d requests", len(conns), posts)
	}
	if st := p.Stats(); st.Closed[endRequest] != int64(posts) || st.Opened != int64(posts) {
		t.Errorf("%d requests, opened %d, closed %v", posts, st.Opened, st.Closed)
	}
}

// A terminal report in a request means what it means in a stream.
func TestV3RecordsTerminal(t *testing.T) {
	s := newFake(t, func(x *exchange) {
		id, _ := x.next()
		x.ok(id)
		if x.n == 1 {
			x.refuse(400, "Bad Request: Error processing message: Unexpected character")
			x.end()
			return
		}
		x.deliverAll()
	})
	p, k := dialectPool(t, fastConfig(), s.url().String(), dialect.V3Records, limit.Profile{})
	submit(t, p, batchOf("t", 60, ids("r", 5)...))
	drain(t, p, 5*time.Second)
	if n, bad := k.counts(); n != 5 || bad != 0 || p.Stats().Unknown != 0 || p.Stats().Closed[endTerminal] != 1 {
		t.Errorf("delivered %d, rejected %d, %+v", n, bad, p.Stats())
	}
}

// A connection that breaks with a request on it leaves that request unknown,
// and it is sent again.
func TestRequestBreaks(t *testing.T) {
	for _, d := range []dialect.Dialect{dialect.V3Records, dialect.V3Batch, dialect.V2Karapace} {
		s := newFake(t, func(x *exchange) {
			raw, _ := io.ReadAll(x.body)
			if x.n == 1 {
				x.reset()
				return
			}
			var body string
			n := strings.Count(string(raw), `"value":`)
			switch d {
			case dialect.V3Records:
				body = strings.Repeat(goodReport(1)+"\r\n", n)
			case dialect.V3Batch:
				var e struct{ Entries []map[string]json.RawMessage }
				json.Unmarshal(raw, &e)
				body = batchAnswer(e.Entries, func(string) string { return "" })
			default:
				body = offsetsOf(n, wellDone)
			}
			fmt.Fprintf(x.conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
			x.linger()
		})
		p, k := dialectPool(t, fastConfig(), s.url().String(), d, limit.Profile{})
		submit(t, p, batchOf("t", 60, "a", "b"))
		submit(t, p, batchOf("u", 60, "c"))
		drain(t, p, 5*time.Second)
		if n, bad := k.counts(); n != 3 || bad != 0 || p.Stats().Unknown == 0 {
			t.Errorf("%s: delivered %d, rejected %d, %+v", d, n, bad, p.Stats())
		}
	}
}

// A connection that the server has closed while it was idle costs nothing: it
// is seen, or the request goes again at once.
func TestRequestStaleConnection(t *testing.T) {
	s := newV2Server(t, func(_ int, r []v2Record) (int, string) { return 200, goodAnswer(dialect.V2Karapace, r) })
	cfg := fastConfig()
	cfg.RetryInitial, cfg.RetryMax = 20*time.Second, 30*time.Second // a back-off would be seen
	p, k := dialectPool(t, cfg, s.URL, dialect.V2Karapace, limit.Profile{})
	for i := range 3 {
		submit(t, p, batchOf("t", 60, ids(fmt.Sprintf("%d-", i), 3)...))
		drain(t, p, 5*time.Second)
		eventually(t, 5*time.Second, s.cutIdle, "the connection idles")
	}
	if n, _ := k.counts(); n != 9 {
		t.Errorf("delivered %d", n)
	}
}

// A connection carries requests of any topic, and goes after a while.
func TestRequestIdle(t *testing.T) {
	s := newV2Server(t, func(_ int, r []v2Record) (int, string) { return 200, goodAnswer(dialect.V2Karapace, r) })
	p, _ := dialectPool(t, fastConfig(), s.URL, dialect.V2Karapace, limit.Profile{})
	idle := func() int {
		p.links.mu.Lock()
		defer p.links.mu.Unlock()
		return len(p.links.idle)
	}
	for i := range 8 {
		submit(t, p, batchOf(fmt.Sprintf("topic%d", i), 60, "a"))
		drain(t, p, 5*time.Second)
		eventually(t, 5*time.Second, func() bool { return idle() == 1 }, "the connection is kept")
	}
	if n := s.connected(); n != 1 {
		t.Errorf("%d connections for eight topics in a row", n)
	}
	if p.links.sweep(time.Now().Add(idleLink)); idle() != 0 {
		t.Errorf("a connection is kept for longer than %s", idleLink)
	}
	cfg := fastConfig()
	cfg.RotateRecords = 2
	p, _ = dialectPool(t, cfg, s.URL, dialect.V2Karapace, limit.Profile{})
	for range 6 {
		submit(t, p, batchOf("t", 60, "a", "b", "c"))
		drain(t, p, 5*time.Second)
	}
	if n := s.connected(); n != 7 {
		t.Errorf("%d connections, want one a request more", n)
	}
}

// With Strict each record is a request, and comes when the one before is final.
func TestRequestsInOrder(t *testing.T) {
	for _, d := range []dialect.Dialect{dialect.V2Karapace, dialect.V2Pandaproxy} {
		failed := map[string]bool{}
		s := newV2Server(t, func(n int, r []v2Record) (int, string) {
			id, _, _ := strings.Cut(r[0].value(), " ")
			if len(r) != 1 {
				t.Errorf("%d records in a request", len(r))
			}
			if n%5 == 0 && !failed[id] {
				failed[id] = true
				if d == dialect.V2Pandaproxy {
					return 200, `{"offsets":[{"partition":0,"error_code":6,"offset":-1}]}`
				}
				return []int{422, 503}[n/5%2], offsetsOf(1, func(int) string { return `{"error_code":2,"error":"later"}` })
			}
			return 200, goodAnswer(d, r)
		})
		cfg := fastConfig()
		cfg.Strict = true
		p, k := dialectPool(t, cfg, s.URL, d, limit.Profile{})
		all := ids("r", 40)
		for part := range slices.Chunk(all, 7) {
			submit(t, p, batchOf("t", 60, part...))
		}
		drain(t, p, 10*time.Second)
		var got []string
		for _, v := range s.got() {
			id, _, _ := strings.Cut(v, " ")
			if len(got) == 0 || got[len(got)-1] != id {
				got = append(got, id)
			}
		}
		if n, _ := k.counts(); n != 40 || !slices.Equal(got, all) {
			t.Errorf("%s: delivered %d, order %v", d, n, got)
		}
	}
}

// Under limits no second has more POSTs, and none more records than the limit
// and a request.
func TestRequestLimits(t *testing.T) {
	var mu sync.Mutex
	var at []time.Time
	var sizes []int
	s := newV2Server(t, func(_ int, r []v2Record) (int, string) {
		mu.Lock()
		at, sizes = append(at, time.Now()), append(sizes, len(r))
		mu.Unlock()
		return 200, goodAnswer(dialect.V2Karapace, r)
	})
	profile := limit.Profile{Connections: 50, Records: 2000}
	p, _ := dialectPool(t, fastConfig(), s.URL, dialect.V2Karapace, profile)
	for i := range 60 {
		submit(t, p, batchOf("t", 60, ids(fmt.Sprintf("%d-", i), 40)...))
	}
	drain(t, p, 20*time.Second)
	most, _ := limit.New(profile).Request()
	if slices.Max(sizes) > most {
		t.Errorf("a request of %d records, want %d at most", slices.Max(sizes), most)
	}
	for i := range at {
		posts, records := 0, 0
		for k := i; k < len(at) && at[k].Sub(at[i]) < 900*time.Millisecond; k++ { // some slack: these are arrivals
			posts++
			records += sizes[k]
		}
		if posts > 51 || records > 2000*102/100+most {
			t.Fatalf("%d POSTs with %d records within a second", posts, records)
		}
	}
}

// Stop ends what is under way and loses nothing.
func TestRequestStop(t *testing.T) {
	hold := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-hold }))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(hold) })
	u, _ := url.Parse(s.URL)
	k := newBooks()
	p := New(fastConfig(), Target{Base: u, Auth: auth.None{}, Dialect: dialect.V2Karapace}, limit.Profile{}, k, quiet(), nil)
	submit(t, p, batchOf("t", 60, ids("r", 30)...))
	eventually(t, 5*time.Second, func() bool { return p.Stats().InFlight == 30 }, "it is under way")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	p.Stop(ctx)
	left := 0
	p.Leftover(func(_ *record.Batch, from, to int) { left += to - from })
	if left != 30 {
		t.Errorf("%d of 30 records left", left)
	}
}

// What buffers requests is found out by a stream and spoken to in requests.
func TestBufferedBecomesRequests(t *testing.T) {
	var mu sync.Mutex
	lengths := map[bool]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		lengths[r.ContentLength >= 0]++
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, strings.Repeat(goodReport(1)+"\r\n", bytes.Count(body, []byte("}}\n"))))
	}))
	t.Cleanup(s.Close)
	cfg := onceConfig()
	cfg.Silence, cfg.Heartbeat = 100*time.Millisecond, 200*time.Millisecond
	p, k := dialectPool(t, cfg, s.URL, dialect.V3Stream, limit.Profile{})
	for i := range 20 {
		submit(t, p, batchOf("t", 60, ids(fmt.Sprintf("%d-", i), 20)...))
	}
	drain(t, p, 10*time.Second)
	if n, _ := k.counts(); n != 400 || lengths[true] == 0 || lengths[false] == 0 {
		t.Errorf("delivered %d, requests with a length %v", n, lengths)
	}
}
