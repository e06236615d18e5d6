package stream

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// The sizes of a stream's writing.
const (
	// coalesce: segments below this are gathered with what else is ready into
	// one write; a batch of a healthy flow is larger and goes out uncopied.
	coalesce = 8 << 10
	// writePiece is how much one Write takes of a huge record, so that progress
	// on a slow line is seen.
	writePiece = 256 << 10
	// lastWait is how long a stream that has all its reports waits for the
	// server's last chunk before it closes the connection.
	lastWait = 2 * time.Second
	// slice is how long a stream keeps its place while other topics wait for
	// one: with 4 streams 4 POSTs a second, of 25 that a cluster takes. It keeps
	// it longer while the budget of POSTs is used up: a place that is given away
	// would wait there for nobody's good.
	slice = time.Second
)

// Why a stream ended, as metrics say it.
const (
	endAge      = "age"
	endIdle     = "idle"
	endDrain    = "drain"
	end408      = "408"
	endTerminal = "terminal"
	endStalled  = "stalled"
	endRefused  = "refused"
	endHeld     = "held"
	endSilent   = "silent"
	endRequest  = "request" // a request, of which the answer came whole
	endError    = "error"
)

// stream is one connection with one open POST. The goroutine that made it
// writes the request's body; a second one reads the answer. Between them is
// the window.
type stream struct {
	p       *Pool
	t       *topic
	conn    net.Conn
	wire    wire
	link    *link    // of a request; nil for a stream
	sent    *request // likewise
	url     *url.URL
	win     *window
	born    time.Time
	jitter  float64 // 0.8..1.2, times age and records at which it is replaced
	release func()  // lets the next goroutine try, while opens fail

	replaces *stream // ends once this one has brought a report

	limit    streamLimit
	scratch  []byte
	lastSend time.Time // of records
	spare    bool      // it ends for being idle, and its topic no longer counts it
	lastBeat time.Time

	dead      chan struct{} // closed by the reader when the answer has ended
	poke      chan struct{} // one token: look at the flags below
	noMore    atomic.Bool   // write nothing more: 408, terminal report
	retire    atomic.Bool   // age reached: replace me
	replacing atomic.Bool   // a replacement was asked for
	retireAt  atomic.Int64  // not before this pool time; moves when a replacement failed
	records   atomic.Int64  // sent
	replaced  atomic.Bool   // the replacement works
	confirmed atomic.Bool   // a report has come
	silent    atomic.Bool   // no report came for too long: the body ends here
	ended     atomic.Int64  // when the last chunk was written, as pool time
	finished  atomic.Bool   // the last chunk is written
	progress  atomic.Int64  // last report or piece written, as pool time
	broken    atomic.Bool   // the connection is closed by us
	why       atomic.Pointer[string]

	authorization string // header it was opened with

	read reading
}

// streamLimit is the window's size; until the first report only one batch goes
// out, for an endpoint that refuses the stream to cost no more than that.
type streamLimit struct {
	records, bytes int
}

func newStream(p *Pool, t *topic, conn net.Conn) *stream {
	now := time.Now()
	s := &stream{
		p: p, t: t, conn: conn, win: newWindow(), born: now, lastSend: now, jitter: 0.8 + 0.4*rand.Float64(),
		dead: make(chan struct{}), poke: make(chan struct{}, 1),
		limit: streamLimit{records: p.cfg.InFlight, bytes: p.cfg.InFlightBytes},
		wire:  p.speaks, release: func() {},
	}
	s.progress.Store(int64(p.since(now)))
	s.read.init(s)
	return s
}

// end notes why the stream ends. The first reason stays, unless it was only that
// nothing was left to be sent and then something went wrong.
func (s *stream) end(reason string) {
	if !s.why.CompareAndSwap(nil, &reason) && s.reason() == endDrain {
		s.why.Store(&reason)
	}
}

func (s *stream) reason() string {
	if r := s.why.Load(); r != nil {
		return *r
	}
	return endError
}

// kick wakes the writer to look at the flags.
func (s *stream) kick() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// abort closes the connection: reader and writer both end.
func (s *stream) abort(reason string) {
	s.end(reason)
	if !s.broken.Swap(true) {
		s.conn.Close()
	}
}

// write feeds the stream until it ends, and ends its body properly when it can.
func (s *stream) write() {
	for {
		g, ok := s.next()
		if !ok {
			break
		}
		if !s.send(g) {
			break
		}
	}
	s.finish()
}

