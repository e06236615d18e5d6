package stream

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// Many topics share few streams: each gets its turn, also while others never
// run dry.
func TestManyTopicsOnFewStreams(t *testing.T) {
	f := func(topics, streams, batches, records int) {
		t.Run(fmt.Sprintf("%d on %d", topics, streams), func(t *testing.T) {
			t.Parallel()
			srv := newFake(t, nil)
			cfg := fastConfig()
			cfg.Streams = streams
			p, k := testPool(t, cfg, srv.url(), limit.Profile{})
			var wg sync.WaitGroup
			for i := range topics {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for j := range batches {
						submit(t, p, batchOf(fmt.Sprint("t", i), 0, ids(fmt.Sprint(j, "-"), records)...))
					}
				}()
			}
			wg.Wait()
			drain(t, p, 20*time.Second)
			if n, _ := k.counts(); n != topics*batches*records || len(k.twice) > 0 {
				t.Errorf("%d of %d delivered, twice: %v", n, topics*batches*records, k.twice)
			}
			srv.mu.Lock()
			defer srv.mu.Unlock()
			if srv.most > streams+1 { // one more while a stream is replaced
				t.Errorf("%d connections at once for %d streams", srv.most, streams)
			}
		})
	}
	f(2, 1, 1, 3)
	f(2, 1, 8, 3)
	f(3, 2, 8, 20)
	f(50, 4, 6, 10)
	f(9, 4, 12, 100)
}

// A topic that always has something to send does not keep the only stream.
func TestBusyTopicGivesWay(t *testing.T) {
	srv := newFake(t, nil)
	cfg := fastConfig()
	cfg.Streams = 1
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				submit(t, p, batchOf("busy", 0, ids(fmt.Sprint(i, "-"), 20)...))
			}
		}
	}()
	submit(t, p, batchOf("quiet", 0, "a"))
	deadline := time.Now().Add(8 * time.Second)
	for {
		k.mu.Lock()
		done := k.delivered["quiet/a"] > 0
		k.mu.Unlock()
		if done {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the quiet topic got no stream within 8 s")
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	drain(t, p, 10*time.Second)
}
