package spool

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// How often, and how far apart, a disk that cannot be read is asked again
// before what it has there counts as damaged.
const (
	readTries = 5
	readAgain = 200 * time.Millisecond
)

// cursor is a Spool's Cursor: batches that are in memory come from there, the
// others from their segments.
type cursor struct {
	s    *Spool
	only string
	run  sync.Mutex // held by Next; s.mu may be taken under it

	// s.mu guards these.
	pos    int64 // of the next record to look at
	skip   func(string) bool
	closed bool

	// Next's own.
	w      walker
	f      file
	seg    *segment // that f is of
	expect int64    // the record that w is at
	known  names
	tries  int
	single bool // do not join batches
}

// Cursor implements Buffer.
func (s *Spool) Cursor(from Ref, only string) Cursor {
	c := &cursor{s: s, only: only, pos: from.Seq, known: names{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cursors[c] = struct{}{}
	return c
}

// Skip implements Cursor.
func (c *cursor) Skip(topic func(string) bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.skip = topic
	c.s.change.ring()
}

// Close implements Cursor. A Next that runs ends with ErrClosed.
func (c *cursor) Close() {
	c.s.mu.Lock()
	c.closed = true
	delete(c.s.cursors, c)
	c.s.change.ring()
	c.s.mu.Unlock()
	c.run.Lock()
	defer c.run.Unlock()
	c.leave()
}

// Next implements Cursor.
func (c *cursor) Next(ctx context.Context) (*record.Batch, Ref, error) {
	c.run.Lock()
	defer c.run.Unlock()
	for {
		b, ref, g, err := c.look(ctx)
		switch {
		case err != nil:
			c.leave()
			return nil, ref, err
		case b != nil:
			c.leave()
			return b, ref, nil
		}
		b, ref, err = c.read(ctx, g)
		if b != nil || err != nil {
			return b, ref, err
		}
	}
}

// place is what there is to read from a disk.
type place struct {
	seg  *segment
	name string
	seq  int64
	size int64
	end  int64
	skip func(string) bool
}

// look waits until there is something to read. It returns a batch that is in
// memory, or where on the disk the next one is.
func (c *cursor) look(ctx context.Context) (*record.Batch, Ref, place, error) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closing || c.closed:
			return nil, Ref{c.pos}, place{}, ErrClosed
		case ctx.Err() != nil:
			return nil, Ref{c.pos}, place{}, context.Cause(ctx)
		}
		g, seq := s.open(c.pos)
		c.pos = seq
		if g == nil {
			c.idle(ctx)
			continue
		}
		if i := s.ram.after(seq); i < len(s.ram.all) && s.ram.all[i].first <= seq {
			h := &s.ram.all[i]
			c.pos = h.end()
			if c.passes(h.b.Topic, c.skip) {
				continue
			}
			mine := s.ram.take(i)
			if b := s.lend(mine.b, mine.first, mine.org); b != nil {
				return b, Ref{c.pos}, place{}, nil
			}
			continue
		}
		if !g.born { // its file could not be written yet
			c.idle(ctx)
			continue
		}
		return nil, Ref{}, place{seg: g, name: segmentName(g.first), seq: seq, size: g.size, end: g.end, skip: c.skip}, nil
	}
}

// idle waits for a change, not holding on to a file that may be removed.
// s.mu is held, and let go of meanwhile.
func (c *cursor) idle(ctx context.Context) {
	if c.f == nil {
		c.s.wait(ctx)
		return
	}
	c.s.mu.Unlock()
	defer c.s.mu.Lock()
	c.leave()
}

// passes says whether a topic's batches are not for this cursor.
func (c *cursor) passes(topic string, skip func(string) bool) bool {
	return c.only != "" && topic != c.only || skip != nil && skip(topic)
}

// leave closes the file: a cursor that reads memory needs none.
func (c *cursor) leave() {
	if c.f != nil {
		c.f.Close()
		c.f, c.seg = nil, nil
		c.w.release()
	}
}

// read reads the batch at p, or finds that there is none. nil and no error
// means to look again.
func (c *cursor) read(ctx context.Context, p place) (*record.Batch, Ref, error) {
	if err := c.goTo(p); err != nil {
		return nil, Ref{}, c.cannot(ctx, p, err)
	}
	for {
		_, ok := c.w.next()
		if c.w.err != nil {
			if c.tries < readTries {
				return nil, Ref{}, c.cannot(ctx, p, c.w.err)
			}
			c.w.err = nil
		}
		h := c.w.cur
		if !ok || !h.footer() && h.end() > p.end {
			c.missing(c.expect, p.end, c.w.off)
			c.passed(p.seq, p.end)
			c.expect = p.end
			return nil, Ref{}, nil
		}
		if h.footer() || h.first < c.expect {
			c.w.skip()
			continue
		}
		if h.first > c.expect {
			c.missing(c.expect, h.first, c.w.off)
			c.expect = h.first
		}
		if h.end() > p.seq {
			if topic := c.known.of(c.w.topic()); c.passes(topic, p.skip) {
				c.passed(p.seq, h.end())
				p.seq = h.end()
			} else {
				return c.batch(ctx, p, topic)
			}
		}
		c.expect = h.end()
		c.w.skip()
	}
}

