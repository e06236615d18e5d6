package listener

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Bounds on what one stream has read and not reported. A client's own window is
// smaller as a rule: this program's is 8,192 records and 1 MiB. A slot with a
// report takes some 300 bytes, so that a stream holds 2.5 MB at most, and as
// much again of a client that does not read.
const (
	windowRecords = 8192
	windowBytes   = 8 << 20
	windowOut     = 1 << 20 // reports that are not written yet
)

// streamBuffer is what a stream reads into; a longer record borrows more.
const streamBuffer = 32 << 10

// slot is a record that is not reported yet.
type slot struct {
	final  bool
	size   int32
	since  int64  // sinceStart
	report []byte // as it goes out, when final; the cluster's own, before
}

// ending is how a stream ends once all its reports are out.
type ending uint8

const (
	endNone  ending = iota
	endClean        // the body was read to its end
	endSaid         // with one more report, that belongs to no record
	endLost         // the connection is gone
)

// stream is one produce request: this goroutine reads, the writer reports. It is
// the Origin of its records; a Position's offset counts them from 0.
//
// Concurrency: the reader's fields are its own; no other lock is taken with mu
// held, and nothing is waited for.
type stream struct {
	l       *Listener
	c       *conn
	client  net.Addr
	body    io.Reader
	topic   string
	src     int32
	chunked bool   // the answer is; not in HTTP/1.0
	keep    bool   // the client may send another request on the connection
	taken   []byte // the report of a record that has none of its own

	// The reader's.
	buf    []byte
	fill   int
	held   int64 // bytes of the budget
	scan   record.ScanState
	past   int64 // bytes of an over-long record that are gone
	pieces []piece
	began  time.Time // of a record that is not whole; zero: none

	// partial is when the record being waited for began, as sinceStart, 0 while none is;
	// and partFrom how many bytes the connection had then.
	partial  atomic.Int64
	partFrom atomic.Int64

	mu    sync.Mutex // guards all below
	slots []slot     // a ring: record k is in k modulo its length, a power of two
	base  int64      // the first record that is not reported
	next  int64      // the next record's number
	bytes int64      // of those between
	out   []byte     // reports in order, framed, to be written
	end   ending
	last  string // with endSaid
	cause string // why reading was interrupted, as a terminal report says it; "stop" for none
	dead  bool   // nothing can be written any more
	open  int64  // records with the router that are not settled
	left  bool   // nobody waits for those

	wake chan struct{} // to the writer; holds one
	room chan struct{} // to the reader; holds one
}

// piece is a record in buf that goes to the router.
type piece struct {
	seq      int64
	from, to int
}

// openStream answers a produce request on the connection itself: fasthttp would
// read it all before a report could go out.
func (l *Listener) openStream(ctx *fasthttp.RequestCtx, c *conn, t *target) {
	id := l.clusterID()
	if id == "" {
		id = t.cluster
	}
	s := &stream{
		l: l, c: c, client: c.RemoteAddr(), body: bodyOf(ctx, c), topic: t.topic, chunked: ctx.Request.Header.IsHTTP11(),
		slots: make([]slot, 64), wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	done := "delivered"
	if l.cfg.AfterBuffer {
		done = "buffered"
	}
	s.taken = appendString([]byte(`{"error_code":200,"cluster_id":`), id)
	s.taken = appendString(append(s.taken, `,"topic_name":`...), t.topic)
	s.taken = append(append(append(s.taken, `,"partition_id":-1,"offset":-1,"message":"`...), done...), `"}`...)
	s.keep = s.chunked && !ctx.Request.Header.ConnectionClose()
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(rest net.Conn) {
		if s.serve() && s.keep && c.resume(rest) {
			go c.again()
			return
		}
		_ = c.Close()
	})
}

// serve runs the stream to its end, and says whether the body was read to its
// own.
func (s *stream) serve() (whole bool) {
	l := s.l
	if !l.memory.wait(streamBuffer, 0, time.Second, l.stop) {
		s.turnAway()
		return false
	}
	s.held = streamBuffer
	s.buf = make([]byte, streamBuffer)
	s.src = l.reg.Register(s)
	written := make(chan struct{})
	go func() {
		defer close(written)
		s.write()
	}()
	how, last := s.read()
	s.mu.Lock()
	s.end, s.last = how, last
	s.mu.Unlock()
	signal(s.wake)
	l.memory.give(s.held)
	<-written
	if how == endSaid {
		s.c.drain.Store(true)
	}
	s.mu.Lock()
	s.left = true
	free := s.open == 0
	whole = how == endClean && s.cause == "" && !s.dead
	s.mu.Unlock()
	if free {
		l.reg.Release(s.src)
	}
	return whole
}

