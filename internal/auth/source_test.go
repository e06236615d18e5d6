package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// mint gives the tokens token-1, token-2, … of a life, or the errors it is told.
type mint struct {
	mu   sync.Mutex
	n    int
	life time.Duration
	err  error
	slow time.Duration
}

func (m *mint) fetch(ctx context.Context) (token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	if m.slow > 0 {
		time.Sleep(m.slow)
	}
	if m.err != nil {
		return token{}, m.err
	}
	text := fmt.Sprintf("token-%d", m.n)
	tok := token{value: &text}
	if m.life > 0 {
		tok.ends = time.Now().Add(m.life)
	}
	return tok, nil
}

func (m *mint) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *mint) asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n
}

// source returns Tokens of m, and what asks them: the number of the token.
func source(t *testing.T, m *mint, lead time.Duration, l *logged) (*Tokens, func() string) {
	t.Helper()
	s := newTokens(grant{fetch: m.fetch, lead: lead, log: l.log()})
	t.Cleanup(s.Close)
	return s, func() string {
		t.Helper()
		header, err := s.Authorization(t.Context())
		if err != nil {
			return err.Error()
		}
		return strings.TrimPrefix(header, "Bearer token-")
	}
}

// A day of fifteen-minute tokens: each is renewed in the last minute and a bit,
// and nobody is ever handed one that has ended, or waits for one.
func TestTokensAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: 15 * time.Minute}
		s, ask := source(t, m, time.Minute, &logged{})
		began := time.Now()
		for time.Since(began) < 24*time.Hour {
			at := time.Now()
			if got := ask(); strings.Contains(got, " ") {
				t.Fatal(got)
			}
			s.mu.Lock()
			left := time.Until(s.tok.ends)
			s.mu.Unlock()
			if time.Since(at) != 0 && m.asked() > 1 {
				t.Fatalf("waited %s", time.Since(at))
			}
			if left < 59*time.Second {
				t.Fatalf("after %s a token with %s left", time.Since(began), left)
			}
			time.Sleep(time.Second)
		}
		// 14 minutes, less at most 6 s at random, and a second until it is used.
		if n := m.asked(); n < 102 || n > 105 {
			t.Errorf("%d tokens in 24 hours", n)
		}
		s.Close()
	})
}

// A token that lives shorter than the usual lead is renewed at half its life.
func TestShortTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Minute}
		s, ask := source(t, m, 3*time.Minute, &logged{})
		first := ask()
		time.Sleep(26 * time.Second)
		if got := ask(); got != first {
			t.Errorf("renewed before its half: %s", got)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := ask(); got != "2" {
			t.Errorf("token %s after more than half its life", got)
		}
		s.Close()
	})
}

// What nobody asks for costs no token; the next who asks gets one.
func TestUnusedTokensAreNotRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour}
		s, ask := source(t, m, 3*time.Minute, &logged{})
		ask()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := m.asked(); n != 2 { // the first was used, the second was not
			t.Errorf("%d requests in ten idle hours", n)
		}
		if got := ask(); got != "3" {
			t.Errorf("token %s", got)
		}
		s.Close()
	})
}

// While renewal fails the old token is used, with waits that grow and a warning
// each time; when it has ended who asks is told why.
func TestRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, l := &mint{life: time.Hour}, &logged{}
		s, ask := source(t, m, 3*time.Minute, l)
		ask()
		m.set(&TokenError{Text: "out of order"})
		time.Sleep(59 * time.Minute)
		if got := ask(); got != "1" {
			t.Errorf("%s in its last minute", got)
		}
		if n := strings.Count(l.String(), "token cannot be renewed"); n < 3 || n > 12 || n != m.asked()-1 {
			t.Errorf("%d warnings, %d requests:\n%s", n, m.asked(), l)
		}
		time.Sleep(2 * time.Minute)
		if got := ask(); !strings.Contains(got, "out of order") {
			t.Errorf("after its end: %s", got)
		}
		before := m.asked()
		for range 100 { // who insists does not make the endpoint be asked
			ask()
		}
		if n := m.asked(); n > before+1 {
			t.Errorf("%d requests more", n-before)
		}
		m.set(nil)
		time.Sleep(longestWait)
		if got := ask(); strings.Contains(got, " ") || !strings.Contains(l.String(), "gives tokens again") {
			t.Errorf("%s\n%s", got, l)
		}
		s.Close()
	})
}

// A used-up quota is waited for as long as the answer says.
func TestQuotaIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, err: &TokenError{Text: "quota", After: 12 * time.Hour}}
		s, ask := source(t, m, 3*time.Minute, &logged{})
		for range 11 * 60 {
			if got := ask(); !strings.Contains(got, "not asked again for") {
				t.Fatal(got)
			}
			time.Sleep(time.Minute)
		}
		if m.asked() != 1 {
			t.Errorf("%d requests", m.asked())
		}
		m.set(nil)
		time.Sleep(2 * time.Hour)
		if got := ask(); got != "2" {
			t.Error(got)
		}
		s.Close()
	})
}

// A thousand who ask at once cost one request; one who goes away leaves it to
// the others.
func TestOneRequestForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour, slow: time.Second}
		s, _ := source(t, m, time.Minute, &logged{})
		var wg sync.WaitGroup
		var good, gone atomic.Int32
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
				if i%2 == 0 {
					ctx, cancel = context.WithTimeout(context.Background(), time.Millisecond)
				}
				defer cancel()
				if h, err := s.Authorization(ctx); err == nil && h == "Bearer token-1" {
					good.Add(1)
				} else if errors.Is(err, context.DeadlineExceeded) {
					gone.Add(1)
				}
			})
		}
		wg.Wait()
		if m.asked() != 1 || good.Load() != 500 || gone.Load() != 500 {
			t.Errorf("%d requests, %d good, %d gone", m.asked(), good.Load(), gone.Load())
		}
		s.Close()
	})
}

