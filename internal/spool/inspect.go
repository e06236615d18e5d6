package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Damage is a place where something is not as it was written.
type Damage struct {
	File    string `json:"file,omitempty"`
	Offset  int64  `json:"offset"`
	First   int64  `json:"first_record,omitempty"`
	Records int64  `json:"records"` // lost with it, those that were final not counted
	What    string `json:"what"`
}

// String tells of the place on one line.
func (d Damage) String() string {
	where := d.What
	if d.File != "" {
		where = fmt.Sprintf("%s at byte %d: %s", d.File, d.Offset, d.What)
	}
	return fmt.Sprintf("%s; %d records lost", where, d.Records)
}

// Report is what a look into a spool found.
type Report struct {
	Dir         string           `json:"dir"`
	Route       string           `json:"route"`
	InUse       bool             `json:"in_use"` // by a running agent: the figures were moving
	PID         int              `json:"pid,omitempty"`
	Version     int              `json:"version"`
	Bytes       int64            `json:"bytes"`
	Pending     int64            `json:"pending"`
	Topics      map[string]int64 `json:"topics"` // pending
	Oldest      *time.Time       `json:"oldest,omitempty"`
	Next        int64            `json:"next_record"`
	AckSlots    [2]string        `json:"ack_slots"`
	Segments    []SegmentReport  `json:"segments"`
	Damage      []Damage         `json:"damage"`
	TornBytes   int64            `json:"torn_bytes"` // at the end: what was being written when the agent ended
	LostRecords int64            `json:"lost_records"`
}

// SegmentReport is what is told of one segment.
type SegmentReport struct {
	File    string    `json:"file"`
	First   int64     `json:"first_record"`
	Records int64     `json:"records"`
	Pending int64     `json:"pending"`
	Bytes   int64     `json:"bytes"`
	Created time.Time `json:"created"`
	Note    string    `json:"note,omitempty"`
}

// look is one read-only visit to a spool.
type look struct {
	ctx  context.Context
	disk *disk
	in   *inventory
	rep  *Report
	// whole asks for every frame to be read and checked; each is called with
	// those that are pending in part, when not nil.
	whole bool
	each  func(f *frame, g *found) error
}

// visit opens dir to be read. Only Inspect looks at one that is in use.
func visit(ctx context.Context, dir string, live bool) (*look, error) {
	d, err := openDisk(dir, false)
	if err != nil {
		return nil, fmt.Errorf("disk buffer %s: %w", dir, err)
	}
	l := &look{ctx: ctx, disk: d, rep: &Report{Dir: dir, Version: version, Topics: map[string]int64{}, Segments: []SegmentReport{}, Damage: []Damage{}}}
	if err := d.share(); err != nil {
		var held *LockedError
		if !errors.As(err, &held) || !live {
			d.unlock()
			return nil, err
		}
		l.rep.InUse, l.rep.PID = true, held.PID
	}
	if l.in, err = survey(d); err != nil {
		d.unlock()
		return nil, fmt.Errorf("disk buffer %s: %w", dir, err)
	}
	if l.in.noState && len(l.in.segs) == 0 && l.in.slots[0] == "missing" && l.in.slots[1] == "missing" {
		d.unlock()
		return nil, fmt.Errorf("%s: no disk buffer here: there is neither a segment (*%s) nor an ack state (%s, %s)", dir, segmentExt, slotNames[0], slotNames[1])
	}
	return l, nil
}

// Inspect tells what is in the spool of dir, without changing it. It reads the
// heads of all frames, and works on one that is in use, too.
func Inspect(ctx context.Context, dir string) (*Report, error) {
	l, err := visit(ctx, dir, true)
	if err != nil {
		return nil, err
	}
	defer l.disk.unlock()
	return l.rep, l.run()
}

