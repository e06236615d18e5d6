package sandbox

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// errTooLong is a body over the bound given to readWhole.
var errTooLong = errors.New("body too long")

// maxWhole bounds a body that is read whole. kafka-rest and Strimzi have no
// bound of their own; what one record's source may take is plenty.
const maxWhole = maxSource

// readWhole reads the request's body to its end. Behind an error the
// connection cannot be used again.
func (st *stream) readWhole(most int64) (err error) {
	for err == nil && !st.isEnded() {
		before := st.body.consumed
		st.buf, err = st.body.appendNext(st.buf)
		if slow := st.faults.slowRead; slow != nil && err == nil {
			st.sleep(time.Duration(float64(time.Second) * float64(st.body.consumed-before) / float64(slow.Rate)))
		}
		if st.body.consumed > most {
			return errTooLong
		}
	}
	st.now = st.c.sb.cfg.clock()
	if !errors.Is(err, io.EOF) {
		return err
	}
	st.req.chunked, st.req.contentLength = false, -1 // it has been read
	return nil
}

// readBuffered reads the body to its end before it looks at any of it, as a
// proxy does that hands nothing on before.
func (st *stream) readBuffered() {
	refuse := func(status int) {
		st.refused.Store(htmlPage(st.req, status, statusText(status)))
		st.finish(ending{kind: endRefused})
	}
	err := st.readWhole(maxWhole)
	switch {
	case st.isEnded():
	case err == nil:
		st.scan(newScanner(), true)
	case errors.Is(err, errTooLong):
		refuse(413)
	case errors.Is(err, errIdle):
		refuse(408)
	default:
		st.finish(ending{kind: endLost})
	}
}

// unread answers for a body that could not be read whole: a, or nothing when
// the client or a fault ended the connection. It returns false.
func (st *stream) unread(err error, a *answer) bool {
	st.req.close = true
	switch {
	case st.isEnded():
		return st.conclude(nil, nil)
	case errors.Is(err, errTooLong), errors.Is(err, errBadChunk):
		return st.c.answer(st.req, a)
	}
	st.c.sb.stats.rejected.Add(1)
	return false
}

// collect waits until n records have their outcome and may be told. It returns
// false when the request is ended before that.
func (st *stream) collect(n int) bool {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var batch []*pending
	for n > 0 {
		var due time.Time
		batch, due, _ = st.queue.take(batch[:0], time.Now(), math.MaxInt)
		if n -= len(batch); len(batch) > 0 {
			continue
		}
		wait := time.Hour
		if !due.IsZero() {
			wait = max(time.Until(due), 0)
		}
		timer.Reset(wait)
		select {
		case <-st.queue.wake:
		case <-timer.C:
		case <-st.ended:
			return false
		}
	}
	return st.sitOut() && !st.isEnded()
}

// sitOut holds the answer back where a stall asks for it.
func (st *stream) sitOut() bool {
	f := st.current()
	if f.stall == nil || st.records <= f.stall.After {
		return true
	}
	var over, idle <-chan time.Time
	if f.stall.For > 0 {
		over = time.After(f.stall.For)
	}
	if d := st.c.sb.cfg.IdleTimeout; d > 0 {
		idle = time.After(d)
	}
	select {
	case <-over:
	case <-f.set.changed:
	case <-st.ended:
		return false
	case <-idle:
		st.finish(ending{kind: endLost})
		return false
	}
	return true
}

// conclude answers the request with a, or ends the connection as a fault or a
// time limit says, once the records given to Kafka are there. It says whether
// the connection may be used again.
func (st *stream) conclude(sent []*pending, a *answer) bool {
	e := st.endKind()
	if e != endLost {
		for _, p := range sent {
			for !p.ready.Load() && st.c.sb.ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
	}
	switch e {
	case endNone:
		st.finish(ending{kind: endClean})
		if g := st.current().garbage; g != nil && st.records > g.After {
			a.body = []byte(garbageText(g))
		}
		return st.c.answer(st.req, a)
	case endTimeout:
		page := jettyPage(st.req, 503, "Service Unavailable", false)
		_ = st.c.write(page.encode(st.req, true))
	case endReset:
		st.c.reset()
	case endCutMid:
		_ = st.c.write(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", 64*max(1, len(sent))))
		st.c.finClose()
	case endCut:
		st.c.finClose()
	}
	st.c.sb.stats.lost.Add(int64(len(sent)))
	return false
}

// garbageText is what stands in the place of a report or an answer.
func garbageText(f *activeFault) string {
	if f.Message != "" {
		return f.Message
	}
	return "<html><body>upstream connect error</body></html>"
}
