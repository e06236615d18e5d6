package listener

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/produce-agent/produce-agent/internal/ingest"
)

func TestToken(t *testing.T) {
	cfg := settled()
	token, fault := "s3cret", error(nil)
	cfg.Token = func() (string, error) { return token, fault }
	g := start(t, cfg)
	f := func(want int, header ...string) {
		t.Helper()
		for _, path := range []string{"/", records} {
			if status, answer := g.post(t, path, "application/json", "{}", header...); status != want {
				t.Errorf("%s %q: %d %s, want %d", path, header, status, answer, want)
			}
		}
	}
	basic := func(s string) string {
		r, _ := http.NewRequest("GET", "http://x", nil)
		r.SetBasicAuth("key", s)
		return r.Header.Get("Authorization")
	}
	f(200, "Authorization", "Bearer s3cret")
	f(200, "Authorization", "bearer  s3cret")
	f(200, "Authorization", basic("s3cret"))
	f(401)
	f(401, "Authorization", "Bearer ")
	f(401, "Authorization", "Bearer s3cre")
	f(401, "Authorization", "Bearer s3crets")
	f(401, "Authorization", "s3cret")
	f(401, "Authorization", basic("x"))
	f(401, "Authorization", "Basic ???")
	if resp, _ := g.do(t, "POST", "/nowhere", "", nil); resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") == "" {
		t.Error("who may not send may not look round either:", resp.StatusCode)
	}
	token = ""
	f(503, "Authorization", "Bearer ")
	fault = errors.New("no such file")
	f(503, "Authorization", "Bearer s3cret")
	if err := g.Trouble(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	token, fault = "new", nil
	f(200, "Authorization", "Bearer new")
	if err := g.Trouble(); err != nil {
		t.Error(err)
	}
}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	c := a.make(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

func (a *authority) make(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.n++
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(a.n), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestClientCertificates(t *testing.T) {
	a := newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	cfg := settled()
	cfg.TLS = &tls.Config{Certificates: []tls.Certificate{a.make(t, &x509.Certificate{})}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	g := start(t, cfg)
	f := func(certs []tls.Certificate, want string) {
		t.Helper()
		c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}, ForceAttemptHTTP2: true,
		}}
		got := "refused"
		for _, path := range []string{"/", records} {
			if resp, err := c.Post(g.url+path, "application/json", strings.NewReader("{}")); err == nil {
				got = resp.Proto + " " + resp.Status
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
	}
	f([]tls.Certificate{a.make(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})}, "HTTP/1.1 200 OK")
	f(nil, "refused")
	f([]tls.Certificate{newAuthority(t).make(t, &x509.Certificate{})}, "refused")
	if n := g.sink.count(); n != 2 {
		t.Errorf("%d records, want those of the one with a certificate", n)
	}
	eventually(t, "all connections closed", func() bool { return g.connections() == 0 })
}

// Who may write must be known beyond this machine, unless told in words.
func TestListenElsewhere(t *testing.T) {
	f := func(change func(*Config), want string) {
		t.Helper()
		cfg := config()
		change(&cfg.Config)
		router, err := ingest.NewRouter(ingest.RouterConfig{Routes: []ingest.Route{{Topic: "t", Encoder: cfg.encoder}}}, cfg.sink)
		if err != nil {
			t.Fatal(err)
		}
		l, err := New(cfg.Config, router, &registry{}, slog.New(slog.DiscardHandler))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			_ = l.Shutdown(context.Background())
		}
		if !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(func(*Config) {}, "")
	f(func(c *Config) { c.Listen = "localhost:0" }, "")
	f(func(c *Config) { c.Listen = "[::1]:0" }, "")
	const anybody = "anybody there could write into your topics"
	f(func(c *Config) { c.Listen = ":0" }, anybody)
	f(func(c *Config) { c.Listen = "0.0.0.0:0" }, anybody)
	f(func(c *Config) { c.Listen, c.TLS = "0.0.0.0:0", &tls.Config{} }, anybody)
	f(func(c *Config) {
		c.Listen, c.TLS = "0.0.0.0:0", &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven}
	}, anybody)
	f(func(c *Config) {
		c.Listen, c.TLS = "0.0.0.0:0", &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}
	}, "")
	f(func(c *Config) { c.Listen, c.Token = "0.0.0.0:0", func() (string, error) { return "x", nil } }, "")
	f(func(c *Config) { c.Listen, c.InsecureListen = "0.0.0.0:0", true }, "")
	f(func(c *Config) { c.Listen = "nonsense" }, `listen: "nonsense": want host:port`)
	f(func(c *Config) { c.Accept = []string{"xml"} }, `accept: "xml" is none of`)
	f(func(c *Config) { c.MaxInFlight = 5 }, "max_in_flight: 5 bytes have no room for one body")
	f(func(c *Config) { c.MaxBody = -1 }, "max_body: -1")
	f(func(c *Config) { c.MaxConnections = -1 }, "max_connections: -1")
	f(func(c *Config) { c.IdleTimeout = -1 }, "must not be negative")
}

