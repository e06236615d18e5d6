package sandbox

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// pending is a record that was read and not yet reported.
//
// Ownership: the stream's reader fills it; from Produce on, the Kafka client's
// goroutine has it until ready is set; then the writer.
type pending struct {
	rec   kgo.Record
	st    *stream
	ready atomic.Bool

	code               int    // error_code of the report
	text               string // and its message, unless code is 200
	keyFormat          dataFormat
	valueFormat        dataFormat
	keySize, valueSize int  // -1: Kafka null
	fixed              bool // code and text stand, whatever Kafka says
	alone              bool // it was sent again, in a batch of its own

	slow    []*activeFault // faults that may delay the report
	readyAt time.Time      // not before this
}

// acked takes Kafka's answer.
func (p *pending) acked(r *kgo.Record, err error) {
	sb := p.st.c.sb
	if !p.alone && ofBatch(err) {
		p.alone = true
		sb.broker.again(sb.ctx, p)
		return
	}
	if err == nil {
		p.stored(r)
	}
	switch {
	case p.fixed:
	case err != nil:
		e := kafkaError(err, r.Topic, r.Partition, sb.cfg.MaxBlock)
		p.code, p.text = e.code, e.text
		if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
			sb.broker.forget(r.Topic)
		}
	default:
		p.code = 200
	}
	p.done()
}

// stored notes that Kafka has the record.
func (p *pending) stored(r *kgo.Record) {
	sb := p.st.c.sb
	sb.stats.stored.Add(1)
	if sb.cfg.OnStored != nil {
		sb.cfg.OnStored(r.Topic, r.Partition, r.Offset, r.Key, r.Value)
	}
}

// done hands the record to the writer.
func (p *pending) done() {
	for _, f := range p.slow {
		if !f.HasPartition || f.Partition == p.rec.Partition {
			if at := time.Now().Add(f.For); at.After(p.readyAt) {
				p.readyAt = at
			}
		}
	}
	p.ready.Store(true)
	if p.st.queue.waiting.Load() == p {
		signal(p.st.queue.wake)
	}
}

// queue holds a stream's records in request order, from reading to reporting.
// The writer sleeps on wake only while waiting names what it waits for: the
// first record, or nothing at all (emptyQueue).
type queue struct {
	mu     sync.Mutex // guards items, pushed and full
	items  []*pending
	pushed int
	full   bool // the reader waits on space

	waiting atomic.Pointer[pending]
	wake    chan struct{} // one slot
	space   chan struct{} // one slot
}

var emptyQueue = &pending{}

func newQueue() *queue {
	return &queue{wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// push appends p.
func (q *queue) push(p *pending) {
	q.mu.Lock()
	q.items = append(q.items, p)
	q.pushed++
	q.mu.Unlock()
	if q.waiting.Load() == emptyQueue {
		signal(q.wake)
	}
}

// room says whether fewer than limit records wait. If not, the next pop
// signals space.
func (q *queue) room(limit int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.full = len(q.items) >= limit
	return !q.full
}

// count is how many records were pushed so far.
func (q *queue) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pushed
}

// take moves to dst, in order, the records whose reports may be written at
// now, at most limit of them. When it finds none it returns the first one
// that is ready but not due, or says whether the queue is empty.
func (q *queue) take(dst []*pending, now time.Time, limit int) (out []*pending, due time.Time, empty bool) {
	q.mu.Lock()
	n := 0
	for n < len(q.items) && n < limit && q.items[n].ready.Load() {
		if at := q.items[n].readyAt; at.After(now) {
			due = at
			break
		}
		n++
	}
	dst = append(dst, q.items[:n]...)
	rest := copy(q.items, q.items[n:])
	clear(q.items[rest:])
	q.items = q.items[:rest]
	full := q.full && n > 0
	if full {
		q.full = false
	}
	var head *pending
	if rest > 0 {
		head = q.items[0]
	}
	q.mu.Unlock()
	if full {
		signal(q.space)
	}
	if n > 0 || !due.IsZero() {
		q.waiting.Store(nil)
		return dst, due, false
	}
	// Nothing: say what is waited for, then look again, or a record that
	// becomes ready in between would wake nobody.
	if head == nil {
		q.waiting.Store(emptyQueue)
		q.mu.Lock()
		defer q.mu.Unlock()
		if len(q.items) > 0 {
			signal(q.wake)
			return dst, due, false
		}
		return dst, due, true
	}
	q.waiting.Store(head)
	if head.ready.Load() {
		signal(q.wake)
	}
	return dst, due, false
}
