// Package record holds the words every stage of the pipeline shares: the
// encoders that turn a payload into one Kafka REST v3 produce record, the
// Batch those records travel in, the Position each came from and the Outcome
// each ends with.
//
// It is the ground floor: no I/O, no goroutine, no clock, no logger, no metrics.
package record

import (
	"strconv"
	"sync"
	"sync/atomic"
)

// Outcome is what became of one record.
type Outcome uint8

// The four outcomes. Every record ends Delivered or Rejected, exactly once;
// Retry and Unknown send it round again.
const (
	Delivered Outcome = iota // its report says 200
	Rejected                 // its report says never: malformed, too large, denied
	Retry                    // its report says later, and it surely was not written
	Unknown                  // no report, or one that does not tell: sending again may duplicate
)

// String returns the outcome's name as metrics and logs spell it.
func (o Outcome) String() string {
	switch o {
	case Delivered:
		return "delivered"
	case Rejected:
		return "rejected"
	case Retry:
		return "retry"
	case Unknown:
		return "unknown"
	}
	return "outcome(" + strconv.Itoa(int(o)) + ")"
}

// Position says where a record came from.
type Position struct {
	Offset int64 // of the record's first byte in its source (decompressed bytes)
	Len    int32 // bytes it took there, its terminator included
	Source int32 // index into the run's table of sources
}

// Try is what is remembered of a record between two sendings of it.
type Try struct {
	Attempts  uint16 // reports that judged the record itself; --max-attempts bounds these
	Resent    uint16 // times it is sent again because its fate was unknown
	Heads     uint8  // streams that ended terminally with this record at the head of the window
	Alone     bool   // it is to go in a request of its own, for an answer that is of it alone
	ErrorCode int32  // the last report's error_code, 0 without one
}

// headroom is kept free before the first record for an HTTP chunk's size line:
// eight hex digits and CRLF.
const headroom = 10

// maxPooled is the largest buffer kept for reuse. A batch closes at 64 KiB by
// default; anything grown past four times that held a huge record and would
// only pin memory.
const maxPooled = 256 << 10

// Batch is the unit everything is done by: records of one topic, encoded as
// they go on the wire, the end of each, and where each came from.
//
// Shape: one JSON object and a newline per record, back to back.
// Ownership: whoever was handed the batch last. Segments of one batch may be
// on different streams at once; they only read it, and each calls Resolve for
// the records it settled. The last Resolve gives the batch back to the pool.
// Concurrency: building (Tail, Commit) is for one goroutine; Resolve for any.
type Batch struct {
	Topic string
	Route int32      // the route it was made by: index into the run's table of routes
	Raw   bool       // its origin wants every delivery report as the server wrote it
	Ends  []int32    // Ends[i] is where record i ends in Body
	Pos   []Position // Pos[i] is where record i came from
	Tries []Try      // nil while every record is here for the first time
	Keys  []uint32   // Keys[i] is what its pool knows record i's key by, 0 without one; empty where nobody asks

	buf  []byte // headroom, then the records
	left atomic.Int32
}

var batches = sync.Pool{New: func() any {
	return &Batch{buf: make([]byte, headroom, 66<<10), Ends: make([]int32, 0, 384), Pos: make([]Position, 0, 384)}
}}

// NewBatch returns an empty batch for topic, reusing a resolved one's memory.
func NewBatch(topic string) *Batch {
	b := batches.Get().(*Batch)
	b.Topic = topic
	return b
}

// Fresh returns an empty batch for the same topic and route.
func (b *Batch) Fresh() *Batch {
	f := NewBatch(b.Topic)
	f.Route, f.Raw = b.Route, b.Raw
	return f
}

// Akin says whether records of b and o may share a batch.
func (b *Batch) Akin(o *Batch) bool {
	return b.Topic == o.Topic && b.Route == o.Route && b.Raw == o.Raw
}

// Len is the number of records in b.
func (b *Batch) Len() int { return len(b.Ends) }

// Size is the number of encoded bytes in b.
func (b *Batch) Size() int { return len(b.buf) - headroom }

// Body returns the encoded records, back to back.
func (b *Batch) Body() []byte { return b.buf[headroom:] }

// Start returns where record i begins in Body.
func (b *Batch) Start(i int) int {
	if i == 0 {
		return 0
	}
	return int(b.Ends[i-1])
}

