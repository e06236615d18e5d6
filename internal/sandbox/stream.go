package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// stream is one produce request: this goroutine reads and produces, the writer
// reports.
type stream struct {
	c              *conn
	req            *request
	body           *body
	cluster, topic string
	queue          *queue
	faults         *streamFaults
	ctx            context.Context
	cancel         context.CancelFunc
	unwatch        func() bool // stops looking at the sandbox's own end
	whole          bool        // the body is read whole and answered once

	mu     sync.Mutex // guards end and faults' replacement; may be held while signalling
	end    ending
	ended  chan struct{} // closed when end is set
	forced chan struct{} // closed when end no longer waits for reports
	timers []*time.Timer

	refused atomic.Pointer[answer]      // what endRefused says
	overdue atomic.Pointer[activeFault] // a terminal fault whose age has come

	opened  time.Time
	records int       // read so far
	buf     []byte    // body bytes from the record being read on
	arena   []byte    // serialised keys and values
	slab    []pending // records to come
	bound   produceRecord
	parts   int32 // partitions of the topic, 0 = not known yet
	aged    bool  // the grace time runs

	now time.Time // when the bytes being looked at came; after a wait, its end
}

// newStream sets up a produce request. The caller calls its close when the
// request has been answered.
func newStream(c *conn, req *request, cluster, topic string) *stream {
	sb := c.sb
	ctx, cancel := context.WithCancel(sb.ctx)
	st := &stream{
		c: c, req: req, body: newBody(c.br, req), cluster: cluster, topic: topic,
		queue: newQueue(), ctx: ctx, cancel: cancel,
		ended: make(chan struct{}), forced: make(chan struct{}), opened: sb.cfg.clock(),
	}
	st.unwatch = context.AfterFunc(sb.ctx, func() { st.finish(ending{kind: endLost}) })
	sb.stats.open.Add(1)
	if req.expect {
		st.body.before = func() { _ = c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n")) }
	}
	return st
}

// begin takes up the faults and time limits of the request.
func (st *stream) begin() {
	sb := st.c.sb
	st.adopt(sb.faults.Load())
	if sb.cfg.MaxRun > 0 {
		st.after(sb.cfg.MaxRun, ending{kind: endTimeout})
	}
}

func (st *stream) close() {
	sb := st.c.sb
	st.stopTimers()
	st.unwatch()
	st.cancel()
	sb.stats.bytes.Add(st.body.consumed)
	sb.stats.open.Add(-1)
}

// serveStream answers one produce request and says whether the connection may
// be used again.
func serveStream(c *conn, req *request, cluster, topic string) bool {
	st := newStream(c, req, cluster, topic)
	defer st.close()
	c.sb.stats.streams.Add(1)
	st.begin()
	w := newWriter(st)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run()
	}()
	st.checkEnds()
	st.read()
	<-done
	return st.endKind() == endClean && !w.failed && !req.close
}

// adopt takes the faults of set for this stream.
func (st *stream) adopt(set *faultSet) {
	f := set.forStream(st.topic)
	if st.whole {
		f.ends = slices.DeleteFunc(f.ends, func(e *activeFault) bool { return e.Kind != FaultReset && e.Kind != FaultCut })
	}
	st.mu.Lock()
	st.faults = f
	st.mu.Unlock()
	for _, e := range f.ends {
		if e.Age > 0 && e.Kind != FaultExpire {
			st.afterFunc(e.Age-st.c.sb.cfg.clock().Sub(st.opened), func() { st.endAtAge(e) })
		}
	}
	st.body.maxRead = 0
	if f.slowRead != nil {
		st.body.maxRead = max(1, f.slowRead.Rate/20)
	}
}

// current returns the stream's faults, for the writer.
func (st *stream) current() *streamFaults {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.faults
}

func (st *stream) after(d time.Duration, e ending) { st.afterFunc(d, func() { st.finish(e) }) }

func (st *stream) afterFunc(d time.Duration, fn func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.timers = append(st.timers, st.c.sb.afterFunc(d, fn))
}

func (st *stream) stopTimers() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, t := range st.timers {
		st.c.sb.stopTimer(t)
	}
	st.timers = nil
}