// Requests that two readers could cut differently get one answer, and the
// connection ends: what is behind them is never a second request.
func TestSmuggling(t *testing.T) {
	g := start(t, settled())
	const inner = "POST /ingest HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nsmuggled"
	f := func(head, body string, want ...string) {
		t.Helper()
		for _, path := range []string{"/", records} {
			before := g.sink.count()
			answer := g.raw(t, "POST "+path+" HTTP/1.1\r\nHost: x\r\n"+head+"\r\n"+body+inner)
			if n := strings.Count(answer, "HTTP/1.1 "); n != 1 {
				t.Errorf("%s %q %q: %d answers: %q", path, head, body, n, answer)
			}
			ok := false
			for _, w := range want {
				ok = ok || strings.HasPrefix(answer, "HTTP/1.1 "+w) || path == records && w == "400" && strings.Contains(answer, terminalPrefix)
			}
			if !ok {
				t.Errorf("%s %q %q: %q, want %q", path, head, body, answer, want)
			}
			for _, p := range g.sink.payloads()[before:] {
				if strings.Contains(p, "smuggled") {
					t.Errorf("%s %q %q: the record of the second request came through", path, head, body)
				}
			}
		}
	}
	f("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "400")
	f("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n", "400")
	f("Content-Length: 0\r\nContent-Length: 5\r\n", "", "400")
	f("Content-Length: 5, 5\r\n", "aaaaa", "400")
	f("Content-Length: -1\r\n", "", "400")
	f("Content-Length: +5\r\n", "aaaaa", "400")
	f("Content-Length: 0x5\r\n", "aaaaa", "400")
	f("Content-Length : 5\r\n", "aaaaa", "400")
	f("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", "400")
	f("Transfer-Encoding: identity\r\n", "0\r\n\r\n", "400")
	f("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", "400")
	f("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "400")
	f("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", "400")
	f("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", "400")
	f("X: a\r\n b\r\nContent-Length: 1\r\n", "a", "400")
	f("Transfer-Encoding: chunked\r\n", "zz\r\n", "400")
	f("Transfer-Encoding: chunked\r\n", "-1\r\n", "400")
	f("Transfer-Encoding: chunked\r\n", "2\r\naaXX0\r\n\r\n", "400")
	f("Transfer-Encoding: chunked\r\n", "2;x\ny\r\naa\r\n0\r\n\r\n", "400")
	f("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n", "400")
	f("Transfer-Encoding: chunked\r\n", "0\r\nContent-Length: 5\r\n\r\n", "400")
	f("Content-Type: text/html\r\nContent-Length: 70\r\n", "", "415", "415")
	f("X: y\nContent-Length: 1\r\n", "a", "400")
	f("X: y\n\nPOST / HTTP/1.1\r\n", "", "400")
	f("Host: y\r\nContent-Length: 1\r\n", "a", "400")
	f("Expect: something\r\nContent-Length: 1\r\n", "a", "417")
	answer := g.raw(t, "POST / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+inner)
	if strings.Count(answer, "HTTP/1.1 ") != 1 || !strings.HasPrefix(answer, "HTTP/1.1 400") {
		t.Errorf("chunks in HTTP/1.0: %q", answer)
	}
	answer = g.raw(t, "GET /v3/clusters HTTP/1.1\r\nHost: x\r\nContent-Length: 70\r\n\r\n"+inner)
	if strings.Count(answer, "HTTP/1.1 ") != 1 {
		t.Errorf("a GET with a body: %q", answer)
	}
}

// Several requests on one connection, the good ones and those refused before
// their body.
func TestKeepAlive(t *testing.T) {
	g := start(t, config())
	body := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na\nb"
	last := "GET /v3/clusters HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	if answer := g.raw(t, body+body+last); strings.Count(answer, "HTTP/1.1 200 OK") != 3 {
		t.Errorf("%q", answer)
	}
	refused := "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\na\nb"
	if answer := g.raw(t, body+refused+body); strings.Count(answer, "HTTP/1.1 ") != 2 || !strings.Contains(answer, "Connection: close") {
		t.Errorf("%q", answer)
	}
}

// A client that waits for leave to send gets it, or its refusal instead.
func TestExpect(t *testing.T) {
	g := start(t, settled())
	f := func(path, expect, extra string, first string) {
		t.Helper()
		nc := g.dial(t)
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(nc, "POST %s HTTP/1.1\r\nHost: x\r\n%sExpect: %s\r\nContent-Length: 2\r\n\r\n", path, extra, expect)
		r := bufio.NewReader(nc)
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+first) {
			t.Errorf("%s: %q %v, want %s", path, line, err, first)
		}
		if first != "100" {
			return
		}
		io.WriteString(nc, "{}")
		rest := make([]byte, 17)
		if _, err := io.ReadFull(r, rest); err != nil || string(rest) != "\r\nHTTP/1.1 200 OK" {
			t.Errorf("%s: %q %v", path, rest, err)
		}
	}
	f("/", "100-continue", "", "100")
	f("/", "100-Continue", "", "100")
	f(records, "100-continue", "", "100")
	f("/", "100-continue", "Content-Type: text/html\r\n", "415")
	f("/v3/clusters/x/topics/t/records", "100-continue", "", "404")
	f("/", "200-ok", "", "417")
}

// Heads that are late, long or none.
func TestHeads(t *testing.T) {
	cfg := config()
	cfg.HeaderTimeout = 100 * time.Millisecond
	g := start(t, cfg)
	f := func(head, want string) {
		t.Helper()
		if answer := g.raw(t, head); !strings.HasPrefix(answer, want) {
			t.Errorf("%.60q: %q, want %q", head, answer, want)
		}
	}
	f("POST / HT", "HTTP/1.1 408 ")
	f("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na", "HTTP/1.1 408 ")
	f("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 408 ")
	f("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 408 ")
	f("POST / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", maxHead)+"\r\n\r\n", "HTTP/1.1 431 ")
	f("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "HTTP/1.1 400 ")
	f("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 400 ") // no Host
}

// Slow clients, more of them than connections may be, do not keep good ones out.
func TestSlowClients(t *testing.T) {
	cfg := config()
	cfg.MaxConnections = 100
	g := start(t, cfg)
	var slow []net.Conn
	for i := range slowSockets() {
		nc := g.dial(t)
		slow = append(slow, nc)
		fmt.Fprint(nc, []string{"", "P", "POST / HTTP/1.1\r\nHost: x\r\n"}[i%3])
	}
	defer func() {
		for _, nc := range slow {
			nc.Close()
		}
	}()
	for range 20 {
		if status, answer := g.post(t, "/", "", "a"); status != 200 {
			t.Fatal(status, answer)
		}
	}
	if n := g.Stats().Connections; n > 100 {
		t.Errorf("%d connections", n)
	}
}

// slowSockets is 5000, or what there are descriptors for: each takes one here,
// and those that are let in one more.
func slowSockets() int {
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &most); err != nil {
		return 300
	}
	return int(min(5000, max(200, most.Cur-400)))
}

