package stream

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// What ends a run that is to end, a service outlives: it says what is wrong,
// asks again, and delivers once it can.
func TestServiceOutlives(t *testing.T) {
	f := func(name, words string, refuse func(x *exchange)) {
		t.Run(name, func(t *testing.T) {
			var well atomic.Bool
			srv := newFake(t, func(x *exchange) {
				if !well.Load() {
					refuse(x)
					return
				}
				x.deliverAll()
			})
			p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
			submit(t, p, batchOf("t", 0, "a", "b"))
			eventually(t, 5*time.Second, func() bool {
				err := p.Trouble()
				return srv.postCount() > 2 && err != nil && strings.Contains(err.Error(), words)
			}, "it asks again and says "+words)
			well.Store(true)
			drain(t, p, 10*time.Second)
			if d, r := k.counts(); d != 2 || r != 0 || p.Trouble() != nil {
				t.Errorf("%d delivered, %d rejected, trouble %v", d, r, p.Trouble())
			}
		})
	}
	f("denied", "401", func(x *exchange) { x.status(401, "", `{"error_code":40101,"message":"Unauthorized"}`) })
	f("no such path", "404", func(x *exchange) { x.status(404, "", `{"error_code":404,"message":"HTTP 404 Not Found"}`) })
	f("ring", "redirects", func(x *exchange) {
		x.status(307, "Location: http://"+x.f.ln.Addr().String()+"/"+strings.Repeat("x", x.f.postCount()%7)+"\r\n", "")
	})
	f("no address", "no address", func(x *exchange) { x.status(307, "Location: ftp://x\r\n", "") })
	f("held", "40401", func(x *exchange) {
		x.next()
		_ = x.refuse(40401, "This server does not host this topic-partition.")
		x.end()
	})
}

// Who has another place for a batch gets it back from a topic that is held, or
// that others leave behind, and waits with all others where none gets on.
func TestOffer(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		switch x.topic {
		case "held":
			x.next()
			_ = x.refuse(40401, "This server does not host this topic-partition.")
			x.end()
		case "slow":
			_, _ = io.Copy(io.Discard, x.conn)
		default:
			x.deliverAll()
		}
	})
	cfg := fastConfig()
	cfg.RetryInitial, cfg.RetryMax, cfg.IdleEnd = 20*time.Second, 20*time.Second, time.Second
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	submit(t, p, batchOf("held", 0, "h"))
	eventually(t, 5*time.Second, func() bool { return p.Busy("held") }, "the topic is held")
	b := batchOf("held", 0, "x")
	if err := p.Offer(context.Background(), b, time.Hour); !errors.Is(err, ErrBusy) || b.Len() != 1 {
		t.Errorf("offer to a held topic: %v", err)
	}
	b.Discard()

	for i := 0; ; i++ { // until the queue is full, and no further stream takes from it
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		err := p.Submit(ctx, batchOf("slow", 0, ids("s", i+1)[i]))
		cancel()
		if err != nil {
			break
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	b = batchOf("slow", 0, "y")
	if err := p.Offer(ctx, b, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while nothing gets on: %v, want to wait", err)
	}
	stop := make(chan struct{})
	other := make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				other <- n
				return
			case <-time.After(5 * time.Millisecond):
				submit(t, p, batchOf("other", 0, ids("o", n+1)[n]))
			}
		}
	}()
	if err := p.Offer(context.Background(), b, 50*time.Millisecond); !errors.Is(err, ErrBusy) {
		t.Errorf("while others get on: %v", err)
	}
	close(stop)
	n := <-other
	eventually(t, 5*time.Second, func() bool { d, _ := k.counts(); return d == n }, "the other topic is delivered")
}

