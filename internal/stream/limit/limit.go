package limit

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// Limiter keeps all that goes to one cluster inside its profile, and below it
// while the server says 429.
//
// Concurrency: safe; one lock, held for arithmetic only.
type Limiter struct {
	profile Profile

	mu    sync.Mutex
	now   time.Time // the latest that was told
	posts posts
	recs  searched
	bytes searched

	cutAt     time.Time // when a 429 last changed a rate
	cutGood   float64   // the share of good reports before the cuts that followed one another
	vain      int       // how many of them were seen not to help
	since     counts    // of what was sent after the last
	deafUntil time.Time // cutting was seen not to help: 429s are not our rate's doing
	climbAt   time.Time
	last429   time.Time
	start     time.Time // the slots count from here
	slots     [maxSlots]slot
}

// The reports of the last half second, in tenths, are what a cut is decided by;
// up to five seconds of them where they are few.
const (
	windowSlots = 5
	maxSlots    = 50
	slotLength  = 100 * time.Millisecond
	enough      = 10 // delivered records that tell a rate
)

type counts struct{ delivered, throttled, bytes, throttledBytes float64 }

func (c *counts) add(o counts) {
	c.delivered, c.throttled = c.delivered+o.delivered, c.throttled+o.throttled
	c.bytes, c.throttledBytes = c.bytes+o.bytes, c.throttledBytes+o.throttledBytes
}

type slot struct {
	index   int64
	largest float64 // bytes of one call
	counts
}

// New returns a limiter for a profile; all zero limits nothing until a server
// says 429.
func New(p Profile) *Limiter {
	return &Limiter{
		profile: p, posts: newPosts(p, rand.Float64),
		recs:  newSearched(p.Records, leastRecords, mostRecords),
		bytes: newSearched(p.Bytes, leastBytes, mostBytes),
	}
}

// Profile returns what the limiter was made with.
func (l *Limiter) Profile() Profile { return l.profile }

// Found is what a cluster's 429s have shown to be there, a second. Zero: none
// came, or all of the profile is there again.
type Found struct{ Connections, Records, Bytes float64 }

// Found returns what is searched for at present.
func (l *Limiter) Found() (f Found) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.posts.found {
		f.Connections = l.posts.rate
	}
	if l.recs.found {
		f.Records = l.recs.rate
	}
	if l.bytes.found {
		f.Bytes = l.bytes.rate
	}
	return f
}

// tick takes the time. One that is far before the last is another clock's:
// everything counts from there then, and nothing waits for the old one.
// Called with mu held, as all below that is not exported.
func (l *Limiter) tick(now time.Time) {
	if now.Before(l.now.Add(-time.Second)) {
		l.posts.rebase(now)
		l.recs.last, l.bytes.last, l.recs.gate.last, l.bytes.gate.last = now, now, now, now
		l.cutAt, l.climbAt, l.last429, l.deafUntil = now, now, now, now
		l.vain, l.since = 0, counts{}
		l.start, l.slots = now, [maxSlots]slot{}
		l.now = now
	}
	if now.After(l.now) {
		l.now = now
	}
}

// Take reserves n records of that many bytes and returns how long to wait
// before sending them. Keep n within Quantum, or the second it falls into
// holds more than its share.
func (l *Limiter) Take(now time.Time, n, bytes int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick(now)
	if l.recs.rate == 0 && l.bytes.rate == 0 {
		return 0
	}
	l.climb(now)
	wait := max(l.recs.take(now, float64(n)), l.bytes.take(now, float64(bytes)))
	if wait > 0 {
		l.recs.sendAfter(wait, float64(n))
		l.bytes.sendAfter(wait, float64(bytes))
	}
	return wait
}

// Go is asked when the wait for a reservation is over, and returns how long to
// wait on. A machine that is busy wakes its sleepers late, and several at once:
// the time that is lost so is not caught up with, or a second would hold more
// than its share.
func (l *Limiter) Go(now time.Time, n, bytes int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick(now)
	wait := max(l.recs.gate.take(now, float64(n)), l.bytes.gate.take(now, float64(bytes)))
	if wait > 0 {
		l.recs.gate.sendAfter(wait, float64(n))
		l.bytes.gate.sendAfter(wait, float64(bytes))
	}
	return wait
}

