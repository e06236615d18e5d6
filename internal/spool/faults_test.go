package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// filled is a spool of n records in batches of 10, closed; the first delivered
// of them are final.
func filled(t testing.TB, n, delivered int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cfg := testConfig(dir)
	s := openSpool(t, cfg)
	for i := 0; i < n; i += 10 {
		mustPut(t, s, "t", i, i+10)
	}
	if delivered > 0 {
		c := s.Cursor(Ref{}, "")
		for got := 0; got < delivered; {
			b := take(t, c, 1)[0]
			pos := b.Pos[:min(b.Len(), delivered-got)]
			s.Delivered(pos)
			got += len(pos)
			b.Discard()
		}
		c.Close()
	}
	closeSpool(t, s)
	return dir
}

// numbers returns which records of payload the texts are.
func numbers(t testing.TB, texts []string) map[int]bool {
	t.Helper()
	all := map[int]bool{}
	for _, p := range texts {
		i := 0
		for _, c := range strings.TrimPrefix(p, `{"value":{"type":"STRING","data":"record `) {
			if c < '0' || c > '9' {
				break
			}
			i = i*10 + int(c-'0')
		}
		if payload(i) != p {
			t.Fatalf("%q is not as it was written", p)
		}
		if all[i] {
			t.Fatalf("record %d came twice", i)
		}
		all[i] = true
	}
	return all
}

// F3: the newest file is cut anywhere, or its end is zeros.
func TestTornTail(t *testing.T) {
	dir := filled(t, 1500, 0)
	files := segmentFiles(t, dir)
	last := files[len(files)-1]
	whole, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	ends := frameEnds(t, whole)
	first, _ := parseSegmentName(filepath.Base(last))
	r := rand.New(rand.NewPCG(3, 3))
	for try := range 200 {
		at := r.IntN(len(whole) + 1)
		if try < 2 {
			at = try * len(whole)
		}
		torn := slices.Clone(whole[:at])
		if try%2 == 1 {
			torn = append(torn, make([]byte, len(whole)-at+r.IntN(5000))...)
		}
		there := t.TempDir()
		copyDir(t, dir, there)
		if err := os.WriteFile(filepath.Join(there, filepath.Base(last)), torn, 0o600); err != nil {
			t.Fatal(err)
		}
		want := int(first) - 1
		for end, records := range ends {
			if end <= at {
				want += records
			}
		}
		s := openSpool(t, testConfig(there))
		if got := s.Pending(); got != int64(want) {
			t.Fatalf("cut at %d: %d records pending, want %d", at, got, want)
		}
		if lost := s.Stats().CorruptRecords; lost != int64(1500-want) { // the acks were saved: it is known that they were there
			t.Fatalf("cut at %d: %d records lost, counted %d", at, 1500-want, lost)
		}
		mustPut(t, s, "t", 2000, 2010)
		closeSpool(t, s)
		s = openSpool(t, testConfig(there))
		if got := numbers(t, drain(t, s)); len(got) != want+10 || !got[2009] {
			t.Fatalf("cut at %d: %d records, want %d", at, len(got), want+10)
		}
		closeSpool(t, s)
	}
}

// frameEnds returns how many records the frames of a segment have, by where they end.
func frameEnds(t testing.TB, p []byte) map[int]int {
	t.Helper()
	var w walker
	if err := w.start(byteFile(p), int64(len(p)), ""); err != nil || !w.fine {
		t.Fatal("no segment:", err)
	}
	all := map[int]int{}
	for {
		if _, ok := w.next(); !ok {
			return all
		}
		if !w.cur.footer() {
			all[int(w.off)+w.cur.length] = w.cur.count
		}
		w.skip()
	}
}

type byteFile []byte