// turnAway answers a stream that there is no room for.
func (s *stream) turnAway() {
	s.l.refused.Add(1)
	s.l.answered[fasthttp.StatusServiceUnavailable].Add(1)
	s.c.drain.Store(true)
	_ = s.c.SetWriteDeadline(time.Now().Add(writeTime))
	body := `{"error_code":503,"message":"this agent holds as many bytes as it may (max_in_flight), or is stopping: try again"}`
	_, _ = io.WriteString(s.c, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: "+
		strconv.Itoa(len(body))+"\r\n\r\n"+body)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// terminalPrefix begins the report that belongs to no record.
// Source: kafka-rest, the messages of StreamingResponse.
const terminalPrefix = "Bad Request: Error processing message: "

// read takes the body apart to its end. It returns how the stream ends, with
// the message of the report that belongs to no record.
func (s *stream) read() (ending, string) {
	for {
		n, err := s.body.Read(s.buf[s.fill:])
		s.partial.Store(0) // what comes now is our own time
		came := time.Now()
		s.fill += n
		s.l.bytes.Add(int64(n))
		eof := errors.Is(err, io.EOF)
		how, last := s.cut(eof)
		switch {
		case how != endNone:
			return how, last
		case eof:
			return endClean, ""
		case err != nil:
			return s.broken(err)
		}
		if !s.makeRoom() {
			if how, last := s.ended(); how != endNone {
				return how, last
			}
			return endSaid, "no room for a record of over " + strconv.Itoa(len(s.buf)) + " bytes (max_in_flight): send it again"
		}
		s.mark(came)
	}
}

// broken says how a stream ends of which no more can be read.
func (s *stream) broken(err error) (ending, string) {
	if how, last := s.ended(); how != endNone {
		return how, last
	}
	if isTimeout(err) || s.c.state.Load() == closed {
		return endLost, ""
	}
	if s.scan.Pending() || s.past > 0 {
		if seq, ok := s.reserve(0); ok {
			s.settle(seq, failed(400, "Unexpected end-of-input: the body ends in the middle of this record"))
		}
	}
	return endSaid, "Early EOF: the body ends early or is not chunked as it says"
}

// ended says how a stream ends that was interrupted; endNone: it was not.
func (s *stream) ended() (ending, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dead:
		return endLost, ""
	case s.cause == causeStop || s.cause == "" && s.l.stopping():
		return endClean, ""
	case s.cause != "":
		return endSaid, s.cause
	}
	select {
	case <-s.l.failed:
		return endLost, ""
	default:
		return endNone, ""
	}
}

// causeStop interrupts without a report: the agent stops.
const causeStop = "stop"

// interrupt makes the reader end.
func (s *stream) interrupt(cause string) {
	s.mu.Lock()
	if s.cause == "" {
		s.cause = cause
	}
	s.mu.Unlock()
	_ = s.c.SetReadDeadline(time.Unix(1, 0))
	signal(s.room)
}

// mark notes whether a record is being read, for the writer to watch. came is
// when its last bytes did: the time since then was not the client's.
func (s *stream) mark(came time.Time) {
	if !s.scan.Pending() && s.past == 0 {
		s.began = time.Time{}
		return
	}
	now := time.Now()
	if s.began.IsZero() {
		s.began = now
		s.partFrom.Store(s.c.read.Load())
	} else {
		s.began = s.began.Add(now.Sub(came))
	}
	s.partial.Store(sinceStart(s.began))
}

// makeRoom makes place to read into. A long record borrows all that it may need
// at once: two that each held half would wait for each other.
func (s *stream) makeRoom() bool {
	if s.fill < len(s.buf) {
		if s.fill == 0 && len(s.buf) > streamBuffer { // it is over
			s.l.memory.give(s.held - streamBuffer)
			s.buf, s.held = make([]byte, streamBuffer), streamBuffer
		}
		return true
	}
	most := s.l.cfg.MaxRecordBytes
	if int64(len(s.buf)) > most {
		s.scan.Drop(s.fill)
		s.past += int64(s.fill)
		s.fill = 0
		return true
	}
	if want := min(most+1, s.l.cfg.MaxInFlight) - s.held; want > 0 && s.held == streamBuffer && most >= streamBuffer {
		if !s.l.memory.wait(want, s.held, s.patience(), s.l.stop) {
			return false
		}
		s.held += want
	}
	grown := make([]byte, min(2*int64(len(s.buf)), max(s.held, most+1)))
	copy(grown, s.buf)
	s.buf = grown
	return true
}

// patience is how long a stream waits for what others hold.
func (s *stream) patience() time.Duration {
	if t := s.l.cfg.RespondTimeout; t > 0 {
		return t
	}
	return 30 * time.Second
}

