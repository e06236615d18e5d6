package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// agentFile is a configuration with the data_dir, the sandbox's address and a
// listen address of the system's choice filled in.
func agentFile(t testing.TB, dir, endpoint, rest string) string {
	t.Helper()
	return write(t, "agent.yaml", strings.NewReplacer("DIR", dir, "ENDPOINT", endpoint).Replace(rest))
}

// service begins ship --config and waits until it can be asked. It returns the
// address of its metrics.
func service(t testing.TB, path string, stdin io.Reader, args ...string) (p *program, at string) {
	t.Helper()
	p = begin(t, nil, stdin, append([]string{"ship", "-o", "json", "--config", path, "--metrics-listen", "127.0.0.1:0"}, args...)...)
	p.until("/metrics")
	m := regexp.MustCompile(`http://([0-9.:]+)/metrics`).FindStringSubmatch(p.err.String())
	if m == nil {
		t.Fatalf("no address of the metrics:\n%s", p.err.String())
	}
	return p, m[1]
}

// ask gets a path of the agent's own server.
func ask(t testing.TB, at, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + at + path) //nolint:noctx // a test's own program
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// signal sends sig to the program.
func (p *program) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// onceEach checks that topics hold exactly the lines of in, once each.
func onceEach(t testing.TB, s *sandbox.Sandbox, in string, topics ...string) {
	t.Helper()
	want, got := map[string]int{}, map[string]int{}
	for line := range strings.Lines(in) {
		want[strings.TrimSuffix(line, "\n")]++
	}
	for _, topic := range topics {
		for v, n := range counts(stored(t, s, topic)) {
			got[v] += n
		}
	}
	lost, wrong := 0, 0
	for v, n := range want {
		if got[v] != n {
			lost++
		}
	}
	for v := range got {
		if want[v] == 0 {
			wrong++
		}
	}
	if lost+wrong > 0 {
		t.Errorf("%d of %d lines not there as often as they should be, %d that were never written", lost, len(want), wrong)
	}
}

const stdinYAML = `
data_dir: DIR
clusters:
  main: {rest_endpoint: "ENDPOINT"}
inputs:
  in: {type: stdin}
routes:
  - {name: r, inputs: [in], cluster: main, topic: t, buffer: {type: disk, max_bytes: 64MB}}
`

// What stdin brought while the cluster was away is in the buffer, and goes on
// at the next start: nothing is lost, nothing sent twice, the books say so.
func TestServiceBuffersStdin(t *testing.T) {
	s := startBox(t)
	dir := filepath.Join(t.TempDir(), "data")
	in := numbered(20_000, 10)
	path := agentFile(t, dir, "http://127.0.0.1:1", stdinYAML)
	p, at := service(t, path, strings.NewReader(in), "--grace", "1s")
	eventually(t, "all is in the buffer", func() bool {
		_, m := ask(t, at, "/metrics")
		return strings.Contains(m, `produce_agent_buffer_records{route="r"} 20000`)
	})
	if status, body := ask(t, at, "/readyz"); status != 503 || !strings.Contains(body, "cluster main: connect to 127.0.0.1:1") {
		t.Errorf("readyz %d %s", status, body)
	}
	if status, _ := ask(t, at, "/healthz"); status != 200 {
		t.Errorf("healthz %d", status)
	}
	// A run that is to end keeps asking no longer than it may, or is told to end.
	p.signal(syscall.SIGTERM)
	r := p.ran()
	if r.status != 128+int(syscall.SIGTERM) || r.Read != 20_000 || r.Pending != 20_000 || r.Buffered != 20_000 {
		t.Errorf("status %d, %+v\n%s", r.status, r.Summary, r.err)
	}
	path = agentFile(t, dir, s.URL(), stdinYAML)
	p, _ = service(t, path, strings.NewReader(""))
	p.ran().want(t, exitOK, 20_000, 20_000, 0, 0)
	onceEach(t, s, in, "t")
	p, _ = service(t, path, strings.NewReader(""))
	p.ran().want(t, exitOK, 0, 0, 0, 0)
}

