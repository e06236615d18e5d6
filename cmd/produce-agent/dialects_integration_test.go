package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every server takes what the agent ships, byte by byte, whether its dialect is
// said or found out.
func TestEveryDialect(t *testing.T) {
	values := []string{"plain", `{"n":1.10,"t":[null]}`, "\x00\xff\xfe", "quote \" and \\ and \t", "é ü 漢", ""}
	in := strings.Join(values, "\n") + "\n" + numbered(3000, 40)
	f := func(flavour, given, found string, more ...string) {
		t.Helper()
		s := startBox(t, "v2="+flavour)
		args := append([]string{"ship", "-o", "json", "--progress", "never", "-t", "t", "--rest-endpoint", s.URL()}, more...)
		if given != "" {
			args = append(args, "--dialect", given)
		}
		r := begin(t, nil, strings.NewReader(in), args...).ran()
		r.want(t, 0, 3006, 3006, 0, 0)
		if !strings.Contains(r.err, "dialect="+found) {
			t.Errorf("%s, given %q: did not say dialect=%s\n%s", flavour, given, found, r.err)
		}
		got := counts(stored(t, s, "t"))
		for _, v := range values {
			if got[v] != 1 {
				t.Errorf("%s: %q stored %d times", flavour, v, got[v])
			}
		}
		if len(got) != 3006 {
			t.Errorf("%s: %d values stored, want 3006", flavour, len(got))
		}
	}
	for _, flavour := range []string{"pandaproxy", "karapace", "strimzi"} {
		f(flavour, "", "v2:"+flavour)
		f(flavour, "v2", "v2:"+flavour)
		f(flavour, "v2:"+flavour, "v2:"+flavour, "--value-type", "binary")
	}
	f("confluent", "", "v3-stream")
	f("confluent", "v2", "v2:confluent")
	f("confluent", "v3-records", "v3-records")
	f("confluent", "v3-batch", "v3-batch")
}

// Keys, partitions, and what Strimzi's Bridge has besides.
func TestDialectMembers(t *testing.T) {
	for _, flavour := range []string{"confluent", "pandaproxy", "karapace", "strimzi"} {
		s := startBox(t, "v2="+flavour)
		args := []string{"--dialect", "v2:" + flavour, "-K", "\t", "-p", "1"}
		if flavour == "strimzi" {
			args = append(args, "-H", "source=app", "--null-value", "NULL")
		}
		r := shipTo(t, s, "k1\tv1\nNULL\nk2\tv2\n", args...)
		r.want(t, 0, 3, 3, 0, 0)
		for _, rec := range stored(t, s, "t") {
			if rec.Partition != 1 {
				t.Errorf("%s: %q in partition %d", flavour, rec.Value, rec.Partition)
			}
			switch {
			case string(rec.Value) == "v1" && string(rec.Key) != "k1",
				flavour == "pandaproxy" && string(rec.Value) == "NULL" && (rec.Key == nil || len(rec.Key) > 0),
				flavour != "pandaproxy" && string(rec.Value) != "v1" && string(rec.Value) != "v2" && rec.Key != nil,
				flavour == "strimzi" && rec.Key == nil && rec.Value != nil,
				flavour == "strimzi" && len(rec.Headers) != 1:
				t.Errorf("%s: %+v", flavour, rec)
			}
		}
		if empty := strings.Contains(r.err, "get an empty one"); empty != (flavour == "pandaproxy") {
			t.Errorf("%s: warned of empty keys: %v\n%s", flavour, empty, r.err)
		}
	}
}

