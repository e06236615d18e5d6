package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// maxErrorBody is how much of an answer that is no stream is read for its text.
const maxErrorBody = 64 << 10

// reading is the reader's half of a stream. Only writeFailed, wroteBadly and
// lastCall are for the writer.
type reading struct {
	s     *stream
	ans   *answer
	parse parser

	cur     segment // the segment under report
	has     bool
	at      int // next record of cur to be reported
	runFrom int // records [runFrom,at) of cur are delivered and not told yet

	delivered  int // since the last settle
	reported   int // likewise, of any code
	throttled  int // likewise, of 429s
	bytes      int
	goodBytes  int // of the delivered
	slowBytes  int // of those that drew 429
	final      int
	done       []uint32 // keys of what is final since the last settle
	everGood   bool
	suspect    bool // the last report blamed its own record for a syntax error
	terminal   *Verdict
	terminalAt string

	// Of a request: whether its connection can carry another, and what an answer
	// with an entry a record is taken apart in.
	keepOpen bool
	clean    bool
	body     []byte
	entries  []v2Entry
	rep      Report
	text     []byte // rep.Message lies here
	raw      []byte // rep.Raw lies here
	goods    int    // good records not handed on yet

	mu       sync.Mutex
	writeErr error
}

func (r *reading) init(s *stream) {
	r.s = s
	if s.conn != nil { // else a request's connection brings its own
		r.ans = newAnswer(s.conn)
	}
}

// writeFailed remembers why writing ended; the reader collects what is still
// in the socket and gives up when nothing more comes for a while.
func (r *reading) writeFailed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writeErr == nil {
		r.writeErr = err
		_ = r.s.conn.SetReadDeadline(time.Now().Add(lastWait))
	}
}

func (r *reading) wroteBadly() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.writeErr != nil
}

// lastCall bounds the wait for the end of an answer that has all its reports.
func (r *reading) lastCall() {
	_ = r.s.conn.SetReadDeadline(time.Now().Add(lastWait))
}

// run reads the answer to its end and settles or returns every record of the
// window. It is the stream's second goroutine.
func (r *reading) run() {
	s := r.s
	err := r.answer()
	r.settle()
	s.noMore.Store(true)
	left := s.win.close()
	if r.has {
		r.tellRun()
		rest := r.cur
		rest.from = r.at
		if rest.records() > 0 {
			left = append([]segment{rest}, left...)
		}
		r.has = false
	}
	r.clean = err == nil && len(left) == 0 && r.keepOpen && r.ans.over()
	r.afterEnd(left, err)
	// A writer inside Write has to come out: nobody reads there any more.
	_ = s.conn.SetWriteDeadline(time.Now())
	close(s.dead)
}

// answer reads head and reports. Its error is nil for a proper end, a *refusal
// for a response that is no stream.
func (r *reading) answer() error {
	h, err := r.ans.readHead()
	if err != nil {
		return err
	}
	r.keepOpen = h.keepOpen
	return r.s.wire.answer(r, h)
}

// stream reads the reports behind h, one after another.
func (r *reading) stream(h head) error {
	if err := r.checkHead(h); err != nil {
		return err
	}
	for {
		data, err := r.ans.next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				if r.parse.pending() {
					return fmt.Errorf("in the middle of a delivery report: %w", errCut)
				}
				return nil
			}
			return err
		}
		if err := r.reports(data); err != nil {
			if r.reported == 0 && !r.s.confirmed.Load() && errors.Is(err, errNotReport) {
				_ = r.s.conn.SetReadDeadline(time.Now().Add(lastWait))
				text := bytes.Clone(data) // it lies where rest reads to
				text = append(text, r.ans.rest(maxErrorBody)...)
				if isHTML(h, text) || !strings.Contains(h.contentType, "json") {
					return judgeStatus(h, text)
				}
				return fmt.Errorf("%w: it begins with %q", err, clip(text, 40))
			}
			return err
		}
		if !r.ans.more() {
			r.settle()
		}
	}
}

// checkHead returns a *refusal unless h opens a stream of reports.
func (r *reading) checkHead(h head) error {
	if h.status == 200 && !strings.HasPrefix(h.contentType, "text/") {
		if h.encoding != "" && h.encoding != "identity" {
			return compressed(h)
		}
		r.taken(h)
		return nil
	}
	_ = r.s.conn.SetReadDeadline(time.Now().Add(lastWait))
	return judgeStatus(h, r.ans.rest(maxErrorBody))
}

// taken tells the limiter of a POST that the server took.
func (r *reading) taken(h head) {
	now := time.Now()
	r.s.p.limiter.PostTaken(now, h.rates.told(now))
}

// compressed refuses an answer that is.
func compressed(h head) *refusal {
	return &refusal{
		status: h.status, fate: openStop, unknown: true, text: "the answer is compressed (" + h.encoding + ") though nobody asked for it",
		remedy: "something in between compresses: exempt this path from it, for reports would not arrive before megabytes of them",
	}
}

