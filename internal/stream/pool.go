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
	"hash/maphash"
	"log/slog"
	"math"
	"math/rand/v2"
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
	// called with Config.Reports, and for batches marked Raw.
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
	limited bool         // the profile has limits: pace from the start
	ordered bool         // by key, or strictly
	seed    maphash.Seed // of keys
	log     *slog.Logger
	stats   *counters
	observe func(seconds float64) // delivery latency; may be nil
	start   time.Time

	speaks      wire         // how the target is spoken to
	links       links        // idle connections of requests
	mostRecords atomic.Int64 // of one request, since one was refused for its size; 0: no bound of that kind
	mostBytes   atomic.Int64 // likewise
	mostTaken   atomic.Int64 // bytes of the largest request that brought a good report
	lone        atomic.Int32 // records rejected in a row, each for a request of its own that was refused
	keyless     sync.Once    // to warn

	throttled atomic.Bool // a 429 was seen: pace though the profile has no limits
	buffered  atomic.Bool // the endpoint answers only once a request has ended
	draining  atomic.Bool // nothing more will be submitted
	closing   atomic.Bool
	lastGood  atomic.Int64 // when a record was last delivered, as pool time
	starving  atomic.Int32 // topics waiting for a stream
	behind    atomic.Int64 // records waiting for an earlier one of their key
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
	parking   *topic   // the one topic that may hold a place and take nothing, see park.go
	parked    []*topic // others that wait to be probed
	fails     int      // opens in a row that brought no report
	notBefore time.Time
	backoffs  *backoff.ExponentialBackOff
	connected bool // a connection was made once
	warnedAt  map[string]time.Time
	err       error
	trouble   error // why the endpoint does not answer, until it does
	doubt     doubt // of the credentials
}

