package stream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// v2Face is a v2 server's face: its name, and what it says by path.
func v2Face(t *testing.T, server string, say map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if server != "" {
			w.Header().Set("Server", server)
		}
		if !r.Close {
			t.Errorf("GET %s keeps its connection", r.URL)
		}
		text, ok := say[r.URL.Path]
		status := 200
		if !ok {
			status, text = 404, `{"error_code":404,"message":"HTTP 404 Not Found"}`
		}
		if strings.HasSuffix(r.URL.Path, "/topics") && r.Header.Get("Accept") != v2Accept {
			status, text = 406, ""
		}
		if n, err := fmt.Sscanf(text, "status %d", &status); n == 1 && err == nil {
			text = ""
		}
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestFindV2(t *testing.T) {
	ask := func(addr, cluster string, d dialect.Dialect) (Target, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return Resolve(ctx, Address{URL: addr, ClusterID: cluster, Auth: auth.None{}, Dialect: d, DialTimeout: 2 * time.Second, Attempts: 1})
	}
	f := func(name, server string, say map[string]string, path string, want dialect.Dialect) {
		t.Helper()
		addr := v2Face(t, server, say)
		for _, d := range []dialect.Dialect{dialect.Auto, dialect.V2} {
			got, err := ask(addr+path, "", d)
			if err != nil || got.Dialect != want || got.Base.Path != path || !strings.HasPrefix(addr, "http://"+got.ClusterID) {
				t.Errorf("%s, %s: %s at %v, cluster %q (%v), want %s", name, d, got.Dialect, got.Base, got.ClusterID, err, want)
			}
		}
	}
	topics := `["a","b"]`
	f("Karapace", "Karapace/3.12.0", nil, "", dialect.V2Karapace)
	f("Redpanda", "Seastar httpd", map[string]string{"/topics": topics}, "", dialect.V2Pandaproxy)
	f("Redpanda behind a proxy", "nginx", map[string]string{"/topics": topics, "/status/ready": ""}, "", dialect.V2Pandaproxy)
	f("Strimzi", "", map[string]string{"/": `{"bridge_version":"0.33.1"}`}, "", dialect.V2Strimzi)
	f("Confluent", "", map[string]string{"/": `{}`, "/topics": topics}, "", dialect.V2Confluent)
	f("with a prefix", "", map[string]string{"/rest/": `{"bridge_version":"0.33.1"}`, "/rest": `{"bridge_version":"0.33.1"}`}, "/rest", dialect.V2Strimzi)
	f("nobody knows", "", map[string]string{"/topics": topics, "/": "hello"}, "", dialect.V2Other)

	// What was said is believed, without a question.
	if got, err := ask("http://127.0.0.1:1/p", "", dialect.V2Karapace); err != nil || got.Dialect != dialect.V2Karapace || got.ClusterID != "127.0.0.1:1" {
		t.Errorf("%+v, %v", got, err)
	}
	// REST v3 goes first, and a cluster id means it.
	both := v2Face(t, "", map[string]string{"/v3/clusters": clustersBody("lkc-1"), "/topics": topics, "/": "{}"})
	if got, err := ask(both, "", dialect.Auto); err != nil || got.Dialect != dialect.V3Stream || got.ClusterID != "lkc-1" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, d := range []dialect.Dialect{dialect.V3Records, dialect.V3Batch} {
		if got, err := ask(both, "", d); err != nil || got.Dialect != d {
			t.Errorf("%s: %+v, %v", d, got, err)
		}
	}
	if got, err := ask(v2Face(t, "Karapace/1", nil), "lkc-1", dialect.Auto); err != nil || got.Dialect != dialect.V3Stream {
		t.Errorf("%+v, %v", got, err)
	}

	bad := func(name, addr string, d dialect.Dialect, denied bool, want string) {
		t.Helper()
		_, err := ask(addr, "", d)
		var e *EndpointError
		if !errors.As(err, &e) || e.Denied != denied || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v (denied %v), want %q", name, err, denied, want)
		}
	}
	nothing := v2Face(t, "", nil)
	bad("nothing", nothing, dialect.Auto, false, "/v3/clusters")
	bad("nothing", nothing, dialect.V2, false, "does not look like a v2 server")
	bad("wants credentials", v2Face(t, "", map[string]string{"/topics": "status 401"}), dialect.Auto, true, "wants credentials")
	bad("v3 only", nothing, dialect.V3Batch, false, "404")
	bad("v3 is there and away", v2Face(t, "Karapace/1", map[string]string{"/v3/clusters": "status 503"}), dialect.Auto, false, "503")
	bad("not reached", "http://127.0.0.1:1", dialect.V2, false, "127.0.0.1:1")
}

// Each server is asked for a topic in its own way, and only a clear no counts.
func TestMissingTopicV2(t *testing.T) {
	f := func(d dialect.Dialect, say map[string]string, want bool) {
		t.Helper()
		u, err := url.Parse(v2Face(t, "", say))
		if err != nil {
			t.Fatal(err)
		}
		target := Target{Base: u, Auth: auth.None{}, Dialect: d}
		if got := target.MissingTopic(t.Context(), "t"); got != want {
			t.Errorf("%s: missing %v, with %v", d, got, say)
		}
	}
	f(dialect.V2Pandaproxy, map[string]string{"/topics": `["a"]`}, true)
	f(dialect.V2Pandaproxy, map[string]string{"/topics": `["a","t"]`}, false)
	f(dialect.V2Pandaproxy, map[string]string{"/topics": `[]`}, false)
	f(dialect.V2Pandaproxy, map[string]string{"/topics": `{`}, false)
	f(dialect.V2Strimzi, nil, true)
	f(dialect.V2Karapace, nil, false) // a plain 404 is no word on the topic
	f(dialect.V2Karapace, map[string]string{"/topics/t": `{}`}, false)
	f(dialect.V2Other, nil, false)
}
