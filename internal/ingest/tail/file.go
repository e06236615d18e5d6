package tail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
	"github.com/produce-agent/produce-agent/internal/record"
)

// By the first KiB a file is known again, by the last bytes read that what was
// read is still what is in front of the rest.
const (
	headLen = 1 << 10
	tailLen = 1 << 10
)

// file is one generation of one file: what is truncated and written anew is
// another file from then on.
//
// Concurrency: the Tail's goroutine.
type file struct {
	e    *checkpoint.Entry // nil while the file is empty
	from *origin           // nil until it is read
	name string            // the path it was included by

	at       place     // where it is, when attached
	attached bool      // it is at its place
	checked  bool      // its bytes were compared with what is remembered
	rotated  bool      // no glob finds it where it is now
	vanished bool      // its place is empty, or another one's; f may still read it
	done     bool      // read to its end, nothing more is to come
	since    time.Time // when it was lost
	scan     int       // the last look that found it
	except   *file     // what was at its place before
	mod      time.Time // when it was changed, at the last look

	f      *os.File // nil: closed
	head   []byte   // its first bytes, up to headLen
	tail   []byte   // the last bytes before offset, up to tailLen; nil: not known
	offset int64    // read up to here; a record begins here, or goes on
	looked int      // bytes behind offset that were looked at
	seen   int      // so many of these are lines that end no record
	mid    bool     // these end in the middle of a line of a multiline record
	past   int64    // bytes of an over-long record in front of offset; 0: none
	top    int64    // above it nothing was final when the agent started
	size   int64    // when last looked at
	grew   time.Time
	ready  bool // there may be bytes to read
	fresh  bool // a new generation of a file that was truncated

	packed   bool // compressed; offset counts what is in it
	u        *unpacker
	claim    *file // an older file that this one is the rest of, if its bytes say so
	sought   bool  // by its inode, in all of its directory
	told     bool  // that it was lost
	stuck    bool  // cannot be read on until it changes
	stuckAt  int64 // its size then
	stuckMod time.Time
}

// origin is a file as those see it who settle its records.
//
// Concurrency: any goroutine.
type origin struct {
	t       *Tail
	e       *checkpoint.Entry
	name    string
	src     int32
	id      []byte       // what its record ids begin with
	pending atomic.Int64 // records not settled, and one while the file may give more
}

var _ ingest.Origin = (*origin)(nil)

// Where implements ingest.Origin.
func (o *origin) Where(pos record.Position) (string, int64) { return o.name, pos.Offset }

// Delivered implements ingest.Origin.
func (o *origin) Delivered(pos []record.Position) {
	o.e.FinalAll(pos)
	o.settled(int64(len(pos)))
}

// Buffered implements ingest.Origin.
func (o *origin) Buffered(pos []record.Position) { o.Delivered(pos) }

// Rejected implements ingest.Origin.
func (o *origin) Rejected(pos record.Position, _ int, _ string) {
	o.e.Final(pos.Offset, int64(pos.Len))
	o.settled(1)
}

// Refused implements ingest.Origin. The Sink of files waits instead, so this is
// for a run that ends: the records stay open, and are read by the next one.
func (o *origin) Refused(pos []record.Position, why error) {
	if o.t.refused.Add(int64(len(pos))) == int64(len(pos)) {
		o.t.log.Warn("records of a file were given up; they are read again after a restart", "file", o.name, "error", why)
	}
	o.settled(int64(len(pos)))
}

// settled gives the number of the source back when nothing has it any more.
func (o *origin) settled(n int64) {
	if o.pending.Add(-n) == 0 {
		o.t.reg.Release(o.src)
	}
}

// register makes f a source.
func (t *Tail) register(f *file) {
	if f.from != nil {
		return
	}
	o := &origin{t: t, e: f.e, name: f.name}
	o.id = fmt.Appendf(nil, "%016x:", f.e.File().ID)
	o.pending.Store(1)
	o.src = t.reg.Register(o)
	f.from = o
}

// retire says that f gives no more records.
func (f *file) retire() {
	if f.from != nil {
		f.from.settled(1)
		f.from = nil
	}
}

