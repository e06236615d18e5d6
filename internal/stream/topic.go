package stream

import (
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Bounds of what a topic keeps for sending again. Retry batches are as large
// as fresh ones. The backlog bound is what one stream may have in flight: past
// it nothing fresh is sent, so a cluster that refuses half of all records
// cannot make the agent hold ever more of them.
const (
	retryBatchBytes = 64 << 10
	queueBatches    = 4 // fresh batches waiting for a stream
)

// topic is everything waiting to be sent to one topic: fresh batches, segments
// to be sent again at once, and records waiting for their back-off.
//
// mu guards the fields below it. Lock order: Pool.mu before topic.mu.
type topic struct {
	p           *Pool
	name        string
	fresh       chan *record.Batch
	wake        chan struct{} // a token a writer: take may have something, or the gate opened
	failed      chan struct{} // closed once err is set
	outstanding atomic.Int64  // records submitted and not final
	used        atomic.Int64  // when a batch last came, as pool time
	gated       atomic.Bool   // nothing fresh for now
	raw         atomic.Bool   // batches whose every report is wanted have been submitted
	proven      atomic.Bool   // reports come, and not that it takes no records
	alone       atomic.Int64  // so many records go in a request each: one of them may be what a request was refused for
	troubled    atomic.Bool   // back-off or hold is on: a delivered report ends it

	queued bool // in starved or parked; guarded by Pool.mu

	mu       sync.Mutex
	streams  int // serve goroutines
	again    []segment
	waiting  map[int]*retrySet // by back-off level
	backlog  int               // bytes in again, waiting and held, and of what order keeps
	order    order
	level    int // back-off level of throttled records
	hold     *hold
	err      error
	redirect *url.URL // where the last redirect led
	hops     int

	fails     int       // streams in a row that brought no report while other topics had theirs
	notBefore time.Time // of the next stream, therefore
}

// shun counts a stream of t that brought no report while other topics had
// theirs: the endpoint is well, so nobody else has to wait.
func (t *topic) shun() (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait = t.p.backoff(t.fails)
	t.fails++
	t.notBefore = time.Now().Add(wait)
	return wait
}

// shunned is how long no stream is to be opened for t.
func (t *topic) shunned() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Until(t.notBefore)
}

// retrySet is the records that become due together.
type retrySet struct {
	batches []*record.Batch
	timer   *time.Timer
}

// hold is a topic that takes no record: one record probes it at growing
// intervals while the rest waits.
type hold struct {
	probes  int
	missing bool // the topic, and not the permission to write to it
	news    bool // a probe is under way, or the hold has just begun
	held    []segment
	probe   *segment // ready to be sent
	timer   *time.Timer
	why     error // what the last probe brought
	since   time.Time
}

func newTopic(p *Pool, name string) *topic {
	return &topic{
		p: p, name: name,
		fresh:   make(chan *record.Batch, queueBatches),
		wake:    make(chan struct{}, maxStreams),
		failed:  make(chan struct{}),
		waiting: map[int]*retrySet{},
	}
}

// signal wakes one writer.
func (t *topic) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// whole makes a fresh batch a segment.
func (t *topic) whole(b *record.Batch) segment { return segment{b: b, to: b.Len()} }

// take returns what is to be sent before anything fresh.
func (t *topic) take() (segment, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.hold; h != nil {
		if h.probe == nil {
			return segment{}, false
		}
		g := *h.probe
		h.probe, h.news = nil, true
		t.backlog -= g.size()
		return g, true
	}
	if len(t.again) == 0 {
		return segment{}, false
	}
	g := t.again[0]
	t.again[0] = segment{}
	t.again = t.again[1:]
	t.backlog -= g.size()
	t.regate()
	if len(t.again) > 0 {
		t.signal()
	}
	return g, true
}

// regate recomputes whether fresh batches may go. Called with mu held.
func (t *topic) regate() {
	gated := t.hold != nil || t.backlog > t.p.cfg.InFlightBytes
	if t.gated.Swap(gated) && !gated {
		for range t.streams { // each of them waits without looking at fresh
			t.signal()
		}
	}
}