// Give returns a reservation that was not used.
func (l *Limiter) Give(n, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recs.give(float64(n))
	l.bytes.give(float64(bytes))
}

// Quantum returns the most records and bytes to send at once: one per cent of
// a second's. Zero means no bound.
func (l *Limiter) Quantum() (records, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.recs.rate > 0 {
		records = max(1, int(l.recs.rate/100))
	}
	if l.bytes.rate > 0 {
		bytes = max(1, int(l.bytes.rate/100))
	}
	return records, bytes
}

// PerSecond returns the records a second allowed at present; 0 means no limit.
func (l *Limiter) PerSecond() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recs.rate
}

// Delivered tells of n good reports, of records of that many bytes together.
func (l *Limiter) Delivered(now time.Time, n, bytes int) {
	l.mu.Lock()
	l.count(now, counts{delivered: float64(n), bytes: float64(bytes)})
	l.mu.Unlock()
}

// count adds to the present tenth of a second.
func (l *Limiter) count(now time.Time, c counts) {
	l.tick(now)
	if l.start.IsZero() {
		l.start = now
	}
	i := max(0, int64(now.Sub(l.start)/slotLength)) // the clock was read before the lock was had
	s := &l.slots[i%maxSlots]
	if s.index != i {
		*s = slot{index: i}
	}
	s.add(c)
	s.largest = max(s.largest, c.bytes)
	if now.Sub(l.cutAt) >= settles {
		l.since.add(c)
	}
}

// The search for the rate that is there. A 429 brings the rate to a little
// under what was delivered, at most once a second; without one it climbs, by a
// fiftieth in the first second and twice as much in each that follows. A server
// that limits the rate delivers as much as before after a cut and refuses less
// of it; where the share of good reports stays what it was, the rate was not
// the cause: the cuts are taken back and none is made for a while.
//
// A report does not say whether records or bytes were too many. Of that is cut
// what came nearer to its limit, in the last five seconds as in the last half
// one, or both where both came as near. Whichever it is, the other follows it
// while records stay as large as they are.
const (
	firstLook   = 250 * time.Millisecond // of counts before the first cut
	cutEvery    = time.Second
	settles     = 250 * time.Millisecond // what was in flight at a cut is reported
	cutTo       = 0.97
	climbBy     = 0.02
	climbMost   = 0.5
	climbDeaf   = 0.2
	judgeWithin = 3 * time.Second
	judgeFrom   = 0.75 // of the rates left: smaller cuts show too little
	judgeLeast  = 20   // reports since the last cut
	vainTwice   = 2    // once may be chance
	helped      = 0.4  // of what a cut does to a server that limits the rate
	deafFor     = 5 * time.Second
	alike       = 0.75 // the part of the more used limit from which the other is cut as well

	leastRecords = 1    // a second; never stop asking
	leastBytes   = 64e3 // likewise: a record of 8 MB is let go within two minutes
	mostRecords  = 1e7  // above it no server's limit was found
	mostBytes    = 10e9
)

