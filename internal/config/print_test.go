package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// everything uses each key there is, most of them not as the default has it.
const everything = `
data_dir: ${env:KEY}
clusters:
  one:
    rest_endpoint: ${env:ENDPOINT}
    cluster_id: "lkc-${env:NUMBER}"
    dialect: v3-batch
    auth: {type: basic, username: "${env:KEY}", password: literal-canary}
    limits: {profile: dedicated:4, connections_per_second: 0.5, records_per_second: 10, bytes_per_second: 1MB, message_bytes: 1MiB, fleet: {agents: 7, headroom: 2.5%}}
    streams: {max: 8, linger: 0, batch_bytes: 32KiB, in_flight: 1, in_flight_bytes: 2MiB, rotate_after: 0, rotate_records: 5,
      report_timeout: 90s, dial_timeout: 1s, heartbeat: 5s, idle_end: 1m}
    tls: {ca_file: /etc/ca.pem, cert_file: /etc/cert.pem, key_file: /etc/key.pem, min_version: "1.3"}
    proxy: none
  two: {rest_endpoint: "http://10.0.0.1", allow_plaintext_auth: true, proxy: "http://u:proxy-canary@proxy", auth: {username: u, password: "${file:/run/secret}"}}
  three: {rest_endpoint: "https://c", auth: {type: oauth2, patience: 1m, oauth2: {token_url: "https://idp", client_id: id, client_secret: oauth-canary, scopes: [a, b], audience: x, identity_pool_id: p}}}
  four: {rest_endpoint: "https://d", auth: {sts: {token_url: "https://sts", identity_pool_id: p, subject_token_file: /run/secret, expires_in: 2m}}}
  five: {rest_endpoint: "https://e", auth: {type: bearer, token_file: /run/secret, identity_pool_id: p}}
inputs:
  f: {type: file, include: ["/a/*.log", "${env:KEY}/b"], exclude: "*.gz", read_from: end, follow: false, follow_symlinks: true,
    multiline: {start: '^\d "x"', timeout: 5s}, strip_cr: true, skip_empty: true, max_open_files: 9, idle_close: 1h, poll: 2s}
  h: {type: http, listen: "0.0.0.0:1", accept: [text], respond: after_buffer, respond_timeout: 5s, allow_topics: ["a-*", "*"], max_body: 1MB,
    max_in_flight: 2MB, strip_cr: true, skip_empty: true, max_connections: 7, header_timeout: 1s, idle_timeout: 2s, auth: {type: bearer, token: "canary$${x}"},
    tls: {cert_file: /etc/cert.pem, key_file: /etc/key.pem, client_ca_file: /etc/ca.pem}}
  i: {type: http, listen: "[::]:2", insecure_listen: true, auth: {type: bearer, token_file: /run/secret}}
  s: {type: stdin, strip_cr: true}
routes:
  - name: a
    inputs: [f, h]
    cluster: one
    match: {field: "a b", in: [x, "true", "1", ""]}
    decode: json
    topic: "x-{{ .a }}"
    allow_topics: [x-*]
    key: {template: "{{ .k }}", type: JSON}
    value: {type: json}
    validate: false
    "null": {field: "null", equals: ""}
    null_value: ""
    partition: {field: p}
    headers: {"null": null, "a:b": "x\ty\u00e4\u0001", c: "{{ .host }}", "${env:SECRET}": "${env:SECRET}"}
    timestamp: {field: t, format: unix_ms}
    record_id_header: id
    max_record_bytes: 1MB
    buffer: {type: disk, max_bytes: 20MB, when_full: drop_oldest, fsync: 1s}
    spill: always
    ordering: strict
    retry: {initial: 1s, max: 2s, max_attempts: 3}
    dead_letter: {path: /elsewhere/x, max_bytes: 2MB}
  - {name: b, cluster: two, inputs: [h], match: {field: a, regex: 'x'}, topic: t, key: {delimiter: "\t"}, partition: 7, buffer: {type: disk}}
  - {name: c, cluster: two, inputs: [s, i], match: {field: a, exists: false}, topic: t, key: {value: ""}, dead_letter: {path: c.ndjson}}
  - {name: e, cluster: two, inputs: [s, i], match: {field: a, equals: 1.10}, topic: t}
  - {name: d, cluster: two, inputs: [s, i], topic: t, key: {field: k}, "null": {field: n}}
reports: {to: file, path: r.ndjson}
observe: {listen: "", log: {level: debug, format: json}}
`

