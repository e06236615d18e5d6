package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func parse(t testing.TB, specs ...string) Faults {
	t.Helper()
	var fs Faults
	for _, s := range specs {
		f, err := ParseFault(s)
		if err != nil {
			t.Fatal(err)
		}
		fs = append(fs, f)
	}
	return fs
}

func withFaults(t testing.TB, specs ...string) func(*Config) {
	return func(c *Config) { c.Faults = parse(t, specs...) }
}

// stored is how many records topic t holds.
func stored(t testing.TB, s *Sandbox) int {
	t.Helper()
	rs, err := s.Records(context.Background(), "t")
	if err != nil {
		t.Fatal(err)
	}
	return len(rs)
}

func TestParseFault(t *testing.T) {
	f := func(s string, want Fault) {
		t.Helper()
		if got, err := ParseFault(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", s, got, err, want)
		}
	}
	f("refuse", Fault{Kind: FaultRefuse})
	f("refuse=3", Fault{Kind: FaultRefuse, Times: 3})
	f("report=429,share=0.5", Fault{Kind: FaultReport, Code: 429, Share: 0.5})
	f(`report=50003,every=100,message=a\, b,stored=true`, Fault{Kind: FaultReport, Code: 50003, Every: 100, Message: "a, b", Stored: true})
	f("reset=500,lost=all,times=2", Fault{Kind: FaultReset, After: 500, Lost: -1, Times: 2})
	f("reset=5s", Fault{Kind: FaultReset, Age: 5 * time.Second})
	f("expire=10,stored=false", Fault{Kind: FaultExpire, After: 10})
	f("expire=1s", Fault{Kind: FaultExpire, Age: time.Second, Stored: true})
	f("slow=20ms,partition=0", Fault{Kind: FaultSlow, For: 20 * time.Millisecond, HasPartition: true})
	f("framing=odd,pretty=true,topic=t", Fault{Kind: FaultFraming, Chunks: ChunksOdd, Pretty: true, Topic: "t"})
	f("http=307,location=http://x/,retry-after=2,body=empty,read=100", Fault{Kind: FaultHTTP, Code: 307, Location: "http://x/", RetryAfter: "2", Body: "empty", ReadBytes: 100})

	f("v2=karapace", Fault{Kind: FaultV2, Flavour: V2Karapace})
	f("auth=401,for=10s,share=0.5", Fault{Kind: FaultAuth, Code: 401, For: 10 * time.Second, Share: 0.5})
	f("token-quota=5", Fault{Kind: FaultTokenQuota, RetryAfter: "5"})
	f("shared=667,age=10s", Fault{Kind: FaultShared, Rate: 667, Age: 10 * time.Second})

	bad := func(s, text string) {
		t.Helper()
		if _, err := ParseFault(s); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", s, err, text)
		}
	}
	bad("nothing", "unknown; known are refuse")
	bad("report", "error_code")
	bad("report=x", "invalid syntax")
	bad("report=429,location=x", `takes no "location"`)
	bad("report=429,every", "not PARAMETER=VALUE")
	bad("http=999", "HTTP status")
	bad("http=500,body=xml", "body must be")
	bad("slow", "want a delay")
	bad("framing=x", "want two")
	bad("v2=kafka", "want confluent, pandaproxy")
	bad("v2=karapace,times=1", `takes no "times"`)
	bad("auth=404", "want 401 or 403")
	bad("token=200", "400..599")
	bad("shared=0", "above 0")
	bad("slow-read=0", "bytes per second")
	bad("report=429,share=2", "share must be 0..1")

	var help strings.Builder
	FaultHelp(&help)
	for _, k := range faultKinds {
		if _, err := ParseFault(k.example); err != nil || !strings.Contains(help.String(), k.example) {
			t.Errorf("example of %s: %v", k.kind, err)
		}
		for p := range strings.FieldsSeq(k.params) {
			if !strings.Contains(help.String(), "\n    "+p+" ") {
				t.Errorf("%s takes %s, which nothing explains", k.kind, p)
			}
		}
	}
	if err := (Faults{{Kind: FaultStall, Code: 3}}).Validate(); err == nil {
		t.Error("a stall with a code was taken")
	}
}

