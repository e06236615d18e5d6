package spool

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/produce-agent/produce-agent/internal/record"
)

// model is a spool as a person would describe it, for TestModel to compare with.
type model struct {
	t       *rapid.T
	disk    *memDisk
	cfg     Config
	s       *Spool
	c       Cursor
	n       int            // records appended so far
	pending map[int]string // not final: topic
	maybe   map[int]string // final, and perhaps forgotten by a crash
	out     map[int]record.Position
	skip    map[string]bool
}

var modelTopics = []string{"a", "b", "c"}

func (m *model) open() {
	m.cfg.fs, m.cfg.segment, m.cfg.gather = m.disk, int64(rapid.SampledFrom([]int{600, 3000, 1 << 20}).Draw(m.t, "segment")), 0
	m.cfg.RAMBytes = int64(rapid.SampledFrom([]int{0, 100 << 10, 1 << 20}).Draw(m.t, "memory"))
	m.cfg.Fsync = Fsync(rapid.IntRange(0, 1).Draw(m.t, "fsync"))
	s, err := Open(m.cfg, silent)
	if err != nil {
		m.t.Fatal(err)
	}
	m.s, m.c, m.out, m.skip = s, s.Cursor(Ref{}, ""), map[int]record.Position{}, map[string]bool{}
}

