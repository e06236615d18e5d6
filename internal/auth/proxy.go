package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Proxy goes out by HTTP CONNECT where a proxy is set, and directly where none
// is. Everything goes by CONNECT, plain http too: a proxy that is handed a
// request would hold its body, and so a stream, back.
//
// Concurrency: safe. A nil Proxy goes directly.
// Source: RFC 9110 §9.3.6.
type Proxy struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	choose func(*url.URL) (*url.URL, error) // nil URL: directly
	trust  func() *tls.Config               // for proxies that are spoken to by https
}

// NewProxy returns the proxy that setting asks for: "none", "env" (HTTPS_PROXY,
// HTTP_PROXY and NO_PROXY), or a URL. None is for this machine itself. trust is
// for https proxies.
// Errors: a URL that is none; never with a password in it.
func NewProxy(setting string, trust func() *tls.Config) (*Proxy, error) {
	p := &Proxy{dial: direct.DialContext, trust: trust}
	switch setting {
	case "none":
		return nil, nil
	case "", "env":
		p.choose = func(u *url.URL) (*url.URL, error) {
			via, err := http.ProxyFromEnvironment(&http.Request{URL: u})
			if err != nil || via == nil {
				if err != nil { // it may repeat a password
					err = errors.New("HTTPS_PROXY or HTTP_PROXY of the environment is no URL of a proxy: want http://HOST:PORT")
				}
				return nil, err
			}
			return via, checkProxy(via)
		}
		return p, nil
	}
	via, err := ParseProxy(setting)
	if err != nil {
		return nil, err
	}
	p.choose = func(*url.URL) (*url.URL, error) { return via, nil }
	return p, nil
}

// DialWith returns what goes directly, by dial.
func DialWith(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *Proxy {
	return &Proxy{dial: dial, choose: func(*url.URL) (*url.URL, error) { return nil, nil }}
}

var direct = net.Dialer{KeepAlive: 15 * time.Second}

// ParseProxy reads the URL of a proxy. User and password need no escaping: what
// looks like %41 is unescaped, the last @ ends them.
// Errors: what is wrong, without the password.
func ParseProxy(raw string) (*url.URL, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, errors.New("--proxy has no scheme: write http://HOST:PORT, env or none")
	}
	var user *url.Userinfo
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		name, password, has := strings.Cut(rest[:i], ":")
		rest, user = rest[i+1:], url.User(unescaped(name))
		if has {
			user = url.UserPassword(unescaped(name), unescaped(password))
		}
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return nil, errors.New("--proxy is no URL of a proxy: want http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ in front of the host if it asks for them")
	}
	u.User, u.Path = user, ""
	return u, checkProxy(u)
}

func unescaped(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s
}

func checkProxy(u *url.URL) error {
	if u.Hostname() == "" || strings.HasSuffix(u.Host, ":") { // what net/http makes of "http://a b:1"
		return errors.New("HTTPS_PROXY or HTTP_PROXY of the environment is no URL of a proxy: want http://HOST:PORT")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("the proxy %s://%s is of a kind that is not spoken here: want http:// or https://", u.Scheme, u.Host)
	}
	if name, password := u.User.Username(), proxyPassword(u); strings.ContainsAny(name+password, "\r\n") || strings.Contains(name, ":") {
		return errors.New("the proxy's user or password holds a line break, or the user a colon")
	}
	return nil
}

func proxyPassword(u *url.URL) string {
	password, _ := u.User.Password()
	return password
}

// way returns the proxy for u, nil for none. This machine is reached directly
// whatever is set: by a proxy the name would be the proxy's own machine, and
// what may go in plain text because it stays here would leave.
func (p *Proxy) way(u *url.URL) (*url.URL, error) {
	if IsLoopback(u.Hostname()) {
		return nil, nil
	}
	return p.choose(u)
}

// Via names the proxy that u is reached by, without its credentials; "" for none.
func (p *Proxy) Via(u *url.URL) string {
	if p == nil {
		return ""
	}
	via, err := p.way(u)
	if err != nil || via == nil {
		return ""
	}
	return via.Scheme + "://" + via.Host
}

// Dialer returns how to connect for URLs of that scheme within timeout, for an
// http.Transport.
func (p *Proxy) Dialer(scheme string, timeout time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return p.Dial(ctx, &url.URL{Scheme: scheme, Host: addr}, addr)
	}
}