// reports takes a run of body bytes apart.
func (r *reading) reports(data []byte) error {
	for len(data) > 0 {
		if !r.detailed() {
			n, rest := r.parse.successes(data)
			if n > 0 {
				if err := r.good(n); err != nil {
					return err
				}
			}
			data = rest
		}
		rest, ok, err := r.parse.next(data)
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		data = rest
		if err := r.report(&r.parse.report); err != nil {
			return err
		}
	}
	return nil
}

// detailed says whether each report is wanted by itself.
func (r *reading) detailed() bool { return r.s.p.cfg.Reports || r.s.t.raw.Load() }

// advance makes cur the segment that holds the next record to be reported.
func (r *reading) advance() bool {
	if r.has && r.at < r.cur.to {
		return true
	}
	g, ok := r.s.win.pop()
	if !ok {
		r.has = false
		return false
	}
	r.cur, r.has, r.at, r.runFrom = g, true, g.from, g.from
	return true
}

var errSurplus = errors.New("more delivery reports than records were sent: reports can no longer be matched")

// good takes n reports that say 200.
func (r *reading) good(n int) error {
	r.reported += n
	for n > 0 {
		if !r.advance() {
			return errSurplus
		}
		k := min(n, r.cur.to-r.at)
		r.at += k
		r.delivered += k
		n -= k
		if r.at == r.cur.to {
			r.segmentDone()
		}
	}
	r.suspect = false
	return nil
}

// segmentDone tells of the delivered records of cur that were not told yet,
// and lets go of it.
func (r *reading) segmentDone() {
	r.s.p.latency(r.cur.sent)
	r.tellRun()
	r.has = false
}

// tellRun hands the run of delivered records before at to the handler.
func (r *reading) tellRun() {
	n := r.at - r.runFrom
	if n == 0 {
		return
	}
	b := r.cur.b
	size := len(b.Bytes(r.runFrom, r.at))
	r.bytes += size
	r.goodBytes += size
	r.s.p.stats.code(b.Route, 200, n)
	r.s.p.handler.Delivered(b, r.runFrom, r.at)
	if r.s.p.ordered {
		r.done = append(r.done, b.Keys[r.runFrom:r.at]...)
	}
	r.runFrom = r.at
	b.Resolve(n)
	r.final += n
}

// report takes one report the long way.
func (r *reading) report(rep *Report) error {
	s := r.s
	v := Judge(rep.ErrorCode, rep.Message)
	if v.Terminal {
		last := v // a copy: taking v's address would put every verdict on the heap
		r.terminal, r.terminalAt = &last, string(rep.Message)
		route := s.win.route()
		if r.has { // else cur is settled, and its batch somebody else's
			route = r.cur.b.Route
		}
		s.p.stats.code(route, rep.ErrorCode, 1)
		return errTerminal
	}
	return r.judged(rep, v)
}

// judged takes one report of which is known what it means.
func (r *reading) judged(rep *Report, v Verdict) error {
	s := r.s
	if !r.advance() {
		return errSurplus
	}
	if s.p.cfg.Reports || r.cur.b.Raw {
		s.p.handler.Report(r.cur.b, r.at, rep)
	}
	if v.Outcome == record.Delivered {
		r.reported++
		r.delivered++
		r.suspect = false
		r.at++
		if r.at == r.cur.to {
			r.segmentDone()
		}
		return nil
	}
	s.p.stats.code(r.cur.b.Route, rep.ErrorCode, 1)
	r.suspect = v.Outcome == record.Rejected
	r.tellRun()
	g, b, i := r.cur, r.cur.b, r.at
	r.bytes += len(b.Bytes(i, i+1))
	r.reported++
	r.at++
	r.runFrom = r.at
	done := r.at == r.cur.to
	r.fail(g, i, v, rep)
	if done {
		r.has = false
	}
	b.Resolve(1)
	if v.EndStream {
		s.end(end408)
		s.noMore.Store(true)
		s.kick()
	}
	if v.Hold {
		s.kick() // the writer has nothing to send any more
	}
	if v.Hold && !v.Denied {
		// Each further record would block the server's reader for up to a minute.
		s.end(endHeld)
		return errHeld
	}
	return nil
}

var (
	errTerminal = errors.New("the server ended the stream")
	errHeld     = errors.New("the topic takes no records")
)

