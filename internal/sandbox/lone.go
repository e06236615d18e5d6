package sandbox

import (
	"context"
	"errors"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ofBatch says whether Kafka has refused a whole batch for what may be the
// doing of one record in it, or of its length altogether.
func ofBatch(err error) bool {
	for _, e := range []*kerr.Error{
		kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidTimestamp, kerr.InvalidRecord, kerr.CorruptMessage,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// lone sends records again that Kafka has refused with the batch they were in,
// one at a time, so that each gets a verdict of its own. The real server's
// producer splits a batch that is too large; of one with an invalid record it
// fails all. The Kafka client here does neither.
//
// Concurrency: safe.
type lone struct {
	mu      sync.Mutex // guards all
	waiting []*pending
	running bool
	closed  bool
	all     sync.WaitGroup
	client  *kgo.Client // set once
}

// again has p sent again, and acked.
func (b *broker) again(ctx context.Context, p *pending) {
	l := &b.lone
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, p)
	if l.running || l.closed {
		return
	}
	l.running = true
	l.all.Go(func() {
		for p := l.next(); p != nil; p = l.next() {
			p.acked(&p.rec, b.sendAlone(ctx, &p.rec))
		}
	})
}

// next takes the first that waits; with none, or once closed, it ends the run.
func (l *lone) next() *pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 || l.closed {
		l.running = false
		return nil
	}
	p := l.waiting[0]
	l.waiting = l.waiting[1:]
	return p
}

func (b *broker) sendAlone(ctx context.Context, r *kgo.Record) error {
	b.lone.mu.Lock()
	if b.lone.client == nil {
		var err error
		if b.lone.client, err = kgo.NewClient(append(b.opts[:len(b.opts):len(b.opts)], kgo.ProducerLinger(0))...); err != nil {
			b.lone.mu.Unlock()
			return err
		}
	}
	client := b.lone.client
	b.lone.mu.Unlock()
	return client.ProduceSync(ctx, r).FirstErr()
}

// purge makes the client let go of a topic.
func (l *lone) purge(topic string) {
	l.mu.Lock()
	client := l.client
	l.mu.Unlock()
	if client != nil {
		client.PurgeTopicsFromProducing(topic)
	}
}

// close waits for the record that is on its way. Its context has ended.
func (l *lone) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.all.Wait()
	if l.client != nil {
		l.client.Close()
	}
}
