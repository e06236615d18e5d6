//go:build unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// Four topics with a stream each, and files of their own.
const topicsYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 4, in_flight: 500, report_timeout: 1s, dial_timeout: 1s}}
inputs:
  i0: {type: file, include: ["LOGS/t-0.log"], poll: 50ms}
  i1: {type: file, include: ["LOGS/t-1.log"], poll: 50ms}
  i2: {type: file, include: ["LOGS/t-2.log"], poll: 50ms}
  i3: {type: file, include: ["LOGS/t-3.log"], poll: 50ms}
routes:
  - {name: r0, inputs: [i0], topic: t-0, spill: never, retry: {max: 500ms}}
  - {name: r1, inputs: [i1], topic: t-1, spill: never, retry: {max: 500ms}}
  - {name: r2, inputs: [i2], topic: t-2, spill: never, retry: {max: 500ms}}
  - {name: r3, inputs: [i3], topic: t-3, spill: never, retry: {max: 500ms}}
`

// fourTopics are t-0 to t-3, of one partition each.
func fourTopics(c *sandbox.Config) {
	c.Topics = nil
	for i := range 4 {
		c.Topics = append(c.Topics, sandbox.Topic{Name: fmt.Sprintf("t-%d", i), Partitions: 1})
	}
}

// reportTimeout is that of topicsYAML.
const reportTimeout = time.Second

// One topic's streams fall silent: not a byte goes either way and nobody is
// told. A new one is opened soon, the other topics go on, also those whose own
// streams end meanwhile, and when the hole is gone all is delivered.
func TestOracleBlackHole(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	// f makes a hole behind so many bytes of each of t-3's connections.
	f := func(name string, after [2]int64) {
		aside(t, &all, name, func(t *testing.T) {
			o := newOracle(t, 300, fourTopics)
			x := newSite(t, o, topicsYAML)
			var hole atomic.Bool
			var mu sync.Mutex
			var fell []time.Time // when the connections of t-3 that fell silent were made
			w := newWire(t, o.box.URL(), nil, func(first []byte) (tr trouble) {
				if !bytes.Contains(first, []byte("/topics/t-3/")) || !hole.Load() {
					return tr
				}
				mu.Lock()
				defer mu.Unlock()
				fell = append(fell, time.Now())
				return trouble{how: cutHole, after: after}
			})
			x.endpoint = w.url()
			x.configure(topicsYAML)
			l := newLoad(t)
			for i := range 4 {
				l.appendTo(t, o, x.log(fmt.Sprintf("t-%d.log", i)), 10, 10*time.Millisecond)
			}
			p, at := x.start()
			eventually(t, "all topics have records", func() bool {
				return o.at("t-0") > 0 && o.at("t-1") > 0 && o.at("t-2") > 0 && o.at("t-3") > 0
			})
			hole.Store(true)
			w.cutAll() // t-3's next connection falls into the hole, the others' come back
			time.Sleep(500 * time.Millisecond)
			before := made(o, 3)
			had := o.at("t-0") + o.at("t-1") + o.at("t-2")
			time.Sleep(time.Second)
			w.cutTopics("t-0", "t-1", "t-2") // they need new streams while t-3 has none
			time.Sleep(3 * time.Second)
			written, got := made(o, 3)-before, o.at("t-0")+o.at("t-1")+o.at("t-2")-had
			mu.Lock()
			waits := make([]time.Duration, 0, len(fell))
			for i := range max(0, len(fell)-1) {
				waits = append(waits, fell[i+1].Sub(fell[i]))
			}
			mu.Unlock()
			if len(waits) < 2 {
				t.Errorf("only %d streams were opened to t-3 in the hole\n%s", len(waits)+1, p.err.String())
			} else if longest := slices.Max(waits); longest > 3*(reportTimeout+time.Second) { // three times the bar
				t.Errorf("a new stream after %s, want %s", longest, reportTimeout+time.Second)
			}
			t.Logf("new streams to t-3 after %v; the others had %d of %d", waits, got, written)
			if got < written*95/100 {
				t.Errorf("the other topics had %d of %d records", got, written)
			}
			hole.Store(false)
			w.heal()
			eventually(t, "t-3 has records again", func() bool { return o.at("t-3") > 0 })
			l.end()
			v := o.settle(t, 0, int(w.opened.Load())*window)
			eventually(t, "all is final", func() bool { return metric(t, at, `records_in_flight{cluster="main"}`) == 0 })
			r := p.terminate()
			if int64(v.dup) > r.PossiblyDuplicated || r.Pending != 0 || r.Rejected != 0 {
				t.Errorf("%d twice: %+v\n%s", v.dup, r.Summary, r.err)
			}
		})
	}
	f("from the first byte", [2]int64{1, 0})
	f("in the head of the answer", [2]int64{0, 40})
	f("among the reports", [2]int64{0, 20_000})
	f("among the records", [2]int64{20_000, 0})
}

// made is how many records were written for the first n sources.
func made(o *oracle, n int) (all int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.sources[:n] {
		all += s.made
	}
	return all
}

// The TLS handshake falls silent, and later does not: the agent gives up in
// dial_timeout, tries again, and delivers all.
func TestOracleSilentHandshake(t *testing.T) {
	t.Parallel()
	o := newOracle(t, 300, func(c *sandbox.Config) { c.TLS = true })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, o.box.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	holes := []trouble{
		{how: cutHole, after: [2]int64{1, 0}},   // in the client's hello
		{how: cutHole, after: [2]int64{0, 100}}, // in the server's
		{how: cutReset, after: [2]int64{0, 100}},
	}
	w := newWire(t, o.box.URL(), nil, func([]byte) trouble {
		if i := n.Add(1) - 1; i < int64(len(holes)) {
			return holes[i]
		}
		return trouble{}
	})
	yaml := `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", cluster_id: "` + o.box.ClusterID() + `", streams: {max: 1, in_flight: 500, dial_timeout: 1s}, tls: {ca_file: "` + ca + `"}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
routes:
  - {name: files, inputs: [files], topic: t, spill: never, retry: {initial: 50ms, max: 500ms}}
`
	x := newSite(t, o, yaml)
	x.endpoint = "https://" + w.l.Addr().String()
	x.configure(yaml)
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 10, 10*time.Millisecond)
	p, at := x.start()
	began := time.Now()
	eventually(t, "records come through", func() bool { return o.judge().stored > 0 })
	took := time.Since(began)
	t.Logf("records came after %s, over connection %d", took.Round(time.Millisecond), n.Load())
	if int(n.Load()) <= len(holes) {
		t.Errorf("%d connections", n.Load())
	}
	if took > 3*5*time.Second { // two handshakes of a second, three back-offs
		t.Errorf("records came after %s", took)
	}
	l.end()
	o.settle(t, 0, 0)
	if r := drained(t, p, at); r.Pending != 0 || r.Rejected != 0 || r.PossiblyDuplicated != 0 {
		t.Errorf("%+v\n%s", r.Summary, r.err)
	}
}
