package stream

import (
	"net/url"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// wire is how one dialect goes over HTTP: where a request is sent, what its
// body looks like, and what the answer says of each record.
//
// A dialect without bounds is a stream: its body has no end, and of the
// methods for bodies none is called. All others send one request after
// another, each a body with a length.
//
// Concurrency: safe; what there is of state is the request's and the reading's.
type wire interface {
	url(t *Target, topic string) *url.URL
	types() (content, accept string)
	// bounds are the most records of a request and the most bytes of them,
	// counted as they lie in batches.
	bounds() (records, bytes int)

	// begin, add and end make a request's body. add appends one record; with an
	// error, which says why this dialect cannot carry it, nothing is added.
	begin(q *request)
	add(q *request, rec []byte) error
	end(q *request)

	// answer reads what the server says behind the head and feeds it to r in
	// the order of the records. Errors: reading.answer's.
	answer(r *reading, h head) error
	// explain puts a remedy of the dialect's own into a refusal.
	explain(ref *refusal)
}

// wireOf returns how a dialect is spoken.
func wireOf(d dialect.Dialect) wire {
	switch {
	case d == dialect.V3Records:
		return v3Records{}
	case d == dialect.V3Batch:
		return v3Batch{}
	case d.IsV2():
		return v2{server: d}
	}
	return v3Stream{}
}

// wire returns how requests are made at present.
func (p *Pool) wire() wire {
	if p.buffered.Load() {
		return v3Records{}
	}
	return p.speaks
}

// isStream says whether w's body has no end.
func isStream(w wire) bool {
	records, _ := w.bounds()
	return records == 0
}

// maxPooledBody is the largest body kept for reuse: one that is grown past it
// held a huge record.
const maxPooledBody = 2 << 20

// request is the body of a request in the making, and what of it is needed
// when the answer comes.
//
// Ownership: the serve goroutine's that took it; once it is written the reader
// reads records, size and chosen.
type request struct {
	body     []byte
	segments []segment // its records, in the body's order
	records  int
	size     int     // of the records in their batches
	chosen   []int32 // the partition each record asks for, -1 for none; v2 only

	rec     record.Wire
	scratch []byte
	keyless bool // a record without a key is among them
	alone   bool // its record wants no other beside it
}

func (q *request) reset() {
	if cap(q.body) > maxPooledBody {
		q.body = nil
	}
	if cap(q.scratch) > maxPooledBody {
		q.scratch = nil
	}
	clear(q.segments)
	q.body, q.segments, q.chosen = q.body[:0], q.segments[:0], q.chosen[:0]
	q.records, q.size, q.keyless, q.alone = 0, 0, false, false
	q.rec = record.Wire{}
}
