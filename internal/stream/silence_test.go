package stream

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// One topic's streams are silent. Another's are closed before any report, so
// that opens fail and only one is tried at a time: it gets its turn all the
// same, and what the silent one waits for grows for that topic alone.
func TestSilentTopicKeepsNobody(t *testing.T) {
	t.Parallel()
	var broken, silent atomic.Int64
	var heal atomic.Bool
	f := newFake(t, func(x *exchange) {
		x.next()
		switch {
		case x.topic == "dead" && !heal.Load():
			silent.Add(1)
			for ok := true; ok; _, ok = x.next() {
			}
		case x.topic == "live" && broken.Add(1) == 1:
			x.reset() // from now on one stream at a time is tried
		default:
			x.ok("1")
			x.deliverAll()
		}
	})
	cfg := fastConfig()
	cfg.ReportTimeout, cfg.Silence = time.Second, time.Minute
	p, books := testPool(t, cfg, f.url(), limit.Profile{})
	submit(t, p, batchOf("live", 100, "1"))
	for broken.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	submit(t, p, batchOf("dead", 100, "1"))
	wait := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never %s: %+v", what, p.Stats())
			}
		}
	}
	wait("live is delivered", func() bool { n, _ := books.counts(); return n == 1 })
	sent := 1
	wait("dead is asked again and again", func() bool {
		sent++
		submit(t, p, batchOf("live", 100, ids("l", sent)[sent-1]))
		return silent.Load() >= 3
	})
	p.mu.Lock()
	fails, dead := p.fails, p.topics["dead"]
	p.mu.Unlock()
	dead.mu.Lock()
	shunned := dead.fails
	dead.mu.Unlock()
	if fails > 1 || shunned == 0 {
		t.Errorf("%d failed opens of the endpoint, %d of the silent topic", fails, shunned)
	}
	heal.Store(true)
	drain(t, p, 10*time.Second)
	if n, rejected := books.counts(); n != sent+1 || rejected != 0 {
		t.Errorf("%d delivered, %d rejected", n, rejected)
	}
	dead.mu.Lock()
	defer dead.mu.Unlock()
	if dead.fails != 0 || !dead.notBefore.IsZero() {
		t.Error("the topic is still shunned, with its report there")
	}
}

// While opens fail, a silent stream holds the only try for a second and not for
// as long as a report may take.
func TestSilentStreamLetsOthersTry(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{}, 8)
	f := newFake(t, func(x *exchange) {
		if x.topic == "dead" {
			silent <- struct{}{}
			for ok := true; ok; _, ok = x.next() {
			}
			return
		}
		x.deliverAll()
	})
	cfg := fastConfig()
	cfg.ReportTimeout, cfg.Silence = time.Hour, time.Hour
	p, books := testPool(t, cfg, f.url(), limit.Profile{})
	p.backOff(0) // an open failed
	submit(t, p, batchOf("dead", 100, "1"))
	<-silent
	submit(t, p, batchOf("live", 100, "1"))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if n, _ := books.counts(); n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not delivered: %+v", p.Stats())
		}
	}
}
