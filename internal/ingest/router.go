package ingest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Route says what becomes of records: their topic and how they are encoded.
type Route struct {
	ID      int32 // its batches carry it: index into the run's table of routes
	Topic   string
	Encoder record.EncoderConfig
}

// RouterConfig says where one input's records go.
type RouterConfig struct {
	Batch          BatchConfig
	Routes         []Route // the first that matches takes a record
	MaxRecordBytes int     // a longer payload or record is rejected; 0: no bound
}

// Router gives each record of one input to its route, encodes it and gathers
// it in the batch of its topic. Batches go to the Sink when they are full, or
// have waited for a linger.
//
// Concurrency: hold Lock around Add and AddRecord, for as many records as are
// at hand, so that the lock costs once a read; the linger timer takes it to
// close batches nothing was added to. The Sink is called with it held: while
// the Sink waits, the input waits.
type Router struct {
	cfg    RouterConfig
	sink   Sink
	routes []*route

	mu       sync.Mutex // guards all below it, and the routes' batches
	lastSent time.Time
	armed    bool
	timer    *time.Timer
	err      error // of a Submit from the timer; the input gets it
}

// route is a Route and the batches being built by it.
type route struct {
	Route
	enc  *record.Encoder
	outs map[string]*out
	one  *out // the topic of all of them
}

// out is the batch being built for one topic of one route.
type out struct {
	topic string
	route int32
	cur   *record.Batch
}

// NewRouter returns a Router that hands its batches to sink.
func NewRouter(cfg RouterConfig, sink Sink) (*Router, error) {
	r := &Router{cfg: cfg, sink: sink}
	for _, c := range cfg.Routes {
		c.Encoder.MaxRecordBytes = cfg.MaxRecordBytes
		enc, err := record.NewEncoder(c.Encoder)
		if err != nil {
			return nil, err
		}
		o := &route{Route: c, enc: enc, outs: map[string]*out{}}
		if c.Topic != "" {
			o.one = o.out(c.Topic)
		}
		r.routes = append(r.routes, o)
	}
	if len(r.routes) == 0 {
		return nil, errors.New("an input without a route")
	}
	return r, nil
}

// Lock is held around Add, AddRecord, Pause and Flush.
func (r *Router) Lock() { r.mu.Lock() }

// Unlock ends Lock.
func (r *Router) Unlock() { r.mu.Unlock() }

// Add gives one payload to its route. id is what its record id is made from.
// An error ends the input.
func (r *Router) Add(payload, id []byte, pos record.Position) error {
	to := r.routes[0]
	o := to.one
	buf, err := to.enc.Append(o.cur.Tail(), payload, id)
	if err != nil {
		return r.reject(to, err, payload, pos)
	}
	return r.commit(o, buf, pos)
}

// AddRecord gives one REST v3 record object, already checked, to topic, or to
// the first route's own topic when that is empty.
func (r *Router) AddRecord(topic string, raw []byte, pos record.Position) error {
	to := r.routes[0]
	o := to.one
	if topic != "" {
		o = to.out(topic)
	}
	return r.commit(o, record.AppendRaw(o.cur.Tail(), raw), pos)
}

// Reject gives one payload that is no record to the Sink.
func (r *Router) Reject(payload []byte, pos record.Position, why *record.InvalidError) error {
	return r.sink.Reject(r.routes[0].ID, r.routes[0].Topic, pos, payload, why)
}

// out returns the batch being built for topic.
func (t *route) out(topic string) *out {
	o := t.outs[topic]
	if o == nil {
		o = &out{topic: topic, route: t.ID}
		o.fresh()
		t.outs[topic] = o
	}
	return o
}

func (o *out) fresh() {
	o.cur = record.NewBatch(o.topic)
	o.cur.Route = o.route
}

// commit takes a record into the batch.
func (r *Router) commit(o *out, buf []byte, pos record.Position) error {
	o.cur.Commit(buf, pos)
	if o.cur.Size() >= r.cfg.Batch.Bytes {
		return r.send(o)
	}
	return nil
}

// reject passes a record on that could not be encoded.
func (r *Router) reject(to *route, err error, payload []byte, pos record.Position) error {
	var invalid *record.InvalidError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("encode record at byte %d: %w", pos.Offset, err)
	}
	return r.sink.Reject(to.ID, to.Topic, pos, payload, invalid)
}

// send hands a batch on.
func (r *Router) send(o *out) error {
	if r.err != nil {
		return r.err
	}
	if o.cur.Len() == 0 {
		return nil
	}
	full := o.cur
	o.fresh()
	if r.err = r.sink.Submit(full); r.err != nil {
		return r.err
	}
	r.lastSent = time.Now()
	return nil
}

// Flush hands all batches on.
func (r *Router) Flush() error {
	for _, to := range r.routes {
		for _, o := range to.outs {
			if err := r.send(o); err != nil {
				return err
			}
		}
	}
	return r.err
}

// holds says that a record waits in a batch.
func (r *Router) holds() bool {
	for _, to := range r.routes {
		for _, o := range to.outs {
			if o.cur.Len() > 0 {
				return true
			}
		}
	}
	return false
}

// Pause is called when the input has no more for the moment: the batches go at
// once when nothing was sent for a linger, else when that is over.
func (r *Router) Pause() error {
	if r.err != nil || !r.holds() {
		return r.err
	}
	wait := r.cfg.Batch.Linger - time.Since(r.lastSent)
	if wait <= 0 {
		return r.Flush()
	}
	if r.armed {
		return nil
	}
	r.armed = true
	if r.timer == nil {
		r.timer = time.AfterFunc(wait, r.lingered)
	} else {
		r.timer.Reset(wait)
	}
	return nil
}

// pacer is an input that can say whether it has more.
type pacer interface {
	// sleep waits, or returns at once when the input is to end.
	sleep(d time.Duration)
	// ready says whether a Read would return without waiting.
	ready() bool
}

// trickle is the size of a read up to which an input counts as slow: one read
// a record costs more than all the rest, so such an input is left alone until
// the linger is over and then read in one go.
const trickle = 8 << 10

// gather does for a live input what Pause does, with fewer wake-ups: what was
// read goes, and after a small read the input is left alone for a linger, to be
// read in one go then. The first record after a pause goes at once. An input
// that fills its reads is not slowed down.
func (r *Router) gather(in pacer, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n >= trickle && time.Since(r.lastSent) < 2*r.cfg.Batch.Linger && in.ready() {
		return r.err
	}
	if err := r.Flush(); err != nil {
		return err
	}
	if n < trickle && r.cfg.Batch.Linger > 0 {
		in.sleep(r.cfg.Batch.Linger)
	}
	return nil
}

// lingered closes the batches when they have waited long enough.
func (r *Router) lingered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = false
	_ = r.Pause() // an error stays in r.err for the input
}

// Close hands the last batches on and ends the timer. It takes the lock.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
	return r.Flush()
}