// cut takes the records out of what was read. It returns endNone when more is
// to be read.
func (s *stream) cut(eof bool) (ending, string) {
	used := 0
	defer func() { s.fill = copy(s.buf, s.buf[used:s.fill]) }()
	defer s.hand() // before they are moved
	for {
		inside := s.scan.Pending() || s.past > 0
		from, to, ok, bad := record.NextValue(s.buf[used:s.fill], &s.scan)
		piece := s.buf[used+from : used+to]
		switch {
		case ok:
			how, last := s.record(piece, used+from)
			used += to
			if how != endNone {
				return how, last
			}
		case bad != nil:
			used += to
			return s.rubbish(piece, inside)
		case eof:
			return s.rest(s.buf[used+from : s.fill])
		default:
			used += from
			return endNone, ""
		}
	}
}

// rubbish says how the stream ends at what is no JSON.
func (s *stream) rubbish(piece []byte, inside bool) (ending, string) {
	if len(piece) > 0 && !inside && piece[0] != '{' && piece[0] != '[' {
		return endSaid, unexpected(piece[0])
	}
	seq, ok := s.reserve(len(piece))
	if !ok {
		return s.ended()
	}
	const text = "Illegal unquoted character ((CTRL-CHAR, code 10)): has to be escaped using backslash to be included in string value"
	s.settle(seq, failed(400, text))
	return endSaid, text
}

// unexpected words what the real server's parser says of a byte.
// Source: FasterXML jackson-core ReaderBasedJsonParser.
func unexpected(c byte) string {
	return "Unexpected character ('" + string(rune(c)) + "' (code " + strconv.Itoa(int(c)) +
		")): expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
}

// rest is what is behind the last record when the body ends.
func (s *stream) rest(tail []byte) (ending, string) {
	if len(tail) == 0 && s.past == 0 {
		return endNone, ""
	}
	if s.scan.Pending() || s.past > 0 {
		text := "Unexpected end-of-input: expected close marker for Object"
		seq, ok := s.reserve(len(tail))
		if !ok {
			return s.ended()
		}
		s.settle(seq, failed(400, text))
		return endSaid, text
	}
	return s.record(tail, 0) // a number or literal: it is refused
}

// record takes one record, which begins at s.buf[at].
func (s *stream) record(rec []byte, at int) (ending, string) {
	size := int64(len(rec)) + s.past
	s.past = 0
	tooLong := size > s.l.cfg.MaxRecordBytes
	held := len(rec)
	if tooLong {
		held = 0
	}
	seq, ok := s.reserve(held)
	if !ok {
		return s.ended()
	}
	if tooLong {
		s.settle(seq, failed(413, "The message is "+strconv.FormatInt(size, 10)+" bytes, which is larger than max_record_bytes, "+
			strconv.FormatInt(s.l.cfg.MaxRecordBytes, 10)+"."))
		return endNone, ""
	}
	err := record.CheckRecord(rec)
	if err == nil {
		s.pieces = append(s.pieces, piece{seq, at, at + len(rec)})
		return endNone, ""
	}
	invalid, ok := err.(*record.InvalidError) //nolint:errorlint // CheckRecord returns nothing else
	if !ok {
		panic("BUG: a record is checked with " + err.Error())
	}
	s.settle(seq, failed(invalid.Code, invalid.Message))
	switch invalid.Reason {
	case record.ReasonInvalidJSON, record.ReasonInvalidUTF8, record.ReasonTooDeep: // the server's parser is out of step then
		return endSaid, invalid.Message
	}
	return endNone, ""
}

// failed makes a report that is no success.
// Source: kafka-rest ErrorResponse; a message is cut at its first newline.
func failed(code int, message string) []byte {
	if i := bytes.IndexByte([]byte(message), '\n'); i >= 0 {
		message = message[:i]
	}
	b := strconv.AppendInt([]byte(`{"error_code":`), int64(code), 10)
	return append(appendString(append(b, `,"message":`...), message), '}')
}

// hand gives the records at hand to the router, which may wait. false: no more
// can be taken.
func (s *stream) hand() bool {
	if len(s.pieces) == 0 {
		return true
	}
	s.mu.Lock()
	s.open += int64(len(s.pieces))
	s.mu.Unlock()
	router := s.l.router
	router.Lock()
	var err error
	for _, p := range s.pieces {
		pos := record.Position{Offset: p.seq, Len: int32(p.to - p.from), Source: s.src}
		if err = router.AddRecord(s.topic, s.buf[p.from:p.to], pos); err != nil {
			break
		}
	}
	if err == nil {
		err = router.Pause()
	}
	router.Unlock()
	s.pieces = s.pieces[:0]
	if err != nil {
		s.l.fail(err)
		return false
	}
	return true
}