// When all connections are busy, a new one is told so.
func TestAllBusy(t *testing.T) {
	cfg := config()
	cfg.MaxConnections = 2
	cfg.sink.decide = func(one) verdict { return verdict{late: true} }
	g := start(t, cfg)
	var all sync.WaitGroup
	for range 2 {
		all.Add(1)
		go func() {
			defer all.Done()
			if status, answer := g.post(t, "/", "", "a"); status != 200 {
				t.Error(status, answer)
			}
		}()
	}
	g.sink.waitLate(t, 2)
	if answer := g.raw(t, ""); !strings.HasPrefix(answer, "HTTP/1.1 503 ") || !strings.Contains(answer, "Retry-After: 1") {
		t.Errorf("%q", answer)
	}
	g.sink.settle()
	all.Wait()
	if !strings.Contains(g.log.String(), "all connections are busy") {
		t.Error(g.log)
	}
}

// A body that comes too slowly is given up, a slow one that keeps going is not.
func TestSlowBody(t *testing.T) {
	cfg := config()
	cfg.HeaderTimeout = 150 * time.Millisecond
	g := start(t, cfg)
	nc := g.dial(t)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(nc, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
	for range 10 { // a kilobyte in 300 ms is over bodyRate
		io.WriteString(nc, strings.Repeat("a", 100))
		time.Sleep(30 * time.Millisecond)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(nc, answer); err != nil || string(answer) != "HTTP/1.1 200" {
		t.Errorf("%q %v", answer, err)
	}
	got := g.raw(t, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
	if !strings.HasPrefix(got, "HTTP/1.1 408 ") || !strings.Contains(got, "too slowly") || !strings.Contains(got, "Connection: close") {
		t.Errorf("%q", got)
	}
}

// A client that sends a body that is refused gets to read why.
func TestRefusedBodyIsDrained(t *testing.T) {
	cfg := config()
	cfg.MaxBody = 100_000
	g := start(t, cfg)
	for range 5 {
		nc := g.dial(t)
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(nc, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n80000\r\n%s", strings.Repeat("a", 0x80000))
		answer, err := io.ReadAll(nc)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 413 ") {
			t.Errorf("%q %v", answer, err)
		}
		nc.Close()
	}
}

// flaky is a listening socket that sometimes has no file descriptor left.
type flaky struct {
	net.Listener
	mu   sync.Mutex
	errs int
}

func (f *flaky) Accept() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.errs > 0 {
		f.errs--
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

func TestOutOfFiles(t *testing.T) {
	cfg := config()
	cfg.sink.reg = &registry{origins: map[int32]ingest.Origin{}}
	router, err := ingest.NewRouter(ingest.RouterConfig{Routes: []ingest.Route{{Topic: "t", Encoder: cfg.encoder}}}, cfg.sink)
	if err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	l, err := New(cfg.Config, router, cfg.sink.reg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	l.ln = &flaky{Listener: l.ln, errs: 4}
	served := make(chan error, 1)
	go func() { served <- l.Serve() }()
	eventually(t, "trouble", func() bool { return l.Trouble() != nil })
	resp, err := client.Post("http://"+l.Addr().String()+"/", "text/plain", strings.NewReader("a"))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	if err := l.Trouble(); err != nil {
		t.Error(err)
	}
	if err := l.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "cannot take a connection"); n != 1 {
		t.Errorf("told %d times:\n%s", n, log)
	}
	_ = router.Close()
}

// What clients send is in no log.
func TestNothingLeaks(t *testing.T) {
	cfg := settled()
	cfg.HeaderTimeout = 100 * time.Millisecond
	cfg.Token = func() (string, error) { return "CANARY-token", nil }
	g := start(t, cfg)
	for _, head := range []string{
		"POST /CANARY HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer CANARY\r\nContent-Length: 2\r\n\r\nCA",
		"POST / HTTP/1.1\r\nAuthorization: Bearer CANARY\r\nHost: x\r\nBad Header CANARY: 1\r\n\r\n",
		"POST / HTTP/1.1\r\nAuthorization: Bearer CANARY\r\nHost: x\r\nTransfer-Encoding: CANARY\r\n\r\n",
		"POST / HTTP/1.1\r\nAuthorization: Bearer CANARY-token\r\nHost: x\r\nContent-Length: 20\r\n\r\nCANARY",
		"CANARY\r\n\r\n",
		"POST /?token=CANARY HTTP/9.9\r\n\r\n",
		"POST " + records + " HTTP/1.1\r\nAuthorization: Bearer CANARY-token\r\nHost: x\r\nContent-Length: 9\r\n\r\n{\"CANARY\"",
		"POST / HTTP/1.1\r\nAuthorization: Bearer CANARY-token\r\nHost: x\r\nX: " + strings.Repeat("CANARY", 2000) + "\r\n\r\n",
	} {
		answer := g.raw(t, head)
		if strings.Contains(answer, "CANARY-token") {
			t.Errorf("%.60q: %q", head, answer)
		}
	}
	if strings.Contains(g.log.String(), "CANARY") || strings.Contains(fmt.Sprintf("%+v %v", g.Stats(), g.Trouble()), "CANARY") {
		t.Error(g.log)
	}
}

// Shutdown answers what gets settled in time, and tells the others so.
func TestShutdown(t *testing.T) {
	cfg := settled()
	cfg.sink.decide = func(o one) verdict { return verdict{report: report(o.payload), late: true} }
	g := start(t, cfg)
	idle := g.dial(t)
	defer idle.Close()
	answers := make(chan string, 1)
	go func() {
		status, answer := g.post(t, "/", "", "a")
		answers <- fmt.Sprint(status, answer)
	}()
	s := g.stream(t, records)
	s.send(rec("b"))
	g.sink.waitLate(t, 2)
	ended := make(chan error, 1)
	go func() { ended <- g.Shutdown(context.Background()) }()
	_ = idle.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Error("an idle connection stays:", err)
	}
	time.Sleep(20 * time.Millisecond)
	g.sink.settle()
	if got := <-answers; got != `200{"accepted":1,"rejected":[]}` {
		t.Error(got)
	}
	got, err := s.all(t)
	if err != nil {
		t.Error(err)
	}
	same(t, got, report("b"))
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", g.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

func TestShutdownTimeIsUp(t *testing.T) {
	cfg := settled()
	cfg.sink.decide = func(o one) verdict { return verdict{late: true} }
	g := start(t, cfg)
	answers := make(chan string, 1)
	go func() {
		status, answer := g.post(t, "/", "", "a\nb")
		answers <- fmt.Sprint(status, answer)
	}()
	s := g.stream(t, records)
	s.send(rec("c"))
	g.sink.waitLate(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.Shutdown(ctx); err != nil {
		t.Error("all were told, so it is no error:", err)
	}
	if got := <-answers; !strings.HasPrefix(got, "503") || !strings.Contains(got, "before this agent stopped: the fate of 2 of 2 records is not known") {
		t.Error(got)
	}
	s.in.Close()
	if got, err := s.all(t); err == nil {
		t.Errorf("a stream with a report owed ended well: %q", got)
	}
	g.sink.settle() // late, but nothing panics, and all is given back
}

// A request that comes as its connection is closed, or as the agent stops, is
// never answered as if it had been taken.
func TestStopping(t *testing.T) {
	f := func(state int32, stop bool, want string) {
		t.Helper()
		g := start(t, config())
		if stop {
			g.stopOnce.Do(func() {
				close(g.stop)
				g.ln.Close()
			})
		}
		nc, server := net.Pipe()
		defer nc.Close()
		c := &conn{Conn: server, raw: server, l: g.Listener}
		c.state.Store(state)
		g.running.Add(1)
		go c.serve()
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(nc, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na")
		answer, _ := io.ReadAll(nc)
		if got := string(answer); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "Connection: close") || !strings.Contains(got, want) {
			t.Errorf("%q", got)
		}
		if n := g.sink.count(); n != 0 {
			t.Errorf("%d records", n)
		}
	}
	f(waiting, true, "this agent is stopping")
	f(closed, false, "this connection is being closed")
}

// What a person does.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl")
	}
	g := start(t, settled())
	f := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command(curl, append([]string{"-sS", "--max-time", "10"}, args...)...).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("curl %q: %v\n%s\nwant %s", args, err, out, want)
		}
	}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte("0123456789abcde\n"), 200_000), 0o600); err != nil {
		t.Fatal(err)
	}
	f(`{"accepted":2,"rejected":[]}`, "-H", "Content-Type: text/plain", "--data-binary", "a\nb", g.url)
	f(`{"accepted":200000,"rejected":[]}`, "-H", "Content-Type: application/x-ndjson", "--data-binary", "@"+big, g.url+"/ingest/edge")
	f(`{"accepted":200000,"rejected":[]}`, "-H", "Content-Type:", "-T", big, "-X", "POST", g.url+"/ingest")
	f(report("a"), "-H", "Content-Type: application/json", "-d", rec("a"), g.url+records)
	f(report("a"), "-H", "Content-Type: application/json", "-H", "Transfer-Encoding: chunked", "-d", rec("a"), g.url+"/kafka"+records)
	f(report("a"), "-0", "-H", "Content-Type: application/json", "-d", rec("a"), g.url+records)
}
