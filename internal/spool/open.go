package spool

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"
)

// Open opens the spool of cfg.Dir, or makes one there, and takes it for this
// process. Only the heads and ends of segments are read, and the last one
// whole: it takes the same time and memory however much is pending.
//
// Errors: *LockedError; *VersionError, nothing being touched then; what is
// wrong with cfg; the disk's. Damage is none: it is logged and counted, and
// what can be read will be.
func Open(cfg Config, log *slog.Logger) (*Spool, error) {
	if cfg.now == nil {
		cfg.now = time.Now
	}
	if cfg.segment == 0 {
		if err := cfg.Validate(); err != nil {
			return nil, err
		}
	}
	if cfg.fs == nil {
		d, err := openDisk(cfg.Dir, true)
		if err != nil {
			return nil, fmt.Errorf("disk buffer %s: %w", cfg.Dir, err)
		}
		cfg.fs = d
	}
	if err := cfg.fs.lock(); err != nil {
		cfg.fs.unlock()
		var l *LockedError
		if errors.As(err, &l) {
			return nil, err
		}
		return nil, fmt.Errorf("disk buffer %s: %w", cfg.Dir, err)
	}
	s := &Spool{
		cfg: cfg, fs: cfg.fs, log: log, segment: cfg.segmentSize(),
		kick: make(chan struct{}, 1), done: make(chan struct{}), cursors: map[*cursor]struct{}{},
	}
	s.route.Store(cfg.RouteID)
	if err := s.load(); err != nil {
		for _, f := range s.w.acks {
			if f != nil {
				f.Close()
			}
		}
		cfg.fs.unlock()
		return nil, fmt.Errorf("disk buffer %s: %w", cfg.Dir, err)
	}
	go s.run()
	return s, nil
}

// load reads what is there and prepares to append.
func (s *Spool) load() error {
	in, err := survey(s.fs)
	if err != nil {
		return err
	}
	for _, g := range in.segs {
		if g.tail >= 0 && g == in.segs[len(in.segs)-1] {
			if err := s.cut(g); err != nil {
				return err
			}
		}
		if g.end == g.first { // its name is the next segment's
			if err := s.fs.remove(segmentName(g.first)); err != nil {
				return fmt.Errorf("remove %s, which holds no record: %w", segmentName(g.first), err)
			}
			continue
		}
		s.segs = append(s.segs, &g.segment)
		s.used += g.size
		s.pending += g.pending()
	}
	s.lost = in.gone.below(in.state.frontier)
	s.id = in.state.id
	if s.id == 0 {
		if s.id = s.cfg.id; s.id == 0 {
			s.id = rand.Uint64() | 1
		}
	}
	w := &s.w
	w.next.Store(in.state.next)
	w.state.generation, w.slot = in.state.generation, in.older
	w.idleFrom = s.cfg.now()
	for i, name := range slotNames {
		if w.acks[i], err = s.fs.update(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.ackSize[i] = 1 << 30 // cut what may be behind
	}
	s.dirty = true
	s.report(in)
	return nil
}

// cut takes the end off a segment that was being written when its agent ended.
func (s *Spool) cut(g *found) error {
	s.stats.TornBytes += g.size - g.tail
	s.log.Warn("the last write to the disk buffer was cut short: its end is cut off", "route", s.cfg.Route,
		"file", segmentName(g.first), "at", g.tail, "bytes", g.size-g.tail)
	f, err := s.fs.update(segmentName(g.first))
	if err != nil {
		return fmt.Errorf("cut the end of %s: %w", segmentName(g.first), err)
	}
	defer f.Close()
	if err := f.Truncate(g.tail); err != nil {
		return fmt.Errorf("cut the end of %s: %w", segmentName(g.first), err)
	}
	g.size = g.tail
	return nil
}

// report logs and counts what was found.
func (s *Spool) report(in *inventory) {
	for _, m := range in.missing {
		s.stats.CorruptRecords += m.Records
		s.stats.CorruptPlaces++
		s.log.Error("records of the disk buffer are missing", "route", s.cfg.Route, "dir", s.cfg.Dir, "records", m.Records, "place", m.What)
	}
	if in.noState && len(in.segs) > 0 {
		s.log.Warn("it is not known any more which records of the disk buffer were delivered: all are sent again", "route", s.cfg.Route, "dir", s.cfg.Dir)
	}
	s.stats.Opened = s.pending + s.stats.CorruptRecords
	if s.pending > 0 {
		s.log.Info("disk buffer has records from before", "route", s.cfg.Route, "records", s.pending, "bytes", s.used)
	}
}

// found is a segment as it was found.
type found struct {
	segment
	route string
	tail  int64 // where what is torn off at its end begins; -1: nothing is
	note  string
	id    uint64
}

// inventory is what a directory holds.
type inventory struct {
	segs    []*found
	state   ackState // frontier and next as they follow from all of it
	noState bool     // no slot could be used
	older   int      // the slot to write next
	gone    spans    // records of segments that are not there
	missing []Damage // of them, those that were not final
	slots   [2]string
}

// survey reads what a directory holds and changes nothing.
// Errors: *VersionError; the disk's.
func survey(fs fsys) (*inventory, error) {
	files, err := fs.list()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b fileInfo) int { return cmp.Compare(a.name, b.name) })
	in := &inventory{}
	slots, err := in.readSlots(fs)
	if err != nil {
		return nil, err
	}
	var w walker
	for _, file := range files {
		first, ok := parseSegmentName(file.name)
		if !ok {
			continue
		}
		g, err := inspectSegment(fs, &w, first, file)
		if err != nil {
			return nil, err
		}
		in.segs = append(in.segs, g)
	}
	in.choose(slots)
	in.join(slots)
	return in, nil
}

