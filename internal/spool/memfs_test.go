package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// memDisk is a directory in memory that knows what a power cut would leave:
// of what was not synced any sectors, in any order, and any creates and
// removes since the last sync of the directory.
type memDisk struct {
	mu    sync.Mutex
	files map[string]*memFile // as the running system sees it
	kept  map[string]*memFile // names that are durable
	held  bool

	// Faults: what is to fail, and when. Guarded by mu.
	room     int64 // bytes that may still be written; negative: any
	syncErr  error // of every file sync
	readErr  error // of every read at or behind readFrom
	readFrom int64
	failSync func(name string) error
	ops      int // writes and syncs so far
	cutAt    int // op at which the power goes; 0: never
	dark     bool
}

type memFile struct {
	now    []byte // as the running system sees it
	synced []byte // as the disk has it
}

var errDark = errors.New("the power is out")

func newMemDisk() *memDisk {
	return &memDisk{files: map[string]*memFile{}, kept: map[string]*memFile{}, room: -1}
}

// op counts one change to the disk; true when the power is out.
func (d *memDisk) op() bool {
	d.ops++
	if d.cutAt > 0 && d.ops >= d.cutAt {
		d.dark = true
	}
	return d.dark
}

// cut is the power cut: it returns what is found afterwards.
func (d *memDisk) cut(r *rand.Rand) *memDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := newMemDisk()
	names := map[string]*memFile{}
	maps.Copy(names, d.kept)
	for _, name := range slices.Sorted(maps.Keys(d.files)) { // creates since: perhaps
		if _, durable := d.kept[name]; !durable && r.IntN(2) == 0 {
			names[name] = d.files[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.kept)) { // removes since: perhaps
		if _, there := d.files[name]; !there && r.IntN(2) == 0 {
			delete(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p := names[name].remains(r)
		after.files[name] = &memFile{now: p, synced: slices.Clone(p)}
		after.kept[name] = after.files[name]
	}
	return after
}

// remains is what a power cut leaves of a file: its length is any between the
// two, each unsynced sector is old, new, or zeros where there was none.
func (f *memFile) remains(r *rand.Rand) []byte {
	const sector = 512
	n := len(f.synced)
	if len(f.now) != n && r.IntN(2) == 0 {
		n = min(n, len(f.now)) + r.IntN(max(n, len(f.now))-min(n, len(f.now))+1)
	}
	if n == len(f.synced) && r.IntN(3) > 0 {
		n = len(f.now)
	}
	p := make([]byte, n)
	copy(p, f.synced)
	for at := 0; at < n; at += sector {
		if r.IntN(2) == 0 && at < len(f.now) {
			copy(p[at:min(n, at+sector)], f.now[at:])
		}
	}
	return p
}

func (d *memDisk) list() ([]fileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []fileInfo
	for name, f := range d.files {
		all = append(all, fileInfo{name: name, size: int64(len(f.now)), mode: 0o600})
	}
	return all, nil
}

func (d *memDisk) create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.op() {
		return nil, errDark
	}
	if d.files[name] != nil {
		return nil, fs.ErrExist
	}
	if d.room == 0 {
		return nil, syscall.ENOSPC
	}
	f := &memFile{}
	d.files[name] = f
	return &memHandle{d, name, f}, nil
}

func (d *memDisk) open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return &memHandle{d, name, f}, nil
}

func (d *memDisk) update(name string) (file, error) {
	d.mu.Lock()
	f := d.files[name]
	d.mu.Unlock()
	if f == nil {
		return d.create(name)
	}
	return &memHandle{d, name, f}, nil
}

func (d *memDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.op() {
		return errDark
	}
	f := d.files[name]
	if f == nil {
		return fs.ErrNotExist
	}
	delete(d.files, name)
	if d.room >= 0 {
		d.room += int64(len(f.now))
	}
	return nil
}

func (d *memDisk) syncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.op() {
		return errDark
	}
	d.kept = maps.Clone(d.files)
	return nil
}

func (d *memDisk) lock() error {
	if d.held {
		return &LockedError{Dir: "memory", PID: 1}
	}
	d.held = true
	return nil
}

func (d *memDisk) unlock() { d.held = false }

func (d *memDisk) set(change func(d *memDisk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

type memHandle struct {
	d    *memDisk
	name string
	f    *memFile
}

func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.readErr != nil && off+int64(len(p)) > h.d.readFrom {
		n := 0
		if off < h.d.readFrom {
			n = copy(p[:h.d.readFrom-off], h.f.now[min(off, int64(len(h.f.now))):])
		}
		return n, h.d.readErr
	}
	if off >= int64(len(h.f.now)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.op() {
		return 0, errDark
	}
	n := len(p)
	grow := max(0, off+int64(n)-int64(len(h.f.now)))
	var err error
	if h.d.room >= 0 && grow > h.d.room {
		n -= int(grow - h.d.room)
		grow, err = h.d.room, syscall.ENOSPC
	}
	if h.d.room >= 0 {
		h.d.room -= grow
	}
	if n <= 0 {
		return 0, err
	}
	if need := off + int64(n); need > int64(len(h.f.now)) {
		h.f.now = append(h.f.now, make([]byte, need-int64(len(h.f.now)))...)
	}
	copy(h.f.now[off:], p[:n])
	return n, err
}

func (h *memHandle) Sync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.op() {
		return errDark
	}
	if h.d.failSync != nil {
		if err := h.d.failSync(h.name); err != nil {
			return err
		}
	}
	if h.d.syncErr != nil {
		return h.d.syncErr
	}
	h.f.synced = slices.Clone(h.f.now)
	return nil
}

func (h *memHandle) Truncate(size int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.op() {
		return errDark
	}
	for int64(len(h.f.now)) < size {
		h.f.now = append(h.f.now, 0)
	}
	if h.d.room >= 0 {
		h.d.room += int64(len(h.f.now)) - size
	}
	h.f.now = h.f.now[:size:size]
	return nil
}

func (h *memHandle) Close() error { return nil }
