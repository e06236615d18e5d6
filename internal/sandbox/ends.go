package sandbox

// endKind is how a stream's response ends.
type endKind uint8

const (
	endNone    endKind = iota
	endClean           // all reports, last chunk; the connection may go on
	endClose           // all reports, last chunk, close
	endNow             // last chunk and close at once; the rest gets no report
	endReset           // reports up to keep, RST
	endCut             // reports up to keep, FIN without a last chunk
	endCutMid          // the same inside a chunk
	endTimeout         // 503 when nothing was sent yet, else as endCut
	endLost            // the connection is gone
	endRefused         // the answer in refused, close
)

// ending is a decision to end; the first one taken stands, but one that does
// not wait for reports replaces one that does.
type ending struct {
	kind endKind
	keep int // reports to write before endReset, endCut, endCutMid; -1: none beyond those written
}

func (e ending) waits() bool {
	return e.kind == endClean || e.kind == endClose || e.kind >= endReset && e.kind <= endCutMid && e.keep >= 0
}

// finish decides how the stream ends and wakes whoever waits. It may be called
// from any goroutine.
func (st *stream) finish(e ending) {
	st.mu.Lock()
	defer st.mu.Unlock()
	first := st.end.kind == endNone
	if !first && (!st.end.waits() || e.waits()) {
		return
	}
	st.end = e
	if first {
		close(st.ended)
	}
	if !e.waits() {
		close(st.forced)
	}
	if e.kind != endClean {
		st.cancel()
		st.c.interrupt()
	}
	signal(st.queue.wake)
}

func (st *stream) endKind() endKind {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.end.kind
}

func (st *stream) isEnded() bool {
	select {
	case <-st.ended:
		return true
	default:
		return false
	}
}

// checkEnds ends the stream where a fault says so, by the records read.
func (st *stream) checkEnds() {
	if f := st.overdue.Load(); f != nil {
		st.endBy(f)
	}
	for _, f := range st.faults.ends {
		if f.Kind != FaultExpire && f.Age == 0 && st.records >= f.After {
			st.endBy(f)
		}
	}
}

// endAtAge ends the stream by a timer. A terminal report must be the last
// one, so that is left to the reader.
func (st *stream) endAtAge(f *activeFault) {
	if f.Kind == FaultTerminal {
		st.overdue.Store(f)
		st.c.interrupt()
		return
	}
	st.endBy(f)
}

// endBy ends the stream as fault f says.
func (st *stream) endBy(f *activeFault) {
	if st.isEnded() {
		return
	}
	keep := -1
	if f.Lost >= 0 {
		keep = max(0, st.queue.count()-f.Lost)
	}
	switch f.Kind {
	case FaultTerminal:
		text := f.Message
		if text == "" {
			text = "Error processing message: Unexpected character ('}' (code 125)): expected a valid value"
		}
		st.terminal(text)
	case FaultReset:
		st.finish(ending{endReset, keep})
	case FaultCut:
		kind := endCut
		if f.Mid {
			kind = endCutMid
		}
		st.finish(ending{kind, keep})
	case FaultEnd:
		st.finish(ending{kind: endClose})
	}
}