// Each fault on reports, as a client sees it.
func TestFaultReports(t *testing.T) {
	s := start(t, nil)
	f := func(fault, body, want string, wantStored int) {
		t.Helper()
		if err := s.SetFaults(parse(t, fault)); err != nil {
			t.Fatal(err)
		}
		before := stored(t, s)
		if got := codes(post(t, s, "t", body)); got != want {
			t.Errorf("%s: reports %s, want %s", fault, got, want)
		}
		if got := stored(t, s) - before; got != wantStored {
			t.Errorf("%s: %d stored, want %d", fault, got, wantStored)
		}
	}
	five := strings.Repeat(rec, 5)
	f("report=429,every=2", five, "200 429 200 429 200", 3)
	f("report=429,after=3", five, "200 200 200 429 429", 3)
	f("report=429,after=1,every=3", five, "200 200 200 429 200", 4)
	f("report=50003,stored=true,every=5", five, "200 200 200 200 50003", 5)
	f("report=40301,topic=other", five, "200 200 200 200 200", 5)
	f("report=413,contains=poison", rec+`{"value":{"type":"STRING","data":"poison"}}`+rec, "200 413 200", 2)
	f("report=500,count=2", five, "500 500 200 200 200", 3)
	f("terminal=2", five, "200 200 400", 2)

	if err := s.SetFaults(parse(t, "report=429,share=0.5")); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(codes(post(t, s, "t", strings.Repeat(rec, 2000))), "429")
	if n < 900 || n > 1100 {
		t.Errorf("share=0.5 hit %d of 2000", n)
	}
	_ = s.SetFaults(parse(t, "report=50302,message=one\ntwo"))
	if rs := post(t, s, "t", rec); rs[0].Message != "one" {
		t.Errorf("message %q, want what stands before the newline", rs[0].Message)
	}
}

// times=N lets later streams through.
func TestFaultTimes(t *testing.T) {
	s := start(t, withFaults(t, "report=429,times=2"))
	for i, want := range []string{"429", "429", "200", "200"} {
		if got := codes(post(t, s, "t", rec)); got != want {
			t.Errorf("stream %d: %s, want %s", i, got, want)
		}
	}
}

// A record reported 408 is in Kafka unless told otherwise; after the grace
// time the response ends.
func TestFaultExpire(t *testing.T) {
	s := start(t, withFaults(t, "expire=2,grace=1500ms"))
	f := func(want int) {
		t.Helper()
		before := stored(t, s)
		c := open(t, s, "t")
		c.send(strings.Repeat(rec, 4))
		rs, err := c.rest() // the body is never ended by this side
		if got := codes(rs); got != "200 200 408 408" || err != nil {
			t.Fatalf("%s, %v", got, err)
		}
		if rs[2].Message != "Streaming connection open for longer than allowed: Connection will be closed." {
			t.Errorf("message %q", rs[2].Message)
		}
		if got := stored(t, s) - before; got != want {
			t.Errorf("%d stored, want %d", got, want)
		}
	}
	f(4)
	_ = s.SetFaults(parse(t, "expire=2,grace=1500ms,stored=false"))
	f(2)
	var seconds atomic.Int64
	s = start(t, func(c *Config) {
		c.MaxAge = time.Millisecond
		c.MaxAgeGrace = time.Minute
		c.clock = func() time.Time { return time.Unix(1_700_000_000+seconds.Add(1), 0) }
	})
	c := open(t, s, "t")
	c.send(rec)
	if r := c.next(); r.Code != 408 {
		t.Errorf("behind --max-age: %+v", r)
	}
}

// The ways a connection is lost.
func TestFaultConnection(t *testing.T) {
	s := start(t, nil)
	f := func(fault string, reports int, check func(error) bool) {
		t.Helper()
		_ = s.SetFaults(parse(t, fault))
		before := s.Stats().RecordsStored
		c := open(t, s, "t")
		c.send(strings.Repeat(rec, 5))
		rs, err := c.rest()
		if len(rs) != reports || !check(err) {
			t.Errorf("%s: %d reports, %v; want %d", fault, len(rs), err, reports)
		}
		if got := s.Stats().RecordsStored - before; got < int64(min(reports, 5)) {
			t.Errorf("%s: %d stored", fault, got)
		}
	}
	reset := func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
	cut := func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }
	proper := func(err error) bool { return err == nil }
	f("reset=3", 3, reset)
	f("reset=5,lost=2", 3, reset)
	f("cut=3", 3, cut)
	f("cut=3,mid=true", 3, cut)
	f("cut=1s", 5, cut)
	f("reset=1s", 5, reset)
	f("end=3", 3, proper)
	f("end=1s", 5, proper)
	f("terminal=1s", 6, proper)

	// All reports lost: no head either.
	_ = s.SetFaults(parse(t, "reset=5,lost=all"))
	before := stored(t, s)
	c := open(t, s, "t")
	c.send(strings.Repeat(rec, 5))
	if b, err := io.ReadAll(c.conn); len(b) > 0 || !reset(err) {
		t.Errorf("lost=all: read %q, %v", b, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for stored(t, s) != before+5 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	if got := stored(t, s) - before; got != 5 {
		t.Errorf("lost=all: %d of 5 stored", got)
	}

	_ = s.SetFaults(parse(t, "refuse=1"))
	c = dial(t, s)
	if n, err := c.conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("refuse: read %d, %v", n, err)
	}
	if got := codes(post(t, s, "t", rec)); got != "200" {
		t.Errorf("after refuse=1: %s", got)
	}
	if st := s.Stats(); st.Refused != 1 {
		t.Errorf("refused %d", st.Refused)
	}
}

