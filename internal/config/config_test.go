package config

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A certificate for localhost and its key, of a test authority nobody trusts.
var certPEM, keyPEM = testPair()

// world is what a test's configuration can see.
var world = Options{
	Env: func(name string) (string, bool) {
		v, ok := map[string]string{
			"ENDPOINT": "https://kafka.example.com", "KEY": "key-canary", "SECRET": "secret-canary", "EMPTY": "",
			"NUMBER": "12", "TWO_LINES": "line-canary\nmore", "YAML": "x, limits: none}", "TRICK": "${env:SECRET}",
		}[name]
		return v, ok
	},
	ReadFile: func(path string) ([]byte, error) {
		content, ok := map[string]string{
			"/run/secret": "file-canary\n", "/run/empty": "", "/run/blank": " \n", "/etc/ca.pem": certPEM, "/etc/cert.pem": certPEM, "/etc/key.pem": keyPEM,
			"/run/bytes": "\xff\xfe", "/run/large": strings.Repeat("x", 500_000),
		}[path]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		return []byte(content), nil
	},
	Stat: func(string) (fs.FileInfo, error) { return nil, fs.ErrNotExist },
}

// load reads text as /etc/agent/agent.yaml.
func load(text string, environ ...string) (*Config, Problems) {
	const path = "/etc/agent/agent.yaml"
	o := world
	o.Environ = environ
	o.ReadFile = func(name string) ([]byte, error) {
		if name == path {
			return []byte(text), nil
		}
		return world.ReadFile(name)
	}
	return Load(path, o)
}

// The parts of a good configuration: a test replaces one.
const (
	clusters = "clusters: {main: {rest_endpoint: 'http://127.0.0.1:1'}}\n"
	inputs   = "inputs: {in: {type: stdin}}\n"
	routes   = "routes: [{name: r, topic: t}]\n"
)

// mistakes compares what Load finds in text with want: each a problem's place
// in the file and its words, from the start.
func mistakes(t *testing.T, text string, want ...string) {
	t.Helper()
	_, problems := load(text)
	compare(t, text, problems, want)
}

func compare(t *testing.T, text string, problems Problems, want []string) {
	t.Helper()
	ok := len(problems) == len(want)
	for i := range problems {
		got := strings.TrimPrefix(problems[i].String(), "/etc/agent/agent.yaml:")
		ok = ok && strings.HasPrefix(got, want[i])
		if strings.Contains(got, "canary") {
			t.Errorf("a secret in %q", got)
		}
		if problems[i].Place.File == "" || strings.ContainsAny(got, "\n") {
			t.Errorf("%q: want a place, and one line", got)
		}
	}
	if !ok {
		var got strings.Builder
		for _, p := range problems {
			fmt.Fprintln(&got, " ", strings.TrimPrefix(p.String(), "/etc/agent/agent.yaml:"))
		}
		t.Errorf("%s\ngot\n%swant\n  %s", text, got.String(), strings.Join(want, "\n  "))
	}
}

func TestMistakesOfYAML(t *testing.T) {
	f := func(text string, want ...string) { t.Helper(); mistakes(t, text, want...) }
	f(clusters + inputs + routes)
	f("\ufeff" + strings.ReplaceAll(clusters+inputs+routes, "\n", "\r\n"))
	f("", "1:1: the file holds no configuration")
	f("# nothing\n", "1:1: the file holds no configuration")
	f("just text", "1:1: want a mapping with clusters, inputs and routes, have a value")
	f("- a\n- b\n", "1:1: want a mapping with clusters, inputs and routes, have a list")
	f("a: 'x\n", "1:4: this is no valid YAML: could not find end character of single-quoted text")
	f("clusters:\n\tmain: 1\n", "2:1: this is no valid YAML: found character '\t' that cannot start any token")
	f("clusters:\n  main: {auth: {username: ${env:KEY}}}\n", "2:28: this is no valid YAML: ',' or '}' must be specified; inside { } and [ ] a reference needs quotes")
	f("a: \"\xff\"\n", "1:5: byte 0xff is not UTF-8: a configuration is plain text in UTF-8")
	f("a: b\nc: \x00\n", "2:4: control character U+0000: a configuration is plain text in UTF-8")
	f("a: \""+strings.Repeat("\t", 3000)+"\"", "1:2005: more than 2000 blanks in a row")
	f("a: |\n  x"+strings.Repeat("\n", 500), "202:1: more than 100 empty lines in a row: a configuration is plain text")
	f(clusters+"---\n"+inputs, "3:1: a second document begins here")
	f(strings.Repeat("#", maxBytes+1), "1:1: the file has 262145 bytes")
	f("a: ["+strings.Repeat("1,", maxTokens)+"]", "1:1: this is no valid YAML: it holds more than 60000 words")
	f("a: "+strings.Repeat("[", 100), "1:36: this is no valid YAML: nested over 32 deep")
	f(strings.Repeat("- ", 100)+"a", "1:65: this is no valid YAML: nested over 32 deep")
	f(clusters+inputs+routes+clusters, `4:1: key "clusters" is there already, at line 1: one of them has to go`)
	f(clusters+inputs+"routes:\n- name: r\n  topic: t\n  name: s\n  topic: u\n", `6:3: key "name" is there already, at line 4`, `7:3: key "topic" is there already, at line 5`)
	f(clusters+inputs+routes+"? data_dir\n: /x\n", "4:1: a key behind a question mark")
	f(clusters + inputs + "routes: [{name: r, topic: !!str t}]\n")
	f(clusters+inputs+"routes: [{name: r, topic: !secret t}]\n", "3:27: routes[0].topic: tag !secret has no meaning here: leave it out")
	f(clusters+inputs+"routes: [{name: r, topic: *t}]\n", "3:27: routes[0].topic: alias *t: no &t is written above it")
	f("clusters: &c\n  main: *c\n", "1:1: inputs: there are no inputs", "1:1: routes: there are no routes", "2:9: clusters.main: alias *c is inside of what it stands for")
}

// Aliases that double at each step are a gigabyte of nothing.
func TestMistakesOfAliases(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 20; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [*a%d,*a%[3]d,*a%[3]d,*a%[3]d]\n", i, i, i-1)
	}
	_, problems := load(b.String())
	if len(problems) != 1 || !strings.Contains(problems[0].Text, "aliases repeat it too often") {
		t.Error(problems)
	}
}

func TestAliases(t *testing.T) {
	c, problems := load(`
clusters:
  one: &one
    rest_endpoint: http://127.0.0.1:1
    auth: &auth {username: u, password: p}
    streams: {max: 7}
  two:
    <<: *one
    streams: {max: 8}
inputs: {in: {type: stdin}}
routes:
  - &r {name: a, cluster: one, topic: t, match: {field: f, equals: x}}
  - {<<: *r, name: b, cluster: two}
`)
	if problems != nil {
		t.Fatal(problems)
	}
	if one, two := c.Cluster("one"), c.Cluster("two"); one.Streams.Max != 7 || two.Streams.Max != 8 || two.RESTEndpoint != one.RESTEndpoint || two.Auth.Username != "u" {
		t.Errorf("%+v", c.Clusters)
	}
	if c.Routes[1].Topic != "t" || c.Routes[1].Name != "b" || *c.Routes[1].Match.Equals != "x" {
		t.Errorf("%+v", c.Routes[1])
	}
}

