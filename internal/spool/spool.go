package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Spool is a Buffer of files. Make it with Open.
//
// One goroutine writes; mu is never held over a call to the disk, so settling
// records never waits for it.
type Spool struct {
	cfg     Config
	fs      fsys
	log     *slog.Logger
	id      uint64
	segment int64 // bytes
	source  atomic.Int32
	route   atomic.Int32
	kick    chan struct{} // one token: the writer has something to do
	done    chan struct{}
	w       writer

	mu      sync.Mutex // guards all below; nothing else is taken under it
	segs    []*segment // in order; the last may be the one appended to
	lost    spans      // records of segments that are not there any more
	leases  leases
	ram     ring
	cursors map[*cursor]struct{}
	used    int64 // bytes of segments
	queue   []entry
	queued  int64 // bytes of batches taken and not written
	pending int64
	change  bell // something to read, room, an end
	wanted  int64
	starved bool     // somebody waits for room
	roll    bool     // the segment appended to is in the way of room
	dirty   bool     // records became final since the acks were saved
	dead    []string // files to remove
	closing bool
	stats   Stats // its counters
	fails   int   // failed writes in a row
	failure error // of the last write; nil when it went well
	retryAt time.Time
	closed  error
}

// entry is a batch that Append took.
type entry struct {
	b       *record.Batch
	where   func(record.Position) (string, int64)
	durable func(*record.Batch, error)
	size    int64
	drop    bool
	first   int64
	org     *origins
}

var originPool = sync.Pool{New: func() any { return new(origins) }}

func getOrigins() *origins {
	o := originPool.Get().(*origins)
	o.reset()
	return o
}

func putOrigins(o *origins) {
	if cap(o.off) <= 16<<10 {
		originPool.Put(o)
	}
}

// SetSource says under which number positions name the spool.
func (s *Spool) SetSource(src int32) { s.source.Store(src) }

// SetRoute says which route's batches handed out from here on are.
func (s *Spool) SetRoute(id int32) { s.route.Store(id) }

// queueBound is how much may wait to be written.
func (s *Spool) queueBound() int64 { return min(maxQueued, s.cfg.MaxBytes/4) }

// Append implements Buffer.
func (s *Spool) Append(ctx context.Context, b *record.Batch, where func(record.Position) (string, int64), durable func(*record.Batch, error)) error {
	if b.Len() == 0 {
		panic("BUG: an empty batch for a spool")
	}
	e := entry{b: b, where: where, durable: durable, size: int64(batchBound(b))}
	if e.size > s.cfg.MaxBytes || e.size > maxFrame/2 {
		return fmt.Errorf("%w: %d bytes of %d: raise max_bytes, or lower max_record_bytes", ErrTooLarge, b.Size(), s.cfg.MaxBytes)
	}
	dropped, err := s.admit(ctx, &e)
	if dropped > 0 && s.cfg.Dropped != nil {
		s.cfg.Dropped(dropped)
	}
	if err == nil {
		s.wake()
	}
	return err
}

// admit puts e into the queue, by the policy when there is no room.
func (s *Spool) admit(ctx context.Context, e *entry) (dropped int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closing:
			return dropped, ErrClosed
		case ctx.Err() != nil:
			return dropped, context.Cause(ctx)
		case s.failure != nil && s.cfg.now().Before(s.retryAt):
			return dropped, s.failure
		case s.queued > 0 && s.queued+e.size > s.queueBound():
			s.wait(ctx)
			continue
		case s.used+s.queued+e.size <= s.cfg.MaxBytes:
			s.wanted = 0
			s.queue = append(s.queue, *e)
			s.queued += e.size
			return dropped, nil
		}
		s.wanted, s.starved = e.size, true
		switch s.cfg.WhenFull {
		case Block:
			s.wake()
			return dropped, ErrFull
		case DropNewest:
			n := int64(e.b.Len())
			s.stats.DroppedNewest += n
			e.drop = true
			s.queue = append(s.queue, *e)
			return dropped + n, nil
		case DropOldest:
			n, ok := s.dropOldest()
			dropped += n
			if !ok { // what is in the way is being written
				s.roll = true
				s.wake()
				s.wait(ctx)
			}
		}
	}
}

// wait lets go of mu until something changes or ctx ends.
func (s *Spool) wait(ctx context.Context) {
	ch := s.change.wait()
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-ch:
	case <-ctx.Done():
	}
}

// wake gives the writer a token. It never waits.
func (s *Spool) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// dropOldest gives the oldest file up, unless that is being appended to. What
// was handed out of it goes on; the file goes before anything more is written.
func (s *Spool) dropOldest() (dropped int64, ok bool) {
	for _, g := range s.segs {
		if g.gone {
			continue
		}
		if !g.sealed {
			return 0, false
		}
		dropped = s.free(g.first, g.end)
		for i := s.ram.after(g.first); i < len(s.ram.all) && s.ram.all[i].first < g.end; {
			s.ram.drop(i)
		}
		s.stats.DroppedOldest += dropped
		g.gone = true
		s.used -= g.size
		s.dead = append(s.dead, segmentName(g.first))
		s.dirty = true
		return dropped, true
	}
	return 0, false
}