// goTo has the walker in the segment of p, not behind p.
func (c *cursor) goTo(p place) error {
	if c.seg != p.seg || c.expect > p.seq {
		c.leave()
		f, err := c.s.fs.open(p.name)
		if err != nil {
			return err
		}
		if err := c.w.start(f, p.size, p.name); err != nil {
			f.Close()
			return err
		}
		c.f, c.seg, c.expect = f, p.seg, p.seg.first
		if (c.only != "" || p.skip != nil) && c.expect == p.seq {
			c.footer(p)
		}
	}
	c.w.size = p.size
	return nil
}

// footer moves to the end of a segment that has nothing for this cursor.
func (c *cursor) footer(p place) {
	t, at, err := readFooter(c.f, p.size)
	if err != nil || len(t.topics) == 0 || t.end != p.end {
		return
	}
	for topic := range t.topics {
		if !c.passes(topic, p.skip) {
			return
		}
	}
	c.expect, c.w.off = p.end, at
}

// cannot waits before a disk that failed is asked again. What is not there at
// all is damage, and so is what cannot be read after some tries.
func (c *cursor) cannot(ctx context.Context, p place, err error) error {
	c.leave()
	c.s.mu.Lock()
	given := p.seg.gone || p.seg.pending() == 0
	c.s.mu.Unlock()
	if given { // meanwhile
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		c.missing(p.seg.first, p.end, 0)
		return nil
	}
	if c.tries++; c.tries == 1 {
		c.s.log.Warn("disk buffer cannot be read; it is tried again", "route", c.s.cfg.Route, "dir", c.s.cfg.Dir, "file", p.name, "error", err)
	}
	timer := time.NewTimer(readAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// batch reads the frame that the walker is at, and small ones of the same kind
// behind it.
func (c *cursor) batch(ctx context.Context, p place, topic string) (*record.Batch, Ref, error) {
	s := c.s
	first, org := c.w.cur.first, getOrigins()
	b := record.NewBatch(topic)
	b.Route, b.Raw = s.route.Load(), c.w.cur.flags&flagRaw != 0
	source, flags := s.source.Load(), c.w.cur.flags
	for {
		fr, err := c.w.load()
		if c.w.err != nil {
			if c.tries < readTries {
				b.Discard()
				putOrigins(org)
				return nil, Ref{}, c.cannot(ctx, p, c.w.err)
			}
			c.w.err = nil
		}
		if err == nil {
			err = fr.decode(b, org, source, c.known)
		}
		c.expect = c.w.cur.end()
		if err != nil {
			c.missing(c.w.cur.first, c.expect, c.w.off)
			if b.Len() > 0 { // of this frame, or of good ones before it: read those again
				c.single, c.expect = true, 1<<63-1
			}
			c.w.skip()
			b.Discard()
			putOrigins(org)
			return nil, Ref{}, nil
		}
		c.w.skip()
		if c.single || !c.more(b, flags, p.end) {
			break
		}
	}
	c.single, c.tries = false, 0
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.pos == p.seq {
		c.pos = c.expect
	}
	ref := Ref{c.pos}
	return s.lend(b, first, org), ref, nil
}

// more says that the next frame is in memory already and may join b. It is
// the current one then.
func (c *cursor) more(b *record.Batch, flags uint16, end int64) bool {
	w := &c.w
	in := w.off - w.at
	if in < 0 || in+headSize > int64(len(w.win)) {
		return false
	}
	var h frameHead
	if !h.parse(w.win[in:]) || h.footer() || h.first != c.expect || h.end() > end || h.flags != flags ||
		in+int64(h.length) > int64(len(w.win)) || b.Size()+h.length > mergeBytes {
		return false
	}
	if string(w.win[in+headSize:][:h.topic]) != b.Topic {
		return false
	}
	w.cur = h
	return true
}

// passed moves the cursor on, unless it was sent back meanwhile.
func (c *cursor) passed(from, to int64) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.pos == from {
		c.pos = to
	}
}

// missing counts the records [lo,hi) as lost that nobody has: not final, not
// handed out, and not in memory.
func (c *cursor) missing(lo, hi, off int64) {
	s := c.s
	s.mu.Lock()
	var n int64
	for lo < hi {
		_, lo = s.open(lo)
		if lo >= hi {
			break
		}
		to := hi
		if i := s.ram.after(lo); i < len(s.ram.all) {
			h := &s.ram.all[i]
			if h.first <= lo {
				lo = h.end()
				continue
			}
			to = min(to, h.first)
		}
		n += s.free(lo, to)
		lo = to
	}
	if n > 0 {
		s.stats.CorruptRecords += n
		s.stats.CorruptPlaces++
		s.change.ring()
	}
	s.mu.Unlock()
	if n > 0 {
		s.wake()
		s.log.Error("records of the disk buffer are damaged and lost", "route", s.cfg.Route, "dir", s.cfg.Dir,
			"records", n, "up to", hi-1, "file", segmentName(c.segFirst()), "at byte", off)
	}
}

func (c *cursor) segFirst() int64 {
	if c.seg == nil {
		return 0
	}
	return c.seg.first
}