func TestMistakesOfKeys(t *testing.T) {
	f := func(text string, want ...string) { t.Helper(); mistakes(t, text, want...) }
	all := clusters + inputs + routes
	f("inputs: {}\nroutes: []\n", "1:1: clusters: there are no clusters", "1:1: inputs: there are no inputs", "2:1: routes: there are no routes")
	f("clusters:\n"+inputs+routes, "1:10: clusters: has no value: give it one, or leave the key out")
	f("clusters: [a]\n"+inputs+routes, "1:11: clusters: want a mapping of names, as main:, have a list")
	f(clusters+inputs+"routes: {a: b}\n", "3:9: routes: want a list, each behind a dash, have a mapping")
	f(clusters+inputs+"routes: [a]\n", "3:10: routes[0]: want a mapping, have a value")
	f(all+"reprots: {}\n", `4:1: there is no key "reprots" here: did you mean "reports"?`)
	f(all+"zzz: {}\n", `4:1: there is no key "zzz" here; there are clusters, data_dir, inputs, observe, reports or routes`)
	f(all+"observe: {log: {level: loud}}\n", `4:24: observe.log.level: "loud": must be debug, info, warn or error`)
	f(all+"observe: {log: {level: wran}}\n", `4:24: observe.log.level: "wran": must be debug, info, warn or error; did you mean warn?`)
	f(all+"observe: {log: text}\n", "4:16: observe.log: want a mapping, have a value")
	f(all+"observe: {pprof: yes}\n", `4:18: observe.pprof: "yes" is neither true nor false`)
	f(all+"observe: {pprof: [true]}\n", "4:18: observe.pprof: want one value, have a list")
	f(all+"data_dir: {a: b}\n", "4:11: data_dir: want one value, have a mapping")
	f(all+"reports: {to: file}\n", "4:15: reports.to: to: file needs a path")
	f(all+"reports: {path: x}\n", "4:17: reports.path: is given, but to is none")
	f(all+"observe: {listen: 9890}\n", `4:19: observe.listen: "9890" is no address to listen at: write HOST:PORT`)
	f(all+"observe: {listen: ':x'}\n", `4:19: observe.listen: ":x" is no address`)
	f(all+"observe: {listen: '1:65536'}\n", `4:19: observe.listen: "1:65536" is no address`)
	f(all + "observe: {listen: ''}\n")
	f(all+"observe: {listen: '', pprof: true}\n", "4:30: observe.pprof: needs observe.listen")
	f(all+"observe: {listen: ':9890', pprof: true}\n", "4:35: warning: observe.pprof: others can reach observe.listen")
	f("clusters: {'a b': {rest_endpoint: 'http://127.0.0.1:1'}}\n"+inputs+routes, `1:12: clusters: "a b": a name is up to 100 letters`)
	f("clusters: {a/../b: {rest_endpoint: 'http://127.0.0.1:1'}}\n"+inputs+routes, `1:12: clusters: "a/../b": a name is`)
}

func TestMistakesOfClusters(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		mistakes(t, "clusters:\n  main:\n    rest_endpoint: https://kafka.example.com\n    "+body+"\n"+inputs+routes, want...)
	}
	f("cluster_id: a/b", `4:17: clusters.main.cluster_id: "a/b": holds characters no cluster id has`)
	f("dialect: v4", `4:14: clusters.main.dialect: "v4": must be auto, v3-stream, v3-records, v3-batch, v2, v2:confluent, v2:pandaproxy, v2:karapace or v2:strimzi`)
	f("auth: {type: kerberos}", `4:18: clusters.main.auth.type: "kerberos": must be none, basic, bearer, oauth2, sts, redpanda or mtls`)
	f("auth: {type: basic}", "4:5: clusters.main.auth: username is missing")
	f("auth: {username: u}", "4:5: clusters.main.auth: password is missing: give the API key's secret, as ${file:")
	f("auth: {username: 'a:canary', password: p}", "4:22: clusters.main.auth.username: holds a colon")
	f("auth: {username: u, password: ''}", "4:35: clusters.main.auth.password: is empty")
	f(`auth: {username: u, password: "${env:TWO_LINES}"}`, "4:35: clusters.main.auth.password: holds a line break")
	f("auth: {type: none, password: canary}", "4:18: clusters.main.auth.type: is none, but a username or password is given")
	f("limits: huge", `4:13: clusters.main.limits.profile: no profile is called "huge"; there are none, basic`)
	f("limits: dedicated:0", "4:13: clusters.main.limits.profile: dedicated:N wants N CKUs, 1..152")
	f("limits: [1]", "4:13: clusters.main.limits: want a mapping, have a list")
	f("limits: {fleet: {agents: 0}}", `4:30: clusters.main.limits.fleet.agents: "0": must be 1..100000`)
	f("limits: {fleet: {agents: 2.5}}", `4:30: clusters.main.limits.fleet.agents: "2.5" is no whole number`)
	f("limits: {fleet: {agents: 2, headroom: 5}}", `4:43: clusters.main.limits.fleet.headroom: "5" is no percentage: write a number with %`)
	f("limits: {fleet: {agents: 2, headroom: 0.05}}", `4:43: clusters.main.limits.fleet.headroom: "0.05" is no percentage`)
	f("limits: {fleet: {agents: 2, headroom: -5%}}", `4:43: clusters.main.limits.fleet.headroom: "-5%" is no percentage`)
	f("limits: {fleet: {agents: 2, headroom: 91%}}", `4:43: clusters.main.limits.fleet.headroom: "91%": must be 0%..90%`)
	f("limits: {fleet: {redis: x}}", `4:22: clusters.main.limits.fleet: there is no key "redis" here`)
	f("limits: {records_per_second: -1}", `4:34: clusters.main.limits.records_per_second: "-1": must be 0..1000000000`)
	f("limits: {records_per_second: lots}", `4:34: clusters.main.limits.records_per_second: "lots" is no number`)
	f("limits: {bytes_per_second: 5mb}", `4:32: clusters.main.limits.bytes_per_second: "5mb" is no size: write bytes, or a number with KB`)
	f("limits: {message_bytes: 10}", `4:29: clusters.main.limits.message_bytes: "10": must be 0 (no limit) or 1KB..1GB`)
	f("streams: {max: 0}", `4:20: clusters.main.streams.max: "0": must be 1..64`)
	f("streams: {max: 1.5}", `4:20: clusters.main.streams.max: "1.5" is no whole number`)
	f("streams: {max: 99999999999999999999}", `4:20: clusters.main.streams.max: "99999999999999999999" is no whole number, or too large a one`)
	f("streams: {linger: 5}", `4:23: clusters.main.streams.linger: "5" has no unit: write 5ms, 5s, 5m or 5h`)
	f("streams: {linger: soon}", `4:23: clusters.main.streams.linger: "soon" is no duration`)
	f("streams: {linger: 11s}", `4:23: clusters.main.streams.linger: "11s": must be 0..10s`)
	f("streams: {rotate_after: 10ms}", `4:29: clusters.main.streams.rotate_after: "10ms": must be 0 (never) or at least 1s`)
	f("streams: {rotate_after: 0, linger: 0}")
	f("streams: {batch_bytes: 1KiB, in_flight_bytes: 0}")
	f("streams: {batch_bytes: 5MiB}", `4:28: clusters.main.streams.batch_bytes: "5MiB": must be 1024..4MiB`)
	f(`streams: {max: "${env:NUMBER}"}`)
	f(`streams: {max: "${env:KEY}"}`, "4:20: clusters.main.streams.max: what ${env:KEY} gives is no whole number")
	f(`streams: {linger: "${env:KEY}"}`, "4:23: clusters.main.streams.linger: what ${env:KEY} gives is no duration")
	f(`limits: "${env:KEY}"`, "4:13: clusters.main.limits.profile: what ${env:KEY} gives will not do here")
	f(`dialect: ${env:KEY}`, "4:14: clusters.main.dialect: what ${env:KEY} gives: must be auto, v3-stream, v3-records, v3-batch, v2, v2:confluent, v2:pandaproxy, v2:karapace or v2:strimzi")
	f(`cluster_id: ${env:TWO_LINES}`, "4:17: clusters.main.cluster_id: what ${env:TWO_LINES} gives: holds characters")
	f("tls: {ca_file: gone.pem}", `4:20: clusters.main.tls.ca_file: "/etc/agent/gone.pem" cannot be read: file does not exist`)
	f("tls: {ca_file: /run/secret}", `4:20: clusters.main.tls.ca_file: "/run/secret" holds no certificate in PEM form`)
	f("tls: {ca_file: /etc/ca.pem, cert_file: /etc/cert.pem, key_file: /etc/key.pem, min_version: '1.3'}")
	f("tls: {cert_file: /etc/cert.pem}", "4:22: clusters.main.tls.cert_file: is given without key_file")
	f("tls: {key_file: /etc/key.pem}", "4:21: clusters.main.tls.key_file: is given without cert_file")
	f("tls: {cert_file: /run/secret, key_file: /etc/key.pem}", "4:22: clusters.main.tls.cert_file: is no certificate in PEM form that key_file is the key of: failed to find")
	f("tls: {min_version: '1.1'}", `4:24: clusters.main.tls.min_version: "1.1": must be 1.2 or 1.3`)
	f("tls: {ca_file: '', cert_file: '', key_file: ''}")
	f("proxy: http://proxy:3128")
	f("proxy: 'https://user:p@ss@[::1]:3128/'")
	f("proxy: env")
	f("proxy: none")
	f("proxy: proxy:3128", "4:12: clusters.main.proxy: want env, none, or http://HOST:PORT")
	f("proxy: socks5://u:canary@proxy:1080", "4:12: clusters.main.proxy: is of a kind that is not spoken here")
	f("proxy: 'http://u:canary@'", "4:12: clusters.main.proxy: is no URL of a proxy")
	f("proxy: http://u:canary@proxy/path", "4:12: clusters.main.proxy: is no URL of a proxy")
	f("proxy: 'http://u:${env:TWO_LINES}@proxy'", "4:12: clusters.main.proxy: user or password holds a line break")

	g := func(endpoint string, want ...string) {
		t.Helper()
		mistakes(t, "clusters:\n  main:\n    rest_endpoint: "+endpoint+"\n"+inputs+routes, want...)
	}
	g("''", "3:20: clusters.main.rest_endpoint: is empty")
	g("kafka.example.com", `3:20: clusters.main.rest_endpoint: "kafka.example.com" has no scheme: write https://`)
	g("ftp://x", `3:20: clusters.main.rest_endpoint: "ftp://x": want http:// or https://`)
	g("https://", `3:20: clusters.main.rest_endpoint: "https://": want http://`)
	g("https://user:canary@x", "3:20: clusters.main.rest_endpoint: holds a user name or password")
	g("http://x\n    auth: {username: u, password: p}", "3:20: clusters.main.rest_endpoint: credentials would go to another machine in plain text")
	g("http://x\n    auth: {username: u, password: p}\n    allow_plaintext_auth: true")
	g("http://localhost:8082\n    auth: {username: u, password: p}")
	g("http://[::1]:8082\n    auth: {username: u, password: p}")
	g("https://pkc-1.eu.aws.confluent.cloud:443", "2:3: warning: clusters.main.auth: Confluent Cloud takes no records without credentials")
	g("${env:ENDPOINT}")
	g("${env:KEY}", "3:20: clusters.main.rest_endpoint: what ${env:KEY} gives has no scheme")
	mistakes(t, "clusters:\n  main: {}\n"+inputs+routes, "2:3: clusters.main: rest_endpoint is missing: give the cluster's REST endpoint")
	mistakes(t, "clusters:\n  main:\n"+inputs+routes, "2:8: clusters.main: has no value")
	mistakes(t, "clusters:\n  a: {rest_endpoint: 'https://a'}\n  b: {rest_endpoint: 'https://b'}\n"+inputs+"routes: [{name: r, topic: t, cluster: a}]\n",
		"3:3: warning: clusters.b: no route goes to this cluster")
}

