package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// What is on disk is FORMAT.md's; change both, and the version.
const (
	version = 1

	segmentMagic = "\xffPASPOOL" // 0xFF and 0xFE are in no UTF-8, so in no record
	ackMagic     = "\xffPASACKS"
	frameMagic   = 0xfe465053 // "SPF" and 0xFE, little endian
	footerMagic  = 0xfe545053 // "SPT" and 0xFE

	prefixSize = 20 // of a segment's or an ack slot's head: the same in all versions
	headSize   = 44 // of a frame
	tailSize   = 8  // of a footer: its length and footerMagic

	flagRaw    = 1
	flagFooter = 2

	maxFrame   = 256 << 20 // a longer one is damage, or was never written
	maxName    = 4 << 10   // of a source; a longer one is cut
	segmentExt = ".seg"
	lockName   = "lock"
)

var slotNames = [2]string{"acks.0", "acks.1"}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// VersionError says that a file was written by a later release.
type VersionError struct {
	File    string
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has format version %d, this release reads version %d: nothing was touched; "+
		"start the release that wrote it, or export it with that one", e.File, e.Version, version)
}

// errDamage is why a part of a file is not what was written.
var errDamage = errors.New("damaged")

// segmentName is the file of the segment that begins with record first.
func segmentName(first int64) string { return fmt.Sprintf("%020d%s", first, segmentExt) }

// parseSegmentName returns the first record of a segment file.
func parseSegmentName(name string) (first int64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentExt)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil && n > 0
}

// appendPrefix appends what every head begins with: magic, version and length.
func appendPrefix(dst []byte, magic string, length int) []byte {
	at := len(dst)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint16(dst, version)
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(length))
	return binary.LittleEndian.AppendUint32(dst, sum(dst[at:]))
}

// parsePrefix returns the length of a head.
// Errors: *VersionError for a later version; errDamage.
func parsePrefix(p []byte, magic, file string) (length int, err error) {
	if len(p) < prefixSize || string(p[:8]) != magic || sum(p[:16]) != binary.LittleEndian.Uint32(p[16:]) {
		return 0, errDamage
	}
	if v := int(binary.LittleEndian.Uint16(p[8:])); v != version {
		return 0, &VersionError{File: file, Version: v}
	}
	return int(binary.LittleEndian.Uint32(p[12:])), nil
}

// segmentHead is what a segment says of itself.
type segmentHead struct {
	id      uint64 // of the spool, drawn when it was made
	first   int64
	created int64 // Unix milliseconds
	route   string
}

// maxHead bounds a segment's head: a route's name is 64 KiB at most.
const maxHead = prefixSize + 8 + 8 + 8 + 2 + 1<<16 + 4

func (h *segmentHead) append(dst []byte) []byte {
	at := len(dst)
	dst = appendPrefix(dst, segmentMagic, prefixSize+26+len(h.route)+4)
	dst = binary.LittleEndian.AppendUint64(dst, h.id)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.first))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(h.created))
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(h.route)))
	dst = append(dst, h.route...)
	return binary.LittleEndian.AppendUint32(dst, sum(dst[at:]))
}

// parse reads a head and returns its length.
func (h *segmentHead) parse(p []byte, file string) (int, error) {
	n, err := parsePrefix(p, segmentMagic, file)
	if err != nil {
		return 0, err
	}
	if n < prefixSize+30 || n > len(p) || n > maxHead || sum(p[:n-4]) != binary.LittleEndian.Uint32(p[n-4:]) {
		return 0, errDamage
	}
	route := p[prefixSize+26 : n-4]
	if len(route) != int(binary.LittleEndian.Uint16(p[prefixSize+24:])) {
		return 0, errDamage
	}
	h.id = binary.LittleEndian.Uint64(p[prefixSize:])
	h.first = int64(binary.LittleEndian.Uint64(p[prefixSize+8:]))
	h.created = int64(binary.LittleEndian.Uint64(p[prefixSize+16:]))
	h.route = string(route)
	return n, nil
}

// frameHead is the fixed part of a frame: one batch, or a segment's footer.
type frameHead struct {
	length int // of the whole frame
	count  int
	first  int64
	time   int64 // Unix milliseconds of Append
	topic  int   // length
	flags  uint16
	meta   int // length of topic, sources and records' table
	body   uint32
}

func (h *frameHead) end() int64 { return h.first + int64(h.count) }

func (h *frameHead) footer() bool { return h.flags&flagFooter != 0 }

