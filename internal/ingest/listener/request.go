package listener

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

// keptBuffer is the longest buffer a request keeps for the next one.
const keptBuffer = 256 << 10

// Bounds on what an answer tells of single records; the dead letter has all.
const (
	maxRejected = 1000
	maxRuns     = 100
)

// rejection is one record that cannot be delivered, as an answer tells it.
type rejection struct {
	line    int64
	code    int
	message string
}

// run is records next to each other, both ends included.
type run struct{ from, to int64 }

// request is one plain request: its body, and the Origin of what is in it. A
// record's Position has the number of its line, or of the element of a JSON
// array, counted from 1.
//
// Ownership: its handler's. Whoever settles the last record ends it where the
// handler has left.
type request struct {
	l      *Listener
	c      *conn
	client net.Addr
	format format
	src    int32
	body   []byte // decoded
	held   int64  // bytes of the budget
	id     []byte // what record ids begin with
	idLen  int
	timer  *time.Timer // calls expire
	armed  bool
	done   chan struct{} // has one when the last record is settled; holds one
	late   chan struct{} // has one when the time to answer is over; holds one

	mu       sync.Mutex // guards all below; no other lock is taken with it held
	adding   bool       // not all are with the router yet
	inside   bool       // the handler is in the router, which may wait
	left     bool       // nobody waits any longer
	err      error      // of the router
	total    int64      // records of it, so far
	settled  int64
	accepted int64
	refused  int64
	runs     []run // of refused ones
	why      string
	rejected int64
	told     []rejection
}

var requests = sync.Pool{New: func() any {
	return &request{done: make(chan struct{}, 1), late: make(chan struct{}, 1)}
}}

// newRequest returns a request that is to be read.
func (l *Listener) newRequest(c *conn, f format) *request {
	r := requests.Get().(*request)
	r.l, r.c, r.client, r.format, r.adding = l, c, c.RemoteAddr(), f, true
	return r
}

// hold takes n bytes of the budget.
func (r *request) hold(n int64) bool {
	if !r.l.memory.take(n, r.held) {
		return false
	}
	r.held += n
	return true
}

// grow moves buf to one of n bytes.
func (r *request) grow(buf *[]byte, n int64) bool {
	if !r.hold(n) {
		return false
	}
	old := int64(cap(*buf))
	*buf = append(make([]byte, 0, n), *buf...)
	if old > 0 {
		r.held -= old
		r.l.memory.give(old)
	}
	return true
}

// shed gives the bytes of one buffer back, and keeps it when it is small.
func (r *request) shed(buf *[]byte) {
	n := min(int64(cap(*buf)), r.held)
	r.held -= n
	r.l.memory.give(n)
	if *buf = (*buf)[:0]; n > keptBuffer {
		*buf = nil
	}
}

// unload gives all bytes back: the body is not needed any more.
func (r *request) unload() {
	r.l.memory.give(r.held)
	r.held = 0
	if cap(r.body) > keptBuffer {
		r.body = nil
	}
}

// arm starts the time an answer may take, once.
func (r *request) arm() {
	if r.armed || r.l.cfg.RespondTimeout == 0 {
		return
	}
	if r.armed = true; r.timer == nil {
		r.timer = time.AfterFunc(r.l.cfg.RespondTimeout, r.expire)
	} else {
		r.timer.Reset(r.l.cfg.RespondTimeout)
	}
}

// expire says that the time to answer is over. Where the handler is held up in
// the router the answer is given here, and the connection ends.
func (r *request) expire() {
	c := r.c
	c.late.Lock() // keeps the connection open
	defer c.late.Unlock()
	r.mu.Lock()
	if !r.inside {
		r.mu.Unlock()
		signal(r.late)
		return
	}
	r.left = true
	c.silent.Store(true)
	l, body := r.l, r.unsettled("within "+r.l.cfg.RespondTimeout.String())
	r.mu.Unlock()
	l.refused.Add(1)
	l.answered[fasthttp.StatusServiceUnavailable].Add(1)
	c.lastAnswer(body)
}

