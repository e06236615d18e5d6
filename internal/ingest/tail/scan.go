package tail

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
)

// quiet is how long a compressed file must not have changed before it is read:
// what compresses it may still be at work.
const quiet = 2 * time.Second

// searchFor is how long what a file was rotated to is looked for beyond the
// globs. Compressing a large file takes minutes.
const searchFor = 30 * time.Minute

// keepFor is how long a file that is gone is known, so that a copy of it is not
// read again: as long as the checkpoint knows it.
const keepFor = 7 * 24 * time.Hour

// looked is what was found out about a file that is not read, so that it is
// not opened at every look.
type looked struct {
	size int64
	mod  time.Time
	gen  int
	of   *file // it is a copy of this one
}

// scan looks at all files: which are new, grew, were renamed, went away.
func (t *Tail) scan() {
	t.now = time.Now()
	t.rescan = false
	t.scans++
	clear(t.dirs)
	clear(t.names)
	var unknown []place
	seen := map[key]bool{}
	for _, p := range t.find() {
		if seen[p.key] {
			continue // a second name of the same file
		}
		seen[p.key] = true
		if f := t.byKey[p.key]; f != nil {
			t.found(f, p)
			continue
		}
		unknown = append(unknown, p)
	}
	t.takeKept(seen)
	for _, f := range slices.Clone(t.files) {
		if f.attached && f.scan != t.scans {
			t.missing(f)
		}
	}
	unknown = append(unknown, t.siblings(seen)...)
	was := t.looked
	t.looked = make(map[key]looked, len(unknown))
	clear(t.copies)
	for _, p := range unknown {
		l, ok := was[p.key]
		ok = ok && l.size == p.info.Size() && l.mod.Equal(p.info.ModTime())
		if ok && l.gen == t.gen {
			t.looked[p.key] = l
			continue
		}
		if ok && l.of != nil {
			t.copies[p.key] = l.of
		}
		if t.byKey[p.key] == nil {
			t.identify(p, nil)
		}
	}
	t.first = false
	t.sweep()
	t.scanned = time.Now()
	t.lasted = t.scanned.Sub(t.now)
}

// found says that f is at p.
func (t *Tail) found(f *file, p place) {
	f.scan = t.scans
	moved := f.attached && !f.vanished && f.at.path != p.path
	t.attach(f, p)
	if moved {
		t.log.Debug("a file was renamed", "input", t.cfg.Name, "file", p.path, "included_as", f.name)
	}
	t.sized(f, p.info)
}

// sized says that f has so many bytes now.
func (t *Tail) sized(f *file, info fs.FileInfo) {
	size, mod := info.Size(), info.ModTime()
	changed := size != f.size || !mod.Equal(f.mod)
	if size > f.size {
		f.grew = t.now
	}
	f.size, f.mod = size, mod
	switch {
	case f.stuck && size == f.stuckAt && mod.Equal(f.stuckMod):
	case f.done && f.e == nil:
		f.done = !changed
		f.ready = changed
	case f.done && !f.checked:
		f.ready = true
	case f.done:
		if was := f.e.File().Size; size != was {
			f.done, f.ready = false, true
		}
	case f.packed:
		f.stuck, f.ready = false, true
	default:
		f.ready = f.ready || changed || size != f.offset+int64(f.looked) || !f.checked
	}
}

// missing looks for a file that no glob finds any more. Where it cannot be
// found it is read to its end while it is open.
func (t *Tail) missing(f *file) {
	if p, ok := t.whereabouts(f); ok {
		if !f.rotated {
			f.grew = t.now // its writer gets the grace from here on
		}
		t.found(f, p)
		return
	}
	switch {
	case f.f == nil:
		t.detach(f, f.packed && f.u == nil && f.done || !f.packed && f.offset >= f.size)
	case !f.vanished:
		f.vanished, f.ready, f.grew = true, true, t.now
		t.unname(f)
	}
}

// whereabouts finds an attached file under its own name or one that is kin.
func (t *Tail) whereabouts(f *file) (place, bool) {
	here := func(p place) (place, bool) {
		info, err := t.statPlace(&p)
		if err != nil || !info.Mode().IsRegular() || keyOf(info) != f.at.key {
			return p, false
		}
		p.info, p.key, p.included = info, f.at.key, false
		return p, true
	}
	if p, ok := here(f.at); ok {
		return p, true
	}
	if f.vanished {
		return place{}, false
	}
	for _, p := range t.near(&f.at) { // whatever it is called now
		if p, ok := here(p); ok {
			return p, true
		}
	}
	return place{}, false
}