// inspectSegment reads a segment's head and footer, or all of it where it has none.
// Errors: *VersionError; the disk's.
func inspectSegment(fs fsys, w *walker, first int64, file fileInfo) (*found, error) {
	f, err := fs.open(file.name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := w.start(f, file.size, file.name); err != nil {
		return nil, err
	}
	g := &found{segment: segment{first: first, end: first, size: file.size, born: true, sealed: true}, tail: -1}
	if w.fine && w.head.first == first {
		g.route, g.id = w.head.route, w.head.id
		g.marks = []mark{{first, w.head.created}}
	} else {
		g.note = "its head is damaged"
	}
	t, _, err := readFooter(f, file.size)
	if err == nil && t.end >= first {
		g.end = t.end
		if t.oldest > 0 {
			g.marks = []mark{{first, t.oldest}}
		}
		return g, nil
	}
	good := w.off
	for {
		_, ok := w.next()
		if !ok {
			break
		}
		if _, err := w.load(); err == nil && w.cur.first >= g.end {
			if !w.cur.footer() {
				g.end = w.cur.end()
				g.stamp(w.cur.first, w.cur.time)
			}
			good = w.off + int64(w.cur.length)
		}
		w.skip()
	}
	if w.err != nil {
		g.note = "it cannot be read: " + w.err.Error()
	} else if good < g.size {
		g.tail = good
	}
	return g, nil
}

// slotData is an ack slot as it was read.
type slotData struct {
	p     []byte
	state ackState
	err   error
}

// readSlots reads both. A damaged one is only noted.
func (in *inventory) readSlots(fs fsys) (slots [2]slotData, err error) {
	files, err := fs.list()
	if err != nil {
		return slots, err
	}
	for i, name := range slotNames {
		at := slices.IndexFunc(files, func(f fileInfo) bool { return f.name == name })
		if at < 0 {
			slots[i].err, in.slots[i] = errDamage, "missing"
			continue
		}
		f, err := fs.open(name)
		if err != nil {
			return slots, err
		}
		w := walker{f: f, size: files[at].size}
		slots[i].p = w.see(0, int(min(files[at].size, maxFrame)))
		f.Close()
		slots[i].err = slots[i].state.parse(slots[i].p, name, func(int64, int64) {})
		var v *VersionError
		if errors.As(slots[i].err, &v) {
			return slots, v
		}
		in.slots[i] = "good"
		if slots[i].err != nil {
			in.slots[i] = "damaged"
		}
	}
	return slots, nil
}

// choose takes the newest good slot that is of this spool.
func (in *inventory) choose(slots [2]slotData) {
	var id uint64
	for _, g := range in.segs {
		if id == 0 {
			id = g.id
		}
	}
	in.noState = true
	for i := range slots {
		slot := &slots[i]
		if slot.err != nil {
			continue
		}
		if id != 0 && slot.state.id != id {
			in.slots[i] = "of another buffer"
			continue
		}
		if in.noState || slot.state.generation > in.state.generation {
			in.state, in.older, in.noState = slot.state, 1-i, false
		}
	}
	if in.noState {
		in.state = ackState{id: id, frontier: 1, next: 1}
		if len(in.segs) > 0 {
			in.state.frontier = in.segs[0].first
		}
	}
}

// join lays segments and ack state over each other: what is final, what is
// missing, and which number comes next.
//
// A number below next is never given again, though its record is gone: its ack
// may have been saved, and would pass over the record that has it now.
func (in *inventory) join(slots [2]slotData) {
	at := in.state.frontier
	type gap struct {
		span
		final int64
		what  string
	}
	var gaps []gap
	for i, g := range in.segs {
		if i+1 < len(in.segs) {
			g.end = min(g.end, in.segs[i+1].first) // what is behind failed there and was written again
		}
		if g.first > at {
			gaps = append(gaps, gap{span: span{at, g.first}, what: "before " + segmentName(g.first)})
		}
		if in.state.frontier > g.first {
			to := min(in.state.frontier, g.end)
			g.bits, g.done = g.bits.set(0, max(0, to-g.first))
		}
		at = max(at, g.end)
	}
	if in.state.next > at {
		what := "at the end"
		if n := len(in.segs); n > 0 {
			what = "behind the last of " + segmentName(in.segs[n-1].first)
		}
		gaps = append(gaps, gap{span: span{at, in.state.next}, what: what})
	}
	in.state.next = max(in.state.next, at)
	if !in.noState {
		final := func(lo, hi int64) {
			i, _ := slices.BinarySearchFunc(in.segs, lo, func(g *found, seq int64) int { return cmp.Compare(g.end, seq+1) })
			for ; i < len(in.segs) && in.segs[i].first < hi; i++ {
				g := in.segs[i]
				from, to := max(lo, g.first), min(hi, g.end)
				if from < to {
					var n int64
					g.bits, n = g.bits.set(from-g.first, to-g.first)
					g.done += n
				}
			}
			for i := range gaps {
				gaps[i].final += max(0, min(hi, gaps[i].hi)-max(lo, gaps[i].lo))
			}
		}
		slot := &slots[1-in.older]
		var again ackState
		_ = again.parse(slot.p, "", final) // it was good before
	}
	for _, x := range gaps {
		in.gone = in.gone.add(x.lo, x.hi)
		if n := x.hi - x.lo - x.final; n > 0 {
			in.missing = append(in.missing, Damage{First: x.lo, Records: n, What: fmt.Sprintf("records %d to %d, %s", x.lo, x.hi-1, x.what)})
		}
	}
}
