package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// The head of a slot. It stays as it is in every version, so that an older
// agent can tell a newer one's state from damage.
const (
	magic      = "pagentck"
	version    = 1
	headLen    = 8 + 4 + 8 + 4 + 4
	maxPayload = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var le = binary.LittleEndian

// errDamaged says that a slot is none: torn, flipped, cut or never written.
var errDamaged = errors.New("damaged")

// VersionError says that a newer agent wrote the state.
type VersionError struct {
	File    string
	Version uint32
}

// Error names the file and the remedy.
func (e *VersionError) Error() string {
	return fmt.Sprintf("%s was written in format %d by a newer agent, this one knows %d: start the newer one, "+
		"or move checkpoint.0 and checkpoint.1 away to read all files again", e.File, e.Version, version)
}

// appendHead begins a slot in dst, for seal to complete.
func appendHead(dst []byte, sequence uint64) []byte {
	dst = append(dst, magic...)
	dst = le.AppendUint32(dst, version)
	dst = le.AppendUint64(dst, sequence)
	return append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
}

// seal writes length and checksum into a slot.
func seal(slot []byte) {
	le.PutUint32(slot[20:], uint32(len(slot)-headLen))
	le.PutUint32(slot[24:], sum(slot))
}

// sum covers all of the slot but itself.
func sum(slot []byte) uint32 {
	return crc32.Update(crc32.Checksum(slot[:24], castagnoli), castagnoli, slot[headLen:])
}

// openSlot checks a slot and returns what is in it. Bytes behind its end are
// left from a longer one.
//
// Errors: errDamaged, or *VersionError without a file name.
func openSlot(b []byte) (sequence uint64, payload []byte, err error) {
	if len(b) < headLen || string(b[:8]) != magic {
		return 0, nil, errDamaged
	}
	n := le.Uint32(b[20:])
	if n > maxPayload || int(n) > len(b)-headLen {
		return 0, nil, errDamaged
	}
	b = b[:headLen+int(n)]
	if sum(b) != le.Uint32(b[24:]) {
		return 0, nil, errDamaged
	}
	if v := le.Uint32(b[8:]); v != version {
		return 0, nil, &VersionError{Version: v}
	}
	return le.Uint64(b[12:]), b[headLen:], nil
}

// state is all that a slot holds.
type state struct {
	inputs []string
	files  []File
}

const (
	flagPacked = 1 << iota
	flagDone
)

// appendInputs writes the names of the inputs.
func appendInputs(dst []byte, inputs []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(inputs)))
	for _, name := range inputs {
		dst = appendText(dst, name)
	}
	return dst
}

// appendFile writes one file.
func appendFile(dst []byte, f *File) []byte {
	dst = le.AppendUint64(dst, f.ID)
	var flags byte
	if f.Packed {
		flags |= flagPacked
	}
	if f.Done {
		flags |= flagDone
	}
	dst = append(dst, flags)
	dst = appendText(dst, f.Input)
	dst = appendText(dst, f.Name)
	dst = appendText(dst, f.Path)
	dst = le.AppendUint64(dst, f.Dev)
	dst = le.AppendUint64(dst, f.Inode)
	dst = binary.AppendVarint(dst, f.Born)
	dst = binary.AppendVarint(dst, f.Size)
	dst = binary.AppendVarint(dst, f.Seen)
	dst = appendMark(dst, f.Head)
	dst = appendMark(dst, f.Tail)
	dst = binary.AppendUvarint(dst, uint64(f.Frontier))
	dst = binary.AppendUvarint(dst, uint64(len(f.Final)))
	at := f.Frontier
	for _, r := range f.Final {
		dst = binary.AppendUvarint(dst, uint64(r.From-at))
		dst = binary.AppendUvarint(dst, uint64(r.To-r.From))
		at = r.To
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendMark(dst []byte, m Mark) []byte {
	dst = binary.AppendUvarint(dst, uint64(m.End))
	dst = binary.AppendUvarint(dst, uint64(m.Len))
	return append(dst, m.Sum[:]...)
}

// decoder reads a payload; after its first error all it gives is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() { d.b, d.err = nil, errDamaged }

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// size reads a number that is an offset or a length.
func (d *decoder) size() int64 {
	v := d.uvarint()
	if v > math.MaxInt64/4 {
		d.fail()
		return 0
	}
	return int64(v)
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail()
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return ""
	}
	return string(d.bytes(int(n)))
}

func (d *decoder) uint64() uint64 {
	if b := d.bytes(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

func (d *decoder) mark() (m Mark) {
	m.End, m.Len = d.size(), int(min(d.uvarint(), math.MaxInt32))
	copy(m.Sum[:], d.bytes(len(m.Sum)))
	return m
}

func (d *decoder) file() (f File) {
	f.ID = d.uint64()
	if b := d.bytes(1); b != nil {
		f.Packed, f.Done = b[0]&flagPacked != 0, b[0]&flagDone != 0
	}
	f.Input, f.Name, f.Path = d.text(), d.text(), d.text()
	f.Dev, f.Inode = d.uint64(), d.uint64()
	f.Born, f.Size, f.Seen = d.varint(), d.varint(), d.varint()
	f.Head, f.Tail = d.mark(), d.mark()
	f.Frontier = d.size()
	at := f.Frontier
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		from := at + d.size()
		to := from + d.size()
		if to < from || to > math.MaxInt64/2 {
			d.fail()
			return f
		}
		f.Final = append(f.Final, Range{from, to})
		at = to
	}
	return f
}

// decode reads a payload.
//
// Errors: errDamaged, with nothing to be used.
func decode(payload []byte) (state, error) {
	d := decoder{b: payload}
	var s state
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		s.inputs = append(s.inputs, d.text())
	}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		s.files = append(s.files, d.file())
	}
	if d.err != nil || len(d.b) > 0 {
		return state{}, errDamaged
	}
	return s, nil
}