func TestMistakesOfAuth(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		mistakes(t, "clusters:\n  main:\n    rest_endpoint: https://kafka.example.com\n    "+body+"\n"+inputs+routes, want...)
	}
	at := "clusters.main.auth"
	f("auth: {token_file: /run/secret}")
	f("auth: {type: bearer, token_file: /run/secret, identity_pool_id: pool-1, patience: 5m}")
	f("auth: {type: bearer}", "4:5: "+at+": bearer needs token_file")
	f("auth: {token_file: /gone}", "4:24: "+at+`.token_file: "/gone" cannot be read`)
	f("auth: {token_file: /run/blank}", "4:24: "+at+".token_file: the file is empty")
	f("auth: {type: basic, username: u, password: p, token_file: /run/secret}",
		"4:63: "+at+".token_file: is not for auth of type basic: leave it out, or say type: bearer")
	f("auth: {type: mtls}", "4:5: "+at+": mtls needs tls: {cert_file, key_file}")
	f("auth: {type: mtls}\n    tls: {cert_file: /etc/cert.pem, key_file: /etc/key.pem}")
	f("auth: {patience: 2h}", "4:22: "+at+`.patience: "2h": must be 0 (two minutes once a record was delivered, none before) or 1s..1h`)

	client := "client_id: c, client_secret: '${env:SECRET}'"
	f("auth: {oauth2: {token_url: 'https://idp/token', " + client + ", scopes: [a, b], audience: x, identity_pool_id: pool-1}}")
	f("auth: {oauth2: {token_url: 'http://127.0.0.1:1/token', " + client + "}}")
	f("auth: {oauth2: {"+client+"}}", "4:12: "+at+".oauth2: oauth2.token_url is missing")
	f("auth: {oauth2: {token_url: 'https://idp/token'}}", "4:12: "+at+".oauth2: oauth2.client_id is missing", "4:12: "+at+".oauth2: oauth2.client_secret is missing")
	f("auth: {oauth2: {token_url: idp, "+client+"}}", "4:32: "+at+".oauth2.token_url: is no address of a token endpoint")
	f("auth: {oauth2: {token_url: 'https://u:canary@idp', "+client+"}}", "4:32: "+at+".oauth2.token_url: holds a user name or password")
	f("auth: {oauth2: {token_url: 'http://idp/token', "+client+"}}", "4:32: "+at+".oauth2.token_url: secrets would go to another machine in plain text")
	f("allow_plaintext_auth: true\n    auth: {oauth2: {token_url: 'http://idp/token', " + client + "}}")

	f("auth: {type: redpanda, oauth2: {" + client + "}}")
	f("auth: {type: redpanda, oauth2: {identity_pool_id: p, "+client+"}}", "4:55: "+at+".oauth2.identity_pool_id: is not for auth of type redpanda: leave it out, or say type: oauth2")

	f("auth: {sts: {identity_pool_id: pool-1, subject_token_file: /run/secret, expires_in: 5m}}")
	f("auth: {sts: {identity_pool_id: pool-1}, oauth2: {token_url: 'https://idp/token', " + client + "}}")
	f("auth: {sts: {identity_pool_id: pool-1}}", "4:5: "+at+": sts needs a token to exchange")
	f("auth: {sts: {subject_token_file: /run/secret}}", "4:12: "+at+".sts: sts.identity_pool_id is missing")
	f("auth: {sts: {identity_pool_id: p, subject_token_file: /run/secret}, oauth2: {token_url: 'https://idp/token', "+client+"}}",
		"4:59: "+at+".sts.subject_token_file: is given, and auth.oauth2 too")
	f("auth: {sts: {identity_pool_id: p, subject_token_file: /run/secret, expires_in: 1h}}", "4:84: "+at+`.sts.expires_in: "1h": must be`)

	mistakes(t, "clusters:\n  main:\n    rest_endpoint: http://kafka\n    auth: {token_file: /run/secret}\n"+inputs+routes,
		"3:20: clusters.main.rest_endpoint: credentials would go to another machine in plain text")
}