func (b byteFile) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, b[min(off, int64(len(b))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// F4: one bit flips, anywhere. Nothing wrong comes out, at most one batch is
// lost, the counters say how much, and verify says where.
func TestBitRot(t *testing.T) {
	f := func(dir string, left int) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(4, 4))
		for range 100 {
			there := t.TempDir()
			copyDir(t, dir, there)
			name := lockName
			for name == lockName {
				name = entries[r.IntN(len(entries))].Name()
			}
			path := filepath.Join(there, name)
			p, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			at := r.IntN(len(p) * 8)
			p[at/8] ^= 1 << (at % 8)
			if err := os.WriteFile(path, p, 0o600); err != nil {
				t.Fatal(err)
			}
			rep, err := Verify(t.Context(), there)
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Damage) == 0 {
				t.Errorf("%s, bit %d: verify finds nothing", name, at)
			}
			cfg := testConfig(there)
			cfg.RAMBytes = int64(at%2) << 20
			s := openSpool(t, cfg)
			got := numbers(t, drain(t, s))
			st := s.Stats()
			lost := int64(left - len(got))
			if lost > 10 || lost != st.CorruptRecords || lost != rep.LostRecords {
				t.Errorf("%s, bit %d: %d records lost, %d counted, verify says %d", name, at, lost, st.CorruptRecords, rep.LostRecords)
			}
			closeSpool(t, s)
			if files := segmentFiles(t, there); len(files) > 0 {
				t.Errorf("%s, bit %d: all is final and there are still %v", name, at, files)
			}
		}
	}
	f(filled(t, 1500, 0), 1500)
	f(filled(t, 1500, 703), 1500-703)
}

// A page that the disk cannot read costs the batches in it, and nobody waits
// for ever.
func TestUnreadablePage(t *testing.T) {
	disk := newMemDisk()
	cfg := testConfig("memory")
	cfg.fs, cfg.RAMBytes = disk, 0
	s := openSpool(t, cfg)
	for i := 0; i < 100; i += 10 {
		mustPut(t, s, "t", i, i+10)
	}
	disk.set(func(d *memDisk) { d.readErr, d.readFrom = syscall.EIO, 5000 })
	c := s.Cursor(Ref{}, "")
	defer c.Close()
	b := take(t, c, 1)[0]
	n := int64(b.Len())
	s.Delivered(b.Pos)
	b.Discard()
	disk.set(func(d *memDisk) { d.readErr = nil })
	mustPut(t, s, "t", 100, 110)
	if got := numbers(t, drain(t, s)); int64(len(got))+n+s.Stats().CorruptRecords != 110 || !got[109] {
		t.Errorf("%d and %d records, %+v", n, len(got), s.Stats())
	}
	closeSpool(t, s)
}

