package stream

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// A keySet does what a map does, with keys that collide as well.
func TestKeySet(t *testing.T) {
	var s keySet
	want := map[uint32]bool{}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		key := uint32(1 + rng.IntN(300))
		if i%3 == 0 {
			key = key<<24 | 62 // all where the others wrap around
		}
		switch {
		case rng.IntN(2) == 0:
			if s.add(key) == want[key] {
				t.Fatalf("step %d: add(%d) = %v", i, key, !want[key])
			}
			want[key] = true
		case want[key]:
			s.remove(key)
			delete(want, key)
		}
		if s.n != len(want) {
			t.Fatalf("step %d: %d keys, want %d", i, s.n, len(want))
		}
	}
	for key := range want {
		s.remove(key)
	}
	if s.shrink(); s.slots != nil {
		t.Error("an empty set keeps memory")
	}
}

// orderedTopic is a topic of a pool by key that has no endpoint.
func orderedTopic(t testing.TB) (*Pool, *topic) {
	t.Helper()
	cfg := fastConfig()
	cfg.ByKey = true
	a, err := authBasic()
	if err != nil {
		t.Fatal(err)
	}
	srv := newFake(t, nil)
	p := New(cfg, Target{Base: srv.url(), ClusterID: "lkc-x", Auth: a}, limit.Profile{}, newBooks(), quiet(), nil)
	t.Cleanup(func() { stopPool(t, p, 5e9) })
	return p, newTopic(p, "t")
}

// keyedBatch is n records of as many keys.
func keyedBatch(n int) *record.Batch {
	b := record.NewBatch("t")
	for i := range n {
		b.Commit(fmt.Appendf(b.Tail(), `{"key":{"type":"STRING","data":"key-%d"},"value":{"type":"STRING","data":"%0150d"}}`+"\n", i, i), record.Position{})
	}
	return b
}

// Records whose keys are free cost no allocation, coming and going.
func TestOrderAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	p, topic := orderedTopic(t)
	b := keyedBatch(300)
	if n := testing.AllocsPerRun(200, func() {
		p.keyed(b)
		topic.mu.Lock()
		g, ok := topic.admit(b)
		topic.mu.Unlock()
		if !ok || g.b != b || g.records() != 300 {
			t.Fatal("not all were admitted as they came")
		}
		topic.release(b.Keys)
	}); n != 0 {
		t.Errorf("%v allocations for 300 records", n)
	}
}

// What waits for its key counts as backlog, is left over in its order, and when
// it has gone nothing of it stays.
func TestOrderBacklog(t *testing.T) {
	p, topic := orderedTopic(t)
	admit := func() (segment, bool) {
		b := keyedBatch(10)
		p.keyed(b)
		b.Seal()
		topic.mu.Lock()
		defer topic.mu.Unlock()
		return topic.admit(b)
	}
	first, ok := admit()
	if !ok || first.records() != 10 {
		t.Fatalf("admitted %d of 10", first.records())
	}
	for range 3 {
		if g, ok := admit(); ok {
			t.Fatalf("%d records of keys that are out were admitted", g.records())
		}
	}
	size := first.size()
	if topic.backlog != 3*size {
		t.Errorf("backlog %d, want %d", topic.backlog, 3*size)
	}
	if n := p.Stats().Behind; n != 30 {
		t.Errorf("%d records wait, want 30", n)
	}
	p.closing.Store(true) // no stream is to take what is ready
	topic.release(first.b.Keys)
	topic.mu.Lock()
	defer topic.mu.Unlock()
	if len(topic.again) != 1 || topic.again[0].records() != 10 || topic.again[0].resent() != 0 {
		t.Fatalf("ready to be sent: %+v", topic.again)
	}
	left := map[byte]int{}
	for _, g := range topic.leftover() {
		for i := g.from; i < g.to; i++ {
			left[g.b.Bytes(i, i+1)[len(`{"key":{"type":"STRING","data":"key-`)]]++
		}
	}
	if len(left) != 10 || left['3'] != 3 {
		t.Errorf("left over, by key: %v", left)
	}
	if n := p.behind.Load(); n != 0 {
		t.Errorf("%d records wait, want none", n)
	}
}

func BenchmarkOrder(b *testing.B) {
	p, topic := orderedTopic(b)
	batch := keyedBatch(300)
	b.ReportAllocs()
	b.SetBytes(int64(batch.Size()))
	for b.Loop() {
		p.keyed(batch)
		topic.mu.Lock()
		topic.admit(batch)
		topic.mu.Unlock()
		topic.release(batch.Keys)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/300, "ns/record")
}
