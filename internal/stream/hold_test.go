package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// A topic that is denied or unknown is held: others go on, and it is probed
// one record at a time until it takes records again.
func TestHold(t *testing.T) {
	f := func(code int, message string) {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			var closed atomic.Bool
			var tried atomic.Int32
			closed.Store(true)
			srv := newFake(t, func(x *exchange) {
				for {
					id, ok := x.next()
					if !ok {
						x.end()
						return
					}
					if x.topic == "bad" && closed.Load() {
						tried.Add(1)
						x.refuse(code, message)
						continue
					}
					if x.ok(id) != nil {
						return
					}
				}
			})
			p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
			submit(t, p, batchOf("bad", 0, ids("r", 30)...))
			for i := range 10 {
				submit(t, p, batchOf("good", 0, ids(fmt.Sprint(i, "-"), 10)...))
			}
			eventually(t, 5*time.Second, func() bool { n, _ := k.counts(); return n == 100 }, "the good topic's records are delivered")
			eventually(t, 5*time.Second, func() bool { return tried.Load() > 33 || code == 40401 && tried.Load() > 5 }, "it is probed")
			if code == 40401 && tried.Load() > 200 {
				t.Errorf("%d records tried", tried.Load())
			}
			closed.Store(false)
			drain(t, p, 5*time.Second)
			if d, r := k.counts(); d != 130 || r != 0 || len(k.twice) > 0 {
				t.Errorf("%d delivered, %d rejected, twice %v", d, r, k.twice)
			}
		})
	}
	f(40401, "Topic bad not present in metadata after 60000 ms.")
	f(40301, "Not authorized to access topics: [bad]")
	f(40101, "Authentication failed")
}

// A run that ends gives such a topic up, and only that one.
func TestOneShotGivesTopicUp(t *testing.T) {
	f := func(code int, denied bool) {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			srv := newFake(t, func(x *exchange) {
				for {
					id, ok := x.next()
					if !ok {
						x.end()
						return
					}
					if x.topic == "bad" {
						x.refuse(code, "no")
						continue
					}
					if x.ok(id) != nil {
						return
					}
				}
			})
			cfg := fastConfig()
			cfg.OneShot, cfg.MaxAttempts = true, 4
			p, k := testPool(t, cfg, srv.url(), limit.Profile{})
			submit(t, p, batchOf("bad", 0, ids("r", 20)...))
			submit(t, p, batchOf("good", 0, ids("r", 20)...))
			ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
			defer cancel()
			err := p.Drain(ctx)
			var te *TopicError
			if !errors.As(err, &te) || te.Topic != "bad" || te.Denied != denied {
				t.Errorf("drain: %v", err)
			}
			if d, r := k.counts(); d != 20 || r != 0 {
				t.Errorf("%d delivered, %d rejected", d, r)
			}
			if err := p.Submit(ctx, batchOf("bad", 0, "late")); !errors.As(err, &te) {
				t.Errorf("submit: %v", err)
			}
		})
	}
	f(40401, false)
	f(40301, true)
	f(40101, true)
}

// The permissions of a new key come late: with patience a run waits for them.
func TestOneShotWaitsForPermission(t *testing.T) {
	f := func(code int) {
		t.Helper()
		var asked atomic.Int32
		srv := newFake(t, func(x *exchange) {
			for {
				id, ok := x.next()
				if !ok {
					x.end()
					return
				}
				if asked.Add(1) < 4 {
					x.refuse(code, "no")
				} else if x.ok(id) != nil {
					return
				}
			}
		})
		cfg := fastConfig()
		cfg.OneShot, cfg.AuthPatience = true, time.Minute
		p, k := testPool(t, cfg, srv.url(), limit.Profile{})
		submit(t, p, batchOf("t", 0, "a"))
		drain(t, p, 10*time.Second)
		if d, r := k.counts(); d != 1 || r != 0 {
			t.Errorf("%d: %d delivered, %d rejected", code, d, r)
		}
	}
	f(40301)
	f(40101)
}

// Reports that judge the record use attempts up; the last one rejects it.
func TestMaxAttempts(t *testing.T) {
	f := func(code int, message string, wantRejected bool) {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			var tries atomic.Int32
			srv := newFake(t, func(x *exchange) {
				for {
					id, ok := x.next()
					if !ok {
						x.end()
						return
					}
					if id == "bad" && tries.Add(1) <= 12 {
						if x.refuse(code, message); code == 408 {
							x.end()
							x.linger()
							return
						}
						continue
					}
					if x.ok(id) != nil {
						return
					}
				}
			})
			cfg := fastConfig()
			cfg.MaxAttempts = 5
			p, k := testPool(t, cfg, srv.url(), limit.Profile{})
			submit(t, p, batchOf("t", 0, "a", "bad", "b"))
			drain(t, p, 10*time.Second)
			why, rejected := k.rejected["t/bad"]
			if rejected != wantRejected || rejected && (why.Attempts != 5 || why.Code != code || why.Message != message) {
				t.Errorf("rejected %v: %+v", rejected, why)
			}
			if rejected && tries.Load() != 5 {
				t.Errorf("sent %d times", tries.Load())
			}
			if d, r := k.counts(); d+r != 3 {
				t.Errorf("%d delivered, %d rejected", d, r)
			}
		})
	}
	f(50003, "Expiring 1 record(s)", true)
	f(500, "Internal Server Error", true)
	f(40403, "This server does not host this topic-partition.", true)
	f(42207, "registry away", true)
	f(429, "Request rate limit exceeded", false)
	f(408, "Streaming connection open for longer than allowed", false)
}

// Poison is rejected after two streams at most; its neighbours are delivered.
func TestPoison(t *testing.T) {
	f := func(name string, perRecord, tooLarge bool, streams int) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newFake(t, func(x *exchange) {
				for {
					id, ok := x.next()
					if !ok {
						x.end()
						return
					}
					if strings.HasPrefix(id, "poison") {
						if perRecord {
							x.refuse(400, "Unexpected character ('x')")
						}
						if tooLarge {
							x.refuse(400, "Bad Request: Error processing message: Produce request size is larger than allowed threshold")
						} else {
							x.refuse(400, "Bad Request: Error processing message: Unexpected character ('x')")
						}
						x.end()
						x.linger()
						return
					}
					if x.ok(id) != nil {
						return
					}
				}
			})
			p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
			names := ids("r", 60)
			for _, i := range []int{0, 20, 21, 59} {
				names[i] = fmt.Sprint("poison", i)
			}
			for part := range slices.Chunk(names, 15) {
				submit(t, p, batchOf("t", 0, part...))
			}
			drain(t, p, 10*time.Second)
			d, r := k.counts()
			if d != 56 || r != 4 || len(k.twice) > 0 {
				t.Errorf("%d delivered, %d rejected, twice %v", d, r, k.twice)
			}
			for id := range k.rejected {
				if !strings.HasPrefix(id, "t/poison") {
					t.Errorf("%s was rejected: %+v", id, k.rejected[id])
				}
			}
			if n := int(p.Stats().Closed[endTerminal]); n > streams {
				t.Errorf("%d streams ended for it, want at most %d", n, streams)
			}
			if s := srv.stored(); len(s) != 56 {
				t.Errorf("%d records stored, want 56", len(s))
			}
		})
	}
	f("syntax error, reported", true, false, 4)
	f("syntax error, only the end", false, false, 8)
	f("too large", false, true, 4)
}