// Two processes, one data_dir: the second says so at once, and changes nothing.
func TestServiceLocks(t *testing.T) {
	s := startBox(t)
	dir := filepath.Join(t.TempDir(), "data")
	path := agentFile(t, dir, s.URL(), stdinYAML)
	hold, writer := io.Pipe()
	p, _ := service(t, path, hold)
	r := begin(t, nil, strings.NewReader("x\n"), "ship", "--config", path, "--metrics-listen", "127.0.0.1:0").ran()
	if r.status != exitFailure || !strings.Contains(r.err, dir) || !strings.Contains(r.err, "in use") {
		t.Errorf("status %d\n%s", r.status, r.err)
	}
	fmt.Fprintln(writer, "a")
	writer.Close()
	p.ran().want(t, exitOK, 1, 1, 0, 0)
}

// A bad file is refused whole, with every mistake; flags override, and those
// that have no place say so.
func TestServiceBadConfig(t *testing.T) {
	dir := t.TempDir()
	f := func(yaml string, status int, words ...string) {
		t.Helper()
		args := []string{"ship", "--config", agentFile(t, dir, "http://127.0.0.1:1", yaml)}
		if strings.Contains(words[0], "=") || words[0] == "--sandbox" {
			args, words = append(args, words[0]), words[1:]
		}
		r := begin(t, nil, strings.NewReader(""), args...).ran()
		if r.status != status {
			t.Errorf("status %d, want %d\n%s", r.status, status, r.err)
		}
		for _, w := range words {
			if !strings.Contains(r.err, w) {
				t.Errorf("nothing of %q in\n%s", w, r.err)
			}
		}
	}
	f("{}", exitConfig, "clusters", "inputs", "routes")
	f(strings.Replace(stdinYAML, "topic: t", "topic: 'a b'", 1), exitConfig, "agent.yaml:8:", "topic")
	f(stdinYAML, exitUsage, "--key=x", "--key has no place beside --config")
	f(stdinYAML, exitUsage, "--sandbox", "--sandbox and --config")
	f(stdinYAML, exitConfig, "--streams=99", "--streams", "1..64")
	f(stdinYAML, exitUsage, "--grace=-1s", "--grace=-1s", "0..1h")
	f(stdinYAML, exitUsage, "--progress=always", "--progress=always", "no end")
	f(stdinYAML, exitConfig, "--follow=false", "--follow", "inputs of type file")
	f(stdinYAML, exitUsage, "--api-secret-file="+filepath.Join(dir, "none"), "no such file")
}

const httpYAML = `
data_dir: DIR
clusters:
  main: {rest_endpoint: "ENDPOINT"}
inputs:
  edge: {type: http, listen: "127.0.0.1:0", respond: RESPOND}
routes:
  - {name: r, inputs: [edge], cluster: main, topic: t, buffer: {type: disk, max_bytes: 64MB}}
observe: {log: {format: text}}
`

// listens waits until the http input says where it listens.
func (p *program) listens() string {
	p.t.Helper()
	var at string
	eventually(p.t, "the input says where it listens", func() bool {
		m := regexp.MustCompile(`input=edge.* (?:url|address|listen)="?(?:https?://)?(127[0-9.:]+)`).FindStringSubmatch(p.err.String())
		if m != nil {
			at = m[1]
		}
		return m != nil
	})
	return at
}

