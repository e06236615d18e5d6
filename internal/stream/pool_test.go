package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// The window bounds what is sent and not reported, in records and in bytes,
// and until the first report only one batch goes.
func TestWindowBounds(t *testing.T) {
	f := func(name string, records, bytes, size int, limitName string, want int) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var first, most atomic.Int32
			srv := newFake(t, func(x *exchange) {
				seen := make(chan string, 10_000)
				go func() {
					for {
						id, ok := x.next()
						if !ok {
							close(seen)
							return
						}
						seen <- id
					}
				}()
				quiescent := func() (n int) {
					for {
						select {
						case _, ok := <-seen:
							if !ok {
								return n // the body has ended
							}
							n++
						case <-time.After(40 * time.Millisecond):
							return n
						}
					}
				}
				n := quiescent()
				first.Store(int32(n))
				open := n
				for open > 0 {
					for range open {
						x.send(goodReport(1) + "\r\n")
					}
					open = quiescent()
					if int32(open) > most.Load() {
						most.Store(int32(open))
					}
				}
				x.end()
				x.linger()
			})
			cfg := fastConfig()
			cfg.Streams, cfg.InFlight, cfg.InFlightBytes = 1, records, bytes
			profile, err := limit.ParseProfile(limitName)
			if err != nil {
				t.Fatal(err)
			}
			p, k := testPool(t, cfg, srv.url(), profile)
			for i := range 4 {
				submit(t, p, batchOf("t", size, ids(fmt.Sprint(i, "-"), 10)...))
			}
			drain(t, p, 10*time.Second)
			if n, _ := k.counts(); n != 40 {
				t.Errorf("%d delivered", n)
			}
			if int(first.Load()) > min(10, records) {
				t.Errorf("%d records went before the first report, a batch has 10", first.Load())
			}
			if int(most.Load()) > want {
				t.Errorf("%d records unreported, want at most %d", most.Load(), want)
			}
		})
	}
	f("records", 4, 1<<20, 0, "none", 4)
	f("bytes", 8192, 2000, 500, "none", 4)
	f("bytes smaller than a record", 8192, 1024, 3000, "none", 1)
	f("a large batch", 25, 1<<20, 2000, "none", 25)
	f("under a limit", 12, 1<<20, 0, "basic", 12)
}

// A stream is replaced by age or by records: the new one first, then the old
// one is ended properly. Nothing is lost or sent twice.
func TestRotation(t *testing.T) {
	f := func(name string, set func(*Config), batches int, pause time.Duration) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var unclean atomic.Int32
			srv := newFake(t, func(x *exchange) {
				for {
					id, ok := x.next()
					if !ok {
						break
					}
					if x.ok(id) != nil {
						unclean.Add(1)
						return
					}
				}
				if _, err := x.body.ReadByte(); !errors.Is(err, io.EOF) {
					unclean.Add(1)
				}
				x.end()
			})
			cfg := fastConfig()
			cfg.Streams, cfg.Heartbeat = 2, 20*time.Millisecond
			set(&cfg)
			p, k := testPool(t, cfg, srv.url(), limit.Profile{})
			for i := range batches {
				submit(t, p, batchOf("t", 0, ids(fmt.Sprint(i, "-"), 10)...))
				if pause > 0 {
					time.Sleep(pause)
				}
			}
			drain(t, p, 10*time.Second)
			if n, _ := k.counts(); n != batches*10 || len(k.twice) > 0 {
				t.Errorf("%d of %d delivered, twice %v", n, batches*10, k.twice)
			}
			stored := srv.stored()
			slices.Sort(stored)
			if n := len(slices.Compact(stored)); n != batches*10 || len(srv.stored()) != n {
				t.Errorf("%d records stored, %d different ones of %d", len(srv.stored()), n, batches*10)
			}
			s := p.Stats()
			if s.Closed[endAge] < 2 || s.Unknown > 0 || unclean.Load() > 0 {
				t.Errorf("stats %+v, unclean ends %d", s, unclean.Load())
			}
			if n := srv.postCount(); n > 3*int(s.Closed[endAge])+4 {
				t.Errorf("%d POSTs for %d rotations", n, s.Closed[endAge])
			}
		})
	}
	f("by age", func(c *Config) { c.RotateAfter = 60 * time.Millisecond }, 60, 5*time.Millisecond)
	f("by records", func(c *Config) { c.RotateRecords = 50 }, 60, 5*time.Millisecond)
	f("strict", func(c *Config) { c.RotateRecords, c.Strict = 50, true }, 20, 5*time.Millisecond)
}