func TestReferences(t *testing.T) {
	f := func(id, text string, want ...string) {
		t.Helper()
		yaml := "clusters:\n  main:\n    rest_endpoint: https://kafka.example.com\n    cluster_id: " + text + "\n" + inputs + routes
		c, problems := load(yaml)
		compare(t, yaml, problems, want)
		if want == nil && c.Clusters[0].ClusterID != id {
			t.Errorf("%s: %q, want %q", text, c.Clusters[0].ClusterID, id)
		}
	}
	f("key-canary", "${env:KEY}")
	f("a-key-canary-12", "a-${env:KEY}-${env:NUMBER}")
	f("file-canary", "${file:/run/secret}")
	f("${env:KEY}", "$${env:KEY}")
	f("$", "$")
	f("$${x}", "$$${x}")
	f("${env:SECRET}", "$${env:SECRET}")
	// A value is text, whatever is in it.
	f("", `"${env:YAML}"`, `4:17: clusters.main.cluster_id: what ${env:YAML} gives: holds characters`)
	f("${env:SECRET}", "${env:TRICK}") // and is not looked through again

	f("", "${env:NOPE}", "4:17: clusters.main.cluster_id: ${env:NOPE}: the environment has no variable NOPE")
	f("", "${env:EMPTY}", "4:17: clusters.main.cluster_id: ${env:EMPTY}: the variable EMPTY is empty")
	f("", "${file:/gone}", "4:17: clusters.main.cluster_id: ${file:/gone}: file does not exist")
	f("", "${file:/run/empty}", "4:17: clusters.main.cluster_id: ${file:/run/empty}: the file is empty")
	f("", "${file:/run/bytes}", "4:17: clusters.main.cluster_id: what ${file:/run/bytes} gives is not valid UTF-8")
	f("", "${env:NOPE}${env:ZIP}", "4:17: clusters.main.cluster_id: ${env:NOPE}: the environment has no variable NOPE: set it for this process, or write the value here; ${env:ZIP}: ")
	f("", strings.Repeat("${env:KEY}", 1001), "4:17: clusters.main.cluster_id: there are more than 1000 references in this file")
	f("", strings.Repeat("${file:/run/large}", 3), "4:17: clusters.main.cluster_id: what the references give has more than 1048576 bytes")
	f("", "${KEY}", "4:17: clusters.main.cluster_id: ${KEY}: there are ${env:NAME} and ${file:PATH}; write $${ for a plain ${")
	f("", "${env:}", "4:17: clusters.main.cluster_id: ${env:}: there are")
	f("", "${env:KEY", "4:17: clusters.main.cluster_id: a reference ${ without its }")
}

// What is read by default are regular files of a sane size.
func TestReferencesToOddFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "huge"), make([]byte, maxRead+1), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(path, want string) {
		t.Helper()
		file := filepath.Join(dir, "agent.yaml")
		text := "clusters: {main: {rest_endpoint: 'https://a', cluster_id: '${file:" + path + "}'}}\n" + inputs + routes
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, problems := Load(file, Options{})
		if len(problems) != 1 || !strings.HasSuffix(problems[0].Text, want) {
			t.Errorf("%s: %v, want %q", path, problems, want)
		}
	}
	f(os.DevNull, "is no regular file")
	f(dir, "is a directory, want a file")
	f("huge", "has more than 1048576 bytes: is it the right file?") // beside the configuration
	f("gone", "no such file or directory")
}

func TestMistakesOfInputs(t *testing.T) {
	const dir = "data_dir: /var/lib/agent\n"
	f := func(body string, want ...string) {
		t.Helper()
		mistakes(t, "inputs:\n  in:\n    "+body+"\n"+clusters+routes+dir, want...)
	}
	f("typ: file", "2:3: inputs.in: type is missing")
	f("include: [x]", "2:3: inputs.in: type is missing: say what it is: file, http or stdin")
	f("type: fiel", `3:11: inputs.in.type: "fiel": must be file, http or stdin; did you mean file?`)
	f("type: ${env:NOPE}", `3:11: inputs.in.type: ${env:NOPE}: the environment has no variable`)
	f("type: stdin\n    include: [x]", `4:5: inputs.in: key "include" is for inputs of type file`)
	f("type: stdin\n    strip_cr: true\n    skip_empty: true")
	f("type: file", "2:3: inputs.in: include is missing: name the files")
	f("type: file\n    include: []", "4:5: inputs.in.include: is empty: name the files")
	f("type: file\n    include: ['']", "4:15: inputs.in.include[0]: is empty: name a file")
	f("type: file\n    include: [/a, '/x[']", `4:19: inputs.in.include[1]: "/x[" is no pattern`)
	f("type: file\n    include: [/a, /a]", `4:19: inputs.in.include[1]: "/a" is in the list already`)
	f("type: file\n    include: [/a, [b]]", "4:19: inputs.in.include[1]: want one value, have a list")
	f("type: file\n    include: {a: b}", "4:14: inputs.in.include: want a list, have a mapping")
	f("type: file\n    include: /a\n    exclude: ['*.[']", `5:15: inputs.in.exclude[0]: "*.[" is no pattern`)
	f("type: file\n    include: /a\n    read_from: middle", `5:16: inputs.in.read_from: "middle": must be beginning or end`)
	f("type: file\n    include: /a\n    multiline: {timeout: 1s}", "5:5: inputs.in.multiline: start is missing")
	f("type: file\n    include: /a\n    multiline: {start: '('}", `5:24: inputs.in.multiline.start: "(" is no regular expression: missing closing )`)
	f("type: file\n    include: /a\n    multiline: {start: ''}", "5:24: inputs.in.multiline.start: is empty")
	f("type: file\n    include: /a\n    multiline: '^x'", "5:16: inputs.in.multiline: want a mapping, have a value")
	f("type: file\n    include: /a\n    max_open_files: 0\n    poll: 1ms\n    idle_close: 0", `5:21: inputs.in.max_open_files: "0": must be 1..100000`, `6:11: inputs.in.poll: "1ms": must be 10ms..1h`)
	f("type: file\n    include: ['/var/lib/agent/dead/*.ndjson']", "6:10: routes[0].dead_letter: this file would be read by input in")
	mistakes(t, "inputs: {in: {type: file, include: /a}}\n"+clusters+routes, "1:10: warning: inputs.in: there is no data_dir to keep checkpoints in: after a restart all is read and sent again")
	mistakes(t, "inputs: {in: {type: file, include: /a, read_from: end}}\n"+clusters+routes, "1:10: warning: inputs.in: there is no data_dir to keep checkpoints in: what is written while")
	mistakes(t, "inputs: {in: {type: file, include: /a, follow: false}}\n"+clusters+routes)
	mistakes(t, "inputs: {a: {type: stdin}, b: {type: stdin}}\n"+clusters+routes, "1:28: inputs.b: inputs a and b both read stdin")
	mistakes(t, "inputs: {a: {type: stdin}, b: {type: http}}\n"+clusters+"routes: [{name: r, topic: t, inputs: [b]}]\n", "1:10: inputs.a: no route takes this input")
}

