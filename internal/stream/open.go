package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/valyala/fasthttp"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// UserAgent names us to servers; main adds the version.
var UserAgent = "produce-agent"

// Target is the cluster a Pool produces to.
type Target struct {
	Base      *url.URL // scheme, host and prefix, without "/v3": https://host:443/kafka
	ClusterID string   // of a v2 endpoint its host: it has no other name
	Dialect   dialect.Dialect
	Auth      auth.Authorizer
	TLS       *auth.TLS   // for https; nil: what the system trusts
	Proxy     *auth.Proxy // nil: directly

	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: the network
}

// String is where the target's API begins.
func (t *Target) String() string {
	if t.Dialect.IsV2() {
		return t.Base.Redacted()
	}
	return t.Base.Redacted() + "/v3"
}

// produceURL returns where records of topic are POSTed.
// Source: Confluent REST v3 OpenAPI, produceRecord.
func (t *Target) produceURL(topic string) *url.URL {
	return below(t.Base, "v3", "clusters", url.PathEscape(t.ClusterID), "topics", url.PathEscape(topic), "records")
}

// below returns base with elems, already escaped, behind its path.
func below(base *url.URL, elems ...string) *url.URL {
	u := *base
	if u.Path == "" {
		u.Path = "/" // JoinPath would keep a path without a host relative
	}
	return u.JoinPath(elems...)
}

// hostPort returns the address to dial for u.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// sameOrigin says whether credentials given for a may go to b: the same host
// and port, or the same host over TLS instead of plain text at the usual ports.
func sameOrigin(a, b *url.URL) bool {
	if !strings.EqualFold(a.Hostname(), b.Hostname()) {
		return false
	}
	if a.Scheme == b.Scheme && strings.EqualFold(hostPort(a), hostPort(b)) {
		return true
	}
	return a.Scheme == "http" && b.Scheme == "https" && a.Port() == "" && b.Port() == ""
}

// dial connects to u, TLS included, through the proxy where there is one.
func (p *Pool) dial(ctx context.Context, u *url.URL) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	if p.target.dial != nil {
		conn, err = p.target.dial(ctx, "tcp", hostPort(u))
	} else {
		conn, err = p.target.Proxy.Dial(ctx, u, hostPort(u))
	}
	if err != nil {
		return nil, explainDial(u, err)
	}
	if u.Scheme != "https" {
		return conn, nil
	}
	cfg := p.target.TLS.Config()
	if !sameOrigin(p.target.Base, u) { // another host is not to see who we are
		cfg.Certificates = nil
	}
	cfg.ServerName = u.Hostname()
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, explainTLS(u, err)
	}
	return secure, nil
}

// inChunks is the length of a body that is sent in chunks.
const inChunks = -1

// requestHead returns the head of a POST to u with a body of that length. No
// Accept-Encoding: a compressed answer would hold reports back. authorization is
// the header it has, "" for none.
//
// Errors: *credentialsError.
func (p *Pool) requestHead(ctx context.Context, u *url.URL, w wire, length int) (raw []byte, authorization string, err error) {
	content, accept := w.types()
	var h fasthttp.RequestHeader
	h.DisableNormalizing()
	h.SetNoDefaultContentType(true)
	h.SetMethod("POST")
	h.SetRequestURI(u.RequestURI())
	h.SetHost(u.Host)
	h.SetUserAgent(UserAgent)
	h.SetContentType(content)
	h.Set("Accept", accept)
	if sameOrigin(p.target.Base, u) {
		if authorization, err = p.target.Auth.Authorization(ctx); err != nil {
			return nil, "", &credentialsError{err}
		}
		if authorization != "" {
			h.Set("Authorization", authorization)
		}
		for _, x := range auth.Headers(p.target.Auth) {
			h.Set(x.Name, x.Value)
		}
	}
	h.SetContentLength(length)
	return h.Header(), authorization, nil
}

// explainDial says what a failed connect means, in one line.
func explainDial(u *url.URL, err error) error {
	if via := new(auth.ProxyError); errors.As(err, &via) {
		return fmt.Errorf("connect to %s: %w", hostPort(u), err)
	}
	hint := "is the endpoint up, and is the port right?"
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		hint = "no such host name: check --rest-endpoint"
	case errors.As(err, &dns):
		hint = "the name could not be looked up: check the resolver"
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = "nothing listens there: is the endpoint up, and is the port right?"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		hint = "this process may open no more files and connections: raise the limit of open files"
	case errors.Is(err, io.EOF):
		hint = "it closed the connection without an answer: does it speak TLS at this port (https://)?"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		hint = "no answer: is there a route, or does a firewall drop it?"
	}
	if limit.IsConfluentCloud(u.Hostname()) {
		hint += " A cluster with private networking is reached only from its own network (VPC peering, PrivateLink or transit gateway)"
	}
	return fmt.Errorf("connect to %s: %w (%s)", hostPort(u), err, hint)
}

// explainTLS says what a failed handshake means, in one line.
func explainTLS(u *url.URL, err error) error {
	text := err.Error()
	hint := "does the endpoint speak TLS at this port?"
	switch {
	case strings.Contains(text, "unknown authority") || strings.Contains(text, "not trusted"):
		hint = "its certificate is signed by an authority this machine does not trust: give that authority's certificate with --ca-file"
	case strings.Contains(text, "certificate required") || strings.Contains(text, "bad certificate"):
		hint = "it wants a client certificate that it trusts: give --cert-file and --key-file"
	case strings.Contains(text, "expired"):
		hint = "its certificate has expired, or this machine's clock is wrong"
	case strings.Contains(text, "valid for") || strings.Contains(text, "doesn't contain any IP SANs"):
		hint = "its certificate is for another name: use the name in the certificate as --rest-endpoint"
	case strings.Contains(text, "does not look like a TLS handshake") || strings.Contains(text, "server gave HTTP response"):
		hint = "it speaks plain HTTP at this port: use http:// or another port"
	}
	return fmt.Errorf("TLS with %s: %w (%s)", hostPort(u), err, hint)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