// put writes the head over p's first headSize bytes; p is the whole frame.
func (h *frameHead) put(p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p, frameMagic)
	le.PutUint32(p[8:], uint32(h.length))
	le.PutUint32(p[12:], uint32(h.count))
	le.PutUint64(p[16:], uint64(h.first))
	le.PutUint64(p[24:], uint64(h.time))
	le.PutUint16(p[32:], uint16(h.topic))
	le.PutUint16(p[34:], h.flags)
	le.PutUint32(p[36:], uint32(h.meta))
	le.PutUint32(p[40:], sum(p[headSize:]))
	le.PutUint32(p[4:], sum(p[8:headSize]))
}

// parse reads a head; false when p does not begin with one.
func (h *frameHead) parse(p []byte) bool {
	le := binary.LittleEndian
	if len(p) < headSize || le.Uint32(p) != frameMagic || le.Uint32(p[4:]) != sum(p[8:headSize]) {
		return false
	}
	h.length, h.count = int(le.Uint32(p[8:])), int(le.Uint32(p[12:]))
	h.first, h.time = int64(le.Uint64(p[16:])), int64(le.Uint64(p[24:]))
	h.topic, h.flags = int(le.Uint16(p[32:])), le.Uint16(p[34:])
	h.meta, h.body = int(le.Uint32(p[36:])), le.Uint32(p[40:])
	return h.length >= headSize && h.length <= maxFrame && h.topic <= h.meta && h.meta <= h.length-headSize &&
		h.first > 0 && h.count <= h.length && (h.count > 0) != h.footer()
}

// origins are where the records of a batch came from, by their index in it.
type origins struct {
	names []string
	src   []uint32 // index into names
	off   []int64
}

func (o *origins) reset() { o.names, o.src, o.off = o.names[:0], o.src[:0], o.off[:0] }

// add notes the next record's. A name that was among the last few is not noted
// again; one that comes back later is, which costs a little room and no search.
func (o *origins) add(name string, off int64) {
	if len(name) > maxName {
		name = name[:maxName]
	}
	at := len(o.names)
	for i := len(o.names) - 1; i >= 0 && i >= len(o.names)-8; i-- {
		if o.names[i] == name {
			at = i
			break
		}
	}
	if at == len(o.names) {
		o.names = append(o.names, name)
	}
	o.src, o.off = append(o.src, uint32(at)), append(o.off, off)
}

// join adds all of more behind o.
func (o *origins) join(more *origins) {
	for i := range more.off {
		o.add(more.names[more.src[i]], more.off[i])
	}
}

// appendFrame appends one batch as a frame, and is all there is to encoding.
func appendFrame(dst []byte, first int64, at time.Time, b *record.Batch, o *origins) []byte {
	start := len(dst)
	dst = slices.Grow(dst, frameBound(b, o))
	dst = dst[:start+headSize]
	dst = append(dst, b.Topic...)
	dst = binary.AppendUvarint(dst, uint64(len(o.names)))
	for _, name := range o.names {
		dst = binary.AppendUvarint(dst, uint64(len(name)))
		dst = append(dst, name...)
	}
	last, from := int64(0), int32(0)
	for i, end := range b.Ends {
		dst = binary.AppendUvarint(dst, uint64(end-from))
		dst = binary.AppendUvarint(dst, uint64(o.src[i]))
		dst = binary.AppendVarint(dst, o.off[i]-last)
		last, from = o.off[i], end
	}
	h := frameHead{count: b.Len(), first: first, time: at.UnixMilli(), topic: len(b.Topic), meta: len(dst) - start - headSize}
	if b.Raw {
		h.flags |= flagRaw
	}
	dst = append(dst, b.Body()...)
	h.length = len(dst) - start
	h.put(dst[start:])
	return dst
}

// frameBound is the most that a frame of b takes.
func frameBound(b *record.Batch, o *origins) int {
	n := batchBound(b)
	for _, name := range o.names {
		n += len(name) + binary.MaxVarintLen32
	}
	return n
}

// batchBound is the same without the names of sources.
func batchBound(b *record.Batch) int { return headSize + len(b.Topic) + 16 + b.Len()*20 + b.Size() }

// frame is a frame read and checked. Ownership: it points into the buffer it
// was read from.
type frame struct {
	frameHead
	p []byte
}

func (f *frame) topicName() []byte { return f.p[headSize : headSize+f.topic] }

// check tells whether the frame is what was written.
func (f *frame) check() bool { return sum(f.p[headSize:f.length]) == f.body }

// names keeps strings of what was read, so that the same name is made once.
type names map[string]string