func printed(t *testing.T, text string) (string, *Config) {
	t.Helper()
	c, problems := load(text)
	if problems.Err() != nil {
		t.Fatalf("%v\n%s", problems.Err(), text)
	}
	var b bytes.Buffer
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	return b.String(), c
}

// What is printed loads again and means the same, but for secrets, which are
// not in it.
func TestPrintLoadsAgain(t *testing.T) {
	first, c := printed(t, everything)
	second, again := printed(t, first)
	if first != second {
		t.Errorf("printed\n%s\nand loaded and printed again\n%s", first, second)
	}
	if strings.Contains(first, "canary") {
		t.Errorf("a secret is printed:\n%s", first)
	}
	for _, want := range []string{`password: "***"`, `token: "***"`, `password: "${file:/run/secret}"  # ***`, `"lkc-${env:NUMBER}"`, `"${env:SECRET}": "${env:SECRET}"`, "path: c.ndjson"} {
		if !strings.Contains(first, want) {
			t.Errorf("no %s in\n%s", want, first)
		}
	}
	c.Clusters[0].Auth.Password, c.Inputs[1].HTTP.Auth.Token = NewSecret("***"), NewSecret("***")
	c.Clusters[1].Proxy, c.Clusters[2].Auth.OAuth2.ClientSecret = "http://u:***@proxy", NewSecret("***")
	for _, x := range []*Config{c, again} {
		x.places, x.written = nil, nil
	}
	if !reflect.DeepEqual(c, again) {
		t.Errorf("loaded\n%+v\nand again\n%+v", c, again)
	}
}

// Each key that is in force is printed, and each key can be set: everything
// has all of them.
func TestEverythingHasAllKeys(t *testing.T) {
	root, problems := tree(t, everything)
	if problems != nil {
		t.Fatal(problems)
	}
	seen := map[string]bool{}
	var walk func(n *node, path string)
	walk = func(n *node, path string) {
		seen[path] = true
		for _, m := range n.members {
			switch path {
			case "clusters":
				walk(m.value, "clusters.NAME")
			case "inputs":
				walk(m.value, "inputs.NAME("+m.value.member("type").text+")")
			default:
				walk(m.value, join(path, m.key))
			}
		}
		for _, item := range n.items {
			walk(item, path+"[]")
		}
	}
	walk(root, "")
	for _, k := range Keys() {
		path := k.Path
		if path == "inputs.NAME.type" || path == "routes[].partition.number" || strings.HasSuffix(path, "profile") {
			continue
		}
		if !seen[path] && path != "inputs.NAME(stdin).skip_empty" && path != "observe.pprof" {
			t.Errorf("no %s in the text that has everything", path)
		}
	}
}

// tree parses text alone.
func tree(t *testing.T, text string) (*node, Problems) {
	t.Helper()
	l := &loader{}
	x := &expander{env: func(string) (string, bool) { return "x", true }, read: func(string) ([]byte, error) { return []byte("x"), nil }}
	b := &builder{file: "f", expand: x.expand, note: func(at Place, format string, args ...any) { l.problem(Error, at, "", format, args...) }}
	return b.parse([]byte(text)), l.problems
}

func TestQuote(t *testing.T) {
	for _, s := range []string{
		"", "a", "a b", "true", "No", "null", "~", "1", "1.5", "0x1", "-", "- a", "a: b", "a #b", "#", "'", `"`, `\`, "\t", "\n", "\r", "\x00", "\u00a0", "\u2028", "\ufeff",
		"\U0001f600", "${x}", "$${env:X}", "$", "{a", "[a", "*a", "&a", "!a", "|", ">", "%", "@a", "`", "2026-01-02", "12:30", "<<", "=", "\u0085", "/a/b", "ä",
	} {
		text := "data_dir: " + quote(s) + "\n"
		l := &loader{}
		x := &expander{env: func(string) (string, bool) { return "", false }}
		b := &builder{file: "f", expand: x.expand, note: func(at Place, format string, args ...any) { l.problem(Error, at, "", format, args...) }}
		n := b.parse([]byte(text))
		if got := n.member("data_dir"); l.problems != nil || got.err != nil || got.kind != scalar || got.text != s {
			t.Errorf("%q as %s reads as %+v %v", s, text, got, l.problems)
		}
	}
}

