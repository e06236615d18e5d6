package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// token is what a token endpoint gave.
type token struct {
	value *string   // behind a pointer: see Basic
	ends  time.Time // zero: nobody told
}

func (t token) good(now time.Time) bool {
	return t.value != nil && (t.ends.IsZero() || now.Add(spare).Before(t.ends))
}

// is says whether the token is what went out as that header.
func (t token) is(header string) bool { return t.value != nil && "Bearer "+*t.value == header }

const (
	// spare is how long before its end a token is no longer handed out: a
	// request has to arrive with it.
	spare = 3 * time.Second
	// dropAgain is how long a token that replaced a refused one is not dropped
	// itself: a server that refuses all must not cost a token each time. It
	// doubles with each that was not accepted either, up to dropSeldom.
	dropAgain, dropSeldom = time.Minute, 24 * time.Hour
	// The waits between failed requests for a token.
	firstWait, longestWait = 2 * time.Second, time.Minute
	// fetchTime bounds one request for a token, a wait for another process's
	// included.
	fetchTime = 30 * time.Second
)

// Tokens is an Authorizer that gets bearer tokens from a token endpoint and
// renews them in the background before they end. A token that nobody asked for
// during its life is not renewed: the next one to ask gets it.
//
// Concurrency: safe; one request for a token at a time serves all who wait.
// While renewal fails the old token is used until it ends.
type Tokens struct {
	grant
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards what follows
	tok     token
	old     token // was refused; back in use when no other can be had
	used    bool  // asked for since it is there
	flight  *flight
	fails   int
	next    time.Time // no request before it
	err     error     // of the last request
	timer   *time.Timer
	dropped time.Time
	drops   int    // since a token was accepted
	bad     string // header that was refused
	closed  bool
}

// grant is how tokens are had, and what there is to say of them.
type grant struct {
	fetch  func(context.Context) (token, error)
	what   string        // as Describe has it
	remedy string        // as Remedy has it
	pool   string        // identity pool to name in a header; "": none
	lead   time.Duration // renew that long before the end
	store  *store        // nil: tokens are not kept
	log    *slog.Logger
}

// flight is a request for a token on its way; done is closed at its end.
type flight struct{ done chan struct{} }

func newTokens(g grant) *Tokens {
	t := &Tokens{grant: g}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Authorization returns the header with a token that has not ended.
// Errors: *TokenError; ctx's cause. While the endpoint is not to be asked again
// yet it is the last request's error.
func (t *Tokens) Authorization(ctx context.Context) (string, error) {
	for {
		t.mu.Lock()
		now := time.Now()
		if t.tok.good(now) {
			t.used = true
			t.arm(now)
			header := "Bearer " + *t.tok.value
			t.mu.Unlock()
			return header, nil
		}
		if t.closed {
			t.mu.Unlock()
			return "", errors.New("token source is closed")
		}
		if t.flight == nil && now.Before(t.next) {
			err, wait := t.err, t.next.Sub(now)
			t.mu.Unlock()
			return "", later(err, wait)
		}
		f := t.depart()
		t.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// later adds to a request's error when the next one may be made.
func later(err error, wait time.Duration) error {
	var e *TokenError
	if !errors.As(err, &e) {
		return err
	}
	again := *e
	again.After = wait
	return &again
}

// depart starts a request unless one is on its way. t.mu is held.
func (t *Tokens) depart() *flight {
	if t.flight == nil {
		f := &flight{make(chan struct{})}
		t.flight = f
		bad, old := t.bad, t.tok
		t.wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.ctx, fetchTime)
			defer cancel()
			tok, err := t.store.through(ctx, t.log, func(kept token) bool {
				// One that is not ours is another process's, which has renewed it.
				return kept.good(time.Now()) && !kept.is(bad) && (old.value == nil || *old.value != *kept.value)
			}, t.fetch)
			t.arrived(f, tok, err)
		})
	}
	return t.flight
}

// arrived takes what a request brought.
func (t *Tokens) arrived(f *flight, tok token, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer close(f.done)
	t.flight = nil
	now := time.Now()
	if err != nil {
		t.failed(now, err)
		return
	}
	if t.fails > 0 {
		t.log.Info("token endpoint gives tokens again", "after_attempts", t.fails)
	}
	t.tok, t.used, t.fails, t.err, t.next = tok, false, 0, nil, time.Time{}
	t.stopTimer()
	if !tok.good(now) {
		t.err = &TokenError{Text: "the token endpoint gave a token that ends at once: is this machine's clock right?"}
		t.next = now.Add(firstWait)
	}
	t.putBack(now)
}

