package limit

import "time"

// burstShare is the part of a second's budget that may go out at once. With a
// fiftieth no second holds more than 1.02 times the limit.
const burstShare = 0.02

// budget is a token bucket with debt: what is asked for is always granted, and
// the answer is how long to wait first. What is larger than a burst waits for a
// full bucket and those behind it pay, as on the other side: who had it wait
// for its whole cost would be ahead of a server that keeps no more than a burst.
type budget struct {
	rate  float64 // a second; 0: no limit
	burst float64
	level float64 // negative: owed
	last  time.Time
}

func newBudget(rate, share float64) budget {
	burst := max(1, rate*share)
	return budget{rate: rate, burst: burst, level: burst}
}

func (b *budget) take(now time.Time, n float64) time.Duration {
	if b.rate == 0 {
		return 0
	}
	b.refill(now)
	lacks := min(n, b.burst) - b.level
	b.level -= n
	if lacks <= 0 {
		return 0
	}
	return time.Duration(lacks / b.rate * float64(time.Second))
}

// sendAfter says that the n just taken go out only after wait, for another
// budget has less: what the bucket would have gained past its brim by then is
// lost, or those who wait together would all go at once.
func (b *budget) sendAfter(wait time.Duration, n float64) {
	b.level = min(b.level, b.burst-n-b.rate*wait.Seconds())
}

// give takes n back.
func (b *budget) give(n float64) { b.level = min(b.burst, b.level+n) }

func (b *budget) refill(now time.Time) {
	if b.last.IsZero() {
		b.last = now
	}
	if dt := now.Sub(b.last); dt > 0 {
		b.level = min(b.burst, b.level+b.rate*dt.Seconds())
		b.last = now
	}
}

func (b *budget) setRate(now time.Time, rate, share float64) {
	b.refill(now)
	b.rate = rate
	b.burst = max(1, rate*share)
	b.level = min(b.level, b.burst)
	b.last = now
}

// searched is a budget, and what the server's 429s have shown of it.
type searched struct {
	budget
	limit float64 // the profile's; 0: none
	least float64 // the lowest rate there is: never stop asking
	most  float64 // where the limit is 0: above it there is no rate to be found
	found bool    // rate is what was found, not the limit
	base  float64 // the rate before the cuts that followed one another
	gate  budget  // what goes in fact: reservations say when it may, and some come late
}

func newSearched(limit, least, most float64) searched {
	if limit > 0 {
		least = min(least, limit)
	}
	b := newBudget(limit, burstShare)
	return searched{budget: b, gate: b, limit: limit, least: least, most: most}
}

// set makes rate the one in force; at the limit the search is over.
func (s *searched) set(now time.Time, rate float64) {
	rate, s.found = max(rate, s.least), true
	switch {
	case s.limit > 0 && rate >= s.limit:
		rate, s.found = s.limit, false
	case s.limit == 0 && rate > s.most:
		rate, s.found = 0, false
	}
	s.setRate(now, rate, burstShare)
	s.gate.setRate(now, rate, burstShare)
}

// cut lowers the rate to a little under what was delivered a second, or to the
// share of it that was good, where less was sent than it allows. Where that is
// told by a few records only it is no more than a hint: the rate is halved at
// most.
func (s *searched) cut(now time.Time, delivered, good float64, sure bool) {
	rate := delivered * cutTo
	if s.rate > 0 {
		rate = min(max(delivered, s.rate*good), s.rate) * cutTo
		if !sure {
			rate = max(rate, s.rate/2)
		}
	}
	s.set(now, rate)
}

// begin remembers the rate, or where there is none what was sent a second.
func (s *searched) begin(sent float64) {
	if s.base = s.rate; s.base == 0 {
		s.base = max(sent, s.least)
	}
}

// left is the part of the remembered rate that is in force.
func (s *searched) left() float64 {
	if s.base == 0 || s.rate == 0 {
		return 1
	}
	return s.rate / s.base
}

// takeBack puts the remembered rate in force.
func (s *searched) takeBack(now time.Time) {
	if s.found {
		s.set(now, s.base)
	}
}

// use is the part of the limit that so much a second is. Of a budget without a
// limit it may be all.
func (s *searched) use(perSecond float64) float64 {
	if s.limit == 0 {
		return 1
	}
	return perSecond / s.limit
}

// climb raises a rate that was found, by a share of it a second.
func (s *searched) climb(now time.Time, share float64, dt time.Duration) {
	if s.found {
		s.set(now, s.rate+max(s.least, s.rate*share)*dt.Seconds())
	}
}
