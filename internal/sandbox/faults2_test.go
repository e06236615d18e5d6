package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// A buffering proxy hands nothing on before the request is whole, and nothing
// back before the answer is.
func TestFaultBuffering(t *testing.T) {
	t.Parallel()
	s := start(t, withFaults(t, "buffering=2", "framing=byte"))
	c := open(t, s, "t")
	c.send(rec)
	c.send(rec)
	_ = c.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.br.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("something came before the request ended: %v", err)
	}
	if n := stored(t, s); n != 0 {
		t.Errorf("%d stored before the request ended", n)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	c.last()
	rs, err := c.rest()
	if codes(rs) != "200 200" || err != nil {
		t.Errorf("%+v, %v", rs, err)
	}
	if rs := post(t, s, "t", rec+"}"+rec); codes(rs) != "200 400" { // a syntax error is reported as ever
		t.Errorf("%+v", rs)
	}
	c = open(t, s, "t")
	c.send(rec)
	if r := c.next(); r.Code != 200 { // the third stream is not buffered
		t.Errorf("%+v", r)
	}

	// A client that waits for reports is turned away at the idle time, and one
	// that goes away ends it.
	s = start(t, func(c *Config) {
		withFaults(t, "buffering")(c)
		c.IdleTimeout = time.Second
	})
	c = open(t, s, "t")
	c.send(rec)
	if b, err := c.body(); c.resp.StatusCode != 408 || err != nil {
		t.Errorf("%d %s %v", c.resp.StatusCode, b, err)
	}
	c = open(t, s, "t")
	c.send(rec)
	_ = c.conn.(*net.TCPConn).CloseWrite()
	if b, _ := io.ReadAll(c.br); len(b) > 0 {
		t.Errorf("%q", b)
	}
	if n := stored(t, s); n != 0 {
		t.Errorf("%d stored", n)
	}
}

// What other clients take is not there for this one, for as long as they do.
func TestFaultShared(t *testing.T) {
	begin := time.Unix(1000, 0)
	set := newFaultSet(parse(t, "shared=600,age=10s,for=10s", "shared=67,age=10s,for=10s"), confluentV2, begin)
	l := newRecordLimiter(Limits{RecordsPerSecond: 1000})
	count := func(from, to time.Duration) (n int) {
		for at := from; at < to; at += 500 * time.Microsecond {
			if now := begin.Add(at); l.take(now, 1, set.taken(now)) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		from, to time.Duration
		want     int
	}{{0, 10 * time.Second, 10_000}, {10 * time.Second, 20 * time.Second, 3330}, {20 * time.Second, 30 * time.Second, 10_000}} {
		if n := count(c.from, c.to); n < c.want*99/100 || n > c.want*101/100+20 {
			t.Errorf("%s..%s: %d, want about %d", c.from, c.to, n, c.want)
		}
	}
	all := newFaultSet(parse(t, "shared=5000"), confluentV2, begin)
	if l := newRecordLimiter(Limits{RecordsPerSecond: 1000, Burst: 0.001}); !l.take(begin, 1, all.taken(begin)) || l.take(begin.Add(time.Hour), 1, all.taken(begin)) {
		t.Error("others take all of it, and yet a record passed")
	}
	s := start(t, func(c *Config) {
		withFaults(t, "shared=1000")(c)
		c.LimitsProfile = "standard,burst=0.001"
	})
	if rs := post(t, s, "t", rec+rec); codes(rs) != "200 429" {
		t.Errorf("%+v", rs)
	}
}

// Rate headers are there when asked for, on 429 and on success.
func TestFaultRateHeaders(t *testing.T) {
	f := func(fault, path, ct, body string, first, second string) {
		t.Helper()
		s := start(t, func(c *Config) {
			if fault != "" {
				withFaults(t, fault)(c)
			}
			c.LimitsProfile = "posts=1"
		})
		for i, want := range []string{first, second} {
			resp, b := ask(t, s, "POST", path, body, "Content-Type: "+ct)
			h := resp.Header
			got := fmt.Sprintf("%d %s/%s/%s %s", resp.StatusCode, h.Get("X-RateLimit-Limit"), h.Get("X-RateLimit-Remaining"), h.Get("X-RateLimit-Reset"), h.Get("Retry-After"))
			if got != want {
				t.Errorf("%s %s, request %d: %q, want %q\n%s", fault, path, i+1, got, want, b)
			}
		}
	}
	v3 := fmt.Sprintf(path3, "t")
	f("", v3, "application/json", rec, "200 // ", "429 // ")
	f("rate-headers", v3, "application/json", rec, "200 1/0/1 ", "429 1/0/1 1")
	f("rate-headers=7", v3+":batch", "application/json", entries(1), "207 1/0/7 ", "429 1/0/7 7")
	s := start(t, withFaults(t, "rate-headers=2", "http=429,times=1"))
	for _, want := range []string{"429 /0 2", "200 / "} { // no limit, nothing to count
		resp, _ := ask(t, s, "POST", v3, rec, "Content-Type: application/json")
		h := resp.Header
		if got := fmt.Sprintf("%d %s/%s %s", resp.StatusCode, h.Get("X-RateLimit-Limit"), h.Get("X-RateLimit-Remaining"), h.Get("Retry-After")); got != want {
			t.Errorf("without a limit: %q, want %q", got, want)
		}
	}
	f("rate-headers=3", "/topics/t", binaryV2, `{"records":[{"value":"YQ=="}]}`, "200 1/0/3 ", "429 1/0/3 3")
}
