package stream

import (
	"math/rand/v2"
	"testing"
	"time"
)

// With an honest server of the profile's limits all of them are used, and
// nothing is sent in vain.
func TestHonestServer(t *testing.T) {
	f := func(name string, takes func() func(time.Duration) bool) {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				take := takes()
				posts := &sliding{most: 25, all: true}
				w.judge = func(now time.Duration, _ string, _ int) int {
					if take(now) {
						return 200
					}
					return 429
				}
				w.post = func(now time.Duration, _ string) (int, string) {
					if posts.take(now) {
						return 0, ""
					}
					return 429, ""
				}
				p, _ := w.pool(worldConfig(), mustProfile(t, "basic"))
				w.feed(p, "t", 10, always(200))
				time.Sleep(time.Minute)
				good, all, _ := w.since(0)
				var at []time.Duration
				w.mu.Lock()
				for _, s := range w.stamps {
					at = append(at, s.at)
				}
				refused := w.refused
				w.mu.Unlock()
				if most := inAnySecond(at); good < 59_400 || all-good > good/1000 || most > 1020 || refused > 0 {
					t.Errorf("%d of 60,000 stored, %d records and %d POSTs refused, up to %d records in a second", good, all-good, refused, most)
				}
				w.stop(p)
			})
		})
	}
	f("bucket", func() func(time.Duration) bool {
		b := &bucket{rate: 1000, level: 20}
		return func(now time.Duration) bool { return b.take(now, 1) }
	})
	f("sliding window of the bar", func() func(time.Duration) bool { return (&sliding{most: 1020}).take })
}

// phase is a time during which the cluster takes so much a second, 0 is no
// bound, and refuses a share of records whatever their rate.
type phase struct {
	seconds        int
	records, bytes float64
	random         float64
}

// used is what was sent and stored within one phase but for the seconds that
// are left out at its begin.
type used struct{ good, bytes, sends float64 }

// search plays phases against one pool with that profile and returns a second's
// use of each.
func search(t *testing.T, profile string, skip int, size func(int) int, perSecond int, phases ...phase) (out []used) {
	t.Helper()
	inWorld(t, func(w *world) {
		recs, bytes, random := &bucket{}, &bucket{}, 0.0
		draw := rand.New(rand.NewPCG(1, 2))
		w.judge = func(now time.Duration, _ string, n int) int {
			switch {
			case random > 0 && draw.Float64() < random,
				recs.rate > 0 && !recs.take(now, 1),
				bytes.rate > 0 && !bytes.take(now, float64(n)):
				return 429
			}
			return 200
		}
		p, _ := w.pool(worldConfig(), mustProfile(t, profile))
		if perSecond == 0 {
			w.feed(p, "t", 10, size)
		} else {
			w.trickle(p, "t", perSecond, size)
		}
		for _, f := range phases {
			w.mu.Lock()
			recs.rate, bytes.rate, random = f.records, f.bytes, f.random
			w.mu.Unlock()
			begin := w.now()
			time.Sleep(time.Duration(f.seconds) * time.Second)
			good, _, size := w.since(begin + time.Duration(skip)*time.Second)
			whole, sends, _ := w.since(begin)
			n := float64(f.seconds - skip)
			out = append(out, used{float64(good) / n, float64(size) / n, float64(sends) / float64(whole)})
			w.mu.Lock()
			w.stamps = nil
			w.mu.Unlock()
		}
		w.stop(p)
	})
	return out
}

// A cluster that takes a third of its profile, of records or of bytes, is used
// to nine tenths of that from the tenth second on, and hardly anything is sent
// to it in vain; when it takes all again, all is used.
func TestThirdOfProfile(t *testing.T) {
	f := func(name string, size func(int) int, third, whole phase, want, wantWhole used) {
		t.Run(name, func(t *testing.T) {
			got := search(t, "basic", 10, size, 0, third, whole, phase{seconds: 20, records: whole.records, bytes: whole.bytes})
			if u := got[0]; u.good < 0.9*want.good || u.bytes < 0.9*want.bytes || u.sends > 1.2 {
				t.Errorf("at a third: %.0f records/s, %.0f bytes/s, %.3f sends a record; want 0.9 of %+v", u.good, u.bytes, u.sends, want)
			}
			if u := got[2]; u.good < 0.9*wantWhole.good || u.bytes < 0.9*wantWhole.bytes || got[1].sends > 1.2 || u.sends > 1.2 {
				t.Errorf("a minute after all is back: %.0f records/s, %.0f bytes/s, %.3f and %.3f sends a record; want 0.9 of %+v", u.good, u.bytes, got[1].sends, u.sends, wantWhole)
			}
		})
	}
	draw := rand.New(rand.NewPCG(3, 4))
	mixed := func(int) int { return 100 << draw.IntN(10) } // 100 B to 51 KB, 10 KB on average
	f("records", always(200), phase{seconds: 60, records: 333}, phase{seconds: 60, records: 1000}, used{good: 333}, used{good: 1000})
	f("bytes, all alike", always(20_000), phase{seconds: 60, bytes: 3.3e6}, phase{seconds: 60, bytes: 10e6}, used{bytes: 3.3e6}, used{bytes: 10e6})
	f("bytes, mixed", func(i int) int { return 2 * mixed(i) }, phase{seconds: 60, bytes: 3.3e6}, phase{seconds: 60, bytes: 10e6}, used{bytes: 3.3e6}, used{bytes: 9e6})
	f("both", mixed, phase{seconds: 60, records: 333, bytes: 3.3e6}, phase{seconds: 60, records: 1000, bytes: 10e6}, used{good: 200}, used{good: 700})
}