// read reads the body to its end, or until the stream is ended otherwise.
func (st *stream) read() {
	if st.faults.buffering {
		st.readBuffered()
		return
	}
	scan := newScanner()
	for !st.isEnded() {
		var err error
		before := st.body.consumed
		st.buf, err = st.body.appendNext(st.buf)
		if slow := st.faults.slowRead; slow != nil && err == nil {
			st.sleep(time.Duration(float64(time.Second) * float64(st.body.consumed-before) / float64(slow.Rate)))
		}
		switch {
		case err == nil, errors.Is(err, io.EOF):
			if !st.scan(scan, err != nil) {
				return
			}
		case errors.Is(err, errBadChunk):
			st.terminal("Error processing message: " + err.Error())
			return
		case errors.Is(err, io.ErrUnexpectedEOF): // the client closed its side; its other side may still read
			st.terminal("Error processing message: Early EOF")
			return
		case errors.Is(err, errIdle) && !st.c.sb.cfg.HideTerminal:
			ms := st.c.sb.cfg.IdleTimeout.Milliseconds()
			st.terminal(fmt.Sprintf("Error processing message: java.util.concurrent.TimeoutException: Idle timeout expired: %d/%d ms", ms, ms))
			return
		case st.overdue.Load() != nil:
			st.endBy(st.overdue.Load())
			return
		default:
			if !st.isEnded() {
				st.finish(ending{kind: endLost})
			}
			return
		}
	}
}

// scan works through the records in buf. It returns false when the stream is
// read no further.
func (st *stream) scan(scan *scanner, eof bool) bool {
	st.now = st.c.sb.cfg.clock()
	for {
		from, status := scan.next(st.buf, eof)
		switch status {
		case scanValue:
			st.record(st.buf[from:scan.pos], scan.soft)
			if st.isEnded() {
				return false
			}
		case scanMore:
			return st.compact(scan)
		case scanEOF:
			st.finish(ending{kind: endClean})
			return false
		case scanBroken:
			if scan.inValue {
				st.records++
				st.c.sb.stats.read.Add(1)
				st.reject(400, scan.err.Error())
			}
			st.terminal("Error processing message: " + scan.err.Error())
			return false
		}
	}
}

// compact drops the bytes of records done with. It returns false when the
// record being read is longer than any may be.
func (st *stream) compact(scan *scanner) bool {
	keep := scan.start
	if keep < 0 {
		keep = scan.pos
	}
	if scan.begun && keep > 0 {
		st.buf = st.buf[:copy(st.buf, st.buf[keep:])]
		scan.rebase(keep)
	}
	l := st.c.sb.limits
	most := maxSource
	if l.MessageTerminal && l.MessageBytes > 0 {
		most = l.MessageBytes
	}
	if len(st.buf) > most {
		st.tooLarge()
		return false
	}
	return true
}

// maxSource bounds the memory one record's source may take. The real server
// has no such bound; four times the longest record Kafka takes in any profile
// leaves room for base64 and escapes.
const maxSource = 4 * 20_000_000

func (st *stream) tooLarge() {
	st.terminal("Error processing message: Produce request size is larger than allowed threshold")
}

// record takes one JSON value through the server's steps: age, binding, rate
// limit, serialising, sending. src is only good until it returns.
// Source: kafka-rest StreamingResponse.writeToFuture, ProduceAction.produce.
func (st *stream) record(src []byte, soft error) {
	sb := st.c.sb
	if set := sb.faults.Load(); set != st.faults.set {
		st.adopt(set)
	}
	st.waitRoom()
	if st.isEnded() {
		return
	}
	if l := sb.limits; l.MessageTerminal && l.MessageBytes > 0 && len(src) > l.MessageBytes {
		st.tooLarge()
		return
	}
	st.records++
	sb.stats.read.Add(1)
	sb.stats.readRate.add(st.now, 1)
	p := st.newPending()
	p.slow = st.slowFor(src)
	if err := st.produce(p, src, soft); err != nil {
		if !p.fixed {
			p.code, p.text = err.code, err.text
		}
		st.queue.push(p)
		p.done()
	}
	st.checkEnds()
}