// Dial connects to addr, host:port, for u. ctx bounds all of it.
// Errors: *ProxyError where it is the proxy's doing.
func (p *Proxy) Dial(ctx context.Context, u *url.URL, addr string) (net.Conn, error) {
	if p == nil {
		return direct.DialContext(ctx, "tcp", addr)
	}
	via, err := p.way(u)
	if err != nil {
		return nil, &ProxyError{Text: err.Error()}
	}
	if via == nil {
		return p.dial(ctx, "tcp", addr)
	}
	name := via.Scheme + "://" + via.Host
	conn, err := p.dial(ctx, "tcp", proxyAddress(via))
	if err != nil {
		return nil, &ProxyError{Text: "proxy " + name + " cannot be reached: is it up, and are host and port right?", Err: err}
	}
	if via.Scheme == "https" {
		if conn, err = p.secure(ctx, conn, via); err != nil {
			return nil, &ProxyError{Text: "TLS with proxy " + name + ": is its certificate trusted here (--ca-file), and does it speak TLS at this port?", Err: err}
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	through, err := tunnel(conn, via, addr)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		var known *ProxyError
		if errors.As(err, &known) {
			return nil, err
		}
		text := "proxy " + name + " closed the connection without an answer to CONNECT " + addr + ": is it an HTTP proxy, and does it allow this host and port?"
		if ctx.Err() != nil {
			text = "proxy " + name + " gave no answer to CONNECT " + addr + " in time: is it an HTTP proxy that is well, and does it reach that host?"
		}
		return nil, &ProxyError{Text: text, Err: err}
	}
	return through, nil
}

func (p *Proxy) secure(ctx context.Context, conn net.Conn, via *url.URL) (net.Conn, error) {
	cfg := baseTLS()
	if p.trust != nil {
		cfg = p.trust()
	}
	cfg.ServerName = via.Hostname()
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

func proxyAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// tunnel asks for the way to addr and returns what leads there.
func tunnel(conn net.Conn, via *url.URL, addr string) (net.Conn, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\nUser-Agent: produce-agent\r\n", addr)
	if via.User != nil {
		basic := base64.StdEncoding.EncodeToString([]byte(via.User.Username() + ":" + proxyPassword(via)))
		b.WriteString("Proxy-Authorization: Basic " + basic + "\r\n")
	}
	b.WriteString("\r\n")
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return nil, err
	}
	head, behind, err := readProxyHead(conn, via)
	if err != nil {
		return nil, err
	}
	status, offers := parseProxyHead(head)
	switch {
	case status == 0:
		return nil, &ProxyError{Text: fmt.Sprintf("what answers at %s://%s is no HTTP proxy: its answer starts with %q", via.Scheme, via.Host, head[:min(len(head), 40)])}
	case status < 200 || status > 299:
		return nil, refusedByProxy(status, offers, via, addr)
	case len(behind) > 0:
		return &prefixed{conn, behind}, nil
	}
	return conn, nil
}

// maxProxyHead bounds the head of a proxy's answer.
const maxProxyHead = 64 << 10

// readProxyHead reads up to the blank line, and returns what came behind it.
func readProxyHead(conn net.Conn, via *url.URL) (head, behind []byte, err error) {
	buf := make([]byte, 0, 1024)
	for {
		if i := bytes.Index(buf, []byte("\r\n\r\n")); i >= 0 {
			head := buf[:i+2]
			if bytes.HasPrefix(head, []byte("HTTP/1.1 1")) { // 1xx: the answer is still to come
				buf = buf[i+4:]
				continue
			}
			return head, buf[i+4:], nil
		}
		if len(buf) >= 5 && !bytes.HasPrefix(buf, []byte("HTTP/")) {
			return buf, nil, nil // no need to wait for its end
		}
		if len(buf) > maxProxyHead {
			return nil, nil, &ProxyError{Text: fmt.Sprintf("proxy %s://%s answers with a head of more than %d bytes: is it an HTTP proxy?", via.Scheme, via.Host, maxProxyHead)}
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil && n == 0 {
			return nil, nil, err
		}
	}
}

// parseProxyHead returns the status, 0 where there is none, and the ways to
// authenticate that a 407 offers.
func parseProxyHead(head []byte) (status int, offers string) {
	line, rest, _ := strings.Cut(string(head), "\r\n")
	parts := strings.SplitN(line, " ", 3)
	if len(parts) < 2 || !strings.HasPrefix(parts[0], "HTTP/1.") {
		return 0, ""
	}
	status, err := strconv.Atoi(parts[1])
	if err != nil || status < 100 || status > 999 {
		return 0, ""
	}
	var all []string
	for line := range strings.SplitSeq(rest, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		if scheme := strings.Fields(value); strings.EqualFold(name, "Proxy-Authenticate") && len(scheme) > 0 && len(all) < 5 {
			all = append(all, strconv.QuoteToASCII(scheme[0][:min(len(scheme[0]), 20)]))
		}
	}
	return status, strings.Join(all, ", ")
}

func refusedByProxy(status int, offers string, via *url.URL, addr string) *ProxyError {
	text := fmt.Sprintf("proxy %s://%s answered %d %s to CONNECT %s", via.Scheme, via.Host, status, http.StatusText(status), addr)
	e := &ProxyError{Denied: status == http.StatusProxyAuthRequired}
	switch {
	case e.Denied && offers != "" && !strings.Contains(strings.ToLower(offers), `"basic"`):
		text += ": it takes " + offers + " only, and Basic is what this agent speaks: ask for a way out with Basic, or by address"
	case e.Denied && via.User == nil:
		text += ": it wants a user and a password: give the proxy as http://USER@HOST:PORT with --proxy-password-file, or http://USER:PASSWORD@HOST:PORT in a configuration file or PRODUCE_AGENT_PROXY"
	case e.Denied:
		text += ": it does not accept the user and password that are given for it"
	case status == http.StatusForbidden || status == http.StatusMethodNotAllowed:
		text += ": it does not allow that host and port: ask those who run it to allow CONNECT to " + addr + ", also where that is not port 443"
	case status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
		text += ": it does not reach that host: is the endpoint's name right, and has the proxy a route to it?"
	default:
		text += ": is it an HTTP proxy that allows CONNECT?"
	}
	e.Text = text
	return e
}

// ProxyError says that the way out does not work.
type ProxyError struct {
	Denied bool // its credentials are wrong or missing
	Text   string
	Err    error // may be nil
}

func (e *ProxyError) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// prefixed is a connection whose first bytes were read already.
type prefixed struct {
	net.Conn
	first []byte
}

func (c *prefixed) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
