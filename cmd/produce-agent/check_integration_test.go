package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// agentYAML is a good configuration with this cluster.
func agentYAML(cluster string) string {
	return "clusters:\n  main: " + cluster + `
inputs:
  in: {type: stdin}
routes:
  - {name: r, inputs: [in], topic: t}
observe: {listen: ""}
`
}

func TestCheck(t *testing.T) {
	good := write(t, "agent.yaml", agentYAML("{rest_endpoint: http://127.0.0.1:1}"))
	bad := write(t, "bad.yaml", agentYAML("{rest_endpiont: http://127.0.0.1:1, limits: huge}"))
	f := func(status int, args []string, words ...string) ran {
		t.Helper()
		r := begin(t, nil, nil, append([]string{"check"}, args...)...).ran()
		if r.status != status {
			t.Errorf("%q: status %d, want %d:\n%s", args, r.status, status, r.err)
		}
		for _, w := range words {
			if !strings.Contains(r.err, w) {
				t.Errorf("%q: no %q in:\n%s", args, w, r.err)
			}
		}
		return r
	}
	if r := f(exitOK, []string{good}, good+": good: 1 cluster, 1 input, 1 route\n"); r.out != "" {
		t.Errorf("stdout: %q", r.out)
	}
	f(exitOK, []string{"--config", good}, "good: 1 cluster")
	f(exitConfig, []string{bad}, bad+":2:10: clusters.main: there is no key \"rest_endpiont\" here: did you mean \"rest_endpoint\"?",
		bad+":2:53: clusters.main.limits.profile: no profile is called \"huge\"", "produce-agent: "+bad+": 2 errors\n")
	f(exitConfig, nil, "agent.yaml: there is no such file") // of the current folder
	f(exitConfig, []string{t.TempDir()}, "is a directory, want a file")
	f(exitUsage, []string{good, bad}, "accepts at most 1 arg")
	f(exitUsage, []string{good, "--config", bad}, "two files to check")

	r := f(exitOK, []string{"--print", good}, "good")
	again := f(exitOK, []string{"--print", write(t, "again.yaml", r.out)}, "good")
	if r.out == "" || again.out != r.out {
		t.Errorf("printed again:\n%s\nwant:\n%s", again.out, r.out)
	}
}

// What the environment overrides, warns of and knows as its own.
func TestCheckEnvironment(t *testing.T) {
	good := write(t, "agent.yaml", agentYAML("{rest_endpoint: http://127.0.0.1:1}"))
	env := []string{
		"PRODUCE_AGENT_CLUSTERS_MAIN_LIMITS=standard", "PRODUCE_AGENT_NONSENSE=canary",
		"PRODUCE_AGENT_REST_ENDPOINT=x", "PRODUCE_AGENT_API_SECRET=canary", "PRODUCE_AGENT_API_SECRET_FILE=x",
	}
	r := begin(t, env, nil, "check", "--print", good).ran()
	if r.status != exitOK || !strings.Contains(r.out, "profile: standard") || strings.Contains(r.out+r.err, "canary") {
		t.Errorf("status %d:\n%s%s", r.status, r.out, r.err)
	}
	if n := strings.Count(r.err, "warning"); n != 1 || !strings.Contains(r.err, "PRODUCE_AGENT_NONSENSE: warning: ") {
		t.Errorf("%d warnings, want that of NONSENSE:\n%s", n, r.err)
	}
}

// Every variable that the flags know is known to be no key of a file.
func TestCheckOwnNames(t *testing.T) {
	for _, name := range connectionNames {
		t.Setenv(name, "x")
	}
	var c connection
	c.basicFromEnvironment()
	if err := c.fromEnvironment(); err != nil && !strings.Contains(err.Error(), "more than one kind") && !strings.Contains(err.Error(), "--auth-type=x") {
		t.Error(err)
	}
	used := strings.Join(c.used, " ")
	for _, name := range connectionNames {
		// With a file for the secret the secret's variable is not looked at.
		if !strings.Contains(used, name) && name != "PRODUCE_AGENT_API_SECRET" {
			t.Errorf("%s is no variable of the flags", name)
		}
	}
}

