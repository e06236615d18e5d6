package spool

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// F2: the power goes at any write or sync. Always: whatever was said to be
// durable and not delivered is there, twice in a row. EverySecond promises that
// of what was synced, and nothing wrong in any case.
func TestPowerCut(t *testing.T) {
	f := func(policy Fsync) {
		t.Helper()
		for seed := range uint64(200) {
			if err := powerCut(t, policy, seed); err != nil {
				t.Errorf("%v, seed %d: %v", policy, seed, err)
			}
		}
	}
	f(Always)
	f(EverySecond)
}

func powerCut(t *testing.T, policy Fsync, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	disk := newMemDisk()
	disk.cutAt = 3 + r.IntN(150)
	owed := map[string]int64{} // durable and not delivered: their numbers
	sent := map[string]bool{}
	next, cuts := 0, 0
	for range 3 {
		cfg := testConfig("memory")
		cfg.fs, cfg.Fsync, cfg.segment, cfg.RAMBytes = disk, policy, 2<<10, int64(r.IntN(2))<<20
		s, err := Open(cfg, silent)
		if err != nil {
			if !disk.dark {
				return err
			}
			disk = disk.cut(r)
			continue
		}
		if n := int64(len(owed)); policy == Always && s.Pending() < n {
			return fmt.Errorf("%d records pending, %d are owed: %+v", s.Pending(), n, s.Stats())
		}
		next = useUntilDark(t, s, r, policy, owed, sent, next)
		_ = s.Close() // fails: the power is out
		if policy == EverySecond {
			synced := s.w.next.Load()
			if s.w.seg != nil {
				synced = s.w.seg.first
			}
			maps.DeleteFunc(owed, func(_ string, seq int64) bool { return seq >= synced })
		}
		cuts++
		disk = disk.cut(r)
		disk.cutAt = 3 + r.IntN(150)
	}
	disk.cutAt = 0
	cfg := testConfig("memory")
	cfg.fs, cfg.segment = disk, 2<<10
	s := openSpool(t, cfg)
	defer closeSpool(t, s)
	for _, p := range drain(t, s) {
		if !sent[p] {
			return fmt.Errorf("%q was never appended", p)
		}
		delete(owed, p)
	}
	if len(owed) > 0 {
		return fmt.Errorf("%d records lost: %+v", len(owed), s.Stats())
	}
	if cuts < 2 || next < 5 {
		return fmt.Errorf("%d cuts, %d records: the test is none", cuts, next)
	}
	return nil
}

// useUntilDark appends and delivers until the disk says no more.
func useUntilDark(t *testing.T, s *Spool, r *rand.Rand, policy Fsync, owed map[string]int64, sent map[string]bool, next int) int {
	seq := s.w.next.Load()
	c := s.Cursor(Ref{}, "")
	defer c.Close()
	for range 60 {
		n := 1 + r.IntN(8)
		b := batchOf("t", next, next+n)
		var all []string
		for i := range n {
			all = append(all, payload(next+i))
			sent[payload(next+i)] = true
		}
		next += n
		if put(t, s, b) != nil {
			break
		}
		for _, p := range all {
			owed[p] = seq
			seq++
		}
		if r.IntN(3) == 0 || policy == EverySecond && r.IntN(2) == 0 {
			b := take(t, c, 1)[0]
			pos := slices.Clone(b.Pos)
			if r.IntN(4) == 0 {
				pos = pos[:r.IntN(len(pos))]
			}
			s.Delivered(pos)
			for i := range pos {
				delete(owed, string(b.Bytes(i, i+1)))
			}
			b.Discard()
		}
	}
	return next
}
