package auth

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// connectProxy is an HTTP proxy that wants a user and a password, if any, and
// notes where it was asked to go.
type connectProxy struct {
	*httptest.Server
	want string // Proxy-Authorization

	mu   sync.Mutex
	went []string
}

func newConnectProxy(t *testing.T, userPassword string) *connectProxy {
	p := &connectProxy{}
	if userPassword != "" {
		p.want = "Basic " + base64.StdEncoding.EncodeToString([]byte(userPassword))
	}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() { p.Close() })
	return p
}

func (p *connectProxy) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodConnect:
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	case p.want != "" && r.Header.Get("Proxy-Authorization") != p.want:
		w.Header().Set("Proxy-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	p.mu.Lock()
	p.went = append(p.went, r.Host)
	p.mu.Unlock()
	to, err := net.Dial("tcp", r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer to.Close()
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer from.Close()
	io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n")
	done := make(chan struct{})
	go func() { defer close(done); io.Copy(to, buffered); to.(*net.TCPConn).CloseWrite() }()
	io.Copy(from, to)
	from.Close()
	<-done
}

// Through the proxy, with credentials that need no escaping, bytes go both ways
// while both sides stay open: a report arrives before the body has ended.
func TestProxyStreams(t *testing.T) {
	const password = "p@ss:word/100%"
	for _, secure := range []bool{false, true} {
		p := newConnectProxy(t, "user:"+password)
		p.Start()
		trust := baseTLS
		if secure {
			p.Close()
			p = newConnectProxy(t, "user:"+password)
			p.StartTLS()
			trust = p.Client().Transport.(*http.Transport).TLSClientConfig.Clone
		}
		echo, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for c, err := echo.Accept(); err == nil; c, err = echo.Accept() {
				io.Copy(c, c)
				c.Close()
			}
		}()
		via, err := NewProxy(strings.Replace(p.URL, "://", "://user:"+password+"@", 1), trust)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := via.Dial(ctx, &url.URL{Scheme: "http", Host: "kafka.example.com:80"}, echo.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		cancel() // it bounds the dialing alone
		back := bufio.NewReader(conn)
		for i := range 3 {
			fmt.Fprintf(conn, "record %d\n", i)
			if line, err := back.ReadString('\n'); err != nil || line != fmt.Sprintf("record %d\n", i) {
				t.Errorf("%q, %v", line, err)
			}
		}
		conn.Close()
		echo.Close()
		p.mu.Lock()
		if len(p.went) != 1 || p.went[0] != echo.Addr().String() {
			t.Errorf("went to %v", p.went)
		}
		p.mu.Unlock()
	}
}

// rawProxy answers each CONNECT with bytes, and then does what hang says: waits
// for the other side, or closes.
func rawProxy(t *testing.T, answer string, hang bool) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for line, err := r.ReadString('\n'); err == nil && line != "\r\n"; line, err = r.ReadString('\n') {
				}
				io.WriteString(c, answer)
				if hang {
					io.Copy(io.Discard, r)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

func TestProxyFails(t *testing.T) {
	dial := func(setting string) error {
		t.Helper()
		via, err := NewProxy(setting, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		conn, err := via.Dial(ctx, &url.URL{Scheme: "https", Host: "kafka.example.com:443"}, "kafka.example.com:443")
		if err == nil {
			conn.Close()
		}
		return err
	}
	f := func(answer string, hang, denied bool, want ...string) {
		t.Helper()
		at := rawProxy(t, answer, hang)
		err := dial("http://user:canary@" + at)
		var e *ProxyError
		if !errors.As(err, &e) || e.Denied != denied {
			t.Errorf("%.40q: %v", answer, err)
			return
		}
		for _, w := range append(want, "http://"+at) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%.40q: no %q in %v", answer, w, err)
			}
		}
		if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "Y2FuYXJ5") || strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 500 {
			t.Errorf("tells too much: %q", err)
		}
	}
	head := func(status string) string { return "HTTP/1.1 " + status + "\r\nContent-Length: 0\r\n\r\n" }
	f("HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=x\r\n\r\n", false, true, "407", "does not accept the user and password")
	f("HTTP/1.1 407 Who\r\nProxy-Authenticate: Negotiate\r\nproxy-authenticate: NTLM\r\n\r\n", false, true, "Negotiate", "NTLM", "Basic is what this agent speaks")
	f(head("403 No"), false, false, "403", "allow CONNECT to kafka.example.com:443")
	f(head("502 Bad"), false, false, "502", "does not reach that host")
	f(head("503 Busy"), true, false, "503")
	f(head("400 \x1b[31m"), false, false, "400", "allows CONNECT")
	f("", false, false, "closed the connection without an answer")
	f("", true, false, "in time")
	f("HTTP/1.1 200 OK\r\nX: ", true, false, "in time")
	f("HTTP/1.1 2", false, false, "closed the connection")
	f("SSH-2.0-OpenSSH\x1b\r\n", true, false, "is no HTTP proxy", "SSH-2.0")
	f("HTTP/1.1 abc\r\n\r\n", false, false, "is no HTTP proxy")
	f("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("y", 70<<10), true, false, "more than 65536 bytes")

	if err := dial("http://" + rawProxy(t, head("407 Who"), false)); !strings.Contains(err.Error(), "--proxy-password-file") {
		t.Error(err)
	}
	if err := dial("https://" + rawProxy(t, "hello", true)); !strings.Contains(err.Error(), "TLS with proxy") {
		t.Error(err)
	}
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	ln.Close()
	if err := dial("http://" + ln.Addr().String()); !strings.Contains(err.Error(), "cannot be reached") {
		t.Error(err)
	}
}

// What comes in one piece with the proxy's answer belongs to the tunnel.
func TestProxyAnswerWithMore(t *testing.T) {
	at := rawProxy(t, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhello", false)
	via, err := NewProxy("http://"+at, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := via.Dial(t.Context(), &url.URL{Scheme: "http"}, "h:1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if all, err := io.ReadAll(conn); string(all) != "hello" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}

func TestParseProxy(t *testing.T) {
	f := func(raw, host, user, password string) {
		t.Helper()
		u, err := ParseProxy(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			return
		}
		if u.Host != host || u.User.Username() != user || proxyPassword(u) != password {
			t.Errorf("%s: %s %s %s", raw, u.Host, u.User.Username(), proxyPassword(u))
		}
	}
	f("http://proxy", "proxy", "", "")
	f("https://proxy:3128/", "proxy:3128", "", "")
	f("http://u:p@[::1]:1", "[::1]:1", "u", "p")
	f("http://u@proxy:1", "proxy:1", "u", "")
	f("http://u:a@b:c/d?e#f@proxy:1", "proxy:1", "u", "a@b:c/d?e#f")
	f("http://u:%41%zz@proxy", "proxy", "u", "%41%zz")
	f("http://u:%41@proxy", "proxy", "u", "A")
	for _, raw := range []string{"proxy:3128", "canary", "http://", "http://canary@", "socks5://u:canary@proxy", "http://u:canary@proxy/x", "http://u:canary@pro xy", "http://u:canary%0d%0a@proxy"} {
		if u, err := ParseProxy(raw); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, %v", raw, u, err)
		}
	}
}

// The environment's proxy is asked per URL; this machine is reached directly.
func TestProxyOfTheEnvironment(t *testing.T) {
	via, err := NewProxy("env", nil)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := via.Dial(t.Context(), &url.URL{Scheme: "http", Host: ln.Addr().String()}, ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if via, err := NewProxy("none", nil); via != nil || err != nil {
		t.Error(via, err)
	}
}

// A proxy that is set is not for this machine either: credentials may go there
// in plain text, and would go to the proxy's machine.
func TestNoProxyForThisMachine(t *testing.T) {
	p := newConnectProxy(t, "")
	p.Start()
	via, err := NewProxy(p.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, host := range []string{"localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]"} {
		u := &url.URL{Scheme: "http", Host: host + ":" + port}
		if got := via.Via(u); got != "" {
			t.Errorf("%s by %s", u.Host, got)
		}
	}
	conn, err := via.Dialer("http", time.Second)(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if got := via.Via(&url.URL{Scheme: "http", Host: "kafka.example.com"}); got != p.URL {
		t.Errorf("another host by %q", got)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.went) != 0 {
		t.Errorf("went to %v", p.went)
	}
}