// statPlace looks at a place again.
func (t *Tail) statPlace(p *place) (fs.FileInfo, error) {
	if t.cfg.FollowSymlinks {
		return os.Stat(p.path)
	}
	return t.stat(p.root, p.rel)
}

// near returns all names in a place's directory, not looked at.
func (t *Tail) near(p *place) []place {
	dir, rel := filepath.Dir(p.path), filepath.Dir(p.rel)
	names, ok := t.names[dir]
	if !ok {
		var err error
		if t.cfg.FollowSymlinks {
			var d []os.DirEntry
			d, err = os.ReadDir(dir)
			for _, e := range d {
				names = append(names, e.Name())
			}
		} else {
			names, err = t.list(p.root, rel)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.problem(dir, "cannot read a directory; the others are read", err)
		}
		t.names[dir] = names
	}
	places := make([]place, 0, len(names))
	for _, name := range names {
		places = append(places, place{path: filepath.Join(dir, name), root: p.root, rel: filepath.Join(rel, name)})
	}
	return places
}

// siblings returns what unfinished files may have been rotated to, as far as
// no glob finds it.
func (t *Tail) siblings(seen map[key]bool) []place {
	var found []place
	for _, f := range t.files {
		if f.attached || f.done || f.e == nil || !t.searched(f) {
			continue
		}
		at, ok := t.placeOf(f)
		if !ok {
			continue
		}
		for _, p := range t.near(&at) {
			// By its inode it is known under any name; that is looked for once.
			k := max(kin(p.path, f.name), kin(p.path, at.path))
			if k == stranger && f.sought {
				continue
			}
			info, err := t.statPlace(&p)
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			p.info, p.key = info, keyOf(info)
			if g := t.byKey[p.key]; g != nil && (g != f || g.attached) || seen[p.key] {
				continue
			} else if g == f { // known by its inode since the last run
				seen[p.key] = true
				t.found(f, p)
				break
			}
			if k != stranger {
				seen[p.key] = true
				found = append(found, p)
			}
		}
		f.sought = true
	}
	return found
}

// searched tells whether the rest of f is still looked for.
func (t *Tail) searched(f *file) bool {
	if !t.cfg.Follow || t.now.Sub(f.since) < searchFor {
		return t.includes(f.name)
	}
	return false
}

// placeOf returns where a file was in an earlier run.
func (t *Tail) placeOf(f *file) (place, bool) {
	if f.at.root != nil {
		return f.at, true
	}
	path := f.at.path
	var best *root
	for dir, r := range t.roots {
		rel, err := filepath.Rel(dir, path)
		if err == nil && !strings.HasPrefix(rel, "..") && (best == nil || len(dir) > len(best.dir)) {
			best = r
			f.at.rel = rel
		}
	}
	if best == nil {
		return place{}, false
	}
	f.at.root, f.at.rel = best, strings.TrimPrefix(strings.TrimPrefix(path, best.dir), "/")
	return f.at, true
}

// identify finds out what a file is that was not seen before: the rest of a
// known one, a copy of one that is still read, or a new one. except is none of
// them. It returns the file that is at p now, nil when none is read there.
func (t *Tail) identify(p place, except *file) *file {
	h, err := t.open(&p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		if p.included {
			t.problem(p.path, "cannot open a file; the others are read", err)
		}
		return nil
	}
	defer h.Close()
	return t.identifyOpen(p, h, except)
}