// Others who use the cluster, too, come and go.
func TestSharedCluster(t *testing.T) {
	got := search(t, "basic", 5, always(200), 0, phase{seconds: 20, records: 1000}, phase{seconds: 20, records: 400}, phase{seconds: 30, records: 900},
		phase{seconds: 20, records: 200}, phase{seconds: 20, records: 600}, phase{seconds: 30, records: 1000})
	for i, want := range []float64{1000, 400, 900, 200, 600, 1000} {
		if u := got[i]; u.good < 0.85*want || u.sends > 1.2 {
			t.Errorf("phase %d: %.0f of %.0f records/s, %.3f sends a record", i, u.good, want, u.sends)
		}
	}
}

// 429s that have nothing to do with the rate stall nothing: half of what is sent
// is refused, and goes again.
func TestDeafCluster(t *testing.T) {
	got := search(t, "basic", 10, always(200), 0, phase{seconds: 60, random: 0.5}, phase{seconds: 30, records: 1000})
	if u := got[0]; u.good < 250 {
		t.Errorf("%.0f records/s get through where half of all are refused", u.good)
	}
	if u := got[1]; u.good < 900 {
		t.Errorf("from ten seconds after it is over on: %.0f records/s of 1,000", u.good)
	}
}

// Without a profile the rate is found all the same, from a source that has three
// times as much.
func TestNoProfile(t *testing.T) {
	f := func(size int, now, then phase, want, wantThen used) {
		t.Helper()
		got := search(t, "none", 10, always(size), 1500, now, then)
		if u := got[0]; u.good < 0.9*want.good || u.bytes < 0.9*want.bytes || u.sends > 1.2 {
			t.Errorf("%+v: %.0f records/s, %.0f bytes/s, %.3f sends a record", now, u.good, u.bytes, u.sends)
		}
		if u := got[1]; u.good < 0.9*wantThen.good || u.bytes < 0.9*wantThen.bytes || u.sends > 1.2 {
			t.Errorf("%+v: %.0f records/s, %.0f bytes/s, %.3f sends a record", then, u.good, u.bytes, u.sends)
		}
	}
	f(200, phase{seconds: 60, records: 500}, phase{seconds: 60, records: 1200}, used{good: 500}, used{good: 1200})
	f(2000, phase{seconds: 60, bytes: 1e6}, phase{seconds: 60, bytes: 2e6}, used{bytes: 1e6}, used{bytes: 2e6})
}

// One large record is let through at once and those behind it pay: that must
// not bring the rate down for long.
func TestOneBigCost(t *testing.T) {
	size := func(i int) int { // every hundredth batch: ten records of 800 KB
		if i%100 == 99 {
			return 800_000
		}
		return 500
	}
	got := search(t, "basic", 10, size, 0, phase{seconds: 120, bytes: 3.3e6}, phase{seconds: 60, bytes: 10e6})
	// A thousand records of 500 bytes and one lot of 8 MB take 3.4 s at those
	// rates, one after the other, and 1.8 s at the profile's.
	if u := got[0]; u.bytes < 0.5*8.5e6/3.4 || u.sends > 1.2 {
		t.Errorf("%.0f bytes/s of 3.3 MB/s, %.3f sends a record", u.bytes, u.sends)
	}
	if u := got[1]; u.bytes < 0.8*8.5e6/1.8 || u.sends > 1.2 {
		t.Errorf("%.0f bytes/s of 10 MB/s, %.3f sends a record", u.bytes, u.sends)
	}
}
