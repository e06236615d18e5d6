package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// tokens is an Authorizer with values that can be refused: a new one comes with
// each that is dropped.
type tokens struct {
	mu sync.Mutex
	n  int // value in force
	// renewable: a refused value may be dropped.
	renewable bool
	err       error
	accepted  string // the last value that was
}

func (k *tokens) Accepted(value string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.accepted = value
}

func (k *tokens) Authorization(context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("Bearer %d", k.n), k.err
}

func (k *tokens) Refused(value string, drop bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if value != fmt.Sprintf("Bearer %d", k.n) {
		return true
	}
	if drop && k.renewable {
		k.n++
		return true
	}
	return false
}

func (k *tokens) Close() {}
func (k *tokens) Headers() []auth.Header {
	return []auth.Header{{Name: "Confluent-Identity-Pool-Id", Value: "pool-1"}}
}

func (k *tokens) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// memoryPool is a Pool whose connections are pipes to srv: virtual time goes on
// while it waits for them. srv accepts a record where its accept says so.
func memoryPool(cfg Config, who auth.Authorizer, accept func(authorization string) bool) (*Pool, *books, *fake) {
	srv := &fake{conns: map[net.Conn]struct{}{}, topics: map[string]bool{}}
	srv.script = func(x *exchange) {
		if !accept(x.req.Header.Get("Authorization")) {
			x.status(401, "", `{"error_code":40101,"message":"Unauthorized"}`)
			return
		}
		x.deliverAll()
	}
	dial := func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		srv.wg.Go(func() {
			srv.mu.Lock()
			srv.conns[theirs] = struct{}{}
			srv.mu.Unlock()
			srv.wg.Add(1) // answer is done once more than it is begun
			srv.answer(theirs)
		})
		return ours, nil
	}
	k := newBooks()
	target := Target{Base: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, ClusterID: "lkc-x", Auth: who, Proxy: auth.DialWith(dial)}
	return New(cfg, target, limit.Profile{}, k, quiet(), nil), k, srv
}

// realConfig has the waits that users have.
func realConfig(once bool) Config {
	c := DefaultConfig()
	c.OneShot = once
	return c
}

func finish(p *Pool, srv *fake) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p.Stop(ctx)
	srv.wg.Wait()
}

// gaveUp returns why a run ended, nil while it goes on.
func gaveUp(p *Pool) *EndpointError {
	select {
	case <-p.Broken():
		var e *EndpointError
		errors.As(p.Trouble(), &e)
		return e
	default:
		return nil
	}
}

// Credentials that never worked end a run at once, unless patience with them
// was asked for.
func TestDeniedBeforeAnything(t *testing.T) {
	f := func(patience, known time.Duration, wantEnd time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			cfg := realConfig(true)
			cfg.AuthPatience = patience
			began := time.Now()
			p, k, srv := memoryPool(cfg, basic(t), func(string) bool { return known > 0 && time.Since(began) > known })
			defer finish(p, srv)
			submit(t, p, batchOf("t", 0, "a", "b"))
			for gaveUp(p) == nil && time.Since(began) < time.Hour {
				if d, _ := k.counts(); d == 2 {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			took := time.Since(began)
			d, _ := k.counts()
			if known > 0 && known < patience {
				if d != 2 || took < known || took > known+46*time.Second || p.Trouble() != nil {
					t.Errorf("%d delivered after %s, %v", d, took, p.Trouble())
				}
				return
			}
			e := gaveUp(p)
			if e == nil || !e.Denied || d != 0 || took < wantEnd || took > wantEnd+time.Second || !strings.Contains(e.Error(), "Cloud API key") {
				t.Errorf("patience %s: %v after %s, %d delivered", patience, e, took, d)
			}
			if left, err := p.outstanding(); left != 2 {
				t.Errorf("%d pending, %v", left, err)
			}
		})
	}
	f(0, 0, 0)
	f(5*time.Minute, 0, 5*time.Minute)
	f(5*time.Minute, 2*time.Minute, 0)
}