// openFile makes sure that f is open, and that it is what it was. Others are
// closed where too many are open.
//
// Errors: errChanged, or why it cannot be opened.
func (t *Tail) openFile(f *file) error {
	if f.f != nil {
		return nil
	}
	if !t.makeRoom(f) {
		return errTooMany
	}
	h, err := t.open(&f.at)
	if err != nil {
		return err
	}
	f.f = h
	t.opened++
	if err := t.check(f); err != nil {
		t.closeFile(f)
		return err
	}
	return nil
}

var (
	errChanged = errors.New("its bytes are not those that were read")
	errTooMany = errors.New("max_open files are open, and all of them are being read")
)

func (t *Tail) closeFile(f *file) {
	if f.u != nil {
		f.u.close()
		f.u = nil
		if t.unpacking == f {
			t.unpacking = nil
		}
		f.rewind()
	}
	if f.f != nil {
		f.f.Close()
		f.f = nil
		t.opened--
	}
}

// rewind goes back to where the record begins that was being read.
func (f *file) rewind() {
	f.offset -= f.past
	if f.past > 0 {
		f.tail = nil
	}
	f.past, f.looked, f.seen, f.mid = 0, 0, 0, false
}

// makeRoom closes the file that was quiet for longest until one more may be
// opened. One that could not be opened again stays open.
func (t *Tail) makeRoom(want *file) bool {
	for t.opened >= t.limit {
		var oldest *file
		for _, f := range t.files {
			if f.f == nil || f == want || f.vanished || f.rotated {
				continue
			}
			if oldest == nil || !f.ready && oldest.ready || f.ready == oldest.ready && f.grew.Before(oldest.grew) {
				oldest = f
			}
		}
		if oldest == nil {
			return false
		}
		t.closeFile(oldest)
	}
	return true
}

// check compares an open file with what is remembered of it.
//
// Errors: errChanged, or why it cannot be read.
func (t *Tail) check(f *file) error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	f.at.info = info
	if f.e == nil || f.checked && f.packed {
		return nil
	}
	if f.packed {
		return t.checkPacked(f)
	}
	was := f.e.File()
	if b := born(f.f); b != 0 && was.Born != 0 && b != was.Born && f.at.key == (key{was.Dev, was.Inode}) {
		return errChanged
	}
	if f.shorter(info.Size()) {
		return errChanged
	}
	ok, err := isMarked(f.f, was.Head, was.Tail, info.Size())
	if err == nil && !ok {
		err = errChanged
	}
	if err == nil && !f.checked {
		f.checked = true
		f.head, f.tail = make([]byte, was.Head.Len), nil
		err = readAll(f.f, f.head, 0)
	}
	return err
}

// shorter tells whether a file of so many bytes lacks some that were read. What
// is done may be a copy that was made before the last lines were read.
func (f *file) shorter(size int64) bool {
	return size < f.offset && (!f.done || f.e == nil || size != f.e.File().Size)
}

// isMarked tells whether r, of size bytes, has what head and tail say. A file
// shorter than up to the tail may be an older copy.
func isMarked(r io.ReaderAt, head, tail checkpoint.Mark, size int64) (bool, error) {
	var b [headLen]byte
	for _, m := range []checkpoint.Mark{head, tail} {
		if m.Len > len(b) || m.Len < 0 {
			return false, nil
		}
		if m.Len == 0 || m.End > size && m == tail {
			continue
		}
		err := readAll(r, b[:m.Len], m.End-int64(m.Len))
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !m.Is(b[:m.Len]) {
			return false, nil
		}
	}
	return true, nil
}