// produce sends p to Kafka, or says why not.
func (st *stream) produce(p *pending, src []byte, soft error) *codeError {
	sb := st.c.sb
	if old, drop := st.tooOld(); old {
		p.code, p.text, p.fixed = 408, usualText(408, st.topic, 0), true
		if drop {
			return &codeError{408, p.text}
		}
	}
	if err := bindMembers(&st.bound, src, st.whole); err != nil {
		return &codeError{400, err.Error()}
	}
	if soft != nil {
		return &codeError{400, soft.Error()}
	}
	if !sb.limiter.take(st.now, len(src), st.faults.set.taken(st.now)) {
		return &codeError{429, usualText(429, st.topic, 0)}
	}
	sb.stats.grantRate.add(st.now, 1)
	if f := st.reportFault(src); f != nil && !p.fixed {
		p.code, p.text, p.fixed = f.Code, f.Message, true
		if p.text == "" {
			p.text = usualText(f.Code, st.topic, sb.cfg.MaxBlock)
		}
		if !f.Stored {
			return &codeError{p.code, p.text}
		}
	}
	if err := st.serialize(p); err != nil {
		return err
	}
	if err := st.waitPartition(); err != nil {
		return err
	}
	st.queue.push(p)
	sb.broker.client.Produce(sb.ctx, &p.rec, p.acked)
	return nil
}

// serialize fills p.rec from the bound record.
func (st *stream) serialize(p *pending) *codeError {
	r := &st.bound
	if need := len(r.key.raw) + len(r.value.raw); cap(st.arena)-len(st.arena) < need {
		st.arena = make([]byte, 0, max(64<<10, need+need/4))
	}
	var err *codeError
	if st.arena, p.rec.Key, err = appendData(st.arena, &r.key); err != nil {
		return err
	}
	if st.arena, p.rec.Value, err = appendData(st.arena, &r.value); err != nil {
		return err
	}
	p.keyFormat, p.keySize = r.key.format, sizeOf(p.rec.Key)
	p.valueFormat, p.valueSize = r.value.format, sizeOf(p.rec.Value)
	if len(r.headers) > 0 {
		p.rec.Headers = append([]kgo.RecordHeader(nil), r.headers...)
	}
	if err := st.checkSize(&p.rec); err != nil {
		return err
	}
	p.rec.Topic, p.rec.Partition = st.topic, -1
	if r.hasPartition {
		if r.partition < 0 {
			return &codeError{40402, usualText(40402, st.topic, 0)}
		}
		p.rec.Partition = r.partition
	}
	if p.rec.Timestamp = r.timestamp; r.timestamp.IsZero() {
		p.rec.Timestamp = st.now
	} else if r.timestamp.Before(time.Unix(0, 0)) || r.timestamp.Unix() >= maxInstant {
		return &codeError{50002, fmt.Sprintf("Invalid timestamp: %d. Timestamp should always be non-negative or null.", r.timestamp.UnixMilli())}
	}
	if checkTopicName(st.topic) != nil {
		return &codeError{40002, "Invalid topics: [" + st.topic + "]"}
	}
	return nil
}

// checkSize applies max.request.size.
func (st *stream) checkSize(r *kgo.Record) *codeError {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value) + 10
	}
	if most := st.c.sb.broker.maxBytes; size > most {
		return &codeError{413, fmt.Sprintf("The message is %d bytes when serialized which is larger than %d, which is the value of the max.request.size configuration.", size+recordOverhead, most)}
	}
	return nil
}

func sizeOf(b []byte) int {
	if b == nil {
		return -1
	}
	return len(b)
}