// Credentials that worked are tried for two minutes when they are refused, and
// then count as revoked.
func TestRevoked(t *testing.T) {
	f := func(once bool, back time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			good := true
			set := func(to bool) { mu.Lock(); good = to; mu.Unlock() }
			p, k, srv := memoryPool(realConfig(once), basic(t), func(string) bool { mu.Lock(); defer mu.Unlock(); return good })
			defer finish(p, srv)
			submit(t, p, batchOf("t", 0, "a"))
			for d := 0; d != 1; d, _ = k.counts() {
				time.Sleep(10 * time.Millisecond)
			}
			set(false)
			p.eachStream(func(s *stream) { s.abort(endError) })
			began := time.Now()
			submit(t, p, batchOf("t", 0, "b", "c"))
			wait := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
			wait(110 * time.Second)
			if gaveUp(p) != nil || p.Trouble() != nil {
				t.Errorf("given up before two minutes: %v", p.Trouble())
			}
			if n := srv.postCount(); n < 5 || n > 40 {
				t.Errorf("%d POSTs in two minutes", n)
			}
			if back > 0 {
				wait(back - time.Since(began))
				if e := p.Trouble(); back > 2*time.Minute && (e == nil || !strings.Contains(e.Error(), "revoked")) {
					t.Errorf("a service after %s: %v", back, e)
				}
				set(true)
				wait(46 * time.Second) // the longest wait, jittered
				if d, r := k.counts(); d != 3 || r != 0 || p.Trouble() != nil || gaveUp(p) != nil {
					t.Errorf("%d delivered once it is well, %v", d, p.Trouble())
				}
				return
			}
			wait(15 * time.Second)
			e := gaveUp(p)
			if e == nil || !e.Denied || !strings.Contains(e.Error(), "may have been revoked") {
				t.Errorf("after two minutes: %v", e)
			}
			if left, _ := p.outstanding(); left != 2 {
				t.Errorf("%d pending", left)
			}
		})
	}
	f(true, 0)
	f(true, 115*time.Second)
	f(false, 115*time.Second)
	f(false, time.Hour)
}

// While streams that are open deliver, others that are refused change nothing.
func TestRefusedBesideOneThatDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		opened := 0
		p, k, srv := memoryPool(realConfig(true), basic(t), func(string) bool {
			mu.Lock()
			defer mu.Unlock()
			opened++
			return opened == 1
		})
		defer finish(p, srv)
		for i := range 400 { // 200 s, in which the first stream is not replaced yet
			submit(t, p, batchOf("one", 0, fmt.Sprint("r", i)))
			if i == 10 {
				submit(t, p, batchOf("two", 0, "x"))
			}
			time.Sleep(500 * time.Millisecond)
		}
		if e := gaveUp(p); e != nil || p.Trouble() != nil {
			t.Errorf("%v, %v", e, p.Trouble())
		}
		if d, _ := k.counts(); d != 400 {
			t.Errorf("%d delivered", d)
		}
		if n := srv.postCount(); n < 5 || n > 60 {
			t.Errorf("%d POSTs", n)
		}
	})
}

// A refused token is replaced and the stream opened again at once; only once,
// where the next is refused too.
func TestTokenRenewedAt401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := &tokens{renewable: true}
		var mu sync.Mutex
		want := "Bearer 0"
		p, k, srv := memoryPool(realConfig(true), who, func(got string) bool { mu.Lock(); defer mu.Unlock(); return got == want })
		defer finish(p, srv)
		submit(t, p, batchOf("t", 0, "a"))
		time.Sleep(time.Second)
		mu.Lock()
		want = "Bearer 1"
		mu.Unlock()
		p.eachStream(func(s *stream) { s.abort(endError) })
		synctest.Wait()
		before := time.Now()
		submit(t, p, batchOf("t", 0, "b"))
		synctest.Wait()
		for d := 0; d < 2; d, _ = k.counts() {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(before); took > time.Second {
			t.Errorf("a new token took %s", took)
		}
		if who.accepted != "Bearer 1" {
			t.Errorf("a report proves %q", who.accepted)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		who := &tokens{renewable: true}
		p, _, srv := memoryPool(realConfig(true), who, func(string) bool { return false })
		defer finish(p, srv)
		submit(t, p, batchOf("t", 0, "a"))
		time.Sleep(time.Second)
		if e := gaveUp(p); e == nil || !e.Denied || srv.postCount() != 2 || who.n != 1 {
			t.Errorf("%v after %d POSTs with %d tokens", e, srv.postCount(), who.n+1)
		}
	})
}