func TestMistakesOfListeners(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		mistakes(t, "inputs:\n  in:\n    type: http\n    "+body+"\n"+clusters+routes, want...)
	}
	f("listen: 127.0.0.1:9880")
	f("listen: '[::1]:9880'")
	f("listen: localhost", `4:13: inputs.in.listen: "localhost" is no address to listen at`)
	f("listen: ''", `4:13: inputs.in.listen: "" is no address`)
	f("listen: http://127.0.0.1:1", `4:13: inputs.in.listen: "http://127.0.0.1:1" is no address`)
	f("listen: :9880", "4:13: inputs.in.listen: everybody who reaches this address could write to your topics")
	f("listen: 10.0.0.1:9880", "4:13: inputs.in.listen: everybody who reaches")
	f("listen: 10.0.0.1:9880\n    insecure_listen: true")
	f("listen: 127.0.0.1:9890", "1:1: observe.listen: the address is the same as inputs.in.listen")
	f("listen: 10.0.0.1:1\n    auth: {type: bearer, token_file: /run/secret}", "5:5: warning: inputs.in.auth: clients send their token in plain text")
	f("listen: 10.0.0.1:1\n    auth: {type: bearer, token: \"${env:SECRET}\"}\n    tls: {cert_file: /etc/cert.pem, key_file: /etc/key.pem}")
	f("auth: {type: bearer}", "4:5: inputs.in.auth: bearer needs a token")
	f("auth: {type: bearer, token: canary, token_file: /run/secret}", "4:5: inputs.in.auth: token and token_file are both given")
	f("auth: {type: bearer, token: 'can ary'}", "4:33: inputs.in.auth.token: is empty, or holds what cannot be in a header")
	f("auth: {type: bearer, token_file: /run/blank}", "4:38: inputs.in.auth.token_file: the file is empty")
	f("auth: {type: bearer, token_file: /gone}", `4:38: inputs.in.auth.token_file: "/gone" cannot be read`)
	f("auth: {token: canary}", "4:19: inputs.in.auth.token: a token is given, but type is none: write type: bearer")
	f("auth: {type: basic}", `4:18: inputs.in.auth.type: "basic": must be none, bearer or mtls`)
	f("auth: {type: mtls}", "4:5: inputs.in.auth: mtls needs tls")
	f("listen: 10.0.0.1:1\n    auth: {type: mtls}\n    tls: {cert_file: /etc/cert.pem, key_file: /etc/key.pem, client_ca_file: /etc/ca.pem}")
	f("tls: {client_ca_file: /etc/ca.pem}", "4:27: inputs.in.tls.client_ca_file: is given without cert_file and key_file")
	f("accept: [text, xml]", `4:20: inputs.in.accept[1]: "xml": must be text, ndjson, json or kafka_rest_v3`)
	f("accept: []", "4:5: inputs.in.accept: is empty")
	f("max_body: 100MB", "4:15: inputs.in.max_body: max_body is 100MB and max_in_flight 64MiB: one body must fit")
	f("allow_topics: ['*', 'a b', '']", `4:25: inputs.in.allow_topics[1]: "a b" can match no topic: only letters, digits, '.', '_', '-' and the wildcard * may be in it, not ' '`, "4:32: inputs.in.allow_topics[2]: \"\" matches no topic: name one, or use * for parts of a name")
	f("respond: after_buffer", "4:14: inputs.in.respond: after_buffer promises what is on disk: give data_dir", "6:10: routes[0]: an input of this route responds after_buffer")
	f("respond: later", `4:14: inputs.in.respond: "later": must be after_delivery or after_buffer`)
	f("header_timeout: 1h\n    idle_timeout: 0", `4:21: inputs.in.header_timeout: "1h": must be 100ms..10m`, `5:19: inputs.in.idle_timeout: "0": must be 1s..24h`)
	mistakes(t, "inputs: {a: {type: http, listen: '127.0.0.1:1'}, b: {type: http, listen: '127.0.0.1:1'}}\n"+clusters+routes, "1:74: inputs.b.listen: the address is the same as inputs.a.listen")
}

