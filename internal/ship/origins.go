package ship

import (
	"sync"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

// origins numbers who answers for records: a Position's Source is an index.
//
// Concurrency: safe. The lock is taken once a run of records of one source.
type origins struct {
	mu   sync.RWMutex
	all  []ingest.Origin
	free []int32
}

// Register implements ingest.Registry.
func (o *origins) Register(one ingest.Origin) int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.free); n > 0 {
		src := o.free[n-1]
		o.free = o.free[:n-1]
		o.all[src] = one
		return src
	}
	o.all = append(o.all, one)
	return int32(len(o.all) - 1)
}

// Release implements ingest.Registry.
func (o *origins) Release(src int32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[src] = nil
	o.free = append(o.free, src)
}

func (o *origins) get(src int32) ingest.Origin {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.all[src]
}

// each calls f for every run of positions of one origin.
func (o *origins) each(pos []record.Position, f func(ingest.Origin, []record.Position)) {
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
