package checkpoint

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a disk that can go wrong.
type memory struct {
	mu     sync.Mutex
	slots  [2][]byte
	writes int
	fail   error // of every write
	torn   int   // so many bytes of a failing write get there all the same
	reads  [2]error
}

func (m *memory) Read(slot int) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reads[slot] != nil {
		return nil, m.reads[slot]
	}
	if m.slots[slot] == nil {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(m.slots[slot]), nil
}

func (m *memory) Write(slot int, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	n := len(b)
	if m.fail != nil {
		n = min(n, m.torn)
	}
	if over := n - len(m.slots[slot]); over > 0 {
		m.slots[slot] = append(m.slots[slot], make([]byte, over)...)
	}
	copy(m.slots[slot], b[:n])
	return m.fail
}

func (m *memory) Close() error { return nil }

func (m *memory) set(fail error, torn int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.torn = fail, torn
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func opened(t testing.TB, d disk) *Store {
	t.Helper()
	s, err := open(d, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func all(File) bool { return true }

// frontiers returns what is known of each file, as name:frontier[ranges].
func frontiers(t testing.TB, m *memory) string {
	t.Helper()
	m.mu.Lock()
	c := &memory{slots: [2][]byte{bytes.Clone(m.slots[0]), bytes.Clone(m.slots[1])}, reads: m.reads}
	m.mu.Unlock()
	s := opened(t, c)
	var b strings.Builder
	for _, e := range s.Input("in").Begin(all) {
		fmt.Fprintf(&b, "%s:%s ", e.File().Name, e.Tracker)
	}
	return strings.TrimSpace(b.String())
}

func TestStoreKeeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	s, err := Open(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	in := s.Input("app")
	if in.Known() || s.Damaged() {
		t.Error("a first start knows of an input, or of damage")
	}
	in.Begin(all)
	want := File{
		Name: "/var/log/a.log", Path: "/var/log/a.log.1", Dev: 1 << 60, Inode: 1<<64 - 1, Born: -5, Size: 1 << 50,
		Head: MarkOf(3, []byte("abc")), Tail: MarkOf(1<<40, []byte("xyz")), Packed: true, Done: true,
	}
	e := in.Add(want)
	e.Final(0, 100)
	e.Final(200, 50)
	e.Skip(1<<40, 1)
	if s.Age() == 0 {
		t.Error("a change waits, and the age is 0")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // once more is no harm
		t.Fatal(err)
	}
	if s.Age() != 0 {
		t.Errorf("all is written, and the age is %s", s.Age())
	}
	for name, mode := range map[string]fs.FileMode{".": 0o700, "checkpoint.0": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	s, err = Open(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	in = s.Input("app")
	if !in.Known() {
		t.Error("the input is not known after a restart")
	}
	got := in.Begin(func(File) bool { return false })
	if len(got) != 1 {
		t.Fatalf("%d files, want 1", len(got))
	}
	f := got[0].File()
	want.ID, want.Input, want.Seen = e.File().ID, "app", f.Seen
	if fmt.Sprint(f) != fmt.Sprint(want) || f.ID == 0 || time.Since(time.Unix(f.Seen, 0)) > time.Minute {
		t.Errorf("got  %+v\nwant %+v", f, want)
	}
	if got[0].Tracker.String() != "100 [{200 250} {1099511627776 1099511627777}]" {
		t.Errorf("tracker %s", got[0].Tracker)
	}
}

// The two slots of one state are the contract with every later version.
func TestGolden(t *testing.T) {
	m := &memory{}
	s, err := loaded(m, quiet())
	if err != nil {
		t.Fatal(err)
	}
	in := s.Input("in")
	in.Begin(all)
	s.mu.Lock()
	for i, name := range []string{"/var/log/a.log", "/var/log/ü"} {
		e := s.entry(File{
			ID: 0x0102030405060708 + uint64(i), Input: "in", Name: name, Path: name + ".1", Dev: 0x801, Inode: 77, Born: 1600000000000000001,
			Size: 1000, Seen: 1700000000, Head: MarkOf(4, []byte("head")), Tail: MarkOf(500, []byte("tail")), Packed: i == 1,
			Frontier: 300, Final: []Range{{400, 450}, {460, 500}},
		})
		s.entries = append(s.entries, e)
	}
	s.mu.Unlock()
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "v1.golden")
	got := hex.Dump(m.slots[0])
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the format changed: a new version is due, that reads this one too\n%s", got)
	}

	const state = "/var/log/a.log:300 [{400 450} {460 500}] /var/log/ü:300 [{400 450} {460 500}]"
	if got := frontiers(t, m); got != state {
		t.Errorf("read back: %s", got)
	}
}

// twoSlots returns a disk whose slots say 10 and 20 of one file.
func twoSlots(t *testing.T) (m *memory, newer int) {
	t.Helper()
	m = &memory{}
	s, err := loaded(m, quiet())
	if err != nil {
		t.Fatal(err)
	}
	in := s.Input("in")
	in.Begin(all)
	e := in.Add(File{Name: "a"})
	for range 2 {
		e.Final(e.Frontier(), 10)
		newer = s.slot
		if err := s.Save(); err != nil {
			t.Fatal(err)
		}
	}
	return m, newer
}

// Whatever happens to the slots: what was not final is never skipped.
func TestDamage(t *testing.T) {
	m, newer := twoSlots(t)
	f := func(what, want string, change func(slots *[2][]byte)) {
		t.Helper()
		c := &memory{slots: [2][]byte{bytes.Clone(m.slots[0]), bytes.Clone(m.slots[1])}}
		change(&c.slots)
		if got := frontiers(t, c); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	f("nothing", "a:20 []", func(*[2][]byte) {})
	f("newer lost", "a:10 []", func(s *[2][]byte) { s[newer] = nil })
	f("older lost", "a:20 []", func(s *[2][]byte) { s[1-newer] = nil })
	f("both lost", "", func(s *[2][]byte) { s[0], s[1] = nil, nil })
	f("swapped", "a:20 []", func(s *[2][]byte) { s[0], s[1] = s[1], s[0] })
	f("left of a longer one", "a:20 []", func(s *[2][]byte) { s[newer] = append(s[newer], "rubbish"...) })
	for i := range m.slots[newer] {
		for _, bit := range []byte{1, 0x80, 0xff} {
			f(fmt.Sprintf("newer, byte %d flipped by %x", i, bit), "a:10 []", func(s *[2][]byte) { s[newer][i] ^= bit })
			f(fmt.Sprintf("older, byte %d flipped by %x", i, bit), "a:20 []", func(s *[2][]byte) { s[1-newer][i] ^= bit })
		}
		f(fmt.Sprintf("both flipped at %d", i), "", func(s *[2][]byte) { s[0][i] ^= 4; s[1][i] ^= 4 })
		f(fmt.Sprintf("newer cut at %d", i), "a:10 []", func(s *[2][]byte) { s[newer] = s[newer][:i] })
		f(fmt.Sprintf("newer zero from %d", i), "a:10 []", func(s *[2][]byte) { clear(s[newer][min(i, len(s[newer])-2):]) })
	}
	f("both zero", "", func(s *[2][]byte) { clear(s[0]); clear(s[1]) })
	c := &memory{slots: [2][]byte{{}, {}}}
	s := opened(t, c)
	if !s.Damaged() {
		t.Error("two empty slots are no damage")
	}
}

func TestUnknownVersion(t *testing.T) {
	m, newer := twoSlots(t)
	for _, slot := range []int{newer, 1 - newer} {
		c := &memory{slots: [2][]byte{bytes.Clone(m.slots[0]), bytes.Clone(m.slots[1])}}
		le.PutUint32(c.slots[slot][8:], 2)
		le.PutUint32(c.slots[slot][24:], sum(c.slots[slot]))
		_, err := open(c, quiet())
		var v *VersionError
		if !errors.As(err, &v) || v.Version != 2 || !strings.Contains(err.Error(), slotName(slot)) {
			t.Errorf("slot %d: %v", slot, err)
		}
		if c.writes != 0 {
			t.Error("it was written to")
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, quiet()); err == nil || !strings.Contains(err.Error(), "no directory") {
		t.Errorf("a file as data_dir: %v", err)
	}
	if _, err := Open(filepath.Join(file, "x"), quiet()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a directory in a file: %v", err)
	}
	if _, err := open(&memory{reads: [2]error{nil, fs.ErrPermission}}, quiet()); err == nil || !strings.Contains(err.Error(), "user") {
		t.Errorf("a slot of somebody else: %v", err)
	}
	m, newer := twoSlots(t)
	m.reads[newer] = syscall.EIO // as good as damaged
	if got := frontiers(t, m); got != "a:10 []" {
		t.Errorf("a slot that cannot be read: %s", got)
	}
}

// Failing writes end nothing, are told of once, and never touch the good slot.
func TestWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		m := &memory{}
		s, err := open(m, slog.New(slog.NewTextHandler(&told, nil)))
		if err != nil {
			t.Fatal(err)
		}
		in := s.Input("in")
		in.Begin(all)
		e := in.Add(File{Name: "a"})
		e.Final(0, 10)
		time.Sleep(time.Second)
		for i, fail := range []error{syscall.ENOSPC, syscall.EIO} {
			for torn := range 100 {
				m.set(fail, torn)
				e.Final(e.Frontier(), 10)
				time.Sleep(1100 * time.Millisecond)
				got := frontiers(t, m)
				if got != "a:10 []" && i == 0 || got == "" {
					t.Errorf("%v after %d bytes: read back %q", fail, torn, got)
				}
			}
			if s.Err() == nil || s.Age() < 90*time.Second {
				t.Errorf("err %v, age %s", s.Err(), s.Age())
			}
			m.set(nil, 0)
			time.Sleep(2 * time.Second)
			if s.Err() != nil || s.Age() != 0 {
				t.Errorf("after mending: err %v, age %s", s.Err(), s.Age())
			}
		}
		if n := strings.Count(told.String(), "cannot write"); n != 2 {
			t.Errorf("told %d times of two failures:\n%s", n, told.String())
		}
		m.set(syscall.ENOSPC, 0)
		e.Final(e.Frontier(), 1)
		if err := s.Close(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("the last write: %v", err)
		}
	})
}

func TestWrittenSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s, err := open(m, quiet())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		in := s.Input("in")
		in.Begin(all)
		e := in.Add(File{Name: "a"})
		for range 10_000 { // ten seconds
			e.Final(e.Frontier(), 10)
			time.Sleep(time.Millisecond)
			if s.Age() > 250*time.Millisecond {
				t.Fatalf("a change waits for %s", s.Age())
			}
		}
		if n := m.count(); n < 90 || n > 101 {
			t.Errorf("%d writes in ten seconds of change, want 100", n)
		}
		time.Sleep(time.Second)
		before := m.count()
		time.Sleep(time.Hour)
		if n := m.count(); n != before {
			t.Errorf("%d writes of nothing new", n-before)
		}
	})
}