// Throttled tells of n reports that said 429, of records of that many bytes. It
// returns true when a rate was lowered for them.
func (l *Limiter) Throttled(now time.Time, n, bytes int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(now, counts{throttled: float64(n), throttledBytes: float64(bytes)})
	l.last429 = now
	if now.Sub(l.start) < firstLook {
		l.glance(now)
		return false
	}
	if !l.cutAt.IsZero() && now.Sub(l.cutAt) < cutEvery {
		return false
	}
	if now.Before(l.deafUntil) {
		return false
	}
	w, seconds := l.sum(now, windowSlots, enough)
	good := w.delivered / (w.throttled + w.delivered)
	series := !l.cutAt.IsZero() && now.Sub(l.cutAt) < judgeWithin
	if series {
		good = l.since.delivered / max(1, l.since.throttled+l.since.delivered)
	}
	sent, size := (w.delivered+w.throttled)/seconds, (w.bytes+w.throttledBytes)/seconds
	left := l.left()
	switch {
	case !series, left > judgeFrom && l.vain == 0 && good < l.cutGood: // what came of the last cut does not show yet
		l.begin(good, sent, size)
	case left > judgeFrom || l.since.delivered+l.since.throttled < judgeLeast: // too little to see
	case good >= l.cutGood+helped*(min(1, l.cutGood/left)-l.cutGood):
		l.begin(good, sent, size)
	default:
		l.vain++
	}
	l.cutAt, l.climbAt, l.since = now, now, counts{}
	if l.vain == vainTwice {
		l.deafUntil = now.Add(deafFor)
		l.recs.takeBack(now)
		l.bytes.takeBack(now)
		l.begin(good, sent, size)
		return false
	}
	l.cut(now, w, seconds)
	return true
}

// begin starts a series of cuts: what they lead to is compared with now.
func (l *Limiter) begin(good, records, bytes float64) {
	l.cutGood, l.vain = good, 0
	l.recs.begin(records)
	l.bytes.begin(bytes)
}

// left is the part of the rates that the series of cuts has left.
func (l *Limiter) left() float64 { return min(l.recs.left(), l.bytes.left()) }

// cut lowers what is used most.
func (l *Limiter) cut(now time.Time, w counts, seconds float64) {
	long, within := l.sum(now, maxSlots, 0)
	short, moment := l.sum(now, windowSlots, 0)
	useRecords := min(l.recs.use(long.delivered/within), l.recs.use((short.delivered+short.throttled)/moment))
	useBytes := min(l.bytes.use(long.bytes/within), l.bytes.use((short.bytes+short.throttledBytes)/moment))
	most, sure := max(useRecords, useBytes), w.delivered >= enough
	if useRecords >= alike*most {
		l.recs.cut(now, w.delivered/seconds, w.delivered/max(1, w.delivered+w.throttled), sure)
	}
	if useBytes >= alike*most {
		l.bytes.cut(now, w.bytes/seconds, w.bytes/max(1, w.bytes+w.throttledBytes), sure)
	}
}

// glance paces what nothing has paced so far, until there was a look at what
// the server takes: without it a whole window of each stream would be refused.
func (l *Limiter) glance(now time.Time) {
	if l.recs.limit > 0 || l.bytes.limit > 0 {
		return
	}
	w, seconds := l.sum(now, windowSlots, enough)
	l.climbAt = now
	l.recs.set(now, max(enough, w.delivered)/max(seconds, 0.02))
}

// sum adds up the newest slots, that many at least, and further ones back until
// they hold so many delivered records, and as many times the largest lot of
// bytes, as it takes to tell a rate.
func (l *Limiter) sum(now time.Time, least int64, enough float64) (c counts, seconds float64) {
	newest := max(0, int64(now.Sub(l.start)/slotLength))
	n, largest := int64(0), 0.0
	for ; n < maxSlots && n <= newest && (n < least || c.delivered < enough || c.bytes < enough*largest); n++ {
		if s := &l.slots[(newest-n)%maxSlots]; s.index == newest-n {
			c.add(s.counts)
			largest = max(largest, s.largest)
		}
	}
	length := time.Duration(n-1)*slotLength + now.Sub(l.start)%slotLength
	return c, max(length, slotLength/10).Seconds()
}

// climb raises what was found, up to the profile's; with no profile it goes on
// rising until the next 429.
func (l *Limiter) climb(now time.Time) {
	dt := now.Sub(l.climbAt)
	if dt < slotLength || !l.recs.found && !l.bytes.found {
		return
	}
	by := climbDeaf
	if !now.Before(l.deafUntil) {
		by = min(climbMost, climbBy*math.Exp2(now.Sub(l.last429).Seconds()))
	}
	l.climbAt = now
	l.recs.climb(now, by, min(dt, time.Second))
	l.bytes.climb(now, by, min(dt, time.Second))
}
