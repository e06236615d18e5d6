package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// gate stands in front of a sandbox and lets those in who bring one of the
// right headers. What it has let in is bytes to it.
type gate struct {
	ln   net.Listener
	to   string
	wg   sync.WaitGroup
	mu   sync.Mutex
	good string // Authorization
	pool string // Confluent-Identity-Pool-Id
	seen int    // requests
	open map[net.Conn]struct{}
}

func newGate(t *testing.T, s *sandbox.Sandbox, good, pool string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{ln: ln, to: strings.TrimPrefix(s.URL(), "http://"), good: good, pool: pool, open: map[net.Conn]struct{}{}}
	g.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() { g.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); g.cut(); g.wg.Wait() })
	return g
}

func (g *gate) url() string { return "http://" + g.ln.Addr().String() + "/kafka" }

// cut closes what is open.
func (g *gate) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.open {
		c.Close()
	}
}

func (g *gate) wants(good string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.good = good
}

func (g *gate) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	var head bytes.Buffer
	req := map[string]string{}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		req[strings.ToLower(name)] = value
		if line == "\r\n" {
			head.WriteString("Connection: close\r\n\r\n")
			break
		}
		head.WriteString(line)
	}
	g.mu.Lock()
	g.seen++
	ok := req["authorization"] == g.good && req["confluent-identity-pool-id"] == g.pool
	g.open[c] = struct{}{}
	g.mu.Unlock()
	if !ok {
		const body = `{"error_code":40101,"message":"Unauthorized"}`
		fmt.Fprintf(c, "HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, r)
		return
	}
	up, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer up.Close()
	up.Write(head.Bytes())
	done := make(chan struct{})
	go func() { defer close(done); io.Copy(up, r); up.(*net.TCPConn).CloseWrite() }()
	io.Copy(c, up)
	c.Close()
	<-done
}

// tokenServer gives out one token and notes the forms it got.
func tokenServer(t *testing.T, token string) (url string, forms func() []string) {
	var mu sync.Mutex
	var all []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		mu.Lock()
		all = append(all, r.PostForm.Encode())
		mu.Unlock()
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, token)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string { mu.Lock(); defer mu.Unlock(); return all }
}

