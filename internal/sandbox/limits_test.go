package sandbox

import (
	"strings"
	"testing"
	"time"
)

func TestParseLimits(t *testing.T) {
	f := func(s string, want Limits) {
		t.Helper()
		if got, err := ParseLimits(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", s, got, err, want)
		}
	}
	standard := Limits{PostsPerSecond: 25, RecordsPerSecond: 1000, BytesPerSecond: 10_000_000, MessageBytes: 8_000_000}
	f("none", Limits{})
	f("", Limits{})
	f("standard", standard)
	f("freight", standard)
	f("dedicated:152", Limits{PostsPerSecond: 45_600, RecordsPerSecond: 456_000, BytesPerSecond: 7_600_000_000, MessageBytes: 20_000_000})
	f("records=500", Limits{RecordsPerSecond: 500})
	f("none,posts=3,burst=0.5,terminal,message=100", Limits{PostsPerSecond: 3, Burst: 0.5, MessageTerminal: true, MessageBytes: 100})
	fast := standard
	fast.RecordsPerSecond = 0
	f("basic,records=0", fast)
	f("basic,records=333,posts=10,bytes=2MB,message=1.5MiB", Limits{PostsPerSecond: 10, RecordsPerSecond: 333, BytesPerSecond: 2_000_000, MessageBytes: 1_572_864})

	bad := func(s string) {
		t.Helper()
		if got, err := ParseLimits(s); err == nil {
			t.Errorf("%s: taken as %+v", s, got)
		}
	}
	bad("premium")
	bad("basic,records=2KB")
	bad("basic,bytes=3GB")
	bad("basic,bytes=-1MB")
	bad("basic,bytes=MB")
	bad("dedicated:0")
	bad("dedicated:x")
	bad("basic,records")
	bad("basic,records=-1")
	bad("basic,standard")
}

// granted offers records of n bytes every step for d and returns when each was
// let through.
func granted(l *recordLimiter, begin time.Time, d, step time.Duration, n int) (at []time.Duration) {
	for t := time.Duration(0); t < d; t += step {
		if l.take(begin.Add(t), n, 0) {
			at = append(at, t)
		}
	}
	return at
}

// most is the greatest number of events in any second.
func most(at []time.Duration) (n int) {
	for i, j := 0, 0; j < len(at); j++ {
		for at[j]-at[i] >= time.Second {
			i++
		}
		n = max(n, j-i+1)
	}
	return n
}

// The record limiter never lets more than limit +2 % through in any second,
// and never starves who asks all the time.
func TestRecordLimiter(t *testing.T) {
	begin := time.Unix(1000, 0)
	f := func(limit int, step time.Duration) {
		t.Helper()
		l := newRecordLimiter(Limits{RecordsPerSecond: limit})
		at := granted(l, begin, 3*time.Second, step, 100)
		at2 := granted(l, begin.Add(10*time.Second), 2*time.Second, step, 100) // after a pause
		for _, a := range at2 {
			at = append(at, a+10*time.Second)
		}
		if got, bound := most(at), limit+max(1, limit/50); got > bound {
			t.Errorf("limit %d: %d in a second", limit, got)
		}
		if got, least := len(at), 5*limit*99/100; got < least {
			t.Errorf("limit %d: only %d granted in 5 s", limit, got)
		}
	}
	f(1000, 100*time.Microsecond)
	f(1000, 7*time.Microsecond)
	f(25, time.Millisecond)
	f(456_000, time.Microsecond)
}

// A record larger than a second's bytes is granted at once, and those behind
// it pay.
func TestByteLimiterDebt(t *testing.T) {
	l := newRecordLimiter(Limits{BytesPerSecond: 1000})
	begin := time.Unix(1000, 0)
	if !l.take(begin, 3000, 0) {
		t.Fatal("the large record was refused")
	}
	for _, d := range []time.Duration{0, time.Second, 2900 * time.Millisecond} {
		if l.take(begin.Add(d), 1, 0) {
			t.Errorf("granted %s later", d)
		}
	}
	if !l.take(begin.Add(3*time.Second), 1, 0) {
		t.Error("still refused after 3 s")
	}
}