// A stream with nothing to send writes a lone newline now and then; those that
// are not their topic's last end.
func TestIdle(t *testing.T) {
	var blanks atomic.Int32
	srv := newFake(t, func(x *exchange) {
		x.deliverAll()
		blanks.Add(int32(x.blank))
	})
	cfg := fastConfig()
	cfg.Heartbeat, cfg.IdleEnd = 20*time.Millisecond, 150*time.Millisecond
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	p.topic("t")
	for i := range 20 {
		submit(t, p, batchOf("t", 0, ids(fmt.Sprint(i, "-"), 10)...))
		p.grow(p.topic("t"))
	}
	drain(t, p, 5*time.Second)
	eventually(t, 5*time.Second, func() bool { return p.Stats().Open == 1 }, "the extra streams end and one stays")
	if t.Failed() {
		t.Logf("%+v", p.Stats())
	}
	time.Sleep(100 * time.Millisecond)
	stopPool(t, p, 5*time.Second)
	if n, _ := k.counts(); n != 200 {
		t.Errorf("%d delivered", n)
	}
	srv.close()
	if blanks.Load() == 0 {
		t.Error("no heartbeat came")
	}
}

func eventually(t testing.TB, wait time.Duration, f func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(wait); !f(); {
		if time.Now().After(deadline) {
			t.Errorf("not within %s: %s", wait, what)
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// Stop returns in time whatever the other side does, and what was not reported
// stays pending.
func TestStop(t *testing.T) {
	f := func(name string, script func(x *exchange)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newFake(t, script)
			p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
			for i := range 3 { // 3 × 6 MB: more than any socket buffer holds
				b := batchOf("t", 2_000_000, ids(fmt.Sprint(i, "-"), 3)...)
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = p.Submit(ctx, b)
				cancel()
			}
			eventually(t, 5*time.Second, func() bool { return srv.postCount() > 0 }, "a POST")
			stopPool(t, p, 4*time.Second)
			if err := p.Submit(context.Background(), batchOf("t", 0, "late")); !errors.Is(err, ErrClosed) {
				t.Errorf("submit after Stop: %v", err)
			}
			if s := p.Stats(); s.Open != 0 || s.InFlight != 0 || len(k.twice) > 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	f("reads nothing", func(x *exchange) { time.Sleep(1200 * time.Millisecond) })
	f("reports nothing", func(x *exchange) { io.Copy(io.Discard, x.conn) })
	f("half a head", func(x *exchange) {
		io.WriteString(x.conn, "HTTP/1.1 200 OK\r\nContent-")
		io.Copy(io.Discard, x.conn)
	})
	f("never ends its answer", func(x *exchange) {
		for id, ok := x.next(); ok; id, ok = x.next() {
			x.ok(id)
		}
		time.Sleep(1200 * time.Millisecond)
	})
	f("refuses", func(x *exchange) { x.status(503, "Retry-After: 60\r\n", "") })
}

// Stop waits for the reports that still come in its time.
func TestStopCollectsReports(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		var ids []string
		for id, ok := x.next(); ok; id, ok = x.next() {
			ids = append(ids, id)
		}
		for _, id := range ids { // only once the body has ended
			x.ok(id)
		}
		x.end()
	})
	p, k := testPool(t, fastConfig(), srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, ids("r", 10)...))
	eventually(t, 5*time.Second, func() bool { return p.Stats().Sent == 10 }, "all are sent")
	stopPool(t, p, 5*time.Second)
	if n, _ := k.counts(); n != 10 {
		t.Errorf("%d of 10 delivered", n)
	}
}

// A run that ends gives up an endpoint it never reached; one that goes on does not.
func TestDialFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	base := (&fake{ln: ln}).url()
	cfg := fastConfig()
	cfg.OneShot, cfg.MaxAttempts = true, 3
	p, _ := testPool(t, cfg, base, limit.Profile{})
	submit(t, p, batchOf("t", 0, "a"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err = p.Drain(ctx)
	var e *EndpointError
	if !errors.As(err, &e) || e.Denied || !strings.Contains(err.Error(), "nothing listens") {
		t.Errorf("drain: %v", err)
	}
	if err := p.Submit(ctx, batchOf("t", 0, "b")); !errors.As(err, &e) {
		t.Errorf("submit: %v", err)
	}

	cfg.OneShot = false
	p, k := testPool(t, cfg, base, limit.Profile{})
	submit(t, p, batchOf("t", 0, "a"))
	submit(t, p, batchOf("u", 0, "b"))
	eventually(t, 5*time.Second, func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.fails > 3 }, "four dials")
	srv := listenFake(t, addr, nil)
	t.Cleanup(srv.close)
	drain(t, p, 5*time.Second)
	if n, _ := k.counts(); n != 2 {
		t.Errorf("%d delivered", n)
	}
}

// While opens fail one stream tries for all, with a growing pause.
func TestNoHerd(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	srv := newFake(t, func(x *exchange) {
		if away.Load() {
			x.status(503, "", "")
			return
		}
		x.deliverAll()
	})
	cfg := fastConfig()
	cfg.Streams, cfg.RetryInitial, cfg.RetryMax = 8, 50*time.Millisecond, 400*time.Millisecond
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	for i := range 16 {
		submit(t, p, batchOf(fmt.Sprint("t", i), 0, "a"))
	}
	time.Sleep(1500 * time.Millisecond)
	posts := srv.postCount()
	away.Store(false)
	drain(t, p, 10*time.Second)
	// The eight that were under way when the first failed, then one at a time.
	if posts > 8+20 {
		t.Errorf("%d POSTs in 1.5 s of outage", posts)
	}
	if n, _ := k.counts(); n != 16 {
		t.Errorf("%d delivered", n)
	}
}

// What a status means for the run: the endpoint, the topic, or nothing.
func TestRefusals(t *testing.T) {
	f := func(status int, body string, endpoint, denied bool) {
		t.Run(fmt.Sprint(status, body), func(t *testing.T) {
			t.Parallel()
			srv := newFake(t, func(x *exchange) { x.status(status, "Content-Type: application/json\r\n", body) })
			cfg := fastConfig()
			cfg.OneShot, cfg.MaxAttempts = true, 3
			p, k := testPool(t, cfg, srv.url(), limit.Profile{})
			submit(t, p, batchOf("t", 0, "a", "b"))
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			err := p.Drain(ctx)
			var e *EndpointError
			var te *TopicError
			if isEndpoint := errors.As(err, &e); isEndpoint != endpoint || endpoint && e.Denied != denied {
				t.Errorf("%v: endpoint %v, want %v; %+v", err, isEndpoint, endpoint, e)
			}
			if isTopic := errors.As(err, &te); isTopic == endpoint || isTopic && te.Denied != denied {
				t.Errorf("%v: topic %v, want %v; %+v", err, isTopic, !endpoint, te)
			}
			if d, r := k.counts(); d+r != 0 {
				t.Errorf("%d delivered, %d rejected by a status", d, r)
			}
			if strings.Contains(fmt.Sprint(err), "a2V5") {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
	f(401, `{"error_code":40101,"message":"Unauthorized"}`, true, true)
	f(403, `{"error_code":40301,"message":"Forbidden"}`, false, true)
	f(404, `{"error_code":404,"message":"HTTP 404 Not Found"}`, true, false)
	f(404, `{"error_code":40403,"message":"This server does not host this topic-partition."}`, false, false)
	f(405, "", true, false)
	f(415, "", true, false)
	f(200, `<html><title>Sign in</title>`, true, false)
}

// A page behind "200 text/html" is no stream either.
func TestHTMLInPlaceOfStream(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		io.WriteString(x.conn, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><title>Welcome</title>")
		x.linger()
	})
	p, _ := testPool(t, onceConfig(), srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, "a"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var e *EndpointError
	if err := p.Drain(ctx); !errors.As(err, &e) || !strings.Contains(err.Error(), `"Welcome"`) {
		t.Errorf("drain: %v", err)
	}
}

// A compressed answer would hold reports back: say so at once.
func TestCompressedAnswer(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		if x.req.Header.Get("Accept-Encoding") != "" {
			t.Errorf("Accept-Encoding %q was sent", x.req.Header.Get("Accept-Encoding"))
		}
		io.WriteString(x.conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n")
		x.linger()
	})
	p, _ := testPool(t, onceConfig(), srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, "a"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.Drain(ctx); err == nil || !strings.Contains(err.Error(), "compressed") {
		t.Errorf("drain: %v", err)
	}
}

// A stream that brings no report is given up; others go on meanwhile.
func TestStall(t *testing.T) {
	var slow atomic.Int32
	srv := newFake(t, func(x *exchange) {
		if x.topic == "slow" && slow.Add(1) == 1 {
			io.Copy(io.Discard, x.conn)
			return
		}
		x.deliverAll()
	})
	cfg := fastConfig()
	cfg.ReportTimeout = 300 * time.Millisecond
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	submit(t, p, batchOf("slow", 0, "a"))
	for i := range 10 {
		submit(t, p, batchOf("fine", 0, ids(fmt.Sprint(i, "-"), 10)...))
	}
	drain(t, p, 10*time.Second)
	if n, _ := k.counts(); n != 101 {
		t.Errorf("%d delivered", n)
	}
	if s := p.Stats(); s.Closed[endStalled] == 0 {
		t.Errorf("%+v", s)
	}
}

// The request is what the API wants, and credentials stay with the endpoint.
func TestRequestHead(t *testing.T) {
	heads := make(chan *http.Request, 1)
	srv := newFake(t, func(x *exchange) { heads <- x.req; x.deliverAll() })
	base := srv.url()
	base.Path = "/kafka"
	p, _ := testPool(t, fastConfig(), base, limit.Profile{})
	submit(t, p, batchOf("a.b-c_d", 0, "a"))
	drain(t, p, 5*time.Second)
	r := <-heads
	if r.Method != "POST" || r.URL.Path != "/kafka/v3/clusters/lkc-x/topics/a.b-c_d/records" || r.Host != base.Host {
		t.Errorf("%s %s, host %s", r.Method, r.URL, r.Host)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json", "Authorization": "Basic a2V5OnNlY3JldA==",
		"Accept-Encoding": "", "Expect": "", "Content-Length": "", "Content-Encoding": "",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !slices.Equal(r.TransferEncoding, []string{"chunked"}) {
		t.Errorf("transfer encoding %v", r.TransferEncoding)
	}
}

// With Reports every single report is told, good ones with their offset.
func TestReportsAreTold(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		for id, ok := x.next(); ok; id, ok = x.next() {
			if id == "r1" && x.seen == 2 {
				x.refuse(50003, "later")
				continue
			}
			x.ok(id)
		}
		x.end()
	})
	cfg := fastConfig()
	cfg.Reports, cfg.Streams = true, 1
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, "r0", "r1", "r2"))
	drain(t, p, 5*time.Second)
	if want := []string{"r0 200", "r1 50003", "r2 200", "r1 200"}; !slices.Equal(k.reports, want) {
		t.Errorf("%v, want %v", k.reports, want)
	}
}

// Surplus reports break the stream: nothing can be matched any more.
func TestSurplusReports(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		id, _ := x.next()
		x.ok(id)
		if x.n == 1 {
			x.send(goodReport(2) + "\r\n" + goodReport(3) + "\r\n")
			x.linger()
			return
		}
		x.deliverAll()
	})
	cfg := fastConfig()
	cfg.Streams = 1
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	submit(t, p, batchOf("t", 0, "a"))
	drain(t, p, 5*time.Second)
	eventually(t, 5*time.Second, func() bool { return p.Stats().Closed[endError] == 1 }, "the stream is given up")
	submit(t, p, batchOf("t", 0, "b"))
	drain(t, p, 5*time.Second)
	if n, _ := k.counts(); n != 2 || len(k.twice) > 0 {
		t.Errorf("%d delivered, twice %v", n, k.twice)
	}
}

// A server that stops reading while the window has room ends nothing: what it
// reports later still counts, over a connection whose buffers were full.
func TestSlowReader(t *testing.T) {
	srv := newFake(t, func(x *exchange) {
		time.Sleep(300 * time.Millisecond)
		x.body = bufio.NewReaderSize(x.req.Body, 4<<20)
		x.deliverAll()
	})
	cfg := fastConfig()
	cfg.Streams, cfg.InFlightBytes = 1, 16<<20
	p, k := testPool(t, cfg, srv.url(), limit.Profile{})
	for i := range 4 {
		submit(t, p, batchOf("t", 1_000_000, ids(fmt.Sprint(i, "-"), 4)...))
	}
	drain(t, p, 10*time.Second)
	if s := p.Stats(); s.Delivered != 16 || s.Opened != 1 || len(k.twice) > 0 {
		t.Errorf("%+v", s)
	}
}