// fail does what the verdict on record i of g's batch asks for.
func (r *reading) fail(g segment, i int, v Verdict, rep *Report) {
	s, b := r.s, g.b
	try := record.Try{}
	if t := b.Try(i); t != nil {
		try = *t
	}
	try.ErrorCode = int32(rep.ErrorCode)
	if v.Judged {
		try.Attempts++
	}
	if v.Alone {
		try.Alone = true
	}
	if v.Outcome == record.Rejected || v.Judged && int(try.Attempts) >= s.p.cfg.MaxAttempts {
		if v.Outcome == record.Rejected {
			try.Attempts++
		}
		s.p.handler.Rejected(b, i, Rejection{
			Code: rep.ErrorCode, Reason: v.Reason, Message: string(rep.Message), Attempts: int(try.Attempts),
		})
		s.t.rejected()
		if s.p.ordered {
			r.done = append(r.done, b.Keys[i])
		}
		r.final++
		return
	}
	if v.Outcome == record.Unknown {
		try.Resent++
		s.p.stats.unknown(1)
	}
	s.p.stats.retried(v.Reason, 1)
	switch {
	case v.Hold:
		s.t.block(g, i, try, v, rep.ErrorCode, string(rep.Message))
	case v.Throttle:
		r.throttled++
		r.slowBytes += len(b.Bytes(i, i+1))
		s.t.retry(g, i, try, s.t.throttleLevel())
	default:
		s.t.retry(g, i, try, max(0, int(try.Attempts)-1))
	}
}

// settle does what is due once a read and not once a report.
func (r *reading) settle() {
	s := r.s
	if r.reported == 0 {
		return
	}
	if r.has {
		r.tellRun()
	}
	if !s.confirmed.Swap(true) {
		if s.silent.Load() && s.finished.Load() {
			s.p.answeredAtEnd(s)
		}
		s.t.proven.Store(!s.t.held())
		s.p.opened(s)
		if old := s.replaces; old != nil {
			old.replaced.Store(true)
			old.kick()
		}
	}
	s.touch()
	if r.delivered > 0 {
		r.everGood = true
		s.p.lone.Store(0)
		now := time.Now()
		s.p.lastGood.Store(int64(s.p.since(now)))
		s.p.limiter.Delivered(now, r.delivered, r.goodBytes)
		if s.t.troubled.Load() {
			s.t.recovered()
		}
	}
	if r.throttled > 0 {
		s.p.slowDown(r.throttled, r.slowBytes)
		r.throttled, r.slowBytes = 0, 0
	}
	s.win.release(r.reported, r.bytes)
	final := r.final
	r.reported, r.delivered, r.bytes, r.goodBytes, r.final = 0, 0, 0, 0, 0
	if s.finished.Load() {
		if records, _, _ := s.win.fill(); records == 0 {
			r.lastCall()
		}
	}
	if len(r.done) > 0 {
		s.t.release(r.done)
		r.done = r.done[:0]
	}
	if final > 0 {
		s.t.settled(final) // last: who waits for it finds all counted
	}
}

// afterEnd returns what the window still held to where it belongs, and tells
// the pool how the stream ended.
func (r *reading) afterEnd(left []segment, err error) {
	s := r.s
	n := 0
	for _, g := range left {
		n += g.records()
	}
	var ref *refusal
	unknown := n > 0
	switch {
	case errors.As(err, &ref):
		if left = s.refusedWhole(left, n, ref); left == nil {
			n = 0
		}
		unknown = n > 0 && ref.unknown
		s.end(endRefused)
	case r.terminal != nil:
		unknown = false
		s.end(endTerminal)
		left = r.blameHead(left)
	case err == nil && s.link != nil:
		s.end(endRequest)
	case err == nil:
		s.end(endDrain)
	default:
		s.end(endError)
	}
	final := s.p.cfg.OneShot && ref != nil && (ref.fate == openStop || ref.fate == openDenied)
	if !final && !s.p.closing.Load() { // else nothing is sent again
		if unknown {
			s.p.stats.unknown(n)
		}
		if n > 0 {
			s.p.stats.retried(s.reason(), n)
		}
	}
	for i := range left {
		left[i].again = true
	}
	s.t.putBack(left...)
	s.p.ended(s, err, ref, n, unknown)
}

// blameHead looks at the head of the window of a stream that ended terminally:
// everything before it was reported, so if the end belongs to a record, it is
// this one. It is rejected when the text says that it is too large, or when a
// second stream ended with it at its head; else it is sent once more, alone in
// its batch, with that noted.
func (r *reading) blameHead(left []segment) []segment {
	if len(left) == 0 || r.suspect || r.terminal.Reason != "stream_ended" {
		return left
	}
	s, head, rest := r.s, left[0], left
	try := record.Try{}
	if t := head.b.Try(head.from); t != nil {
		try = *t
	}
	try.Heads++
	try.ErrorCode = 400
	if rest[0].from++; rest[0].records() == 0 {
		rest = rest[1:]
	}
	if r.terminal.HeadTooLarge || try.Heads >= 2 {
		reason := "malformed"
		if r.terminal.HeadTooLarge {
			reason = "too_large"
		}
		s.p.handler.Rejected(head.b, head.from, Rejection{
			Code: 400, Reason: reason, Message: r.terminalAt, Attempts: int(try.Attempts) + 1,
		})
		s.t.rejected()
		if s.p.ordered {
			s.t.release(head.b.Keys[head.from : head.from+1])
		}
		s.t.settled(1)
	} else {
		one := head.b.Fresh()
		one.Again(head.b, head.from, try)
		one.Seal()
		rest = append([]segment{{b: one, to: 1}}, rest...)
	}
	head.b.Resolve(1)
	return rest
}
