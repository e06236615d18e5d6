package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
)

func clustersBody(ids ...string) string {
	var data []string
	for _, id := range ids {
		data = append(data, fmt.Sprintf(`{"kind":"KafkaCluster","cluster_id":%q}`, id))
	}
	return `{"kind":"KafkaClusterList","metadata":{"self":"x","next":null},"data":[` + strings.Join(data, ",") + `]}`
}

// answers are what a test endpoint says, by path; all else is 404 in JSON.
type answers map[string]struct {
	status int
	body   string
}

// endpoint serves answers and writes down what it was asked.
func endpoint(t *testing.T, say answers) (addr string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var paths []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		paths = append(paths, r.Method+" "+r.URL.Path)
		mu.Unlock()
		a, ok := say[r.URL.Path]
		if !ok {
			a.status, a.body = 404, `{"error_code":404,"message":"HTTP 404 Not Found"}`
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(a.body, "<") {
			w.Header().Set("Content-Type", "text/html")
		}
		if a.status/100 == 3 {
			w.Header().Set("Location", "https://elsewhere.example.com/v3/clusters")
		}
		w.WriteHeader(a.status)
		fmt.Fprint(w, a.body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, func() []string { mu.Lock(); defer mu.Unlock(); return paths }
}

func resolve(url, cluster string) (Target, error) {
	a, _ := auth.NewBasic("key", "hunter2")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return Resolve(ctx, Address{URL: url, ClusterID: cluster, Auth: a, HasAuth: true, DialTimeout: 2 * time.Second, Attempts: 1})
}

func TestResolve(t *testing.T) {
	one, many, none := clustersBody("lkc-1"), clustersBody("lkc-1", "lkc-2"), clustersBody()
	f := func(name string, say answers, path, cluster, wantPath, wantCluster string, wantAsked int) {
		t.Helper()
		addr, asked := endpoint(t, say)
		got, err := resolve(addr+path, cluster)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		want := addr + wantPath + "/v3/clusters/" + wantCluster + "/topics/t/records"
		if u := got.produceURL("t").String(); u != want || got.ClusterID != wantCluster {
			t.Errorf("%s: %s, cluster %s; want %s", name, u, got.ClusterID, want)
		}
		if n := len(asked()); n != wantAsked {
			t.Errorf("%s: asked %v, want %d questions", name, asked(), wantAsked)
		}
	}
	bad := func(name string, say answers, path, cluster string, denied bool, want ...string) {
		t.Helper()
		addr, _ := endpoint(t, say)
		_, err := resolve(addr+path, cluster)
		var e *EndpointError
		if !errors.As(err, &e) || e.Denied != denied {
			t.Errorf("%s: %v, want an endpoint error, denied %v", name, err, denied)
		}
		for _, w := range want {
			if !strings.Contains(fmt.Sprint(err), w) {
				t.Errorf("%s: says %v, want %q in it", name, err, w)
			}
		}
	}
	self := answers{"/v3/clusters": {200, one}}
	server := answers{"/kafka/v3/clusters": {200, one}}
	both := answers{"/kafka/v3/clusters": {200, one}, "/v3/clusters": {200, clustersBody("other")}}

	f("self-managed", self, "", "", "", "lkc-1", 2)
	f("self-managed, slash", self, "/", "", "", "lkc-1", 2)
	f("self-managed, /v3", self, "/v3", "", "", "lkc-1", 1)
	f("self-managed, /v3/", self, "/v3/", "", "", "lkc-1", 1)
	f("self-managed, whole produce path", self, "/v3/clusters/x/topics/t/records", "", "", "lkc-1", 1)
	f("embedded", server, "", "", "/kafka", "lkc-1", 1)
	f("embedded, /kafka", server, "/kafka", "", "/kafka", "lkc-1", 1)
	f("embedded, /kafka/v3", server, "/kafka/v3?x=y#z", "", "/kafka", "lkc-1", 1)
	f("both", both, "", "", "/kafka", "lkc-1", 1)
	f("own prefix", answers{"/a/b/v3/clusters": {200, one}}, "/a/b", "", "/a/b", "lkc-1", 1)
	f("all given", answers{}, "/v3", "mine", "", "mine", 0)
	f("all given, /kafka", answers{}, "/kafka", "mine", "/kafka", "mine", 0)
	f("cluster given, prefix asked", server, "", "mine", "/kafka", "mine", 1)
	f("cluster given, none lists", answers{}, "", "mine", "", "mine", 2)
	f("cluster given, reading not allowed", answers{"/kafka/v3/clusters": {405, "{}"}}, "", "mine", "/kafka", "mine", 1)
	f("cluster given, many there", answers{"/v3/clusters": {200, many}}, "", "lkc-2", "", "lkc-2", 2)
	f("a page under one prefix", answers{"/kafka/v3/clusters": {200, "<html><title>Login</title>"}, "/v3/clusters": {200, one}}, "", "", "", "lkc-1", 2)
	f("denied under one prefix", answers{"/kafka/v3/clusters": {403, "{}"}, "/v3/clusters": {200, one}}, "", "", "", "lkc-1", 2)

	f("cluster given, may not list", answers{"/kafka/v3/clusters": {403, "{}"}}, "", "mine", "/kafka", "mine", 2)
	f("cluster given, GET not implemented", answers{"/kafka/v3/clusters": {501, ""}, "/v3/clusters": {501, ""}}, "", "mine", "", "mine", 2)

	bad("no cluster", answers{"/v3/clusters": {200, none}}, "/v3", "", false, "lists no cluster", "--cluster-id")
	bad("many clusters", answers{"/v3/clusters": {200, many}}, "/v3", "", false, "lkc-1, lkc-2", "--cluster-id")
	bad("many clusters, prefix asked", answers{"/v3/clusters": {200, many}}, "", "", false, "lkc-1, lkc-2")
	bad("an id that is none", answers{"/v3/clusters": {200, clustersBody("../x")}}, "/v3", "", false, "characters")
	bad("401", answers{"/v3/clusters": {401, `{"error_code":40101,"message":"Unauthorized"}`}}, "/v3", "", true, "40101", "API key")
	bad("401 everywhere", answers{"/kafka/v3/clusters": {401, ""}, "/v3/clusters": {401, ""}}, "", "", true, "API key")
	bad("401 under one", answers{"/kafka/v3/clusters": {401, ""}}, "", "", true, "API key")
	bad("401, cluster given", answers{"/kafka/v3/clusters": {401, ""}}, "", "mine", true, "API key")
	bad("403", answers{"/v3/clusters": {403, "{}"}}, "/v3", "", true, "403")
	bad("404", answers{}, "", "", false, "404", "/v3")
	bad("405", answers{"/v3/clusters": {405, "{}"}}, "/v3", "", false, "405")
	bad("HTML", answers{"/v3/clusters": {200, "<html><title>Sign in</title>"}}, "/v3", "", false, `"Sign in"`, "--rest-endpoint")
	bad("HTML 404", answers{"/v3/clusters": {404, "<html><title>Not here</title>"}}, "/v3", "", false, `"Not here"`)
	bad("other JSON", answers{"/v3/clusters": {200, "[1]"}}, "/v3", "", false, "not a Kafka REST endpoint")
	bad("away", answers{"/v3/clusters": {503, ""}}, "/v3", "", false, "503")
	bad("redirect", answers{"/v3/clusters": {302, ""}}, "/v3", "", false, "redirects to https://elsewhere.example.com")
}

// What cannot be right is refused before anything is asked; a secret in the
// endpoint is not repeated.
func TestResolveRefuses(t *testing.T) {
	f := func(url, cluster, want string) {
		t.Helper()
		_, err := resolve(url, cluster)
		var e *EndpointError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", url, err, want)
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%q: the error tells the secret: %v", url, err)
		}
	}
	f("", "x", "no endpoint")
	f("localhost:8082", "x", "no scheme")
	f("ftp://localhost", "x", "http:// or https://")
	f("http://", "x", "a host")
	f("https://user:hunter2@localhost/v3", "x", "user name or password")
	f("https://hunter2@localhost/v3", "x", "user name or password")
	f("user:hunter2@localhost", "x", "user name or password")
	f("ftp://user:hunter2@localhost", "x", "user name or password")
	f("https://user:hunter2@", "x", "user name or password")
	f("https://user:hunter2@host:port/v3", "x", "user name or password")
	f("https://user:hun%ter2hunter2@host/v3", "x", "user name or password")
	f("http://kafka.example.com:8082/v3", "x", "plain text")
	f("http://10.0.0.1/v3", "x", "--allow-plaintext-auth")
	f("https://kafka.example.com/v3", "..", "--cluster-id")
	f("https://kafka.example.com/v3", "a/b", "--cluster-id")
	f("https://kafka.example.com/v3", "a b", "--cluster-id")
}

func TestResolveWithoutAsking(t *testing.T) {
	f := func(a Address, want string) {
		t.Helper()
		a.Auth, a.ClusterID = auth.None{}, "lkc-1"
		got, err := Resolve(context.Background(), a)
		if err != nil || got.produceURL("a/b").String() != want {
			t.Errorf("%s: %v, %v; want %s", a.URL, got.produceURL("a/b"), err, want)
		}
	}
	const tail = "/v3/clusters/lkc-1/topics/a%2Fb/records"
	f(Address{URL: "https://pkc-1.eu.aws.confluent.cloud:443", HasAuth: true}, "https://pkc-1.eu.aws.confluent.cloud:443/kafka"+tail)
	f(Address{URL: "https://lkc-1.dom.eu.gcp.confluent.cloud/", HasAuth: true}, "https://lkc-1.dom.eu.gcp.confluent.cloud/kafka"+tail)
	f(Address{URL: "https://pkc-1.eu.aws.confluent.cloud/kafka/v3", HasAuth: true}, "https://pkc-1.eu.aws.confluent.cloud/kafka"+tail)
	f(Address{URL: "http://kafka.example.com/v3"}, "http://kafka.example.com"+tail)
	f(Address{URL: "http://kafka.example.com/v3", HasAuth: true, AllowPlaintext: true}, "http://kafka.example.com"+tail)
	f(Address{URL: "http://[::1]:8082/v3", HasAuth: true}, "http://[::1]:8082"+tail)
}

// Nothing there: the error says what to look at, after the attempts asked for.
func TestResolveRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	waits := 0
	_, err = Resolve(context.Background(), Address{
		URL: "http://" + addr, Auth: auth.None{}, DialTimeout: time.Second, Attempts: 2,
		Waiting: func(error, int, time.Duration) { waits++ },
	})
	var e *EndpointError
	if !errors.As(err, &e) || e.Denied || !strings.Contains(err.Error(), "nothing listens there") || waits != 1 {
		t.Errorf("%v after %d waits", err, waits)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Resolve(ctx, Address{URL: "http://" + addr, Auth: auth.None{}, DialTimeout: time.Second, Attempts: 99}); err == nil {
		t.Error("no error though the context has ended")
	}
}

// A key that is not known yet is asked for again where there is patience.
func TestResolveFreshKey(t *testing.T) {
	f := func(patience time.Duration, known bool) {
		t.Helper()
		var asked atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if asked.Add(1) < 3 {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprint(w, clustersBody("lkc-1"))
		}))
		defer srv.Close()
		a, _ := auth.NewBasic("key", "secret")
		got, err := Resolve(t.Context(), Address{URL: srv.URL + "/kafka", Auth: a, HasAuth: true, DialTimeout: time.Second, Attempts: 1, Patience: patience})
		var e *EndpointError
		if known && (err != nil || got.ClusterID != "lkc-1") || !known && (!errors.As(err, &e) || !e.Denied) {
			t.Errorf("patience %s: %+v, %v", patience, got, err)
		}
	}
	f(time.Minute, true)
	f(0, false)
}

