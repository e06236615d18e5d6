package checkpoint

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
)

func (t *Tracker) String() string {
	frontier, above := t.Snapshot(nil)
	return fmt.Sprint(frontier, above)
}

func TestTracker(t *testing.T) {
	var k *Tracker
	f := func(offset, n int64, want string) {
		t.Helper()
		k.Final(offset, n)
		if got := k.String(); got != want {
			t.Errorf("after %d+%d: %s, want %s", offset, n, got, want)
		}
	}
	k = NewTracker(0, nil)
	f(0, 10, "10 []")
	f(20, 5, "10 [{20 25}]")
	f(30, 5, "10 [{20 25} {30 35}]")
	f(25, 5, "10 [{20 35}]")
	f(15, 5, "10 [{15 35}]")
	f(40, 1, "10 [{15 35} {40 41}]")
	f(37, 1, "10 [{15 35} {37 38} {40 41}]")
	f(10, 5, "35 [{37 38} {40 41}]")
	f(50, 1, "35 [{37 38} {40 41} {50 51}]")
	f(0, 5, "35 [{37 38} {40 41} {50 51}]")  // final already
	f(37, 1, "35 [{37 38} {40 41} {50 51}]") // again
	f(36, 10, "35 [{36 46} {50 51}]")        // over several
	f(30, 70, "100 []")                      // over all of them
	f(100, 0, "100 []")
	f(105, 0, "100 []")

	k = NewTracker(5, []Range{{10, 20}, {30, 40}})
	g := func(offset, end int64, ok bool) {
		t.Helper()
		if e, o := k.Done(offset); e != end || o != ok {
			t.Errorf("Done(%d) = %d, %t, want %d, %t", offset, e, o, end, ok)
		}
	}
	g(0, 5, true)
	g(5, 0, false)
	g(10, 20, true)
	g(19, 20, true)
	g(20, 0, false)
	g(39, 40, true)
	g(40, 0, false)
	if k.Top() != 40 || k.Frontier() != 5 {
		t.Errorf("top %d, frontier %d", k.Top(), k.Frontier())
	}
}

// Records settled in any order, against a map of bytes.
func TestTrackerModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var all []record.Position
		end := int64(0)
		for range 1 + rnd.IntN(60) {
			n := int64(1 + rnd.IntN(9))
			all = append(all, record.Position{Offset: end, Len: int32(n)})
			end += n
		}
		window := 1 + rnd.IntN(len(all)) // how far out of order
		for i := range all {
			j := min(i+rnd.IntN(window), len(all)-1)
			all[i], all[j] = all[j], all[i]
		}
		k, final := NewTracker(0, nil), make([]bool, end+1)
		for len(all) > 0 {
			n := 1 + rnd.IntN(min(len(all), 5))
			k.FinalAll(all[:n])
			for _, p := range all[:n] {
				for b := range int64(p.Len) {
					final[p.Offset+b] = true
				}
			}
			all = all[n:]
			if rnd.IntN(4) == 0 { // a restart
				k = NewTracker(k.Snapshot(nil))
			}
			frontier, above := k.Snapshot(nil)
			for at := int64(0); at < end; at++ {
				_, ok := k.Done(at)
				if ok != final[at] {
					t.Fatalf("Done(%d) = %t, want %t, of %d %v", at, ok, final[at], frontier, above)
				}
			}
			for i, r := range above {
				if r.From >= r.To || r.From <= frontier || i > 0 && above[i-1].To >= r.From {
					t.Fatalf("ranges touch, or are empty: %d %v", frontier, above)
				}
			}
		}
		if k.Frontier() != end {
			t.Fatalf("all final, frontier %d of %d", k.Frontier(), end)
		}
	}
}

func TestTrackerAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	k, at := NewTracker(0, nil), int64(0)
	k.changed = func() {}
	f := func(name string, run func()) {
		t.Helper()
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	f("in order", func() {
		k.Final(at, 10)
		at += 10
	})
	pos := make([]record.Position, 100)
	f("a batch", func() {
		for i := range pos {
			pos[i] = record.Position{Offset: at, Len: 10}
			at += 10
		}
		k.FinalAll(pos)
	})
	f("two batches the wrong way round", func() {
		k.Final(at+10, 10)
		k.Final(at, 10)
		at += 20
	})
	k = NewTracker(0, nil) // one that waits, and all the others behind it
	at = 1
	f("behind one that waits", func() {
		k.Final(at, 10)
		at += 10
	})
}

func BenchmarkTracker(b *testing.B) {
	k, at := NewTracker(0, nil), int64(0)
	b.ReportAllocs()
	for b.Loop() {
		k.Final(at, 100)
		at += 100
	}
}
