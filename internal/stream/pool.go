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
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/produce-agent/produce-agent/internal/auth"
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
	Denied bool // credentials
	Err    error
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

// ensureFirst starts a stream for t when it has none.
func (p *Pool) ensureFirst(t *topic) {
	t.mu.Lock()
	streams := t.streams
	t.mu.Unlock()
	if streams == 0 {
		p.ensureStream(t)
	}
}

// ensureStream starts a stream for t if it has work and none, or takes its
// place in the queue for one.
func (p *Pool) ensureStream(t *topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams > 0 || !t.hasWork() || p.closing.Load() || p.err != nil {
		return
	}
	p.startOrQueue(t)
}

// grow starts one more stream for t while there are places left.
func (p *Pool) grow(t *topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.active < p.cfg.Streams && p.fails == 0 && len(p.starved) == 0 && t.hold == nil && !p.closing.Load() {
		p.startOrQueue(t)
	}
}

// startOrQueue is called with both locks held.
func (p *Pool) startOrQueue(t *topic) {
	if p.active < p.cfg.Streams {
		p.active++
		t.streams++
		p.wg.Add(1)
		go p.serve(t, nil)
		return
	}
	p.queue(t)
	for s := range p.live {
		s.kick()
	}
}

// queue puts t at the end of those that wait for a stream. Called with mu held.
func (p *Pool) queue(t *topic) {
	if !slices.Contains(p.starved, t) {
		p.starved = append(p.starved, t)
		p.starving.Store(int32(len(p.starved)))
	}
}

// replace opens a stream that is to take over from old.
func (p *Pool) replace(old *stream) {
	p.mu.Lock()
	p.active++
	p.wg.Add(1)
	p.mu.Unlock()
	old.t.mu.Lock()
	old.t.streams++
	old.t.mu.Unlock()
	go p.serve(old.t, old)
}

// serve keeps one stream of t open while there is work for it.
func (p *Pool) serve(t *topic, old *stream) {
	defer p.wg.Done()
	tried := false
	for old != nil || p.stay(t, tried) {
		tried = true
		s, release, err := p.connect(t)
		if err == nil && s == nil {
			old = p.giveUpReplacing(old)
			continue
		}
		if err != nil {
			p.openFailed(err)
			release()
			old = p.giveUpReplacing(old)
			continue
		}
		if old != nil {
			old.replaced.Store(true)
			old.kick()
			old = nil
		}
		go s.read.run()
		s.write()
		switch {
		case s.spare:
			p.leave(t, 0)
			return
		case s.reason() == endAge:
			p.leave(t, 1)
			return
		}
	}
}

// replaceAgain is how long a stream whose replacement could not be opened goes
// on before the next try.
const replaceAgain = 30 * time.Second

// giveUpReplacing lets old live on.
func (p *Pool) giveUpReplacing(old *stream) *stream {
	if old != nil {
		old.retireAt.Store(int64(p.since(time.Now().Add(replaceAgain))))
		old.retire.Store(false)
		old.replacing.Store(false)
	}
	return nil
}

// stay says whether a serve goroutine without a stream should open one. When
// not, the goroutine has left the count.
//
// A topic that others wait behind goes to the end of the queue once it has
// tried; not before, or all would pass the place around without using it.
func (p *Pool) stay(t *topic, tried bool) bool {
	p.mu.Lock()
	t.mu.Lock()
	ok := p.err == nil && !p.closing.Load() && t.hasWork() && p.active <= p.cfg.Streams
	if ok && tried && len(p.starved) > 0 {
		p.queue(t)
		ok = false
	}
	t.mu.Unlock()
	p.mu.Unlock()
	if !ok {
		p.leave(t, 1)
	}
	return ok
}