// TLS: a certificate that is not trusted, plain HTTP where TLS is expected, and
// the endpoint's own authority.
func TestResolveTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, clustersBody("lkc-1")) }))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	defer srv.Close()
	f := func(a Address, want string) {
		t.Helper()
		var cfg tls.Config
		if want == "" {
			cfg.RootCAs = x509.NewCertPool()
			cfg.RootCAs.AddCert(srv.Certificate())
		}
		a.Auth, a.TLS, a.DialTimeout, a.Attempts = auth.None{}, auth.FixedTLS(&cfg), 2*time.Second, 2
		got, err := Resolve(context.Background(), a)
		if want == "" {
			if err != nil || got.ClusterID != "lkc-1" {
				t.Errorf("%s: %v, %v", a.URL, got, err)
			}
			return
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", a.URL, err, want)
		}
	}
	f(Address{URL: srv.URL + "/v3"}, "")
	f(Address{URL: srv.URL + "/v3"}, "--ca-file")
	plain, _ := endpoint(t, answers{})
	f(Address{URL: strings.Replace(plain, "http:", "https:", 1) + "/v3"}, "plain HTTP")
}

func TestMissingTopic(t *testing.T) {
	f := func(status int, body string, want bool) {
		t.Helper()
		addr, _ := endpoint(t, answers{"/v3/clusters/lkc-1/topics/t": {status, body}})
		target, err := resolve(addr+"/v3", "lkc-1")
		if err != nil {
			t.Fatal(err)
		}
		if got := target.MissingTopic(context.Background(), "t"); got != want {
			t.Errorf("%d %s: %v", status, body, got)
		}
	}
	f(404, `{"error_code":40403,"message":"This server does not host this topic-partition."}`, true)
	f(404, `{"error_code":404,"message":"HTTP 404 Not Found"}`, false)
	f(404, "<html>", false)
	f(200, `{"topic_name":"t"}`, false)
	f(403, `{"error_code":40301,"message":"no"}`, false)
	f(500, "", false)
}

func TestSameOrigin(t *testing.T) {
	f := func(a, b string, want bool) {
		t.Helper()
		ua, _, err := parseBase(a)
		if err != nil {
			t.Fatal(err)
		}
		ub, _, err := parseBase(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := sameOrigin(ua, ub); got != want {
			t.Errorf("sameOrigin(%s, %s) = %v", a, b, got)
		}
	}
	f("https://a", "https://a", true)
	f("https://a", "https://A:443/x", true)
	f("http://a", "http://a:80", true)
	f("http://a", "https://a", true)
	f("https://a", "http://a", false)
	f("https://a", "https://a:8443", false)
	f("http://a:8082", "https://a:8082", false)
	f("https://a", "https://b", false)
	f("https://a", "https://a.b", false)
	f("https://b.a", "https://a", false)
	f("http://127.0.0.1:1", "http://127.0.0.1:2", false)
	f("http://127.0.0.1:1", "http://localhost:1", false)
}
