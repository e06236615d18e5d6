package ingest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/produce-agent/produce-agent/internal/record"
)

// BatchConfig says when a batch is full. Start from DefaultBatchConfig.
type BatchConfig struct {
	Bytes  int           // encoded bytes at which a batch closes
	Linger time.Duration // how long a record waits for others when input is slow
}

// DefaultBatchConfig: 64 KiB is the largest chunk that is not slower on a
// socket (16 to 64 KiB measured alike). 5 ms at 1,000 records/s makes 200
// writes a second instead of 1,000, and nobody sees 5 ms in a log pipeline.
func DefaultBatchConfig() BatchConfig {
	return BatchConfig{Bytes: 64 << 10, Linger: 5 * time.Millisecond}
}

// Flags binds the settings that users turn.
func (c *BatchConfig) Flags(f *pflag.FlagSet) {
	f.IntVar(&c.Bytes, "batch-bytes", c.Bytes, "close a batch at this many encoded bytes, 1024..4194304; 16 to 64 KiB are equally fast. See also --linger")
	f.DurationVar(&c.Linger, "linger", c.Linger, "how long a record of a slow input waits for others, 0..10s; 0 = send at once. The first record after a pause never waits")
}

// Validate names the flag, the value and the bounds of what is wrong.
func (c *BatchConfig) Validate() error {
	switch {
	case c.Bytes < 1024 || c.Bytes > 4<<20:
		return fmt.Errorf("--batch-bytes=%d: must be 1024..4194304", c.Bytes)
	case c.Linger < 0 || c.Linger > 10*time.Second:
		return fmt.Errorf("--linger=%s: must be 0..10s", c.Linger)
	}
	return nil
}

// batcher builds the batches of one topic.
//
// mu guards all below it. A source holds it while it takes a buffer apart, so
// the lock costs once a read; the linger timer takes it to close a batch that
// nothing was added to for too long. The Sink is called with it held: while
// the Sink waits, the source waits.
type batcher struct {
	cfg   BatchConfig
	topic string
	sink  Sink

	mu       sync.Mutex
	cur      *record.Batch
	lastSent time.Time
	armed    bool
	timer    *time.Timer
	err      error // of a Submit from the timer; the source returns it
}

func newBatcher(cfg BatchConfig, topic string, sink Sink) *batcher {
	return &batcher{cfg: cfg, topic: topic, sink: sink, cur: record.NewBatch(topic)}
}

// add encodes one record into the batch. Called with mu held.
func (b *batcher) add(e *record.Encoder, payload, id []byte, pos record.Position) error {
	buf, err := e.Append(b.cur.Tail(), payload, id)
	if err != nil {
		return b.reject(err, payload, pos)
	}
	b.cur.Commit(buf, pos)
	if b.cur.Size() >= b.cfg.Bytes {
		return b.flush()
	}
	return nil
}

// reject passes a record on that could not be encoded.
func (b *batcher) reject(err error, payload []byte, pos record.Position) error {
	var invalid *record.InvalidError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("encode record at byte %d: %w", pos.Offset, err)
	}
	return b.sink.Reject(b.topic, pos, payload, invalid)
}

// flush hands the batch on. Called with mu held.
func (b *batcher) flush() error {
	if b.err != nil {
		return b.err
	}
	if b.cur.Len() == 0 {
		return nil
	}
	full := b.cur
	b.cur = record.NewBatch(b.topic)
	if b.err = b.sink.Submit(full); b.err != nil {
		return b.err
	}
	b.lastSent = time.Now()
	return nil
}

// pause is called when the input has no more for the moment: the batch goes at
// once when nothing was sent for a linger, else when that is over. Called with
// mu held.
func (b *batcher) pause() error {
	if b.cur.Len() == 0 || b.err != nil {
		return b.err
	}
	wait := b.cfg.Linger - time.Since(b.lastSent)
	if wait <= 0 {
		return b.flush()
	}
	if b.armed {
		return nil
	}
	b.armed = true
	if b.timer == nil {
		b.timer = time.AfterFunc(wait, b.lingered)
	} else {
		b.timer.Reset(wait)
	}
	return nil
}

// pacer is an input that can say whether it has more.
type pacer interface {
	// sleep waits, or returns at once when the input is to end.
	sleep(d time.Duration)
	// ready says whether a Read would return without waiting.
	ready() bool
}

// trickle is the size of a read up to which an input counts as slow: one read
// a record costs more than all the rest, so such an input is left alone until
// the linger is over and then read in one go.
const trickle = 8 << 10

// gather does for a live input what pause does, with fewer wake-ups: what was
// read goes, and after a small read the input is left alone for a linger, to be
// read in one go then. The first record after a pause goes at once. An input
// that fills its reads is not slowed down.
func (b *batcher) gather(in pacer, n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n >= trickle && time.Since(b.lastSent) < 2*b.cfg.Linger && in.ready() {
		return b.err
	}
	if err := b.flush(); err != nil {
		return err
	}
	if n < trickle && b.cfg.Linger > 0 {
		in.sleep(b.cfg.Linger)
	}
	return nil
}

// lingered closes the batch when it has waited long enough.
func (b *batcher) lingered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = false
	_ = b.pause() // an error stays in b.err for the source
}

// close hands the last batch on and ends the timer.
func (b *batcher) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
	return b.flush()
}