func TestCheckConnect(t *testing.T) {
	authority := filepath.Join(t.TempDir(), "ca.pem")
	open := startBox(t)
	locked := startBoxWith(t, func(c *sandbox.Config) {
		c.Credentials, c.TLS, c.CAFile = map[string]string{"KEY": "s3cret"}, true, authority
	})
	f := func(status int, cluster string, words ...string) {
		t.Helper()
		file := write(t, "agent.yaml", agentYAML(cluster))
		r := begin(t, []string{"SECRET=s3cret"}, nil, "check", "--connect", file).ran()
		if r.status != status || strings.Count(r.out, "\n") != 1 {
			t.Errorf("status %d, want %d:\n%s%s", r.status, status, r.out, r.err)
		}
		for _, w := range words {
			if !strings.Contains(r.out, w) {
				t.Errorf("no %q in: %s", w, r.out)
			}
		}
		for _, never := range []string{"wr0ng", "s3cret", "--"} { // secrets, and words of the flags
			if strings.Contains(r.out+r.err, never) {
				t.Errorf("%q in:\n%s%s", never, r.out, r.err)
			}
		}
	}
	sealed := func(rest string) string {
		return fmt.Sprintf("{rest_endpoint: %q, tls: {ca_file: %q}%s}", locked.URL(), authority, rest)
	}
	id := ", cluster_id: " + locked.ClusterID()
	right := `, auth: {username: KEY, password: "${env:SECRET}"}`

	f(exitOK, fmt.Sprintf("{rest_endpoint: %q}", open.URL()), "main: reached http://", "cluster "+open.ClusterID()+", dialect v3-stream, no credentials asked for")
	f(exitOK, sealed(right), "credentials accepted")
	f(exitOK, sealed(id+right), "credentials accepted")
	f(exitDenied, sealed(id), "refused: ", "auth.username and auth.password")
	f(exitDenied, sealed(""), "refused: ", "auth.username and auth.password")
	f(exitDenied, sealed(id+", auth: {username: KEY, password: wr0ng}"), "refused: ", "401")
	f(exitDenied, fmt.Sprintf("{rest_endpoint: %q, cluster_id: %s, tls: {ca_file: %q}, auth: {username: KEY, password: wr0ng}}",
		locked.URL()+"/kafka/v3", locked.ClusterID(), authority), "refused: ", "401", "a cloud key is another thing")
	f(exitFailure, sealed(", cluster_id: lkc-other"+right), "reached, but", "404", "check cluster_id")
	f(exitFailure, fmt.Sprintf("{rest_endpoint: %q}", locked.URL()), "not reached: ", "tls.ca_file")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // nobody listens there now
	f(exitFailure, fmt.Sprintf("{rest_endpoint: \"http://%s\"}", l.Addr()), "not reached: ")

	for _, s := range []*sandbox.Sandbox{open, locked} {
		if n := len(stored(t, s, "t")); n != 0 {
			t.Errorf("%d records were written", n)
		}
	}
}

// Of several clusters all are asked, and refused credentials are the status.
func TestCheckConnectAll(t *testing.T) {
	open := startBox(t)
	locked := startBoxWith(t, func(c *sandbox.Config) { c.Credentials = map[string]string{"KEY": "s3cret"} })
	file := write(t, "agent.yaml", fmt.Sprintf(`
clusters:
  away: {rest_endpoint: "http://127.0.0.1:1"}
  locked: {rest_endpoint: %q}
  open: {rest_endpoint: %q}
inputs:
  in: {type: stdin}
routes:
  - {name: r, cluster: open, topic: t}
`, locked.URL(), open.URL()))
	r := begin(t, nil, nil, "check", "--connect", file).ran()
	lines := strings.Split(r.out, "\n")
	if r.status != exitDenied || len(lines) != 4 || !strings.HasPrefix(lines[0], "away: not reached: ") ||
		!strings.HasPrefix(lines[1], "locked: refused: ") || !strings.HasPrefix(lines[2], "open: reached ") {
		t.Errorf("status %d:\n%s", r.status, r.out)
	}
}

// Answers of what is no Kafka REST endpoint, or does not tell about itself.
func TestCheckConnectAnswers(t *testing.T) {
	f := func(code int, location, body string, status int, words ...string) {
		t.Helper()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if location != "" {
				w.Header().Set("Location", location)
			}
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}))
		defer server.Close()
		file := write(t, "agent.yaml", agentYAML(fmt.Sprintf("{rest_endpoint: %q, cluster_id: c, auth: {username: u, password: canary}}", server.URL+"/v3")))
		r := begin(t, nil, nil, "check", "--connect", file).ran()
		if r.status != status {
			t.Errorf("%d: status %d, want %d: %s", code, r.status, status, r.out)
		}
		for _, w := range words {
			if !strings.Contains(r.out, w) {
				t.Errorf("%d: no %q in: %s", code, w, r.out)
			}
		}
		if strings.ContainsAny(r.out, "\x1b\a") || strings.Contains(r.out, "canary") {
			t.Errorf("%q", r.out)
		}
	}
	f(403, "", `{"error_code":40301,"message":"no \u001b[31mDESCRIBE"}`, exitOK, "credentials accepted, though", "no [31mDESCRIBE")
	f(405, "", "", exitOK, "does not tell about itself")
	f(302, "https://login.example.com/", "", exitFailure, `redirects to "https://login.example.com/"`)
	f(503, "", "<html>", exitFailure, "503 Service Unavailable: try again later")
	f(418, "", "{", exitFailure, "is this a Kafka REST endpoint?")
}

func TestClusterAddressKeepsToFiles(t *testing.T) {
	c := config.DefaultCluster()
	c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(t.TempDir(), "gone.pem"), "gone.key"
	if _, err := clusterAddress(&c, "", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "tls.cert_file") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	c.TLS = config.TLS{CAFile: "/gone", MinVersion: "1.3"}
	if _, err := clusterAddress(&c, "", slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "tls.ca_file: ") {
		t.Errorf("%v", err)
	}
	c.TLS.CAFile = ""
	if a, err := clusterAddress(&c, "", slog.New(slog.DiscardHandler)); err != nil || a.TLS.Config().MinVersion != 0x0304 {
		t.Errorf("%v, TLS %#x", err, a.TLS.Config().MinVersion)
	}
}
