package limit

import (
	"fmt"
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Unix(1_700_000_000, 0)

func TestParseProfile(t *testing.T) {
	f := func(name string, want Profile) {
		t.Helper()
		got, err := ParseProfile(name)
		if err != nil || got != want {
			t.Errorf("ParseProfile(%q) = %+v, %v; want %+v", name, got, err, want)
		}
	}
	f("none", Profile{Name: "none"})
	for _, name := range []string{"basic", "standard", "enterprise", "freight"} {
		f(name, Profile{Name: name, Connections: 25, Records: 1000, Bytes: 10_000_000, MessageBytes: 8_000_000})
	}
	f("Basic", Profile{Name: "basic", Connections: 25, Records: 1000, Bytes: 10_000_000, MessageBytes: 8_000_000})
	f("dedicated:1", Profile{Name: "dedicated:1", Connections: 300, Records: 3000, Bytes: 50_000_000, MessageBytes: 20_000_000})
	f("dedicated:2", Profile{Name: "dedicated:2", Connections: 600, Records: 6000, Bytes: 100_000_000, MessageBytes: 20_000_000})
	f("dedicated:152", Profile{Name: "dedicated:152", Connections: 45_600, Records: 456_000, Bytes: 7_600_000_000, MessageBytes: 20_000_000})

	bad := func(name string) {
		t.Helper()
		if p, err := ParseProfile(name); err == nil {
			t.Errorf("ParseProfile(%q) = %+v, want an error", name, p)
		}
	}
	bad("")
	bad("gold")
	bad("dedicated")
	bad("dedicated:")
	bad("dedicated:0")
	bad("dedicated:-1")
	bad("dedicated:153")
	bad("dedicated:1.5")
	bad("basic ")
}

func TestForHost(t *testing.T) {
	f := func(host, want string) {
		t.Helper()
		if got := ForHost(host); got != want {
			t.Errorf("ForHost(%q) = %q, want %q", host, got, want)
		}
	}
	f("pkc-12576z.us-west2.gcp.confluent.cloud", "basic")
	f("PKC-1.EU-WEST-1.AWS.Confluent.Cloud", "basic")
	f("lkc-abc.eu.aws.private.confluent.cloud.", "basic")
	f("localhost", "none")
	f("127.0.0.1", "none")
	f("kafka-rest.example.com", "none")
	f("confluent.cloud.example.com", "none")
	f("notconfluent.cloud", "none")
	f("", "none")
}

// send is one thing that was sent under a limit.
type send struct {
	at    time.Duration
	n     int
	bytes int
}

// most returns the largest sums of records and bytes in any closed second.
func most(sends []send) (records, bytes int) {
	sort.Slice(sends, func(i, j int) bool { return sends[i].at < sends[j].at })
	first, n, size := 0, 0, 0
	for _, s := range sends {
		n, size = n+s.n, size+s.bytes
		for s.at-sends[first].at > time.Second {
			n, size = n-sends[first].n, size-sends[first].bytes
			first++
		}
		records, bytes = max(records, n), max(bytes, size)
	}
	return records, bytes
}

// writers plays so many streams, each with something to send after a pause of
// its own: it waits as Take says, wakes up late by what late says, and waits as
// Go says before it sends. next returns what a writer sends and how long it
// pauses behind it.
func writers(l *Limiter, count int, until time.Duration, late func() time.Duration, next func() (n, bytes int, pause time.Duration)) []send {
	type writer struct {
		send
		pause          time.Duration
		reserved, gone bool
	}
	var out []send
	all := make([]writer, count)
	for {
		w := &all[0]
		for i := range all {
			if all[i].at < w.at {
				w = &all[i]
			}
		}
		switch {
		case w.gone:
			out = append(out, w.send)
			*w = writer{send: send{at: w.at + w.pause}}
		case w.reserved:
			w.gone = true
			w.at += l.Go(epoch.Add(w.at), w.n, w.bytes)
		case w.at > until:
			return out
		default:
			w.reserved = true
			w.n, w.bytes, w.pause = next()
			if d := l.Take(epoch.Add(w.at), w.n, w.bytes); d > 0 {
				w.at += d + late()
			}
		}
	}
}

func punctual() time.Duration { return 0 }

// No second holds more than 1.02 times the limit, in records or in bytes,
// whatever the pattern of arrivals, and however late the streams wake up. A single record larger than a second's
// fiftieth of the bytes cannot be split: it may stick out by its size.
func TestNeverAboveLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := ParseProfile(rapid.SampledFrom([]string{"basic", "dedicated:1", "dedicated:7"}).Draw(t, "profile"))
		if err != nil {
			t.Fatal(err)
		}
		l := New(p)
		quantumN, quantumB := l.Quantum()
		large := rapid.SampledFrom([]int{0, 0, 10, 100}).Draw(t, "large one in")
		pauses := rapid.SampledFrom([]int{0, 5, 300}).Draw(t, "pauses ms")
		seed := rapid.Uint64().Draw(t, "seed")
		random := func(n int) int { // cheaper than a draw for each
			seed = seed*6364136223846793005 + 1442695040888963407
			return int(seed>>33) % n
		}
		largest, lateBy := 0, rapid.SampledFrom([]int{0, 2, 300}).Draw(t, "late ms")
		late := func() time.Duration {
			if lateBy == 0 || random(20) > 0 {
				return 0
			}
			return time.Duration(random(lateBy*1000)) * time.Microsecond
		}
		sends := writers(l, rapid.IntRange(1, 64).Draw(t, "streams"), 5*time.Second, late, func() (int, int, time.Duration) {
			n, bytes := 1+random(quantumN), 1+random(quantumB)
			if large > 0 && random(large) == 0 {
				n, bytes = 1, 1+random(p.MessageBytes)
			}
			largest = max(largest, bytes)
			pause := time.Duration(0)
			if pauses > 0 {
				pause = time.Duration(random(pauses*1000)) * time.Microsecond
			}
			return n, bytes, pause
		})
		records, bytes := most(sends)
		if float64(records) > 1.02*p.Records+1e-6 {
			t.Errorf("%d records in one second, limit %g", records, p.Records)
		}
		allowed := 1.02 * p.Bytes
		if float64(largest) > 0.02*p.Bytes {
			allowed = p.Bytes + float64(largest)
		}
		if float64(bytes) > allowed+1 {
			t.Errorf("%d bytes in one second, limit %g, largest %d", bytes, p.Bytes, largest)
		}
	})
}

