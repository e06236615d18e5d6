package spool

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

var _ Buffer = (*Spool)(nil)

// What goes in comes out, from memory and from disk, in one run and the next.
func TestRoundTrip(t *testing.T) {
	f := func(name string, change func(*Config)) {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			change(&cfg)
			s := openSpool(t, cfg)
			const n = 3000
			for i := 0; i < n; i += 50 {
				mustPut(t, s, "t", i, i+50)
			}
			c := s.Cursor(Ref{}, "")
			batches := take(t, c, n/2)
			i := 0
			for _, b := range batches {
				if b.Route != 7 || b.Topic != "t" {
					t.Fatalf("a batch of topic %q, route %d", b.Topic, b.Route)
				}
				for j := range b.Len() {
					if got := string(b.Bytes(j, j+1)); got != payload(i) {
						t.Fatalf("record %d is %q", i, got)
					}
					if b.Pos[j].Source != 5 {
						t.Fatalf("position %+v", b.Pos[j])
					}
					if src, off := s.Where(b.Pos[j]); src != "src" || off != int64(i)*10 {
						t.Fatalf("record %d is from %s:%d", i, src, off)
					}
					i++
				}
			}
			for _, b := range batches[:len(batches)/2] {
				s.Delivered(b.Pos)
				b.Discard()
			}
			left := s.Pending()
			c.Close()
			closeSpool(t, s)
			s = openSpool(t, cfg)
			if got := s.Pending(); got != left {
				t.Errorf("%d records pending, want %d", got, left)
			}
			all := drain(t, s)
			if len(all) != int(left) || all[0] != payload(n-int(left)) || all[left-1] != payload(n-1) {
				t.Errorf("%d records came after the restart, want %d", len(all), left)
			}
			closeSpool(t, s)
			if files := segmentFiles(t, cfg.Dir); len(files) > 0 {
				t.Errorf("all is delivered and there are still %v", files)
			}
		})
	}
	f("memory", func(*Config) {})
	f("disk", func(c *Config) { c.RAMBytes = 0 })
	f("some memory", func(c *Config) { c.RAMBytes = 300 << 10 })
	f("every second", func(c *Config) { c.Fsync = EverySecond })
	f("every second, disk", func(c *Config) { c.Fsync, c.RAMBytes = EverySecond, 0 })
}

// Damage is told with its place and what it costs, in the log and in figures.
func TestDamageIsTold(t *testing.T) {
	dir := filled(t, 100, 0)
	name := segmentFiles(t, dir)[0]
	p, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	p[bytes.Index(p, []byte("record 42"))] ^= 1
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	s, err := Open(testConfig(dir), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if got := drain(t, s); len(got) != 90 {
		t.Errorf("%d records, want 90", len(got))
	}
	if st := s.Stats(); st.CorruptRecords != 10 || st.CorruptPlaces != 1 {
		t.Errorf("%+v", st)
	}
	closeSpool(t, s)
	for _, want := range []string{"damaged", "records=10", "file=" + filepath.Base(name), "\"at byte\"=", "dir=" + dir, "route=r"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log says nothing of %q:\n%s", want, log.String())
		}
	}
}

// The age is the oldest pending record's, not the segment's.
func TestOldestAge(t *testing.T) {
	g := &segment{first: 1, end: 1001}
	for i := range int64(1000) { // a record a second
		g.stamp(i+1, i*1000)
	}
	if len(g.marks) > maxMarks {
		t.Errorf("%d marks, want %d at most", len(g.marks), maxMarks)
	}
	if at := g.oldest(); at != 0 {
		t.Errorf("the oldest of all is of %d ms, want 0", at)
	}
	g.bits, _ = g.bits.set(0, 900)
	if at := g.oldest(); at < 870_000 || at > 900_000 {
		t.Errorf("the oldest is of %d ms, want 900000 or a little less", at)
	}
	var now atomic.Int64
	cfg := testConfig("memory")
	cfg.fs, cfg.now = newMemDisk(), func() time.Time { return time.Unix(now.Load(), 0) }
	now.Store(1000)
	s := openSpool(t, cfg)
	age := func(want time.Duration) {
		t.Helper()
		if got := s.Stats().OldestAge; got != want {
			t.Errorf("the oldest is %s old, want %s", got, want)
		}
	}
	age(0)
	mustPut(t, s, "t", 0, 10)
	now.Store(1040)
	mustPut(t, s, "t", 10, 20)
	now.Store(1100)
	age(100 * time.Second)
	s.Delivered([]record.Position{{Offset: 1}})
	age(100 * time.Second)
	s.mu.Lock()
	s.stats.Delivered += s.final(2, 11)
	s.mu.Unlock()
	age(60 * time.Second)
	closeSpool(t, s)
	cfg.fs.(*memDisk).held = false
	s = openSpool(t, cfg)
	age(100 * time.Second) // at most: of a closed segment the first time is known
	closeSpool(t, s)
}