func TestMistakesOfRoutes(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		mistakes(t, "routes:\n  - name: r\n    topic: t\n    "+body+"\n"+clusters+inputs, want...)
	}
	f("inputs: in")
	f("inputs: []", "4:5: routes[0].inputs: is empty", "6:10: inputs.in: no route takes this input")
	f("inputs: [inn]", `4:14: routes[0].inputs[0]: there is no input "inn": did you mean "in"?`, "6:10: inputs.in: no route takes this input")
	f("inputs: [in, other]", `4:18: routes[0].inputs[1]: there is no input "other"; there are in`)
	f("cluster: mian", "4:14: routes[0].cluster: there is no cluster \"mian\": did you mean \"main\"?", "5:12: warning: clusters.main: no route goes to this cluster")
	f("cluster: ${env:KEY}", "4:14: routes[0].cluster: there is no cluster what ${env:KEY} gives; there are main", "5:12: warning: clusters.main")
	f("match: {field: a}", "4:5: routes[0].match: say what the field must be")
	f("match: {equals: a}", "4:5: routes[0].match: field is missing")
	f("match: {field: '', equals: a}", "4:20: routes[0].match.field: is empty")
	f("match: {field: a, equals: b, exists: true}", "4:5: routes[0].match: equals and exists are all given")
	f("match: {field: a, regex: ''}", "4:30: routes[0].match.regex: is empty: every record would match")
	f("timestamp: {field: ''}", "4:24: routes[0].timestamp.field: is empty: name a JSON field")
	f("partition: {field: ''}", "4:24: routes[0].partition.field: is empty")
	f("key: {field: ''}", "4:18: routes[0].key.field: is empty")
	f("key: {template: ''}", "4:21: routes[0].key.template: is empty")
	f("match: {field: a, in: []}", "4:23: routes[0].match.in: is empty")
	f("match: {field: a, regex: '[z-a]'}", `4:30: routes[0].match.regex: "[z-a]" is no regular expression: invalid character class range`)
	f("match: {field: a, equals: 500}")
	f("match: {field: a, equals: in}\n    decode: text")
	f("null: {field: a}\n    timestamp: {field: b}\n    headers: {c: '{{ .d }}', e: '{{ .host }}'}\n    key: {template: '{{ .k }}'}\n    decode: text", "4:5: routes[0].null: looks at",
		"5:5: routes[0].timestamp: looks at a field of the record, which needs decode: json, not text", "6:18: routes[0].headers.c: looks at", "7:5: routes[0].key: looks at")
	f("null: {equals: x}", "4:5: routes[0].null: field is missing")
	f("null: {field: gone}\n    null_value: ''")
	f("key: {}", "4:5: routes[0].key: say where keys come from")
	f("key: {field: a, value: b}", "4:5: routes[0].key: field and value are all given: a record has one key")
	f("key: {delimiter: ''}", "4:22: routes[0].key.delimiter: is empty")
	f("key: {template: '{{ .a'}", `4:21: routes[0].key.template: template "{{ .a", column 1: this {{ has no }}`)
	f("key: {field: a, type: text}", `4:27: routes[0].key.type: "text" is no type: must be AUTO, STRING, JSON or BINARY`)
	f("value: {type: avro}", `4:19: routes[0].value.type: "avro" is no type`)
	f("partition: -2", `4:16: routes[0].partition.number: "-2": must be at least -1`)
	f("partition: 3000000000", `4:16: routes[0].partition.number: "3000000000" is no whole number, or too large a one`)
	f("partition: {number: 1, field: a}", "4:5: routes[0].partition: number and field are both given")
	f("partition: {field: a}\n    decode: bytes", "4:5: routes[0].partition: looks at a field of the record, which needs decode: json, not bytes")
	f("headers: [a]", "4:14: routes[0].headers: want a mapping of header names to values, have a list")
	f("headers: {a: '{{ b }}'}", `4:18: routes[0].headers.a: template "{{ b }}", column 4: a field is wanted here, like {{ .tenant }}`)
	f("headers: {a: [b]}", "4:18: routes[0].headers.a: want one value, have a list")
	f("headers: {'': b}", `4:19: routes[0].headers.: "" is no header's name`)
	f("headers: {id: b}\n    record_id_header: id", "4:19: routes[0].headers.id: record_id_header has the same name")
	f("headers: {a: null, b: '', c: 1}\n    record_id_header: id")
	f("record_id_header: ''", `4:23: routes[0].record_id_header: "" is no header's name`)
	f("timestamp: {format: rfc3339}", "4:5: routes[0].timestamp: field is missing")
	f("timestamp: {field: a, format: unix_h}", `4:35: routes[0].timestamp.format: "unix_h": must be auto, rfc3339, unix`)
	f("max_record_bytes: 100", `4:23: routes[0].max_record_bytes: "100": must be 1KB..1GB`)
	f("buffer: {type: disk}", "4:20: routes[0].buffer.type: a buffer on disk needs a place: give data_dir")
	f("buffer: {when_full: drop}", `4:25: routes[0].buffer.when_full: "drop": must be block, drop_oldest or drop_newest`)
	f("spill: parked", "4:12: routes[0].spill: parked moves records to the disk: give data_dir, or write never")
	f("ordering: key")
	f("ordering: topic", `4:15: routes[0].ordering: "topic": must be none, key or strict`)
	f("retry: {initial: 1m, max: 1s}", "4:22: routes[0].retry.initial: initial is 1m and max 1s")
	f("retry: {max_attempts: 0}", `4:27: routes[0].retry.max_attempts: "0": must be 1..1000`)
	f("retry: {give_up_after: 1h}", "4:13: routes[0].retry.give_up_after: giving records up after a time is not built yet")
	f("retry: {give_up_after: 0s}")
	f("dead_letter: x", "4:18: routes[0].dead_letter: want a mapping, have a value")

	g := func(body string, want ...string) {
		t.Helper()
		mistakes(t, clusters+inputs+"routes:\n  - "+body+"\n", want...)
	}
	g("{topic: t}", "4:5: routes[0]: name is missing")
	g("{name: r}", "4:5: routes[0]: topic is missing")
	g("{name: a b, topic: t}", `4:12: routes[0].name: "a b": a name is up to 100 letters`)
	g("{name: '${env:KEY}', topic: t}", "4:12: routes[0].name: write the name out")
	g("{name: r, topic: t}\n  - {name: r, topic: u}", `5:5: warning: routes[1]: records of input in never come here: routes[0] takes all of them`, `5:12: routes[1].name: routes[0] is called "r" already`)
	g("{name: r, topic: t, match: {field: a, exists: true}, dead_letter: {path: x}}\n  - {name: s, topic: u, dead_letter: {path: x}}", "5:45: routes[1].dead_letter.path: routes[0] keeps its dead letters in this file")
	disk := func(body string, want ...string) {
		t.Helper()
		mistakes(t, "data_dir: /data\n"+clusters+inputs+"routes:\n  - {name: r, topic: t, "+body+"}\n", want...)
	}
	disk("spill: always", "5:32: routes[0].spill: always moves records to the route's buffer, and it has none")
	disk("spill: parked, buffer: {type: disk}")
	disk("spill: never")
	disk("buffer: {max_bytes: 20MB}", "5:45: routes[0].buffer.max_bytes: is given, and the route has no buffer")
	disk("buffer: {type: none, max_bytes: 20MB}")
	disk("buffer: {type: disk, max_bytes: 20MB}, max_record_bytes: 20MB", "5:82: routes[0].max_record_bytes: records of up to 20000000 bytes do not fit the route's buffer")
	disk("buffer: {type: disk}, max_record_bytes: 200MB", "5:65: routes[0].max_record_bytes: records of up to 200000000 bytes do not fit")
	disk("buffer: {type: disk, max_bytes: 16MB}")
	g("{name: r, topic: t, match: {field: a, exists: true}, ordering: strict}\n  - {name: s, topic: u}", "4:68: routes[0].ordering: routes[0] and routes[1] go to cluster main with different settings")
	mistakes(t, "clusters: {a: {rest_endpoint: 'https://a'}, b: {rest_endpoint: 'https://b'}}\n"+inputs+routes,
		"1:12: warning: clusters.a", "1:45: warning: clusters.b", "3:10: routes[0]: cluster is missing: say which, a or b")
}

func TestMistakesOfTopics(t *testing.T) {
	f := func(topic string, want ...string) {
		t.Helper()
		for i := range want {
			want[i] = "3:27: routes[0].topic: " + want[i]
		}
		mistakes(t, clusters+inputs+"routes: [{name: r, topic: "+topic+"}]\n", want...)
	}
	f("logs.a_b-C")
	f("a b", `topic "a b": only letters, digits`)
	f("..", `topic ".."`)
	f("''", "topic is missing")
	f(strings.Repeat("x", 250), `topic "xxxxxxxxxxxxxxxxxxxx"…: 250 characters`)
	f("'${env:TWO_LINES}'", "what ${env:TWO_LINES} gives will not do here")
	f("'logs-{{ .tenant }}'")
	f("'logs-{{.a.b}}-{{ .\"any name}}\" }}'")
	f("'{{ .tenant }}', allow_topics: [logs-*]")
	f("'x-{{ .tenant }}', allow_topics: [logs-*]", `template "x-{{ .tenant }}": allow_topics allows no name that begins with "x-"`)
	f("'{{ .input }}-{{ .host }}'")
	f("'{{ .tenant }}'", `template "{{ .tenant }}": whoever writes the records could name any topic`)
	f("'{{ .\"host\" }}'", `template "{{ .\"host\" }}": whoever writes the records could name any topic`)
	f("'{{ .file }}'", `template "{{ .file }}": {{ .file }} is a whole path`)
	f("'{{ .file_name }}'")
	f("'a b-{{ .tenant }}'", "template \"a b-{{ .tenant }}\": only letters, digits, '.', '_' and '-' may be in a topic's name, not ' '")
	f("'a-{{ tenant }}'", `template "a-{{ tenant }}", column 6: a field is wanted here`)
	f("'a-{{ .a | upper }}'", `template "a-{{ .a | upper }}", column 9: }} is wanted here`)
	f("'a-{{ .a..b }}'", `template "a-{{ .a..b }}", column 9: a name is wanted here`)
	f("'a-{{ . }}'", `template "a-{{ . }}", column 7: a name is wanted here`)
	f("'a-{{ .a'", `template "a-{{ .a", column 3: this {{ has no }}`)
	f("'a-{{ .\"a'", `template "a-{{ .\"a", column 7: a closing " is wanted`)
	f("'a-}}'", `template "a-}}", column 3: }} without a {{ before it`)
	f("'"+strings.Repeat("x", 249)+"{{ .a }}'", `template "xxxxxxxxxxxxxxxxxxxx"…: its text alone has 249 characters`)
	mistakes(t, clusters+inputs+"routes: [{name: r, allow_topics: [a, b-*]}]\n") // records bring their own
}