// next waits for something to send. ok is false when the stream is to end.
func (s *stream) next() (g segment, ok bool) {
	for {
		if s.over() {
			return segment{}, false
		}
		if s.p.starving.Load() > 0 && time.Since(s.born) > slice && s.p.limiter.OpenSpare(time.Now()) {
			s.end(endIdle) // others wait for a stream: this topic goes to the end of the queue
			return segment{}, false
		}
		if !s.roomy() {
			if s.p.draining.Load() && !s.confirmed.Load() && s.t.sentAll() {
				// The first report is all that is waited for, and there is nothing
				// to be sent behind it: what buffers requests answers at their end.
				s.end(endDrain)
				return segment{}, false
			}
			if s.p.starving.Load() > 0 && !s.confirmed.Load() && s.t.sentAll() {
				s.end(endIdle) // likewise: others wait for the place
				return segment{}, false
			}
			s.wait(nil, s.win.space)
			continue
		}
		if g, ok = s.t.take(); ok {
			return g, true
		}
		if g, ok = s.t.pull(); ok {
			return g, true
		}
		if s.t.gated.Load() && s.t.held() && !s.t.probing() {
			s.end(endHeld) // it takes none for a while: the place is for others
			return segment{}, false
		}
		fresh := s.t.fresh
		if s.t.gated.Load() || s.p.ordered { // what is in order is waited for by wake
			fresh = nil
		}
		if s.p.starving.Load() > 0 {
			s.end(endIdle)
			return segment{}, false
		}
		if b := s.wait(fresh, nil); b != nil {
			return s.t.whole(b), true
		}
	}
}

// over says whether the writer has to stop, and why.
func (s *stream) over() bool {
	select {
	case <-s.dead:
		return true
	default:
	}
	switch {
	case s.noMore.Load() || s.broken.Load():
		return true
	case s.p.closing.Load():
		s.end(endDrain)
		return true
	case s.replaced.Load():
		s.end(endAge)
		return true
	case s.silent.Load() && !s.confirmed.Load():
		s.end(endSilent)
		return true
	case s.retire.Load() && !s.replacing.Load():
		if records, _, _ := s.win.fill(); records == 0 && time.Since(s.lastSend) > time.Second {
			s.end(endAge) // idle: a replacement would only idle in its place
			return true
		}
		s.replacing.Store(true)
		s.p.replace(s)
	}
	select {
	case <-s.t.failed:
		s.end(endHeld)
		return true
	default:
	}
	return false
}

// wait blocks until there is a fresh batch, or anything else to look at.
func (s *stream) wait(fresh <-chan *record.Batch, space <-chan struct{}) *record.Batch {
	wake := s.t.wake
	if space != nil {
		wake = nil // leave the token to a writer that has room
	}
	select {
	case b := <-fresh:
		return b
	case <-wake:
	case <-space:
	case <-s.dead:
	case <-s.t.failed:
	case <-s.poke:
		s.upkeep()
	}
	return nil
}

// upkeep does what comes with time: heartbeat, rotation, the end of idling.
func (s *stream) upkeep() {
	if s.over() {
		return
	}
	now := time.Now()
	records, _, _ := s.win.fill()
	idle := now.Sub(s.lastSend)
	switch {
	case idle >= s.p.cfg.IdleEnd && records == 0 && s.t.spared():
		s.spare = true
		s.end(endIdle)
		s.noMore.Store(true)
	case now.Sub(s.p.at(s.progress.Load())) >= s.p.cfg.Heartbeat && min(idle, now.Sub(s.lastBeat)) >= s.p.cfg.Heartbeat:
		// A newline between records is no record; it resets the server's idle timer.
		if s.writeAll([]byte("1\r\n\n\r\n")) == nil {
			s.lastBeat = now // and not lastSend: a heartbeat does not end idling
		}
	}
}

// roomy says whether the window takes at least one more record.
func (s *stream) roomy() bool {
	records, bytes, _ := s.win.fill()
	if records == 0 {
		return true
	}
	if !s.confirmed.Load() {
		return false
	}
	return records < s.limit.records && bytes < s.limit.bytes
}

// send writes the records of g, in parts where window or limits say so. It
// returns false when the stream is over; what was not written is put back.
func (s *stream) send(g segment) bool {
	for g.records() > 0 {
		n, size := s.fit(g)
		if n == 0 {
			s.wait(nil, s.win.space)
			if s.over() {
				s.t.putBack(g)
				return false
			}
			continue
		}
		if !s.pace(n, size) {
			s.t.putBack(g)
			return false
		}
		part := g
		part.to, part.sent = g.from+n, time.Now()
		var out []byte
		switch {
		case part.from == 0 && part.to == g.b.Len() && size >= coalesce && g.sent.IsZero():
			// Only the first time: the writer of the stream it was on before may
			// still be in these bytes, and Chunk writes around them.
			out = g.b.Chunk()
		case n == g.records() && size < coalesce && !s.paced():
			return s.gather(part)
		default:
			out = s.chunk(part)
		}
		g.from += n
		route := part.b.Route
		part.b.Hold() // a quick report must not recycle what is being written
		if !s.win.push(part) {
			g.from -= n
			s.t.putBack(g)
			part.b.Resolve(1)
			return false
		}
		err := s.writeAll(out)
		part.b.Resolve(1)
		s.records.Add(int64(n))
		s.lastSend = part.sent
		s.p.stats.sent(route, n, size, part.resent())
		if err != nil {
			if g.records() > 0 {
				s.t.putBack(g)
			}
			return false
		}
		if s.over() {
			if g.records() > 0 {
				s.t.putBack(g)
			}
			return false
		}
	}
	return true
}

