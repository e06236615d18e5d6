package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/produce-agent/produce-agent/internal/record"
)

// readBuffer is one read: large enough that its system call does not show,
// small enough to stay in a core's cache with the batch it is copied to.
const readBuffer = 256 << 10

// LineConfig says how bytes are cut into records.
type LineConfig struct {
	RecordIDs      bool  // records carry an id
	StripCR        bool  // drop one CR in front of the LF
	SkipEmpty      bool  // an empty line is no record
	MaxRecordBytes int   // a longer line is rejected, its bytes streamed past; 0: no bound
	Count          int64 // stop after so many records; 0: no bound
	Values         bool  // concatenated REST v3 record objects instead of lines
	// Rest, where it is not nil, gets what is no whole line when reading ends
	// early, and is what the next Reader of the same input begins with.
	Rest *Rest
}

// Rest is what one Reader of lines leaves to the next one of the same input.
type Rest struct {
	line   []byte // begun, without its LF
	offset int64  // of line in the source
	past   int64  // bytes of an over-long record in front of it
}

// Reader cuts one router's inputs into records, one input after the other.
//
// Only LF separates lines. CR stays unless StripCR, an empty line is an empty
// value unless SkipEmpty, a last line without LF counts.
//
// Concurrency: one goroutine at a time.
type Reader struct {
	cfg   LineConfig
	out   *Router
	buf   []byte
	count int64
	id    []byte // scratch of record ids

	src    int32
	idBase []byte
	offset int64 // of buf[0] in the source
	past   int64 // bytes of an over-long record gone by already; 0: none
	scan   record.ScanState
	seen   int   // bytes at the head of buf known to hold no LF
	bad    error // why the line begun at buf[0] is no record; it ends at the next LF
}

// NewReader returns a Reader that hands its records to out.
func NewReader(cfg LineConfig, out *Router) *Reader {
	return &Reader{cfg: cfg, out: out, buf: make([]byte, readBuffer)}
}

