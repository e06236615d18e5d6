package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

const (
	readAhead = 128 << 10 // of a walk that reads records
	readHeads = 4 << 10   // of one that passes over them
	page      = 4 << 10   // what a disk that cannot read loses at once
)

// walker goes through a segment frame by frame. Where no valid frame begins it
// looks for the next one, so that damage costs the frame it is in.
//
// Ownership: a frame points into the walker's buffer, until the next call.
// Concurrency: one goroutine.
type walker struct {
	f    io.ReaderAt
	size int64 // bytes of the file that may be read
	off  int64 // of the next frame
	win  []byte
	at   int64 // of win in the file
	fine bool  // the segment's head was good
	head segmentHead
	step int   // how much to read at once
	err  error // the disk's, where it could not be read: those bytes read as zeros
	cur  frameHead
}

// start begins at the segment's head.
// Errors: *VersionError alone; a damaged head is only noted.
func (w *walker) start(f io.ReaderAt, size int64, name string) error {
	*w = walker{f: f, size: size, win: w.win[:0], step: readHeads}
	p := w.see(0, readHeads)
	if n, err := parsePrefix(p, segmentMagic, name); err == nil && n > len(p) {
		p = w.see(0, min(n, maxHead))
	}
	n, err := w.head.parse(p, name)
	var v *VersionError
	if errors.As(err, &v) {
		return err
	}
	if err == nil {
		w.fine, w.off = true, int64(n)
	}
	return nil
}

// see returns up to n bytes of the file at off, fewer only where it ends.
func (w *walker) see(off int64, n int) []byte {
	if left := w.size - off; int64(n) > left {
		n = int(max(0, left))
	}
	if off >= w.at && off+int64(n) <= w.at+int64(len(w.win)) {
		return w.win[off-w.at:][:n]
	}
	want := int(min(int64(max(n, w.step)), w.size-off))
	if cap(w.win) < want {
		w.win = make([]byte, want)
	}
	w.win, w.at = w.win[:want], off
	got, err := w.f.ReadAt(w.win, off)
	if got < want {
		if err == nil || errors.Is(err, io.EOF) {
			w.win, w.size = w.win[:got], off+int64(got) // it is shorter than it was
		} else {
			w.salvage(got, err)
		}
	}
	return w.win[:min(n, len(w.win))]
}

// salvage reads what can be read of a window, page by page; what cannot is
// zeros, and so damage.
func (w *walker) salvage(from int, err error) {
	w.err = err
	for i := from; i < len(w.win); i += page {
		p := w.win[i:min(i+page, len(w.win))]
		if n, err := w.f.ReadAt(p, w.at+int64(i)); n < len(p) && err != nil {
			clear(p[n:])
		}
	}
}

// next moves to the next frame with a good head, which is in w.cur. torn is
// where damage before it began, -1 for none. Without one it returns false, at
// the end of the file.
func (w *walker) next() (torn int64, ok bool) {
	torn = -1
	for w.off < w.size {
		p := w.see(w.off, headSize)
		if w.cur.parse(p) && w.off+int64(w.cur.length) <= w.size {
			return torn, true
		}
		if torn < 0 {
			torn = w.off
		}
		w.scan()
	}
	return torn, false
}

var frameStart = binary.LittleEndian.AppendUint32(nil, frameMagic)

// scan moves to the next place where a frame may begin.
func (w *walker) scan() {
	w.off++
	for w.off < w.size {
		var p []byte
		if in := w.off - w.at; in >= 0 && in+int64(len(frameStart)) <= int64(len(w.win)) {
			p = w.win[in:] // never read what is there again, however many false starts it has
		} else {
			p = w.see(w.off, readAhead)
		}
		if i := bytes.Index(p, frameStart); i >= 0 {
			w.off += int64(i)
			return
		}
		if w.off+int64(len(p)) >= w.size {
			break
		}
		w.off += int64(max(1, len(p)-len(frameStart)+1))
	}
	w.off = w.size
}

// topic returns the name of the current frame's topic, not yet checked.
func (w *walker) topic() []byte {
	p := w.see(w.off, headSize+w.cur.topic)
	return p[min(headSize, len(p)):]
}

// load reads the current frame whole. It stays the current one.
// Errors: errDamage.
func (w *walker) load() (frame, error) {
	w.step = readAhead
	f := frame{frameHead: w.cur, p: w.see(w.off, w.cur.length)}
	if len(f.p) < f.length || !f.check() {
		return f, errDamage
	}
	return f, nil
}

// skip moves behind the current frame.
func (w *walker) skip() { w.off += int64(w.cur.length) }

// release gives the buffer back: a walk that ends need not hold it.
func (w *walker) release() { w.win = nil }

// readFooter reads the footer at the end of a segment.
// Errors: errDamage, also when there is none; the disk's.
func readFooter(f io.ReaderAt, size int64) (t footer, at int64, err error) {
	var tail [tailSize]byte
	if size < headSize+tailSize {
		return t, 0, errDamage
	}
	if _, err := f.ReadAt(tail[:], size-tailSize); err != nil {
		return t, 0, err
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if binary.LittleEndian.Uint32(tail[4:]) != footerMagic || n < headSize+tailSize || n > size || n > maxFooter {
		return t, 0, errDamage
	}
	p := make([]byte, n)
	if _, err := f.ReadAt(p, size-n); err != nil {
		return t, 0, err
	}
	fr := frame{p: p}
	if !fr.parse(p) || int64(fr.length) != n {
		return t, 0, errDamage
	}
	return t, size - n, t.parse(&fr)
}

// maxFooter is the longest footer: maxTopics names of 64 KiB would be more, but
// a topic's name is 249 characters.
const maxFooter = 1 << 20