// A refused token is replaced at once; a server that refuses all of them does
// not cost one each time.
func TestRefusedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{life: time.Hour}
		s, ask := source(t, m, time.Minute, &logged{})
		f := func(value string, drop, want bool) {
			t.Helper()
			if got := Refused(s, "Bearer token-"+value, drop); got != want {
				t.Errorf("token %s, drop %v: %v", value, drop, got)
			}
		}
		ask()
		f("1", false, false)
		f("1", true, true)
		f("1", true, true) // another stream had it too
		if got := ask(); got != "2" {
			t.Error(got)
		}
		f("1", true, true)
		f("2", true, false) // so soon
		time.Sleep(dropAgain)
		f("2", true, true)
		if got := ask(); got != "3" || m.asked() != 3 {
			t.Errorf("%s, %d requests", got, m.asked())
		}
		s.Close()
		if _, err := s.Authorization(t.Context()); err != nil {
			t.Errorf("a closed source has its last token: %v", err)
		}
	})
}

// A refused token is kept where no other can be had: what refused it may be one
// node of many, and the token endpoint be down.
func TestRefusedTokenComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, life := range []time.Duration{2 * time.Hour, 0} {
			m, l := &mint{life: life}, &logged{}
			s, ask := source(t, m, time.Minute, l)
			ask()
			m.set(&TokenError{Text: "quota", After: 30 * time.Minute})
			if !Refused(s, "Bearer token-1", true) {
				t.Error("not dropped")
			}
			if got := ask(); got != "1" {
				t.Errorf("without another: %s", got)
			}
			for range 29 {
				if Refused(s, "Bearer token-1", true) || ask() != "1" {
					t.Fatal("dropped though no other can be asked for")
				}
				time.Sleep(time.Minute)
			}
			if m.asked() != 2 || !strings.Contains(l.String(), "token cannot be renewed") || strings.Contains(l.String(), "ends_in=-") {
				t.Errorf("%d requests\n%s", m.asked(), l)
			}
			m.set(nil)
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if got := ask(); got != "3" || !Refused(s, "Bearer token-1", true) {
				t.Errorf("once there is one: %s", got)
			}
			s.Close()
		}
	})
}

// A server that refuses every token for a day costs few, whatever it is asked;
// once one was accepted the next that is refused is dropped soon again.
func TestRefusalsCostFewTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{} // without an end: each is a drop's
		s, ask := source(t, m, time.Minute, &logged{})
		for range 48 * 60 {
			Refused(s, "Bearer token-"+ask(), true)
			time.Sleep(time.Minute)
		}
		if n := m.asked(); n < 8 || n > 14 {
			t.Errorf("%d tokens in two days", n)
		}
		before := m.asked()
		Accepted(s, "Bearer token-1") // of a request that was long on its way
		if Refused(s, "Bearer token-"+ask(), true) {
			t.Error("another token's acceptance counts")
		}
		Accepted(s, "Bearer token-"+ask())
		if !Refused(s, "Bearer token-"+ask(), true) || ask() == "" || m.asked() != before+1 {
			t.Errorf("not dropped once one was accepted, %d requests more", m.asked()-before)
		}
		s.Close()
	})
}

// A token without an end is used until it is refused.
func TestTokenWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mint{}
		s, ask := source(t, m, time.Minute, &logged{})
		ask()
		time.Sleep(1000 * time.Hour)
		if got := ask(); got != "1" || !strings.Contains(s.Describe(), "whose end nobody told") {
			t.Errorf("%s, %s", got, s.Describe())
		}
		s.Close()
	})
}

// Processes that share a directory share a token: one asks, the others find it,
// after a restart as well, and renewal is one's work too.
func TestStoreSharesATokenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, dir := &mint{life: time.Hour}, t.TempDir()
		process := func() (*Tokens, func() string) {
			s := newTokens(grant{fetch: m.fetch, lead: 3 * time.Minute, log: silent, store: newStore(dir, "https://idp", "client", "a")})
			return s, func() string {
				h, err := s.Authorization(t.Context())
				if err != nil {
					return err.Error()
				}
				return h
			}
		}
		var all []*Tokens
		var asks []func() string
		for range 5 {
			s, ask := process()
			all, asks = append(all, s), append(asks, ask)
		}
		for range 12 * 60 {
			for _, ask := range asks {
				if got := ask(); !strings.HasPrefix(got, "Bearer token-") {
					t.Fatal(got)
				}
			}
			time.Sleep(time.Minute)
		}
		// 57 minutes, less 18 s at random: the first of five has all of that.
		if n := m.asked(); n < 12 || n > 14 {
			t.Errorf("5 processes had %d tokens in 12 hours", n)
		}
		for _, s := range all {
			s.Close()
		}
		before := m.asked()
		s, ask := process()
		if got := ask(); got != fmt.Sprintf("Bearer token-%d", before) || m.asked() != before {
			t.Errorf("after a restart: %s, %d requests more", got, m.asked()-before)
		}
		// A refused one is not taken from the file again.
		if got := ask(); !s.Refused(got, true) || ask() == got || m.asked() != before+1 {
			t.Errorf("%s again, %d requests more", got, m.asked()-before)
		}
		s.Close()
	})
}