// Bytes returns the encoded records [from, to).
func (b *Batch) Bytes(from, to int) []byte {
	return b.buf[headroom+b.Start(from) : headroom+b.Start(to)]
}

// Try returns what is remembered of record i; nil on its first way out.
func (b *Batch) Try(i int) *Try {
	if b.Tries == nil {
		return nil
	}
	return &b.Tries[i]
}

// Tail lends out the buffer for appending one encoded record. Hand the
// extended slice to Commit; dropping it instead leaves the batch as it was.
func (b *Batch) Tail() []byte { return b.buf }

// Commit takes back the slice lent by Tail, now longer by one record.
func (b *Batch) Commit(buf []byte, pos Position) {
	b.buf = buf
	b.Ends = append(b.Ends, int32(len(buf)-headroom))
	b.Pos = append(b.Pos, pos)
	if b.Tries != nil {
		b.Tries = append(b.Tries, Try{})
	}
}

// Again appends a copy of record i of from, to be sent once more with what is
// now known of it.
func (b *Batch) Again(from *Batch, i int, try Try) {
	b.buf = append(b.buf, from.Bytes(i, i+1)...)
	b.Ends = append(b.Ends, int32(len(b.buf)-headroom))
	b.Pos = append(b.Pos, from.Pos[i])
	b.Tries = append(b.Tries, try)
	if len(from.Keys) > i {
		b.Keys = append(b.Keys, from.Keys[i])
	}
}

// Copy appends copies of records [i,j) of from with what is known of them.
func (b *Batch) Copy(from *Batch, i, j int) {
	if from.Tries != nil || b.Tries != nil {
		for len(b.Tries) < len(b.Ends) {
			b.Tries = append(b.Tries, Try{})
		}
		for k := i; k < j; k++ {
			var try Try
			if t := from.Try(k); t != nil {
				try = *t
			}
			b.Tries = append(b.Tries, try)
		}
	}
	shift := int32(len(b.buf) - headroom - from.Start(i))
	b.buf = append(b.buf, from.Bytes(i, j)...)
	for _, end := range from.Ends[i:j] {
		b.Ends = append(b.Ends, end+shift)
	}
	b.Pos = append(b.Pos, from.Pos[i:j]...)
	if len(from.Keys) >= j {
		b.Keys = append(b.Keys, from.Keys[i:j]...)
	}
}

// Seal ends the building of b: from here on it is only read, and Resolve
// counts its records down.
func (b *Batch) Seal() { b.left.Store(int32(len(b.Ends))) }

// Chunk returns all of b as one HTTP chunk: size line, records, CRLF. It
// writes the size line into b's headroom and may grow its buffer by two bytes.
// Concurrency: only for the goroutine that holds the whole batch.
func (b *Batch) Chunk() []byte {
	const hexDigits = "0123456789abcdef"
	at := headroom
	at--
	b.buf[at] = '\n'
	at--
	b.buf[at] = '\r'
	n := len(b.buf) - headroom
	for {
		at--
		b.buf[at] = hexDigits[n&15]
		if n >>= 4; n == 0 {
			break
		}
	}
	b.buf = append(b.buf, '\r', '\n')
	out := b.buf[at:]
	b.buf = b.buf[:len(b.buf)-2]
	return out
}

// Hold keeps b from being recycled until one more Resolve(1): for a writer
// that is still in its bytes when the last report comes.
func (b *Batch) Hold() { b.left.Add(1) }

// Resolve says that n more records of b are settled: delivered, rejected or
// copied elsewhere. The call that settles the last gives b back to the pool;
// after it nobody may touch b or a slice of it.
func (b *Batch) Resolve(n int) {
	left := b.left.Add(-int32(n))
	if left < 0 {
		panic("BUG: batch resolved more records than it holds")
	}
	if left == 0 {
		b.recycle()
	}
}

// Discard gives back a batch that was never sealed.
func (b *Batch) Discard() { b.recycle() }

func (b *Batch) recycle() {
	if cap(b.buf) > maxPooled {
		return
	}
	b.Topic, b.Route, b.Raw = "", 0, false
	b.buf, b.Ends, b.Pos, b.Tries, b.Keys = b.buf[:headroom], b.Ends[:0], b.Pos[:0], nil, b.Keys[:0]
	batches.Put(b)
}