// A stall holds reports back and keeps the connection; it ends when faults
// change, after its time, or with the idle time-out.
func TestFaultStall(t *testing.T) {
	s := start(t, withFaults(t, "stall=2"))
	c := open(t, s, "t")
	c.send(strings.Repeat(rec, 4))
	c.next()
	c.next()
	late := make(chan report)
	go func() {
		r, _ := c.tryNext()
		late <- r
	}()
	select {
	case r := <-late:
		t.Fatalf("a report in a stall: %+v", r)
	case <-time.After(100 * time.Millisecond):
	}
	if got := stored(t, s); got != 4 {
		t.Errorf("%d stored in a stall", got)
	}
	_ = s.SetFaults(nil)
	if r := <-late; r.Code != 200 {
		t.Errorf("after the stall: %+v", r)
	}
	c.last()
	if rs, err := c.rest(); len(rs) != 1 || err != nil {
		t.Errorf("rest %v, %v", rs, err)
	}

	_ = s.SetFaults(parse(t, "stall=1,for=50ms"))
	if got := codes(post(t, s, "t", rec+rec)); got != "200 200" {
		t.Errorf("after for: %s", got)
	}
}

func TestStallEndsWhenIdle(t *testing.T) {
	s := start(t, func(c *Config) {
		c.Faults = parse(t, "stall=1")
		c.IdleTimeout = time.Second
	})
	c := open(t, s, "t")
	c.send(rec + rec)
	c.last()
	c.next()
	if rs, err := c.rest(); len(rs) != 0 || err == nil {
		t.Errorf("rest %v, %v; want the connection cut", rs, err)
	}
}

// A slow partition delays the reports behind it, in order.
func TestFaultSlow(t *testing.T) {
	s := start(t, withFaults(t, "slow=150ms,partition=1"))
	begin := time.Now()
	rs := post(t, s, "t", `{"partition_id":0}{"partition_id":1}{"partition_id":0}`)
	if took := time.Since(begin); took < 150*time.Millisecond {
		t.Errorf("took %s", took)
	}
	if got := fmt.Sprint(rs[0].Partition, rs[1].Partition, rs[2].Partition); got != "0 1 0" {
		t.Errorf("partitions %s", got)
	}
	_ = s.SetFaults(parse(t, "slow=1h,partition=1"))
	c := open(t, s, "t")
	c.send(`{"partition_id":1}`)
	if rs := post(t, s, "t", `{"partition_id":0}`); codes(rs) != "200" {
		t.Errorf("the other partition: %+v", rs)
	}
	if st := s.Stats(); st.Reports[200] != 4 {
		t.Errorf("%d reports, want 3 and one of the other partition", st.Reports[200])
	}
}

// An unknown topic blocks the stream, then draws 40401; it heals when faults
// change.
func TestFaultUnknownTopic(t *testing.T) {
	s := start(t, withFaults(t, "unknown-topic=t"))
	begin := time.Now()
	rs := post(t, s, "t", rec)
	if time.Since(begin) < s.cfg.MaxBlock || rs[0].Code != 40401 || rs[0].Message != "Topic t not present in metadata after 300 ms." {
		t.Errorf("%+v after %s", rs[0], time.Since(begin))
	}
	s = start(t, func(c *Config) {
		c.MaxBlock = time.Minute
		c.Faults = parse(t, "unknown-topic=t")
	})
	c := open(t, s, "t")
	c.send(rec)
	_ = s.SetFaults(nil)
	if r := c.next(); r.Code != 200 {
		t.Errorf("after healing: %+v", r)
	}
}

func TestFaultGarbage(t *testing.T) {
	s := start(t, withFaults(t, "garbage=1,message=<html>"))
	c := open(t, s, "t")
	c.send(strings.Repeat(rec, 3))
	c.last()
	b, err := c.body()
	lines := strings.Split(b, "\r\n")
	if err != nil || len(lines) != 4 || lines[1] != "<html>" || !strings.HasPrefix(lines[2], `{"error_code":200,`) {
		t.Errorf("%q, %v", lines, err)
	}
}

func TestFaultSlowRead(t *testing.T) {
	s := start(t, withFaults(t, "slow-read=1000"))
	begin := time.Now()
	if got := codes(post(t, s, "t", strings.Repeat(rec, 10))); strings.Count(got, "200") != 10 {
		t.Errorf("reports %s", got)
	}
	if took, least := time.Since(begin), time.Duration(10*len(rec))*time.Millisecond*9/10; took < least {
		t.Errorf("read in %s, want at least %s", took, least)
	}
}

