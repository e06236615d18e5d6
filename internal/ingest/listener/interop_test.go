package listener

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
	pools "github.com/produce-agent/produce-agent/internal/stream"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// tally is what a pool of streams was told.
type tally struct {
	mu                  sync.Mutex
	delivered, rejected int
	why                 pools.Rejection
}

func (a *tally) Delivered(_ *record.Batch, from, to int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.delivered += to - from
}

func (a *tally) Rejected(_ *record.Batch, _ int, why pools.Rejection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rejected++
	a.why = why
}

func (a *tally) Report(*record.Batch, int, *pools.Report) {}

// Another agent ships through the listener as it would into a cluster: it finds
// the path, the cluster's id and the topic, and every record comes through once.
func TestAnotherAgent(t *testing.T) {
	cfg := settled()
	cfg.Token = func() (string, error) { return "secret", nil }
	g := start(t, cfg)
	who, err := auth.NewBasic("key", "secret")
	if err != nil {
		t.Fatal(err)
	}
	target, err := pools.Resolve(t.Context(), pools.Address{URL: g.url, Auth: who, HasAuth: true, DialTimeout: time.Second, Attempts: 1})
	if err != nil || target.ClusterID != "lkc-1" {
		t.Fatal(target.ClusterID, err)
	}
	if !target.MissingTopic(t.Context(), "other") || target.MissingTopic(t.Context(), "logs-x") {
		t.Error("what topics there are is not understood")
	}
	const n = 20_000
	var a tally
	pool := pools.New(pools.DefaultConfig(), target, limit.Profile{}, &a, slog.New(slog.DiscardHandler), nil)
	for sent := 0; sent < n; {
		b := record.NewBatch("logs-x")
		for ; b.Len() < 100; sent++ {
			b.Commit(fmt.Appendf(b.Tail(), `{"value":{"type":"STRING","data":"%d"}}`+"\n", sent), record.Position{Offset: int64(sent)})
		}
		if err := pool.Submit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := pool.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	pool.Stop(ctx)
	seen := map[string]bool{}
	for _, p := range g.sink.payloads() {
		seen[p] = true
	}
	if a.delivered != n || a.rejected != 0 || g.sink.count() != n || len(seen) != n {
		t.Errorf("%d delivered, %d rejected (%+v); %d came, %d different, want %d", a.delivered, a.rejected, a.why, g.sink.count(), len(seen), n)
	}
}