// With enough to send at least 99 % of the limit are used: of records when
// they are small, of bytes when they are large, 8 MB ones among them.
func TestLimitIsUsed(t *testing.T) {
	f := func(n, bytes, streams int, wantRecords, wantBytes float64) {
		t.Helper()
		p, _ := ParseProfile("basic")
		const seconds = 60
		var records, size float64
		for _, s := range writers(New(p), streams, seconds*time.Second, punctual, func() (int, int, time.Duration) { return n, bytes, 0 }) {
			if s.at <= seconds*time.Second {
				records, size = records+float64(s.n), size+float64(s.bytes)
			}
		}
		if records/seconds < wantRecords || size/seconds < wantBytes {
			t.Errorf("%d records of %d bytes on %d streams: %g records/s and %g bytes/s, want %g and %g",
				n, bytes, streams, records/seconds, size/seconds, wantRecords, wantBytes)
		}
		if records/seconds > 1.01*p.Records || size/seconds > 1.01*p.Bytes+float64(bytes)/seconds {
			t.Errorf("%d records of %d bytes: %g records/s and %g bytes/s are above the limit", n, bytes, records/seconds, size/seconds)
		}
	}
	f(1, 200, 1, 990, 0)
	f(10, 2000, 4, 990, 0)
	f(7, 1400, 64, 990, 0)
	f(1, 100_000, 4, 0, 9.9e6)
	f(3, 90_000, 4, 0, 9.9e6)
	f(1, 8_000_000, 1, 0, 9.8e6)
	f(1, 8_000_000, 4, 0, 9.8e6)
}

// The other side counts the POSTs of the last second and takes 25.
func TestConnections(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, _ := ParseProfile("basic")
		l := New(p)
		var sends []send
		now := time.Duration(0)
		for range 200 {
			now += time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 30, 500}).Draw(t, "pause")) * time.Millisecond
			sends = append(sends, send{at: now + l.Open(epoch.Add(now)), n: 1})
		}
		if n, _ := most(sends); n > 25 {
			t.Errorf("%d POSTs in a second", n)
		}
	})
}

func TestGive(t *testing.T) {
	p, _ := ParseProfile("basic")
	l := New(p)
	l.Take(epoch, 20, 0)
	if d := l.Take(epoch, 500, 0); d != 20*time.Millisecond {
		t.Fatalf("500 records behind a full burst wait %s, want for the next one", d)
	}
	if d := l.Take(epoch, 1, 0); d != 501*time.Millisecond {
		t.Fatalf("one record behind 500 waits %s", d)
	}
	l.Give(1, 0)
	l.Give(500, 0)
	if d := l.Take(epoch.Add(500*time.Millisecond), 20, 0); d != 0 {
		t.Errorf("20 records after 500 were given back and their time went by wait %s", d)
	}
	l = New(p)
	l.Take(epoch, 20, 0)
	for range 10 { // what was never taken cannot be had twice
		l.Give(1000, 1<<20)
	}
	if d := l.Take(epoch.Add(500*time.Millisecond), 20, 0) + l.Take(epoch.Add(500*time.Millisecond), 10, 0); d < 10*time.Millisecond {
		t.Errorf("giving back made a burst: 30 records wait %s", d)
	}
}

// server takes so many records in any second and refuses the rest.
type server struct {
	takes  float64
	level  float64
	last   time.Duration
	taken  int
	denied int
}

func (s *server) take(at time.Duration, n int) (good, bad int) {
	s.level = min(s.takes/20, s.level+s.takes*(at-s.last).Seconds())
	s.last = at
	for range n {
		if s.level >= 1 {
			s.level--
			good++
		} else {
			bad++
		}
	}
	s.taken, s.denied = s.taken+good, s.denied+bad
	return good, bad
}

