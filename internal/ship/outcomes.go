package ship

import (
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// outcomes is where every record ends: it keeps the books, writes dead letters
// and reports, and tells the origin. Pools have it as their Handler.
//
// Concurrency: safe.
type outcomes struct {
	books   *books
	origins *origins
	reports *reportLog // nil: nobody wants them all

	mu     sync.RWMutex
	routes []routeEnd // by number; a reload only adds
}

// routeEnd is what the end of a record needs of its route.
type routeEnd struct {
	name string
	dead *deadLetter
}

func newOutcomes() *outcomes { return &outcomes{books: newBooks(), origins: &origins{}} }

// addRoute gives a route its number.
func (o *outcomes) addRoute(name string, d *deadLetter) int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.routes = append(o.routes, routeEnd{name, d})
	return int32(len(o.routes) - 1)
}

func (o *outcomes) route(id int32) routeEnd {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.routes[id]
}

// Delivered implements stream.Handler.
func (o *outcomes) Delivered(b *record.Batch, from, to int) {
	o.books.deliver(b.Topic, o.origins.open(b.Pos[from:to])) // a closed buffer's are sent and counted again
	o.origins.settle(b.Pos[from:to], ingest.Origin.Delivered)
}

// Rejected implements stream.Handler.
func (o *outcomes) Rejected(b *record.Batch, i int, why stream.Rejection) {
	d := ingest.NewDeadLetter(b.Bytes(i, i+1))
	o.keep(&d, b.Route, b.Topic, b.Pos[i], why)
}

// Report implements stream.Handler.
func (o *outcomes) Report(b *record.Batch, i int, rep *stream.Report) {
	origin := o.origins.get(b.Pos[i].Source)
	if o.reports != nil {
		source, offset := origin.Where(b.Pos[i])
		o.reports.add(source, offset, b.Topic, rep)
	}
	if b.Raw && lasting(rep) {
		if r, ok := origin.Origin.(ingest.Reporter); ok {
			r.Report(b.Pos[i], rep.Raw)
		}
	}
}

// lasting says whether a report may be a record's last: those that only send it
// round again are not its origin's business.
func lasting(rep *stream.Report) bool {
	v := stream.Judge(rep.ErrorCode, rep.Message)
	return v.Outcome == record.Delivered || v.Outcome == record.Rejected
}

// keep writes a rejected record to its route's dead letter.
func (o *outcomes) keep(d *ingest.DeadLetter, route int32, topic string, pos record.Position, why stream.Rejection) {
	d.Time = time.Now().UTC().Format(time.RFC3339Nano)
	d.Source, d.Position = o.origins.get(pos.Source).Where(pos)
	d.Topic = topic
	d.ErrorCode, d.Reason, d.Message, d.Attempts = why.Code, why.Reason, why.Message, why.Attempts
	o.route(route).dead.put(rejected{DeadLetter: *d, route: route, pos: pos})
}

// kept is called once a rejected record's line is synced.
func (o *outcomes) kept(r *rejected) {
	origin := o.origins.get(r.pos.Source)
	if origin.kind == fromClosed {
		return // not read, as the books have it, and rejected once it is
	}
	o.books.reject(r.route, r.Topic, r.Reason)
	origin.Rejected(r.pos, r.ErrorCode, r.Message)
	origin.settled(1)
}

// refused is what a Sink rejects, as a dead-letter line: raw for a record that
// was a whole one already, else the payload of one to be encoded.
func refused(raw bool, pos record.Position, payload []byte) ingest.DeadLetter {
	d := ingest.DeadLetter{Unsent: !raw, Raw: raw}
	if payload == nil {
		d.Length = int64(pos.Len)
	} else {
		d.SetPayload(payload)
	}
	return d
}