// Each kind of credentials gets records through, by flags and variables, and
// nothing secret is said on the way.
func TestShipWithTokens(t *testing.T) {
	s := startBox(t)
	url, forms := tokenServer(t, "canary-token")
	bearer := newGate(t, s, "Bearer canary-token", "")
	pool := newGate(t, s, "Bearer canary-token", "pool-1")
	token := write(t, "token", "canary-token\n")
	subject := write(t, "subject", "canary.subject.jwt")
	secret := write(t, "secret", "canary-secret\n")
	cache := t.TempDir()
	f := func(name string, g *gate, want string, env []string, args ...string) {
		t.Helper()
		r := begin(t, append(env, "XDG_CACHE_HOME="+cache), strings.NewReader("a\nb\nc\n"), append([]string{
			"ship", "-v", "-o", "json", "--reports", "-", "-t", "t", "--rest-endpoint", g.url(), "--cluster-id", s.ClusterID(),
		}, args...)...).ran()
		r.want(t, exitOK, 3, 3, 0, 0)
		if all := forms(); want != "" && (len(all) == 0 || !strings.Contains(all[len(all)-1], want)) {
			t.Errorf("%s: %v, want %s", name, all, want)
		}
		if strings.Contains(r.out+r.err, "canary") {
			t.Errorf("%s: tells a secret:\n%s", name, r.err)
		}
	}
	f("bearer", bearer, "", nil, "--bearer-token-file", token)
	f("bearer and pool", pool, "", []string{"PRODUCE_AGENT_BEARER_TOKEN_FILE=" + token, "PRODUCE_AGENT_IDENTITY_POOL_ID=pool-1"})
	f("oauth2", pool, "audience=x&client_id=c&client_secret=canary-secret&grant_type=client_credentials&scope=a+b", nil,
		"--oauth2-token-url", url, "--oauth2-client-id", "c", "--oauth2-client-secret-file", secret, "--oauth2-scope", "a", "--oauth2-scope", "b",
		"--oauth2-audience", "x", "--identity-pool-id", "pool-1")
	f("oauth2 by environment", bearer, "scope=a+b", []string{
		"PRODUCE_AGENT_OAUTH2_TOKEN_URL=" + url, "PRODUCE_AGENT_OAUTH2_CLIENT_ID=c", "PRODUCE_AGENT_OAUTH2_CLIENT_SECRET=canary-secret", "PRODUCE_AGENT_OAUTH2_SCOPE=a b",
	})
	f("sts", bearer, "identity_pool_id=pool-1&requested_token_type", nil, "--sts-token-url", url, "--sts-subject-token-file", subject, "--identity-pool-id", "pool-1")
	f("flags go before the environment", bearer, "", []string{"KAFKA_API_KEY=k", "KAFKA_API_SECRET=canary-other"}, "--bearer-token-file", token)

	before := len(forms())
	for range 3 {
		f("redpanda", bearer, "audience=cloudv2-production.redpanda.cloud", []string{
			"REDPANDA_CLOUD_CLIENT_ID=rp", "REDPANDA_CLOUD_CLIENT_SECRET=canary-secret", "REDPANDA_CLOUD_TOKEN_URL=" + url,
		}, "--auth-type", "redpanda")
	}
	if n := len(forms()) - before; n != 1 {
		t.Errorf("three runs cost %d tokens", n)
	}
	// A token that was taken back though it is kept costs another one.
	other, again := tokenServer(t, "canary-new")
	newer := newGate(t, s, "Bearer canary-new", "")
	keep := filepath.Join(cache, "produce-agent")
	rp := []string{"REDPANDA_CLOUD_CLIENT_ID=rp", "REDPANDA_CLOUD_CLIENT_SECRET=canary-secret", "REDPANDA_CLOUD_TOKEN_URL=" + other}
	f("first", newer, "", rp, "--auth-type", "redpanda")
	all, _ := filepath.Glob(filepath.Join(keep, "token-*.json"))
	for _, path := range all {
		raw, _ := os.ReadFile(path)
		if bytes.Contains(raw, []byte("canary-new")) {
			if err := os.WriteFile(path, bytes.Replace(raw, []byte("canary-new"), []byte("canary-old"), 1), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	f("taken back", newer, "", rp, "--auth-type", "redpanda")
	r := begin(t, append(rp, "XDG_CACHE_HOME="+cache), strings.NewReader(""), "ship", "-t", "t", "--rest-endpoint", newer.url(), "--auth-type", "redpanda").ran()
	if r.status != exitOK || len(again()) != 2 {
		t.Errorf("status %d, %d tokens\n%s", r.status, len(again()), r.err)
	}
	if err := os.RemoveAll(all[len(all)-1]); err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	kept, _ := filepath.Glob(filepath.Join(cache, "produce-agent", "token-*.json"))
	if len(kept) != 1 {
		t.Fatalf("%v", kept)
	}
	if raw, _ := os.ReadFile(kept[0]); len(raw) == 0 || strings.Contains(string(raw), "canary-secret") {
		t.Error("the cache holds the client's secret")
	}
}

// Settings that do not go together, and credentials that are not accepted.
func TestShipTokenMistakes(t *testing.T) {
	s := startBox(t)
	url, _ := tokenServer(t, "canary-wrong")
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"error":"invalid_client"}`)
	}))
	defer refuses.Close()
	g := newGate(t, s, "Bearer right", "")
	token, secret := write(t, "token", "canary-token"), write(t, "secret", "canary-secret")
	f := func(status int, want string, args ...string) {
		t.Helper()
		r := begin(t, []string{"HOME=" + t.TempDir()}, strings.NewReader("a\n"), append([]string{"ship", "-t", "t", "--rest-endpoint", g.url(), "--cluster-id", s.ClusterID()}, args...)...).ran()
		if r.status != status || !strings.Contains(r.err, want) || strings.Contains(r.err, "canary-") {
			t.Errorf("%q: status %d, want %d and %q:\n%s", args, r.status, status, want, r.err)
		}
	}
	client := []string{"--oauth2-client-id", "c", "--oauth2-client-secret-file", secret}
	f(exitUsage, "more than one kind are given: bearer, oauth2", append(client, "--bearer-token-file", token)...)
	f(exitUsage, "must be none, basic, bearer", "--auth-type", "magic")
	f(exitUsage, "what is given is for bearer", "--auth-type", "basic", "--bearer-token-file", token)
	f(exitUsage, "--oauth2-token-url", client...)
	f(exitUsage, "--oauth2-client-secret-file", "--oauth2-client-id", "c", "--oauth2-token-url", url)
	f(exitUsage, "--identity-pool-id", "--auth-type", "sts")
	f(exitUsage, "it goes with a bearer token, oauth2 or sts", "--identity-pool-id", "p")
	f(exitUsage, "no such file", "--bearer-token-file", "/gone")
	f(exitUsage, "--cert-file", "--auth-type", "mtls")
	f(exitUsage, "everybody on this machine can read", "--proxy", "http://u:canary-p@127.0.0.1:1")
	f(exitUsage, "names no user", "--proxy", "http://127.0.0.1:1", "--proxy-password-file", secret)
	f(exitDenied, "is not accepted", "--bearer-token-file", token)
	f(exitDenied, "check its audience and scopes", append(client, "--oauth2-token-url", url)...)
	f(exitDenied, "client id or the client secret is wrong", append(client, "--oauth2-token-url", refuses.URL)...)
}

// A bearer token that is written anew is taken up without a restart: a service
// whose token has ended is unready, keeps its records, and goes on with the new.
func TestServiceTakesUpANewToken(t *testing.T) {
	s := startBox(t)
	g := newGate(t, s, "Bearer one", "")
	token := write(t, "token", "one")
	listen := freeAddr(t)
	file := write(t, "agent.yaml", fmt.Sprintf(`clusters:
  main: {rest_endpoint: %q, cluster_id: %q, auth: {token_file: %q, patience: 1s}}
inputs: {in: {type: http, listen: %q, respond_timeout: 50s}}
routes: [{name: r, topic: t, retry: {initial: 50ms, max: 200ms}}]
observe: {listen: ""}
`, g.url(), s.ClusterID(), token, listen))
	p := begin(t, nil, nil, "ship", "--config", file)
	p.until(`"msg":"listening"`)
	post := func(text string) error {
		resp, err := http.Post("http://"+listen+"/", "text/plain", strings.NewReader(text))
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	}
	if err := post("a\n"); err != nil {
		t.Fatal(err)
	}
	g.wants("Bearer two")
	g.cut()
	done := make(chan error, 1)
	go func() { done <- post("b\nc\n") }()
	p.until("may have been revoked")
	if err := os.WriteFile(token, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	r := p.ran()
	if r.status != 130 || strings.Contains(r.err, "Bearer") {
		t.Errorf("status %d\n%s", r.status, r.err)
	}
}

// A run goes out through a proxy that wants a password, and a report is there
// while the request's body is still open.
func TestShipThroughAProxy(t *testing.T) {
	s := startBox(t)
	var went sync.Map
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("user:canary p@ss")) {
			w.Header().Set("Proxy-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		went.Store(r.Host, true)
		up, err := net.Dial("tcp", strings.Replace(r.Host, "kafka.invalid", "127.0.0.1", 1))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer up.Close()
		c, b, _ := http.NewResponseController(w).Hijack()
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(up, b); up.(*net.TCPConn).CloseWrite() }()
		io.Copy(c, up)
	}))
	defer proxy.Close()
	at := strings.TrimPrefix(proxy.URL, "http://")
	host := strings.Replace(strings.TrimPrefix(s.URL(), "http://"), "127.0.0.1", "kafka.invalid", 1) // none is used for this machine
	args := []string{"ship", "-o", "json", "--reports", "-", "-t", "t", "--rest-endpoint", "http://" + host}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	p := begin(t, []string{"PRODUCE_AGENT_PROXY=http://user:canary p@ss@" + at}, in, args...)
	fmt.Fprintln(out, "first")
	for !strings.Contains(p.out.String(), `"error_code":200`) { // stdin, and so the body, is open
		select {
		case <-p.out.grown:
		case <-p.exited:
			t.Fatalf("ended:\n%s", p.err.String())
		}
	}
	fmt.Fprintln(out, "second")
	out.Close()
	r := p.ran()
	r.want(t, exitOK, 2, 2, 0, 0)
	if _, ok := went.Load(host); !ok || strings.Contains(r.out+r.err, "canary") || !strings.Contains(r.err, "proxy=http://"+at) {
		t.Errorf("went through the proxy: %v\n%s", ok, r.err)
	}
	password := write(t, "password", "canary p@ss\n")
	begin(t, nil, strings.NewReader("a\n"), append(args, "--proxy", "http://user@"+at, "--proxy-password-file", password)...).ran().want(t, exitOK, 1, 1, 0, 0)
	// No proxy is for this machine itself.
	here := []string{"ship", "-o", "json", "--reports", "-", "-t", "t", "--rest-endpoint", s.URL()}
	begin(t, []string{"HTTP_PROXY=" + proxy.URL, "HTTPS_PROXY=" + proxy.URL}, strings.NewReader("a\n"), here...).ran().want(t, exitOK, 1, 1, 0, 0)
	begin(t, nil, strings.NewReader("a\n"), append(here, "--proxy", proxy.URL)...).ran().want(t, exitOK, 1, 1, 0, 0)
	f := func(status int, want string, env ...string) {
		t.Helper()
		if r := begin(t, env, strings.NewReader("a\n"), append(args, "--max-attempts", "2")...).ran(); r.status != status || !strings.Contains(r.err, want) || strings.Contains(r.err, "canary") {
			t.Errorf("status %d, want %d and %q\n%s", r.status, status, want, r.err)
		}
	}
	f(exitDenied, "does not accept the user and password", "PRODUCE_AGENT_PROXY=http://user:canary@"+at)
	f(exitDenied, "it wants a user and a password", "PRODUCE_AGENT_PROXY=http://"+at)
	f(exitFailure, "cannot be reached", "PRODUCE_AGENT_PROXY=http://u:canary@127.0.0.1:1")
	f(exitUsage, "want http:// or https://", "PRODUCE_AGENT_PROXY=socks5://u:canary@"+at)
	// A host of another machine goes by the environment's.
	r = begin(t, []string{"HTTP_PROXY=http://user:canary%20p%40ss@" + at}, strings.NewReader("a\n"),
		"ship", "-t", "t", "--rest-endpoint", "http://kafka.invalid:8082", "--max-attempts", "1").ran()
	if r.status != exitFailure || strings.Contains(r.err, "canary") {
		t.Errorf("status %d\n%s", r.status, r.err)
	}
	if _, ok := went.Load("kafka.invalid:8082"); !ok {
		t.Errorf("did not go by HTTP_PROXY:\n%s", r.err)
	}
}

// Every variable of the flags is read, and known to be no key of a file.
func TestCredentialNames(t *testing.T) {
	for _, name := range credentialNames {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "x")
			var c connection
			_ = c.fromEnvironment()
			if len(c.used) != 1 || c.used[0] != name {
				t.Errorf("used %v", c.used)
			}
			if o := configOptions(); !slices.Contains(o.Own, name) {
				t.Error("not known as our own")
			}
		})
	}
}

// check --connect says as whom it was accepted, and how long that lasts.
func TestCheckConnectTokens(t *testing.T) {
	s := startBox(t)
	url, _ := tokenServer(t, "canary-token")
	g := newGate(t, s, "Bearer canary-token", "pool-1")
	f := func(status int, auth string, want ...string) {
		t.Helper()
		file := write(t, "agent.yaml", agentYAML(fmt.Sprintf("{rest_endpoint: %q, cluster_id: %s, auth: %s}", g.url(), s.ClusterID(), auth)))
		r := begin(t, []string{"SECRET=canary-secret", "HOME=" + t.TempDir()}, nil, "check", "--connect", file).ran()
		for _, w := range want {
			if r.status != status || !strings.Contains(r.out, w) || strings.Contains(r.out+r.err, "canary") {
				t.Errorf("status %d, want %d and %q:\n%s%s", r.status, status, w, r.out, r.err)
			}
		}
	}
	client := func(more string) string {
		return fmt.Sprintf(`{oauth2: {token_url: %q, client_id: c, client_secret: "${env:SECRET}"%s}}`, url, more)
	}
	f(exitOK, client(", identity_pool_id: pool-1"), "credentials accepted: OAuth2 client, token good for another 1h0m0s")
	f(exitDenied, client(""), "refused: ", "check its audience and scopes")
	f(exitOK, fmt.Sprintf("{token_file: %q, identity_pool_id: pool-1}", write(t, "token", "canary-token")), "credentials accepted: bearer token of ")
}
