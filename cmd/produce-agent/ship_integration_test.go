package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

func TestShipStdin(t *testing.T) {
	s := startBox(t)
	shipTo(t, s, "a\n\nb\r\n\xff").want(t, exitOK, 4, 4, 0, 0)
	if got := counts(stored(t, s, "t")); len(got) != 4 || got["a"] != 1 || got[""] != 1 || got["b\r"] != 1 || got["\xff"] != 1 {
		t.Errorf("topic holds %v", got)
	}
	shipTo(t, s, "").want(t, exitOK, 0, 0, 0, 0)
	shipTo(t, s, "a\n\nb\r\n", "--strip-cr", "--skip-empty").want(t, exitOK, 2, 2, 0, 0)
}

// Files that cannot be read are named; the others are shipped.
func TestShipFiles(t *testing.T) {
	s := startBox(t)
	one, two := write(t, "one.log", "1\n2"), write(t, "two.log", "3\n")
	shipTo(t, s, "", one, two).want(t, exitOK, 3, 3, 0, 0)
	none, dir, locked := filepath.Join(t.TempDir(), "none.log"), t.TempDir(), write(t, "locked.log", "x\n")
	if err := os.Chmod(locked, 0); err != nil {
		t.Fatal(err)
	}
	args := []string{none, one, dir, locked, two}
	names := map[string]string{none: "no such file", dir: "is a directory", locked: "permission denied"}
	if runtime.GOOS == "linux" { // opens, and fails when read
		args = append(args, "/proc/self/mem")
		names["/proc/self/mem"] = "input/output error"
	}
	r := begin(t, []string{asAnybody + "=1"}, nil, append([]string{
		"ship", "-o", "json", "--progress", "never", "-t", "t", "--rest-endpoint", s.URL(), "--cluster-id", s.ClusterID(),
	}, args...)...).ran()
	r.want(t, exitFailure, 3, 3, 0, 0)
	for name, words := range names {
		said := false
		for line := range strings.Lines(r.err) {
			said = said || strings.HasPrefix(line, "produce-agent: ") && strings.Contains(line, name) && strings.Contains(line, words) ||
				strings.HasPrefix(line, "read ") && strings.Contains(line, name) && strings.Contains(line, words)
		}
		if !said {
			t.Errorf("no line says %q of %s:\n%s", words, name, r.err)
		}
	}
}

// What cannot be sent is kept, and the rest goes: status 4.
func TestShipRejects(t *testing.T) {
	s := startBox(t)
	dead := filepath.Join(t.TempDir(), "dead.ndjson")
	r := shipTo(t, s, "{\"a\":1.10}\n{\"a\":\n[2]\n", "--value-type", "json", "--dead-letter", dead)
	r.want(t, exitRejected, 3, 2, 1, 0)
	if r.DeadLetter != dead || r.ErrorCodes["400"] != 1 || r.Topics["t"].Rejected != 1 || !strings.Contains(r.err, dead) {
		t.Errorf("%+v\n%s", r.Summary, r.err)
	}
	if got := counts(stored(t, s, "t")); got[`{"a":1.1}`] != 1 || got["[2]"] != 1 || len(got) != 2 {
		t.Errorf("topic holds %v", got)
	}
	// Above the limit, below and above the reader's buffer.
	in := "a\n" + strings.Repeat("x", 1500) + "\n" + strings.Repeat("y", 700_000) + "\nb\n"
	r = shipTo(t, s, in, "--max-record-bytes", "1KB", "--dead-letter", dead)
	r.want(t, exitRejected, 4, 2, 2, 0)
	if r.ErrorCodes["413"] != 2 || r.Reasons["too_large"] != 2 {
		t.Errorf("%+v", r.Summary)
	}
	// Mended by other flags, they go.
	r = begin(t, nil, nil, "ship", "-o", "json", "--rest-endpoint", s.URL(), "--cluster-id", s.ClusterID(), "--from-dead-letter", dead).ran()
	r.want(t, exitRejected, 3, 2, 1, 0)
	got := counts(stored(t, s, "t"))
	if got[`{"a":`] != 1 || got[strings.Repeat("x", 1500)] != 1 {
		t.Errorf("sent again: %d values", len(got))
	}
}