// leave takes a serve goroutine out of the count and gives its place to the
// topic that has waited longest.
//
// counted is 1, or 0 where the topic no longer counts the goroutine.
func (p *Pool) leave(t *topic, counted int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	t.mu.Lock()
	t.streams -= counted
	t.mu.Unlock()
	for len(p.starved) > 0 && p.active < p.cfg.Streams && p.err == nil && !p.closing.Load() {
		next := p.starved[0]
		p.starved = p.starved[1:]
		next.mu.Lock()
		if next.hasWork() {
			p.startOrQueue(next)
		}
		next.mu.Unlock()
	}
	p.starving.Store(int32(len(p.starved)))
	// Work may have come while this goroutine was on its way out.
	t.mu.Lock()
	if t.streams == 0 && t.hasWork() && p.err == nil && !p.closing.Load() {
		p.startOrQueue(t)
	}
	t.mu.Unlock()
}

// connect waits until a POST may be sent and opens a stream. It returns no
// stream and no error when there is nothing left to open one for. release must
// be called once the outcome of the attempt is known.
func (p *Pool) connect(t *topic) (s *stream, release func(), err error) {
	release = p.waitTurn()
	if p.ctx.Err() != nil || p.given(t) {
		release()
		return nil, release, nil
	}
	if d := p.limiter.Open(time.Now()); d > 0 {
		p.stats.waited(limitConnections, d)
		if !p.sleep(d) {
			release()
			return nil, release, nil
		}
	}
	u := p.target.produceURL(t.name)
	t.mu.Lock()
	if t.redirect != nil {
		u = t.redirect
	}
	t.mu.Unlock()
	conn, err := p.dial(p.ctx, u)
	if err != nil {
		t.mu.Lock()
		t.redirect = nil
		t.mu.Unlock()
		return nil, release, err
	}
	p.mu.Lock()
	p.connected = true
	p.mu.Unlock()
	head, err := p.requestHead(p.ctx, u)
	if err == nil {
		_, err = conn.Write(head)
	}
	if err != nil {
		conn.Close()
		return nil, release, fmt.Errorf("open stream for topic %q: %w", t.name, err)
	}
	s = newStream(p, t, conn)
	s.url = u
	s.release = release
	p.mu.Lock()
	p.live[s] = struct{}{}
	p.mu.Unlock()
	p.stats.opened()
	return s, release, nil
}

// given says whether topic or endpoint have been given up.
func (p *Pool) given(t *topic) bool {
	select {
	case <-t.failed:
		return true
	case <-p.failed:
		return true
	default:
		return p.closing.Load()
	}
}

// waitTurn waits out the back-off. While opens fail only one goroutine tries
// at a time, or each outage would end in a herd.
func (p *Pool) waitTurn() (release func()) {
	p.mu.Lock()
	failing := p.fails > 0
	p.mu.Unlock()
	if !failing {
		return func() {}
	}
	select {
	case p.probe <- struct{}{}:
	case <-p.ctx.Done():
		return func() {}
	case <-p.failed:
		return func() {}
	}
	var once sync.Once
	release = func() { once.Do(func() { <-p.probe }) }
	p.mu.Lock()
	d := time.Until(p.notBefore)
	if p.fails == 0 {
		d = 0
	}
	p.mu.Unlock()
	p.sleep(d)
	return release
}

// sleep waits, and returns false when the Pool ends first.
func (p *Pool) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
	case <-p.failed:
	}
	return false
}

// openFailed backs off after a connection that could not be made.
func (p *Pool) openFailed(err error) {
	if p.ctx.Err() != nil {
		return
	}
	fails, wait, connected := p.backOff(0)
	var cert *tls.CertificateVerificationError
	if p.cfg.OneShot && !connected && (fails >= p.cfg.MaxAttempts || errors.As(err, &cert)) {
		p.fail(&EndpointError{Err: err})
		return
	}
	p.warn("connect", "cannot connect, will try again", "error", err, "attempt", fails, "wait", wait.Round(time.Millisecond))
}