// readAll fills b from offset on.
//
// Errors: io.ErrUnexpectedEOF when the file ends before.
func readAll(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// extend takes more of a growing file's first bytes in, after comparing those
// that are known. It reads them from the file, so that it sees a truncation
// that happened before now.
//
// Errors: errChanged, or why it cannot be read.
func (t *Tail) extend(f *file) error {
	n, err := f.f.ReadAt(t.headBuf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	b := t.headBuf[:n]
	if n < len(f.head) || !bytes.Equal(b[:len(f.head)], f.head) {
		return errChanged
	}
	if n > len(f.head) {
		f.head = append(f.head, b[len(f.head):]...)
	}
	return nil
}

// known makes the entry of a file that has bytes now.
func (t *Tail) known(f *file) {
	if f.e != nil || len(f.head) == 0 {
		return
	}
	e := t.in.Add(checkpoint.File{
		Name: f.name, Path: f.at.path, Dev: f.at.key.dev, Inode: f.at.key.inode, Born: born(f.f), Size: f.size, Packed: f.packed,
		Head: checkpoint.MarkOf(int64(len(f.head)), f.head),
	})
	if f.offset > 0 {
		e.Skip(0, f.offset)
	}
	f.e = e
	f.checked = true
	t.entries = append(t.entries, e)
	t.save = true
}

// remember tells the checkpoint where reading is.
func (f *file) remember() {
	f.e.Set(func(c *checkpoint.File) {
		if len(f.head) > c.Head.Len && !f.packed && !f.done {
			c.Head = checkpoint.MarkOf(int64(len(f.head)), f.head)
		}
		if len(f.tail) > 0 && f.offset > c.Tail.End {
			c.Tail = checkpoint.MarkOf(f.offset, f.tail)
		}
		c.Size, c.Done = f.size, f.done
	})
}

// attach says where f is.
func (t *Tail) attach(f *file, p place) {
	if f.attached && f.at.key != p.key {
		delete(t.byKey, f.at.key)
	}
	if f.at.path != p.path {
		t.unname(f)
		t.byPath[p.path] = f
	}
	moved := !f.attached || f.at.path != p.path || f.at.key != p.key
	f.at, f.attached, f.vanished, f.rotated = p, true, false, !p.included
	t.byKey[p.key] = f
	t.byPath[p.path] = f
	if p.included && kin(p.as, f.name) == stranger {
		f.name = p.as
	}
	if f.e == nil {
		return
	}
	f.e.Live(true)
	if moved {
		f.e.Set(func(c *checkpoint.File) {
			c.Name, c.Path, c.Dev, c.Inode, c.Packed = f.name, p.path, p.key.dev, p.key.inode, f.packed
		})
	}
}

func (t *Tail) unname(f *file) {
	if t.byPath[f.at.path] == f {
		delete(t.byPath, f.at.path)
	}
}

// detach says that f is nowhere, for as much as is known.
func (t *Tail) detach(f *file, done bool) {
	t.closeFile(f)
	t.unname(f)
	if t.byKey[f.at.key] == f {
		delete(t.byKey, f.at.key)
	}
	t.gen++
	f.attached, f.vanished, f.ready, f.done = false, false, false, f.done || done
	f.since = t.now
	f.rewind()
	f.retire()
	if f.e == nil {
		f.done = true
		return
	}
	f.remember()
	f.e.Live(false)
}

// split ends the generation that f is, whose place has other bytes now, and
// begins another one there.
func (t *Tail) split(f *file) {
	at, vanished := f.at, f.vanished
	t.detach(f, false)
	t.rescan = true // for the copy of the old one
	if vanished {
		return
	}
	g := t.identify(at, f)
	if g != nil && g.e != f.e {
		g.fresh, g.except = true, f
		t.log.Info("a file was truncated or replaced in place; it is read from its beginning", "input", t.cfg.Name, "file", at.path)
	}
}

// problem tells of something once, until it is well again. Without an error it
// is a note, no error.
func (t *Tail) problem(path, what string, err error) {
	text := what
	if err != nil {
		text = err.Error()
	}
	if t.problems[path] == text {
		return
	}
	if len(t.problems) > 10_000 {
		clear(t.problems)
	}
	t.problems[path] = text
	if err == nil {
		t.log.Warn(what, "input", t.cfg.Name, "file", path)
		return
	}
	t.errors.Add(1)
	if errors.Is(err, fs.ErrPermission) {
		what += "; let the agent's user read it"
	}
	if (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && !strings.Contains(what, "raise") {
		what += "; raise the limit of open files"
	}
	t.log.Error(what, "input", t.cfg.Name, "file", path, "error", err)
}

func (t *Tail) well(path string) {
	if len(t.problems) > 0 {
		delete(t.problems, path)
	}
}