// Key, headers, partition, timestamp and id arrive as they were asked for.
func TestShipRecordFlags(t *testing.T) {
	s := startBox(t)
	f := func(in string, want string, args ...string) {
		t.Helper()
		before := len(stored(t, s, "t"))
		shipTo(t, s, in, args...).want(t, exitOK, 1, 1, 0, 0)
		all := stored(t, s, "t")
		if len(all) != before+1 {
			t.Fatalf("%d records more", len(all)-before)
		}
		newest := slices.MaxFunc(all, func(a, b sandbox.Record) int { return a.Timestamp.Compare(b.Timestamp) })
		for _, r := range all { // old timestamps are asked for below
			if r.Timestamp.Year() == 2023 {
				newest = r
			}
		}
		show := func(b []byte) string {
			if b == nil {
				return "null"
			}
			return fmt.Sprintf("%q", b)
		}
		text := show(newest.Key) + " " + show(newest.Value)
		for _, h := range newest.Headers {
			text += " " + h.Name + "=" + show(h.Value)
		}
		if text != want {
			t.Errorf("%q %v: %s, want %s", in, args, text, want)
		}
	}
	f("v\n", `null "v"`)
	f("v\n", `"k" "v"`, "-k", "k")
	f("v\n", `"" "v"`, "-k", "")
	f("a:b:c\n", `"a" "b:c"`, "-K", ":")
	f("abc\n", `null "abc"`, "-K", ":")
	f(`{"u":{"id":7}}`, `"7" "{\"u\":{\"id\":7}}"`, "--key-field", "u.id")
	f("v\n", `null "v" a="b=c" d="" e=null`, "-H", "a=b=c", "-H", "d=", "-H", "e")
	f("NIL\n", `null null`, "--null-value", "NIL")
	f("\n", `null null`, "--null-value", "")
	f("NIL\n", `"k" null`, "--null-value", "NIL", "-k", "k", "--value-type", "json")
	f("v\n", `null "v"`, "--value-type", "binary")
	f(`{"value":{"type":"STRING","data":"v"},"key":{"type":"BINARY","data":"AP8="}}`, `"\x00\xff" "v"`, "--input", "records")
	shipTo(t, s, "p\np\np\n", "-p", "2").want(t, exitOK, 3, 3, 0, 0)
	for _, r := range stored(t, s, "t") {
		if string(r.Value) == "p" && r.Partition != 2 {
			t.Errorf("partition %d", r.Partition)
		}
	}
	in := write(t, "in", "i1\ni2\n")
	shipTo(t, s, "", "--record-id-header", "rid", in).want(t, exitOK, 2, 2, 0, 0)
	shipTo(t, s, "", "--record-id-header", "rid", in).want(t, exitOK, 2, 2, 0, 0)
	ids := map[string]int{}
	for _, r := range stored(t, s, "t") {
		if strings.HasPrefix(string(r.Value), "i") {
			ids[string(r.Value)+" "+string(r.Headers[0].Value)]++
		}
	}
	if len(ids) != 2 {
		t.Errorf("ids of two runs over a file: %v", ids)
	}
	f(`{"ts":"2023-05-06T07:08:09Z"}`, `null "{\"ts\":\"2023-05-06T07:08:09Z\"}"`, "--timestamp-field", "ts")
}

func TestShipCountAndDryRun(t *testing.T) {
	s := startBox(t)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close() // the input never ends by itself
	p := begin(t, nil, pr, "ship", "-o", "json", "-t", "t", "--rest-endpoint", s.URL(), "-c", "3")
	if _, err := pw.WriteString("1\n2\n3\n4\n"); err != nil {
		t.Fatal(err)
	}
	p.ran().want(t, exitOK, 3, 3, 0, 0)
	r := shipTo(t, s, "{}\nx\n", "--dry-run", "--value-type", "json")
	r.want(t, exitRejected, 2, 0, 1, 1)
	if !r.DryRun || !strings.Contains(r.err, "would be rejected") || !strings.Contains(r.err, `"type\":\"JSON`) {
		t.Errorf("%s", r.err)
	}
	if n := len(stored(t, s, "t")); n != 3 {
		t.Errorf("%d records stored", n)
	}
}

// Reports go to stdout, the summary is the last line there.
func TestShipReports(t *testing.T) {
	s := startBox(t, "report=50002,contains=bad")
	r := shipTo(t, s, "a\nbad\nb\n", "--reports", "-")
	r.want(t, exitRejected, 3, 2, 1, 0)
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if len(lines) != 4 {
		t.Fatalf("stdout: %s", r.out)
	}
	for _, line := range lines[:3] {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || m["source"] != "stdin" || m["topic"] != "t" || m["error_code"] == nil || m["position"] == nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	path := filepath.Join(t.TempDir(), "reports")
	r = shipTo(t, s, "a\n", "--reports", path)
	raw, err := os.ReadFile(path)
	if err != nil || strings.Count(string(raw), "\n") != 1 || strings.Count(r.out, "\n") != 1 {
		t.Errorf("%q, %v, stdout %q", raw, err, r.out)
	}
}

// --sandbox needs nothing else.
func TestShipIntoOwnSandbox(t *testing.T) {
	r := begin(t, nil, strings.NewReader("a\nb\n"), "ship", "--sandbox", "-t", "logs", "-o", "json").ran()
	r.want(t, exitOK, 2, 2, 0, 0)
}

// Nothing lost, nothing twice, without faults: a million records, fewer where
// they would take too long.
func TestShipMany(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 100_000
	}
	s := startBox(t)
	path := write(t, "lines", numbered(n, 12))
	r := shipTo(t, s, "", path)
	r.want(t, exitOK, int64(n), int64(n), 0, 0)
	if r.Retried != 0 || r.PossiblyDuplicated != 0 {
		t.Errorf("%+v", r.Summary)
	}
	seen := make([]bool, n)
	for _, rec := range stored(t, s, "t") {
		var i int
		if _, err := fmt.Sscanf(string(rec.Value), "%d", &i); err != nil || len(rec.Value) != 12 || seen[i] {
			t.Fatalf("record %q, %v, twice %v", rec.Value, err, err == nil && seen[i])
		}
		seen[i] = true
	}
	if i := slices.Index(seen, false); i >= 0 {
		t.Errorf("record %d is lost", i)
	}
}