// putBack returns segments that were not delivered, in wire order, to be sent
// first.
func (t *topic) putBack(segments ...segment) {
	if len(segments) == 0 {
		return
	}
	t.mu.Lock()
	for _, g := range segments {
		t.backlog += g.size()
	}
	if h := t.hold; h != nil {
		h.held = append(h.held, segments...)
		t.probeOn() // the probe's stream broke
	} else {
		t.again = slices.Insert(t.again, 0, segments...) // a copy: callers use their slice again
	}
	t.regate()
	t.mu.Unlock()
	t.signal()
	t.p.ensureStream(t)
}

// retry keeps record i of g's batch for another sending after a back-off of
// that level.
func (t *topic) retry(g segment, i int, try record.Try, level int) {
	b := g.b
	level = min(level, 16)
	size := len(b.Bytes(i, i+1))
	t.troubled.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	set := t.waiting[level]
	if set == nil {
		set = &retrySet{}
		t.waiting[level] = set
		if !t.p.closing.Load() { // Stop has ended the timers there were
			set.timer = time.AfterFunc(t.p.backoff(level), func() { t.due(level, set) })
		}
	}
	last := len(set.batches) - 1
	if last < 0 || set.batches[last].Size()+size > retryBatchBytes || !set.batches[last].Akin(b) {
		set.batches = append(set.batches, b.Fresh())
		last++
	}
	set.batches[last].Again(b, i, try)
	t.backlog += size
	t.regate()
}

// due moves a set whose back-off is over to where take finds it.
func (t *topic) due(level int, set *retrySet) {
	t.mu.Lock()
	if t.waiting[level] == set {
		delete(t.waiting, level)
	}
	segments := make([]segment, 0, len(set.batches))
	for _, b := range set.batches {
		b.Seal()
		segments = append(segments, segment{b: b, to: b.Len(), again: true})
	}
	if t.hold != nil {
		t.hold.held = append(t.hold.held, segments...)
		t.probeOn() // the probe is among them, or no other may come
	} else {
		t.again = append(t.again, segments...)
	}
	t.mu.Unlock()
	t.signal()
	t.p.ensureStream(t)
}

// block keeps record i of from's batch because the topic takes none, and
// starts or goes on with the hold.
func (t *topic) block(from segment, i int, try record.Try, v Verdict, code int, message string) {
	one := from.b.Fresh()
	one.Again(from.b, i, try)
	one.Seal()
	t.troubled.Store(true)
	t.mu.Lock()
	t.startHold()
	g := segment{b: one, to: 1, again: true}
	t.backlog += g.size()
	t.hold.held = append([]segment{g}, t.hold.held...)
	t.mu.Unlock()
	t.holdOn(v, code, message)
}

// startHold keeps everything back. Called with mu held.
func (t *topic) startHold() {
	if t.hold == nil {
		t.hold = &hold{held: t.again, news: true, since: time.Now()}
		t.again = nil
	}
	t.regate()
}

// holdOn holds the topic, or notes that a probe of it came back alike, and
// arms the next probe.
func (t *topic) holdOn(v Verdict, code int, message string) {
	t.troubled.Store(true)
	t.mu.Lock()
	t.startHold()
	h := t.hold
	if !h.news {
		t.mu.Unlock() // several records of one window come back alike
		return
	}
	h.news, h.missing = false, !v.Denied
	h.probes++
	probes := h.probes
	if h.timer == nil && h.probe == nil { // else what came back with the probe's stream has armed it
		t.nextProbe(t.p.backoff(probes - 1))
	}
	t.mu.Unlock()
	t.p.topicHeld(t, v, code, message, probes)
}

// probeOn arms the next probe when none is under way. Called with mu held.
func (t *topic) probeOn() {
	if h := t.hold; h != nil && h.probe == nil && h.timer == nil {
		t.nextProbe(t.p.backoff(h.probes))
	}
}

// rejected goes on with a hold whose probe was rejected for its own sake.
func (t *topic) rejected() {
	if !t.gated.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.probeOn()
}

