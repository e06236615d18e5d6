//go:build unix

package main

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// somewhere is a random number of bytes from 1 to most, small ones as often as
// large ones: so heads, chunks and reports are all cut.
func somewhere(rnd *rand.Rand, most int) int64 {
	return int64(math.Exp(rnd.Float64() * math.Log(float64(most))))
}

// Connections are reset or closed at any byte, of what goes to the cluster and
// of what comes back: nothing is lost, and of
// each at most a window is there twice. ORACLE_CUTS says how often.
func TestOracleCuts(t *testing.T) {
	t.Parallel()
	cuts := times(t, "ORACLE_CUTS", 30)
	rnd := seeded(t)
	o := newOracle(t, 300, nil)
	x := newSite(t, o, everyYAML)
	var mu sync.Mutex   // guards rnd and kinds
	var kinds [2][2]int // by how, and direction
	w := newWire(t, o.box.URL(), nil, func([]byte) (tr trouble) {
		mu.Lock()
		defer mu.Unlock()
		tr.how = cutting(rnd.IntN(2))
		dir := rnd.IntN(2)
		kinds[tr.how][dir]++
		tr.after[dir] = somewhere(rnd, []int{150_000, 80_000}[dir])
		return tr
	})
	x.endpoint = w.url()
	x.configure(everyYAML)
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 50, 5*time.Millisecond)
	l.post(t, o, x.listen, 50, 10*time.Millisecond)
	p, at := x.start()
	for limit := time.Now().Add(patience/2 + time.Duration(cuts)*time.Second); w.cuts.Load() < int64(cuts) && time.Now().Before(limit); {
		select {
		case <-p.exited:
			t.Fatalf("it ended:\n%s", p.err.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	w.heal()
	l.end()
	done := int(w.cuts.Load())
	v := o.settle(t, 0, done*window+int(o.again.Load()))
	r := drained(t, p, at)
	mu.Lock()
	t.Logf("%d cuts of %d connections (to be reset, up and down, %v; to be closed %v); %d twice, %d told as possible",
		done, w.opened.Load(), kinds[cutReset], kinds[cutClose], v.dup, r.PossiblyDuplicated)
	mu.Unlock()
	if done < cuts || v.dup > int(r.PossiblyDuplicated)+int(o.again.Load()) || r.Pending != 0 || r.Rejected != 0 {
		t.Errorf("%d cuts, want %d; %d twice, %d told: %+v\n%s", done, cuts, v.dup, r.PossiblyDuplicated, r.Summary, r.err)
	}
}

const oneStreamYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 1, in_flight: 500, report_timeout: 2s}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
routes:
  - {name: files, inputs: [files], topic: t, spill: never, retry: {initial: 50ms, max: 500ms}}
`

// gap returns the longest time in which nothing was stored, from the first
// record on.
func (o *oracle) gap() (longest time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	began, empty := false, 0
	for _, n := range o.slots {
		if n > 0 {
			began, empty = true, 0
			continue
		}
		if empty++; began {
			longest = max(longest, time.Duration(empty)*oracleSlot)
		}
	}
	return longest
}

// The server ends its streams for their age, again and again. There is one
// stream only, so that no other hides the time it takes: what was reported is
// never sent again, and records come again within a second.
func TestOracleServerRotates(t *testing.T) {
	t.Parallel()
	rounds := times(t, "ORACLE_ROTATIONS", 5)
	var all sync.WaitGroup
	defer all.Wait()
	// each is how many may be there twice for a stream that ended; -1: as many
	// as drew 408, which means that they are in Kafka.
	f := func(name string, each int, set func(*sandbox.Config), faults ...string) {
		aside(t, &all, name, func(t *testing.T) {
			o := newOracle(t, 300, set)
			o.faults(t, faults...)
			x := newSite(t, o, oneStreamYAML)
			l := newLoad(t)
			l.appendTo(t, o, x.log("a.log"), 50, 5*time.Millisecond)
			p, at := x.start()
			eventually(t, "the server ended enough streams", func() bool {
				return metric(t, at, `streams_opened_total{cluster="main"}`) > float64(rounds)
			})
			gap := o.gap()
			o.faults(t)
			l.end()
			eventually(t, "all is stored", func() bool { return o.judge().lost == 0 })
			r := drained(t, p, at) // streams grow old until the last record is final: counted after that
			ended, told := int(r.Streams), int(r.ErrorCodes["408"])
			bar := ended * each
			if each < 0 {
				bar = told
			}
			v := o.settle(t, 0, bar)
			t.Logf("%d streams: nothing came for %s at most, %d records drew 408, %d twice", ended, gap, told, v.dup)
			if gap > 3*time.Second { // three times the bar: other tests run beside this one
				t.Errorf("nothing was stored for %s, want 1 s at most", gap)
			}
			if each <= 0 && told == 0 {
				t.Error("no record drew 408")
			}
			if r.Pending != 0 || r.Rejected != 0 || int64(v.dup) > r.PossiblyDuplicated {
				t.Errorf("%d twice: %+v\n%s", v.dup, r.Summary, r.err)
			}
		})
	}
	age := func(c *sandbox.Config) { c.MaxAge, c.MaxAgeGrace = 700*time.Millisecond, 5*time.Second }
	f("408, records in Kafka", -1, age)
	f("408, records dropped", 0, func(c *sandbox.Config) { age(c); c.MaxAgeDrop = true })
	f("cut without a word", window, nil, "cut=700ms")
}