// New returns a Pool that has not connected yet. observe, when not nil, gets
// the time between writing a batch and its last report, in seconds.
func New(cfg Config, target Target, profile limit.Profile, h Handler, log *slog.Logger, observe func(float64)) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	cfg.InFlightBytes = cfg.WindowBytes()
	p := &Pool{
		cfg: cfg, target: target, handler: h, limiter: limit.New(profile),
		limited: profile.Records > 0 || profile.Bytes > 0, ordered: cfg.Strict || cfg.ByKey, seed: maphash.MakeSeed(),
		speaks: wireOf(target.Dialect),
		log:    log, stats: newCounters(), observe: observe,
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
// Ownership: with an error the batch is still the caller's, and may be changed.
// Errors: *TopicError and *EndpointError when topic or endpoint have been
// given up, ErrClosed after Stop, ctx's cause when it ends first.
func (p *Pool) Submit(ctx context.Context, b *record.Batch) error { return p.hand(ctx, b, nil) }

// ErrBusy says that a topic takes nothing at present though others do.
var ErrBusy = errors.New("topic takes no records at present")

// Offer is Submit for those who have another place for a batch: it waits no
// longer than patience for a topic that others leave behind, and not at all
// for one that is held. While no topic gets on it waits like Submit.
//
// Ownership and errors: Submit's, and ErrBusy.
func (p *Pool) Offer(ctx context.Context, b *record.Batch, patience time.Duration) error {
	t := p.topic(b.Topic)
	if t.held() {
		return ErrBusy
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	return p.hand(ctx, b, timer)
}

// hand gives b to its topic. With a timer it asks at each end of it whether to
// wait on.
func (p *Pool) hand(ctx context.Context, b *record.Batch, timer *time.Timer) error {
	n := int64(b.Len())
	t := p.claim(b.Topic, n)
	if b.Raw {
		t.raw.Store(true)
	}
	if p.ordered {
		p.keyed(b)
	}
	b.Seal()
	err := p.enqueue(ctx, t, b, timer)
	if p.ordered && err == nil {
		t.signal()
	}
	if err != nil {
		t.outstanding.Add(-n)
		p.checkIdle()
	}
	return err
}

// Busy says whether Offer would be refused for topic at once, its records
// being held or its queue being full.
func (p *Pool) Busy(topic string) bool {
	p.mu.Lock()
	t := p.topics[topic]
	p.mu.Unlock()
	return t != nil && (t.held() || len(t.fresh) == cap(t.fresh))
}

func (p *Pool) enqueue(ctx context.Context, t *topic, b *record.Batch, timer *time.Timer) error {
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
	var over <-chan time.Time
	if timer != nil {
		over = timer.C
	}
	for began := time.Now(); ; {
		select {
		case t.fresh <- b:
			p.ensureFirst(t)
			return nil
		case <-over:
			if t.held() || p.deliveredSince(began) {
				return ErrBusy
			}
			timer.Reset(busyAgain)
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
}

// busyAgain is how often Offer looks whether others get on where it does not.
const busyAgain = 200 * time.Millisecond

// deliveredSince says whether any topic had a record delivered after at.
func (p *Pool) deliveredSince(at time.Time) bool {
	return p.lastGood.Load() > int64(p.since(at))
}

func (p *Pool) topic(name string) *topic { return p.claim(name, 0) }

// claim returns the topic of that name, with n records more to be settled.
func (p *Pool) claim(name string, n int64) *topic {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.topics[name]
	if t == nil {
		t = newTopic(p, name)
		p.topics[name] = t
	}
	t.outstanding.Add(n)
	t.used.Store(int64(p.since(time.Now())))
	return t
}

// forgetAfter is how long a topic is remembered that nothing comes for:
// templates can make any number of names.
const forgetAfter = 10 * time.Minute

// forget drops topics that have nothing and have had nothing for long.
func (p *Pool) forget(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, t := range p.topics {
		if t.outstanding.Load() == 0 {
			t.mu.Lock()
			t.order.out.shrink()
			t.mu.Unlock()
		}
		if t.outstanding.Load() > 0 || p.since(now)-time.Duration(t.used.Load()) < forgetAfter {
			continue
		}
		t.mu.Lock()
		if t.streams == 0 && t.hold == nil && t.err == nil && len(t.waiting) == 0 && len(t.again) == 0 {
			delete(p.topics, name)
		}
		t.mu.Unlock()
	}
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
	p.links.drop(true)
}

// Stats returns what was done so far.
func (p *Pool) Stats() Stats {
	s := p.stats.snapshot()
	p.eachStream(func(st *stream) {
		records, _, _ := st.win.fill()
		s.InFlight += records
		s.Open++
	})
	s.PerSecond, s.Found = p.limiter.PerSecond(), p.limiter.Found()
	s.Behind = int(p.behind.Load())
	return s
}

// Trouble returns why records do not get through at present: the endpoint's
// own reason, or a topic's that takes none. nil where all is well.
func (p *Pool) Trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return p.err
	}
	if p.trouble != nil {
		return p.trouble
	}
	for _, t := range p.topics {
		t.mu.Lock()
		err := t.err
		if err == nil && t.hold != nil {
			err = t.hold.why
		}
		t.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Leftover calls f for the records that a stopped Pool still holds, in runs of
// one batch. Call it once, after Stop. f may ask the Pool, and wait for locks
// that others ask it under.
func (p *Pool) Leftover(f func(b *record.Batch, from, to int)) {
	var all []segment
	p.mu.Lock()
	for _, t := range p.topics {
		t.mu.Lock()
		all = append(all, t.leftover()...)
		t.mu.Unlock()
	}
	p.mu.Unlock()
	for _, g := range all {
		f(g.b, g.from, g.to)
	}
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

// refuse is for an endpoint that will not do as it is: a run that is to end
// gives it up, a service goes on asking as rarely as it may.
func (p *Pool) refuse(err *EndpointError) {
	if p.cfg.OneShot {
		p.fail(err)
		return
	}
	_, wait, _ := p.backOff(p.cfg.RetryMax)
	p.troubled(err)
	p.warn("refuse", "the endpoint does not take records, will ask again", "error", err, "wait", wait.Round(time.Millisecond))
}

// troubled notes why the endpoint cannot be used at present; nil that it can.
func (p *Pool) troubled(err error) {
	p.mu.Lock()
	p.trouble = err
	p.mu.Unlock()
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

// slowDown passes n reports that said 429, of records of that many bytes, on to the limiter.
func (p *Pool) slowDown(n, bytes int) {
	p.throttled.Store(true)
	if !p.limiter.Throttled(time.Now(), n, bytes) {
		return
	}
	var found []any
	f := p.limiter.Found()
	if f.Records > 0 {
		found = append(found, "records_per_second", math.Round(f.Records*10)/10)
	}
	if f.Bytes > 0 {
		found = append(found, "bytes_per_second", math.Round(f.Bytes))
	}
	p.warn("throttled", "the cluster says 429: slowing down", found...)
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
