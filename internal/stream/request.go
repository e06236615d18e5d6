package stream

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

var requests = sync.Pool{New: func() any { return new(request) }}

// gatedWait is how long a serve goroutine waits at most for records that may
// not be sent yet before it looks whether it is still wanted.
const gatedWait = 200 * time.Millisecond

// headWithBody: a body below this goes out in one write with its head.
const headWithBody = 32 << 10

// request sends what is ready of t's records as one request and reads its
// answer. Whatever it took is settled or put back when it returns.
func (p *Pool) request(t *topic) {
	w := p.wire()
	s := newStream(p, t, nil)
	s.wire, s.sent = w, requests.Get().(*request)
	q := s.sent
	defer func() { q.reset(); requests.Put(q) }()
	if !p.sleep(t.shunned()) {
		return
	}
	var ok bool
	if s.release, ok = p.turn(t, nil); !ok {
		s.release()
		return
	}
	defer s.release()
	g, ok := s.ready()
	if !ok { // gated, or another was quicker
		p.limiter.GiveOpen()
		s.release()
		s.awaitGate()
		return
	}
	w.begin(q)
	s.fill(g)
	w.end(q)
	if q.records == 0 {
		p.limiter.GiveOpen()
		return
	}
	if !s.paceRequest() {
		return
	}
	if err := s.launch(); err != nil {
		p.limiter.Give(q.records, q.size)
		t.putBack(q.segments...)
		p.openFailed(err)
	}
}

// awaitGate waits a little for t to have something to send.
func (s *stream) awaitGate() {
	timer := time.NewTimer(gatedWait)
	defer timer.Stop()
	select {
	case <-s.t.wake:
	case <-timer.C:
	case <-s.t.failed:
	case <-s.p.ctx.Done():
	}
}

// fill takes g, and what else is ready, into the request's body, up to what
// the dialect, the window and the limits allow.
func (s *stream) fill(g segment) {
	records, bytes := s.most()
	for {
		if rest := s.add(g, records, bytes); rest.records() > 0 {
			s.t.putBack(rest)
			return
		}
		if s.sent.records >= records || s.sent.size >= bytes {
			return
		}
		var ok bool
		if g, ok = s.ready(); !ok {
			return
		}
	}
}

// most returns the most records and bytes of this request.
func (s *stream) most() (records, bytes int) {
	p := s.p
	records, bytes = s.wire.bounds()
	less := func(bound *int, n int) {
		if n > 0 {
			*bound = min(*bound, n)
		}
	}
	less(&records, s.limit.records)
	less(&bytes, s.limit.bytes)
	less(&records, int(p.mostRecords.Load()))
	less(&bytes, int(p.mostBytes.Load()))
	if s.paced() {
		r, b := p.limiter.Request()
		less(&records, r)
		less(&bytes, b)
	}
	if s.t.alone.Load() > 0 {
		records = 1
	}
	return records, bytes
}

// add appends the records of g that fit and returns those that do not. What the
// dialect cannot carry is rejected here.
func (s *stream) add(g segment, records, bytes int) (rest segment) {
	q := s.sent
	from := g.from
	took := func(to int) {
		if part := g; from < to {
			part.from, part.to = from, to
			q.segments = append(q.segments, part)
		}
	}
	for i := g.from; i < g.to; i++ {
		rec := g.b.Bytes(i, i+1)
		try := g.b.Try(i)
		alone := try != nil && try.Alone
		if q.records > 0 && (q.records >= records || q.size+len(rec) > bytes || alone || q.alone) {
			took(i)
			g.from = i
			return g
		}
		if err := s.wire.add(q, rec); err != nil {
			took(i)
			from = i + 1
			s.turnAway(g, i, err)
			continue
		}
		q.records++
		q.size += len(rec)
		q.alone = alone
	}
	took(g.to)
	g.from = g.to
	return g
}