func TestDefaults(t *testing.T) {
	c, problems := load("data_dir: data\nclusters: {main: {rest_endpoint: 'https://pkc.confluent.cloud', auth: {username: u, password: p}, limits: {records_per_second: 5}}}\n" +
		"inputs:\n  f: {type: file, include: [logs/*.log, /x], exclude: ['*.gz', old/x]}\n  h: {type: http, respond: after_buffer}\n" +
		"routes: [{name: r, topic: t, buffer: {type: disk}}]\n")
	if problems != nil {
		t.Fatal(problems)
	}
	f := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	f("data_dir", c.DataDir, "/etc/agent/data")
	m := c.Clusters[0]
	f("auth", m.Auth.Type, "basic")
	f("limits", m.Limits, Limits{Profile: "basic", ConnectionsPerSecond: 25, RecordsPerSecond: 5, BytesPerSecond: 10e6, MessageBytes: 8e6, Fleet: Fleet{Agents: 1}})
	p := m.Limits.Limit()
	f("profile", []any{p.Name, p.Connections, p.Records, p.Bytes, p.MessageBytes}, []any{"basic", 25.0, 5.0, 10e6, 8000000})
	f("include", c.Inputs[0].File.Include, []string{"/etc/agent/logs/*.log", "/x"})
	f("exclude", c.Inputs[0].File.Exclude, []string{"*.gz", "/etc/agent/old/x"})
	f("file", []any{c.Inputs[0].File.Follow, c.Inputs[0].File.Poll, c.Inputs[0].HTTP}, []any{true, time.Second, (*HTTPInput)(nil)})
	f("http", *c.Inputs[1].HTTP, func() HTTPInput { h := DefaultHTTPInput(); h.Respond = "after_buffer"; return h }())
	r := c.Routes[0]
	f("route", []any{r.Inputs, r.Cluster, r.Spill, r.Buffer.Fsync, r.MaxRecordBytes, r.DeadLetter.Path, r.Partition.Number, r.Value.Type},
		[]any{[]string{"f", "h"}, "main", "parked", "always", Size(8e6), "/etc/agent/data/dead/r.ndjson", int32(-1), "AUTO"})
	f("observe", c.Observe, DefaultConfig().Observe)
	f("path", c.Path(), "/etc/agent/agent.yaml")
	f("place", c.Place("routes[0].topic"), Place{"/etc/agent/agent.yaml", 6, 27})
	f("place around", c.Place("routes[0].key.field"), Place{"/etc/agent/agent.yaml", 6, 10})
	f("no place", c.Place("observe.listen"), Place{"/etc/agent/agent.yaml", 1, 1})
	f("lookups", []any{c.Cluster("x") == nil, c.Input("x") == nil, c.Input("h") == &c.Inputs[1]}, []any{true, true, true})
}

// Names keep the order in which they are written.
func TestOrder(t *testing.T) {
	var text strings.Builder
	text.WriteString(clusters + "inputs:\n")
	for i := 20; i > 0; i-- {
		fmt.Fprintf(&text, "  in%d: {type: http, listen: '127.0.0.1:%d'}\n", i, i)
	}
	text.WriteString("routes: [{name: r, topic: t, headers: {z: a, b: c, a: d}}]\n")
	c, problems := load(text.String())
	if problems != nil {
		t.Fatal(problems)
	}
	for i, in := range c.Inputs {
		if want := fmt.Sprintf("in%d", 20-i); in.Name != want || c.Routes[0].Inputs[i] != want {
			t.Errorf("input %d is %s and %s", i, in.Name, c.Routes[0].Inputs[i])
		}
	}
	if h := c.Routes[0].Headers; h[0].Name != "z" || h[1].Name != "b" || h[2].Name != "a" {
		t.Errorf("%+v", h)
	}
}

func TestOverrides(t *testing.T) {
	const text = `
clusters:
  main: {rest_endpoint: 'https://a', limits: basic}
  main-2: {rest_endpoint: 'https://b'}
inputs:
  f: {type: file, include: [/a], follow: false}
  g: {type: file, include: /a, follow: false}
  h: {type: http}
routes:
  - {name: r, cluster: main, topic: t, partition: 3, headers: {X-a: b}, inputs: [f]}
  - {name: s, cluster: main-2, topic: t, inputs: [g, h]}
`
	c, problems := load(text,
		"PATH=/bin", "OTHER_DATA_DIR=/no", "PRODUCE_AGENT_DATA_DIR=", "PRODUCE_AGENT_CLUSTERS_MAIN_REST_ENDPOINT=https://c",
		"PRODUCE_AGENT_CLUSTERS_MAIN_LIMITS_RECORDS_PER_SECOND=7", "PRODUCE_AGENT_CLUSTERS_MAIN_2_LIMITS=standard",
		"PRODUCE_AGENT_CLUSTERS_MAIN_2_AUTH_USERNAME=u", "PRODUCE_AGENT_CLUSTERS_MAIN_2_AUTH_PASSWORD=canary",
		"PRODUCE_AGENT_OBSERVE_LISTEN=127.0.0.1:1", "PRODUCE_AGENT_OBSERVE_LOG_LEVEL=debug", "PRODUCE_AGENT_INPUTS_F_INCLUDE_0=/b",
		"PRODUCE_AGENT_INPUTS_F_INCLUDE_1=/c", "PRODUCE_AGENT_INPUTS_G_INCLUDE_0=/d", "PRODUCE_AGENT_INPUTS_H_TLS_CERT_FILE=/etc/cert.pem",
		"PRODUCE_AGENT_INPUTS_H_TLS_KEY_FILE=/etc/key.pem", "PRODUCE_AGENT_ROUTES_0_TOPIC=u", "PRODUCE_AGENT_ROUTES_0_HEADERS_X_A=${env:NOPE}",
		"PRODUCE_AGENT_ROUTES_1_PARTITION=5", "PRODUCE_AGENT_ROUTES_0_RETRY_MAX_ATTEMPTS=9", "PRODUCE_AGENT_ROUTES_1_RETRY_MAX_ATTEMPTS=8")
	if problems != nil {
		t.Fatal(problems)
	}
	f := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	f("endpoint", c.Clusters[0].RESTEndpoint, "https://c")
	f("limits", []any{c.Clusters[0].Limits.Profile, c.Clusters[0].Limits.RecordsPerSecond, c.Clusters[1].Limits.Profile}, []any{"basic", 7.0, "standard"})
	f("auth", []any{c.Clusters[1].Auth.Type, c.Clusters[1].Auth.Password.Reveal()}, []any{"basic", "canary"})
	f("observe", []any{c.Observe.Listen, c.Observe.Log.Level}, []any{"127.0.0.1:1", "debug"})
	f("include", [][]string{c.Inputs[0].File.Include, c.Inputs[1].File.Include}, [][]string{{"/b", "/c"}, {"/d"}})
	f("tls", c.Inputs[2].HTTP.TLS.KeyFile, "/etc/key.pem")
	f("route", []any{c.Routes[0].Topic, c.Routes[0].Partition.Number, c.Routes[1].Partition.Number, *c.Routes[0].Headers[0].Value}, []any{"u", int32(3), int32(5), "${env:NOPE}"})
	f("retry", []any{c.Routes[0].Retry.MaxAttempts, c.Routes[1].Retry.MaxAttempts}, []any{9, 8})
	f("place", c.Place("clusters.main.rest_endpoint").String(), "PRODUCE_AGENT_CLUSTERS_MAIN_REST_ENDPOINT")
	f("place around", c.Place("clusters.main").Line, 3)

	_, problems = load(text, "PRODUCE_AGENT_CLUSTERS_MIAN_LIMITS=basic", "PRODUCE_AGENT_DATA_DIRX=1", "PRODUCE_AGENT_ROUTES_2_TOPIC=x",
		"PRODUCE_AGENT_CLUSTERS_MAIN=x", "PRODUCE_AGENT_ROUTES_0_INPUTS_5=f", "PRODUCE_AGENT_CLUSTERS_MAIN_STREAMS_MAX=x", "PRODUCE_AGENT_OBSERVE_LISTEN=\xff", "PRODUCE_AGENT_=x")
	compare(t, "overrides", problems, []string{
		"PRODUCE_AGENT_: warning: this environment variable names no key",
		"PRODUCE_AGENT_CLUSTERS_MAIN: warning: this environment variable names no key of the configuration (clusters.main is there, the rest is not)",
		"PRODUCE_AGENT_CLUSTERS_MAIN_STREAMS_MAX: clusters.main.streams.max: \"",
		"PRODUCE_AGENT_CLUSTERS_MIAN_LIMITS: warning: ",
		"PRODUCE_AGENT_DATA_DIRX: warning: ",
		"PRODUCE_AGENT_OBSERVE_LISTEN: the value of this environment variable is not valid UTF-8",
		"PRODUCE_AGENT_ROUTES_0_INPUTS_5: warning: ",
		"PRODUCE_AGENT_ROUTES_2_TOPIC: warning: ",
	})
}

