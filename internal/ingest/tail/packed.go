package tail

import (
	"errors"
	"io"
	"os"

	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
)

// turnPacked is turn for a compressed file. One is read at a time: each has a
// window to be kept.
func (t *Tail) turnPacked(f *file) (int, error) {
	if t.unpacking != nil && t.unpacking != f && t.unpacking.u != nil {
		return 0, nil // it stays ready
	}
	if f.u == nil {
		u, err := newUnpacker(f.f, readBuffer)
		if err != nil {
			return 0, err
		}
		f.u, t.unpacking = u, f
	}
	u := f.u
	err := u.read()
	if f.claim != nil {
		return 1, t.verify(f, err)
	}
	if err == nil && u.at+int64(u.fill) <= f.offset { // known already
		u.drop(u.fill)
		return 1, nil
	}
	if u.at < f.offset && u.fill > 0 {
		u.drop(int(min(f.offset-u.at, int64(u.fill))))
	}
	got := u.fill
	if err != nil && !errors.Is(err, io.EOF) {
		if _, cerr := t.cutPacked(f, false); cerr != nil {
			return got, cerr
		}
		return got, err
	}
	if _, cerr := t.cutPacked(f, err != nil); cerr != nil {
		return got, cerr
	}
	if err != nil {
		t.finish(f)
		return got, nil
	}
	t.roomPacked(f)
	return max(got, 1), nil
}

// cutPacked hands on what is in the unpacker's buffer.
func (t *Tail) cutPacked(f *file, end bool) (int, error) {
	u := f.u
	if u.fill == 0 && f.past == 0 {
		return 0, nil
	}
	if f.offset > u.at { // the file is shorter than it was when it was read
		return 0, nil
	}
	used, err := t.cut(f, u.buf[:u.fill], end, end)
	if err != nil {
		return used, err
	}
	t.advance(f, u.buf[:used])
	u.drop(used)
	return used, nil
}

// roomPacked makes sure that there is place to read into.
func (t *Tail) roomPacked(f *file) {
	u := f.u
	if u.fill < len(u.buf) {
		return
	}
	if len(u.buf) <= t.cfg.MaxRecordBytes {
		grown := make([]byte, 2*len(u.buf))
		copy(grown, u.buf[:u.fill])
		u.buf = grown
		return
	}
	f.past += int64(u.fill)
	f.offset += int64(u.fill)
	f.looked, f.seen, f.mid, f.tail = 0, 0, false, nil
	u.drop(u.fill)
}

// finish says that a compressed file is read.
func (t *Tail) finish(f *file) {
	f.done, f.ready = true, false
	t.closeFile(f)
	f.remember()
	f.retire()
}

// verify reads a compressed file up to where the one it may be the rest of was
// read, and compares. It ends with the claim made good or given up.
func (t *Tail) verify(f *file, err error) error {
	u, g := f.u, f.claim
	was := g.e.File()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	at := f.at
	if end := u.at + int64(u.fill); end < was.Tail.End && err == nil {
		if keep := u.fill - tailLen; keep > 0 {
			u.drop(keep)
		}
		return nil
	} else if good := end < was.Tail.End || was.Tail.Len == 0 || u.has(was.Tail); good && !g.attached {
		t.detach(f, true)
		g.packed, g.checked, g.stuck = true, true, false
		g.tail = nil
		if end < was.Tail.End { // made before the last lines were read
			g.done = true
		}
		t.log.Info("a known file was found again, compressed", "input", t.cfg.Name, "file", at.path, "known_as", g.name)
		t.found(g, at)
		g.ready = !g.done
		g.remember()
		return nil
	}
	// It only begins alike.
	t.closeFile(f)
	f.claim = nil
	if !at.included {
		f.done, f.ready = true, false
		return nil
	}
	h, err := t.open(&at)
	if err != nil {
		return err
	}
	defer h.Close()
	if f.head, err = packedHead(h); err != nil {
		return err
	}
	f.f = h
	t.known(f)
	f.f = nil
	return nil
}

// has tells whether what m marks ends in buf and is what was marked.
func (u *unpacker) has(m checkpoint.Mark) bool {
	to := m.End - u.at
	from := to - int64(m.Len)
	return from >= 0 && to <= int64(u.fill) && m.Is(u.buf[from:to])
}

// packedHead returns the first bytes of what is in a compressed file.
func packedHead(h *os.File) ([]byte, error) {
	u, err := newUnpacker(h, headLen)
	if err != nil {
		return nil, err
	}
	defer u.close()
	for u.fill < headLen {
		err := u.read()
		if errors.Is(err, io.EOF) || err != nil && u.fill > 0 { // what is there of a damaged one is read
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return u.buf[:u.fill], nil
}

// checkPacked compares what is in a compressed file with what is remembered.
func (t *Tail) checkPacked(f *file) error {
	head, err := packedHead(f.f)
	if err != nil {
		return err
	}
	was := f.e.File()
	if was.Head.Len > len(head) || !was.Head.Is(head[:was.Head.Len]) {
		return errChanged
	}
	f.checked, f.head = true, head
	return nil
}
