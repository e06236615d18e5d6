package tail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// readBuffer is one read, and one file's turn: as in ingest.Reader.
const readBuffer = 256 << 10

// turn reads f once and hands on whole records. got is how many bytes that was;
// with none, f is not ready any more.
//
// Errors: the Router's, which end the input. What is wrong with f is told of.
func (t *Tail) turn(f *file) (got int, err error) {
	err = t.openFile(f)
	if err == nil {
		switch {
		case f.e == nil && f.claim == nil && !f.done:
			t.again(f)
			return 0, nil
		case f.done:
			f.ready = false
			t.closeFile(f)
			return 0, nil
		case f.packed:
			got, err = t.turnPacked(f)
		default:
			got, err = t.turnPlain(f)
		}
	}
	t.bytes.Add(int64(got))
	var stop *routerError
	switch {
	case err == nil:
		if got > 0 && !f.packed {
			t.well(f.at.path)
		}
		return got, nil
	case errors.As(err, &stop):
		return got, stop.err
	case errors.Is(err, errChanged):
		t.split(f)
	case errors.Is(err, fs.ErrNotExist): // the next look finds out
		f.ready, t.rescan = false, true
	default:
		t.fault(f, err)
	}
	return got, nil
}

// routerError is an error that ends the input.
type routerError struct{ err error }

func (e *routerError) Error() string { return e.err.Error() }

// fault tells of a file that cannot be read. It is tried again at a later look.
func (t *Tail) fault(f *file, err error) {
	f.ready = false
	if f.packed {
		f.stuck, f.stuckAt, f.stuckMod = true, f.size, f.mod
	}
	t.closeFile(f)
	t.problem(f.at.path, "cannot read a file; the others are read", err)
}

// again finds out what a file is that was empty when it was first seen.
func (t *Tail) again(f *file) {
	info, err := f.f.Stat()
	if err != nil || info.Size() == 0 {
		f.ready = false
		t.closeFile(f)
		if f.vanished {
			t.detach(f, true)
		}
		return
	}
	at, except, fresh := f.at, f.except, f.fresh
	t.detach(f, true)
	if g := t.identify(at, except); g != nil && g.e != nil {
		g.fresh, g.except = fresh, except
	}
}

// turnPlain is turn for a file that is not compressed.
func (t *Tail) turnPlain(f *file) (int, error) {
	if f.top > 0 {
		t.jump(f)
	}
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	f.at.info = info
	t.measure(f, info.Size())
	if info.Size() < f.offset {
		return 0, errChanged
	}
	if info.Size() < f.offset+int64(f.looked) {
		f.looked, f.seen, f.mid = 0, 0, false
	}
	if f.seen >= readBuffer {
		return t.lookAhead(f)
	}
	n, err := t.fill(f, f.offset, min(info.Size()-f.offset, readBuffer))
	if err != nil {
		return 0, err
	}
	if n <= f.looked {
		return 0, t.atEnd(f)
	}
	if f.fresh {
		f.fresh = false
		if skipped := t.hole(f, t.buf[:n]); skipped > 0 {
			return 1, nil
		}
	}
	fresh := n - f.looked
	data := t.buf[:n]
	used, err := t.cut(f, data, false, false)
	if err != nil {
		return fresh, err
	}
	t.advance(f, data[:used])
	f.ready = t.hasMore(f)
	return fresh, nil
}

// hasMore tells whether f is to have another turn: when it does not grow any
// more, it is one that finds so.
func (t *Tail) hasMore(f *file) bool { return f.offset+int64(f.looked) < f.size || !t.cfg.Follow }

// measure notes how large f is now.
func (t *Tail) measure(f *file, size int64) {
	if size > f.size {
		f.grew = time.Now()
	}
	f.size = size
}

// jump leaves out what is final already.
func (t *Tail) jump(f *file) {
	if f.offset >= f.top {
		f.top = 0
		return
	}
	if end, ok := f.e.Done(f.offset); ok && end > f.offset && end <= f.size && f.past == 0 {
		f.offset, f.looked, f.seen, f.mid, f.tail = end, 0, 0, false, nil
	}
}