// nextProbe lets one held record go after d. Called with mu held.
func (t *topic) nextProbe(d time.Duration) {
	h := t.hold
	if t.err != nil || t.p.closing.Load() {
		return
	}
	h.timer = time.AfterFunc(d, func() {
		t.mu.Lock()
		h.timer = nil
		if t.hold != h || h.probe != nil {
			t.mu.Unlock()
			return
		}
		if len(h.held) == 0 {
			// All that was held was rejected, or is on its way: the next record
			// that is submitted finds out.
			t.hold = nil
			t.regate()
			t.mu.Unlock()
			t.signal()
			t.p.ensureStream(t)
			return
		}
		if h.missing && h.probes%blindProbe != 0 {
			t.mu.Unlock()
			t.p.askFirst(t, h)
			return
		}
		t.sendProbe(h)
		t.mu.Unlock()
		t.signal()
		t.p.ensureStream(t)
	})
}

// sendProbe lets the first held record go. Called with mu held, with one held.
func (t *topic) sendProbe(h *hold) {
	g := h.held[0]
	probe := g
	probe.to = g.from + 1
	if g.from++; g.from == g.to {
		h.held = h.held[1:]
	} else {
		h.held[0] = g
	}
	h.probe = &probe
}

// recovered ends hold and back-off after a delivered report.
func (t *topic) recovered() {
	t.mu.Lock()
	if t.err != nil {
		t.mu.Unlock()
		return
	}
	t.troubled.Store(len(t.waiting) > 0)
	t.level = 0
	h := t.hold
	if h != nil {
		t.hold = nil
		if h.timer != nil {
			h.timer.Stop()
		}
		if h.probe != nil {
			t.again = append(t.again, *h.probe)
		}
		t.again = append(t.again, h.held...)
	}
	t.regate()
	t.mu.Unlock()
	if h != nil {
		t.p.log.Info("topic takes records again", "topic", t.name)
		t.signal()
		t.p.ensureStream(t)
	}
}

// throttleLevel returns the back-off level for records the cluster refused for
// its rate; it rises while nothing at all is delivered.
func (t *topic) throttleLevel() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.level++
	}
	return max(0, t.level-1)
}

// fail gives the topic up: what is left of it stays pending.
func (t *topic) fail(err error) {
	t.mu.Lock()
	if t.err != nil {
		t.mu.Unlock()
		return
	}
	t.err = err
	close(t.failed)
	t.stopTimers()
	t.mu.Unlock()
	t.p.checkIdle()
	t.p.breaks()
}

// stopTimers ends every wait. Called with mu held.
func (t *topic) stopTimers() {
	for _, set := range t.waiting {
		if set.timer != nil {
			set.timer.Stop()
		}
	}
	if t.hold != nil && t.hold.timer != nil {
		t.hold.timer.Stop()
	}
}

// hasWork says whether a stream would find something to send now. Called with
// mu held.
func (t *topic) hasWork() bool {
	if t.err != nil {
		return false
	}
	if t.hold != nil {
		return t.hold.probe != nil
	}
	return len(t.again) > 0 || len(t.fresh) > 0
}

// held says whether the topic takes no record at present.
func (t *topic) held() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hold != nil
}

// probing says whether a record that probes the topic is ready to be sent.
func (t *topic) probing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hold != nil && t.hold.probe != nil
}

// leftover takes out all that was never settled, each key's records in their
// order. Called with mu held.
func (t *topic) leftover() []segment {
	all := t.again
	for _, set := range t.waiting {
		for _, b := range set.batches {
			all = append(all, segment{b: b, to: b.Len()})
		}
	}
	if h := t.hold; h != nil {
		all = append(all, h.held...)
		if h.probe != nil {
			all = append(all, *h.probe)
		}
	}
	all = append(all, t.deferred()...)
	for len(t.fresh) > 0 {
		b := <-t.fresh
		all = append(all, segment{b: b, to: b.Len()})
	}
	t.again, t.waiting, t.hold = nil, map[int]*retrySet{}, nil
	return all
}

// sentAll says whether nothing waits to be sent at once.
func (t *topic) sentAll() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.hasWork()
}

// settled says that n records are final.
func (t *topic) settled(n int) {
	if left := t.outstanding.Add(-int64(n)); left == 0 {
		t.p.checkIdle()
	} else if left < 0 {
		panic("BUG: topic settled more records than were submitted")
	}
}

// TopicError says that a topic cannot be written to.
type TopicError struct {
	Topic  string
	Denied bool // credentials or permissions
	Text   string
}

func (e *TopicError) Error() string { return fmt.Sprintf("topic %q: %s", e.Topic, e.Text) }
