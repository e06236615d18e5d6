package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// writer is what only the writing goroutine touches, next aside.
type writer struct {
	next atomic.Int64 // number of the next record

	seg    *segment
	f      file     // nil: seg has no file yet
	head   int      // bytes of its head
	size   int64    // of the file
	buf    []byte   // frames of seg that are not synced: kept, for a failed sync may have lost them
	put    int      // of buf, in the file
	synced span     // lo: bytes of the file that are synced; hi: one behind the last record in them
	topics topicSum // of seg

	lastSync time.Time
	unsynced time.Time // since when something is; zero for nothing
	idleFrom time.Time // since when nothing was appended, or it was last looked at

	acks      [2]file
	slot      int // the next to write
	state     ackState
	ackBuf    []byte
	ackSize   [2]int
	lastSave  time.Time
	ackSynced time.Time
	ackBroken bool // told of already

	spare   []entry
	lastLog time.Time
}

// topicSum counts a segment's records by topic, for its footer.
type topicSum struct {
	n      map[string]int64
	hidden bool // not all are counted
	oldest int64
	newest int64
}

func (t *topicSum) reset(hidden bool) { *t = topicSum{n: map[string]int64{}, hidden: hidden} }

func (t *topicSum) add(topic string, n int, at int64) {
	if t.oldest == 0 {
		t.oldest = at
	}
	t.newest = at
	if _, known := t.n[topic]; known || len(t.n) <= maxTopics {
		t.n[topic] += int64(n)
	}
}

// run is the writing goroutine.
func (s *Spool) run() {
	defer close(s.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, ended := s.turn()
		if ended {
			return
		}
		timer.Reset(wait)
		select {
		case <-s.kick:
		case <-timer.C:
		}
	}
}

// turn does what is due and returns when it wants to be called again.
func (s *Spool) turn() (wait time.Duration, ended bool) {
	w, now := &s.w, s.cfg.now()
	s.mu.Lock()
	closing, dead := s.closing, len(s.dead) > 0
	wait = time.Hour
	var q []entry
	if gap := s.cfg.gather - now.Sub(w.lastSync); s.cfg.Fsync == Always && gap > 0 && !closing && len(s.queue) > 0 && s.queued < s.queueBound()/4 {
		wait = gap // share a sync with what comes until then
	} else if len(s.queue) > 0 {
		q, s.queue, w.spare = s.queue, w.spare[:0], nil // two that take turns
	}
	s.mu.Unlock()
	if dead {
		s.save(true) // room first
	}
	if len(q) > 0 {
		s.commit(q)
		clear(q)
		w.spare = q[:0]
		w.idleFrom = now
	}
	now = s.cfg.now()
	s.clearWay(now)
	s.flushDue(now, closing)
	if closing {
		s.end()
		return 0, true
	}
	return min(wait, s.due(now)), false
}

// due saves the acks when it is time, and returns when there is more to do.
func (s *Spool) due(now time.Time) time.Duration {
	w := &s.w
	every := max(saveEvery, time.Duration(w.ackSize[0])*time.Second/saveRate)
	s.mu.Lock()
	dirty, failed, retry := s.dirty || len(s.dead) > 0, s.failure != nil, s.retryAt
	again := time.Duration(0)
	if len(s.queue) > 0 {
		again = s.cfg.gather
	}
	s.mu.Unlock()
	wait := time.Hour
	if dirty || w.ackSynced.Before(w.lastSave) && now.Sub(w.ackSynced) >= syncEvery {
		if left := every - now.Sub(w.lastSave); left > 0 {
			wait = left
		} else {
			s.save(false)
		}
	}
	if again > 0 {
		wait = min(wait, again)
	}
	if !w.unsynced.IsZero() {
		if failed {
			wait = min(wait, until(now, retry))
		} else {
			wait = min(wait, until(now, w.unsynced.Add(syncEvery)))
		}
	}
	if w.seg != nil && w.seg.born {
		wait = min(wait, max(time.Millisecond, until(now, w.idleFrom.Add(idleAfter))))
	}
	if w.ackSynced.Before(w.lastSave) {
		wait = min(wait, max(saveEvery, until(now, w.ackSynced.Add(syncEvery))))
	}
	return wait
}

