package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// A held topic is probed again whatever its probe comes back with: a probe
// that is refused for another reason, or lost for good, must not be the last.
func TestHoldGoesOnAfterOddProbe(t *testing.T) {
	f := func(name string, probe func(x *exchange) bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Int32
			srv := newFake(t, func(x *exchange) {
				for {
					id, ok := x.next()
					if !ok {
						x.end()
						return
					}
					switch seen.Add(1) {
					case 1:
						x.refuse(40301, "Not authorized to access topics: [t]")
					case 2:
						if !probe(x) {
							return
						}
					default:
						if x.ok(id) != nil {
							return
						}
					}
				}
			})
			p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
			submit(t, p, batchOf("t", 0, "a"))
			submit(t, p, batchOf("t", 0, "b"))
			submit(t, p, batchOf("t", 0, "c"))
			drain(t, p, 5*time.Second)
			if d, r := k.counts(); d+r != 3 || len(k.twice) > 0 {
				t.Errorf("%d delivered, %d rejected, twice: %v", d, r, k.twice)
			}
		})
	}
	f("50003", func(x *exchange) bool { x.refuse(50003, "later"); return true })
	f("429", func(x *exchange) bool { x.refuse(429, "slow down"); return true })
	f("413", func(x *exchange) bool { x.refuse(413, "too large"); return true })
	f("408", func(x *exchange) bool { x.refuse(408, "too old"); x.end(); return false })
	f("reset", func(x *exchange) bool { x.reset(); return false })
	f("terminal", func(x *exchange) bool {
		x.refuse(400, "Bad Request: Error processing message: Unexpected character")
		x.end()
		return false
	})
}

// A window that is never empty must not grow with all it ever held.
func TestWindowQueueStaysSmall(t *testing.T) {
	w := newWindow()
	g := segment{b: batchOf("t", 0, "a"), to: 1}
	w.push(g)
	for range 100_000 {
		w.push(g)
		if _, ok := w.pop(); !ok {
			t.Fatal("nothing to pop")
		}
		w.release(1, g.size())
	}
	if cap(w.queue) > 1024 {
		t.Errorf("the queue has room for %d segments though 2 are the most it held", cap(w.queue))
	}
	if n, _, _ := w.fill(); n != 1 {
		t.Errorf("%d records in the window, want 1", n)
	}
}

// A stream that idled for longer than the report time-out has all of it for
// the next record, even while that is being written.
func TestIdleStreamIsNotStalled(t *testing.T) {
	c, peer := net.Pipe()
	defer c.Close()
	defer peer.Close()
	cfg := fastConfig()
	p, _ := testPool(t, cfg, newFake(t, nil).url(), limit.Profile{})
	s := newStream(p, newTopic(p, "t"), c)
	now := time.Now()
	s.progress.Store(int64(p.since(now.Add(-2 * cfg.ReportTimeout))))
	s.win.push(segment{b: batchOf("t", 0, "a"), to: 1, sent: now})
	s.inspect(now.Add(time.Second))
	if s.broken.Load() {
		t.Errorf("a record sent a second ago was taken for stalled: %s", s.reason())
	}
	s.inspect(now.Add(cfg.ReportTimeout + time.Second))
	if !s.broken.Load() {
		t.Error("a record without a report for longer than the time-out was not noticed")
	}
}

// Reports that are whole are acted on though the size line of the next chunk
// has begun to arrive.
func TestReportsBeforeHalfAChunkLine(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		id, _ := x.next()
		x.store(id)
		body := goodReport(1) + "\r\n"
		fmt.Fprintf(x.conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0000", len(body), body)
		if _, ok := x.next(); !ok { // comes only once the first is confirmed
			return
		}
		io.WriteString(x.conn, "a0\r\n"+strings.Repeat(" ", 0xa0)+"\r\n")
		x.head = true
		x.ok("b")
		x.deliverAll()
	})
	p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, "a"))
	submit(t, p, batchOf("t", 0, "b"))
	drain(t, p, 5*time.Second)
	if d, _ := k.counts(); d != 2 || srv.postCount() != 1 {
		t.Errorf("%d delivered over %d streams, want 2 over 1", d, srv.postCount())
	}
}