// The examples, in a world that has what they name.
func TestExamples(t *testing.T) {
	names, err := filepath.Glob("../../configs/*.yaml")
	if err != nil || len(names) < 4 {
		t.Fatalf("%d examples, %v", len(names), err)
	}
	for _, name := range names {
		o := world
		o.Env = func(v string) (string, bool) {
			if strings.HasSuffix(v, "ENDPOINT") {
				return "https://kafka.example.com", true
			}
			return "canary", true
		}
		o.ReadFile = func(path string) ([]byte, error) {
			switch {
			case path == name:
				return os.ReadFile(name)
			case strings.HasSuffix(path, ".crt"):
				return []byte(certPEM), nil
			case strings.HasSuffix(path, ".key"):
				return []byte(keyPEM), nil
			case strings.HasPrefix(path, "/run/secrets/"):
				return []byte("canary\n"), nil
			}
			return world.ReadFile(path)
		}
		c, problems := Load(name, o)
		if problems != nil {
			t.Errorf("%v", problems)
			continue
		}
		var b bytes.Buffer
		if err := c.Print(&b); err != nil || strings.Contains(b.String(), "canary") {
			t.Errorf("%v\n%s", err, &b)
		}
	}
}

// The defaults and bounds of streams and batches are those of the flags.
func TestDefaultsAreTheFlags(t *testing.T) {
	s, w, batch := DefaultCluster().Streams, stream.DefaultConfig(), ingest.DefaultBatchConfig()
	got := []any{s.Max, s.InFlight, int(s.InFlightBytes), s.RotateAfter, s.RotateRecords, s.ReportTimeout, s.DialTimeout, s.Heartbeat, s.IdleEnd, s.Linger, int(s.BatchBytes)}
	want := []any{w.Streams, w.InFlight, w.InFlightBytes, w.RotateAfter, w.RotateRecords, w.ReportTimeout, w.DialTimeout, w.Heartbeat, w.IdleEnd, batch.Linger, batch.Bytes}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("streams %v, want %v", got, want)
	}
	r := DefaultRoute().Retry
	if r.Initial != w.RetryInitial || r.Max != w.RetryMax || r.MaxAttempts != w.MaxAttempts {
		t.Errorf("retry %+v", r)
	}
	for _, bad := range []func(*stream.Config){
		func(c *stream.Config) { c.Streams = 65 }, func(c *stream.Config) { c.InFlight = 1_000_001 }, func(c *stream.Config) { c.InFlightBytes = 1023 },
		func(c *stream.Config) { c.RotateAfter = 999e6 }, func(c *stream.Config) { c.ReportTimeout = 999e6 }, func(c *stream.Config) { c.MaxAttempts = 1001 },
	} {
		c := stream.DefaultConfig()
		if bad(&c); c.Validate() == nil {
			t.Errorf("%+v: the flags allow what the file does not", c)
		}
	}
	good := stream.Config{Streams: 64, InFlight: 1_000_000, InFlightBytes: 1024, RotateAfter: 1e9, ReportTimeout: 1e9, MaxAttempts: 1000}
	if err := good.Validate(); err != nil {
		t.Errorf("the file allows what the flags do not: %v", err)
	}
}

// What is written literally of a proxy's password is not printed beside its
// references.
func TestMaskWritten(t *testing.T) {
	f := func(written, want string) {
		t.Helper()
		if got := maskWritten(written); got != want {
			t.Errorf("%s: %s, want %s", written, got, want)
		}
	}
	f("${env:PROXY}", "${env:PROXY}")
	f("http://${env:USER}:${file:/run/p}@proxy:3128", "http://${env:USER}:${file:/run/p}@proxy:3128")
	f("http://u:canary${env:P}@proxy:3128", "http://u:***@proxy:3128")
	f("http://${env:USER}:canary@proxy", "http://${env:USER}:***@proxy")
	f("http://u@${env:HOST}:3128", "http://u@${env:HOST}:3128")
	f("http://${env:HOST}:3128", "http://${env:HOST}:3128")
	f("${env:A}://u:canary@proxy", "${env:A}://u:***@proxy")
}