// gather writes a small segment together with whatever else is ready, in one
// chunk and one system call.
func (s *stream) gather(first segment) bool {
	body := append(s.scratch[:0], "00000000\r\n"...)
	g, total := first, 0
	for {
		// Copied before it is in the window: from then on a report may free it.
		whole := append(body, g.b.Bytes(g.from, g.to)...)
		n, size, route := g.records(), g.size(), g.b.Route
		if !s.win.push(g) {
			s.t.putBack(g)
			break
		}
		body = whole
		total += n
		s.p.stats.sent(route, n, size, g.resent())
		if len(body) > retryBatchBytes || !s.roomy() {
			break
		}
		var ok bool
		if g, ok = s.ready(); !ok {
			break
		}
		if n, size := s.fit(g); n < g.records() || size >= coalesce {
			s.t.putBack(g)
			break
		}
		g.sent = first.sent
	}
	if total == 0 {
		return false
	}
	s.scratch = body
	err := s.writeAll(frame(body))
	s.records.Add(int64(total))
	s.lastSend = first.sent
	return err == nil && !s.over()
}

// ready returns the next segment when there is one at once.
func (s *stream) ready() (segment, bool) {
	if g, ok := s.t.take(); ok {
		return g, true
	}
	return s.t.pull()
}

// chunk copies a part of a batch, framed, into the scratch buffer.
func (s *stream) chunk(part segment) []byte {
	s.scratch = append(s.scratch[:0], "00000000\r\n"...)
	s.scratch = append(s.scratch, part.b.Bytes(part.from, part.to)...)
	return frame(s.scratch)
}

// frame makes a chunk of body, which begins with ten bytes kept free for the
// size line, and returns where it starts.
func frame(body []byte) []byte {
	const hexDigits = "0123456789abcdef"
	at := 8
	for n := len(body) - 10; n > 0; n >>= 4 {
		at--
		body[at] = hexDigits[n&15]
	}
	return append(body, '\r', '\n')[at:]
}

// fit returns how many records at the head of g may be sent now, and their
// size: what window and quantum allow, but one at least when nothing is in
// flight. 0 means wait for space.
func (s *stream) fit(g segment) (n, size int) {
	records, bytes, _ := s.win.fill()
	maxRecords, room := s.limit.records-records, s.limit.bytes-bytes
	if records > 0 && (maxRecords <= 0 || room <= 0 || !s.confirmed.Load()) {
		return 0, 0
	}
	maxBytes := room
	if s.paced() {
		qr, qb := s.p.limiter.Quantum()
		if qr > 0 {
			maxRecords = min(maxRecords, qr)
		}
		if qb > 0 {
			maxBytes = min(maxBytes, qb)
		}
	}
	size = g.size()
	if g.records() <= maxRecords && size <= maxBytes {
		return g.records(), size
	}
	start := g.b.Start(g.from)
	for n < g.records() && n < maxRecords {
		next := g.b.Start(g.from+n+1) - start
		if next > room && records > 0 || next > maxBytes && n > 0 {
			break
		}
		n++
	}
	return n, g.b.Start(g.from+n) - start
}

// paced says whether limits hold at present.
func (s *stream) paced() bool { return s.p.limited || s.p.throttled.Load() }

// pace waits until the limits allow n records. It returns false when the
// stream is over first; the reservation is given back then.
func (s *stream) pace(n, size int) bool {
	if !s.paced() {
		return true
	}
	d := s.p.limiter.Take(time.Now(), n, size)
	if d <= 0 {
		return true
	}
	s.p.stats.waited(limitRecords, d)
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-s.dead:
		case <-s.t.failed:
		case <-s.poke:
			s.upkeep()
		}
		if s.over() {
			s.p.limiter.Give(n, size)
			return false
		}
	}
}

// writeAll writes b, piece by piece when it is huge. After an error the reader
// goes on: the reports that tell what happened may still be in the socket.
func (s *stream) writeAll(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writePiece)
		if _, err := s.conn.Write(b[:n]); err != nil {
			s.noMore.Store(true)
			s.end(endError)
			s.read.writeFailed(err)
			return err
		}
		b = b[n:]
		if len(b) > 0 {
			s.touch()
		}
	}
	return nil
}

// touch notes progress.
func (s *stream) touch() { s.progress.Store(int64(s.p.since(time.Now()))) }

// finish ends the request's body, unless the connection is past that, and
// waits for the reader to be done with the answer.
func (s *stream) finish() {
	select {
	case <-s.dead:
	default:
		if !s.broken.Load() && !s.read.wroteBadly() {
			s.finished.Store(true)
			s.ended.Store(int64(s.p.since(time.Now())))
			_ = s.conn.SetWriteDeadline(time.Now().Add(s.p.cfg.ReportTimeout))
			if _, err := s.conn.Write([]byte("0\r\n\r\n")); err != nil && !errors.Is(err, io.EOF) {
				s.read.writeFailed(err)
			}
			if records, _, _ := s.win.fill(); records == 0 {
				s.read.lastCall()
			}
		}
	}
	<-s.dead
	if !s.broken.Swap(true) {
		s.conn.Close()
	}
}
