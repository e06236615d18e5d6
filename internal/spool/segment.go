package spool

import (
	"slices"
	"sort"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// segment is a file of the spool and which of its records are final.
type segment struct {
	first, end int64
	size       int64 // bytes that may be read
	born       bool  // there is a file
	sealed     bool  // nothing is appended any more
	gone       bool  // given up: what is pending was handed out before
	done       int64 // records that are final
	bits       bitmap
	marks      []mark
}

func (g *segment) pending() int64 { return g.end - g.first - g.done }

// mark is when a record was appended; there is one a second at most.
type mark struct {
	seq int64
	at  int64 // Unix milliseconds
}

const maxMarks = 256

// stamp notes when a record was appended, thinning out what it knows when that
// gets much.
func (g *segment) stamp(seq, at int64) {
	if n := len(g.marks); n > 0 && at-g.marks[n-1].at < 1000 {
		return
	}
	if len(g.marks) == maxMarks {
		for i := range maxMarks / 2 {
			g.marks[i] = g.marks[2*i]
		}
		g.marks = g.marks[:maxMarks/2]
	}
	g.marks = append(g.marks, mark{seq, at})
}

// oldest returns when the first pending record was appended, or a little before.
func (g *segment) oldest() (at int64) {
	seq := g.first + g.bits.zero(0)
	for i, m := range g.marks {
		if i == 0 || m.seq <= seq {
			at = m.at
		}
	}
	return at
}

// split cuts off what begins at seq as a segment that has no file yet.
func (g *segment) split(seq int64) *segment {
	rest := &segment{first: seq, end: g.end}
	n, at := g.end-g.first, seq-g.first
	for i := g.bits.one(at, n); i < n; i = g.bits.one(i, n) {
		to := min(n, g.bits.zero(i))
		rest.bits, _ = rest.bits.set(i-at, to-at)
		rest.done += to - i
		i = to
	}
	for i, m := range g.marks {
		if m.seq >= seq {
			rest.marks = append(rest.marks, g.marks[i:]...)
			g.marks = g.marks[:i]
			break
		}
	}
	if len(rest.marks) == 0 && len(g.marks) > 0 {
		rest.marks = append(rest.marks, mark{seq, g.marks[len(g.marks)-1].at})
	}
	g.end, g.done = seq, g.done-rest.done
	if keep := (at + 63) >> 6; int64(len(g.bits)) > keep {
		g.bits = g.bits[:keep]
	}
	if at&63 != 0 && int64(len(g.bits)) == (at+63)>>6 {
		g.bits[at>>6] &= 1<<(at&63) - 1
	}
	return rest
}

// lease is records that were handed out. Which of them are settled the
// segment's bits tell.
type lease struct {
	first int64
	n     int64
	left  int64
	base  int // of the first record in org
	org   *origins
	split bool // others have the same org
}

func (l *lease) end() int64 { return l.first + l.n }

// leases are in order and do not overlap.
type leases []*lease

// after returns the index of the first lease that ends behind seq.
func (l leases) after(seq int64) int {
	return sort.Search(len(l), func(i int) bool { return l[i].end() > seq })
}

// at returns the lease that has seq, or nil and where the next one begins.
func (l leases) at(seq int64) (have *lease, next int64) {
	i := l.after(seq)
	if i == len(l) {
		return nil, 1<<63 - 1
	}
	if l[i].first <= seq {
		return l[i], 0
	}
	return nil, l[i].first
}

func (l leases) insert(x *lease) leases { return slices.Insert(l, l.after(x.first), x) }

func (l leases) remove(x *lease) leases {
	i := l.after(x.first)
	return slices.Delete(l, i, i+1)
}

// held is a batch that is in memory as well.
type held struct {
	b     *record.Batch
	first int64
	org   *origins
	cost  int64
}

func (h *held) end() int64 { return h.first + int64(h.b.Len()) }

// ring are the newest batches, in order.
type ring struct {
	all  []held
	cost int64
}

// cost is what a batch takes in memory, whatever is in it.
func (h *held) measure() int64 {
	return int64(cap(h.b.Tail()) + cap(h.b.Pos)*16 + cap(h.b.Ends)*4 + cap(h.org.off)*12 + cap(h.org.names)*16)
}

// push adds a batch that is about to be the newest, within the bound. A small
// one joins the batch before it: they go out together, and a buffer made for
// 64 KiB does not hold one record.
func (r *ring) push(h held, bound int64) {
	if n := len(r.all); n > 0 && r.all[n-1].takes(&h) {
		last := &r.all[n-1]
		r.cost -= last.cost
		for i, pos := range h.b.Pos {
			last.b.Commit(append(last.b.Tail(), h.b.Bytes(i, i+1)...), pos)
		}
		last.org.join(h.org)
		h.b.Discard()
		putOrigins(h.org)
		last.cost = last.measure()
		r.cost += last.cost
	} else {
		h.cost = h.measure()
		r.all = append(r.all, h)
		r.cost += h.cost
	}
	for r.cost > bound && len(r.all) > 0 {
		r.drop(0)
	}
}

func (h *held) takes(next *held) bool {
	return h.end() == next.first && h.b.Topic == next.b.Topic && h.b.Raw == next.b.Raw && h.b.Size()+next.b.Size() <= mergeBytes
}

// after returns the index of the first batch that ends behind seq.
func (r *ring) after(seq int64) int {
	return sort.Search(len(r.all), func(i int) bool { return r.all[i].end() > seq })
}

// take removes a batch, which becomes the caller's.
func (r *ring) take(i int) held {
	h := r.all[i]
	r.cost -= h.cost
	if i == 0 {
		r.all[0] = held{}
		r.all = r.all[1:]
		return h
	}
	r.all = slices.Delete(r.all, i, i+1)
	return h
}

func (r *ring) drop(i int) {
	h := r.take(i)
	h.b.Discard()
	putOrigins(h.org)
}

// bell wakes all who wait for something to change. Its owner's lock guards it.
type bell struct{ ch chan struct{} }

func (b *bell) wait() <-chan struct{} {
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) ring() {
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// until is how long there is to wait, never negative.
func until(now, at time.Time) time.Duration { return max(0, at.Sub(now)) }