// turnAway rejects record i of g's batch, which cannot be sent in this dialect.
func (s *stream) turnAway(g segment, i int, why error) {
	s.p.reject(s.t, g.b, i, Rejection{
		Code: http.StatusBadRequest, Reason: "dialect",
		Message: fmt.Sprintf("the record cannot be sent by dialect %s: %s", s.p.target.Dialect, why),
	})
}

// reject ends record i of b outside of a reading: it adds the attempts there
// were before this one.
func (p *Pool) reject(t *topic, b *record.Batch, i int, why Rejection) {
	if try := b.Try(i); try != nil {
		why.Attempts += int(try.Attempts)
	}
	p.handler.Rejected(b, i, why)
	t.rejected()
	if p.ordered {
		t.release(b.Keys[i : i+1])
	}
	b.Resolve(1)
	t.settled(1)
}

// paceRequest waits until the limits allow the request's records; else it puts
// them back and returns false.
func (s *stream) paceRequest() bool {
	q := s.sent
	if !s.paced() {
		return true
	}
	d := s.p.limiter.Take(time.Now(), q.records, q.size)
	if d > 0 {
		s.p.stats.waited(limitRecords, d)
	}
	if s.p.sleep(d) && !s.p.given(s.t) {
		return true
	}
	s.p.limiter.Give(q.records, q.size)
	s.p.limiter.GiveOpen()
	s.t.putBack(q.segments...)
	return false
}

// launch gets a connection, sends the request over it and waits for the answer
// to be read. With an error nothing was sent, and the segments are the caller's.
func (s *stream) launch() error {
	p, q := s.p, s.sent
	s.url = p.where(s.t, s.wire)
	head, authorization, err := p.requestHead(p.ctx, s.url, s.wire, len(q.body))
	if err != nil {
		return err
	}
	l, err := p.link(s.url)
	if err != nil {
		s.t.unredirect()
		return err
	}
	now := time.Now()
	s.authorization, s.born = authorization, now
	s.touch()
	s.attach(l) // from here on the watch looks at it
	p.stats.opened()
	for _, g := range q.segments {
		g.sent = now
		n, size := g.records(), g.size()
		p.stats.sent(g.b.Route, n, size, g.resent())
		s.win.push(g) // never closed: nobody reads yet
	}
	s.records.Store(int64(q.records))
	l.records += int64(q.records)
	if s.t.alone.Load() > 0 {
		s.t.alone.Add(-int64(q.records))
	}
	if q.keyless {
		p.sayKeyless()
	}
	go s.read.run()
	s.writeRequest(head)
	<-s.dead
	if s.read.everGood {
		raise(&p.mostTaken, int64(q.size))
	}
	if s.read.clean && !s.read.wroteBadly() && !s.broken.Load() {
		s.broken.Store(true)
		l.parse, l.body, l.entries = s.read.parse, s.read.body, s.read.entries
		p.keep(l)
	} else if !s.broken.Swap(true) {
		l.Close()
	}
	return nil
}

// attach makes l the connection of s and s one of the Pool's.
func (s *stream) attach(l *link) {
	p := s.p
	s.link = l
	s.read.ans, s.read.parse = l.ans, l.parse
	s.read.body, s.read.entries = l.body, l.entries
	p.mu.Lock()
	s.conn = l
	p.connected = true
	p.live[s] = struct{}{}
	p.mu.Unlock()
}

// writeRequest writes head and body.
func (s *stream) writeRequest(head []byte) {
	body := s.sent.body
	if len(body) < headWithBody {
		head, body = append(head, body...), nil
	}
	err := s.writeAll(head)
	if err == nil && len(body) > 0 {
		err = s.writeAll(body)
	}
	if err == nil {
		s.finished.Store(true)
		s.ended.Store(int64(s.p.since(time.Now())))
	}
}