// putBack has a refused token in use again where there is none in its place: it
// may be good after all, and whoever shows it decides that. t.mu is held.
func (t *Tokens) putBack(now time.Time) {
	if !t.tok.good(now) && t.old.good(now) {
		t.tok, t.used = t.old, true
	}
	t.old = token{}
}

// failed waits longer each time, and while the old token is good says so.
func (t *Tokens) failed(now time.Time, err error) {
	wait := longestWait
	if t.fails < 8 {
		wait = min(longestWait, firstWait<<t.fails)
	}
	wait = wait/2 + rand.N(wait/2+1)
	var e *TokenError
	if errors.As(err, &e) {
		wait = max(wait, e.After)
	}
	t.fails++
	t.err, t.next = err, now.Add(wait)
	t.putBack(now)
	if !t.tok.good(now) || t.closed {
		return // who asks is told
	}
	text := "token cannot be renewed; the one before is used until it ends"
	ends := "unknown"
	if !t.tok.ends.IsZero() {
		ends = time.Until(t.tok.ends).Round(time.Second).String()
	}
	t.log.Warn(text, "error", err, "ends_in", ends, "wait", wait.Round(time.Millisecond))
	t.stopTimer()
	t.timer = time.AfterFunc(wait, t.renew)
}

// leadOf returns how long before its end a token that lives so long is renewed:
// half its life where that is less than twice the usual.
func (t *Tokens) leadOf(life time.Duration) time.Duration {
	if life <= 2*t.lead {
		return life / 2
	}
	return t.lead
}

// arm sets the time of renewal, a tenth earlier at random: agents started
// together must not ask together. t.mu is held.
func (t *Tokens) arm(now time.Time) {
	if t.timer != nil || t.tok.ends.IsZero() || t.closed {
		return
	}
	life := t.tok.ends.Sub(now)
	lead := t.leadOf(life)
	wait := life - lead - rand.N(lead/10+1)
	t.timer = time.AfterFunc(max(wait, 0), t.renew)
}

func (t *Tokens) stopTimer() {
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// renew is called when it is time.
func (t *Tokens) renew() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed && t.used {
		t.depart()
	}
}

// Refused drops the token of value, once in a while, and never while no other
// can be asked for. When none is to be had it comes back.
func (t *Tokens) Refused(value string, drop bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	switch {
	case !t.tok.is(value):
		return true
	case !drop || now.Before(t.next) || !t.dropped.IsZero() && now.Sub(t.dropped) < t.dropWait():
		return false
	}
	t.drops++
	t.dropped, t.bad, t.old, t.tok = now, value, t.tok, token{}
	t.stopTimer()
	return true
}

// dropWait is how long after the last drop there is none. t.mu is held.
func (t *Tokens) dropWait() time.Duration {
	return min(dropAgain<<min(max(t.drops-1, 0), 11), dropSeldom)
}

// Accepted has a later refusal taken for one of that token alone.
func (t *Tokens) Accepted(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tok.is(value) {
		t.drops = 0
	}
}

// Close ends renewal and waits for a request that is on its way.
func (t *Tokens) Close() {
	t.mu.Lock()
	t.closed = true
	t.stopTimer()
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
}

// Headers returns the identity pool's header.
func (t *Tokens) Headers() []Header { return poolHeader(t.pool) }

// Describe says where the token comes from and how long it lives.
func (t *Tokens) Describe() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tok.value == nil {
		return t.what
	}
	return t.what + ", token " + life(t.tok.ends)
}

// Remedy says what to look at.
func (t *Tokens) Remedy() string { return t.remedy }

// String masks the token.
func (t *Tokens) String() string { return "tokens ***" }

// GoString masks likewise.
func (t *Tokens) GoString() string { return "auth.Tokens{***}" }

// TokenError is why there is no token.
type TokenError struct {
	Denied bool          // who asks is not accepted: asking again changes nothing
	After  time.Duration // not to be asked again before; 0: nobody said
	Text   string        // never with a secret or token in it
	Err    error         // may be nil
}

func (e *TokenError) Error() string {
	s := e.Text
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.After >= time.Second {
		s += fmt.Sprintf(" (not asked again for %s)", e.After.Round(time.Second))
	}
	return s
}

// Unwrap returns the cause.
func (e *TokenError) Unwrap() error { return e.Err }