// identifyOpen is identify for a file that is open. h stays the caller's.
func (t *Tail) identifyOpen(p place, h *os.File, except *file) *file {
	head := make([]byte, headLen)
	n, err := h.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		t.problem(p.path, "cannot read a file; the others are read", err)
		return nil
	}
	head = head[:n]
	kind := formatOf(head)
	if kind != nil {
		if wait := t.quiet - time.Since(p.info.ModTime()); t.cfg.Follow && wait > 0 && wait <= t.quiet {
			if t.fromEnd && t.first {
				t.early[p.key] = true
			}
			return nil
		}
		if head, err = packedHead(h); err != nil {
			t.lookedAt(&p)
			if p.included {
				t.problem(p.path, "cannot read a compressed file; the others are read", err)
			}
			return nil
		}
	}
	if p.included {
		t.well(p.path)
	}
	if len(head) > 0 {
		g, isCopy := t.relative(&p, h, head, kind != nil, except)
		switch {
		case isCopy:
			t.looked[p.key] = looked{p.info.Size(), p.info.ModTime(), t.gen, g}
			return nil
		case g != nil && kind != nil:
			return t.add(&file{name: p.as, packed: true, claim: g}, p)
		case g != nil:
			t.adopt(g, p, head)
			return g
		}
	}
	if !p.included {
		t.lookedAt(&p)
		return nil
	}
	f := &file{name: p.as, packed: kind != nil, head: head, size: p.info.Size(), mod: p.info.ModTime()}
	if f.packed && len(head) == 0 {
		f.done = true
	} else if t.fromEnd && (t.first || t.early[p.key]) {
		t.startAtEnd(f, h)
	}
	f.f = h
	f.at = p
	t.known(f)
	f.f = nil
	if f.e != nil {
		f.remember()
	}
	return t.add(f, p)
}

// add takes a file in.
func (t *Tail) add(f *file, p place) *file {
	f.grew = t.now
	t.files = append(t.files, f)
	t.found(f, p)
	f.ready = !f.done
	return f
}

func (t *Tail) lookedAt(p *place) {
	t.looked[p.key] = looked{p.info.Size(), p.info.ModTime(), t.gen, nil}
}

// startAtEnd leaves out what is in a file already, up to its last LF.
func (t *Tail) startAtEnd(f *file, h *os.File) {
	if f.packed {
		f.done = true
		return
	}
	b := t.buf[:min(int64(len(t.buf)), f.size)]
	at := f.size - int64(len(b))
	if readAll(h, b, at) == nil {
		f.offset = at + int64(bytes.LastIndexByte(b, '\n')+1)
	}
}

// relative returns the known file whose rest h is, or says that h is a copy of
// one that is still read where it was.
func (t *Tail) relative(p *place, h *os.File, head []byte, packed bool, except *file) (g *file, isCopy bool) {
	var able []*file
	for _, g := range t.files {
		if g == except || g.e == nil || g.claim != nil || g.attached && !alike(g.head, head) {
			continue
		}
		was := g.e.File()
		near := max(kin(p.path, g.name), kin(p.path, was.Path))
		inode := !packed && !g.packed && was.Inode == p.key.inode
		if near != stranger || inode {
			able = append(able, g)
		}
	}
	slices.SortStableFunc(able, func(a, b *file) int {
		return cmp.Compare(b.e.File().Head.Len, a.e.File().Head.Len)
	})
	for _, g := range able {
		if g.attached && (g.vanished || t.stillThere(g)) {
			if t.isCopy(g, p, h, head, packed) {
				return g, true
			}
			if g.vanished || t.stillThere(g) { // else it was truncated while it was compared
				continue
			}
		}
		if !packed && t.copies[p.key] == g && p.info.Size() < g.offset {
			return g, false // made before the last lines were read, it was seen then
		}
		if t.isRest(g, p, h, head, packed) {
			return g, false
		}
	}
	return nil, false
}

// alike compares the first bytes, where both are known: cheap, for with many
// files it is done for each two of them.
func alike(a, b []byte) bool {
	n := min(len(a), len(b), 64)
	return bytes.Equal(a[:n], b[:n])
}

// stillThere tells whether an attached file has still its own bytes. When not,
// it is detached.
func (t *Tail) stillThere(g *file) bool {
	if g.packed {
		return true
	}
	err := t.openFile(g)
	if err == nil {
		err = t.intact(g)
	}
	if errors.Is(err, errChanged) {
		t.split(g)
		return false
	}
	return true
}