// where returns the address of t's next POST.
func (p *Pool) where(t *topic, w wire) *url.URL {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.redirect != nil {
		return t.redirect
	}
	return w.url(&p.target, t.name)
}

// unredirect forgets a redirect that led nowhere.
func (t *topic) unredirect() {
	t.mu.Lock()
	t.redirect = nil
	t.mu.Unlock()
}

// sayKeyless warns, once, where a missing key is not a null one.
func (p *Pool) sayKeyless() {
	if p.target.Dialect == dialect.V2Pandaproxy {
		p.keyless.Do(func() {
			p.log.Warn("records without a key get an empty one: this server knows no other", "dialect", p.target.Dialect.String())
		})
	}
}

// shrink makes requests half as large as q, which was refused for its size:
// in bytes, or in records.
func (p *Pool) shrink(q *request, records bool) {
	bound, n := &p.mostBytes, int64(q.size/2)
	if records {
		bound, n = &p.mostRecords, int64(q.records/2)
	}
	n = max(1, n)
	if !records {
		n = max(n, p.mostTaken.Load()) // as much was taken before
	}
	for {
		old := bound.Load()
		if old != 0 && old <= n {
			return
		}
		if bound.CompareAndSwap(old, n) {
			break
		}
	}
	p.log.Info("a request was refused for its size: the next ones are smaller", "records", q.records, "bytes", q.size, "halved_in_records", records)
}

// raise makes n of a that is less.
func raise(a *atomic.Int64, n int64) {
	for old := a.Load(); old < n && !a.CompareAndSwap(old, n); old = a.Load() {
	}
}

// plausible is what any endpoint takes in one request: one that refuses a record
// of less for its size refuses all of them, and the record is not to blame.
const plausible = 64 << 10

// loneMost is how many records in a row may be rejected for a refused request
// each, without one delivered between: more would be the endpoint's doing.
const loneMost = 3

// refusedWhole acts on a request that was refused for what it held, and returns
// what of it is to be sent again at once; ref's fate says so. A single record
// that was refused alone is rejected.
func (s *stream) refusedWhole(left []segment, n int, ref *refusal) []segment {
	if s.link == nil || n != s.sent.records {
		return left
	}
	_, concatenated := s.wire.(v3Records)
	poison := (ref.status == 400 || ref.status == 422) && !concatenated && s.t.proven.Load()
	switch {
	case ref.code == 42208 && n > 1:
		s.p.shrink(s.sent, true)
	case ref.status == http.StatusRequestEntityTooLarge && int64(s.sent.size) <= s.p.mostTaken.Load():
		ref.fate = openRetry // as large a request was taken before: it will be again
		return left
	case ref.status == http.StatusRequestEntityTooLarge && n > 1:
		s.p.shrink(s.sent, false)
	case poison && n > 1:
		s.t.alone.Store(int64(n)) // one of them is to blame: each goes alone
	case ref.status == http.StatusRequestEntityTooLarge && s.sent.size > plausible:
		return s.rejectLone(left, "too_large", ref)
	case poison && s.p.lone.Add(1) <= loneMost:
		return s.rejectLone(left, "bad_request", ref)
	default:
		return left
	}
	ref.fate, ref.unknown = openAgain, false
	return left
}

func (s *stream) rejectLone(left []segment, reason string, ref *refusal) []segment {
	g := left[0]
	ref.fate, ref.unknown = openAgain, false
	s.p.reject(s.t, g.b, g.from, Rejection{Code: ref.status, Reason: reason, Message: ref.Error(), Attempts: 1})
	return nil
}

// stale says whether a kept connection was closed before anything of an answer
// came over it: the next request takes a new one, and nothing is wrong.
func (s *stream) stale(err error) bool {
	var ref *refusal
	if s.link == nil || !s.link.used || err == nil || errors.As(err, &ref) || s.read.ans.bytesRead > 0 || s.reason() == endStalled {
		return false
	}
	s.p.links.drop(false)
	return true
}