func TestModeOfSecrets(t *testing.T) {
	f := func(mode fs.FileMode, password string, want ...string) {
		t.Helper()
		text := "clusters: {main: {rest_endpoint: 'https://a', auth: {username: u, password: '" + password + "'}}}\n" + inputs + routes
		disk := fstest.MapFS{"agent.yaml": {Data: []byte(text), Mode: mode}}
		o := world
		o.Stat = func(string) (fs.FileInfo, error) { return disk.Stat("agent.yaml") }
		o.ReadFile = func(string) ([]byte, error) { return []byte(text), nil }
		_, problems := Load("/etc/agent/agent.yaml", o)
		compare(t, text, problems, want)
	}
	f(0o640, "canary")
	f(0o644, "${env:SECRET}")
	f(0o644, "canary", "1:77: warning: clusters.main.auth.password: a secret is written here, and the file's mode 0644 lets everybody")
}

func TestMissingFile(t *testing.T) {
	_, problems := Load("/gone/agent.yaml", world)
	if problems.Err() == nil || problems.Err().Error() != "/gone/agent.yaml: there is no such file: name the configuration to read" {
		t.Error(problems)
	}
}

func TestProblems(t *testing.T) {
	all := Problems{{Warning, Place{"f", 1, 2}, "k", "w"}, {Error, Place{"f", 1, 3}, "", "e"}, {Error, Place{File: "V"}, "k", "v"}}
	if err := all.Err(); err == nil || err.Error() != "f:1:3: e\nV: k: v" {
		t.Error(err)
	}
	if w := all.Warnings(); len(w) != 1 || w[0].String() != "f:1:2: warning: k: w" {
		t.Error(w)
	}
	if all[:1].Err() != nil {
		t.Error("a warning is an error")
	}
}

func TestSecret(t *testing.T) {
	s := NewSecret("canary")
	v := struct {
		S Secret
		s Secret
	}{s, s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if got := fmt.Sprintf(verb, v) + fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &v); strings.Contains(got, "canary") {
			t.Errorf("%s: %s", verb, got)
		}
	}
	if s.Reveal() != "canary" || s.String() != "***" || NewSecret("").String() != "" || NewSecret("") != (Secret{}) {
		t.Error(s)
	}
	if !reflect.DeepEqual(s, NewSecret("canary")) || reflect.DeepEqual(s, NewSecret("x")) {
		t.Error("secrets cannot be compared")
	}
}

func TestParseSize(t *testing.T) {
	f := func(text string, want Size, back string) {
		t.Helper()
		got, err := ParseSize(text)
		if err != nil || got != want || got.String() != back {
			t.Errorf("%q: %d (%s), %v; want %d (%s)", text, got, got, err, want, back)
		}
	}
	f("0", 0, "0")
	f("8000000", 8e6, "8MB")
	f("8MB", 8e6, "8MB")
	f("7.5 MiB", 7864320, "7680KiB")
	f("20MiB", 20<<20, "20MiB")
	f("65536", 65536, "64KiB")
	f("1TB", 1e12, "1TB")
	f("12B", 12, "12")
	f("1025", 1025, "1025")
	for _, bad := range []string{"", "MB", "-1", "1 mb", "1e99", "NaN", "Inf", "0x10", "1_000", "9999TiB", "1MBMB"} {
		if got, err := ParseSize(bad); err == nil {
			t.Errorf("%q is %d", bad, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	f := func(text string, want time.Duration, back string) {
		t.Helper()
		got, err := parseDuration(text)
		if err != nil || got != want || duration(got) != back {
			t.Errorf("%q: %s (%s), %v", text, got, duration(got), err)
		}
	}
	f("0", 0, "0s")
	f("5ms", 5*time.Millisecond, "5ms")
	f("300s", 5*time.Minute, "5m")
	f("1h30m", 90*time.Minute, "1h30m")
	f("7d", 168*time.Hour, "168h")
	for _, bad := range []string{"", "5", "1.5", "5 m", "1w", "-", "99999d", "d"} {
		if got, err := parseDuration(bad); err == nil {
			t.Errorf("%q is %s", bad, got)
		}
	}
}

func TestSuggest(t *testing.T) {
	var b bytes.Buffer
	for _, words := range [][2]string{{"rest_endpiont", "rest_endpoint"}, {"Topic", "topic"}, {"include", ""}, {"x", ""}} {
		fmt.Fprint(&b, suggest(words[0], []string{"rest_endpoint", "topic", "name"}) == words[1], " ")
	}
	if b.String() != "true true true true " {
		t.Error(b.String())
	}
}

// A file whose records go to several topics has a buffer to park those of one
// topic in, unless it is not wanted; a file with one topic is its own buffer.
func TestBufferByDefault(t *testing.T) {
	f := func(routes, want string) {
		t.Helper()
		c, problems := load("data_dir: data\nclusters: {main: {rest_endpoint: 'http://127.0.0.1:1'}}\n" +
			"inputs: {f: {type: file, include: [/x]}, g: {type: file, include: [/y]}, s: {type: stdin}}\nroutes:\n" + routes)
		if err := problems.Err(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range c.Routes {
			got = append(got, r.Buffer.Type+" "+r.Spill)
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s\nhas %s, want %s", routes, s, want)
		}
	}
	f("- {name: a, inputs: [f], topic: t}\n- {name: b, inputs: [g, s], topic: t}\n", "none never, none never")
	f("- {name: a, inputs: [f], topic: 'x-{{ .a }}'}\n- {name: b, inputs: [g], topic: t}\n- {name: c, inputs: [s], topic: 'x-{{ .a }}'}\n",
		"disk parked, none never, none never")
	f("- {name: a, inputs: [f], topic: t, match: {field: a, exists: true}}\n- {name: b, topic: u}\n", "disk parked, disk parked")
	f("- {name: a, inputs: [f, g, s], topic: 'x-{{ .a }}', spill: never}\n", "none never")
	f("- {name: a, inputs: [f, g, s], topic: 'x-{{ .a }}', buffer: {type: none}}\n", "none never")
}