// The limit of produce requests is a sliding window, in which refused ones count.
func TestPostLimiter(t *testing.T) {
	begin := time.Unix(1000, 0)
	p := newPostLimiter(25)
	for i := range 25 {
		if !p.take(begin.Add(time.Duration(i) * 10 * time.Millisecond)) {
			t.Fatalf("request %d refused", i)
		}
	}
	if p.take(begin.Add(999 * time.Millisecond)) {
		t.Error("26th within a second let in")
	}
	if !p.take(begin.Add(1010*time.Millisecond)) || !p.take(begin.Add(1020*time.Millisecond)) {
		t.Error("a request a second after its 25th forerunner was refused")
	}
	hammer, let := newPostLimiter(25), 0
	for i := range 1000 {
		if hammer.take(begin.Add(time.Duration(i) * 10 * time.Millisecond)) {
			let++
		}
	}
	if let != 25 {
		t.Errorf("hammering at 100/s was let in %d times, want 25", let)
	}
}

func TestPeak(t *testing.T) {
	var p peak
	begin := time.Unix(1000, 0)
	for i := range 300 {
		p.add(begin.Add(time.Duration(i)*10*time.Millisecond), 2)
	}
	if got := p.most(); got != 200 {
		t.Errorf("even: %d in a second, want 200", got)
	}
	p.add(begin.Add(time.Hour), 150)
	p.add(begin.Add(time.Hour+900*time.Millisecond), 100)
	p.add(begin.Add(time.Hour+1900*time.Millisecond), 100)
	if got := p.most(); got != 250 {
		t.Errorf("two bursts: %d in a second, want 250", got)
	}
}

// Limits as a client meets them.
func TestLimitsOnStream(t *testing.T) {
	noon := time.Unix(1_700_000_000, 0)
	s := start(t, func(c *Config) {
		c.LimitsProfile = "posts=2,records=50,burst=0.1"
		c.clock = func() time.Time { return noon }
	})
	got := codes(post(t, s, "t", strings.Repeat(rec, 200)))
	if want := strings.Repeat("200 ", 5) + strings.TrimSuffix(strings.Repeat("429 ", 195), " "); got != want {
		t.Errorf("reports %s", got)
	}
	post(t, s, "t", rec)
	f := func(accept, text string) {
		t.Helper()
		c := open(t, s, "t", accept)
		resp := c.answer()
		if b, err := c.body(); resp.StatusCode != 429 || resp.Header.Get("DoSFilter") != "unavailable" || !strings.Contains(b, text) || err != nil {
			t.Errorf("%s: %d %q, %v", accept, resp.StatusCode, b, err)
		}
	}
	f("Accept: */*", "<h2>HTTP ERROR 429 Too Many Requests</h2>")
	f("Accept: application/json", `{"url":"/kafka/v3/clusters/lkc-sandbox/topics/t/records","status":"429","message":"Too Many Requests"}`)
	if st := s.Stats(); st.MaxPostsPerSecond != 4 || st.PostsRejected != 2 || st.MaxRecordsPerSecond != 201 || st.MaxGrantedPerSecond != 5 {
		t.Errorf("stats %+v", st)
	}
}

func TestMessageSize(t *testing.T) {
	big := `{"value":{"type":"STRING","data":"` + strings.Repeat("x", 2000) + `"}}`
	s := start(t, func(c *Config) { c.Limits = Limits{MessageBytes: 1000} })
	if got := codes(post(t, s, "t", rec+big+rec)); got != "200 413 200" {
		t.Errorf("413 form: %s", got)
	}
	s = start(t, func(c *Config) { c.Limits = Limits{MessageBytes: 1000, MessageTerminal: true} })
	rs := post(t, s, "t", rec+big+rec)
	if got := codes(rs); got != "200 400" || rs[1].Message != "Bad Request: Error processing message: Produce request size is larger than allowed threshold" {
		t.Errorf("terminal form: %+v", rs)
	}
	c := open(t, s, "t") // also while the record is not whole yet
	c.send(rec)
	c.send(big[:1500])
	if rs, err := c.rest(); codes(rs) != "200 400" || err != nil {
		t.Errorf("terminal form, half a record: %+v, %v", rs, err)
	}
	s = start(t, nil)
	mega := `{"value":{"type":"STRING","data":"` + strings.Repeat("x", 1<<20+1) + `"}}`
	if got := codes(post(t, s, "t", mega+rec)); got != "413 200" {
		t.Errorf("max.request.size: %s", got)
	}
	s = start(t, func(c *Config) { c.LimitsProfile = "basic" })
	most := `{"value":{"type":"STRING","data":"` + strings.Repeat("x", 8_000_000) + `"}}`
	if got := codes(post(t, s, "t", most)); got != "200" {
		t.Errorf("8 MB under basic: %s", got)
	}
}