// recycle gives r back: nothing of it is on its way any more.
func (r *request) recycle() {
	r.mu.Lock() // whoever settled the last record may still be in its call
	clear(r.told)
	runs, told := r.runs[:0], r.told[:0]
	r.mu.Unlock()
	if r.armed && !r.timer.Stop() {
		return // expire may be about to look at it
	}
	*r = request{
		body: r.body[:0], id: r.id[:0], timer: r.timer, done: r.done, late: r.late, runs: runs, told: told,
	}
	requests.Put(r)
}

// take reads one plain request, gives its records to the router, and answers.
func (l *Listener) take(ctx *fasthttp.RequestCtx, c *conn, t *target) {
	r := l.newRequest(c, t.format)
	no := l.readBody(ctx, c, r, t.encoding)
	if no == nil && t.format == formatJSON {
		no = r.checkJSON()
	}
	if no != nil {
		r.unload()
		r.recycle()
		l.answer(ctx, no)
		return
	}
	if l.cfg.RecordIDs {
		r.setID(ctx.Request.Header.Peek("Idempotency-Key"))
	}
	r.src = l.reg.Register(r)
	r.arm()
	if no := r.waitTurn(); no != nil {
		l.reg.Release(r.src)
		r.unload()
		r.recycle()
		l.answer(ctx, no)
		return
	}
	told := r.add(l.router)
	<-l.turn
	if told { // r may be gone
		ctx.SetConnectionClose()
		return
	}
	select {
	case <-r.done:
		l.conclude(ctx, r)
	case <-r.late:
		l.leave(ctx, r, "within "+l.cfg.RespondTimeout.String())
	case <-l.failed:
		l.leave(ctx, r, "before this input ended")
	case <-l.over:
		l.leave(ctx, r, "before this agent stopped")
	}
}

// waitTurn waits for the turn to use the router. That may wait, for a cluster or
// for room in a spool, with its lock held: a request waits for its turn no
// longer than it may wait for its answer.
func (r *request) waitTurn() *refusal {
	l := r.l
	select {
	case l.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-r.late:
		return full("no room behind this input for %s: nothing of this body was taken, send it again", l.cfg.RespondTimeout)
	case <-l.failed:
		return full("this input has ended: %v", l.routerError())
	case <-l.over:
		return full("this agent is stopping: nothing of this body was taken, send it again")
	}
}

// add gives the records to the router. It returns true when that took so long
// that the client has its answer; r is not to be touched then.
func (r *request) add(router *ingest.Router) (told bool) {
	r.mu.Lock()
	r.inside = true
	r.mu.Unlock()
	router.Lock()
	n, err := r.records(router)
	if err == nil {
		err = router.Pause()
	}
	router.Unlock()
	if err != nil {
		r.l.fail(err)
	}
	r.unload()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.adding, r.inside, r.total, r.err = false, false, n, err
	told = r.left
	r.check()
	return told
}

