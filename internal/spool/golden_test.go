package spool

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

var update = flag.Bool("update", false, "write testdata/v1 anew: only while no release has written version 1 yet")

// F25: a spool that version 1 wrote is read as long as there is a version that
// says so. The files are those of an agent that was killed: a full segment, one
// without a footer and with a torn end, acks of some records.
func TestGoldenVersion1(t *testing.T) {
	golden := filepath.Join("testdata", "v1")
	if *update {
		writeGolden(t, golden)
	}
	dir := t.TempDir()
	copyDir(t, filepath.Join(golden, "spool"), dir)
	want, err := os.ReadFile(filepath.Join(golden, "pending.txt"))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := Verify(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Pending != int64(strings.Count(string(want), "\n")) || rep.Route != "golden" || rep.TornBytes == 0 || len(rep.Damage) > 0 || len(rep.Segments) != 2 {
		t.Errorf("verify: %+v", rep)
	}
	cfg := testConfig(dir)
	s := openSpool(t, cfg)
	if got := describe(t, s); got != string(want) {
		t.Errorf("it holds\n%s\nwant\n%s", got, want)
	}
	mustPut(t, s, "t", 0, 10)
	if got := drain(t, s); len(got) != 10 {
		t.Errorf("%d records behind it, want 10", len(got))
	}
	if st := s.Stats(); st.CorruptRecords != 0 {
		t.Errorf("%+v", st)
	}
	closeSpool(t, s)
}

// describe takes all that is pending and writes a line a record.
func describe(t testing.TB, s *Spool) string {
	t.Helper()
	c := s.Cursor(Ref{}, "")
	defer c.Close()
	var lines []string
	for n := s.Pending(); n > 0; {
		b := take(t, c, 1)[0]
		for i := range b.Len() {
			src, off := s.Where(b.Pos[i])
			lines = append(lines, fmt.Sprintf("%06d %q raw=%v %s:%d %q\n", b.Pos[i].Offset, b.Topic, b.Raw, src, off, b.Bytes(i, i+1)))
		}
		n -= int64(b.Len())
		s.Delivered(b.Pos)
		b.Discard()
	}
	sort.Strings(lines)
	return strings.Join(lines, "")
}

func writeGolden(t *testing.T, golden string) {
	t.Helper()
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.Route, cfg.id, cfg.segment = "golden", 0x0123456789abcdef, 3000
	began := time.Now()
	cfg.now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC).Add(time.Since(began)) }
	s := openSpool(t, cfg)
	where := func(pos record.Position) (string, int64) {
		return []string{"/var/log/app.log", "edge 127.0.0.1:4711"}[pos.Offset%2], pos.Offset << 33
	}
	for i := 0; i < 40; i += 4 {
		b := batchOf([]string{"logs", "metrics"}[i/4%2], i, i+4)
		b.Raw = i == 8
		done := make(chan error)
		if err := s.Append(t.Context(), b, where, func(_ *record.Batch, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	c := s.Cursor(Ref{}, "")
	for _, b := range take(t, c, 30) {
		for i, p := range b.Pos { // every third, and so a bitmap or runs
			if i%3 == 0 {
				s.Delivered([]record.Position{p})
			}
		}
		b.Discard()
	}
	c.Close()
	crash := filepath.Join(golden, "spool")
	if err := os.RemoveAll(golden); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "acks to be saved", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.dirty
	})
	time.Sleep(10 * time.Millisecond)
	copyDir(t, dir, crash)
	if err := os.Remove(filepath.Join(crash, lockName)); err != nil {
		t.Fatal(err)
	}
	closeSpool(t, s)
	f, err := os.OpenFile(segmentFiles(t, crash)[1], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(aSegment()[60:130]); err != nil {
		t.Fatal(err)
	}
	copyDir(t, crash, filepath.Join(dir, "again"))
	s = openSpool(t, testConfig(filepath.Join(dir, "again")))
	if err := os.WriteFile(filepath.Join(golden, "pending.txt"), []byte(describe(t, s)), 0o600); err != nil {
		t.Fatal(err)
	}
	closeSpool(t, s)
}