// Rubbish behind a good report breaks the stream and not the endpoint.
func TestRubbishBehindFirstReport(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		id, _ := x.next()
		if x.n > 1 {
			x.ok(id)
			x.deliverAll()
			return
		}
		x.store(id)
		x.send(goodReport(1) + "\r\n<html>proxy went away</html>")
		x.linger()
	})
	p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, "a", "b"))
	drain(t, p, 5*time.Second)
	if d, _ := k.counts(); d != 2 {
		t.Errorf("%d delivered, want 2", d)
	}
}

// A redirect from http to https finds a TLS set-up though none was given.
func TestRedirectToTLSWithoutSetUp(t *testing.T) {
	other := newFake(t, nil)
	srv := newFake(t, func(x *exchange) {
		x.status(307, "Location: https://"+other.ln.Addr().String()+"/elsewhere\r\n", "")
	})
	cfg := fastConfig()
	cfg.DialTimeout = 200 * time.Millisecond
	p, _ := testPool(t, cfg, srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, "a"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.Drain(ctx) // it cannot work; it must not panic
	if n := srv.postCount(); n < 1 {
		t.Errorf("%d POSTs", n)
	}
}

// Several streams that are redirected at once are one hop, not several.
func TestRedirectHopsOfManyStreams(t *testing.T) {
	f := func(name string, target func(self string, n int) (location string, again bool), wantErr bool) {
		t.Run(name, func(t *testing.T) {
			srv := newFake(t, nil)
			srv.script = func(x *exchange) {
				to, ok := target("http://"+x.f.ln.Addr().String(), len(x.req.URL.Query().Get("hop")))
				if ok {
					x.status(307, "Location: "+to+"\r\n", "")
					return
				}
				x.deliverAll()
			}
			p, k := testPool(t, onceConfig(), srv.url(), limit.Profile{})
			tp := p.topic("t")
			// Four streams of the topic, all refused by the same redirect.
			for range 4 {
				c, peer := net.Pipe()
				peer.Close()
				s := newStream(p, tp, c)
				s.url = p.target.produceURL("t")
				to, _ := target(srv.url().String(), 0)
				p.follow(s, &refusal{status: 307, location: to})
				c.Close()
			}
			submit(t, p, batchOf("t", 0, "a"))
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err := p.Drain(ctx)
			var e *EndpointError
			if wantErr != errors.As(err, &e) {
				t.Errorf("drain: %v, want an endpoint error: %v", err, wantErr)
			}
			if d, _ := k.counts(); d != 1 && !wantErr {
				t.Errorf("%d delivered, want 1", d)
			}
		})
	}
	path := "/v3/clusters/lkc-x/topics/t/records?hop="
	f("two hops", func(self string, n int) (string, bool) { return self + path + strings.Repeat("x", n+1), n < 2 }, false)
	f("to itself", func(self string, n int) (string, bool) { return self + path, true }, true)
	f("a ring", func(self string, n int) (string, bool) { return self + path + strings.Repeat("x", (n+1)%3), true }, true)
	f("endless", func(self string, n int) (string, bool) { return self + path + strings.Repeat("x", n+1), true }, true)
}

// While opens fail one stream probes the endpoint for all. One that has
// nothing to send must let the next try.
func TestIdleProbeIsReleased(t *testing.T) {
	srv := newFake(t, nil)
	cfg := fastConfig()
	cfg.Heartbeat = 100 * time.Millisecond
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	p.backOff(0) // an open has failed
	idle := p.topic("idle")
	p.mu.Lock()
	idle.mu.Lock()
	p.startOrQueue(idle) // with work that another stream took meanwhile
	idle.fresh <- batchOf("idle", 0)
	idle.mu.Unlock()
	p.mu.Unlock()
	for len(p.probe) == 0 {
		time.Sleep(time.Millisecond)
	}
	submit(t, p, batchOf("t", 0, "a"))
	drain(t, p, 8*time.Second)
	if d, _ := k.counts(); d != 1 {
		t.Errorf("%d delivered, want 1", d)
	}
}

// A back-off that begins while the Pool stops arms no timer.
func TestNoTimerAfterStop(t *testing.T) {
	a, _ := auth.NewBasic("k", "s")
	p := New(fastConfig(), Target{Base: newFake(t, nil).url(), ClusterID: "x", Auth: a}, limit.Profile{}, newBooks(), quiet(), nil)
	tp := p.topic("t")
	stopPool(t, p, 5*time.Second)
	b := batchOf("t", 0, "a", "b")
	b.Seal()
	tp.retry(segment{b: b, to: 2}, 0, nextTry(nil), 0)
	tp.block(segment{b: b, to: 2}, 1, nextTry(nil), Judge(40301, nil), 40301, "denied")
	time.Sleep(50 * time.Millisecond) // far more than the back-off
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if len(tp.again) > 0 || len(tp.waiting) != 1 || tp.hold == nil || tp.hold.probe != nil {
		t.Errorf("a timer fired after Stop: again %d, waiting %d, hold %+v", len(tp.again), len(tp.waiting), tp.hold)
	}
}

// Under a limit a record larger than the quantum still goes while others are
// in flight; only the window keeps it back.
func TestFitOfLargeRecords(t *testing.T) {
	profile, err := limit.ParseProfile("basic")
	if err != nil {
		t.Fatal(err)
	}
	p, _ := testPool(t, fastConfig(), newFake(t, nil).url(), profile)
	f := func(size, count, inFlight, want int) {
		t.Helper()
		c, peer := net.Pipe()
		defer c.Close()
		defer peer.Close()
		s := newStream(p, newTopic(p, "t"), c)
		s.confirmed.Store(true)
		if inFlight > 0 {
			s.win.push(segment{b: batchOf("t", inFlight, "x"), to: 1})
		}
		n, _ := s.fit(segment{b: batchOf("t", size, ids("r", count)...), to: count})
		if n != want {
			t.Errorf("%d records of %d bytes with %d bytes in flight: %d may go, want %d", count, size, inFlight, n, want)
		}
	}
	f(100, 100, 0, 10)            // a hundredth of 1,000 records
	f(30_000, 10, 0, 3)           // a hundredth of 10 MB
	f(200_000, 4, 0, 1)           // larger than the quantum: one
	f(200_000, 4, 200_000, 1)     // also behind others
	f(200_000, 4, 1_000_000, 0)   // but not past the window
	f(2_000_000, 2, 0, 1)         // larger than the window: alone
	f(2_000_000, 2, 100, 0)       // and only alone
	f(2_000_000, 2, 2_000_000, 0) // not two of them
}

// Once a 429 has started the search for the rate, small batches are paced too.
func TestSmallBatchesArePacedAfter429(t *testing.T) {
	srv := newFake(t, nil)
	p, _ := testPool(t, fastConfig(), srv.url(), limit.Profile{})
	p.throttled.Store(true)
	p.limiter.Delivered(time.Now().Add(-time.Second), 0, 0)
	p.limiter.Delivered(time.Now(), 100, 10_000)
	if !p.limiter.Throttled(time.Now(), 50, 5000) {
		t.Fatal("no cut")
	}
	start := time.Now()
	for i := range 50 { // small ones, ready at once: they would be gathered
		submit(t, p, batchOf("t", 0, ids(fmt.Sprint("b", i, "-"), 2)...))
	}
	drain(t, p, 10*time.Second)
	if took, rate := time.Since(start), p.limiter.PerSecond(); float64(100)/took.Seconds() > 4*rate {
		t.Errorf("100 records went in %s at a rate of %.0f a second", took, rate)
	}
}