// post sends a body and returns the answer.
func post(t testing.TB, url, kind, body string) (status int, answer string) {
	t.Helper()
	resp, err := http.Post(url, kind, strings.NewReader(body)) //nolint:noctx // a test's own program
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// Both promises of the listener: an answer after delivery has the cluster's
// word, one after buffering the disk's, also while the cluster is away.
func TestServiceListens(t *testing.T) {
	s := startBox(t)
	f := func(respond, endpoint string) *program {
		yaml := strings.Replace(httpYAML, "RESPOND", respond, 1)
		p, _ := service(t, agentFile(t, filepath.Join(t.TempDir(), "data"), endpoint, yaml), nil, "--grace", "2s")
		return p
	}
	p := f("after_delivery", s.URL())
	at := p.listens()
	if status, answer := post(t, "http://"+at+"/", "text/plain", "a\nb\n"); status != 200 || !strings.Contains(answer, `"accepted":2`) {
		t.Errorf("%d %s", status, answer)
	}
	if n := len(stored(t, s, "t")); n != 2 {
		t.Errorf("%d records when the answer came", n)
	}
	records := `{"value":{"type":"STRING","data":"v3"}}`
	status, answer := post(t, "http://"+at+"/v3/clusters/"+s.ClusterID()+"/topics/t/records", "application/json", records+records)
	if status != 200 || strings.Count(answer, `"error_code":200`) != 2 || strings.Count(answer, `"offset":`) != 2 || strings.Contains(answer, "buffered") {
		t.Errorf("%d %s", status, answer)
	}
	// Another agent takes it for a cluster.
	r := begin(t, nil, strings.NewReader(numbered(5000, 8)), "ship", "-o", "json", "-t", "t", "--rest-endpoint", "http://"+at).ran()
	r.want(t, exitOK, 5000, 5000, 0, 0)
	p.signal(syscall.SIGTERM)
	if r := p.ran(); r.status != 143 || r.Read != 5004 || r.Delivered != 5004 {
		t.Errorf("status %d, %+v\n%s", r.status, r.Summary, r.err)
	}

	p = f("after_buffer", "http://127.0.0.1:1")
	at = p.listens()
	if status, answer := post(t, "http://"+at+"/ingest/edge", "application/x-ndjson", "{}\n[]\n"); status != 200 || !strings.Contains(answer, `"accepted":2`) {
		t.Errorf("%d %s", status, answer)
	}
	p.signal(syscall.SIGTERM)
	if r := p.ran(); r.status != 143 || r.Read != 2 || r.Pending != 2 || r.Buffered != 2 {
		t.Errorf("status %d, %+v\n%s", r.status, r.Summary, r.err)
	}
}

// SIGHUP takes a changed file over while records come; a bad one changes
// nothing, and the metric tells.
func TestServiceReloads(t *testing.T) {
	s := startBoxWith(t, func(c *sandbox.Config) {
		c.Topics = []sandbox.Topic{{Name: "t", Partitions: 3}, {Name: "u", Partitions: 3}}
	})
	yaml := strings.Replace(httpYAML, "RESPOND", "after_buffer", 1)
	dir := filepath.Join(t.TempDir(), "data")
	path := agentFile(t, dir, s.URL(), yaml)
	p, metrics := service(t, path, nil)
	at := p.listens()
	stop, sent := make(chan struct{}), make(chan string)
	go func() { // a client that sends again what got no 200
		var all strings.Builder
		defer func() { sent <- all.String() }()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			line := fmt.Sprintf("line %d\n", i)
			all.WriteString(line)
			for {
				resp, err := http.Post("http://"+at+"/", "text/plain", strings.NewReader(line)) //nolint:noctx // a test's own program
				if err == nil {
					resp.Body.Close()
					if resp.StatusCode == 200 {
						break
					}
				}
				select {
				case <-stop:
				case <-time.After(5 * time.Millisecond):
				}
			}
		}
	}()
	works := func(want string) {
		t.Helper()
		eventually(t, "the metric is "+want, func() bool {
			_, m := ask(t, metrics, "/metrics")
			return strings.Contains(m, "produce_agent_config_last_reload_successful "+want)
		})
	}
	put := func(text string) {
		t.Helper()
		text = strings.NewReplacer("DIR", dir, "ENDPOINT", s.URL(), `"127.0.0.1:0"`, `"`+at+`"`).Replace(text)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGHUP)
	}
	eventually(t, "records arrive", func() bool { return len(stored(t, s, "t")) > 10 })
	put(strings.Replace(yaml, "topic: t", "topic: 'no topic'", 1))
	works("0")
	put(strings.Replace(yaml, "DIR", dir+"2", 1))
	p.until("data_dir changes")
	put(strings.Replace(yaml, "topic: t", "topic: u", 1))
	p.until("is in force")
	works("1")
	eventually(t, "records arrive at the other topic", func() bool { return len(stored(t, s, "u")) > 10 })
	close(stop)
	in := <-sent
	eventually(t, "the buffer is empty", func() bool { // a service that is told to stop leaves the rest for its next start
		return len(stored(t, s, "t"))+len(stored(t, s, "u")) >= strings.Count(in, "\n")
	})
	p.signal(syscall.SIGTERM)
	r := p.ran()
	if r.status != 143 || r.Pending != 0 || r.Read != int64(strings.Count(in, "\n")) {
		t.Errorf("status %d, %d sent, %+v\n%s", r.status, strings.Count(in, "\n"), r.Summary, r.err)
	}
	onceEach(t, s, in, "t", "u")
}

