package stream

import (
	"hash/maphash"

	"github.com/produce-agent/produce-agent/internal/record"
)

// order lets no record of a topic go while an earlier one of its key is not
// final. Of each key at most one record is anywhere outside of behind: in a
// stream's window, waiting for its back-off, held or about to be sent. So what
// sends again, rotates and holds needs to know nothing of keys.
//
// A key is known by 32 bits of its hash: of two keys that share them one waits
// for the other now and then. Strict is one key for all records.
//
// topic.mu guards all of it.
type order struct {
	out    keySet           // keys that have a record outside of behind
	behind map[uint32]*line // what waits for the one that is out
	stash  *stash           // where the next that has to wait is copied to
}

// stash holds copies of records that wait, so that a batch of which one record
// waits need not be kept. What it holds counts as backlog until the last of them
// has gone.
type stash struct {
	b    *record.Batch
	left int
}

// line is the records of one key that wait, the oldest first.
type line struct {
	refs []ref
	head int
}

type ref struct {
	in *stash
	i  int
}

// keyed writes down the keys of a batch that is about to be submitted.
func (p *Pool) keyed(b *record.Batch) {
	b.Keys = b.Keys[:0]
	var room [256]byte
	from, body := int32(0), b.Body()
	for _, end := range b.Ends {
		h := uint32(1)
		if !p.cfg.Strict {
			h = 0
			if key, ok := record.Key(room[:0], body[from:end]); ok {
				h = max(1, uint32(maphash.Bytes(p.seed, key)))
			}
		}
		b.Keys = append(b.Keys, h)
		from = end
	}
}

// own says whether a record of that key may go, and if so that it has.
func (o *order) own(key uint32) bool { return key == 0 || o.out.add(key) }

// pull takes a batch of fresh records when there is one at once, less those that
// have to wait.
func (t *topic) pull() (segment, bool) {
	if t.gated.Load() {
		return segment{}, false
	}
	if !t.p.ordered {
		select {
		case b := <-t.fresh:
			return t.whole(b), true
		default:
			return segment{}, false
		}
	}
	t.mu.Lock() // taken out and admitted under one lock, or another writer's would overtake
	defer t.mu.Unlock()
	for !t.gated.Load() {
		select {
		case b := <-t.fresh:
			if g, ok := t.admit(b); ok {
				return g, true
			}
		default:
			return segment{}, false
		}
	}
	return segment{}, false
}

// admit returns the records of b that may go; ok is false when none may. Called
// with mu held.
func (t *topic) admit(b *record.Batch) (g segment, ok bool) {
	n, i := b.Len(), 0
	for i < n && t.order.own(b.Keys[i]) {
		i++
	}
	if i == n {
		return t.whole(b), true
	}
	out := b.Fresh()
	out.Copy(b, 0, i)
	for i < n {
		t.defers(b, i)
		i++
		from := i
		for i < n && t.order.own(b.Keys[i]) {
			i++
		}
		out.Copy(b, from, i)
	}
	b.Resolve(n)
	t.regate()
	if out.Len() == 0 {
		out.Discard()
		return segment{}, false
	}
	out.Seal()
	return t.whole(out), true
}

// defers keeps a copy of record i of b until those of its key that came before
// it are final. Called with mu held.
func (t *topic) defers(b *record.Batch, i int) {
	o, size := &t.order, len(b.Bytes(i, i+1))
	if s := o.stash; s == nil || s.b.Size()+size > retryBatchBytes || !s.b.Akin(b) {
		o.stash = &stash{b: b.Fresh()}
	}
	s := o.stash
	s.b.Copy(b, i, i+1)
	s.left++
	t.backlog += size
	t.p.behind.Add(1)
	l := o.behind[b.Keys[i]]
	if l == nil {
		if o.behind == nil {
			o.behind = map[uint32]*line{}
		}
		l = &line{}
		o.behind[b.Keys[i]] = l
	}
	l.refs = append(l.refs, ref{s, s.b.Len() - 1})
}

// release says that a record of each of these keys is final, and sends the ones
// that waited for them.
func (t *topic) release(keys []uint32) {
	var ready []segment
	var out *record.Batch
	t.mu.Lock()
	for _, key := range keys {
		if key == 0 {
			continue
		}
		var l *line
		if len(t.order.behind) > 0 {
			l = t.order.behind[key]
		}
		if l == nil {
			t.order.out.remove(key)
			continue
		}
		r := l.refs[l.head]
		if out != nil && (!out.Akin(r.in.b) || out.Size() > retryBatchBytes) {
			ready = append(ready, sealed(out))
			out = nil
		}
		if out == nil {
			out = r.in.b.Fresh()
		}
		out.Copy(r.in.b, r.i, r.i+1)
		t.leaves(r.in)
		if l.head++; l.head == len(l.refs) {
			delete(t.order.behind, key)
		} else if l.head > 64 && l.head > len(l.refs)/2 {
			l.refs, l.head = append(l.refs[:0], l.refs[l.head:]...), 0
		}
	}
	if out != nil {
		ready = append(ready, sealed(out))
		t.regate()
	}
	t.mu.Unlock()
	t.putBack(ready...)
}

func sealed(b *record.Batch) segment {
	b.Seal()
	return segment{b: b, to: b.Len()}
}

// leaves says that a record of s need not be kept any more. Called with mu held.
func (t *topic) leaves(s *stash) {
	t.p.behind.Add(-1)
	if s.left--; s.left > 0 {
		return
	}
	t.backlog -= s.b.Size()
	s.b.Discard()
	if t.order.stash == s {
		t.order.stash = nil
	}
}

// deferred takes out what waits, each key's in its order. Called with mu held.
func (t *topic) deferred() (all []segment) {
	for _, l := range t.order.behind {
		for _, r := range l.refs[l.head:] {
			all = append(all, segment{b: r.in.b, from: r.i, to: r.i + 1})
			t.p.behind.Add(-1)
		}
	}
	t.order = order{}
	return all
}

// keySet is a set of numbers above 0: open addressing, at most a quarter full,
// for a second look costs more than a larger table. It shrinks by shrink only.
// Memory: 16 to 32 bytes for each key that was in it at once.
type keySet struct {
	slots []uint32 // 0 is a free one; a power of two of them
	n     int
}

// add returns false when key is in the set already.
func (s *keySet) add(key uint32) bool {
	if 4*s.n >= len(s.slots) {
		s.grow()
	}
	mask := uint32(len(s.slots) - 1)
	for i := key & mask; ; i = (i + 1) & mask {
		switch s.slots[i] {
		case 0:
			s.slots[i] = key
			s.n++
			return true
		case key:
			return false
		}
	}
}

// remove takes key out, which is in the set.
func (s *keySet) remove(key uint32) {
	mask := uint32(len(s.slots) - 1)
	i := key & mask
	for s.slots[i] != key {
		if s.slots[i] == 0 {
			panic("BUG: a key was released that no record had")
		}
		i = (i + 1) & mask
	}
	// Close the gap: what follows moves down unless it is where it belongs.
	for j := i; ; {
		j = (j + 1) & mask
		k := s.slots[j]
		if k == 0 {
			break
		}
		if (j-k)&mask >= (j-i)&mask {
			s.slots[i], i = k, j
		}
	}
	s.slots[i] = 0
	s.n--
}

func (s *keySet) grow() {
	old := s.slots
	s.slots, s.n = make([]uint32, max(64, 2*len(old))), 0
	for _, key := range old {
		if key != 0 {
			s.add(key)
		}
	}
}

// shrink gives the memory of an empty set back.
func (s *keySet) shrink() {
	if s.n == 0 {
		s.slots = nil
	}
}
