package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// complaint is the program's last word: one line of stderr.
func (r ran) complaint(t testing.TB, words ...string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(r.err) {
		if strings.HasPrefix(line, "produce-agent: ") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 {
		t.Errorf("%d lines of complaint:\n%s", len(lines), r.err)
		return
	}
	if rest := r.err[strings.Index(r.err, lines[0])+len(lines[0]):]; rest != "" && !strings.HasPrefix(rest, "see 'produce-agent") {
		t.Errorf("behind the complaint: %q", rest)
	}
	for _, w := range words {
		if !strings.Contains(lines[0], w) {
			t.Errorf("no %q in: %s", w, lines[0])
		}
	}
}

// silent is a stdin that brings one line and then nothing, as of a quiet log.
func silent(t testing.TB, line string) *os.File {
	t.Helper()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pr.Close(); pw.Close() })
	if _, err := pw.WriteString(line); err != nil {
		t.Fatal(err)
	}
	return pr
}

// Every way to be refused ends with one line: what, where, what to do. It does
// not wait for an input that has gone quiet.
func TestShipErrors(t *testing.T) {
	secret := write(t, "secret", "right\n")
	withAuth := func(c *sandbox.Config) { c.Credentials = map[string]string{"KEY": "right"} }
	creds := []string{"--api-key", "KEY", "--api-secret-file"}
	f := func(name string, status int, args []string, words ...string) ran {
		t.Helper()
		r := begin(t, nil, silent(t, "a\n"), append([]string{"ship", "-t", "t", "-o", "json", "--max-attempts", "2"}, args...)...).ran()
		if r.status != status {
			t.Errorf("%s: status %d, want %d\n%s", name, r.status, status, r.err)
		}
		r.complaint(t, words...)
		return r
	}
	at := func(s *sandbox.Sandbox, more ...string) []string {
		return append([]string{"--rest-endpoint", s.URL(), "--cluster-id", s.ClusterID()}, more...)
	}

	s := startBoxWith(t, withAuth)
	wrong := write(t, "wrong", "no\n")
	for _, args := range [][]string{at(s, append(creds, wrong)...), append([]string{"--rest-endpoint", s.URL()}, append(creds, wrong)...)} {
		f("wrong key", exitDenied, args, s.URL(), "401", "Kafka cluster's own API key", "Cloud API key")
	}
	f("no key", exitDenied, at(s), "401", "none were given", "KAFKA_API_KEY")
	if r := begin(t, []string{"KAFKA_REST_ENDPOINT=" + s.URL(), "KAFKA_API_KEY=KEY", "KAFKA_API_SECRET=right"}, strings.NewReader("a\n"), "ship", "-t", "t").ran(); r.status != exitOK || strings.Contains(r.err, "right") || !strings.Contains(r.err, "KAFKA_API_SECRET") {
		t.Errorf("by environment: %d\n%s", r.status, r.err)
	}
	f("no such secret file", exitUsage, at(s, append(creds, filepath.Join(t.TempDir(), "none"))...), "read secret", "no such file")

	// 192.0.2.1 answers nobody: a connect would last until the dial's time-out.
	began := time.Now()
	f("plain text", exitFailure, append([]string{"--rest-endpoint", "http://192.0.2.1:8082", "--cluster-id", "c"}, append(creds, secret)...), "192.0.2.1:8082", "plain text", "https", "--allow-plaintext-auth")
	if time.Since(began) > 8*time.Second {
		t.Error("credentials over plain http: a connection was tried first")
	}

	open := startBox(t)
	f("wrong cluster", exitFailure, []string{"--rest-endpoint", open.URL(), "--cluster-id", "lkc-none"}, open.URL(), "404", "check the cluster id")
	f("no topic", exitFailure, append(at(open), "-t", "none"), `topic "none"`, "40401", "create the topic")
	f("not authorized", exitDenied, at(startBox(t, "report=40301")), `topic "t"`, "40301", "grant")
	f("HTTP 403", exitDenied, at(startBox(t, "http=403")), "403", "grant")
	f("html 200", exitFailure, at(startBox(t, "http=200,body=html")), "HTML page", "--rest-endpoint")
	f("html 404", exitFailure, at(startBox(t, "http=404,body=html")), "404", "HTML page")
	f("413 of a proxy", exitFailure, at(startBox(t, "http=413,body=html")), "413", "no record was rejected")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := "http://" + l.Addr().String()
	l.Close()
	for _, args := range [][]string{{"--rest-endpoint", down, "--cluster-id", "c"}, {"--rest-endpoint", down}} {
		f("down", exitFailure, args, l.Addr().String(), "refused", "is the endpoint up")
	}
	f("no endpoint", exitUsage, nil, "--rest-endpoint", "KAFKA_REST_ENDPOINT")
	f("no scheme", exitUsage, []string{"--rest-endpoint", "localhost:8082"}, "https://localhost:8082")

	login := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html><title>Please log in</title></html>")
	}))
	defer login.Close()
	f("login page", exitFailure, []string{"--rest-endpoint", login.URL}, login.URL, "Please log in")
}

// A certificate that is not trusted, and then is.
func TestShipTLS(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	s := startBoxWith(t, func(c *sandbox.Config) { c.TLS, c.CAFile = true, ca })
	r := shipTo(t, s, "a\n")
	r.want(t, exitFailure, 0, 0, 0, 0)
	r.complaint(t, "TLS with 127.0.0.1", "--ca-file")
	shipTo(t, s, "a\n", "--ca-file", ca).want(t, exitOK, 1, 1, 0, 0)
	plain := begin(t, nil, strings.NewReader("a\n"), "ship", "-t", "t", "--rest-endpoint", strings.Replace(s.URL(), "https", "http", 1), "--cluster-id", s.ClusterID(), "--max-attempts", "2").ran()
	if plain.status != exitFailure {
		t.Errorf("http to a TLS port: %d\n%s", plain.status, plain.err)
	}
	plain.complaint(t)
	shipTo(t, s, "a\n", "--ca-file", write(t, "no.pem", "x")).complaint(t, "--ca-file", "no certificate")
}

func TestShipUsage(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		r := begin(t, nil, nil, append([]string{"ship"}, args...)...).ran()
		if r.status != exitUsage || !strings.Contains(r.err, want) {
			t.Errorf("%v: %d %s", args, r.status, r.err)
		}
	}
	f("which topic")
	f("unknown flag: --nosuch", "--nosuch")
	f("--topic: ", "-t", "a b")
	f("--output=yaml: must be text or json", "-t", "t", "-o", "yaml")
	f("--progress=x", "-t", "t", "--progress", "x")
	f("exclude each other", "-t", "t", "--sandbox", "--rest-endpoint", "http://127.0.0.1:1")
	f("--limits", "-t", "t", "--rest-endpoint", "http://127.0.0.1:1", "--limits", "huge")
	f("is not a size", "-t", "t", "--max-record-bytes", "8mb")
	f("--streams=0", "-t", "t", "--streams", "0")
}