// waitPartition waits, up to MaxBlock, for the topic and the partition that
// the record names. It holds up the whole stream, as the real server's
// producer.send does.
func (st *stream) waitPartition() *codeError {
	r, sb := &st.bound, st.c.sb
	wants := int32(1)
	if r.hasPartition {
		wants = r.partition + 1
	}
	unknown := st.faults.unknown != nil
	if !unknown && st.parts >= wants && sb.broker.knows(st.topic) {
		return nil
	}
	deadline := time.Now().Add(sb.cfg.MaxBlock)
	for fresh := false; ; fresh = true {
		if !unknown {
			n, err := sb.broker.partitions(st.ctx, st.topic, fresh || st.parts > 0 && st.parts < wants)
			if err == nil && n == 0 && sb.cfg.AutoCreate {
				_ = sb.broker.createTopic(st.ctx, st.topic, int32(sb.cfg.AutoCreatePartitions), -1, nil, false)
				n, err = sb.broker.partitions(st.ctx, st.topic, true)
			}
			if st.parts = n; err == nil && n >= wants {
				return nil
			}
			if errors.As(err, new(*kerr.Error)) { // as the real server's producer, at once
				return kafkaError(err, st.topic, -1, sb.cfg.MaxBlock)
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		st.sleep(min(left, 100*time.Millisecond)) // retry.backoff.ms
		if st.isEnded() {
			return &codeError{500, usualText(500, "", 0)}
		}
		if set := sb.faults.Load(); set != st.faults.set {
			st.adopt(set)
			unknown = st.faults.unknown != nil
		}
	}
	if st.parts > 0 && !unknown {
		return &codeError{40401, fmt.Sprintf("Partition %d of topic %s with partition count %d is not present in metadata after %d ms.",
			r.partition, st.topic, st.parts, sb.cfg.MaxBlock.Milliseconds())}
	}
	return &codeError{40401, usualText(40401, st.topic, sb.cfg.MaxBlock)}
}

// sleep waits for d, or until the stream is ended.
func (st *stream) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		st.now = st.c.sb.cfg.clock()
	case <-st.ended:
	}
}

// waitRoom waits until the stream has fewer than MaxInFlight records unreported.
func (st *stream) waitRoom() {
	for !st.queue.room(st.c.sb.cfg.MaxInFlight) {
		select {
		case <-st.queue.space:
			st.now = st.c.sb.cfg.clock()
		case <-st.ended:
			return
		}
	}
}

// reject reports a record that was not produced.
func (st *stream) reject(code int, text string) {
	p := &pending{st: st, code: code, text: text}
	st.queue.push(p)
	p.done()
}

// terminal reports what belongs to no record, and ends the stream.
func (st *stream) terminal(text string) {
	st.reject(400, "Bad Request: "+text)
	st.finish(ending{kind: endClose})
}

// newPending takes a record from the slab, which saves an allocation each.
func (st *stream) newPending() *pending {
	if len(st.slab) == 0 {
		st.slab = make([]pending, 64)
	}
	p := &st.slab[0]
	st.slab = st.slab[1:]
	p.st = st
	return p
}

// tooOld says whether the stream has passed its greatest age, and whether the
// record must then be kept out of Kafka. The first record to find it so starts
// the grace time.
func (st *stream) tooOld() (old, drop bool) {
	age := st.now.Sub(st.opened)
	cfg := &st.c.sb.cfg
	grace := cfg.MaxAgeGrace
	old, drop = age >= cfg.MaxAge, cfg.MaxAgeDrop
	for _, f := range st.faults.ends {
		if f.Kind != FaultExpire || old {
			continue
		}
		if f.Age > 0 && age >= f.Age || f.Age == 0 && st.records > f.After {
			old, drop = true, !f.Stored
			if f.Grace > 0 {
				grace = f.Grace
			}
		}
	}
	if old && !st.aged {
		st.aged = true
		st.after(grace, ending{kind: endNow})
	}
	return old, drop
}

// reportFault returns the first fault that gives this record its report.
func (st *stream) reportFault(src []byte) *activeFault {
	for _, f := range st.faults.reports {
		if f.hits(st.records, src) {
			return f
		}
	}
	return nil
}

// slowFor returns the faults that may delay this record's report.
func (st *stream) slowFor(src []byte) []*activeFault {
	var out []*activeFault
	for _, f := range st.faults.slow {
		if f.hits(st.records, src) {
			out = append(out, f)
		}
	}
	return out
}

// isTimeout says whether err is a deadline that passed.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
