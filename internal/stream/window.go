package stream

import (
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// segment is a run of records of one batch: what goes over a stream as a whole
// and what is put back when it did not get there.
type segment struct {
	b        *record.Batch
	from, to int
	sent     time.Time // when it entered the window
	again    bool      // its records were sent before
}

func (g segment) records() int { return g.to - g.from }

// resent is how many of g's records were sent before.
func (g segment) resent() int {
	if g.again {
		return g.records()
	}
	return 0
}

func (g segment) size() int {
	if g.from == g.to {
		return 0
	}
	return len(g.b.Bytes(g.from, g.to))
}

// window is what a stream has sent and not yet had a report for, in wire
// order: the k-th report belongs to its k-th record.
//
// Concurrency: the writer pushes and waits for space, the reader pops and
// releases. mu guards all fields and is a leaf: no other lock is taken under it.
type window struct {
	mu      sync.Mutex
	queue   []segment
	head    int // queue[head:] is waiting for reports
	records int // sent and unreported, the popped segment's among them
	bytes   int
	oldest  time.Time // when the segment under report was sent
	closed  bool

	space chan struct{} // one token: something was released
}

func newWindow() *window { return &window{space: make(chan struct{}, 1)} }

// push appends g before its bytes are written, for a report may be quick. It
// returns false when the stream's answer has ended: g is still the caller's.
func (w *window) push(g segment) bool {
	size := g.size()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	if w.head > 32 && w.head > len(w.queue)/2 { // never empty: move what is left down
		n := copy(w.queue, w.queue[w.head:])
		clear(w.queue[n:])
		w.queue, w.head = w.queue[:n], 0
	}
	if w.records == 0 {
		w.oldest = g.sent
	}
	w.queue = append(w.queue, g)
	w.records += g.records()
	w.bytes += size
	return true
}

// pop takes the oldest segment out; its records stay counted until release.
func (w *window) pop() (segment, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head == len(w.queue) {
		return segment{}, false
	}
	g := w.queue[w.head]
	w.queue[w.head] = segment{}
	w.head++
	if w.head == len(w.queue) {
		w.queue, w.head = w.queue[:0], 0
	}
	w.oldest = g.sent
	return g, true
}

// route is the route of the records whose reports come next, 0 without any.
func (w *window) route() int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head == len(w.queue) {
		return 0
	}
	return w.queue[w.head].b.Route
}

// release says that so many records and bytes have their reports.
func (w *window) release(records, bytes int) {
	w.mu.Lock()
	w.records -= records
	w.bytes -= bytes
	w.mu.Unlock()
	select {
	case w.space <- struct{}{}:
	default:
	}
}

// fill returns what is unreported, and since when the oldest of it waits.
func (w *window) fill() (records, bytes int, oldest time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records, w.bytes, w.oldest
}

// close ends the window and returns the segments no report has been begun for.
func (w *window) close() []segment {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	left := w.queue[w.head:]
	w.queue, w.head = nil, 0
	w.records, w.bytes = 0, 0
	return left
}