// records cuts the body apart. It returns how many records it has.
func (r *request) records(router *ingest.Router) (n int64, err error) {
	if r.format == formatJSON {
		return r.elements(router)
	}
	cfg := &r.l.cfg
	for rest, line := r.body, int64(0); len(rest) > 0; {
		size := bytes.IndexByte(rest, '\n')
		payload := rest
		if size < 0 {
			size = len(rest)
		} else {
			payload = rest[:size]
			size++
		}
		rest = rest[size:]
		line++
		if cfg.StripCR && len(payload) > 0 && payload[len(payload)-1] == '\r' {
			payload = payload[:len(payload)-1]
		}
		if (cfg.SkipEmpty || r.format == formatNDJSON) && blank(payload, r.format == formatNDJSON) {
			continue
		}
		if err := r.one(router, payload, line, size); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// blank says that a line is empty, or has nothing but white space.
func blank(line []byte, space bool) bool {
	if len(line) == 0 {
		return true
	}
	return space && line[0] <= ' ' && len(bytes.TrimLeft(line, " \t\r")) == 0
}

func (r *request) one(router *ingest.Router, payload []byte, line int64, size int) error {
	var id []byte
	if r.idLen > 0 {
		r.id = strconv.AppendInt(r.id[:r.idLen], line, 10)
		id = r.id
	}
	return router.Add(payload, id, record.Position{Offset: line, Len: int32(size), Source: r.src})
}

// maxKey is the longest Idempotency-Key that is used.
const maxKey = 200

// setID says what the ids of this request's records begin with: what the client
// gave, so that a request sent again has the same ones, else a number.
func (r *request) setID(key []byte) {
	if n := len(key); n > 0 && n <= maxKey {
		r.id = append(r.id[:0], key...)
	} else {
		r.id = append(append(r.id[:0], r.l.boot...), '-')
		r.id = strconv.AppendInt(r.id, r.l.requests.Add(1), 10)
	}
	r.id = append(r.id, ':')
	r.idLen = len(r.id)
}

// checkJSON says why the body is not one JSON value.
func (r *request) checkJSON() *refusal {
	if json.Valid(r.body) {
		return nil
	}
	if len(bytes.TrimSpace(r.body)) == 0 {
		return refuse(fasthttp.StatusBadRequest, "the body is empty: application/json is one value, or an array of them")
	}
	var raw json.RawMessage
	err := json.Unmarshal(r.body, &raw)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return refuse(fasthttp.StatusBadRequest, "the body is not one JSON value, at byte %d: %s; nothing of it was taken (a value a line is application/x-ndjson)", syntax.Offset, syntax.Error())
	}
	return refuse(fasthttp.StatusBadRequest, "the body is not one JSON value: %v; nothing of it was taken", err)
}

// elements gives the value, or each of an array's, to the router. The body is
// known to be JSON.
func (r *request) elements(router *ingest.Router) (n int64, err error) {
	body := bytes.Trim(r.body, " \t\r\n")
	if body[0] != '[' {
		return 1, r.one(router, body, 1, len(body))
	}
	for i := skipSpace(body, 1); body[i] != ']'; {
		end := valueEnd(body, i)
		n++
		if err := r.one(router, body[i:end], n, end-i); err != nil {
			return n - 1, err
		}
		if i = skipSpace(body, end); body[i] == ',' {
			i = skipSpace(body, i+1)
		}
	}
	return n, nil
}

func skipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n' {
		i++
	}
	return i
}

// valueEnd returns where the JSON value at b[i], an element of an array, ends.
func valueEnd(b []byte, i int) int {
	for depth := 0; ; i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // of a number or literal
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
	}
}

// check tells the handler when all is settled. r.mu is held.
func (r *request) check() {
	if r.adding || r.settled < r.total || r.err != nil {
		return
	}
	if !r.left {
		r.done <- struct{}{}
		return
	}
	go r.release() // its caller must not wait
}

// release ends a request whose records are all settled.
func (r *request) release() {
	r.l.reg.Release(r.src)
	r.recycle()
}

// Where implements ingest.Origin.
func (r *request) Where(pos record.Position) (source string, offset int64) {
	return r.l.cfg.Name + " from " + r.client.String(), pos.Offset
}

// Delivered implements ingest.Origin.
func (r *request) Delivered(pos []record.Position) { r.taken(pos) }

// Buffered implements ingest.Origin.
func (r *request) Buffered(pos []record.Position) { r.taken(pos) }

func (r *request) taken(pos []record.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted += int64(len(pos))
	r.settle(len(pos))
}

// settle counts records, and ends the wait at the last. r.mu is held.
func (r *request) settle(n int) {
	r.settled += int64(n)
	r.check()
}

// Rejected implements ingest.Origin.
func (r *request) Rejected(pos record.Position, code int, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rejected++; len(r.told) < maxRejected {
		r.told = append(r.told, rejection{pos.Offset, code, clip(message, 500)})
	}
	r.settle(1)
}