// The framings: what the bytes on the wire are.
func TestFaultFraming(t *testing.T) {
	s := start(t, nil)
	f := func(fault string, check func(chunks []string) bool) {
		t.Helper()
		var fs Faults
		if fault != "" {
			fs = parse(t, fault)
		}
		_ = s.SetFaults(fs)
		if got := codes(post(t, s, "t", strings.Repeat(rec, 3))); got != "200 200 200" {
			t.Errorf("%s: reports %s", fault, got)
		}
		c := open(t, s, "t")
		c.send(strings.Repeat(rec, 3))
		c.last()
		if chunks := c.chunks(); !check(chunks) {
			t.Errorf("%s: chunks %q", fault, chunks)
		}
	}
	f("", func(c []string) bool {
		return len(c) == 6 && strings.HasSuffix(c[0], "}") && c[1] == "\r\n" && strings.HasPrefix(c[2], "{") && c[5] == "\r\n"
	})
	f("framing=joined", func(c []string) bool { return len(c) == 3 && strings.HasSuffix(c[0], "}\r\n") })
	f("framing=merged", func(c []string) bool { return len(c) <= 3 && strings.HasSuffix(c[0], "}\r\n") })
	f("framing=byte", func(c []string) bool { return len(c[0]) == 1 && len(c) > 300 })
	f("framing=odd", func(c []string) bool { return len(c[0]) == 1 && len(c[1]) == 2 && len(c[2]) == 3 && len(c[3]) == 5 })
	f("framing=two,pretty=true", func(c []string) bool { return len(c) == 6 && strings.HasPrefix(c[0], "{\n  \"error_code\": 200,\n") })
	f("framing=two,extra=true", func(c []string) bool { return strings.Contains(c[0], `"x_trace":`) })
}

// chunks reads the response's chunks as they are on the wire.
func (c *client) chunks() (out []string) {
	c.t.Helper()
	for { // head
		line, err := c.br.ReadString('\n')
		if err != nil {
			c.t.Fatal(err)
		}
		if line == "\r\n" {
			break
		}
	}
	for {
		var n int
		if _, err := fmt.Fscanf(c.br, "%x\r\n", &n); err != nil {
			c.t.Fatal(err)
		}
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.br, b); err != nil {
			c.t.Fatal(err)
		}
		if n == 0 {
			return out
		}
		out = append(out, string(b[:n]))
	}
}

// HTTP answers in place of the stream.
func TestFaultHTTP(t *testing.T) {
	s := start(t, nil)
	f := func(fault string, status int, contentType, text string, headers ...string) {
		t.Helper()
		_ = s.SetFaults(parse(t, fault))
		c := open(t, s, "t")
		c.send(rec)
		resp := c.answer()
		b, err := c.body()
		if resp.StatusCode != status || !strings.HasPrefix(resp.Header.Get("Content-Type"), contentType) || !strings.Contains(b, text) || err != nil {
			t.Errorf("%s: %d %q %q %v", fault, resp.StatusCode, resp.Header.Get("Content-Type"), b, err)
		}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, "=")
			if got := resp.Header.Get(name); got != value {
				t.Errorf("%s: %s is %q, want %q", fault, name, got, value)
			}
		}
		if st := s.Stats(); st.RecordsRead != 0 {
			t.Errorf("%s: a record was read", fault)
		}
	}
	f("http=429,body=html,retry-after=3", 429, "text/html", "<h2>HTTP ERROR 429 Too Many Requests</h2>", "DoSFilter=unavailable", "Retry-After=3")
	f("http=429,body=jetty", 429, "application/json", `"status":"429"`, "DoSFilter=unavailable")
	f("http=429", 429, "application/json", `{"error_code":429,"message":"Request rate limit exceeded: `)
	f("http=401", 401, "application/json", `"error_code":40101`, `Www-Authenticate=Basic realm="Kafka REST"`)
	f("http=403", 403, "application/json", `{"error_code":40301,"message":"Not authorized to access topics: [t]"}`)
	f("http=503,body=empty", 503, "", "")
	f("http=200,body=html", 200, "text/html", "<html>")
	f("http=308,location=http://127.0.0.1:1/x", 308, "", "", "Location=http://127.0.0.1:1/x")
	f("http=502,body=html,read=10,message=bad gateway", 502, "text/html", "bad gateway")
}

func TestFaultHTTPShare(t *testing.T) {
	s := start(t, withFaults(t, "http=503,every=2"))
	for i, want := range []int{200, 503, 200, 503} {
		c := open(t, s, "t")
		c.send(rec)
		c.last()
		if got := c.answer().StatusCode; got != want {
			t.Errorf("open %d: %d, want %d", i, got, want)
		}
	}
}