// No secret of the configuration or of a client is in a log, a metric, a
// profile, the name of a file or what check prints.
func TestServiceKeepsSecrets(t *testing.T) {
	const password, token, wrong = "canary-password-1", "canary-token-22", "canary-wrong-333"
	secret := write(t, "secret", password+"\n")
	s := startBoxWith(t, func(c *sandbox.Config) { c.Credentials = map[string]string{"key": "another"} })
	dir := filepath.Join(t.TempDir(), "data")
	yaml := strings.NewReplacer(
		`{rest_endpoint: "ENDPOINT"}`, `{rest_endpoint: "ENDPOINT", auth: {username: key, password: "${file:`+secret+`}"}}`,
		"RESPOND}", "after_buffer, auth: {type: bearer, token: "+token+"}}",
		"observe: {", "observe: {pprof: true, ",
	).Replace(httpYAML)
	path := agentFile(t, dir, s.URL(), yaml)
	p, metrics := service(t, path, nil, "-v", "--grace", "1s")
	at := p.listens()
	for _, given := range []string{token, wrong} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+at+"/ingest?token="+given, strings.NewReader("a\n"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+given)
		req.Header.Set("Content-Type", "text/plain")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := map[string]int{token: 200, wrong: 401}[given]; resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	eventually(t, "the cluster refuses the password", func() bool {
		_, why := ask(t, metrics, "/readyz")
		return strings.Contains(why, "401")
	})
	var said strings.Builder
	for _, what := range []string{"/metrics", "/readyz", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2"} {
		_, body := ask(t, metrics, what)
		said.WriteString(body)
	}
	p.signal(syscall.SIGTERM)
	r := p.ran()
	said.WriteString(r.out + r.err)
	if err := filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		said.WriteString(name + "\n")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	c := begin(t, nil, nil, "check", "--print", "--connect", path).ran()
	said.WriteString(c.out + c.err)
	for _, canary := range []string{password, token, wrong} {
		if i := strings.Index(said.String(), canary); i >= 0 {
			t.Errorf("%s is told: …%s", canary, said.String()[max(0, i-200):i+len(canary)])
		}
	}
	if c.status != exitDenied || r.Read != 1 || r.Buffered != 1 {
		t.Errorf("check %d, %+v\n%s", c.status, r.Summary, c.err)
	}
}