// backOff counts a failed open and moves the time of the next one, to at least
// after from now.
func (p *Pool) backOff(after time.Duration) (fails int, wait time.Duration, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails == 0 {
		p.backoffs.Reset()
	}
	if p.connected {
		p.backoffs.MaxInterval = p.cfg.RetryMax
	}
	p.fails++
	wait = max(p.backoffs.NextBackOff(), after)
	p.notBefore = time.Now().Add(wait)
	return p.fails, wait, p.connected
}

// opened notes the first report of a stream: the endpoint works.
func (p *Pool) opened(s *stream) {
	p.mu.Lock()
	failed := p.fails
	p.fails = 0
	p.mu.Unlock()
	if failed > 0 {
		p.log.Info("endpoint answers again", "after_attempts", failed)
	}
	s.t.mu.Lock()
	s.t.hops = 0
	s.t.mu.Unlock()
	s.release()
}

// ended is called by the reader when a stream is over: err nil for a proper
// end of the answer, n records were returned to their topic.
func (p *Pool) ended(s *stream, err error, ref *refusal, n int, unknown bool) {
	p.mu.Lock()
	delete(p.live, s)
	p.mu.Unlock()
	p.stats.closed(s.reason())
	defer s.release()
	if p.ctx.Err() != nil && ref == nil {
		return
	}
	switch {
	case ref != nil:
		p.refused(s, ref)
	case !s.confirmed.Load() && s.reason() != endIdle && s.reason() != endAge &&
		(n > 0 || time.Since(s.born) < time.Second): // who closes at once would be asked without a pause
		_, wait, _ := p.backOff(0)
		p.warn("broken", "stream ended before any delivery report", "topic", s.t.name, "error", err, "records_to_resend", n, "wait", wait.Round(time.Millisecond))
	case n > 0:
		p.warn("broken", "stream ended early", "topic", s.t.name, "reason", s.reason(), "error", err, "records_to_resend", n, "possibly_duplicated", unknown)
	}
	s.kick()
}

// refused acts on a status that came instead of reports.
func (p *Pool) refused(s *stream, ref *refusal) {
	where := s.url.Redacted()
	if _, none := p.target.Auth.(auth.None); none && ref.status == http.StatusUnauthorized {
		ref.remedy = noCredentials
	}
	err := fmt.Errorf("%s answered %w", where, ref)
	switch ref.fate {
	case openFollow:
		p.follow(s, ref)
	case openStop, openDenied:
		if !sameOrigin(p.target.Base, s.url) {
			err = fmt.Errorf("%w; the endpoint redirects there and, as it is another host, without credentials: if it is right, give it as --rest-endpoint", err)
		}
		p.fail(&EndpointError{Denied: ref.fate == openDenied, Err: err})
	case openTopic:
		v := Verdict{Outcome: record.Retry, Reason: "unauthorized", Hold: true, Denied: ref.denied}
		if !ref.denied {
			v.Reason = "unknown_topic"
		}
		s.t.holdOn(v, ref.status, ref.text)
	case openRetry:
		after, _ := strconv.Atoi(ref.retryText)
		_, wait, _ := p.backOff(min(time.Duration(after)*time.Second, 5*time.Minute))
		p.warn("refused", "stream refused, will try again", "topic", s.t.name, "error", err, "wait", wait.Round(time.Millisecond))
	}
}

// maxHops is how many redirects in a row are followed.
const maxHops = 5

