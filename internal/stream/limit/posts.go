package limit

import (
	"math"
	"time"
)

// MaxWait bounds every wait that a server asks for: past five minutes it is
// asked again, whatever it said.
const MaxWait = 5 * time.Minute

// posts is the budget of POSTs.
//
// They arrive one by one, so evenly spaced at a little under the rate: a
// sliding window of one second on the other side must never see one more. Where
// others of a fleet do the same, each keeps to whole POSTs a second, and one
// that has not opened any for a while waits for a random part of the time
// between two: what breaks all agents' streams at once must not bring all of
// them back at once.
type posts struct {
	budget
	limit     float64 // POSTs a second, the spacing's margin taken off; 0: none
	found     bool    // rate is what the server's 429s have shown
	spread    func() float64
	cutAt     time.Time
	grownAt   time.Time
	notBefore time.Time // the server takes none until then
	sent      time.Time // the last POST
	left      int       // POSTs it takes before resetAt; less than zero: not said
	resetAt   time.Time
	seen      [10]slotPosts // of the last second
	epoch     time.Time
}

type slotPosts struct {
	index int64
	n     int
}

const (
	spaced     = 0.96 // of the rate
	postsCut   = 0.5  // of the rate, at a 429
	postsMost  = 1000 // a second: above it no server's limit was found
	postsLeast = 0.2  // a second; never stop asking
	postsStep  = 25   // climbing from nothing to the limit takes that many seconds

	// Without a limit that is known a single 429 proves little: the search begins
	// at no less than a few a second, and climbs by a quarter a second.
	unknownLeast = 5
	unknownStep  = 2
	unknownShare = 4
)

func newPosts(p Profile, random func() float64) posts {
	rate := p.Connections
	b := posts{left: -1}
	if p.Agents > 1 {
		b.spread = random
		if rate >= 1 {
			rate = math.Floor(rate)
		}
	}
	b.limit = rate * spaced
	b.budget = newBudget(b.limit, 0)
	return b
}

// Open reserves one POST and returns how long to wait before sending it; 0
// lets it go. After the wait Reopen says whether it may.
func (l *Limiter) Open(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick(now)
	return l.posts.open(now)
}

// Reopen is asked once the wait for a reserved POST is over, and returns how
// long to wait on where the server has asked for that meanwhile.
func (l *Limiter) Reopen(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick(now)
	p := &l.posts
	if p.heldFor(now) > 0 {
		p.give(1)
		return p.open(now)
	}
	if gap := p.gap(now); gap > 0 {
		return gap
	}
	p.goes(now)
	return 0
}

// GiveOpen returns a POST that was reserved and not sent.
func (l *Limiter) GiveOpen() {
	l.mu.Lock()
	l.posts.give(1)
	l.mu.Unlock()
}

// OpenSpare says whether a POST that is asked for now could go at once.
func (l *Limiter) OpenSpare(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick(now)
	p := &l.posts
	if p.rate == 0 {
		return p.heldFor(now) == 0
	}
	p.refill(now)
	return p.level >= 1 && p.gap(now) == 0 && p.heldFor(now) == 0
}

func (p *posts) open(now time.Time) time.Duration {
	wait := max(p.take(now, 1), p.gap(now))
	if wait == 0 && p.spread != nil && p.rate > 0 {
		wait = time.Duration(p.spread() / p.rate * float64(time.Second))
	}
	wait = max(wait, p.heldFor(now))
	switch {
	case wait == 0:
		p.goes(now)
	case p.rate > 0:
		p.sendAfter(wait, 1)
	}
	return wait
}

// gap returns how long it is until a POST may follow the last that was sent:
// reservations that are given back leave room that has not come yet.
func (p *posts) gap(now time.Time) time.Duration {
	if p.rate == 0 || p.sent.IsZero() {
		return 0
	}
	return max(0, p.sent.Add(time.Duration(spaced/p.rate*float64(time.Second))).Sub(now))
}

// heldFor returns for how long the server wants no POST.
func (p *posts) heldFor(now time.Time) time.Duration {
	wait := p.notBefore.Sub(now)
	if p.left == 0 {
		wait = max(wait, p.resetAt.Sub(now))
	}
	return min(max(0, wait), MaxWait)
}