// fill reads up to n bytes at offset into buf, and makes sure that they are of
// this generation: the bytes before them and the first of the file are what
// they were, after the reading.
//
// Errors: errChanged, or why it cannot be read.
func (t *Tail) fill(f *file, offset, n int64) (int, error) {
	got, err := f.f.ReadAt(t.buf[:n], offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if err := t.extend(f); err != nil {
		return 0, err
	}
	if k := len(f.tail); k > 0 {
		if err := readAll(f.f, t.tailBuf[:k], f.offset-int64(k)); err != nil || !bytes.Equal(t.tailBuf[:k], f.tail) {
			return 0, errChanged
		}
	} else if k := min(f.offset, tailLen); k > 0 {
		f.tail = make([]byte, k, tailLen)
		if err := readAll(f.f, f.tail, f.offset-k); err != nil {
			return 0, err
		}
	}
	t.known(f)
	return got, nil
}

// advance moves f past bytes that were taken.
func (t *Tail) advance(f *file, used []byte) {
	if len(used) == 0 {
		return
	}
	f.offset += int64(len(used))
	f.tail = keepTail(f.tail, used)
	f.remember()
}

// keepTail returns the last bytes of tail and used together.
func keepTail(tail, used []byte) []byte {
	if len(used) >= tailLen {
		return append(tail[:0], used[len(used)-tailLen:]...)
	}
	if over := len(tail) + len(used) - tailLen; over > 0 {
		tail = tail[:copy(tail, tail[over:])]
	}
	return append(tail, used...)
}

// hole leaves out what a writer without O_APPEND left at the head of a file
// that was truncated under it: nobody ever wrote these zeros.
func (t *Tail) hole(f *file, data []byte) int64 {
	if f.offset > 0 || data[0] != 0 {
		return 0
	}
	end := holeEnd(f.f)
	if end <= 0 || end > f.size {
		return 0
	}
	n, err := f.f.ReadAt(t.buf[:min(readBuffer, f.size-end)], end)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	for _, b := range t.buf[:n] { // to the end of the hole's last block
		if b != 0 {
			break
		}
		end++
	}
	f.e.Skip(0, end)
	f.offset, f.tail = end, nil
	return end
}

// lookAhead looks for the end of a record that does not fit into one read.
func (t *Tail) lookAhead(f *file) (int, error) {
	from := f.offset + int64(f.seen)
	n, err := t.fill(f, from, min(f.size-from, readBuffer))
	if err != nil {
		return 0, err
	}
	fresh := f.seen + n - f.looked
	if fresh <= 0 {
		return 0, t.atEnd(f)
	}
	end, seen, found := t.ends(f, t.buf[:n])
	f.looked = f.seen + n
	if !found && f.seen+seen <= t.cfg.MaxRecordBytes {
		f.seen += seen
		f.ready = t.hasMore(f)
		return fresh, nil
	}
	size := f.seen + end
	if !found {
		f.past, f.offset, f.tail = f.past+int64(f.seen), f.offset+int64(f.seen), nil
		f.looked, f.seen, f.mid = 0, 0, false
		return 1, nil
	}
	whole, err := t.whole(f, size)
	if err != nil {
		return 0, err
	}
	if err := t.deliver(f, whole, 0); err != nil {
		return 0, err
	}
	f.looked, f.seen, f.mid = 0, 0, false
	t.advance(f, whole)
	t.shrink()
	return max(end, 1), nil
}

// whole reads n bytes of f from its offset on, however many these are.
func (t *Tail) whole(f *file, n int) ([]byte, error) {
	if n > len(t.buf) {
		t.buf = make([]byte, n)
	}
	if err := readAll(f.f, t.buf[:n], f.offset); err != nil {
		return nil, errChanged
	}
	return t.buf[:n], nil
}

func (t *Tail) shrink() {
	if len(t.buf) > readBuffer {
		t.buf = make([]byte, readBuffer)
	}
}

// ends looks in data, which goes on with a record, for its end. looked is how
// much of data need not be looked at again.
func (t *Tail) ends(f *file, data []byte) (end, looked int, found bool) {
	if t.cfg.Multiline.Start == nil || f.mid {
		n := bytes.IndexByte(data, '\n')
		if t.cfg.Multiline.Start == nil || n < 0 {
			return n + 1, len(data), n >= 0
		}
		f.mid, looked = false, n+1
	}
	for {
		n := bytes.IndexByte(data[looked:], '\n')
		if n < 0 { // a line longer than a read begins a record of its own
			return looked, looked, len(data)-looked >= readBuffer
		}
		if f.seen+looked+n+1 > t.cfg.MaxRecordBytes || t.starts(data[looked:looked+n]) {
			return looked, looked, true
		}
		looked += n + 1
	}
}

func (t *Tail) starts(line []byte) bool {
	return t.cfg.Multiline.Start.Match(bytes.TrimSuffix(line, []byte("\r")))
}

// atEnd is called when f has no more bytes that end a record.
func (t *Tail) atEnd(f *file) error {
	f.ready = false
	idle := time.Since(f.grew)
	over := !t.cfg.Follow || (f.rotated || f.vanished) && idle >= t.cfg.Grace
	lines := t.cfg.Multiline.Start != nil && t.cfg.Multiline.Timeout > 0 && f.seen > 0 && !f.mid && idle >= t.cfg.Multiline.Timeout
	if over || lines {
		if err := t.flush(f, over); err != nil {
			return err
		}
	}
	switch {
	case f.vanished && over:
		t.detach(f, true)
	case f.rotated && over, idle >= t.cfg.IdleClose && !f.vanished, !t.cfg.Follow:
		t.closeFile(f)
	}
	return nil
}

// flush hands on what no end was found of: at the end of the file all of it,
// else the lines that make up a record.
func (t *Tail) flush(f *file, all bool) error {
	rest := f.size - f.offset
	if rest <= 0 && f.past == 0 {
		return nil
	}
	if !all {
		rest = int64(f.seen)
	}
	data, err := t.whole(f, int(min(rest, int64(t.cfg.MaxRecordBytes)+2*readBuffer)))
	if err != nil {
		return err
	}
	used, err := t.cut(f, data, all, true)
	if err != nil {
		return err
	}
	t.advance(f, data[:used])
	t.shrink()
	return nil
}

// cut hands on the whole records at the head of data; at the end of the file
// the rest too, and lines that wait for the next record when whole says that
// they are one. It returns how many bytes were taken.
func (t *Tail) cut(f *file, data []byte, end, whole bool) (used int, err error) {
	defer t.give(f)()
	if t.cfg.Multiline.Start != nil && f.past == 0 {
		used, err = t.joined(f, data, end, whole)
	} else {
		used, err = t.lines(f, data, end)
	}
	if err != nil {
		err = &routerError{err}
	}
	f.looked = len(data) - used
	return used, err
}

// give begins the handing on of records of f; what it returns ends it. The
// source is held by more than there can be records meanwhile, so that counting
// them costs nothing for each.
func (t *Tail) give(f *file) (end func()) {
	const more = 1 << 40
	t.register(f)
	from := f.from
	from.pending.Add(more)
	t.given = 0
	back := t.letIn()
	t.router.Lock()
	t.router.File(f.name)
	return func() {
		t.router.Unlock()
		back()
		from.settled(more - t.given)
	}
}

func (t *Tail) lines(f *file, data []byte, end bool) (used int, err error) {
	looked := f.seen
	f.seen = 0
	for {
		n := bytes.IndexByte(data[used+looked:], '\n')
		if n < 0 {
			break
		}
		n += looked + 1
		looked = 0
		if err := t.record(f, data[used:used+n], used); err != nil {
			return used, err
		}
		used += n
		if t.cfg.Multiline.Start != nil {
			return used, nil // an over-long line is over
		}
	}
	switch {
	case end && (used < len(data) || f.past > 0):
		return len(data), t.record(f, data[used:], used)
	case f.past > 0:
		f.past += int64(len(data) - used)
		return len(data), nil
	}
	f.seen = len(data) - used
	return used, nil
}

// joined is lines where a record may be several.
func (t *Tail) joined(f *file, data []byte, end, whole bool) (used int, err error) {
	at := f.seen // lines in front of it are part of the record that begins at used
	looked := 0  // of the line at at
	if f.mid {
		at, looked = 0, f.seen
	}
	f.seen = 0
	give := func(to int) error {
		from := used
		used = to
		return t.record(f, data[from:to], from)
	}
	for {
		n := bytes.IndexByte(data[at+looked:], '\n') + 1
		if n > 0 {
			n += looked
		} else if n = len(data) - at; !end || n == 0 {
			break
		}
		looked = 0
		if at > used && (at+n-used > t.cfg.MaxRecordBytes || t.starts(bytes.TrimSuffix(data[at:at+n], []byte("\n")))) {
			if err := give(at); err != nil {
				return used, err
			}
		}
		at += n
	}
	rest := len(data) - at // of a line without its end
	if at > used && (whole || rest >= readBuffer || at-used+rest > t.cfg.MaxRecordBytes) {
		if err := give(at); err != nil {
			return used, err
		}
	}
	f.seen = at - used
	if f.mid = f.seen == 0 && rest >= readBuffer; f.mid {
		f.seen = rest
	}
	return used, nil
}

// deliver hands on one record that was found whole.
func (t *Tail) deliver(f *file, whole []byte, at int) error {
	defer t.give(f)()
	if err := t.record(f, whole, at); err != nil {
		return &routerError{err}
	}
	return nil
}

// record takes one record with its terminator, which begins at data[at] of what
// was read. It holds the Router's lock.
func (t *Tail) record(f *file, line []byte, at int) error {
	pos := record.Position{Offset: f.offset + int64(at), Len: int32(len(line)), Source: f.from.src}
	ended := len(line) > 0 && line[len(line)-1] == '\n'
	if f.past > 0 {
		return t.tooLong(f, pos, ended)
	}
	if pos.Offset < f.top {
		if _, done := f.e.Done(pos.Offset); done {
			return nil
		}
	}
	if ended {
		line = line[:len(line)-1]
	}
	if t.cfg.StripCR {
		line = t.stripCR(line)
	}
	if len(line) == 0 && t.cfg.SkipEmpty {
		f.e.Skip(pos.Offset, int64(pos.Len))
		return nil
	}
	t.given++
	if !t.cfg.RecordIDs {
		return t.router.Add(line, nil, pos)
	}
	t.id = strconv.AppendInt(append(t.id[:0], f.from.id...), pos.Offset, 10)
	return t.router.Add(line, t.id, pos)
}

// stripCR drops the CR at the end of each line.
func (t *Tail) stripCR(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if t.cfg.Multiline.Start == nil || !bytes.Contains(line, []byte("\r\n")) {
		return line
	}
	out := t.joint[:0]
	for {
		n := bytes.Index(line, []byte("\r\n"))
		if n < 0 {
			break
		}
		out = append(out, line[:n]...)
		line = line[n+1:]
	}
	t.joint = append(out, line...)
	return t.joint
}

// tooLong rejects a line whose head has gone by. rest is where its end is.
func (t *Tail) tooLong(f *file, rest record.Position, ended bool) error {
	size := f.past + int64(rest.Len)
	pos := record.Position{Offset: rest.Offset - f.past, Len: int32(min(size, math.MaxInt32)), Source: f.from.src}
	f.past = 0
	if more := size - int64(pos.Len); more > 0 {
		f.e.Skip(pos.Offset+int64(pos.Len), more)
	}
	if pos.Offset < f.top {
		if _, done := f.e.Done(pos.Offset); done {
			return nil
		}
	}
	if ended {
		size--
	}
	t.given++
	return t.router.Reject(nil, pos, &record.InvalidError{
		Code: 413, Reason: record.ReasonTooLarge,
		Message: fmt.Sprintf("a line of %d bytes is longer than max_record_bytes %d; it was not kept", size, t.cfg.MaxRecordBytes),
	})
}