// Read takes all of in apart, as source number src. id is what record ids of
// this source begin with. live says that bytes come as they are made, so that
// a record must not wait for a full batch, and that what is behind the last LF
// when reading ends early cannot be read again: it is a record then. Of a file
// it stays unread.
// Errors: ErrCount as soon as enough was read; the Sink's; in's own, with the
// whole records before it handed on.
func (r *Reader) Read(in io.Reader, src int32, id string, live bool) error {
	r.src, r.idBase, r.offset, r.past = src, append([]byte(id), ':'), 0, 0
	r.scan, r.bad, r.seen = record.ScanState{}, nil, 0
	if r.full() {
		return ErrCount
	}
	fill := 0
	if rest := r.cfg.Rest; rest != nil {
		for len(r.buf) <= len(rest.line) {
			r.buf = make([]byte, 2*len(r.buf))
		}
		fill, r.offset, r.past = copy(r.buf, rest.line), rest.offset, rest.past
		*rest = Rest{}
	}
	var paced pacer
	if live {
		paced = pacerOf(in)
	}
	for {
		n, err := in.Read(r.buf[fill:])
		fill += n
		if n > 0 {
			used, ferr := r.feed(r.buf[:fill], false, live && paced == nil)
			if ferr == nil && paced != nil && err == nil {
				ferr = r.out.gather(paced, n)
			}
			if ferr != nil {
				return ferr
			}
			if used > 0 { // else a long line that comes in small reads would be moved by each
				fill = copy(r.buf, r.buf[used:fill])
				r.offset += int64(used)
			}
			if fill, ferr = r.room(fill); ferr != nil {
				return ferr
			}
		}
		if err == nil {
			continue
		}
		if r.cfg.Rest != nil && errors.Is(err, errStopped) {
			*r.cfg.Rest = Rest{bytes.Clone(r.buf[:fill]), r.offset, r.past}
			return nil
		}
		if live || errors.Is(err, io.EOF) {
			if _, ferr := r.feed(r.buf[:fill], true, live); ferr != nil {
				return ferr
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, errStopped) {
			return nil
		}
		return err
	}
}

// feed takes the whole records at the head of data; at the end of the input
// the rest too. It returns how many bytes were taken.
func (r *Reader) feed(data []byte, end, live bool) (used int, err error) {
	r.out.Lock()
	defer r.out.Unlock()
	if r.cfg.Values {
		used, err = r.values(data, end)
	} else {
		used, err = r.lines(data, end)
	}
	if err == nil && live {
		err = r.out.Pause()
	}
	return used, err
}

func (r *Reader) lines(data []byte, end bool) (used int, err error) {
	for {
		n := bytes.IndexByte(data[used+r.seen:], '\n')
		if n < 0 {
			r.seen = len(data) - used
			break
		}
		n += r.seen
		r.seen = 0
		if err := r.line(data[used:used+n], used, n+1); err != nil {
			return used, err
		}
		used += n + 1
		if r.full() {
			return used, ErrCount
		}
	}
	if end && (used < len(data) || r.past > 0) {
		err = r.line(data[used:], used, len(data)-used)
		used = len(data)
		if err == nil && r.full() {
			err = ErrCount
		}
	}
	return used, err
}

// line takes one line; it begins at data[at] and took size bytes with its end.
func (r *Reader) line(line []byte, at, size int) error {
	pos := record.Position{Offset: r.offset + int64(at), Len: int32(size), Source: r.src}
	if r.past > 0 {
		return r.endOfLong(pos, size-len(line))
	}
	if r.cfg.StripCR && len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	if len(line) == 0 && r.cfg.SkipEmpty {
		return nil
	}
	return r.one(line, pos)
}

func (r *Reader) one(payload []byte, pos record.Position) error {
	r.count++
	if r.cfg.RecordIDs {
		r.id = strconv.AppendInt(append(r.id[:0], r.idBase...), pos.Offset, 10)
	}
	return r.out.Add(payload, r.id, pos)
}

// full says that as many records were read as were asked for.
func (r *Reader) full() bool { return r.cfg.Count > 0 && r.count >= r.cfg.Count }

// endOfLong rejects a record whose head has gone by, its payload not held.
// tail is where the rest of it is, its terminator of so many bytes included.
func (r *Reader) endOfLong(tail record.Position, terminator int) error {
	size := r.past + int64(tail.Len)
	pos := record.Position{Offset: tail.Offset - r.past, Len: int32(min(size, 1<<31-1)), Source: r.src}
	r.past = 0
	r.count++
	return r.out.Reject(nil, pos, r.tooLong(size-int64(terminator)))
}

func (r *Reader) tooLong(length int64) *record.InvalidError {
	return &record.InvalidError{
		Code: 413, Reason: record.ReasonTooLarge,
		Message: fmt.Sprintf("a record of %d bytes is longer than --max-record-bytes %d; it was not kept", length, r.cfg.MaxRecordBytes),
	}
}

// room makes sure that there is place to read into: it grows the buffer up to
// the longest record, past that the bytes go by.
func (r *Reader) room(fill int) (int, error) {
	if fill < len(r.buf) {
		if fill == 0 && len(r.buf) > 4*readBuffer {
			r.buf = make([]byte, readBuffer) // a huge record is over
		}
		return fill, nil
	}
	limit := r.cfg.MaxRecordBytes
	if limit == 0 || len(r.buf) <= limit {
		grown := make([]byte, 2*len(r.buf))
		copy(grown, r.buf)
		r.buf = grown
		return fill, nil
	}
	if r.cfg.Values && r.bad == nil {
		r.scan.Drop(fill)
	}
	r.seen = 0
	r.past += int64(fill)
	r.offset += int64(fill)
	return 0, nil
}

// values takes concatenated REST v3 records apart.
func (r *Reader) values(data []byte, end bool) (used int, err error) {
	for {
		from, to, why := r.piece(data[used:], end)
		value := data[used+from : used+to]
		pos := record.Position{Offset: r.offset + int64(used+from), Len: int32(to - from), Source: r.src}
		if from == to && (r.past == 0 || why == nil) {
			return used + from, nil
		}
		used += to
		switch {
		case r.past > 0:
			err = r.endOfLong(pos, 0)
		case why != nil:
			err = r.badValue(bytes.TrimSuffix(value, []byte("\n")), pos, why)
		default:
			err = r.value(value, pos)
		}
		if err == nil && r.full() {
			err = ErrCount
		}
		if err != nil {
			return used, err
		}
	}
}

var errTruncated = &record.InvalidError{
	Code: 400, Reason: record.ReasonInvalidRecord, Message: "the input ends in the middle of this record",
}

// piece finds the next record in data, or the next line that is none, and why.
// With from == to more bytes are needed, those before from not any more.
func (r *Reader) piece(data []byte, end bool) (from, to int, why error) {
	if r.bad == nil {
		lead := 0
		if !r.scan.Pending() {
			lead = len(data) - len(bytes.TrimLeft(data, " \t\r\n"))
		}
		from, to, ok, bad := record.NextValue(data[lead:], &r.scan)
		from, to = from+lead, to+lead
		switch {
		case ok:
			return from, to, nil
		case bad == nil && end && (from < len(data) || r.past > 0):
			pending := r.scan.Pending() || r.past > 0
			r.scan = record.ScanState{}
			if why := record.CheckRecord(data[from:]); !pending && why != nil {
				return from, len(data), why
			}
			return from, len(data), errTruncated
		case bad == nil:
			return from, from, nil
		case end || data[to-1] == '\n':
			return from, to, bad
		}
		// The rest of the line belongs to it, or what is kept of a bad line would
		// depend on how it was read. The state is to forget that it skips.
		r.bad, r.seen = bad, len(data)-from
		_, _, _, _ = record.NextValue([]byte{'\n'}, &r.scan)
		return from, from, nil
	}
	n := bytes.IndexByte(data[r.seen:], '\n')
	if n < 0 && !end {
		r.seen = len(data)
		return 0, 0, nil
	}
	if to = r.seen + n + 1; n < 0 {
		to = len(data)
	}
	why, r.bad, r.seen = r.bad, nil, 0
	return 0, to, why
}

func (r *Reader) value(value []byte, pos record.Position) error {
	err := record.CheckRecord(value)
	if err == nil && r.cfg.MaxRecordBytes > 0 && len(value) > r.cfg.MaxRecordBytes {
		err = r.tooLong(int64(len(value)))
	}
	if err != nil {
		return r.badValue(value, pos, err)
	}
	r.count++
	return r.out.AddRecord("", value, pos)
}

func (r *Reader) badValue(value []byte, pos record.Position, why error) error {
	r.count++
	return r.out.reject(r.out.routes[0], r.out.routes[0].constant(), why, value, pos)
}
