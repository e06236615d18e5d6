package config

import (
	"strings"
	"testing"
)

func TestParsePercent(t *testing.T) {
	f := func(text string, want Percent) {
		t.Helper()
		if got, err := ParsePercent(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	f("5%", 5)
	f("0%", 0)
	f(" 2.5 % ", 2.5)
	f("100%", 100)
	bad := func(text string) {
		t.Helper()
		if got, err := ParsePercent(text); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
	for _, text := range []string{"", "%", "5", "0.05", "-1%", "+1%", "101%", "1e1%", "NaN%", "Inf%", "0x5%", "5%%", "1.2.3%", "1_0%", "5 %x", strings.Repeat("9", 400) + "%"} {
		bad(text)
	}
}

// A fleet's agent has its part of everything but a message's length.
func TestFleet(t *testing.T) {
	f := func(limits, want string) {
		t.Helper()
		c, problems := load("clusters: {main: {rest_endpoint: 'http://127.0.0.1:1', limits: " + limits + "}}\n" +
			"inputs: {i: {type: stdin}}\nroutes: [{name: r, topic: t, dead_letter: {path: /d}}]\n")
		if problems.Err() != nil {
			t.Fatal(problems)
		}
		if got := c.Clusters[0].Limits.Limit().String(); got != want {
			t.Errorf("%s: %s, want %s", limits, got, want)
		}
	}
	f("{profile: basic, fleet: {agents: 4}}", "basic, one of 4 agents (5.938 POSTs/s, 238 records/s, 2.375 MB/s, messages up to 8 MB)")
	f("{profile: basic, fleet: {agents: 100, headroom: 0%}}", "basic, one of 100 agents (0.25 POSTs/s, 10 records/s, 0.1 MB/s, messages up to 8 MB)")
	f("{profile: basic, fleet: {agents: 1}}", "basic (25 POSTs/s, 1000 records/s, 10 MB/s, messages up to 8 MB)")
	f("{profile: basic, fleet: {agents: 1, headroom: 20%}}", "basic (20 POSTs/s, 800 records/s, 8 MB/s, messages up to 8 MB)")
	f("{profile: none, fleet: {agents: 3}}", "none, one of 3 agents")
	f("{profile: none, records_per_second: 100, fleet: {agents: 2, headroom: 10%}}", "none, one of 2 agents (any POSTs/s, 45 records/s, any MB/s, any message)")
}

func TestSameClusters(t *testing.T) {
	f := func(a, b string, want bool) {
		t.Helper()
		_, problems := load("clusters:\n  a: {" + a + "}\n  b: {" + b + "}\ninputs: {i: {type: stdin}}\n" +
			"routes: [{name: r, topic: t, cluster: a, dead_letter: {path: /d}}, {name: s, topic: t, cluster: b, dead_letter: {path: /e}}]\n")
		if got := strings.Contains(problemText(problems), "is the same cluster as a"); got != want {
			t.Errorf("%s and %s: warned %t: %s", a, b, got, problemText(problems))
		}
	}
	const one = "rest_endpoint: 'http://127.0.0.1:8082', limits: basic"
	f(one, one, true)
	f(one, "rest_endpoint: 'http://127.0.0.1:8082/kafka/v3', limits: {records_per_second: 5}", true)
	f(one+", cluster_id: x", one, true)
	f(one+", cluster_id: x", one+", cluster_id: y", false)
	f(one, "rest_endpoint: 'http://127.0.0.1:8083', limits: basic", false)
	f("rest_endpoint: 'http://Localhost', limits: basic", "rest_endpoint: 'http://localhost:80', limits: basic", true)
	f("rest_endpoint: 'http://127.0.0.1:8082'", "rest_endpoint: 'http://127.0.0.1:8082'", false) // no limits to be used twice
	f("rest_endpoint: 'http://127.0.0.1:8082', limits: {profile: basic, fleet: {agents: 2}}", "rest_endpoint: 'http://127.0.0.1:8082', limits: {profile: basic, fleet: {agents: 2}}", false)
}

func problemText(all Problems) string {
	var b strings.Builder
	for _, p := range all {
		b.WriteString(p.String() + "\n")
	}
	return b.String()
}