// A token endpoint that refuses us is as a 401; one that is away is tried as
// often as an endpoint.
func TestNoToken(t *testing.T) {
	f := func(err error, denied bool) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			who := &tokens{err: err}
			p, k, srv := memoryPool(realConfig(true), who, func(string) bool { return true })
			defer finish(p, srv)
			submit(t, p, batchOf("t", 0, "a"))
			time.Sleep(time.Minute)
			e := gaveUp(p)
			if d, _ := k.counts(); e == nil || e.Denied != denied || d != 0 || srv.postCount() != 0 || !errors.Is(e, err) {
				t.Errorf("%v, %d POSTs", e, srv.postCount())
			}
		})
		synctest.Test(t, func(t *testing.T) { // a service goes on
			who := &tokens{err: err}
			p, k, srv := memoryPool(realConfig(false), who, func(string) bool { return true })
			defer finish(p, srv)
			submit(t, p, batchOf("t", 0, "a"))
			time.Sleep(time.Hour)
			if gaveUp(p) != nil || !errors.Is(p.Trouble(), err) {
				t.Errorf("%v, %v", gaveUp(p), p.Trouble())
			}
			who.fail(nil)
			time.Sleep(time.Minute)
			if d, _ := k.counts(); d != 1 || p.Trouble() != nil {
				t.Errorf("%d delivered, %v", d, p.Trouble())
			}
		})
	}
	f(&auth.TokenError{Denied: true, Text: "invalid_client"}, true)
	f(&auth.TokenError{Text: "out of order"}, false)
}

// Credentials that a server quotes are in no error, whoever asked.
func TestQuotedCredentials(t *testing.T) {
	who, err := auth.NewBasic("key", "canary secret")
	if err != nil {
		t.Fatal(err)
	}
	quote := func(authorization string) string {
		return fmt.Sprintf(`{"error_code":40101,"message":"%s no good: %s, canary secret"}`, strings.Repeat("x", 200), authorization)
	}
	check := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "***") || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "a2V5") {
			t.Error(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		p, _, srv := memoryPool(realConfig(true), who, func(string) bool { return true })
		srv.script = func(x *exchange) { x.status(401, "", quote(x.req.Header.Get("Authorization"))) }
		defer finish(p, srv)
		submit(t, p, batchOf("t", 0, "a"))
		time.Sleep(time.Second)
		e := gaveUp(p)
		if e == nil {
			t.Fatal("goes on")
		}
		check(e)
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, "no good: ", r.Header.Get("Authorization"))
	}))
	defer s.Close()
	_, err = Resolve(t.Context(), Address{URL: s.URL, Auth: who, HasAuth: true, DialTimeout: time.Second, Attempts: 1})
	check(err)
}

// A redirect out of TLS is not followed: records would go in plain text.
func TestRedirectToPlainText(t *testing.T) {
	f := func(from, to string, want bool) {
		t.Helper()
		srv := newFake(t, nil)
		p, _ := testPool(t, onceConfig(), srv.url(), limit.Profile{})
		c, peer := net.Pipe()
		defer c.Close()
		defer peer.Close()
		s := newStream(p, p.topic("t"), c)
		s.url, _ = url.Parse(from)
		p.follow(s, &refusal{status: 307, location: to})
		e := gaveUp(p)
		if followed := e == nil && s.t.redirect != nil; followed != want || e != nil && !strings.Contains(e.Error(), "in plain text") {
			t.Errorf("%s to %s: followed %v, %v", from, to, followed, e)
		}
	}
	f("https://kafka.example.com/a", "http://kafka.example.com/a", false)
	f("https://kafka.example.com/a", "http://other.example.com/", false)
	f("https://kafka.example.com/a", "/b", true)
	f("http://kafka.example.com/a", "https://kafka.example.com/a", true)
	f("http://kafka.example.com/a", "http://kafka.example.com/b", true)
}

// The identity pool goes along with every request.
func TestExtraHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, srv := memoryPool(realConfig(true), &tokens{}, func(string) bool { return true })
		defer finish(p, srv)
		u := p.speaks.url(&p.target, "t")
		head, authorization, err := p.requestHead(t.Context(), u, p.speaks, inChunks)
		if err != nil || authorization != "Bearer 0" || !strings.Contains(string(head), "\r\nConfluent-Identity-Pool-Id: pool-1\r\n") {
			t.Errorf("%s, %q, %v", head, authorization, err)
		}
		elsewhere := &url.URL{Scheme: "http", Host: "elsewhere"}
		if head, _, _ := p.requestHead(t.Context(), elsewhere, p.speaks, inChunks); strings.Contains(string(head), "pool-1") || strings.Contains(string(head), "Bearer") {
			t.Errorf("credentials go to another host: %s", head)
		}
	})
}

func basic(t *testing.T) auth.Authorizer {
	t.Helper()
	a, err := auth.NewBasic("key", "secret")
	if err != nil {
		t.Fatal(err)
	}
	return a
}
