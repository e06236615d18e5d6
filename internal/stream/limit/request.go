package limit

import "math"

// requestSlack is how much more than an even share a request may hold, for
// those that went out less than full.
const requestSlack = 1.25

// Request returns the most records and bytes that one request should hold
// where each is a POST of its own: a share of a second's that lets the POSTs
// there are carry all the records there may be, and no less than Quantum. Zero
// means no bound.
//
// Any second then holds at most the limit and one request more; over many
// seconds it is the limit.
func (l *Limiter) Request() (records, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	share := func(rate float64) int {
		if rate == 0 {
			return 0
		}
		n := max(1, rate/100)
		if l.posts.rate > 0 {
			n = max(n, math.Ceil(rate/l.posts.rate*requestSlack))
		}
		return int(n)
	}
	return share(l.recs.rate), share(l.bytes.rate)
}