// free makes the records of [lo,hi) final that nobody has.
func (s *Spool) free(lo, hi int64) (n int64) {
	for lo < hi {
		_, lo = s.open(lo)
		if lo >= hi {
			break
		}
		_, next := s.leases.at(lo)
		g := s.find(lo)
		to := min(hi, next, g.first+g.bits.one(lo-g.first, g.end-g.first))
		n += s.final(lo, to)
		lo = to
	}
	return n
}

// find returns the segment that has record seq, nil for none.
func (s *Spool) find(seq int64) *segment {
	lo, hi := 0, len(s.segs)
	for lo < hi {
		m := (lo + hi) / 2
		if s.segs[m].first <= seq {
			lo = m + 1
		} else {
			hi = m
		}
	}
	for lo--; lo >= 0; lo-- { // an empty one may begin where the next does
		if g := s.segs[lo]; g.end > seq {
			return g
		} else if g.end > g.first {
			return nil
		}
	}
	return nil
}

// open returns the first record from seq on that is pending and not handed
// out, and its segment; nil and where records end when there is none.
func (s *Spool) open(seq int64) (*segment, int64) {
	i := 0
	if n := len(s.segs); n > 0 && seq >= s.segs[n-1].first {
		i = n - 1
	}
	for ; i < len(s.segs); i++ {
		g := s.segs[i]
		if g.end <= seq {
			continue
		}
		seq = max(seq, g.first)
		for seq < g.end {
			if seq = g.first + g.bits.zero(seq-g.first); seq >= g.end {
				break
			}
			l, _ := s.leases.at(seq)
			if l == nil {
				return g, seq
			}
			seq = l.end()
		}
	}
	if n := len(s.segs); n > 0 {
		seq = max(seq, s.segs[n-1].end)
	}
	return nil, seq
}

// final makes [lo,hi) final and returns how many were not.
func (s *Spool) final(lo, hi int64) (fresh int64) {
	for lo < hi {
		g := s.find(lo)
		if g == nil {
			lo = s.nextSegment(lo)
			continue
		}
		to := min(hi, g.end)
		l, next := s.leases.at(lo)
		if l != nil {
			to = min(to, l.end())
		} else {
			to = min(to, next)
		}
		var n int64
		g.bits, n = g.bits.set(lo-g.first, to-g.first)
		g.done += n
		fresh += n
		if l != nil {
			s.settled(l, n)
		}
		lo = to
	}
	s.pending -= fresh
	s.dirty = s.dirty || fresh > 0
	return fresh
}

func (s *Spool) nextSegment(seq int64) int64 {
	for _, g := range s.segs {
		if g.end > g.first && g.first > seq {
			return g.first
		}
	}
	return 1<<63 - 1
}

// settled takes n records off a lease.
func (s *Spool) settled(l *lease, n int64) {
	if l.left -= n; l.left > 0 {
		return
	}
	s.leases = s.leases.remove(l)
	if !l.split {
		putOrigins(l.org)
	}
	l.org = nil
}

// frontier is the first record that is not final.
func (s *Spool) frontier() int64 {
	for _, g := range s.segs {
		if g.pending() > 0 {
			return g.first + g.bits.zero(0)
		}
	}
	return s.w.next.Load()
}

// lend hands out the records [first,first+n) that are in b, less those that are
// final, handed out, or given up. It returns nil when none is left. b and org
// are the Spool's.
func (s *Spool) lend(b *record.Batch, first int64, org *origins) *record.Batch {
	n, src := int64(b.Len()), s.source.Load()
	for i := range b.Pos {
		b.Pos[i].Source = src
	}
	g, at := s.open(first)
	if g != nil && at == first && first+n <= g.end && g.bits.one(first-g.first, first-g.first+n) == first-g.first+n {
		if _, next := s.leases.at(first); next >= first+n {
			s.leases = s.leases.insert(&lease{first: first, n: n, left: n, org: org})
			return b
		}
	}
	some := record.NewBatch(b.Topic)
	some.Route, some.Raw = b.Route, b.Raw
	for seq := first; ; {
		g, seq = s.open(seq)
		if g == nil || seq >= first+n {
			break
		}
		_, next := s.leases.at(seq)
		to := min(first+n, next, g.first+g.bits.one(seq-g.first, g.end-g.first))
		for i := seq - first; i < to-first; i++ {
			some.Commit(append(some.Tail(), b.Bytes(int(i), int(i)+1)...), b.Pos[i])
		}
		s.leases = s.leases.insert(&lease{first: seq, n: to - seq, left: to - seq, base: int(seq - first), org: org, split: true})
		seq = to
	}
	b.Discard()
	if some.Len() == 0 {
		some.Discard()
		putOrigins(org)
		return nil
	}
	return some
}

// Where implements ingest.Origin: a record's place is where it first came from.
func (s *Spool) Where(pos record.Position) (source string, offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, _ := s.leases.at(pos.Offset)
	if l == nil {
		return "buffer " + s.cfg.Route, pos.Offset
	}
	i := l.base + int(pos.Offset-l.first)
	return l.org.names[l.org.src[i]], l.org.off[i]
}

