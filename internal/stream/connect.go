package stream

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
)

// connect waits until a POST may be sent and opens a stream. It returns no
// stream and no error when there is nothing left to open one for. release must
// be called once the outcome of the attempt is known. old is the stream that the
// new one is to take over from, or nil.
func (p *Pool) connect(t *topic, old *stream) (s *stream, release func(), err error) {
	release = func() {}
	ok := p.sleep(t.shunned())
	if ok {
		release, ok = p.turn(t, old)
	}
	if !ok {
		release()
		return nil, release, nil
	}
	u := p.where(t, p.speaks)
	head, authorization, err := p.requestHead(p.ctx, u, p.speaks, inChunks)
	if err != nil {
		return nil, release, err
	}
	conn, err := p.dial(p.ctx, u)
	if err != nil {
		t.unredirect()
		return nil, release, err
	}
	p.mu.Lock()
	p.connected = true
	p.mu.Unlock()
	if _, err = conn.Write(head); err != nil {
		conn.Close()
		return nil, release, fmt.Errorf("open stream for topic %q: %w", t.name, err)
	}
	s = newStream(p, t, conn)
	s.url, s.authorization = u, authorization
	s.release, s.replaces = release, old
	p.mu.Lock()
	p.live[s] = struct{}{}
	p.mu.Unlock()
	p.stats.opened()
	return s, release, nil
}

// given says whether topic or endpoint have been given up.
func (p *Pool) given(t *topic) bool {
	select {
	case <-t.failed:
		return true
	case <-p.failed:
		return true
	default:
		return p.closing.Load()
	}
}

// sleep waits, and returns false when the Pool ends first.
func (p *Pool) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
	case <-p.failed:
	}
	return false
}

// openFailed backs off after a connection that could not be made.
func (p *Pool) openFailed(err error) {
	if p.ctx.Err() != nil {
		return
	}
	if deniedAt(err) {
		if !p.doubted(err) {
			p.refuse(&EndpointError{Denied: true, Err: err})
		}
		return
	}
	fails, wait, connected := p.backOff(0)
	var cert *tls.CertificateVerificationError
	if p.cfg.OneShot && !connected && (fails >= p.cfg.MaxAttempts || errors.As(err, &cert)) {
		p.fail(&EndpointError{Err: err})
		return
	}
	p.troubled(err)
	p.warn("connect", "cannot connect, will try again", "error", err, "attempt", fails, "wait", wait.Round(time.Millisecond))
}

// backOff counts a failed open and moves the time of the next one, to at least
// after from now.
func (p *Pool) backOff(after time.Duration) (fails int, wait time.Duration, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails == 0 {
		p.backoffs.Reset()
	}
	if p.connected {
		p.backoffs.MaxInterval = p.cfg.RetryMax
	}
	p.fails++
	wait = max(p.backoffs.NextBackOff(), after)
	p.notBefore = time.Now().Add(wait)
	return p.fails, wait, p.connected
}

// opened notes the first report of a stream: the endpoint works.
func (p *Pool) opened(s *stream) {
	p.mu.Lock()
	failed := p.fails
	p.fails, p.trouble = 0, nil
	p.mu.Unlock()
	p.trusted(s.authorization)
	if failed > 0 {
		p.log.Info("endpoint answers again", "after_attempts", failed)
	}
	s.t.mu.Lock()
	s.t.hops, s.t.fails, s.t.notBefore = 0, 0, time.Time{}
	s.t.mu.Unlock()
	s.release()
	p.unpark(s.t)
}

var errEarly = errors.New("the connection was closed")

// ended is called by the reader when a stream is over: err nil for a proper
// end of the answer, n records were returned to their topic.
func (p *Pool) ended(s *stream, err error, ref *refusal, n int, unknown bool) {
	p.mu.Lock()
	delete(p.live, s)
	p.mu.Unlock()
	p.stats.closed(s.reason())
	defer s.release()
	if p.ctx.Err() != nil && ref == nil {
		return
	}
	switch {
	case ref != nil:
		p.refused(s, ref)
	case s.stale(err):
	case !s.confirmed.Load() && n > 0 && s.reason() == endStalled && p.deliveredSince(s.born):
		wait := s.t.shun()
		p.warn("silent:"+s.t.name, "no delivery report for this topic though others have theirs", "topic", s.t.name, "records_to_resend", n, "wait", wait.Round(time.Millisecond))
	case !s.confirmed.Load() && s.reason() != endIdle && s.reason() != endAge && s.reason() != endHeld &&
		(n > 0 || time.Since(s.born) < time.Second): // who closes at once would be asked without a pause
		fails, wait, _ := p.backOff(0)
		if p.cfg.OneShot && errors.Is(err, errNotReport) && fails >= p.cfg.MaxAttempts {
			p.fail(&EndpointError{Err: fmt.Errorf("%s, %d times in a row: %w (is this a Kafka REST endpoint?)", s.url.Redacted(), fails, err)})
			return
		}
		p.troubled(fmt.Errorf("%s: stream ended before any delivery report: %w", s.url.Redacted(), cmp.Or(err, errEarly)))
		p.warn("broken", "stream ended before any delivery report", "topic", s.t.name, "error", err, "records_to_resend", n, "wait", wait.Round(time.Millisecond))
	case n > 0 && s.reason() != endHeld:
		p.warn("broken", "stream ended early", "topic", s.t.name, "reason", s.reason(), "error", err, "records_to_resend", n, "possibly_duplicated", unknown)
	}
	s.kick()
}