// ship sends against s until the given time, beginning at from, and returns
// how much was taken in that time.
func ship(l *Limiter, s *server, from, until time.Duration, quantum int) float64 {
	before := s.taken
	now := from
	for now < until {
		d := l.Take(epoch.Add(now), quantum, 200*quantum)
		now += max(d, 50*time.Microsecond)
		good, bad := s.take(now, quantum)
		if good > 0 {
			l.Delivered(epoch.Add(now), good, 200*good)
		}
		if bad > 0 {
			l.Throttled(epoch.Add(now), bad, 200*bad)
		}
	}
	return float64(s.taken-before) / (until - from).Seconds()
}

// After 429s the rate falls to what is delivered, hardly anything is sent in
// vain, and it climbs back within ten seconds when the cluster takes more.
func TestSearchAfter429(t *testing.T) {
	f := func(profile string, low, high float64) {
		t.Helper()
		p, err := ParseProfile(profile)
		if err != nil {
			t.Fatal(err)
		}
		l, s := New(p), &server{takes: low}
		ship(l, s, 0, 5*time.Second, 5)
		s.taken, s.denied = 0, 0
		if rate := ship(l, s, 5*time.Second, 65*time.Second, 5); rate < 0.85*low {
			t.Errorf("%s: of %g records/s that are there %g are used", profile, low, rate)
		}
		if sent := float64(s.taken + s.denied); sent/float64(s.taken) > 1.2 {
			t.Errorf("%s: %d taken, %d sent in vain", profile, s.taken, s.denied)
		}
		s.takes = high
		ship(l, s, 65*time.Second, 75*time.Second, 5)
		if rate := ship(l, s, 75*time.Second, 80*time.Second, 5); rate < 0.85*min(high, max(p.Records, high*float64(1-min(1, p.Records)))) {
			t.Errorf("%s: ten seconds after it takes %g records/s again %g are used", profile, high, rate)
		}
	}
	f("basic", 500, 2000)
	f("basic", 900, 2000)
	f("basic", 300, 1000)
	f("dedicated:2", 2000, 10_000)
	f("none", 1000, 2000)
	f("none", 5000, 10_000)
}

// A burst of 429s that has nothing to do with the rate is over soon.
func TestRecoversFromStorm(t *testing.T) {
	p, _ := ParseProfile("basic")
	l := New(p)
	now := time.Duration(0)
	for now < 30*time.Second { // half of all records are refused, whatever the rate
		d := l.Take(epoch.Add(now), 2, 400)
		now += max(d, 50*time.Microsecond)
		l.Delivered(epoch.Add(now), 1, 200)
		l.Throttled(epoch.Add(now), 1, 200)
	}
	if r := l.PerSecond(); r < 1 {
		t.Errorf("the rate fell to %g", r)
	}
	s := &server{takes: 2000}
	s.last, s.level = now, 100
	ship(l, s, now, now+20*time.Second, 1)
	if rate := ship(l, s, now+20*time.Second, now+25*time.Second, 1); rate < 900 {
		t.Errorf("20 s after the storm %g records/s are used of 1,000", rate)
	}
}

// 429s among the very first reports cut nothing, for there is no rate to see:
// they are only paced by what was delivered until then.
func TestFirst429(t *testing.T) {
	l := New(Profile{Name: "none"})
	l.Delivered(epoch, 20, 4000)
	if l.Throttled(epoch.Add(20*time.Millisecond), 5, 1000) || l.PerSecond() != 1000 {
		t.Errorf("25 reports within 20 ms cut the rate to %g", l.PerSecond())
	}
	l.Delivered(epoch.Add(400*time.Millisecond), 380, 76000)
	if !l.Throttled(epoch.Add(400*time.Millisecond), 20, 4000) {
		t.Error("5 % refused for 400 ms cut nothing")
	}
	if r := l.PerSecond(); r < 700 || r > 1000 {
		t.Errorf("the search starts at %g records/s after 400 within 400 ms", r)
	}
}

// Times that go backwards a little, as those of several goroutines do, are
// taken as they come.
func TestTimesOutOfOrder(t *testing.T) {
	p, _ := ParseProfile("basic")
	l := New(p)
	l.Delivered(epoch.Add(time.Second), 5, 1000)
	for _, d := range []time.Duration{0, -time.Second, 500 * time.Millisecond, -time.Hour, 2 * time.Second} {
		now := epoch.Add(d)
		l.Delivered(now, 1, 100)
		l.Throttled(now, 1, 100)
		if w := l.Take(now, 1, 100); w < 0 || w > time.Minute {
			t.Errorf("at %s: wait %s", d, w)
		}
		if w := l.Open(now); w < 0 || w > time.Minute {
			t.Errorf("at %s: wait %s for a POST", d, w)
		}
	}
}

func TestProfileString(t *testing.T) {
	p, _ := ParseProfile("basic")
	if got, want := fmt.Sprint(p), "basic (25 POSTs/s, 1000 records/s, 10 MB/s, messages up to 8 MB)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := fmt.Sprint(Profile{Name: "none"}); got != "none" {
		t.Error(got)
	}
}