// flushDue syncs what was only written, when its time has come.
func (s *Spool) flushDue(now time.Time, closing bool) {
	w := &s.w
	if w.unsynced.IsZero() {
		return
	}
	s.mu.Lock()
	held := s.failure != nil && now.Before(s.retryAt) && !closing
	failed := s.failure != nil
	s.mu.Unlock()
	if held || !failed && !closing && len(w.buf) < maxUnsynced && now.Sub(w.unsynced) < syncEvery {
		return
	}
	if s.flush(true) == nil {
		s.publish(nil) // it may be in another file now
	}
}

// clearWay closes the segment appended to when it keeps others from room, or
// is of no more use.
func (s *Spool) clearWay(now time.Time) {
	w := &s.w
	if w.seg == nil || !w.seg.born {
		s.mu.Lock()
		s.roll = false
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	final := w.seg.pending() == 0
	do := s.roll || final && (s.starved || now.Sub(w.idleFrom) >= idleAfter)
	s.roll = false
	s.mu.Unlock()
	if !do {
		if final || now.Sub(w.idleFrom) < idleAfter {
			return
		}
		w.idleFrom = now // look again later
		return
	}
	if s.closeSegment() == nil && final {
		s.save(false)
	}
}

// commit writes batches and tells who waits for them.
func (s *Spool) commit(q []entry) {
	w := &s.w
	for i := 0; i < len(q); {
		if q[i].drop {
			s.forget(&q[i])
			i++
			continue
		}
		if w.seg != nil && w.seg.end > w.seg.first && s.bytes()+q[i].size > s.segment {
			if err := s.closeSegment(); err != nil {
				s.refuse(q[i:], err)
				return
			}
		}
		s.begin()
		from, keep, next := i, len(w.buf), w.next.Load()
		for ; i < len(q) && !q[i].drop && (i == from || s.bytes()+q[i].size <= s.segment); i++ {
			s.encode(&q[i])
		}
		if w.unsynced.IsZero() {
			w.unsynced = s.cfg.now()
		}
		if err := s.flush(s.cfg.Fsync == Always); err != nil {
			w.buf = w.buf[:keep]
			if keep == 0 {
				w.unsynced = time.Time{}
			}
			w.next.Store(next)
			s.refuse(q[from:], err)
			return
		}
		s.publish(q[from:i])
	}
}

// bytes is what the segment's file is or will be.
func (s *Spool) bytes() int64 { return s.w.size + int64(len(s.w.buf)-s.w.put) }

// begin makes a segment to append to; its file comes with the first write.
func (s *Spool) begin() {
	w := &s.w
	if w.seg != nil {
		return
	}
	next := w.next.Load()
	w.seg = &segment{first: next, end: next}
	w.f, w.size, w.buf, w.put, w.synced = nil, 0, w.buf[:0], 0, span{0, next}
	w.topics.reset(false)
	s.mu.Lock()
	s.segs = append(s.segs, w.seg)
	s.mu.Unlock()
}

// encode appends e's frame to what is to be written.
func (s *Spool) encode(e *entry) {
	w := &s.w
	e.org, e.first = getOrigins(), w.next.Load()
	for _, pos := range e.b.Pos {
		e.org.add(e.where(pos))
	}
	w.buf = appendFrame(w.buf, e.first, s.cfg.now(), e.b, e.org)
	w.next.Store(e.first + int64(e.b.Len()))
}

// flush writes what is not written, and syncs it. A file that failed once is
// never appended to again, for what the system still holds of it cannot be
// trusted: all of it that is not synced goes into a new one.
func (s *Spool) flush(sync bool) error {
	some := len(s.w.buf) > 0
	err := s.write(sync)
	if err != nil {
		s.failed(err)
		s.abandon()
		if err = s.write(true); err != nil {
			s.failed(err)
			s.abandon()
			return fmt.Errorf("write disk buffer %s: %w", s.cfg.Dir, err)
		}
	}
	if !some { // it proves nothing
		return nil
	}
	s.mu.Lock()
	recovered := s.failure != nil
	s.fails, s.failure = 0, nil
	s.mu.Unlock()
	if recovered {
		s.log.Info("disk buffer writes again", "route", s.cfg.Route)
	}
	return nil
}

func (s *Spool) write(sync bool) error {
	w := &s.w
	if w.f == nil {
		if len(w.buf) == 0 {
			return nil
		}
		if err := s.makeFile(); err != nil {
			return err
		}
	}
	if w.put < len(w.buf) {
		if _, err := w.f.WriteAt(w.buf[w.put:], w.size); err != nil {
			return err
		}
		w.size += int64(len(w.buf) - w.put)
		w.put = len(w.buf)
	}
	if !sync {
		return nil
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	w.buf, w.put = w.buf[:0], 0
	if cap(w.buf) > 2*maxUnsynced {
		w.buf = nil
	}
	w.synced = span{w.size, w.next.Load()}
	w.unsynced, w.lastSync = time.Time{}, s.cfg.now()
	return nil
}

// makeFile creates the segment's file with its head.
func (s *Spool) makeFile() error {
	w := &s.w
	name := segmentName(w.seg.first)
	f, err := s.fs.create(name)
	if errors.Is(err, fs.ErrExist) { // one that failed and could not be removed then
		if err := s.fs.remove(name); err != nil {
			return err
		}
		f, err = s.fs.create(name)
	}
	if err != nil {
		return err
	}
	w.f, w.size = f, 0
	head := (&segmentHead{id: s.id, first: w.seg.first, created: s.cfg.now().UnixMilli(), route: s.cfg.Route}).append(nil)
	if _, err := f.WriteAt(head, 0); err != nil {
		return err
	}
	if err := s.fs.syncDir(); err != nil {
		return err
	}
	w.head, w.size = len(head), int64(len(head))
	return nil
}

// abandon leaves a file that failed: what is synced of it stays, the rest gets
// a segment that has no file yet.
func (s *Spool) abandon() {
	w := &s.w
	keep := w.synced
	if w.f != nil {
		if keep.lo > 0 {
			// Whatever is behind it does not count: the next segment begins there.
			_ = w.f.Truncate(keep.lo)
			w.f.Close()
		} else {
			w.f.Close()
			if s.fs.remove(segmentName(w.seg.first)) == nil {
				_ = s.fs.syncDir()
			}
		}
	}
	w.f, w.size, w.put = nil, 0, 0
	s.mu.Lock()
	defer s.mu.Unlock()
	old := w.seg
	if keep.lo > 0 {
		w.seg = old.split(keep.hi)
		old.sealed = true
		s.used -= old.size - min(old.size, keep.lo)
		old.size = min(old.size, keep.lo)
		s.segs = append(s.segs, w.seg)
		w.topics.reset(true)
	} else {
		// Another segment, for cursors that have this one's file open.
		again := *old
		again.size, again.born = 0, false
		w.seg = &again
		s.used -= old.size
		s.segs[len(s.segs)-1] = w.seg
	}
	w.synced = span{0, w.seg.first}
}

// closeSegment ends the segment appended to with a footer.
func (s *Spool) closeSegment() error {
	if err := s.flush(true); err != nil {
		return err
	}
	w := &s.w
	if w.seg == nil {
		return nil
	}
	if w.f != nil {
		t := footer{end: w.seg.end, oldest: w.topics.oldest, newest: w.topics.newest, topics: w.topics.n}
		if w.topics.hidden || len(w.topics.n) > maxTopics {
			t.topics = nil
		}
		p := t.append(nil, w.seg.first)
		_, err := w.f.WriteAt(p, w.size)
		if err == nil {
			err = w.f.Sync()
		}
		if err == nil {
			w.size += int64(len(p))
		} else { // without one the segment is read at start, that is all
			_ = w.f.Truncate(w.size)
			s.mu.Lock()
			s.stats.SyncErrors++
			s.mu.Unlock()
		}
		w.f.Close()
	}
	s.mu.Lock()
	g := w.seg
	g.sealed = true
	if w.f != nil {
		g.born = true
		s.used += w.size - g.size
		g.size = w.size
	}
	if g.end == g.first {
		s.segs = s.segs[:len(s.segs)-1]
	}
	s.change.ring()
	s.mu.Unlock()
	w.seg, w.f, w.size = nil, nil, 0
	return nil
}

// publish says that batches are durable and lets them be read.
func (s *Spool) publish(q []entry) {
	w, route := &s.w, s.route.Load()
	s.mu.Lock()
	for i := range q { // before anyone is told: whoever asks then finds them counted
		s.stats.Appended += int64(q[i].b.Len())
		s.pending += int64(q[i].b.Len())
	}
	s.mu.Unlock()
	for i := range q {
		e := &q[i]
		e.durable(e.b, nil)
		at := int32(0)
		for j, end := range e.b.Ends {
			e.b.Pos[j] = record.Position{Offset: e.first + int64(j), Len: end - at}
			at = end
		}
		e.b.Route = route
	}
	now := s.cfg.now().UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range q {
		e := &q[i]
		n := int64(e.b.Len())
		w.seg.end = e.first + n
		w.seg.stamp(e.first, now)
		w.topics.add(e.b.Topic, int(n), now)
		s.queued -= e.size
		s.keep(e)
	}
	// The slots tell how far the files went: what is gone of their end is counted.
	s.dirty = s.dirty || len(q) > 0
	if w.f != nil {
		w.seg.born = true
		s.used += w.size - w.seg.size
		w.seg.size = w.size
	}
	s.change.ring()
}

// keep holds a batch in memory too, or lets it go.
func (s *Spool) keep(e *entry) {
	if s.cfg.RAMBytes > 0 {
		s.ram.push(held{b: e.b, first: e.first, org: e.org}, s.cfg.RAMBytes)
		return
	}
	e.b.Discard()
	putOrigins(e.org)
}

// forget tells of a batch that the policy dropped.
func (s *Spool) forget(e *entry) {
	e.durable(e.b, ErrDropped)
	e.b.Discard()
}

// refuse gives batches back.
func (s *Spool) refuse(q []entry, err error) {
	for i := range q {
		e := &q[i]
		if e.drop {
			s.forget(e)
			continue
		}
		if e.org != nil {
			putOrigins(e.org)
		}
		e.durable(e.b, err)
	}
	s.mu.Lock()
	for i := range q {
		if !q[i].drop {
			s.queued -= q[i].size
		}
	}
	s.change.ring()
	s.mu.Unlock()
}

// failed notes a write or sync that went wrong.
func (s *Spool) failed(err error) {
	now := s.cfg.now()
	s.mu.Lock()
	s.stats.SyncErrors++
	s.fails++
	s.failure = fmt.Errorf("write disk buffer %s: %w", s.cfg.Dir, err)
	s.retryAt = now.Add(min(retryMax, retryFirst<<min(10, s.fails/2)))
	fails := s.fails
	s.change.ring()
	s.mu.Unlock()
	if fails == 1 || now.Sub(s.w.lastLog) >= 10*time.Second {
		s.w.lastLog = now
		s.log.Warn("disk buffer cannot be written; it is tried again with a new file", "route", s.cfg.Route, "dir", s.cfg.Dir, "error", err, "failures", fails)
	}
}

// end is the writer's last turn: everything to disk.
func (s *Spool) end() {
	w := &s.w
	err := s.closeSegment()
	if len(w.buf) == 0 {
		err = nil // nothing that was taken is missing
	} else {
		err = errors.Join(errUnwritten, err)
	}
	s.save(true)
	for _, f := range w.acks {
		f.Close()
	}
	s.mu.Lock()
	for len(s.ram.all) > 0 {
		s.ram.drop(0)
	}
	s.closed = err
	s.change.ring()
	s.mu.Unlock()
	s.fs.unlock()
}

// save writes which records are final, and removes the segments that are. both
// writes both slots, so that losing one forgets nothing.
//
// The slots are synced before a file is removed: else a power cut could leave
// a state that takes the file for lost. Where they cannot be written the file
// is removed all the same: a full disk needs the room, and a false alarm at
// the next start is better than none.
func (s *Spool) save(both bool) {
	w := &s.w
	s.mu.Lock()
	s.sweep()
	dead := s.dead
	s.dead, s.dirty = nil, false
	w.ackBuf = s.encodeAcks(w.ackBuf)
	s.mu.Unlock()
	now := s.cfg.now()
	w.lastSave = now
	sync := both || len(dead) > 0 || now.Sub(w.ackSynced) >= syncEvery
	err := s.saveSlot(sync)
	if err == nil && (both || len(dead) > 0) {
		err = s.saveSlot(true)
	}
	if err == nil && sync {
		w.ackSynced = now
	}
	if err != nil && !w.ackBroken {
		s.log.Warn("which records of the disk buffer are final cannot be saved: a restart will send them again", "route", s.cfg.Route, "dir", s.cfg.Dir, "error", err)
	}
	w.ackBroken = err != nil
	var kept []string
	for _, name := range dead {
		if err := s.fs.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("a segment of the disk buffer cannot be removed; it is tried again", "route", s.cfg.Route, "dir", s.cfg.Dir, "file", name, "error", err)
			kept = append(kept, name)
		}
	}
	if len(dead) > 0 {
		_ = s.fs.syncDir() // a file that comes back is all final
	}
	s.mu.Lock()
	s.dead = append(s.dead, kept...)
	s.dirty = s.dirty || err != nil
	if len(dead) > 0 {
		s.starved = false
		s.change.ring()
	}
	s.mu.Unlock()
}

// sweep takes the segments out whose records are all final.
func (s *Spool) sweep() {
	left := s.segs[:0]
	for _, g := range s.segs {
		if !g.sealed || g.pending() > 0 {
			left = append(left, g)
			continue
		}
		s.lost = s.lost.add(g.first, g.end)
		if !g.gone {
			s.used -= g.size
			s.dead = append(s.dead, segmentName(g.first))
		}
	}
	clear(s.segs[len(left):])
	s.segs = left
	s.lost = s.lost.below(s.frontier())
}

// encodeAcks writes the state as it stands into dst. Call it with mu held.
func (s *Spool) encodeAcks(dst []byte) []byte {
	a := &s.w.state
	a.id, a.frontier, a.next = s.id, s.frontier(), s.w.next.Load()
	dst = a.begin(dst)
	at, gone := int64(1), s.lost
	all := func(to int64) {
		for len(gone) > 0 && gone[0].lo < to {
			dst = appendGroup(dst, gone[0].lo-at, gone[0].hi-gone[0].lo, nil, true)
			at, gone = gone[0].hi, gone[1:]
		}
	}
	for _, g := range s.segs {
		if g.end <= a.frontier || g.done == 0 {
			continue
		}
		all(g.first)
		dst = appendGroup(dst, g.first-at, g.end-g.first, g.bits, g.pending() == 0)
		at = g.end
	}
	all(1<<63 - 1)
	return dst
}

// saveSlot writes the encoded state into the older slot.
func (s *Spool) saveSlot(sync bool) error {
	w := &s.w
	w.state.generation++
	w.ackBuf = w.state.finish(w.ackBuf)
	i := w.slot
	if _, err := w.acks[i].WriteAt(w.ackBuf, 0); err != nil {
		return err
	}
	if len(w.ackBuf) < w.ackSize[i] {
		if err := w.acks[i].Truncate(int64(len(w.ackBuf))); err != nil {
			return err
		}
	}
	w.ackSize[i], w.slot = len(w.ackBuf), 1-i
	if sync {
		return w.acks[i].Sync()
	}
	return nil
}
