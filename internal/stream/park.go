package stream

import (
	"fmt"
	"slices"

	"github.com/produce-agent/produce-agent/internal/record"
)

// A topic that takes no record blocks its stream, for a minute where it does
// not exist. All such topics together have one place: those on hold are probed
// one after another, and of the new ones that bring no report one may wait for
// its first as long as the server likes while others want the places.

// mayPark says whether a stream may be started for t: always, unless it is on
// hold and another topic has the place of those. Then it waits to be probed.
// Called with mu and t.mu held.
func (p *Pool) mayPark(t *topic) bool {
	if t.hold == nil {
		if i := slices.Index(p.parked, t); i >= 0 { // its hold is over
			p.parked = slices.Delete(p.parked, i, i+1)
			t.queued = false
		}
		return true
	}
	if p.parking == nil || p.parking == t {
		if p.active < p.cfg.Streams || t.streams > 0 {
			p.parking = t
		}
		return true
	}
	if !t.queued {
		t.queued = true
		p.parked = append(p.parked, t)
	}
	return false
}

// unpark gives the place of the topics on hold to the next of them, when t has
// it.
func (p *Pool) unpark(t *topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parking == t {
		p.unparkLocked()
	}
}

func (p *Pool) unparkLocked() {
	p.parking = nil
	for len(p.parked) > 0 && p.parking == nil && p.err == nil && !p.closing.Load() {
		next := p.parked[0]
		p.parked = slices.Delete(p.parked, 0, 1)
		next.queued = false
		next.mu.Lock()
		queued := false
		if next.streams == 0 && next.hasWork() {
			p.startOrQueue(next)
			queued = next.queued
		}
		next.mu.Unlock()
		if queued { // behind others that wait for a stream
			return
		}
	}
}

// idle says that no goroutine serves t.
func (t *topic) idle() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.streams == 0
}

// suspect is asked once a second about a stream that has brought no report for
// long, of a topic that has none at all. Where topics that deliver do so
// meanwhile, or wait for a place, only one such may keep its.
func (p *Pool) suspect(s *stream) {
	p.mu.Lock()
	if p.parking == nil {
		p.parking = s.t
	}
	keeps := p.parking == s.t || p.cfg.OneShot || s.t.proven.Load() || len(p.starved) == 0
	wanted := p.deliveredSince(s.born) || slices.ContainsFunc(p.starved, func(t *topic) bool { return t.proven.Load() })
	p.mu.Unlock()
	if keeps || !wanted {
		return
	}
	p.park(s.t, fmt.Sprintf("no delivery report within %s while other topics have theirs", p.cfg.Silence))
}

// park holds a topic that brings no report, and ends its streams.
func (p *Pool) park(t *topic, why string) {
	t.holdOn(Verdict{Outcome: record.Retry, Reason: "unknown_topic", Hold: true}, 0, why)
	p.abortTopic(t)
}

// abortTopic closes the connections of t's streams.
func (p *Pool) abortTopic(t *topic) {
	p.eachStream(func(s *stream) {
		if s.t == t {
			s.abort(endHeld)
		}
	})
}

// blindProbe: every so manieth probe of a topic that is missing is sent without
// a question before it, for a server may create topics that are produced to.
const blindProbe = 8

// askFirst asks the endpoint for a topic that was missing, before a record
// probes it: the question is answered at once, the record would hold a thread
// of the server for a minute. What GET does not tell, the record finds out.
func (p *Pool) askFirst(t *topic, h *hold) {
	p.mu.Lock()
	if p.closing.Load() { // Stop waits for those that are counted by now
		p.mu.Unlock()
		return
	}
	p.wg.Add(1)
	p.mu.Unlock()
	go func() {
		defer p.wg.Done()
		missing := p.target.MissingTopic(p.ctx, t.name)
		t.mu.Lock()
		if t.hold != h || h.probe != nil || h.timer != nil || len(h.held) == 0 {
			t.mu.Unlock()
			return
		}
		if missing {
			h.probes++
			t.nextProbe(p.backoff(h.probes - 1))
			t.mu.Unlock()
			return
		}
		t.sendProbe(h)
		t.mu.Unlock()
		t.signal()
		p.ensureStream(t)
	}()
}