// A file belongs to its input while that is there; else to one that includes it.
func TestInputs(t *testing.T) {
	m := &memory{}
	s := opened(t, m)
	for _, name := range []string{"a", "b"} {
		in := s.Input(name)
		in.Begin(all)
		in.Add(File{Name: "/x/" + name})
	}
	s.Close()
	names := func(es []*Entry) (out string) {
		for _, e := range es {
			out += e.File().Name + " "
		}
		return out
	}
	s = opened(t, m)
	a, c := s.Input("a"), s.Input("c")
	if c.Known() || !a.Known() {
		t.Error("known inputs")
	}
	none := func(File) bool { return false }
	if got := c.Begin(none); names(got) != "" {
		t.Errorf("took over what it does not include: %s", names(got))
	}
	if got := c.Begin(all); names(got) != "/x/b " {
		t.Errorf("b is gone, c got %q", names(got))
	}
	mine := a.Begin(none)
	if names(mine) != "/x/a " {
		t.Errorf("a got %q", names(mine))
	}
	if got := a.Begin(all); len(got) != 0 {
		t.Errorf("claimed twice: %s", names(got))
	}
	a.Close(mine)
	if got := c.Begin(all); names(got) != "/x/a " {
		t.Errorf("a ended, c got %q", names(got))
	}
}