// Two clusters, routes by field, topics by template, keys, headers and
// tombstones: one file through all of it, read once and the end.
func TestServiceRoutes(t *testing.T) {
	audit := startBoxWith(t, func(c *sandbox.Config) { c.Topics = []sandbox.Topic{{Name: "audit", Partitions: 1}} })
	logs := startBoxWith(t, func(c *sandbox.Config) { c.AutoCreate = true })
	dir := t.TempDir()
	in := `{"kind":"audit","user":"u1","ts":1700000000}
{"kind":"log","tenant":"a","user":"u2"}
{"kind":"log","tenant":"b","gone":true,"user":"u3"}
{"kind":"log","tenant":"no such topic!"}
{"kind":"log"}
not JSON
{"kind":"other"}
`
	if err := os.WriteFile(filepath.Join(dir, "in.log"), []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	path := write(t, "agent.yaml", strings.NewReplacer("DIR", dir, "AUDIT", audit.URL(), "LOGS", logs.URL()).Replace(`
data_dir: DIR/data
clusters:
  audit: {rest_endpoint: "AUDIT"}
  logs: {rest_endpoint: "LOGS"}
inputs:
  files: {type: file, include: ["DIR/*.log"], follow: false}
routes:
  - name: audit
    cluster: audit
    match: {field: kind, equals: audit}
    topic: audit
    key: {field: user}
    timestamp: {field: ts, format: unix}
  - name: logs
    cluster: logs
    match: {field: kind, in: [log]}
    topic: "logs-{{ .tenant }}"
    headers: {from: "{{ .input }}:{{ .file_name }}", user: "{{ .user }}"}
    null: {field: gone, equals: "true"}
`))
	p := begin(t, nil, nil, "ship", "-o", "json", "--config", path, "--metrics-listen", "127.0.0.1:0")
	r := p.ran()
	r.want(t, exitRejected, 7, 3, 4, 0)
	show := func(s *sandbox.Sandbox, topic string) string {
		var b strings.Builder
		for _, r := range stored(t, s, topic) {
			fmt.Fprintf(&b, "%q %q %v", r.Key, r.Value, r.Timestamp.Unix() == 1_700_000_000)
			for _, h := range r.Headers {
				fmt.Fprintf(&b, " %s=%s", h.Name, h.Value)
			}
		}
		return b.String()
	}
	for _, c := range []struct {
		s           *sandbox.Sandbox
		topic, want string
	}{
		{audit, "audit", `"u1" "{\"kind\":\"audit\",\"user\":\"u1\",\"ts\":1700000000}" true`},
		{logs, "logs-a", `"" "{\"kind\":\"log\",\"tenant\":\"a\",\"user\":\"u2\"}" false from=files:in.log user=u2`},
		{logs, "logs-b", `"" "" false from=files:in.log user=u3`},
	} {
		if got := show(c.s, c.topic); got != c.want {
			t.Errorf("%s has %s\nwant %s", c.topic, got, c.want)
		}
	}
	want := map[string]int64{"topic_not_allowed": 1, "no_topic": 1, "no_route": 2}
	for reason, n := range want {
		if r.Reasons[reason] != n {
			t.Errorf("%d rejected for %s, want %d", r.Reasons[reason], reason, n)
		}
	}
	for name, lines := range map[string]int{"audit": 2, "logs": 2} { // what no route takes is kept with the first
		kept, err := os.ReadFile(filepath.Join(dir, "data", "dead", name+".ndjson"))
		if err != nil || strings.Count(string(kept), "\n") != lines {
			t.Errorf("dead letter of %s: %v\n%s", name, err, kept)
		}
	}
}

// Flags that say how lines are taken apart reach every input that has lines.
func TestServiceFlagsReachStdin(t *testing.T) {
	s := startBox(t)
	path := agentFile(t, filepath.Join(t.TempDir(), "data"), s.URL(), stdinYAML)
	p, _ := service(t, path, strings.NewReader("a\r\n\r\n\nb\n"), "--strip-cr", "--skip-empty")
	p.ran().want(t, exitOK, 2, 2, 0, 0)
	onceEach(t, s, "a\nb\n", "t")
}
