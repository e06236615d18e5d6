package spool

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// aSegment is a small segment as it is written.
func aSegment() []byte {
	p := (&segmentHead{id: 1, first: 1, created: 1, route: "r"}).append(nil)
	first := int64(1)
	for _, topic := range []string{"t", "u"} {
		b, o := batchOf(topic, 0, 3), &origins{}
		for _, pos := range b.Pos {
			o.add(origin(pos))
		}
		p = appendFrame(p, first, time.Unix(1, 0), b, o)
		first += 3
	}
	f := footer{end: first, oldest: 1, newest: 2, topics: map[string]int64{"t": 3, "u": 3}}
	return f.append(p, 1)
}

// Whatever a segment holds: no panic, an end, and every frame that is taken for
// good is what encoding it again gives.
func FuzzSegment(f *testing.F) {
	whole := aSegment()
	f.Add(whole)
	f.Add(whole[:len(whole)-9])
	f.Add(append(slices.Clone(whole[:100]), whole...))
	f.Add(bytes.Repeat(frameStart, 50))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		var w walker
		if w.start(byteFile(p), int64(len(p)), "x") != nil {
			return
		}
		last := int64(-1)
		for {
			torn, ok := w.next()
			if !ok {
				break
			}
			if w.off <= last || torn >= w.off {
				t.Fatalf("at %d, after %d, torn at %d", w.off, last, torn)
			}
			last = w.off
			fr, err := w.load()
			if err != nil {
				w.skip()
				continue
			}
			if fr.footer() {
				var ft footer
				_ = ft.parse(&fr)
				w.skip()
				continue
			}
			b, o := record.NewBatch(string(fr.topicName())), &origins{}
			if fr.decode(b, o, 3, names{}) == nil {
				b.Raw = fr.flags&flagRaw != 0
				again := appendFrame(nil, fr.first, time.UnixMilli(fr.time), b, o)
				b2, o2 := record.NewBatch(b.Topic), &origins{}
				h := frame{p: again}
				if !h.parse(again) || !h.check() || h.decode(b2, o2, 3, names{}) != nil ||
					!bytes.Equal(b.Body(), b2.Body()) || !slices.Equal(b.Pos, b2.Pos) || !slices.Equal(o.off, o2.off) {
					t.Fatal("a frame that is read is not what is written")
				}
				b2.Discard()
			}
			b.Discard()
			w.skip()
		}
		_, _, _ = readFooter(byteFile(p), int64(len(p)))
	})
}

// The checksums keep a fuzzer out; this one is let in behind them.
func FuzzFrame(f *testing.F) {
	whole := aSegment()
	var w walker
	if err := w.start(byteFile(whole), int64(len(whole)), "x"); err != nil {
		f.Fatal(err)
	}
	for {
		if _, ok := w.next(); !ok {
			break
		}
		fr, _ := w.load()
		f.Add(fr.count, fr.topic, fr.meta, slices.Clone(fr.p[headSize:]))
		w.skip()
	}
	f.Fuzz(func(_ *testing.T, count, topic, meta int, content []byte) {
		p := append(make([]byte, headSize), content...)
		h := frameHead{length: len(p), count: count & 0xffff, first: 1, topic: topic & 0xffff, meta: meta & 0xffffff}
		h.put(p)
		fr := frame{p: p}
		if !fr.parse(p) {
			return
		}
		b := record.NewBatch("t")
		_ = fr.decode(b, &origins{}, 1, names{})
		b.Discard()
		h.count, h.flags = 0, flagFooter
		h.put(p)
		if fr.parse(p) && fr.length >= headSize+tailSize {
			var ft footer
			_ = ft.parse(&fr)
		}
	})
}

// Whatever an ack slot holds: no panic, and what it calls final is below next,
// and is the same when it is written again.
func FuzzAckSlot(f *testing.F) {
	a := ackState{id: 1, generation: 2, frontier: 5, next: 500}
	bits, _ := bitmap(nil).set(3, 9)
	odd := bitmap(nil)
	for i := int64(0); i < 200; i += 2 {
		odd, _ = odd.set(i, i+1)
	}
	p := a.begin(nil)
	p = appendGroup(p, 4, 50, bits, false)
	p = appendGroup(p, 3, 10, nil, true)
	p = appendGroup(p, 0, 200, odd, false)
	f.Add(a.finish(p)[ackHead:], int64(5), int64(500))
	f.Fuzz(func(t *testing.T, groups []byte, frontier, next int64) {
		a := ackState{id: 1, frontier: frontier, next: next}
		p := a.finish(append(a.begin(nil), groups...))
		var got ackState
		seen := map[int64]bool{}
		total := 0
		err := got.parse(p, "x", func(lo, hi int64) {
			if lo < 1 || hi > next || lo >= hi {
				t.Fatalf("[%d,%d) is final, next is %d", lo, hi, next)
			}
			for i := lo; i < hi && total < 10000; i++ {
				seen[i] = true
				total++
			}
		})
		if err != nil || next > 5000 {
			return
		}
		var b bitmap
		for i := range seen {
			b, _ = b.set(i-1, i)
		}
		again := map[int64]bool{}
		if next > 1 {
			p = a.finish(appendGroup(a.begin(nil), 0, next-1, b, false))
			if err := got.parse(p, "x", func(lo, hi int64) {
				for i := lo; i < hi; i++ {
					again[i] = true
				}
			}); err != nil {
				t.Fatal(err)
			}
			if len(again) != len(seen) {
				t.Fatalf("%d records final, written again %d", len(seen), len(again))
			}
		}
	})
}
