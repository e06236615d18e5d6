package stream

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
)

// doubt is what is known of credentials that were refused. Pool.mu guards it.
type doubt struct {
	since   time.Time // of the first 401 since a record was delivered; zero: none
	renewed bool      // a new token was asked for since then
	proven  bool      // a record was delivered with them once
}

// defaultPatience is how long credentials that worked may be refused: a new key
// is known to all nodes of a cluster within a minute or so, and what fails for
// longer was taken back.
const defaultPatience = 2 * time.Minute

// credentialsError says that there is nothing to authorize a request with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// deniedAt says whether err is a token endpoint's or a proxy's word that our
// credentials are wrong.
func deniedAt(err error) bool {
	var token *auth.TokenError
	var proxy *auth.ProxyError
	return errors.As(err, &token) && token.Denied || errors.As(err, &proxy) && proxy.Denied
}

func isNone(a auth.Authorizer) bool {
	_, none := a.(auth.None)
	return none
}

// trusted notes that the credentials were accepted, as that header.
func (p *Pool) trusted(authorization string) {
	auth.Accepted(p.target.Auth, authorization)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.doubt = doubt{proven: true}
}

// unauthorized acts on a 401 to credentials of ours. It returns false where the
// endpoint is to be treated as one that will not do.
//
// A 401 does not say whether the credentials are wrong: a token may have been
// taken back, a new key may not be known to every node yet. So another token is
// tried at once, and what worked before, or is given patience, is tried until
// that is over. Streams that are open go on meanwhile, and every record that
// they deliver proves the credentials.
func (p *Pool) unauthorized(s *stream, err error) bool {
	p.mu.Lock()
	drop := !p.doubt.renewed
	p.mu.Unlock()
	if auth.Refused(p.target.Auth, s.authorization, drop) {
		p.mu.Lock()
		p.doubt.renewed = true
		p.mu.Unlock()
		p.warn("renew", "token refused, trying another at once", "topic", s.t.name, "error", err)
		return true
	}
	return p.doubted(err)
}

// doubted waits with credentials that were refused. It returns false where there
// is no patience with them: they never worked.
func (p *Pool) doubted(err error) bool {
	now := time.Now()
	p.mu.Lock()
	d := &p.doubt
	good := p.at(p.lastGood.Load())
	if d.since.IsZero() || d.proven && good.After(d.since) {
		d.since = now
	}
	patience, text := p.cfg.AuthPatience, "a new key takes up to some minutes to be known: waiting"
	if d.proven {
		patience, text = cmp.Or(patience, defaultPatience), "credentials that worked are refused; not every node may know them yet: trying again"
	}
	left, proven := patience-now.Sub(d.since), d.proven
	p.mu.Unlock()
	if left <= 0 {
		if proven {
			p.refuse(&EndpointError{Denied: true, Err: fmt.Errorf("credentials that worked have been refused for %s: they may have been revoked: %w", patience, err)})
		}
		return proven
	}
	_, wait, _ := p.backOff(0)
	if wait > left { // look once more at its very end
		wait = left
		p.mu.Lock()
		p.notBefore = now.Add(left)
		p.mu.Unlock()
	}
	if !proven {
		p.troubled(err)
	}
	p.warn("doubt", text, "error", err, "patience_left", left.Round(time.Second), "wait", wait.Round(time.Millisecond))
	return true
}