// What a stopped pool still holds is found, each record once.
func TestLeftover(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		if x.topic == "held" {
			x.next()
			_ = x.refuse(40401, "This server does not host this topic-partition.")
			x.end()
			return
		}
		for i := 0; ; i++ {
			id, ok := x.next()
			switch {
			case !ok:
				return
			case i%2 == 0:
				_ = x.ok(id)
			default:
				_ = x.refuse(429, "slow down")
			}
		}
	})
	cfg := fastConfig()
	cfg.RetryInitial, cfg.RetryMax, cfg.Streams = 20*time.Second, 20*time.Second, 2
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	want := map[string]bool{}
	for i := range 6 {
		for _, topic := range []string{"held", "mixed"} {
			names := ids(topic[:1], 10*(i+1))[10*i:]
			for _, id := range names {
				want[topic+"/"+id] = true
			}
			b := batchOf(topic, 0, names...)
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			if err := p.Submit(ctx, b); err != nil {
				for _, id := range names {
					delete(want, topic+"/"+id)
				}
			}
			cancel()
		}
	}
	stopPool(t, p, 10*time.Second)
	got := map[string]int{}
	p.Leftover(func(b *record.Batch, from, to int) {
		_, _ = p.Stats(), p.Trouble() // as somebody asks whose lock is waited for here
		for i := from; i < to; i++ {
			got[b.Topic+"/"+idOf(b.Bytes(i, i+1))]++
		}
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range want {
		if n := got[id] + k.delivered[id]; n != 1 {
			t.Errorf("%s: %d times delivered or left, want 1", id, n)
		}
	}
	if len(got) == 0 || len(k.delivered) == 0 || len(got)+len(k.delivered) != len(want) {
		t.Errorf("%d left, %d delivered, of %d", len(got), len(k.delivered), len(want))
	}
}

// Only batches marked Raw have every report told, beside others of their topic;
// records sent again stay what they were.
func TestRawReports(t *testing.T) {
	var tries atomic.Int32
	srv := newFake(t, func(x *exchange) {
		for {
			id, ok := x.next()
			if !ok {
				return
			}
			if tries.Add(1)%5 == 0 {
				_ = x.refuse(429, "slow down")
				continue
			}
			_ = x.ok(id)
		}
	})
	cfg := fastConfig()
	cfg.Streams = 1
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	for i := range 8 {
		b := batchOf("t", 0, ids("x", 10*(i+1))[10*i:]...)
		b.Raw, b.Route = i%2 == 1, int32(i%2)
		submit(t, p, b)
	}
	drain(t, p, 10*time.Second)
	k.mu.Lock()
	defer k.mu.Unlock()
	good := map[string]bool{}
	for _, r := range k.reports {
		if id, ok := strings.CutSuffix(r, " 200"); ok {
			good[id] = true
		}
	}
	var want []string
	for i := range 8 {
		if i%2 == 1 {
			want = append(want, ids("x", 10*(i+1))[10*i:]...)
		}
	}
	if len(good) != len(want) || slices.ContainsFunc(want, func(id string) bool { return !good[id] }) {
		t.Errorf("reports of %d records, want the %d of raw batches:\n%v", len(good), len(want), k.reports)
	}
	st := p.Stats()
	if a, b := st.Routes[0], st.Routes[1]; a.Codes[200] != 40 || b.Codes[200] != 40 || a.Codes[429]+b.Codes[429] != st.Codes[429] ||
		a.Sent+b.Sent != st.Sent || a.SentBytes+b.SentBytes != st.SentBytes || st.Codes[200] != 80 {
		t.Errorf("by route %+v, in all %+v", st.Routes, st)
	}
}

// Topics that nothing comes for are forgotten; those that hold something never.
func TestForgetsTopics(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		if x.topic == "held" {
			x.next()
			_ = x.refuse(40401, "This server does not host this topic-partition.")
			x.end()
			return
		}
		x.deliverAll()
	})
	cfg := fastConfig()
	cfg.IdleEnd, cfg.Streams = time.Second, 2
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	for i := range 20 {
		submit(t, p, batchOf(ids("topic", 20)[i], 0, "a"))
	}
	submit(t, p, batchOf("held", 0, "a"))
	eventually(t, 10*time.Second, func() bool { d, _ := k.counts(); return d == 20 && p.Busy("held") }, "all others are delivered")
	topics := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.topics)
	}
	p.forget(time.Now())
	if n := topics(); n != 21 {
		t.Errorf("%d topics right after", n)
	}
	eventually(t, 10*time.Second, func() bool { p.forget(time.Now().Add(forgetAfter)); return topics() <= 3 }, "those that have no stream go")
	submit(t, p, batchOf(ids("topic", 20)[0], 0, "b"))
	eventually(t, 10*time.Second, func() bool { d, _ := k.counts(); return d == 21 }, "a forgotten topic works again")
	if p.topic("held").outstanding.Load() != 1 {
		t.Error("the held record is gone")
	}
}
