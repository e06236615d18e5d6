package limit

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// member is a limiter of a fleet's agent that draws 0.5.
func member(t testing.TB, agents int, headroom float64) *Limiter {
	t.Helper()
	p, err := ParseProfile("basic")
	if err != nil {
		t.Fatal(err)
	}
	l := New(p.Share(agents, headroom))
	if l.posts.spread != nil {
		l.posts.spread = func() float64 { return 0.5 }
	}
	return l
}

func TestShare(t *testing.T) {
	p := Profile{Name: "x", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6}
	f := func(agents int, headroom float64, want Profile) {
		t.Helper()
		if got := p.Share(agents, headroom); got != want {
			t.Errorf("%d agents, %g: %+v, want %+v", agents, headroom, got, want)
		}
	}
	f(1, 0, p)
	f(0, 0, p)
	f(2, 0.5, Profile{Name: "x", Connections: 6.25, Records: 250, Bytes: 2.5e6, MessageBytes: 8e6, Agents: 2})
	f(100, 0, Profile{Name: "x", Connections: 0.25, Records: 10, Bytes: 100_000, MessageBytes: 8e6, Agents: 100})
	if got := (Profile{Name: "none"}).Share(4, 0.1); got != (Profile{Name: "none", Agents: 4}) {
		t.Errorf("no limits in four parts: %+v", got)
	}
}

// The agents of a fleet keep within the cluster's POSTs all together, in any
// second, though none knows of the others; one of a hundred opens a stream
// every four seconds.
func TestFleetPosts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		agents := rapid.IntRange(2, 25).Draw(t, "agents")
		p, _ := ParseProfile("basic")
		var sends []send
		for range agents {
			l := New(p.Share(agents, 0.05))
			now := time.Duration(rapid.IntRange(0, 1000).Draw(t, "begin")) * time.Millisecond
			for range 10 {
				d := l.Open(epoch.Add(now))
				for ; d > 0; d = l.Reopen(epoch.Add(now)) {
					now += d
				}
				sends = append(sends, send{at: now, n: 1})
			}
		}
		if n, _ := most(sends); n > 25 {
			t.Errorf("%d agents: %d POSTs within one second", agents, n)
		}
	})
	l := member(t, 100, 0)
	at := l.Open(epoch)
	next := l.Open(epoch)
	if at > 4200*time.Millisecond || next-at < 4*time.Second || next-at > 4200*time.Millisecond {
		t.Errorf("one of a hundred opens its first stream after %s, the next after %s", at, next)
	}
}

// A 429 halves the rate, at most once a second, and each POST that is taken lets
// a little more; what the server says of waits is heeded and bounded.
func TestPostRefused(t *testing.T) {
	l := member(t, 1, 0)
	at := func(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }
	if !l.PostRefused(at(1), Told{}) || l.PostRefused(at(1.5), Told{}) || l.Found().Connections != 12 {
		t.Fatalf("two refused together leave %g POSTs a second", l.Found().Connections)
	}
	for i := range 40 {
		l.PostTaken(at(2+float64(i)/2), Told{})
	}
	if f := l.Found().Connections; f != 0 {
		t.Errorf("20 s later %g POSTs a second, want the profile's", f)
	}
	for i := range 40 {
		l.PostRefused(at(100+float64(i)), Told{})
	}
	if f := l.Found().Connections; f != postsLeast {
		t.Errorf("refused for ever: %g POSTs a second", f)
	}

	f := func(what string, told Told, refused bool, want time.Duration) {
		t.Helper()
		l := member(t, 1, 0)
		if refused {
			l.PostRefused(epoch, told)
		} else {
			l.PostTaken(epoch, told)
		}
		if d := l.Open(epoch); d < want || d > want+time.Second {
			t.Errorf("%s: a POST waits %s, want %s", what, d, want)
		}
	}
	f("nothing said", Told{}, true, 0)
	f("retry-after", Told{RetryAfter: 9 * time.Second}, true, 9*time.Second)
	f("very long", Told{RetryAfter: 10000 * time.Hour}, true, MaxWait)
	f("reset alone", Told{Reset: 7 * time.Second}, true, 7*time.Second)
	f("none left", Told{Limited: true, Reset: 6 * time.Second}, false, 6*time.Second)
	f("some left", Told{Limited: true, Left: 2, Reset: 6 * time.Second}, false, 0)
	f("left of an unknown window", Told{Limited: true}, false, 0)

	l = member(t, 1, 0)
	l.PostRefused(at(1), Told{})
	if d := l.Open(at(1)); d < 83*time.Millisecond || d > 84*time.Millisecond {
		t.Errorf("the POST behind one that was refused waits %s, want its whole turn", d)
	}
	l = member(t, 1, 0) // what is left is counted down
	l.PostTaken(epoch, Told{Limited: true, Left: 2, Reset: 10 * time.Second})
	for i, want := range []time.Duration{0, 0, 8 * time.Second, 7 * time.Second} {
		if d := l.Open(at(float64(i))); d < want || d > want+time.Second {
			t.Errorf("POST %d at %d s waits %s, want %s", i, i, d, want)
		}
	}
}

// A server without a profile: the rate is cut from what was opened within the
// last second.
func TestPostRefusedWithoutProfile(t *testing.T) {
	l := New(Profile{Name: "none"})
	for i := range 40 {
		if d := l.Open(epoch.Add(time.Duration(i) * 20 * time.Millisecond)); d != 0 {
			t.Fatalf("POST %d waits %s", i, d)
		}
	}
	l.PostRefused(epoch.Add(800*time.Millisecond), Told{})
	if f := l.Found().Connections; f != 20 {
		t.Errorf("after 40 POSTs within a second %g are left, want half", f)
	}
}

// Clocks that jump: hours forward, as after a suspend, let no more go than a
// burst; hours back freeze nothing.
func TestClockJumps(t *testing.T) {
	f := func(profile string, jump time.Duration) {
		t.Run(fmt.Sprint(profile, " ", jump), func(t *testing.T) {
			p, _ := ParseProfile(profile)
			l, now := New(p), epoch
			play := func(until time.Duration) (sends []send) {
				end := now.Add(until)
				begin := now
				for i := 0; now.Before(end); i++ {
					d := l.Take(now, 5, 1000)
					if d < 0 || d > 10*time.Second {
						t.Fatalf("a wait of %s", d)
					}
					now = now.Add(max(d, 100*time.Microsecond))
					sends = append(sends, send{at: now.Sub(begin), n: 5})
					if l.Delivered(now, 5, 1000); i%50 == 0 && l.Throttled(now, 2, 400) {
						continue
					}
				}
				return sends
			}
			play(3 * time.Second)
			if d := l.Open(now); d > time.Second {
				t.Fatalf("POST waits %s", d)
			}
			l.PostRefused(now, Told{RetryAfter: time.Minute})
			now = now.Add(jump)
			sends := play(10 * time.Second)
			total := 0
			for _, s := range sends {
				total += s.n
			}
			if p.Records > 0 {
				if n, _ := most(sends); float64(n) > 1.02*p.Records {
					t.Errorf("%d records within one second after the jump", n)
				}
			}
			if total < 1000 {
				t.Errorf("%d records in the ten seconds after the jump", total)
			}
			if d := l.Open(now); d < 0 || d > time.Minute {
				t.Errorf("a POST waits %s after the jump", d)
			}
		})
	}
	for _, profile := range []string{"basic", "dedicated:2", "none"} {
		for _, jump := range []time.Duration{8 * time.Hour, -8 * time.Hour, -time.Minute, 100 * 24 * time.Hour, -500 * time.Millisecond} {
			f(profile, jump)
		}
	}
}
