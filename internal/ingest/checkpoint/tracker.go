package checkpoint

import (
	"slices"
	"sort"
	"sync"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Range is a run of bytes of a file: [From, To).
type Range struct{ From, To int64 }

// Tracker knows which bytes of one file are final: all below the frontier, and
// ranges above it.
//
// Memory: a range ends where a record begins that is not final, so there are
// never more of them than records on their way, and one.
// Concurrency: any goroutine. Its lock is a leaf.
type Tracker struct {
	mu       sync.Mutex
	frontier int64
	above    []Range // sorted, apart from each other and from the frontier
	first    int     // above[:first] is behind the frontier by now
	changed  func()  // told outside the lock when something became final
}

// NewTracker returns a Tracker that begins with what a Snapshot gave.
func NewTracker(frontier int64, above []Range) *Tracker {
	t := &Tracker{frontier: frontier}
	for _, r := range above {
		t.add(r.From, r.To)
	}
	return t
}

// Final says that the n bytes of a record at offset are final, in any order.
func (t *Tracker) Final(offset, n int64) {
	t.mu.Lock()
	t.add(offset, offset+n)
	t.mu.Unlock()
	if t.changed != nil {
		t.changed()
	}
}

// Skip says that n bytes at offset are no record, so that nobody waits for them.
func (t *Tracker) Skip(offset, n int64) { t.Final(offset, n) }

// FinalAll is Final for many records; the lock is taken once.
func (t *Tracker) FinalAll(pos []record.Position) {
	t.mu.Lock()
	for i := 0; i < len(pos); {
		from, to := pos[i].Offset, pos[i].Offset+int64(pos[i].Len)
		for i++; i < len(pos) && pos[i].Offset == to; i++ {
			to += int64(pos[i].Len)
		}
		t.add(from, to)
	}
	t.mu.Unlock()
	if t.changed != nil {
		t.changed()
	}
}

// add takes a range in. It holds the lock.
func (t *Tracker) add(from, to int64) {
	if to <= t.frontier || to <= from {
		return
	}
	if from <= t.frontier {
		t.frontier = to
		t.absorb()
		return
	}
	live := t.above[t.first:]
	n := len(live)
	if n == 0 || live[n-1].To < from { // the usual case: behind all of them
		t.append(Range{from, to})
		return
	}
	// All that touch [from, to) become one.
	i := sort.Search(n, func(i int) bool { return live[i].To >= from })
	j := i
	for j < n && live[j].From <= to {
		from, to = min(from, live[j].From), max(to, live[j].To)
		j++
	}
	if j == i {
		t.above = slices.Insert(t.above, t.first+i, Range{from, to})
		return
	}
	live[i] = Range{from, to}
	t.above = slices.Delete(t.above, t.first+i+1, t.first+j)
}

// append adds a range at the end; what is behind the frontier is cleared away
// before the memory would grow.
func (t *Tracker) append(r Range) {
	if len(t.above) == cap(t.above) && t.first > 0 {
		t.above = append(t.above[:0], t.above[t.first:]...)
		t.first = 0
	}
	t.above = append(t.above, r)
}

// absorb moves the frontier over ranges that it has reached.
func (t *Tracker) absorb() {
	for t.first < len(t.above) && t.above[t.first].From <= t.frontier {
		t.frontier = max(t.frontier, t.above[t.first].To)
		t.first++
	}
	if t.first < len(t.above) {
		return
	}
	t.above, t.first = t.above[:0], 0
	if cap(t.above) > 4096 {
		t.above = nil // a long wait is over
	}
}

// Done tells whether a record that begins at offset is final, and where what is
// final ends.
func (t *Tracker) Done(offset int64) (end int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if offset < t.frontier {
		return t.frontier, true
	}
	live := t.above[t.first:]
	i := sort.Search(len(live), func(i int) bool { return live[i].To > offset })
	if i < len(live) && live[i].From <= offset {
		return live[i].To, true
	}
	return 0, false
}

// Frontier returns the lowest offset that is not final.
func (t *Tracker) Frontier() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frontier
}

// Top returns the end of all that is final.
func (t *Tracker) Top() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.above); n > t.first {
		return t.above[n-1].To
	}
	return t.frontier
}

// Snapshot returns the frontier and the ranges above it, appended to dst.
func (t *Tracker) Snapshot(dst []Range) (frontier int64, above []Range) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.frontier, append(dst, t.above[t.first:]...)
}