// goes notes a POST that is sent now.
func (p *posts) goes(now time.Time) {
	if p.left > 0 && now.Before(p.resetAt) {
		p.left--
	}
	p.sent = now
	s, i := p.slot(now)
	if s.index != i {
		*s = slotPosts{index: i}
	}
	s.n++
}

func (p *posts) slot(now time.Time) (*slotPosts, int64) {
	if p.epoch.IsZero() {
		p.epoch = now
	}
	i := max(0, int64(now.Sub(p.epoch)/slotLength))
	return &p.seen[i%int64(len(p.seen))], i
}

// perSecond returns how many POSTs went out within the last second.
func (p *posts) perSecond(now time.Time) (n float64) {
	_, newest := p.slot(now)
	for _, s := range p.seen {
		if newest-s.index < int64(len(p.seen)) {
			n += float64(s.n)
		}
	}
	return n
}

// rebase lets everything count from another clock's now.
func (p *posts) rebase(now time.Time) {
	p.sent, p.last, p.cutAt, p.grownAt, p.notBefore, p.resetAt = time.Time{}, now, now, now, now, now
	p.left, p.epoch, p.seen = -1, now, [10]slotPosts{}
}

// Told is what the head of an answer says of limits. The zero value says nothing.
type Told struct {
	RetryAfter time.Duration // 0: not said
	Reset      time.Duration // until the server's count begins anew; 0: not said
	Limited    bool          // Left is said
	Left       int           // POSTs before Reset
	Limit      int           // POSTs from one reset to the next; 0: not said
}

// PostTaken tells of a POST that the server took, and what it said with it.
// While fewer go out than the profile has, each lets a little more.
func (l *Limiter) PostTaken(now time.Time, told Told) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick(now)
	p := &l.posts
	p.heed(now, told)
	if !p.found {
		return
	}
	step := p.limit / postsStep
	if p.limit == 0 {
		step = max(unknownStep, p.rate/unknownShare)
	}
	p.set(now, p.rate+step*min(time.Second, now.Sub(p.grownAt)).Seconds())
	p.grownAt = now
}

// PostRefused tells of a POST that was answered 429. It returns true when the
// rate was lowered for it, at most once a second: those that were under way
// together are refused together.
func (l *Limiter) PostRefused(now time.Time, told Told) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick(now)
	p := &l.posts
	p.heed(now, told)
	if told.RetryAfter > 0 {
		p.hold(now.Add(min(told.RetryAfter, MaxWait)))
	} else if told.Reset > 0 && !told.Limited {
		p.hold(now.Add(min(told.Reset, MaxWait)))
	}
	if !p.cutAt.IsZero() && now.Sub(p.cutAt) < cutEvery {
		return false
	}
	p.cutAt, p.grownAt = now, now
	rate := p.rate
	if rate == 0 {
		rate = max(unknownLeast, p.perSecond(now))
	}
	if told.Limit > 0 && told.Reset > 0 && !told.Limited {
		rate = min(rate, float64(told.Limit)/max(1, told.Reset.Seconds())/postsCut)
	}
	p.set(now, rate*postsCut)
	p.level = min(p.level, 0) // the next waits its whole turn
	return true
}

func (p *posts) hold(until time.Time) {
	if until.After(p.notBefore) {
		p.notBefore = until
	}
}

// heed takes over what the server says of the POSTs that are left.
func (p *posts) heed(now time.Time, told Told) {
	if told.Limited && told.Reset > 0 {
		p.left, p.resetAt = told.Left, now.Add(min(told.Reset, MaxWait))
	}
}

// set makes rate the one in force; at the limit the search is over.
func (p *posts) set(now time.Time, rate float64) {
	least := float64(postsLeast)
	if p.limit > 0 {
		least = min(least, p.limit/4)
	}
	rate, p.found = max(rate, least), true
	switch {
	case p.limit > 0 && rate >= p.limit:
		rate, p.found = p.limit, false
	case p.limit == 0 && rate > postsMost:
		rate, p.found = 0, false
	}
	p.setRate(now, rate, 0)
}