// reserve numbers a record and waits until it may be unreported. false: it will
// never be.
func (s *stream) reserve(size int) (seq int64, ok bool) {
	for {
		s.mu.Lock()
		if s.dead || s.cause != "" {
			s.mu.Unlock()
			return 0, false
		}
		n := s.next - s.base
		if n == 0 && len(s.out) == 0 || n < windowRecords && s.bytes+int64(size) <= windowBytes && len(s.out) < windowOut {
			seq = s.add(size)
			s.mu.Unlock()
			return seq, true
		}
		s.mu.Unlock()
		if !s.hand() {
			return 0, false
		}
		select {
		case <-s.room:
		case <-s.l.stop:
			return 0, false
		case <-s.l.failed:
			return 0, false
		}
	}
}

// add makes the slot of the next record. s.mu is held.
func (s *stream) add(size int) int64 {
	if s.next-s.base == int64(len(s.slots)) {
		grown := make([]slot, 2*len(s.slots))
		for k := s.base; k < s.next; k++ {
			grown[k&int64(len(grown)-1)] = *s.at(k)
		}
		s.slots = grown
	}
	seq := s.next
	s.next++
	s.bytes += int64(size)
	o := s.at(seq)
	o.final, o.size, o.since, o.report = false, int32(size), sinceStart(time.Now()), o.report[:0]
	return seq
}

// at returns the slot of record k. s.mu is held.
func (s *stream) at(k int64) *slot { return &s.slots[k&int64(len(s.slots)-1)] }

// settle gives a record its report.
func (s *stream) settle(seq int64, report []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish(seq, report)
}

// finish is settle; nil keeps the report that is there. s.mu is held.
func (s *stream) finish(seq int64, report []byte) {
	if seq < s.base {
		return // it was given up
	}
	o := s.at(seq)
	if o.final {
		return
	}
	o.final = true
	if report != nil {
		o.report = append(o.report[:0], report...)
	}
	if seq == s.base {
		s.advance()
	}
}

// advance puts the reports that are next in the answer. s.mu is held.
func (s *stream) advance() {
	for ; s.base < s.next && s.at(s.base).final; s.base++ {
		o := s.at(s.base)
		s.bytes -= int64(o.size)
		if s.dead {
			continue
		}
		s.out = s.frame(s.out, o.report)
		if cap(o.report) > 4<<10 {
			o.report = nil
		}
	}
	signal(s.wake)
	signal(s.room)
}

// frame appends one report as a chunk of its own: there are clients that take a
// chunk for a report.
func (s *stream) frame(dst, report []byte) []byte {
	if s.chunked {
		dst = append(strconv.AppendInt(dst, int64(len(report)+2), 16), "\r\n"...)
	}
	dst = append(append(dst, report...), "\r\n"...)
	if s.chunked {
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// Where implements ingest.Origin.
func (s *stream) Where(pos record.Position) (source string, offset int64) {
	return s.l.cfg.Name + " from " + s.client.String(), pos.Offset
}

// Report implements ingest.Reporter.
func (s *stream) Report(pos record.Position, raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pos.Offset < s.base || s.at(pos.Offset).final {
		return
	}
	o := s.at(pos.Offset)
	o.report = append(o.report[:0], bytes.TrimSpace(raw)...)
}

// Delivered implements ingest.Origin.
func (s *stream) Delivered(pos []record.Position) { s.succeeded(pos) }

// Buffered implements ingest.Origin.
func (s *stream) Buffered(pos []record.Position) { s.succeeded(pos) }

func (s *stream) succeeded(pos []record.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pos {
		s.finish(p.Offset, s.unlessReported(p, s.taken))
	}
	s.close(len(pos))
}

// unlessReported returns report for a record without one of the cluster's.
// s.mu is held.
func (s *stream) unlessReported(pos record.Position, report []byte) []byte {
	if pos.Offset >= s.base && len(s.at(pos.Offset).report) > 0 {
		return nil
	}
	return report
}

// Rejected implements ingest.Origin.
func (s *stream) Rejected(pos record.Position, code int, message string) {
	report := failed(code, message)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish(pos.Offset, s.unlessReported(pos, report))
	s.close(1)
}

// Refused implements ingest.Origin: 429 makes a client send the record again.
func (s *stream) Refused(pos []record.Position, why error) {
	report := failed(fasthttp.StatusTooManyRequests, "Request rate limit exceeded: this agent has no room for the record now, send it again: "+why.Error())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pos {
		s.finish(p.Offset, report)
	}
	s.l.refused.Add(int64(len(pos)))
	s.close(len(pos))
}

// close counts records that are settled; the last one ends a stream that is
// over. s.mu is held.
func (s *stream) close(n int) {
	if s.open -= int64(n); s.open < 0 {
		panic("BUG: more records of a stream settled than it had")
	}
	if s.open == 0 && s.left {
		go s.l.reg.Release(s.src) // whoever settles must not wait
	}
}