// refused acts on a status that came instead of reports.
func (p *Pool) refused(s *stream, ref *refusal) {
	where := s.url.Redacted()
	ref.text = auth.Scrub(ref.text, s.authorization)
	if ref.status == http.StatusUnauthorized {
		if ref.remedy = cmp.Or(auth.Remedy(p.target.Auth), ref.remedy); isNone(p.target.Auth) {
			ref.remedy = noCredentials
		}
	}
	err := fmt.Errorf("%s answered %w", where, ref)
	switch ref.fate {
	case openAgain:
		p.troubled(nil)
	case openFollow:
		p.follow(s, ref)
	case openStop, openDenied:
		if ref.status == http.StatusUnauthorized && sameOrigin(p.target.Base, s.url) && !isNone(p.target.Auth) && p.unauthorized(s, err) {
			return
		}
		if !sameOrigin(p.target.Base, s.url) {
			err = fmt.Errorf("%w; the endpoint redirects there and, as it is another host, without credentials: if it is right, give it as --rest-endpoint", err)
		}
		p.refuse(&EndpointError{Denied: ref.fate == openDenied, Err: err})
	case openTopic:
		v := Verdict{Outcome: record.Retry, Reason: "unauthorized", Hold: true, Denied: ref.denied}
		if !ref.denied {
			v.Reason = "unknown_topic"
		}
		s.t.holdOn(v, ref.status, ref.text)
	case openRetry:
		if ref.throttle {
			p.fewerPosts(s, ref, err)
			return
		}
		p.troubled(err)
		_, wait, _ := p.backOff(ref.rates.told(time.Now()).RetryAfter)
		p.warn("refused", "stream refused, will try again", "topic", s.t.name, "error", err, "wait", wait.Round(time.Millisecond))
	}
}

// maxHops is how many redirects in a row are followed.
const maxHops = 5

// follow sends the topic's next stream to where ref points.
func (p *Pool) follow(s *stream, ref *refusal) {
	to, err := s.url.Parse(ref.location)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		p.refuse(&EndpointError{Err: fmt.Errorf("%s redirects to %q, which is no address of an endpoint", s.url.Redacted(), ref.location)})
		return
	}
	to.User, to.Fragment = nil, ""
	if s.url.Scheme == "https" && to.Scheme == "http" {
		s.t.mu.Lock()
		s.t.hops, s.t.redirect = 0, nil
		s.t.mu.Unlock()
		p.refuse(&EndpointError{Err: fmt.Errorf("%s redirects to %s: records would go there in plain text for all on the way to read: if it is right, give it as --rest-endpoint", s.url.Redacted(), to.Redacted())})
		return
	}
	s.t.mu.Lock()
	// A redirect that another of the topic's streams met too is no hop more.
	if known := s.t.redirect; known == nil || *known != *to || *to == *s.url {
		s.t.hops++
	}
	hops := s.t.hops
	s.t.redirect = to
	s.t.mu.Unlock()
	if hops > maxHops {
		s.t.mu.Lock()
		s.t.hops, s.t.redirect = 0, nil
		s.t.mu.Unlock()
		p.refuse(&EndpointError{Err: fmt.Errorf("%s: more than %d redirects in a row, the last to %s: check --rest-endpoint", p.target.Base.Redacted(), maxHops, to.Redacted())})
		return
	}
	p.warn("redirect", "endpoint redirects; what was sent is sent again", "status", ref.status, "to", to.Redacted(), "with_credentials", sameOrigin(p.target.Base, to))
}

// topicHeld tells of a topic that takes no records, and gives it up where the
// run is to end.
func (p *Pool) topicHeld(t *topic, v Verdict, code int, message string, probes int) {
	text := oneLine(message)
	if code != 0 {
		text = fmt.Sprintf("%d %s", code, text)
	}
	remedy := "create the topic, or check its name"
	if v.Denied {
		remedy = "grant the key's principal WRITE on the topic, or use a key of this cluster"
	}
	t.mu.Lock()
	patient := v.Denied && t.hold != nil && time.Since(t.hold.since) < p.cfg.AuthPatience // a new key's rights come as late as the key
	t.mu.Unlock()
	if p.cfg.OneShot && !patient && (v.Denied || probes >= p.cfg.MaxAttempts || p.target.MissingTopic(p.ctx, t.name)) {
		t.fail(&TopicError{Topic: t.name, Denied: v.Denied, Text: text + " (" + remedy + ")"})
		return
	}
	t.mu.Lock()
	if t.hold != nil {
		t.hold.why = &TopicError{Topic: t.name, Denied: v.Denied, Text: text + " (" + remedy + ")"}
	}
	t.mu.Unlock()
	p.warn("held:"+t.name, "topic takes no records; probing it", "topic", t.name, "error", text, "remedy", remedy, "probes", probes)
}