// Verify reads all of the spool of dir and names every place that is damaged,
// without changing it.
// Errors: *LockedError while an agent uses it.
func Verify(ctx context.Context, dir string) (*Report, error) {
	l, err := visit(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer l.disk.unlock()
	l.whole = true
	return l.rep, l.run()
}

// Exported is one pending record of a spool.
type Exported struct {
	Topic    string
	Source   string
	Offset   int64
	Appended time.Time
	Record   []byte // as it goes on the wire; valid until the callback returns
}

// Export gives every pending record of the spool of dir, oldest first, and
// changes nothing. What is damaged is left out and in the Report.
// Errors: *LockedError while an agent uses it; what give returned.
func Export(ctx context.Context, dir string, give func(Exported) error) (*Report, error) {
	l, err := visit(ctx, dir, false)
	if err != nil {
		return nil, err
	}
	defer l.disk.unlock()
	known := names{}
	l.whole = true
	l.each = func(f *frame, g *found) error {
		b, org := record.NewBatch(known.of(f.topicName())), getOrigins()
		defer putOrigins(org)
		defer b.Discard()
		if err := f.decode(b, org, 0, known); err != nil {
			return err
		}
		x := Exported{Topic: b.Topic, Appended: time.UnixMilli(f.time)}
		for i := range b.Len() {
			if g.bits.has(f.first + int64(i) - g.first) {
				continue
			}
			x.Source, x.Offset, x.Record = org.names[org.src[i]], org.off[i], b.Bytes(i, i+1)
			if err := give(x); err != nil {
				return err
			}
		}
		return nil
	}
	return l.rep, l.run()
}

// run walks through all segments.
func (l *look) run() error {
	l.rep.AckSlots, l.rep.Next = l.in.slots, l.in.state.next
	for _, m := range l.in.missing {
		l.damage(m)
	}
	for i, slot := range l.in.slots {
		if slot == "damaged" || slot == "of another buffer" {
			l.damage(Damage{File: slotNames[i], What: "the ack state is " + slot + "; the other one is used, or all is sent again"})
		}
	}
	var w walker
	for i, g := range l.in.segs {
		if l.rep.Route == "" {
			l.rep.Route = g.route
		}
		if err := l.segment(&w, g, i == len(l.in.segs)-1); err != nil {
			return err
		}
	}
	slices.SortStableFunc(l.rep.Damage, func(a, b Damage) int { return int(min(1, max(-1, a.First-b.First))) })
	return nil
}

func (l *look) damage(d Damage) {
	l.rep.Damage = append(l.rep.Damage, d)
	l.rep.LostRecords += d.Records
}

// segment walks through one.
func (l *look) segment(w *walker, g *found, last bool) error {
	r := SegmentReport{File: segmentName(g.first), First: g.first, Records: g.end - g.first, Bytes: g.size, Note: g.note}
	l.rep.Bytes += g.size
	if len(g.marks) > 0 {
		r.Created = time.UnixMilli(g.marks[0].at).UTC()
	}
	if g.note != "" {
		l.damage(Damage{File: r.File, First: g.first, What: g.note})
	}
	f, err := l.disk.open(r.File)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.start(f, g.size, r.File); err != nil {
		return err
	}
	expect := g.first
	lose := func(to, off int64, what string) {
		if n := to - expect; n > 0 {
			n -= g.bits.count(expect-g.first, to-g.first)
			l.damage(Damage{File: r.File, Offset: off, First: expect, Records: n, What: what})
		}
		expect = max(expect, to)
	}
	for {
		if err := l.ctx.Err(); err != nil {
			return context.Cause(l.ctx)
		}
		torn, ok := w.next()
		if !ok || !w.cur.footer() && w.cur.end() > g.end {
			at := w.off
			if torn >= 0 {
				at = torn
			}
			if torn >= 0 && expect == g.end {
				l.tail(w, g, last, torn)
			}
			lose(g.end, at, "a frame is damaged")
			break
		}
		h, off := w.cur, w.off
		if h.footer() || h.first < expect {
			if _, err := w.load(); err != nil && h.footer() {
				l.damage(Damage{File: r.File, Offset: off, First: g.end, What: "the footer is damaged"})
			}
			w.skip()
			continue
		}
		if torn >= 0 {
			off = torn
		}
		lose(h.first, off, "a frame's head is damaged")
		if torn >= 0 && h.first == g.first && g.note == "" {
			l.damage(Damage{File: r.File, Offset: torn, First: g.first, What: "bytes that are no frame"})
		}
		n, err := l.frame(w, g)
		if err != nil && !errors.Is(err, errDamage) {
			return err
		}
		if err != nil {
			lose(h.end(), w.off, "a frame's content is damaged")
		}
		r.Pending += n
		expect = h.end()
		w.skip()
	}
	if w.err != nil {
		l.damage(Damage{File: r.File, First: g.first, What: "the disk cannot read it: " + w.err.Error()})
	}
	l.rep.Segments = append(l.rep.Segments, r)
	return nil
}

// tail notes bytes behind the last frame: the rest of a write that was cut
// short, which is no damage, or something else.
func (l *look) tail(w *walker, g *found, last bool, torn int64) {
	if l.rep.InUse {
		return
	}
	end := w.see(g.size-tailSize, tailSize)
	footer := len(end) == tailSize && binary.LittleEndian.Uint32(end[4:]) == footerMagic
	if last && !footer {
		l.rep.TornBytes += g.size - torn
		return
	}
	what := "bytes that are no frame, of a write that failed and was made again in the next file"
	if footer {
		what = "the footer is damaged"
	}
	l.damage(Damage{File: segmentName(g.first), Offset: torn, First: g.end, What: what})
}

// frame counts the current frame's pending records, and checks and gives it.
// Errors: errDamage; what each returned.
func (l *look) frame(w *walker, g *found) (pending int64, err error) {
	h := w.cur
	pending = int64(h.count) - g.bits.count(h.first-g.first, h.end()-g.first)
	if !l.whole {
		l.count(string(w.topic()), h.time, pending)
		return pending, nil
	}
	f, err := w.load()
	if err != nil {
		return 0, err
	}
	b, org := record.NewBatch(""), getOrigins()
	err = f.decode(b, org, 0, names{})
	b.Discard()
	putOrigins(org)
	if err != nil {
		return 0, err
	}
	l.count(string(f.topicName()), h.time, pending)
	if pending > 0 && l.each != nil {
		return pending, l.each(&f, g)
	}
	return pending, nil
}

func (l *look) count(topic string, at, pending int64) {
	if pending == 0 {
		return
	}
	l.rep.Pending += pending
	l.rep.Topics[topic] += pending
	if t := time.UnixMilli(at).UTC(); l.rep.Oldest == nil || t.Before(*l.rep.Oldest) {
		l.rep.Oldest = &t
	}
}
