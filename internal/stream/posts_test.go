package stream

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

func TestTold(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := func(heads string, want limit.Told) {
		t.Helper()
		h, _, err := parseHead([]byte("HTTP/1.1 429 Too Many Requests\r\n" + strings.ReplaceAll(heads, "\n", "\r\n") + "\r\n\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := h.rates.told(at); got != want {
			t.Errorf("%q: %+v, want %+v", heads, got, want)
		}
	}
	f("Retry-After: 3", limit.Told{RetryAfter: 3 * time.Second})
	f("retry-AFTER:  1.5 ", limit.Told{RetryAfter: 1500 * time.Millisecond})
	f("Retry-After: Fri, 02 Jan 2026 03:04:15 GMT", limit.Told{RetryAfter: 10 * time.Second})
	f("Date: Fri, 02 Jan 2026 04:00:00 GMT\nRetry-After: Fri, 02 Jan 2026 04:00:07 GMT", limit.Told{RetryAfter: 7 * time.Second})
	f("Retry-After: Thu, 01 Jan 2026 03:04:15 GMT", limit.Told{})
	f("Retry-After: Fri, 02 Jan 2099 03:04:15 GMT", limit.Told{RetryAfter: limit.MaxWait})
	f("Retry-After: 0", limit.Told{})
	f("Retry-After: -5", limit.Told{})
	f("Retry-After: soon", limit.Told{})
	f("Retry-After: 1e9", limit.Told{})
	f("Retry-After: Inf", limit.Told{})
	f("Retry-After: NaN", limit.Told{})
	f("Retry-After:", limit.Told{})
	f("Retry-After: 100000", limit.Told{RetryAfter: limit.MaxWait})
	f("Retry-After: "+strings.Repeat("9", 400), limit.Told{RetryAfter: limit.MaxWait})
	f("X-RateLimit-Limit: 25\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset: 2", limit.Told{Limit: 25, Limited: true, Reset: 2 * time.Second})
	f("X-RateLimit-Remaining: 4", limit.Told{Limited: true, Left: 4})
	f("X-RateLimit-Remaining: -4\nX-RateLimit-Limit: 0\nX-RateLimit-Reset: x", limit.Told{})
	f("", limit.Told{})
}

// flapping has many topics with a record now and then: nearly each is a POST.
func flapping(w *world, p *Pool, topics int) {
	for i := range topics {
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			for n := 0; ; n++ {
				if p.Submit(w.ctx, batchOf(fmt.Sprint("t", i), 200, ids(fmt.Sprintf("%d-%d-", i, n), 1)...)) != nil {
					return
				}
				time.Sleep(2 * time.Second)
			}
		}()
	}
}

// A server that takes fewer POSTs than its profile refuses each that comes above
// that, and counts those: the agent finds the rate there is, and climbs back.
func TestPostsAreCut(t *testing.T) {
	f := func(profile string, low, high int) {
		t.Run(fmt.Sprint(profile, " ", low), func(t *testing.T) {
			inWorld(t, func(w *world) {
				posts := &sliding{most: low, all: true}
				w.post = func(now time.Duration, _ string) (int, string) {
					if posts.take(now) {
						return 0, "Connection: close\r\n"
					}
					return 429, "Retry-After: 0\r\n"
				}
				p, k := w.pool(worldConfig(), mustProfile(t, profile))
				flapping(w, p, 400)
				time.Sleep(time.Minute)
				w.mu.Lock()
				sent, refused := len(w.posts), w.refused
				posts.most = high
				w.mu.Unlock()
				if took := sent - refused; float64(took) < 0.5*float64(low)*60 || float64(refused) > 0.25*float64(took) {
					t.Errorf("%d POSTs taken of %d, %d refused", took, low*60, refused)
				}
				time.Sleep(30 * time.Second)
				w.mu.Lock()
				before := len(w.posts)
				w.mu.Unlock()
				time.Sleep(30 * time.Second)
				w.mu.Lock()
				rate := float64(len(w.posts)-before) / 30
				w.mu.Unlock()
				if rate < 0.85*24 {
					t.Errorf("%.1f POSTs a second once %d are taken again", rate, high)
				}
				if d, _ := k.counts(); d == 0 || len(k.twice) > 0 {
					t.Errorf("%d delivered, twice %v", d, k.twice)
				}
				w.stop(p)
			})
		})
	}
	f("basic", 8, 25)
	f("none", 25, 100)
}