// What a server cannot carry is refused before a record is read, and what comes
// of it in records as they are goes to the dead letter.
func TestDialectRefuses(t *testing.T) {
	s := startBox(t, "v2=karapace")
	f := func(want string, args ...string) {
		t.Helper()
		for _, d := range [][]string{nil, {"--dialect", "v2:karapace"}} {
			r := begin(t, nil, strings.NewReader("a\n"), slices.Concat([]string{"ship", "-t", "t", "--rest-endpoint", s.URL()}, d, args)...).ran()
			if r.status != exitUsage || !strings.Contains(r.err, want) || !strings.Contains(r.err, "Karapace") {
				t.Errorf("%v: status %d, want %q\n%s", args, r.status, want, r.err)
			}
		}
	}
	f("--header: ", "-H", "a=b")
	f("--record-id-header: ", "--record-id-header", "id")
	f("--timestamp-field: ", "--timestamp-field", "time")
	f("--null-value: ", "--null-value", "")

	dead := filepath.Join(t.TempDir(), "dead.ndjson")
	r := shipTo(t, s, `{"value":{"type":"STRING","data":"good"}}{"value":null}{"headers":[{"name":"h"}],"value":{"type":"STRING","data":"x"}}`,
		"--dialect", "v2:karapace", "--input", "records", "--dead-letter", dead)
	r.want(t, exitRejected, 3, 1, 2, 0)
	raw, err := os.ReadFile(dead)
	if err != nil || bytes.Count(raw, []byte("cannot be sent by dialect v2:karapace")) != 2 || !bytes.Contains(raw, []byte(`"reason":"dialect"`)) {
		t.Errorf("dead letter (%v):\n%s", err, raw)
	}
}

// check says what it found, and what that cannot carry.
func TestCheckDialects(t *testing.T) {
	f := func(flavour, dialect, route string, status int, want ...string) {
		t.Helper()
		s := startBox(t, "v2="+flavour)
		file := write(t, "agent.yaml", fmt.Sprintf("clusters: {main: {rest_endpoint: %q, dialect: %s}}\n"+
			"inputs: {in: {type: stdin}}\nroutes:\n  - {name: r, topic: t%s}\n", s.URL(), dialect, route))
		r := begin(t, nil, nil, "check", "--connect", file).ran()
		for _, w := range want {
			if !strings.Contains(r.out+r.err, w) {
				t.Errorf("%s as %s: want %q\n%s%s", flavour, dialect, w, r.out, r.err)
			}
		}
		if r.status != status {
			t.Errorf("%s as %s: status %d, want %d\n%s%s", flavour, dialect, r.status, status, r.out, r.err)
		}
	}
	f("confluent", "auto", "", 0, "dialect v3-stream", "/v3")
	f("confluent", "v3-batch", ", headers: {a: b}", 0, "dialect v3-batch")
	f("karapace", "auto", "", 0, "dialect v2:karapace", "cannot carry: record headers", "tombstones")
	f("pandaproxy", "v2", "", 0, "dialect v2:pandaproxy", "records without a key")
	f("strimzi", "auto", ", headers: {a: b}", 0, "dialect v2:strimzi")
	f("karapace", "auto", ", headers: {a: b}, null_value: ''", 3, "agent.yaml:4:", "routes[0].headers", "routes[0].null_value", "Karapace")
	f("karapace", "v2:karapace", ", record_id_header: id", 3, "agent.yaml:4:", "routes[0].record_id_header", "cannot carry record headers")
}

// A server's moods in each dialect, as far as it has them: nothing is lost.
func TestDialectFaults(t *testing.T) {
	f := func(flavour, dialect string, faults ...string) {
		t.Run(dialect+" "+strings.Join(faults, " "), func(t *testing.T) {
			t.Parallel()
			s := startBox(t, append([]string{"v2=" + flavour}, faults...)...)
			r := shipTo(t, s, numbered(600, 20), "--dialect", dialect)
			r.want(t, 0, 600, 600, 0, 0)
			if got := counts(stored(t, s, "t")); len(got) != 600 {
				t.Errorf("%d values stored", len(got))
			}
		})
	}
	for _, d := range []string{"v3-records", "v3-batch"} {
		f("confluent", d, "report=429,every=50,times=3")
		f("confluent", d, "report=50003,every=7,times=3")
		f("confluent", d, "http=503,times=2", "reset=100,lost=all,times=1")
	}
	for _, flavour := range []string{"confluent", "karapace", "strimzi"} {
		f(flavour, "v2:"+flavour, "report=50003,every=100,times=3")
		f(flavour, "v2:"+flavour, "http=503,times=2", "reset=100,lost=all,times=1")
	}
	f("pandaproxy", "v2:pandaproxy", "report=7,every=100,times=3") // it tells Kafka's own numbers
	f("pandaproxy", "v2:pandaproxy", "http=429,times=1", "reset=100,lost=all,times=1")
}