func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		s, err := open(m, quiet())
		if err != nil {
			t.Fatal(err)
		}
		in := s.Input("in")
		in.Begin(all)
		here, gone := in.Add(File{Name: "here"}), in.Add(File{Name: "gone"})
		gone.Live(false)
		time.Sleep(6 * 24 * time.Hour)
		here.Final(0, 10)
		time.Sleep(time.Second)
		f := func(want string) {
			t.Helper()
			time.Sleep(time.Second)
			if got := frontiers(t, m); got != want {
				t.Errorf("known: %q, want %q", got, want)
			}
		}
		f("here:10 [] gone:0 []")
		time.Sleep(25 * time.Hour)
		here.Final(10, 10)
		f("here:20 []")
		gone.Live(true) // it is back
		gone.Final(0, 5)
		f("here:20 [] gone:5 []")
		s.Close()

		// After eight days of standing still nothing is dropped before the inputs looked.
		time.Sleep(8 * 24 * time.Hour)
		if s, err = open(m, quiet()); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		in = s.Input("in")
		es := in.Begin(all)
		f("here:20 [] gone:5 []")
		es[0].Live(true)
		time.Sleep(2 * time.Hour)
		es[0].Final(20, 1)
		f("here:21 []")

		// Of too many the longest gone go.
		for i := range maxFiles + 10 {
			e := in.Add(File{Name: fmt.Sprint(i)})
			e.live.Store(false)
			e.Set(func(f *File) { f.Seen += int64(i) })
		}
		time.Sleep(time.Minute)
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.entries); n != maxFiles || s.entries[0].file.Name != "here" || s.entries[1].file.Name != "11" {
			t.Errorf("%d files are kept, the first are %s, %s", n, s.entries[0].file.Name, s.entries[1].file.Name)
		}
	})
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	first, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(dir)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Errorf("locked twice: %v", err)
	}
	first.Close()
	second, err := Lock(dir)
	if err != nil {
		t.Fatal("after it was given back:", err)
	}
	second.Close()
	if err := os.Remove(filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a link in place of the lock: %v", err)
	}
}

// A real disk that fails: the slot is opened anew.
func TestSlotReopened(t *testing.T) {
	dir := t.TempDir()
	d := slots{dir: dir, files: new([2]slotFile)}
	d.files[0] = &badFile{}
	if err := d.Write(0, []byte("x")); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v, want EIO and the place", err)
	}
	if err := d.Write(0, []byte("y")); err != nil {
		t.Error(err)
	}
	if b, err := d.Read(0); string(b) != "y" {
		t.Errorf("%q, %v", b, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

type badFile struct{}

func (*badFile) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (*badFile) Sync() error                            { return syscall.EIO }
func (*badFile) Close() error                           { return nil }