func (m *model) put(t *rapid.T) {
	topic, n := rapid.SampledFrom(modelTopics).Draw(t, "topic"), rapid.IntRange(1, 12).Draw(t, "records")
	done := make(chan error, 1)
	if err := m.s.Append(context.Background(), batchOf(topic, m.n, m.n+n), origin, func(_ *record.Batch, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m.pending[m.n+i] = topic
	}
	m.n += n
}

// want are the records that a cursor must give: not final, not out, not skipped.
func (m *model) want() (n int) {
	for i, topic := range m.pending {
		if _, out := m.out[i]; !out && !m.skip[topic] {
			n++
		}
	}
	return n
}

func (m *model) take(t *rapid.T) {
	if m.want() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b, _, err := m.c.Next(ctx)
	if err != nil {
		t.Fatalf("%d records should come: %v", m.want(), err)
	}
	m.got(t, b)
}

// got checks a batch against the model.
func (m *model) got(t *rapid.T, b *record.Batch) {
	for j := range b.Len() {
		_, off := m.s.Where(b.Pos[j])
		i := int(off / 10)
		topic, pending := m.pending[i]
		_, out := m.out[i]
		if !pending || out || topic != b.Topic || string(b.Bytes(j, j+1)) != payload(i) {
			t.Fatalf("record %d of %q came: pending %v, out %v, content %q", i, b.Topic, pending, out, b.Bytes(j, j+1))
		}
		m.out[i] = b.Pos[j]
	}
	b.Discard()
}

// some draws records that are out, in order.
func (m *model) some(t *rapid.T) (ids []int, pos []record.Position) {
	all := slices.Sorted(maps.Keys(m.out))
	if len(all) == 0 {
		return nil, nil
	}
	from := rapid.IntRange(0, len(all)-1).Draw(t, "from")
	step := rapid.IntRange(1, 3).Draw(t, "step")
	for i := from; i < len(all) && len(ids) < 30; i += step {
		ids, pos = append(ids, all[i]), append(pos, m.out[all[i]])
	}
	return ids, pos
}

func (m *model) settle(t *rapid.T) {
	ids, pos := m.some(t)
	if len(ids) == 0 {
		return
	}
	if rapid.Bool().Draw(t, "delivered") {
		m.s.Delivered(pos)
	} else {
		for _, p := range pos {
			m.s.Rejected(p, 400, "")
		}
	}
	for _, i := range ids {
		m.maybe[i] = m.pending[i]
		delete(m.pending, i)
		delete(m.out, i)
	}
}

func (m *model) refuse(t *rapid.T) {
	ids, pos := m.some(t)
	m.s.Refused(pos, nil)
	for _, i := range ids {
		delete(m.out, i)
	}
}

// filter changes which topics are passed over; those passed over before are
// for a new cursor.
func (m *model) filter(t *rapid.T) {
	skip := map[string]bool{}
	for _, topic := range modelTopics {
		skip[topic] = rapid.Bool().Draw(t, topic)
	}
	m.c.Close()
	m.c, m.skip = m.s.Cursor(Ref{}, ""), skip
	m.c.Skip(func(topic string) bool { return skip[topic] })
}

// restart closes the spool, and forgets nothing.
func (m *model) restart(t *rapid.T) {
	m.c.Close()
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	clear(m.maybe)
	m.open()
	m.counts(t)
}

// crash is kill -9: what was written is there, acks are perhaps not.
func (m *model) crash(t *rapid.T) {
	after := newMemDisk()
	m.disk.set(func(d *memDisk) {
		for name, f := range d.files {
			after.files[name] = &memFile{now: slices.Clone(f.now)}
		}
	})
	m.c.Close()
	_ = m.s.Close()
	m.disk = after
	m.open()
	if got := m.s.Pending(); got < int64(len(m.pending)) || got > int64(len(m.pending)+len(m.maybe)) {
		t.Fatalf("%d records pending after a crash, want %d to %d", got, len(m.pending), len(m.pending)+len(m.maybe))
	}
	for i, topic := range m.maybe { // record i has number i+1
		m.s.mu.Lock()
		if g := m.s.find(int64(i) + 1); g != nil && !g.bits.has(int64(i)+1-g.first) {
			m.pending[i] = topic
		}
		m.s.mu.Unlock()
	}
	clear(m.maybe)
	m.counts(t)
}

// damage flips a bit of a segment; what is lost is counted, and is of one batch.
func (m *model) damage(t *rapid.T) {
	m.restart(t)
	m.c.Close()
	if err := m.s.Close(); err != nil {
		t.Fatal(err)
	}
	m.disk.set(func(d *memDisk) {
		var names []string
		for _, name := range slices.Sorted(maps.Keys(d.files)) {
			if len(d.files[name].now) > 0 && name[0] != 'a' {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			return
		}
		f := d.files[rapid.SampledFrom(names).Draw(t, "file")]
		bit := rapid.IntRange(0, len(f.now)*8-1).Draw(t, "bit")
		f.now[bit/8] ^= 1 << (bit % 8)
	})
	m.open()
	for m.s.Pending() > int64(len(m.out)) {
		b, err := nextAbove(m.s, m.c, int64(len(m.out)))
		if err != nil {
			t.Fatal(err)
		}
		if b != nil {
			m.got(t, b)
		}
	}
	lost := 0
	for i := range m.pending {
		if _, out := m.out[i]; !out {
			delete(m.pending, i)
			lost++
		}
	}
	if n := m.s.Stats().CorruptRecords; n != int64(lost) || lost > 12 {
		t.Fatalf("%d records lost, %d counted", lost, n)
	}
	m.restart(t) // else a crash would have them counted again
}

func (m *model) counts(t *rapid.T) {
	if got := m.s.Pending(); got != int64(len(m.pending)) {
		t.Fatalf("%d records pending, want %d", got, len(m.pending))
	}
	st := m.s.Stats()
	if in, out := st.Opened+st.Appended, st.Delivered+st.Rejected+st.CorruptRecords+st.Pending; in != out {
		t.Fatalf("%d records in, %d out and pending: %+v", in, out, st)
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, disk: newMemDisk(), cfg: testConfig("memory"), pending: map[int]string{}, maybe: map[int]string{}}
		m.open()
		defer func() { _ = m.s.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append": m.put, "append again": m.put, "take": m.take, "take again": m.take, "settle": m.settle, "refuse": m.refuse,
			"filter": m.filter, "restart": m.restart, "crash": m.crash, "damage": m.damage, "": m.counts,
		})
		m.restart(t)
		for m.want() > 0 {
			m.take(t)
		}
		if b, _, err := m.c.Next(expired()); err == nil {
			t.Fatalf("%d records more than there should be", b.Len())
		}
	})
}

// expired is a context that ends after a moment.
func expired() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Millisecond)
	context.AfterFunc(ctx, cancel)
	return ctx
}
