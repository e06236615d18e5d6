// Package stream produces batches of records over pooled, long-lived HTTP
// streams to a Kafka REST v3 endpoint and acts on every delivery report.
//
// A Pool holds up to Config.Streams connections, shared out among topics by
// demand. Each stream is one open POST: a goroutine writes batches as HTTP
// chunks, another reads the reports that come back in the records' order. Every
// record submitted ends in exactly one call of the Handler, Delivered or
// Rejected, however often it had to be sent; or it is still pending when the
// Pool is stopped.
package stream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// Rejection is why a record will never be sent again.
type Rejection struct {
	Code     int    // of its last report
	Reason   string // bounded label
	Message  string // the server's text
	Attempts int
}

// Handler is told what became of records. Its methods are called by the
// streams' reader goroutines, several at a time, and hold up that stream's
// reading until they return; what they are handed is valid until then.
type Handler interface {
	// Delivered: records [from,to) of b have a good report.
	Delivered(b *record.Batch, from, to int)
	// Rejected: record i of b is not to be sent again.
	Rejected(b *record.Batch, i int, why Rejection)
	// Report is one delivery report, of any code, of record i of b. Only
	// called with Config.Reports.
	Report(b *record.Batch, i int, r *Report)
}

// EndpointError says that the endpoint as a whole cannot be used.
type EndpointError struct {
	Denied    bool // credentials
	Malformed bool // what was given cannot be an endpoint
	Err       error
}

func (e *EndpointError) Error() string { return e.Err.Error() }

// Unwrap returns what was wrong.
func (e *EndpointError) Unwrap() error { return e.Err }

// ErrClosed is returned by Submit after Drain or Stop.
var ErrClosed = errors.New("pool is closed")

// Pool produces batches to one cluster.
//
// Concurrency: safe. Memory: at most Streams × (InFlightBytes + one batch) and
// four batches a topic, besides single records larger than those.
type Pool struct {
	cfg     Config
	target  Target
	handler Handler
	limiter *limit.Limiter
	limited bool // the profile has limits: pace from the start
	log     *slog.Logger
	dialer  net.Dialer
	stats   *counters
	observe func(seconds float64) // delivery latency; may be nil
	start   time.Time

	throttled atomic.Bool // a 429 was seen: pace though the profile has no limits
	buffered  atomic.Bool // the endpoint answers only once a request has ended
	draining  atomic.Bool // nothing more will be submitted
	closing   atomic.Bool
	starving  atomic.Int32 // topics waiting for a stream
	probe     chan struct{}
	idle      chan struct{} // one token: a topic has nothing outstanding, or failed
	failed    chan struct{}
	broken    chan struct{} // closed once a topic or the endpoint was given up
	breakOnce sync.Once
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup

	// mu guards what follows. topic.mu may be taken while holding it.
	mu        sync.Mutex
	topics    map[string]*topic
	live      map[*stream]struct{}
	active    int // serve goroutines, replacements included
	starved   []*topic
	fails     int // opens in a row that brought no report
	notBefore time.Time
	backoffs  *backoff.ExponentialBackOff
	connected bool // a connection was made once
	warnedAt  map[string]time.Time
	err       error
}

// New returns a Pool that has not connected yet. observe, when not nil, gets
// the time between writing a batch and its last report, in seconds.
func New(cfg Config, target Target, profile limit.Profile, h Handler, log *slog.Logger, observe func(float64)) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	if cfg.Strict {
		cfg.Streams, cfg.InFlight = 1, 1
	}
	cfg.InFlightBytes = cfg.WindowBytes()
	p := &Pool{
		cfg: cfg, target: target, handler: h, limiter: limit.New(profile),
		limited: profile.Records > 0 || profile.Bytes > 0,
		log:     log, dialer: net.Dialer{KeepAlive: 15 * time.Second}, stats: newCounters(), observe: observe,
		start: time.Now(), probe: make(chan struct{}, 1), idle: make(chan struct{}, 1), failed: make(chan struct{}), broken: make(chan struct{}),
		ctx: ctx, cancel: cancel,
		topics: map[string]*topic{}, live: map[*stream]struct{}{}, warnedAt: map[string]time.Time{},
	}
	if p.limited && profile.Records > 0 {
		// Under a limit nothing is gained by more in flight than a second's share.
		p.cfg.InFlight = max(1, min(cfg.InFlight, int(profile.Records)))
	}
	p.backoffs = backoff.NewExponentialBackOff()
	p.backoffs.InitialInterval, p.backoffs.MaxInterval = cfg.RetryInitial, min(cfg.RetryMax, 5*time.Second)
	p.backoffs.Multiplier = 2
	p.wg.Add(1)
	go p.watch()
	return p
}

// since and at convert between times and the nanoseconds of the atomics.
func (p *Pool) since(t time.Time) time.Duration { return t.Sub(p.start) }
func (p *Pool) at(ns int64) time.Time           { return p.start.Add(time.Duration(ns)) }

