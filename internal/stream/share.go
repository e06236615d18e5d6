package stream

import "time"

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

// grow starts one more stream for t while there are places left. A topic that
// has brought no report yet gets no second one: it may never bring any, and
// hold every place the others need.
func (p *Pool) grow(t *topic) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.cfg.Strict || p.ordered && t.gated.Load() {
		return // more streams would find nothing more that may go
	}
	if p.active < p.cfg.Streams && p.fails == 0 && len(p.starved) == 0 && t.hold == nil && t.proven.Load() && !p.closing.Load() {
		p.startOrQueue(t)
	}
}

// startOrQueue is called with both locks held.
func (p *Pool) startOrQueue(t *topic) {
	if !p.mayPark(t) {
		return
	}
	if p.active < p.cfg.Streams {
		p.active++
		t.streams++
		p.wg.Add(1)
		go p.serve(t, nil)
		return
	}
	if p.queue(t) {
		for s := range p.live {
			s.kick()
		}
	}
}

// queue puts t at the end of those that wait for a stream, and returns false
// when it was among them. Called with mu held.
func (p *Pool) queue(t *topic) bool {
	if t.queued {
		return false
	}
	t.queued = true
	p.starved = append(p.starved, t)
	p.starving.Store(int32(len(p.starved)))
	return true
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
		if !isStream(p.wire()) {
			old = p.giveUpReplacing(old)
			p.request(t)
			continue
		}
		s, release, err := p.connect(t, old)
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
		go s.read.run()
		s.write()
		if old != nil && !old.replaced.Load() {
			p.giveUpReplacing(old)
		}
		old, s.replaces = nil, nil
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
	if ok && !p.mayPark(t) {
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
		p.starved[0] = nil
		p.starved = p.starved[1:]
		next.queued = false
		next.mu.Lock()
		if next.hasWork() {
			p.startOrQueue(next)
		}
		next.mu.Unlock()
	}
	p.starving.Store(int32(len(p.starved)))
	if p.parking == t && t.idle() {
		p.unparkLocked()
	}
	// Work may have come while this goroutine was on its way out.
	t.mu.Lock()
	if t.streams == 0 && t.hasWork() && p.err == nil && !p.closing.Load() {
		p.startOrQueue(t)
	}
	t.mu.Unlock()
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
