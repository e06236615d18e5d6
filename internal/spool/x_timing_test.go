package spool

import (
	"context"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
)

// round appends a batch of n records, takes it and settles it, reusing what it can.
type round struct {
	s       *Spool
	c       Cursor
	n       int
	line    []byte
	durable func(*record.Batch, error)
	done    chan error
}

func newRound(t testing.TB, n int, change func(*Config)) *round {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.segment = 8 << 20
	change(&cfg)
	r := &round{s: openSpool(t, cfg), n: n, done: make(chan error, 1)}
	r.line = make([]byte, 240)
	for i := range r.line {
		r.line[i] = 'x'
	}
	r.c = r.s.Cursor(Ref{}, "")
	r.durable = func(_ *record.Batch, err error) { r.done <- err }
	t.Cleanup(func() {
		r.c.Close()
		closeSpool(t, r.s)
	})
	return r
}

func noOrigin(record.Position) (string, int64) { return "app.log", 7 }

func (r *round) append(t testing.TB) {
	b := record.NewBatch("t")
	for i := range r.n {
		b.Commit(append(b.Tail(), r.line...), record.Position{Offset: int64(i)})
	}
	if err := r.s.Append(context.Background(), b, noOrigin, r.durable); err != nil {
		t.Fatal(err)
	}
	if err := <-r.done; err != nil {
		t.Fatal(err)
	}
}

func (r *round) read(t testing.TB) {
	for got := 0; got < r.n; {
		b, _, err := r.c.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		got += b.Len()
		r.s.Delivered(b.Pos)
		b.Discard()
	}
}

// A batch may cost some allocations; a record costs none.
func TestNoAllocationPerRecord(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := func(name string, change func(*Config)) {
		t.Helper()
		r := newRound(t, 256, change)
		for range 50 { // pools and buffers grow
			r.append(t)
			r.read(t)
		}
		if n := testing.AllocsPerRun(200, func() { r.append(t); r.read(t) }); n > 16 {
			t.Errorf("%s: %v allocations for a batch of 256 records, want those of a batch: 16 at most", name, n)
		}
	}
	f("memory", func(c *Config) { c.Fsync = EverySecond })
	f("disk", func(c *Config) { c.Fsync, c.RAMBytes = EverySecond, 0 })
	f("always", func(c *Config) { c.Fsync = Always })
}

func benchmarkAppend(b *testing.B, n int, change func(*Config)) {
	r := newRound(b, n, change)
	b.SetBytes(int64(n * len(r.line)))
	b.ReportAllocs()
	for b.Loop() {
		r.append(b)
		r.read(b)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/record")
}

func BenchmarkAppendEverySecond(b *testing.B) {
	benchmarkAppend(b, 256, func(c *Config) { c.Fsync = EverySecond })
}

func BenchmarkAppendAlways(b *testing.B) {
	benchmarkAppend(b, 256, func(c *Config) { c.Fsync = Always })
}

func BenchmarkAppendReadBack(b *testing.B) {
	benchmarkAppend(b, 256, func(c *Config) { c.Fsync, c.RAMBytes = EverySecond, 0 })
}
