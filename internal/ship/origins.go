package ship

import (
	"sync"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

// originKind says who has a record when it is given back.
type originKind uint8

const (
	fromStdin   originKind = iota // nobody
	fromFile                      // the file: it is read again from where it was left
	fromRequest                   // the client: it is told, and asks again
	fromBuffer                    // the buffer
	fromClosed                    // a buffer that is closed: it gives the record again when it is opened
)

// origins numbers who answers for records: a Position's Source is an index.
//
// Concurrency: safe. The lock is taken once a run of records of one source.
type origins struct {
	mu   sync.RWMutex
	all  []origin
	free []int32
}

type origin struct {
	ingest.Origin
	kind originKind
	sink *sink // of the input whose it is; nil: it has none
}

// settled says that n of its records are, for whoever waits for the input's.
func (o origin) settled(n int) {
	if o.sink != nil {
		o.sink.pending.Add(-int64(n))
	}
}

// registry is origins for those of one input. It implements ingest.Registry.
type registry struct {
	*origins
	kind originKind
	sink *sink
}

// Register implements ingest.Registry.
func (r registry) Register(o ingest.Origin) int32 { return r.add(o, r.kind, r.sink) }

// Release implements ingest.Registry.
func (r registry) Release(src int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[src] = origin{}
	r.free = append(r.free, src)
}

func (o *origins) add(one ingest.Origin, kind originKind, k *sink) int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.free); n > 0 {
		src := o.free[n-1]
		o.free = o.free[:n-1]
		o.all[src] = origin{one, kind, k}
		return src
	}
	o.all = append(o.all, origin{one, kind, k})
	return int32(len(o.all) - 1)
}

// shut says that a buffer takes no word about its records any more.
func (o *origins) shut(src int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[src].kind = fromClosed
}

// open counts the positions whose origin is no closed buffer.
func (o *origins) open(pos []record.Position) (n int) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for i := range pos {
		if o.all[pos[i].Source].kind != fromClosed {
			n++
		}
	}
	return n
}

func (o *origins) get(src int32) origin {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.all[src]
}

// settle calls f for every run of positions of one origin: they are settled.
func (o *origins) settle(pos []record.Position, f func(ingest.Origin, []record.Position)) {
	o.each(pos, func(one origin, pos []record.Position) {
		f(one.Origin, pos)
		one.settled(len(pos))
	})
}

// each calls f for every run of positions of one origin.
func (o *origins) each(pos []record.Position, f func(origin, []record.Position)) {
	for len(pos) > 0 {
		n := 1
		for n < len(pos) && pos[n].Source == pos[0].Source {
			n++
		}
		f(o.get(pos[0].Source), pos[:n])
		pos = pos[n:]
	}
}

// named is the origin of what is read once and cannot be given again by
// anybody: it has a name and keeps no state.
type named string

// Where implements ingest.Origin.
func (n named) Where(pos record.Position) (source string, offset int64) {
	return string(n), pos.Offset
}

// Delivered implements ingest.Origin.
func (named) Delivered([]record.Position) {}

// Rejected implements ingest.Origin.
func (named) Rejected(record.Position, int, string) {}

// Buffered implements ingest.Origin.
func (named) Buffered([]record.Position) {}

// Refused implements ingest.Origin.
func (named) Refused([]record.Position, error) {}