// What the server says of when to ask again is heeded, on a 429 as on a 200.
func TestServersWaits(t *testing.T) {
	f := func(name, headers string, status int, least, most time.Duration) {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				n := 0
				w.post = func(now time.Duration, _ string) (int, string) {
					if n++; n == 1 {
						return status, headers
					}
					return 0, ""
				}
				p, _ := w.pool(worldConfig(), mustProfile(t, "basic"))
				submit(t, p, batchOf("a", 0, "a"))
				time.Sleep(200 * time.Millisecond)
				submit(t, p, batchOf("b", 0, "b"))
				drain(t, p, 10*time.Minute)
				w.mu.Lock()
				gap := w.posts[1] - w.posts[0]
				w.mu.Unlock()
				if gap < least || gap > most {
					t.Errorf("the second POST came %s after the first", gap)
				}
				w.stop(p)
			})
		})
	}
	const s = time.Second
	f("none", "", 429, 40*time.Millisecond, s)
	f("seconds", "Retry-After: 7\r\n", 429, 7*s, 8*s)
	f("date", "Date: Sat, 01 Jan 2000 00:00:00 GMT\r\nRetry-After: Sat, 01 Jan 2000 00:00:30 GMT\r\n", 429, 30*s, 31*s)
	f("absurd", "Retry-After: 999999999\r\n", 429, 300*s, 301*s)
	f("zero", "Retry-After: 0\r\n", 429, 40*time.Millisecond, s)
	f("503", "Retry-After: 9\r\n", 503, 9*s, 10*s)
	f("window over", "X-RateLimit-Limit: 25\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 12\r\n", 429, 12*s, 13*s)
	f("window over on success", "X-RateLimit-Limit: 25\r\nX-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 5\r\n", 0, 5*s-200*time.Millisecond, 6*s)
	f("something left", "X-RateLimit-Limit: 25\r\nX-RateLimit-Remaining: 3\r\nX-RateLimit-Reset: 5\r\n", 0, 0, s)
}

// A server that refuses every POST for ten minutes is asked ever more rarely,
// and when it takes them again all that waited is delivered.
func TestAllPostsRefused(t *testing.T) {
	inWorld(t, func(w *world) {
		closed := true
		w.post = func(time.Duration, string) (int, string) {
			if closed {
				return 429, ""
			}
			return 0, ""
		}
		p, k := w.pool(worldConfig(), limit.Profile{})
		for i := range 10 {
			submit(t, p, batchOf(fmt.Sprint("t", i), 0, "a"))
		}
		time.Sleep(10 * time.Minute)
		w.mu.Lock()
		n := len(w.posts)
		closed = false
		w.mu.Unlock()
		if n > 200 || n < 60 {
			t.Errorf("%d POSTs in ten minutes", n)
		}
		if p.Trouble() == nil {
			t.Error("nothing is said to be wrong")
		}
		drain(t, p, 2*time.Minute)
		if d, _ := k.counts(); d != 10 || p.Trouble() != nil {
			t.Errorf("%d of 10 delivered, trouble %v", d, p.Trouble())
		}
		w.stop(p)
	})
}

// herd is a fleet whose endpoint goes away for ten minutes: its connections in
// any second, and what its backlog drains at.
func TestFleetComesBack(t *testing.T) {
	const agents = 20
	inWorld(t, func(w *world) {
		recs := &bucket{rate: 1000, level: 20}
		w.judge = func(now time.Duration, _ string, _ int) int {
			if recs.take(now, 1) {
				return 200
			}
			return 429
		}
		var pools []*Pool
		for range agents {
			p, _ := w.pool(worldConfig(), mustProfile(t, "basic").Share(agents, 0.01))
			pools = append(pools, p)
			for i := range 4 { // each has streams of several topics
				w.feed(p, fmt.Sprint("t", i), 5, always(200))
			}
		}
		time.Sleep(time.Minute)
		w.down.Store(true)
		w.cut()
		time.Sleep(10 * time.Minute)
		w.down.Store(false)
		up := w.now()
		time.Sleep(2 * time.Minute)
		w.mu.Lock()
		opens := w.opens
		first := time.Duration(0)
		for _, s := range w.stamps {
			if s.at > up {
				first = s.at - up
				break
			}
		}
		w.mu.Unlock()
		if most := inAnySecond(opens); most > 25 {
			t.Errorf("%d connections within one second", most)
		}
		good, all, _ := w.since(up + time.Minute)
		if rate := float64(good) / 60; rate < 0.95*1000*0.99 || all-good > good/100 || first > 35*time.Second {
			t.Errorf("a minute after the endpoint is back %.0f records/s of 1,000, %d refused; the first came after %s", rate, all-good, first)
		}
		w.stop(pools...)
		synctest.Wait()
	})
}
