package ship

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/spool"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// buffer is a route's disk buffer.
type buffer struct {
	*spool.Spool
	route   atomic.Int32 // its lane
	source  int32        // what positions call it
	damaged int64        // counted in the books so far; guarded by Service.mu
}

// Reasons that records of a buffer end with besides those of reports.
const (
	reasonDroppedOldest = "buffer_dropped_oldest"
	reasonDroppedNewest = "buffer_dropped_newest"
	reasonDamaged       = "buffer_damaged"
)

// pump takes a route's buffered batches to its cluster, oldest first, until ctx
// ends. A topic that takes nothing is passed over while others get on, and gone
// back to once it does.
func pump(ctx context.Context, b *buffer, k *cluster, log *slog.Logger) {
	pool, err := k.wait(ctx)
	if err != nil {
		return
	}
	p := pumping{pool: pool, buffer: b, parked: map[string]bool{}, log: log}
	p.rewind()
	defer func() { p.cur.Close() }()
	for {
		batch, err := p.next(ctx)
		switch {
		case err != nil:
			return
		case batch == nil:
			continue
		}
		switch err := pool.Offer(ctx, batch, spillPatience); {
		case err == nil:
		case errors.Is(err, stream.ErrBusy):
			if !p.parked[batch.Topic] {
				log.Warn("a topic takes no records; others of the buffer pass it", "topic", batch.Topic)
			}
			p.parked[batch.Topic] = true
			p.back(batch, err)
		default:
			p.back(batch, err)
			return // the pool is closed, or given up by a run that is to end
		}
	}
}

type pumping struct {
	pool   *stream.Pool
	buffer *buffer
	cur    spool.Cursor
	parked map[string]bool
	log    *slog.Logger
}

// rewind begins again with the oldest record that nobody has.
func (p *pumping) rewind() {
	if p.cur != nil {
		p.cur.Close()
	}
	p.cur = p.buffer.Cursor(spool.Ref{}, "")
	p.cur.Skip(func(topic string) bool { return p.parked[topic] })
}

// next returns the next batch; none when there was only reason to look at what
// is parked.
func (p *pumping) next(ctx context.Context) (*record.Batch, error) {
	if len(p.parked) == 0 {
		b, _, err := p.cur.Next(ctx)
		return b, err
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	b, _, err := p.cur.Next(short)
	if err != nil && ctx.Err() == nil && short.Err() != nil {
		err = nil
	}
	freed := false
	for topic := range p.parked {
		if !p.pool.Busy(topic) {
			delete(p.parked, topic)
			freed = true
		}
	}
	if freed {
		p.rewind()
	}
	return b, err
}

// back gives a batch to the buffer again.
func (p *pumping) back(b *record.Batch, err error) {
	p.buffer.Refused(b.Pos, err)
	b.Discard()
}