// runs calls f for each run of records that follow each other.
func runs(pos []record.Position, f func(lo, hi int64)) {
	for i := 0; i < len(pos); {
		j := i + 1
		for j < len(pos) && pos[j].Offset == pos[i].Offset+int64(j-i) {
			j++
		}
		f(pos[i].Offset, pos[i].Offset+int64(j-i))
		i = j
	}
}

// Delivered implements ingest.Origin.
func (s *Spool) Delivered(pos []record.Position) {
	s.mu.Lock()
	was := s.dirty
	runs(pos, func(lo, hi int64) { s.stats.Delivered += s.final(lo, hi) })
	tell := s.dirty && !was
	s.mu.Unlock()
	if tell {
		s.wake()
	}
}

// Rejected implements ingest.Origin.
func (s *Spool) Rejected(pos record.Position, _ int, _ string) {
	s.mu.Lock()
	was := s.dirty
	s.stats.Rejected += s.final(pos.Offset, pos.Offset+1)
	tell := s.dirty && !was
	s.mu.Unlock()
	if tell {
		s.wake()
	}
}

// Buffered implements ingest.Origin. A spool's records are in no other buffer:
// they are pending again.
func (s *Spool) Buffered(pos []record.Position) { s.Refused(pos, nil) }

// Refused implements ingest.Origin: the records are pending again, and every
// Cursor that went past them goes back.
func (s *Spool) Refused(pos []record.Position, _ error) {
	s.mu.Lock()
	var dropped int64
	runs(pos, func(lo, hi int64) { dropped += s.handBack(lo, hi) })
	s.change.ring()
	s.mu.Unlock()
	if dropped > 0 {
		s.wake()
		if s.cfg.Dropped != nil {
			s.cfg.Dropped(dropped)
		}
	}
}

// handBack ends the leases of [lo,hi). What was in a file that was given up
// meanwhile is dropped with it.
func (s *Spool) handBack(lo, hi int64) (dropped int64) {
	for c := range s.cursors {
		c.pos = min(c.pos, lo)
	}
	for lo < hi {
		l, next := s.leases.at(lo)
		if l == nil {
			lo = next
			continue
		}
		to := min(hi, l.end())
		s.cutLease(l, lo, to)
		for seq := lo; seq < to; {
			g := s.find(seq)
			if g == nil {
				break
			}
			end := min(to, g.end)
			if g.gone {
				dropped += s.final(seq, end)
			}
			seq = end
		}
		lo = to
	}
	s.stats.DroppedOldest += dropped
	return dropped
}

// cutLease takes [lo,hi) out of l; what is left of it on either side stays.
func (s *Spool) cutLease(l *lease, lo, hi int64) {
	s.leases = s.leases.remove(l)
	shared := l.split || lo > l.first || hi < l.end()
	for _, p := range []span{{l.first, lo}, {hi, l.end()}} {
		if p.lo >= p.hi {
			continue
		}
		part := &lease{first: p.lo, n: p.hi - p.lo, base: l.base + int(p.lo-l.first), org: l.org, split: true}
		for seq := p.lo; seq < p.hi; {
			g := s.find(seq)
			if g == nil {
				break
			}
			to := min(p.hi, g.end)
			part.left += to - seq - g.bits.count(seq-g.first, to-g.first)
			seq = to
		}
		if part.left > 0 {
			s.leases = s.leases.insert(part)
		}
	}
	if !shared {
		putOrigins(l.org)
	}
}

// Pending returns how many records are not final.
func (s *Spool) Pending() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending
}

// Stats returns the figures as they stand.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Bytes, st.Capacity, st.Pending = s.used, s.cfg.MaxBytes, s.pending
	st.Full = s.wanted > 0
	for _, g := range s.segs {
		if g.born && !g.gone {
			st.Segments++
		}
		if st.OldestAge == 0 && g.pending() > 0 {
			st.OldestAge = max(1, s.cfg.now().Sub(time.UnixMilli(g.oldest())))
		}
	}
	if s.fails >= unreadyAfter {
		st.Unready = fmt.Sprintf("disk buffer of route %s takes nothing: %v", s.cfg.Route, s.failure)
	}
	return st
}

// Room implements Buffer.
func (s *Spool) Room(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		now := s.cfg.now()
		switch {
		case s.closing:
			return ErrClosed
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case s.failure != nil && now.Before(s.retryAt):
			s.waitUntil(ctx, until(now, s.retryAt))
			continue
		case s.cfg.WhenFull != Block || s.used+s.queued+max(1, s.wanted) <= s.cfg.MaxBytes:
			s.wanted = 0
			return nil
		}
		s.starved = true
		s.wake()
		s.wait(ctx)
	}
}

// waitUntil is wait for d at most.
func (s *Spool) waitUntil(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	s.wait(ctx)
}

// Close implements Buffer.
func (s *Spool) Close() error {
	s.mu.Lock()
	s.closing = true
	s.change.ring()
	s.mu.Unlock()
	s.wake()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// errUnwritten is joined to what Close returns.
var errUnwritten = errors.New("the last second of the disk buffer could not be written")