// follow sends the topic's next stream to where ref points.
func (p *Pool) follow(s *stream, ref *refusal) {
	to, err := s.url.Parse(ref.location)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		p.fail(&EndpointError{Err: fmt.Errorf("%s redirects to %q, which is no address of an endpoint", s.url.Redacted(), ref.location)})
		return
	}
	to.User, to.Fragment = nil, ""
	s.t.mu.Lock()
	// A redirect that another of the topic's streams met too is no hop more.
	if known := s.t.redirect; known == nil || *known != *to || *to == *s.url {
		s.t.hops++
	}
	hops := s.t.hops
	s.t.redirect = to
	s.t.mu.Unlock()
	if hops > maxHops {
		p.fail(&EndpointError{Err: fmt.Errorf("%s: more than %d redirects in a row, the last to %s: check --rest-endpoint", p.target.Base.Redacted(), maxHops, to.Redacted())})
		return
	}
	p.warn("redirect", "endpoint redirects; what was sent is sent again", "status", ref.status, "to", to.Redacted(), "with_credentials", sameOrigin(p.target.Base, to))
}

// topicHeld tells of a topic that takes no records, and gives it up where the
// run is to end.
func (p *Pool) topicHeld(t *topic, v Verdict, code int, message string, probes int) {
	text := fmt.Sprintf("%d %s", code, oneLine(message))
	remedy := "create the topic, or check its name"
	if v.Denied {
		remedy = "grant the key's principal WRITE on the topic, or use a key of this cluster"
	}
	if p.cfg.OneShot && (v.Denied || probes >= p.cfg.MaxAttempts || p.target.MissingTopic(p.ctx, t.name)) {
		t.fail(&TopicError{Topic: t.name, Denied: v.Denied, Text: text + " (" + remedy + ")"})
		return
	}
	p.warn("held:"+t.name, "topic takes no records; probing it", "topic", t.name, "error", text, "remedy", remedy, "probes", probes)
}

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

// spared says whether t has other streams than the one asking, and if so stops
// counting that one: of two that are idle alike only one may end.
func (t *topic) spared() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams < 2 {
		return false
	}
	t.streams--
	return true
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

// watch looks after the streams' clocks: stalls, age, heartbeats.
func (p *Pool) watch() {
	defer p.wg.Done()
	period := min(time.Second, p.cfg.ReportTimeout/4, p.cfg.Heartbeat/2)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case now := <-ticker.C:
			p.eachStream(func(s *stream) { s.inspect(now) })
		}
	}
}

// inspect is the watch's look at one stream.
func (s *stream) inspect(now time.Time) {
	records, _, oldest := s.win.fill()
	if records > 0 {
		last := s.p.at(s.progress.Load())
		if oldest.After(last) {
			last = oldest
		}
		if now.Sub(last) > s.p.cfg.ReportTimeout {
			s.abort(endStalled)
			return
		}
	}
	if !s.confirmed.Load() && records > 0 && now.Sub(oldest) > silence && !s.asked.Swap(true) {
		s.p.wg.Add(1)
		go s.p.explainSilence(s.t)
	}
	cfg := s.p.cfg
	old := cfg.RotateAfter > 0 && now.Sub(s.born) > jittered(cfg.RotateAfter, s.jitter)
	if old || cfg.RotateRecords > 0 && float64(s.records.Load()) > float64(cfg.RotateRecords)*s.jitter {
		if int64(s.p.since(now)) >= s.retireAt.Load() {
			s.retire.Store(true)
		}
	}
	s.kick()
}

// silence is how long a new stream may bring no report before the endpoint is
// asked whether the topic is there at all: a server blocks for up to a minute
// on one that is not, before it says so.
const silence = 5 * time.Second

// explainSilence looks for the reason why a topic's stream brings no report.
func (p *Pool) explainSilence(t *topic) {
	defer p.wg.Done()
	if !p.target.MissingTopic(p.ctx, t.name) {
		return
	}
	text := fmt.Sprintf("does not exist on cluster %s, and was not created by producing to it (create the topic, or check its name)", p.target.ClusterID)
	if p.cfg.OneShot {
		t.fail(&TopicError{Topic: t.name, Text: text})
		p.eachStream(func(s *stream) {
			if s.t == t {
				s.abort(endHeld)
			}
		})
		return
	}
	p.warn("held:"+t.name, "no delivery report yet", "topic", t.name, "error", text)
}

func jittered(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) * factor)
}