// Submit hands a batch to the streams of its topic and waits while their queue
// is full.
//
// Ownership: the batch is the Pool's from here on, also after an error.
// Errors: *TopicError and *EndpointError when topic or endpoint have been
// given up, ErrClosed after Stop, ctx's cause when it ends first. With an error
// the records were not taken: they are the caller's to count.
func (p *Pool) Submit(ctx context.Context, b *record.Batch) error {
	t := p.topic(b.Topic)
	n := b.Len()
	b.Seal()
	t.outstanding.Add(int64(n))
	err := p.enqueue(ctx, t, b)
	if err != nil {
		t.outstanding.Add(-int64(n))
		b.Resolve(n)
	}
	return err
}

func (p *Pool) enqueue(ctx context.Context, t *topic, b *record.Batch) error {
	select {
	case <-t.failed:
		return t.err
	case <-p.failed:
		return p.err
	case <-p.ctx.Done():
		return ErrClosed
	default:
	}
	select {
	case t.fresh <- b:
		p.ensureFirst(t)
		return nil
	default:
		p.grow(t) // those there do not keep up
	}
	select {
	case t.fresh <- b:
		p.ensureFirst(t)
		return nil
	case <-t.failed:
		return t.err
	case <-p.failed:
		return p.err
	case <-p.ctx.Done():
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *Pool) topic(name string) *topic {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.topics[name]
	if t == nil {
		t = newTopic(p, name)
		p.topics[name] = t
	}
	return t
}

// Drain waits until every record submitted is final, or stays pending because
// its topic or the endpoint was given up. Submit nothing meanwhile.
// Errors: what was given up first, or ctx's cause.
func (p *Pool) Drain(ctx context.Context) error {
	p.draining.Store(true)
	p.eachStream((*stream).kick)
	for {
		left, err := p.outstanding()
		if left == 0 {
			return err
		}
		select {
		case <-p.idle:
		case <-p.failed:
			return p.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// outstanding counts the records of topics that are not given up, and returns
// the first error of those that are.
func (p *Pool) outstanding() (n int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.topics {
		t.mu.Lock()
		if t.err != nil {
			err = errors.Join(err, t.err)
		} else {
			n += t.outstanding.Load()
		}
		t.mu.Unlock()
	}
	return n, err
}

// checkIdle lets Drain look again.
func (p *Pool) checkIdle() {
	select {
	case p.idle <- struct{}{}:
	default:
	}
}

// Stop ends all streams: each gets its last chunk and until ctx ends to bring
// the reports still owed, then its connection is closed. It returns when every
// goroutine of the Pool has.
func (p *Pool) Stop(ctx context.Context) {
	p.closing.Store(true)
	p.mu.Lock()
	for _, t := range p.topics {
		t.mu.Lock()
		t.stopTimers()
		t.mu.Unlock()
	}
	for s := range p.live {
		s.kick()
	}
	p.mu.Unlock()
	p.cancel()
	done := make(chan struct{})
	go func() { p.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		p.eachStream(func(s *stream) { s.abort(endDrain) })
		<-done
	}
}

// Stats returns what was done so far.
func (p *Pool) Stats() Stats {
	s := p.stats.snapshot()
	p.eachStream(func(st *stream) {
		records, _, _ := st.win.fill()
		s.InFlight += records
		s.Open++
	})
	s.PerSecond = p.limiter.PerSecond()
	return s
}

// Profile returns the limits in force.
func (p *Pool) Profile() limit.Profile { return p.limiter.Profile() }

func (p *Pool) eachStream(f func(*stream)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.live {
		f(s)
	}
}

// fail gives the endpoint up.
func (p *Pool) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.failed)
		p.breaks()
	}
}

// Broken is closed once a topic or the endpoint has been given up: there is an
// error for the next Submit to it, which may be long in coming.
func (p *Pool) Broken() <-chan struct{} { return p.broken }

func (p *Pool) breaks() { p.breakOnce.Do(func() { close(p.broken) }) }

// slowDown passes n reports that said 429 on to the limiter.
func (p *Pool) slowDown(n int) {
	p.throttled.Store(true)
	if p.limiter.Throttled(time.Now(), n) {
		p.warn("throttled", "the cluster says 429: slowing down", "records_per_second", int(p.limiter.PerSecond()))
	}
}

// backoff returns the jittered wait of a level: the initial one doubled that
// often, between half and all of it.
func (p *Pool) backoff(level int) time.Duration {
	d := p.cfg.RetryMax
	if level < 20 {
		d = min(d, p.cfg.RetryInitial<<level)
	}
	return d/2 + rand.N(d/2+1)
}

// latency observes the time from a segment's sending to its last report.
func (p *Pool) latency(sent time.Time) {
	if p.observe != nil {
		p.observe(time.Since(sent).Seconds())
	}
}

// warn logs at most once in ten seconds per kind.
func (p *Pool) warn(kind, text string, args ...any) {
	now := time.Now()
	p.mu.Lock()
	if last, ok := p.warnedAt[kind]; ok && now.Sub(last) < 10*time.Second {
		p.mu.Unlock()
		return
	}
	p.warnedAt[kind] = now
	p.mu.Unlock()
	p.log.Warn(text, args...)
}