// intact compares what an open file has with what was read of it.
func (t *Tail) intact(f *file) error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	if f.shorter(info.Size()) {
		return errChanged
	}
	if f.e == nil {
		return nil
	}
	if err := t.extend(f); err != nil {
		return err
	}
	if n := len(f.tail); n > 0 && !f.done {
		var b [tailLen]byte
		switch err := readAll(f.f, b[:n], f.offset-int64(n)); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // truncated since it was looked at
			return errChanged
		case err != nil:
			return err
		}
		if !bytes.Equal(b[:n], f.tail) {
			return errChanged
		}
	}
	return nil
}

// isCopy tells whether h is what the open file g begins with: somebody copies
// it, to truncate or remove it then.
func (t *Tail) isCopy(g *file, p *place, h *os.File, head []byte, packed bool) bool {
	if g.packed || g.f == nil {
		return false
	}
	near := max(kin(p.path, g.name), kin(p.path, g.at.path))
	if near == stranger || near == cousin && len(head) < headLen {
		return false
	}
	b := make([]byte, len(head))
	if readAll(g.f, b, 0) != nil || !bytes.Equal(b, head) {
		return false
	}
	if packed {
		return true
	}
	size := p.info.Size()
	end := make([]byte, len(head))
	return readAll(h, end, size-int64(len(end))) == nil && readAll(g.f, b, size-int64(len(end))) == nil && bytes.Equal(b, end)
}

// isRest tells whether h, or what is in it, is what the detached file g was.
func (t *Tail) isRest(g *file, p *place, h *os.File, head []byte, packed bool) bool {
	was := g.e.File()
	near := max(kin(p.path, g.name), kin(p.path, was.Path))
	if was.Head.Len > len(head) && len(head) <= len(g.head) {
		// A short copy, made before the last lines were read.
		return near == brother && bytes.Equal(head, g.head[:len(head)])
	}
	if was.Head.Len == 0 || was.Head.Len > len(head) || !was.Head.Is(head[:was.Head.Len]) {
		return false
	}
	full := was.Head.Len == headLen
	if packed {
		return near == brother || near == cousin && full || near == same && g.packed
	}
	size := p.info.Size()
	tailed := was.Tail.Len > 0 && size >= was.Tail.End
	if ok, err := isMarked(h, was.Head, was.Tail, size); err != nil || !ok {
		return false
	}
	switch {
	case was.Inode == p.key.inode && size >= g.offset && (was.Tail.Len == 0 || tailed):
		b := born(h) // the number of the device changed, or it comes back from elsewhere
		return b == 0 || was.Born == 0 || b == was.Born
	case near == brother:
		return true
	case near == cousin:
		return full || tailed
	case near == same: // a new file that begins alike is likelier than a copy
		return full && tailed && was.Tail.End > headLen+tailLen
	}
	return false
}

// adopt goes on reading g where its bytes are now.
func (t *Tail) adopt(g *file, p place, head []byte) {
	t.log.Info("a known file was found again", "input", t.cfg.Name, "file", p.path, "known_as", g.name)
	if p.info.Size() < g.offset { // the copy was made before the last lines were read
		g.done = true
		g.e.Set(func(c *checkpoint.File) {
			c.Size, c.Done = p.info.Size(), true
			if len(head) < c.Head.Len { // it is to be known by what is there
				c.Head = checkpoint.MarkOf(int64(len(head)), head)
			}
		})
	}
	g.checked, g.packed = false, false
	g.e.Set(func(c *checkpoint.File) { c.Born = 0 })
	t.found(g, p)
	g.ready = !g.done
}

// sweep forgets files that give nothing more and that nothing can be the rest of.
func (t *Tail) sweep() {
	t.files = slices.DeleteFunc(t.files, func(f *file) bool {
		return !f.attached && (f.e == nil || t.now.Sub(f.since) > keepFor)
	})
	if t.cfg.Follow {
		for _, f := range t.files {
			t.lost(f, 10*time.Second)
		}
	}
}

// lost tells of a file that went away before it was read to its end.
func (t *Tail) lost(f *file, after time.Duration) {
	if f.attached || f.done || f.told || f.e == nil || f.packed || f.size <= f.offset || t.now.Sub(f.since) < after || !t.includes(f.name) {
		return
	}
	f.told = true
	t.errors.Add(1)
	t.log.Error("a file is gone that was not read to its end; it is read on when it comes back, or beside it what it was rotated to",
		"input", t.cfg.Name, "file", f.name, "read", f.offset, "of", f.size)
}