// F5: what is known of acks is lost, in part or whole, or a segment is.
func TestStateLost(t *testing.T) {
	const n, delivered = 1500, 703
	dir := filled(t, n, delivered)
	f := func(name string, harm func(dir string), want int, lost int64) {
		t.Helper()
		there := t.TempDir()
		copyDir(t, dir, there)
		harm(there)
		s := openSpool(t, testConfig(there))
		got := numbers(t, drain(t, s))
		if len(got) != want || s.Stats().CorruptRecords != lost {
			t.Errorf("%s: %d records came, want %d; %d counted as lost, want %d", name, len(got), want, s.Stats().CorruptRecords, lost)
		}
		mustPut(t, s, "t", 5000, 5010)
		closeSpool(t, s)
		s = openSpool(t, testConfig(there))
		if got := numbers(t, drain(t, s)); len(got) != 10 || s.Stats().CorruptRecords != 0 {
			t.Errorf("%s, then once more: %d records, want 10; %+v", name, len(got), s.Stats())
		}
		closeSpool(t, s)
	}
	remove := func(names ...string) func(string) {
		return func(dir string) {
			for _, name := range names {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	write := func(name string, p []byte) func(string) {
		return func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	files := segmentFiles(t, dir)
	if len(files) < 2 {
		t.Fatalf("only %d segments left", len(files))
	}
	first, _ := parseSegmentName(filepath.Base(files[0]))
	second, _ := parseSegmentName(filepath.Base(files[1]))
	all := n - int(first) + 1 // what is in files
	f("nothing", func(string) {}, n-delivered, 0)
	f("slot 0 gone", remove("acks.0"), n-delivered, 0)
	f("slot 1 gone", remove("acks.1"), n-delivered, 0)
	f("slot 0 zero", write("acks.0", make([]byte, 100)), n-delivered, 0)
	f("slot 1 empty", write("acks.1", nil), n-delivered, 0)
	f("both gone: all again", remove("acks.0", "acks.1"), all, 0)
	f("both zero: all again", func(dir string) { write("acks.0", make([]byte, 50))(dir); write("acks.1", make([]byte, 50))(dir) }, all, 0)
	f("swapped", func(dir string) {
		a, b := filepath.Join(dir, "acks.0"), filepath.Join(dir, "acks.1")
		for _, r := range [][2]string{{a, a + "x"}, {b, a}, {a + "x", b}} {
			if err := os.Rename(r[0], r[1]); err != nil {
				t.Fatal(err)
			}
		}
	}, n-delivered, 0)
	f("those of another buffer", func(dir string) {
		other := filled(t, 2000, 2000)
		for _, name := range slotNames {
			p, err := os.ReadFile(filepath.Join(other, name))
			if err != nil {
				t.Fatal(err)
			}
			write(name, p)(dir)
		}
	}, all, 0)
	inFirst := int(second-first) - (delivered - int(first) + 1)
	f("first segment gone", remove(filepath.Base(files[0])), n-delivered-inFirst, int64(inFirst))
	lastFirst, _ := parseSegmentName(filepath.Base(files[len(files)-1]))
	f("last segment gone", remove(filepath.Base(files[len(files)-1])), int(lastFirst)-1-delivered, int64(n-int(lastFirst)+1))
	f("all segments gone", func(dir string) {
		for _, name := range files {
			remove(filepath.Base(name))(dir)
		}
	}, 0, n-delivered)
}

// What is gone of the end of a spool that was killed before anything was
// delivered is counted, as far as the slots had heard of it: the newest segment,
// or a batch that is the last of it.
func TestNewestGoneAfterKill(t *testing.T) {
	const n = 1500
	f := func(name string, harm func(path string), want func(newest int) int) {
		t.Helper()
		dir := t.TempDir()
		s := openSpool(t, testConfig(dir))
		for i := 0; i < n; i += 10 {
			mustPut(t, s, "t", i, i+10)
		}
		there := t.TempDir()
		waitFor(t, "the slots know of all records", func() bool {
			slots, err := new(inventory).readSlots(s.fs)
			if err != nil {
				t.Fatal(err)
			}
			return slots[0].state.next == n+1 || slots[1].state.next == n+1
		})
		copyDir(t, dir, there) // the kill
		closeSpool(t, s)
		files := segmentFiles(t, there)
		newest := files[len(files)-1]
		first, _ := parseSegmentName(filepath.Base(newest))
		harm(newest)
		lost := want(n + 1 - int(first))
		s = openSpool(t, testConfig(there))
		got := numbers(t, drain(t, s))
		if st := s.Stats(); len(got) != n-lost || st.CorruptRecords != int64(lost) {
			t.Errorf("%s: %d records came, %d counted as lost; want %d and %d", name, len(got), st.CorruptRecords, n-lost, lost)
		}
		closeSpool(t, s)
	}
	f("nothing", func(string) {}, func(int) int { return 0 })
	f("newest segment", func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}, func(newest int) int { return newest })
	f("a bit of the last batch", func(path string) {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p[bytes.LastIndex(p, []byte(payload(n-1)))] ^= 1
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}, func(int) int { return 10 })
}

// A number whose ack was saved while its record was not synced is not given
// again: the record that has it next would be passed over.
func TestNumberIsNotGivenAgain(t *testing.T) { synctest.Test(t, testNumberIsNotGivenAgain) }

func testNumberIsNotGivenAgain(t *testing.T) {
	disk := newMemDisk()
	cfg := testConfig("memory")
	cfg.fs, cfg.Fsync = disk, EverySecond
	s := openSpool(t, cfg)
	mustPut(t, s, "t", 0, 10)
	c := s.Cursor(Ref{}, "")
	b := take(t, c, 10)[0]
	s.Delivered(b.Pos)
	b.Discard()
	c.Close()
	waitFor(t, "acks to be synced", func() (ok bool) {
		disk.set(func(d *memDisk) {
			for _, name := range slotNames {
				var a ackState
				if f := d.files[name]; f != nil && a.parse(slices.Clone(f.synced), name, func(int64, int64) {}) == nil && a.frontier == 11 {
					ok = true
				}
			}
		})
		return ok
	})
	after := newMemDisk()
	disk.set(func(d *memDisk) { // what is not synced is gone, the acks' directory entry is not
		for _, name := range slotNames {
			after.files[name] = &memFile{now: slices.Clone(d.files[name].synced)}
		}
	})
	closeSpool(t, s)
	cfg.fs = after
	s = openSpool(t, cfg)
	mustPut(t, s, "t", 100, 105)
	if got := numbers(t, drain(t, s)); len(got) != 5 {
		t.Errorf("%d records, want 5", len(got))
	}
	closeSpool(t, s)
}

// waitFor waits until ok, and fails the test when that takes too long.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

// F6: a full disk. Nothing is accepted that cannot be read; when there is room
// it goes on by itself.
func TestDiskFull(t *testing.T) { synctest.Test(t, testDiskFull) }

func testDiskFull(t *testing.T) {
	f := func(policy Fsync) {
		t.Helper()
		disk := newMemDisk()
		disk.room = 40_000
		cfg := testConfig("memory")
		cfg.fs, cfg.Fsync, cfg.RAMBytes, cfg.segment = disk, policy, 0, 8<<10
		s := openSpool(t, cfg)
		accepted, n := map[int]bool{}, 0
		var refused int
		for refused < 5 {
			if err := put(t, s, batchOf("t", n, n+10)); err == nil {
				for i := range 10 {
					accepted[n+i] = true
				}
			} else if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			} else {
				refused++
				if err := s.Room(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			n += 10
		}
		// EverySecond may have found room for what it had taken before.
		if st := s.Stats(); policy == Always && !strings.Contains(st.Unready, "no space") || st.SyncErrors < unreadyAfter {
			t.Errorf("after five refusals: %+v", st)
		}
		disk.set(func(d *memDisk) { d.room = 1 << 30 })
		waitFor(t, "the buffer to take batches again", func() bool { n += 10; return put(t, s, batchOf("t", n, n+10)) == nil })
		for i := range 10 {
			accepted[n+i] = true
		}
		if st := s.Stats(); st.Unready != "" {
			t.Errorf("it writes again: %+v", st)
		}
		closeSpool(t, s)
		s = openSpool(t, cfg)
		got := numbers(t, drain(t, s))
		for i := range accepted {
			if !got[i] {
				t.Errorf("%v: record %d was accepted and cannot be read", policy, i)
			}
		}
		if extra := len(got) - len(accepted); extra > 0 {
			t.Errorf("%v: %d records were refused and are there all the same", policy, extra)
		}
		if c := s.Stats().CorruptRecords; c != 0 {
			t.Errorf("%v: %d records counted as lost", policy, c)
		}
		closeSpool(t, s)
	}
	f(Always)
	f(EverySecond)
}

// A full disk must not keep segments from being removed, though the acks
// cannot be saved.
func TestDiskFullIsEmptied(t *testing.T) { synctest.Test(t, testDiskFullIsEmptied) }

func testDiskFullIsEmptied(t *testing.T) {
	disk := newMemDisk()
	cfg := testConfig("memory")
	cfg.fs, cfg.segment = disk, 4<<10
	s := openSpool(t, cfg)
	for i := 0; i < 500; i += 10 {
		mustPut(t, s, "t", i, i+10)
	}
	disk.set(func(d *memDisk) {
		d.room = 0
		d.failSync = func(name string) error {
			if strings.HasPrefix(name, "acks") {
				return syscall.ENOSPC
			}
			return nil
		}
	})
	if got := drain(t, s); len(got) != 500 {
		t.Errorf("%d records, want 500", len(got))
	}
	waitFor(t, "room", func() bool { return put(t, s, batchOf("t", 500, 510)) == nil })
	disk.set(func(d *memDisk) { d.failSync = nil })
	closeSpool(t, s)
}

// F7: a sync fails. What is not synced is written again, to another file; the
// one that failed is never appended to.
func TestSyncFails(t *testing.T) { synctest.Test(t, testSyncFails) }

func testSyncFails(t *testing.T) {
	f := func(policy Fsync, fails int) {
		t.Helper()
		disk := newMemDisk()
		cfg := testConfig("memory")
		cfg.fs, cfg.Fsync, cfg.RAMBytes = disk, policy, 0
		s := openSpool(t, cfg)
		for i := range 5 {
			mustPut(t, s, "t", i*10, i*10+10)
		}
		var left atomic.Int32
		left.Store(int32(fails))
		var failed []string
		disk.set(func(d *memDisk) {
			d.failSync = func(name string) error {
				f := d.files[name]
				for _, was := range failed {
					if was == name && f != nil && len(f.now) > len(f.synced) {
						t.Errorf("%s failed and was written again", name)
					}
				}
				if strings.HasSuffix(name, segmentExt) && left.Add(-1) >= 0 {
					if f != nil && f.synced != nil {
						failed = append(failed, name)
					}
					return syscall.EIO
				}
				return nil
			}
		})
		accepted := 50
		for i := 5; i < 10; {
			err := put(t, s, batchOf("t", i*10, i*10+10))
			if err == nil {
				accepted += 10
				i++
				continue
			}
			if !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if err := s.Room(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "the failures to be over", func() bool { return left.Load() < 0 })
		if policy == Always && fails >= 2 && s.Stats().SyncErrors < int64(fails) {
			t.Errorf("%+v", s.Stats())
		}
		disk.set(func(d *memDisk) { // what a system that dropped its pages would show
			for _, f := range d.files {
				f.now = slices.Clone(f.synced)
			}
		})
		if policy == EverySecond {
			closeSpool(t, s)
			return
		}
		if got := numbers(t, drain(t, s)); len(got) != accepted {
			t.Errorf("%v, %d failures: %d records, want %d; %+v", policy, fails, len(got), accepted, s.Stats())
		}
		closeSpool(t, s)
	}
	f(Always, 1)
	f(Always, 2)
	f(Always, 7)
	f(EverySecond, 1)
	f(EverySecond, 4)
}

// What EverySecond wrote and could not sync is in the next file.
func TestSyncFailsLate(t *testing.T) { synctest.Test(t, testSyncFailsLate) }

func testSyncFailsLate(t *testing.T) {
	disk := newMemDisk()
	cfg := testConfig("memory")
	cfg.fs, cfg.Fsync, cfg.RAMBytes = disk, EverySecond, 0
	s := openSpool(t, cfg)
	mustPut(t, s, "t", 0, 10)
	c := s.Cursor(Ref{}, "")
	defer c.Close()
	b := take(t, c, 10)[0] // handed out before
	mustPut(t, s, "t", 10, 20)
	disk.set(func(d *memDisk) { d.syncErr = syscall.EIO })
	waitFor(t, "the failure", func() bool { return s.Stats().SyncErrors >= 2 })
	s.Delivered(b.Pos[:5])
	if err := put(t, s, batchOf("t", 20, 30)); !errors.Is(err, syscall.EIO) {
		t.Errorf("while nothing can be synced: %v", err)
	}
	disk.set(func(d *memDisk) { d.syncErr = nil })
	waitFor(t, "a write that succeeds", func() bool { return s.Stats().Unready == "" && put(t, s, batchOf("t", 30, 40)) == nil })
	s.Refused(b.Pos[5:], nil)
	b.Discard()
	got := numbers(t, drain(t, s))
	for i := range 40 {
		if want := i >= 5 && i < 20 || i >= 30; got[i] != want {
			t.Errorf("record %d: there %v, want %v", i, got[i], want)
		}
	}
	closeSpool(t, s)
	disk.set(func(d *memDisk) { d.held = false })
	s = openSpool(t, cfg)
	if st := s.Stats(); st.Opened != 0 {
		t.Errorf("all was delivered: %+v", st)
	}
	closeSpool(t, s)
}

// A file that failed may keep frames of batches that were refused. Where the
// next one begins, they do not count.
func TestRefusedFramesDoNotCount(t *testing.T) {
	dir := filled(t, 100, 0)
	files := segmentFiles(t, dir)
	if len(files) != 1 {
		t.Fatal(files)
	}
	p, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	_, at, err := readFooter(byteFile(p), int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	p = p[:at] // it has no footer: it failed
	b := batchOf("t", 900, 910)
	o := getOrigins()
	for _, pos := range b.Pos {
		o.add(origin(pos))
	}
	p = appendFrame(p, 101, time.Unix(0, 0), b, o)
	next := (&segmentHead{id: binary.LittleEndian.Uint64(p[prefixSize:]), first: 101, route: "r"}).append(nil)
	o.reset()
	b = batchOf("t", 100, 105)
	for _, pos := range b.Pos {
		o.add(origin(pos))
	}
	next = appendFrame(next, 101, time.Unix(0, 0), b, o)
	for name, p := range map[string][]byte{files[0]: p, filepath.Join(dir, segmentName(101)): next} {
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := openSpool(t, testConfig(dir))
	got := numbers(t, drain(t, s))
	if len(got) != 105 || got[900] || s.Stats().CorruptRecords != 0 {
		t.Errorf("%d records, want 105; %+v", len(got), s.Stats())
	}
	closeSpool(t, s)
}

// F8: accepted = delivered + dropped, exactly, and the disk keeps to the quota.
func TestQuota(t *testing.T) {
	f := func(policy Policy) {
		t.Helper()
		var told atomic.Int64
		cfg := testConfig(t.TempDir())
		cfg.MaxBytes, cfg.WhenFull, cfg.segment = 1<<20, policy, 0
		cfg.Dropped = func(n int64) { told.Add(n) }
		s := openSpool(t, cfg)
		accepted, n, largest := 0, 0, int64(0)
		r := rand.New(rand.NewPCG(8, uint64(policy)))
		c := s.Cursor(Ref{}, "")
		delivered := 0
		for range 1500 {
			k := 1 + r.IntN(40)
			switch err := put(t, s, batchOf("t", n, n+k)); {
			case err == nil, errors.Is(err, ErrDropped):
				accepted += k
			case policy == Block && errors.Is(err, ErrFull) && s.Pending() == 0: // to be freed any moment
				if err := s.Room(t.Context()); err != nil {
					t.Fatal(err)
				}
			case policy == Block && errors.Is(err, ErrFull):
				b := take(t, c, 1)[0]
				s.Delivered(b.Pos)
				delivered += b.Len()
				b.Discard()
			default:
				t.Fatal(err)
			}
			n += k
			if r.IntN(60) == 0 && s.Pending() > 0 {
				b := take(t, c, 1)[0]
				s.Delivered(b.Pos)
				delivered += b.Len()
				b.Discard()
			}
			largest = max(largest, dirSize(t, cfg.Dir))
		}
		c.Close()
		delivered += len(numbers(t, drain(t, s)))
		st := s.Stats()
		dropped := int(st.DroppedOldest + st.DroppedNewest)
		if accepted != delivered+dropped || told.Load() != int64(dropped) || policy != Block && dropped == 0 || policy == Block && dropped > 0 {
			t.Errorf("%v: %d accepted, %d delivered, %d dropped, told of %d", policy, accepted, delivered, dropped, told.Load())
		}
		if largest > cfg.MaxBytes+cfg.segmentSize() || largest < cfg.MaxBytes/2 {
			t.Errorf("%v: %d bytes on disk with a quota of %d", policy, largest, cfg.MaxBytes)
		}
		closeSpool(t, s)
	}
	f(Block)
	f(DropOldest)
	f(DropNewest)
}

func dirSize(t testing.TB, dir string) (n int64) {
	t.Helper()
	for _, name := range segmentFiles(t, dir) {
		if info, err := os.Stat(name); err == nil {
			n += info.Size()
		}
	}
	return n
}

// F21: one spool, one process; and its files are nobody else's.
func TestLockAndModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	for _, mask := range []int{0, 0o277, 0o022} {
		syscall.Umask(mask & 0o077)
		dir := filepath.Join(t.TempDir(), "a", "b")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		syscall.Umask(mask)
		cfg := testConfig(dir)
		s := openSpool(t, cfg)
		mustPut(t, s, "t", 0, 10)
		_, err := Open(cfg, silent)
		var held *LockedError
		if !errors.As(err, &held) || held.PID != os.Getpid() || !strings.Contains(err.Error(), dir) {
			t.Errorf("a second one: %v", err)
		}
		if _, err := Verify(t.Context(), dir); !errors.As(err, &held) {
			t.Errorf("verify beside it: %v", err)
		}
		if rep, err := Inspect(t.Context(), dir); err != nil || !rep.InUse || rep.Pending != 10 {
			t.Errorf("inspect beside it: %+v %v", rep, err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("directory: %v %v", info.Mode(), err)
		}
		entries, _ := os.ReadDir(dir)
		if len(entries) != 4 {
			t.Errorf("%d files, want a segment, two slots and a lock", len(entries))
		}
		for _, e := range entries {
			if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("umask %o: %s has mode %v", mask, e.Name(), info.Mode())
			}
		}
		closeSpool(t, s)
		s = openSpool(t, cfg)
		closeSpool(t, s)
	}
}

// F25: what a later release wrote is not touched.
func TestLaterVersion(t *testing.T) {
	later := func(p []byte) []byte {
		p = slices.Clone(p)
		binary.LittleEndian.PutUint16(p[8:], version+1)
		binary.LittleEndian.PutUint32(p[16:], sum(p[:16]))
		return p
	}
	dir := filled(t, 1000, 100)
	f := func(name string) {
		t.Helper()
		there := t.TempDir()
		copyDir(t, dir, there)
		p, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(there, name), later(p), 0o600); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, there)
		_, err = Open(testConfig(there), silent)
		var v *VersionError
		if !errors.As(err, &v) || v.Version != version+1 || v.File != name {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Inspect(t.Context(), there); !errors.As(err, &v) {
			t.Errorf("%s: inspect: %v", name, err)
		}
		if after := snapshot(t, there); after != before {
			t.Errorf("%s: something was touched", name)
		}
	}
	files := segmentFiles(t, dir)
	f(filepath.Base(files[0]))
	f(filepath.Base(files[len(files)-1]))
	f("acks.0")
	f("acks.1")
}

// snapshot is all that is in a directory but the lock.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == lockName {
			return err
		}
		p, err := os.ReadFile(path)
		b.WriteString(d.Name() + "\n" + string(p))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What cannot be a spool's directory is told so at once.
func TestOpenErrors(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		cfg := DefaultConfig()
		cfg.Dir, cfg.Route = t.TempDir(), "r"
		change(&cfg)
		s, err := Open(cfg, silent)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something of %q", err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f("max_bytes 5", func(c *Config) { c.MaxBytes = 5 })
	f("memory", func(c *Config) { c.RAMBytes = -1 })
	f("route name", func(c *Config) { c.Route = strings.Repeat("r", 1<<16) })
	f(file, func(c *Config) { c.Dir = file })
	f("not a directory", func(c *Config) { c.Dir = filepath.Join(file, "x") })
	for _, name := range []string{"x.seg", "00000000000000000000.seg", "-0000000000000000001.seg", "1.seg", "00000000000000000001.seg.bak"} {
		if _, ok := parseSegmentName(name); ok {
			t.Errorf("%s is taken for a segment", name)
		}
	}
}

// F1: opening reads heads and footers, and the last segment; not the backlog.
func TestOpenReadsLittle(t *testing.T) {
	disk := newMemDisk()
	cfg := testConfig("memory")
	cfg.fs, cfg.MaxBytes, cfg.RAMBytes, cfg.segment = disk, 1<<30, 0, 200<<10
	s := openSpool(t, cfg)
	for i := range 400 {
		mustPut(t, s, "t", i*300, i*300+300)
	}
	bytes := s.Stats().Bytes
	crashed := newMemDisk()
	disk.set(func(d *memDisk) {
		for name, f := range d.files {
			crashed.files[name] = &memFile{now: slices.Clone(f.now)}
		}
	})
	closeSpool(t, s)
	counting := &countingDisk{memDisk: crashed}
	cfg.fs = counting
	s = openSpool(t, cfg)
	segments := int64(s.Stats().Segments)
	if s.Pending() != 400*300 || segments < 40 {
		t.Errorf("%d records in %d segments", s.Pending(), segments)
	}
	if got, most := counting.read.Load(), segments*(readHeads+1<<10)+3*cfg.segment; got > most || most > bytes/3 {
		t.Errorf("%d bytes read of %d to open it, want %d at most", got, bytes, most)
	}
	closeSpool(t, s)
}

type countingDisk struct {
	*memDisk
	read atomic.Int64
}

func (d *countingDisk) open(name string) (file, error) {
	f, err := d.memDisk.open(name)
	return &countingFile{f, d}, err
}

type countingFile struct {
	file
	d *countingDisk
}

func (f *countingFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.file.ReadAt(p, off)
	f.d.read.Add(int64(n))
	return n, err
}
