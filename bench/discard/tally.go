package main

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// seen remembers which line numbers arrived: one bit each.
//
// Concurrency: safe for any number of streams.
type seen struct {
	words []atomic.Uint64
	dups  atomic.Int64 // numbers that came again
	alien atomic.Int64 // records without a number, or with one out of range
}

func newSeen(capacity uint64) *seen {
	return &seen{words: make([]atomic.Uint64, (capacity+63)/64)}
}

// mark notes that seq arrived; ok is false for a record in which no number was
// found.
func (s *seen) mark(seq uint64, ok bool) {
	w := seq / 64
	if !ok || w >= uint64(len(s.words)) {
		s.alien.Add(1)
		return
	}
	bit := uint64(1) << (seq % 64)
	if s.words[w].Or(bit)&bit != 0 {
		s.dups.Add(1)
	}
}

// count returns how many different numbers below expect arrived, how many did
// not, and how many at or above it came. Without an expectation (0) the
// highest number that came is the last one expected.
func (s *seen) count(expect uint64) (distinct, missing, beyond int64) {
	var top uint64
	for w := range s.words {
		v := s.words[w].Load()
		if v == 0 {
			continue
		}
		top = uint64(w)*64 + uint64(64-bits.LeadingZeros64(v))
		low := ^uint64(0)
		if at := uint64(w) * 64; expect > 0 && expect < at+64 {
			low = 0
			if expect > at {
				low = 1<<(expect-at) - 1
			}
		}
		distinct += int64(bits.OnesCount64(v & low))
		beyond += int64(bits.OnesCount64(v &^ low))
	}
	if expect == 0 {
		expect = top
	}
	return distinct, int64(expect) - distinct, beyond
}

// tally is what the server knows of a run.
//
// Concurrency: safe; streams add to it once per read.
type tally struct {
	seen    *seen
	expect  uint64
	records atomic.Int64
	reports atomic.Int64
	bytes   atomic.Int64 // body bytes, chunk framing not counted
	chunks  atomic.Int64
	streams atomic.Int64 // produce requests begun
	clean   atomic.Int64 // produce requests that ended with their last chunk

	mu     sync.Mutex // guards arrive
	arrive *hdrhistogram.Histogram
}

func newTally(expect, capacity uint64, latency bool) *tally {
	t := &tally{seen: newSeen(max(expect, capacity)), expect: expect}
	if latency {
		t.arrive = hdrhistogram.New(1, 60_000_000, 3) // microseconds, up to a minute
	}
	return t
}

// arrived notes the delays of some records, in nanoseconds from due to now.
func (t *tally) arrived(delays []int64) {
	t.mu.Lock()
	for _, d := range delays {
		_ = t.arrive.RecordValue(min(max(d/1000, 1), 60_000_000))
	}
	t.mu.Unlock()
}

// result is the JSON object printed at the end.
type result struct {
	Records    int64 `json:"records"`
	Distinct   int64 `json:"distinct"`
	Missing    int64 `json:"missing"`
	Duplicates int64 `json:"duplicates"`
	Unexpected int64 `json:"unexpected"` // no number found in them, or one out of range
	Reports    int64 `json:"reports"`
	Bytes      int64 `json:"bytes"`
	Chunks     int64 `json:"chunks"`
	Streams    int64 `json:"streams"`
	CleanEnds  int64 `json:"clean_ends"`
	// Line-to-server delay in milliseconds; all 0 without -latency.
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

func (t *tally) result() result {
	distinct, missing, beyond := t.seen.count(t.expect)
	r := result{
		Records: t.records.Load(), Distinct: distinct, Missing: missing,
		Duplicates: t.seen.dups.Load(), Unexpected: t.seen.alien.Load() + beyond,
		Reports: t.reports.Load(), Bytes: t.bytes.Load(), Chunks: t.chunks.Load(),
		Streams: t.streams.Load(), CleanEnds: t.clean.Load(),
	}
	if t.arrive != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		r.P50 = float64(t.arrive.ValueAtQuantile(50)) / 1000
		r.P99 = float64(t.arrive.ValueAtQuantile(99)) / 1000
		r.Max = float64(t.arrive.Max()) / 1000
	}
	return r
}
