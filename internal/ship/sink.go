package ship

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/spool"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// lane is a running route: where its records wait and where they go.
type lane struct {
	id      int32
	name    string
	cluster *cluster
	dead    *deadLetter
	buffer  *buffer // nil: none
	spill   string  // parked, never or always
	ordered bool    // by key, or strictly
}

// sink takes what one input makes. It implements ingest.Sink.
type sink struct {
	s     *Service
	ctx   context.Context // done: the input is to end, and what is not taken is given up
	lanes map[int32]*lane // by route, those of the input

	buffers bool // everything goes to the buffer first
	refuses bool // what cannot be taken now goes back to its origin
	stdin   bool // what is not taken nobody else has
	read    atomic.Int64
	pending atomic.Int64 // taken and not settled

	again sync.WaitGroup // batches a buffer did not take at first
}

// spillPatience is how long a record waits for a topic that others leave
// behind before it goes to the buffer, or back.
const spillPatience = time.Second

// Submit implements ingest.Sink.
func (k *sink) Submit(b *record.Batch) error {
	n := int64(b.Len())
	k.read.Add(n)
	k.pending.Add(n)
	k.s.books.read.Add(n)
	err := k.take(b)
	if err != nil {
		// Not taken: a file gives it again from where it was left, a request is
		// told so, and stdin's go where a reload leads them, or are pending until
		// the very end.
		if k.giveUp(b, err) || k.refuses && k.ctx.Err() == nil {
			return nil
		}
	}
	return err
}

// giveUp returns a batch that was not taken to its origins. It returns true
// where the Service has taken it over.
func (k *sink) giveUp(b *record.Batch, why error) bool {
	if k.stdin && k.ctx.Err() != nil && k.s.adopt(b) {
		return true
	}
	k.s.giveBack(b.Pos, why)
	b.Discard()
	return false
}

// take finds a place for b. With an error b is still the caller's.
func (k *sink) take(b *record.Batch) error {
	l := k.lanes[b.Route]
	spills := l.buffer != nil && l.spill != "never"
	// In order nothing may pass by the buffer that is to be behind, or before,
	// what is in it: at the next start both would come at once.
	if l.buffer != nil && (k.buffers || spills && l.ordered) {
		return k.store(l, b)
	}
	ctx := k.ctx
	if spills && l.spill == "always" {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, spillPatience)
		defer cancel()
	}
	pool, err := l.cluster.wait(ctx)
	if err == nil {
		if spills || k.refuses {
			err = pool.Offer(ctx, b, spillPatience)
		} else {
			err = pool.Submit(ctx, b)
		}
	}
	switch {
	case err == nil:
		return nil
	case k.ctx.Err() != nil:
		return context.Cause(k.ctx)
	case spills && (errors.Is(err, stream.ErrBusy) || ctx.Err() != nil):
		return k.store(l, b)
	}
	return err
}

// store puts b in its route's buffer. Its origin is told once it is durable.
func (k *sink) store(l *lane, b *record.Batch) error {
	for {
		err := k.append(l, b)
		switch {
		case err == nil:
			return nil
		case k.refuses || k.ctx.Err() != nil || errors.Is(err, spool.ErrTooLarge) || errors.Is(err, spool.ErrClosed):
			return err
		case errors.Is(err, spool.ErrFull):
			err = l.buffer.Room(k.ctx)
		default: // the disk takes nothing: the spool says so, and readiness
			err = pause(k.ctx, storeAgain)
		}
		if err != nil {
			return err
		}
	}
}

// append puts b into the buffer's queue. In order it waits until it is durable:
// one that is not taken must not come behind the next.
func (k *sink) append(l *lane, b *record.Batch) error {
	if !l.ordered {
		return l.buffer.Append(k.ctx, b, k.s.where, func(b *record.Batch, err error) { k.stored(l, b, err) })
	}
	done := make(chan error, 1)
	err := l.buffer.Append(k.ctx, b, k.s.where, func(b *record.Batch, err error) {
		if err == nil || errors.Is(err, spool.ErrDropped) {
			k.stored(l, b, err)
			err = nil
		}
		done <- err
	})
	if err == nil {
		err = <-done
	}
	return err
}

// storeAgain is how long a batch waits that a disk did not take.
const storeAgain = 500 * time.Millisecond

// pause waits for d.
// Errors: ctx's cause when it ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stored is told what became of a batch that the buffer had taken. It is the
// buffer's goroutine that calls: it must not wait.
func (k *sink) stored(l *lane, b *record.Batch, err error) {
	switch {
	case err == nil || errors.Is(err, spool.ErrDropped): // what is dropped, the buffer has told the books
		k.s.origins.settle(b.Pos, ingest.Origin.Buffered)
	case k.refuses:
		k.giveUp(b, err)
	default:
		k.again.Go(func() {
			if err := k.store(l, b); err != nil {
				k.giveUp(b, err)
			}
		})
	}
}

// settle waits until what was taken is settled, or ctx ends: whoever reads on
// from there would else read it again.
func (k *sink) settle(ctx context.Context) {
	for k.pending.Load() > 0 && pause(ctx, 5*time.Millisecond) == nil {
		continue
	}
}

// Reject implements ingest.Sink.
func (k *sink) Reject(route int32, topic string, pos record.Position, payload []byte, why *record.InvalidError) error {
	if k.ctx.Err() != nil {
		return context.Cause(k.ctx)
	}
	k.read.Add(1)
	k.pending.Add(1)
	k.s.books.read.Add(1)
	k.s.books.refusedHere(why.Code)
	d := refused(false, pos, payload)
	k.s.keep(&d, route, topic, pos, stream.Rejection{Code: why.Code, Reason: why.Reason, Message: why.Message})
	return nil
}
