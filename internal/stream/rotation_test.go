package stream

import (
	"fmt"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// steady submits a record so often, for so long.
func (w *world) steady(p *Pool, topic string, every, long time.Duration) {
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		for i := range int(long / every) {
			if p.Submit(w.ctx, batchOf(topic, 0, fmt.Sprintf("%p-%d", p, i))) != nil {
				return
			}
			time.Sleep(every)
		}
	}()
}

// grown submits so much at once that a pool opens all its streams.
func grown(t *testing.T, p *Pool, topic string) {
	t.Helper()
	for i := range 60 {
		submit(t, p, batchOf(topic, 20_000, ids(fmt.Sprintf("%p-first%d-", p, i), 10)...))
	}
}

// quietest is the longest time without a record that was stored.
func (w *world) quietest(from time.Duration) (gap time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := from
	for _, s := range w.stamps {
		if s.good && s.at > from {
			gap, last = max(gap, s.at-last), s.at
		}
	}
	return gap
}

// A day of rotations: nothing is sent twice, no record waits for one, and each
// new stream is inside the budget of POSTs.
func TestDayOfRotations(t *testing.T) {
	if raceEnabled {
		t.Skip("a day takes long with the race detector")
	}
	inWorld(t, func(w *world) {
		posts := &sliding{most: 25, all: true}
		w.post = func(now time.Duration, _ string) (int, string) {
			if posts.take(now) {
				return 0, ""
			}
			return 429, ""
		}
		cfg := worldConfig()
		cfg.Streams = 1
		p, _ := w.pool(cfg, mustProfile(t, "basic"))
		const day = 24 * time.Hour
		grown(t, p, "t")
		w.steady(p, "t", 500*time.Millisecond, day)
		time.Sleep(day + time.Second)
		s := p.Stats()
		if gap := w.quietest(time.Minute); gap > time.Second {
			t.Errorf("for %s no record was stored", gap)
		}
		w.mu.Lock()
		refused, rotations, most := w.refused, len(w.posts), w.most
		w.mu.Unlock()
		if twice := w.twice(); len(twice) > 0 || s.Unknown > 0 || s.Resent > 0 {
			t.Errorf("%d records stored twice, %d unknown, %d sent again", len(twice), s.Unknown, s.Resent)
		}
		if refused > 0 || rotations < 240 || rotations > 2*288 || most > 2 {
			t.Errorf("%d POSTs in a day, %d refused, %d streams at once", rotations, refused, most)
		}
		w.stop(p)
	})
}

// Streams that were opened together are not replaced together, of one pool or
// of twenty.
func TestRotationsSpread(t *testing.T) {
	f := func(pools int, most int) {
		t.Run(fmt.Sprint(pools), func(t *testing.T) {
			inWorld(t, func(w *world) {
				var all []*Pool
				for range pools {
					p, _ := w.pool(worldConfig(), mustProfile(t, "basic"))
					all = append(all, p)
					grown(t, p, "t")
					w.steady(p, "t", 100*time.Millisecond, 6*time.Minute)
				}
				time.Sleep(20 * time.Minute)
				w.mu.Lock()
				var later []time.Duration
				for _, at := range w.posts {
					if at > 2*time.Minute {
						later = append(later, at)
					}
				}
				w.mu.Unlock()
				if n := inAnySecond(later); n > most || len(later) < 2*pools {
					t.Errorf("%d of %d streams opened within one second", n, len(later))
				}
				if twice := w.twice(); len(twice) > 0 {
					t.Errorf("%d records stored twice", len(twice))
				}
				w.stop(all...)
			})
		})
	}
	f(1, 3)
	f(20, 10)
}

// A replacement that is refused leaves the old stream at work, and is tried
// again later.
func TestRefusedReplacement(t *testing.T) {
	f := func(name string, refuse func() (int, string)) {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				n := 0
				w.post = func(time.Duration, string) (int, string) {
					if n++; n > 1 && n < 6 {
						return refuse()
					}
					return 0, ""
				}
				cfg := worldConfig()
				cfg.Streams = 1
				p, _ := w.pool(cfg, mustProfile(t, "basic"))
				w.steady(p, "t", 100*time.Millisecond, 15*time.Minute)
				time.Sleep(15*time.Minute + time.Second)
				if gap := w.quietest(time.Second); gap > 400*time.Millisecond {
					t.Errorf("for %s no record was stored", gap)
				}
				w.mu.Lock()
				posts := len(w.posts)
				w.mu.Unlock()
				if posts < 7 || len(w.twice()) > 0 {
					t.Errorf("%d POSTs, twice %v", posts, w.twice())
				}
				w.stop(p)
			})
		})
	}
	f("429", func() (int, string) { return 429, "" })
	f("429 and wait", func() (int, string) { return 429, "Retry-After: 20\r\n" })
}

// A server that cuts streams at an age of ten minutes, with its 408s and their
// half second of grace, is never seen by streams that rotate before; one that
// cuts them sooner costs no more than those records again.
func TestAgeCut(t *testing.T) {
	f := func(age time.Duration, most int64) {
		t.Run(age.String(), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.age = age
				p, k := w.pool(worldConfig(), limit.Profile{})
				w.steady(p, "t", 100*time.Millisecond, time.Hour)
				time.Sleep(time.Hour + time.Second)
				drain(t, p, time.Minute)
				s := p.Stats()
				if d, r := k.counts(); d != 36_000 || r != 0 || len(k.twice) > 0 || s.Resent > most || most > 0 && s.Closed[end408] == 0 {
					t.Errorf("%d delivered, %d rejected, %d sent again, streams closed: %v", d, r, s.Resent, s.Closed)
				}
				w.stop(p)
			})
		})
	}
	f(10*time.Minute, 0)
	f(time.Minute, 60*10)
}

// While the endpoint is away it is asked after a wait that doubles up to half a
// minute, by one connection at a time.
func TestBackOffSchedule(t *testing.T) {
	inWorld(t, func(w *world) {
		p, k := w.pool(worldConfig(), limit.Profile{})
		submit(t, p, batchOf("a", 0, "a"))
		time.Sleep(time.Second)
		w.down.Store(true)
		w.cut()
		for i := range 8 {
			submit(t, p, batchOf(fmt.Sprint("t", i), 0, "b"))
		}
		time.Sleep(time.Hour)
		w.mu.Lock()
		opens := w.opens
		w.mu.Unlock()
		if n := len(opens); n < 3600/32 || n > 3600/14+20 {
			t.Errorf("%d connections in an hour", n)
		}
		for i := len(opens) / 2; i < len(opens); i++ {
			if d := opens[i] - opens[i-1]; d < 14*time.Second || d > 46*time.Second {
				t.Errorf("a wait of %s", d)
			}
		}
		w.down.Store(false)
		drain(t, p, time.Minute)
		if d, _ := k.counts(); d != 9 {
			t.Errorf("%d of 9 delivered", d)
		}
		w.stop(p)
	})
}
