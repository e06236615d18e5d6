package stream

import (
	"math"
	"sync"
	"time"
)

// turn waits until a POST may be sent for t: until the back-off is over, and as
// long as the budget of POSTs says. Where opens have failed meanwhile it begins
// anew: those that had their place in the budget already must not all try an
// endpoint that one of them has found to be away. ok is false when there is
// nothing left to open a stream for.
func (p *Pool) turn(t *topic, old *stream) (release func(), ok bool) {
	for {
		release, alone := p.waitTurn()
		if p.ctx.Err() != nil || p.given(t) {
			return release, false
		}
		if !p.mayPost() {
			return release, false
		}
		if t.mu.Lock(); old == nil && !t.hasWork() { // its other streams took it all
			t.mu.Unlock()
			p.limiter.GiveOpen()
			return release, false
		}
		t.mu.Unlock()
		if alone || !p.failing() {
			return release, true
		}
		p.limiter.GiveOpen()
		release()
	}
}

// mayPost waits for the budget of POSTs, and returns false when the Pool ends
// first.
func (p *Pool) mayPost() bool {
	d := p.limiter.Open(time.Now())
	if d == 0 {
		return true
	}
	for ; d > 0; d = p.limiter.Reopen(time.Now()) {
		p.stats.waited(limitConnections, d)
		if !p.sleep(d) {
			p.limiter.GiveOpen()
			return false
		}
	}
	return true
}

func (p *Pool) failing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fails > 0
}

// waitTurn waits out the back-off. While opens fail only one goroutine tries
// at a time, or each outage would end in a herd; alone says that this is it.
func (p *Pool) waitTurn() (release func(), alone bool) {
	if !p.failing() {
		return func() {}, false
	}
	select {
	case p.probe <- struct{}{}:
	case <-p.ctx.Done():
		return func() {}, false
	case <-p.failed:
		return func() {}, false
	}
	var once sync.Once
	release = func() { once.Do(func() { <-p.probe }) }
	p.mu.Lock()
	d := time.Until(p.notBefore)
	if p.fails == 0 {
		d = 0
	}
	p.mu.Unlock()
	p.sleep(d)
	return release, true
}

// fewerPosts acts on a 429 in place of a stream: the records go again, and
// fewer streams are opened a second. Streams that are open have no part in it.
func (p *Pool) fewerPosts(s *stream, ref *refusal, err error) {
	now := time.Now()
	told := ref.rates.told(now)
	p.limiter.PostRefused(now, told)
	works := false
	p.eachStream(func(o *stream) { works = works || o.confirmed.Load() })
	if !works {
		p.troubled(err)
	}
	per := p.limiter.Found().Connections
	p.warn("posts", "the cluster says 429 to a request: opening fewer streams", "topic", s.t.name, "error", err,
		"requests_per_second", math.Round(per*100)/100, "retry_after", told.RetryAfter)
}