// Refused implements ingest.Origin.
func (r *request) Refused(pos []record.Position, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused += int64(len(pos))
	r.why = clip(why.Error(), 300)
	for _, p := range pos {
		if n := len(r.runs); n > 0 && r.runs[n-1].to+1 == p.Offset {
			r.runs[n-1].to = p.Offset
		} else if n < maxRuns {
			r.runs = append(r.runs, run{p.Offset, p.Offset})
		}
	}
	r.settle(len(pos))
}

// conclude answers a request whose records are all settled.
func (l *Listener) conclude(ctx *fasthttp.RequestCtx, r *request) {
	r.mu.Lock()
	status := fasthttp.StatusOK
	message := ""
	if r.refused > 0 {
		status = fasthttp.StatusServiceUnavailable
		message = fmt.Sprintf("%d of %d records could not be taken: send those again (%s)", r.refused, r.total, r.why)
	}
	body := r.report(message, 0)
	r.mu.Unlock()
	r.release()
	l.sayTaken(ctx, status, body)
}

// leave answers a request of which records are not settled: they may be or not.
func (l *Listener) leave(ctx *fasthttp.RequestCtx, r *request, when string) {
	r.mu.Lock()
	if !r.adding && r.settled == r.total && r.err == nil { // just now
		r.mu.Unlock()
		<-r.done
		l.conclude(ctx, r)
		return
	}
	r.left = true
	body := r.unsettled(when)
	r.mu.Unlock()
	l.sayTaken(ctx, fasthttp.StatusServiceUnavailable, body)
}

// unsettled is the answer that not all records are settled. r.mu is held.
func (r *request) unsettled(when string) []byte {
	unknown := r.total - r.settled
	which := fmt.Sprintf("%d of %d records", unknown, r.total)
	if r.adding {
		unknown, which = -1, "those of this body that are not named here"
	}
	return r.report(fmt.Sprintf("not all records were settled %s: the fate of %s is not known yet. They may still be delivered; sending them again may make duplicates", when, which), unknown)
}

func (l *Listener) sayTaken(ctx *fasthttp.RequestCtx, status int, body []byte) {
	if status == fasthttp.StatusServiceUnavailable {
		ctx.Response.Header.Set("Retry-After", "1")
		l.refused.Add(1)
	}
	l.say(ctx, status, body)
}

// report says what became of the records so far. r.mu is held.
//
// Shape: {"accepted":N,"rejected":[{"line":3,"error_code":400,"message":"…"}]};
// error_code and message in front where not all were taken, and how many were
// refused, and which lines, or are unknown. Of more than maxRejected the list
// is cut, and rejected_count tells.
func (r *request) report(message string, unknown int64) []byte {
	b := make([]byte, 0, 64)
	b = append(b, '{')
	if message != "" {
		b = appendString(append(b, `"error_code":503,"message":`...), message)
		b = append(b, ',')
	}
	b = strconv.AppendInt(append(b, `"accepted":`...), r.accepted, 10)
	b = append(b, `,"rejected":[`...)
	for i, t := range r.told {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"line":`...), t.line, 10)
		b = strconv.AppendInt(append(b, `,"error_code":`...), int64(t.code), 10)
		b = append(appendString(append(b, `,"message":`...), t.message), '}')
	}
	b = append(b, ']')
	if r.rejected > int64(len(r.told)) {
		b = strconv.AppendInt(append(b, `,"rejected_count":`...), r.rejected, 10)
	}
	if r.refused > 0 {
		b = strconv.AppendInt(append(b, `,"refused":`...), r.refused, 10)
		b = append(b, `,"refused_lines":[`...)
		for i, s := range r.runs {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(append(b, '['), s.from, 10)
			b = append(strconv.AppendInt(append(b, ','), s.to, 10), ']')
		}
		b = append(b, ']')
	}
	if unknown > 0 {
		b = strconv.AppendInt(append(b, `,"unknown":`...), unknown, 10)
	}
	return append(b, "}\n"...)
}