const maxNames = 1024

func (n names) of(p []byte) string {
	s, ok := n[string(p)]
	if !ok {
		if len(n) >= maxNames {
			clear(n)
		}
		s = string(p)
		n[s] = s
	}
	return s
}

// uvarint cuts one number from p; ok is false once something was missing.
func uvarint(p []byte, ok *bool) (uint64, []byte) {
	v, n := binary.Uvarint(p)
	if n <= 0 {
		*ok = false
		return 0, nil
	}
	return v, p[n:]
}

func varint(p []byte, ok *bool) (int64, []byte) {
	v, n := binary.Varint(p)
	if n <= 0 {
		*ok = false
		return 0, nil
	}
	return v, p[n:]
}

// decode appends the frame's records to b and their origins to o. Positions
// are the spool's: source and the record's number.
// Errors: errDamage, b and o being of no use then. It never panics, whatever f holds.
func (f *frame) decode(b *record.Batch, o *origins, source int32, known names) error {
	meta, body := f.p[headSize+f.topic:headSize+f.meta], f.p[headSize+f.meta:f.length]
	ok := true
	n, meta := uvarint(meta, &ok)
	if !ok || n > uint64(len(meta)) {
		return errDamage
	}
	base := uint32(len(o.names))
	for range n {
		var size uint64
		if size, meta = uvarint(meta, &ok); !ok || size > uint64(len(meta)) {
			return errDamage
		}
		o.names = append(o.names, known.of(meta[:size]))
		meta = meta[size:]
	}
	off := int64(0)
	for i := range f.count {
		var size, src uint64
		var step int64
		size, meta = uvarint(meta, &ok)
		src, meta = uvarint(meta, &ok)
		step, meta = varint(meta, &ok)
		if !ok || src >= n || size > uint64(len(body)) {
			return errDamage
		}
		off += step
		o.src, o.off = append(o.src, base+uint32(src)), append(o.off, off)
		b.Commit(append(b.Tail(), body[:size]...), record.Position{Offset: f.first + int64(i), Len: int32(size), Source: source})
		body = body[size:]
	}
	if len(meta) > 0 || len(body) > 0 {
		return errDamage
	}
	return nil
}

// footer ends a segment that was filled: what is in it, so that opening a
// spool reads no segment but the last.
type footer struct {
	end    int64 // one behind the last record
	oldest int64 // Unix milliseconds
	newest int64
	topics map[string]int64 // records; nil when there were too many to list
}

// maxTopics is how many topics a footer lists.
const maxTopics = 256

func (t *footer) append(dst []byte, first int64) []byte {
	start := len(dst)
	dst = append(dst, make([]byte, headSize)...)
	dst = binary.AppendUvarint(dst, uint64(t.end))
	dst = binary.AppendVarint(dst, t.oldest)
	dst = binary.AppendVarint(dst, t.newest)
	listed := len(t.topics)
	if listed > maxTopics {
		listed = 0
	}
	dst = binary.AppendUvarint(dst, uint64(listed))
	if listed > 0 {
		for _, name := range sortedKeys(t.topics) {
			dst = binary.AppendUvarint(dst, uint64(len(name)))
			dst = append(dst, name...)
			dst = binary.AppendUvarint(dst, uint64(t.topics[name]))
		}
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(dst)-start+tailSize))
	dst = binary.LittleEndian.AppendUint32(dst, footerMagic)
	h := frameHead{length: len(dst) - start, first: first, flags: flagFooter}
	h.put(dst[start:])
	return dst
}

func (t *footer) parse(f *frame) error {
	if !f.footer() || f.length < headSize+tailSize || !f.check() {
		return errDamage
	}
	p, ok := f.p[headSize:f.length-tailSize], true
	end, p := uvarint(p, &ok)
	t.end = int64(end)
	t.oldest, p = varint(p, &ok)
	t.newest, p = varint(p, &ok)
	n, p := uvarint(p, &ok)
	if !ok || n > maxTopics {
		return errDamage
	}
	t.topics = nil
	if n > 0 {
		t.topics = make(map[string]int64, n)
	}
	for range n {
		var size, records uint64
		if size, p = uvarint(p, &ok); !ok || size > uint64(len(p)) {
			return errDamage
		}
		name := string(p[:size])
		records, p = uvarint(p[size:], &ok)
		t.topics[name] = int64(records)
	}
	if !ok || len(p) > 0 {
		return errDamage
	}
	return nil
}

func sortedKeys(m map[string]int64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
