package ship

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/sandbox"
)

func deadLines(t testing.TB, path string) []map[string]any {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for line := range strings.Lines(string(raw)) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("dead-letter line %q: %v", line, err)
		}
		out = append(out, m)
	}
	return out
}

// The line is a contract: these members, always.
func TestDeadLetterLine(t *testing.T) {
	cfg := testConfig(t)
	cfg.ValueType = "json"
	s := startBox(t, nil)
	res, _ := run(t, s, cfg, "{\"a\":1}\n{broken\n\xff\n{}\n")
	if res.Read != 4 || res.Delivered != 2 || res.Rejected != 2 || res.Err != nil || res.DeadLetter != cfg.DeadLetter {
		t.Errorf("%+v, %v", res.Summary, res.Err)
	}
	lines := deadLines(t, cfg.DeadLetter)
	if len(lines) != 2 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, want := range []string{
		"attempts encoding error_code message position reason record source time topic unsent",
		"attempts encoding error_code message position reason record source time topic unsent",
	} {
		if i == 0 {
			want = strings.Replace(want, " encoding", "", 1)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(lines[i])), " "); got != want {
			t.Errorf("members %s\nwant    %s", got, want)
		}
	}
	l := lines[0]
	if l["source"] != "stdin" || l["position"] != 8.0 || l["topic"] != "t" || l["error_code"] != 400.0 || l["attempts"] != 0.0 || l["record"] != "{broken" || l["reason"] != "invalid_json" {
		t.Errorf("line %v", l)
	}
	if at, err := time.Parse(time.RFC3339, l["time"].(string)); err != nil || time.Since(at) > time.Minute || at.Location() != time.UTC {
		t.Errorf("time %v, %v", l["time"], err)
	}
	if lines[1]["record"] != "/w==" || lines[1]["encoding"] != "base64" {
		t.Errorf("line %v", lines[1])
	}
	raw, _ := os.ReadFile(cfg.DeadLetter)
	if !strings.HasPrefix(string(raw), `{"time":"`) || strings.Index(string(raw), `"record"`) < strings.Index(string(raw), `"attempts"`) {
		t.Errorf("order of members: %.200s", raw)
	}
}

// What the server rejected is sent again as it was; so is what never went.
func TestFromDeadLetter(t *testing.T) {
	s := startBox(t, func(c *sandbox.Config) {
		c.Topics = append(c.Topics, sandbox.Topic{Name: "u", Partitions: 1})
		c.Faults = sandbox.Faults{{Kind: sandbox.FaultReport, Code: 50002, Contains: "bad"}}
	})
	var all []string
	dead := filepath.Join(t.TempDir(), "dead.ndjson")
	for _, topic := range []string{"t", "u"} {
		cfg := testConfig(t)
		cfg.Topic, cfg.DeadLetter = topic, dead
		cfg.HasKey, cfg.Key, cfg.Headers = true, "k", []string{"h=v"}
		res, log := run(t, s, cfg, "good\nbad "+topic+"\nbad \u2028<\n")
		if res.Delivered != 1 || res.Rejected != 2 || res.Topics[topic].Rejected != 2 {
			t.Fatalf("%+v\n%s", res, log)
		}
		all = append(all, topic)
	}
	if err := s.SetFaults(nil); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(dead, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-01-01T00:00:00Z","topic":"t","rec`); err != nil { // a crash
		t.Fatal(err)
	}
	f.Close()
	cfg := testConfig(t)
	cfg.Topic, cfg.FromDeadLetter = "", dead
	res, _ := run(t, s, cfg, "")
	if res.Read != 5 || res.Delivered != 4 || res.Rejected != 1 || res.Err != nil {
		t.Errorf("%+v, %v", res.Summary, res.Err)
	}
	for _, topic := range all {
		if got := values(t, s, topic); len(got) != 3 || got["bad "+topic] != 1 || got["bad \u2028<"] != 1 {
			t.Errorf("topic %s holds %v", topic, got)
		}
	}
	records, err := s.Records(t.Context(), "u")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if string(r.Key) != "k" || len(r.Headers) != 1 || string(r.Headers[0].Value) != "v" {
			t.Errorf("record %+v", r)
		}
	}
	// The cut line is kept, and never becomes anyone's value.
	cfg2 := testConfig(t)
	cfg2.FromDeadLetter = cfg.DeadLetter
	if res, _ := run(t, s, cfg2, ""); res.Read != 1 || res.Rejected != 1 {
		t.Errorf("the cut line again: %+v", res.Summary)
	}
	if l := deadLines(t, cfg2.DeadLetter); len(l) != 1 || l[0]["record"] != `{"time":"2026-01-01T00:00:00Z","topic":"t","rec` {
		t.Errorf("the cut line is kept as %v", l)
	}
}

// A record too long to be kept stays known by where it came from, however
// often its line goes round.
func TestTooLongGoesRound(t *testing.T) {
	s := startBox(t, nil)
	cfg := testConfig(t)
	cfg.MaxRecordBytes = 2000
	run(t, s, cfg, "a\n"+strings.Repeat("x", 1<<20)+"\nb\n")
	first := deadLines(t, cfg.DeadLetter)
	for range 2 {
		next := testConfig(t)
		next.FromDeadLetter = cfg.DeadLetter
		if res, _ := run(t, s, next, ""); res.Read != 1 || res.Rejected != 1 || res.Delivered != 0 {
			t.Errorf("%+v", res.Summary)
		}
		cfg = next
	}
	last := deadLines(t, cfg.DeadLetter)
	for _, name := range []string{"source", "position", "length", "record", "topic"} {
		if len(last) != 1 || last[0][name] != first[0][name] {
			t.Errorf("%s: %v, was %v", name, last[0][name], first[0][name])
		}
	}
	if first[0]["length"] != float64(1<<20+1) || first[0]["position"] != 2.0 || first[0]["record"] != nil {
		t.Errorf("line %v", first[0])
	}
	if text := last[0]["message"].(string); !strings.Contains(text, "send it from its source") {
		t.Errorf("message %q", text)
	}
}

// With --input records what is rejected is a record, never a value.
func TestRejectedRecordsStayRecords(t *testing.T) {
	s := startBox(t, nil)
	cfg := testConfig(t)
	cfg.Input = "records"
	res, _ := run(t, s, cfg, `{"value":{"type":"JSON","data":1}}{"value":{"type":"JSON","data":2},"nosuch":3}`)
	if res.Delivered != 1 || res.Rejected != 1 {
		t.Errorf("%+v", res.Summary)
	}
	next := testConfig(t)
	next.FromDeadLetter = cfg.DeadLetter
	if res, _ := run(t, s, next, ""); res.Rejected != 1 || res.Delivered != 0 {
		t.Errorf("again: %+v", res.Summary)
	}
	// Mended by hand, it goes as the record it was.
	raw, err := os.ReadFile(next.DeadLetter)
	if err != nil {
		t.Fatal(err)
	}
	mended := filepath.Join(t.TempDir(), "mended.ndjson")
	if err := os.WriteFile(mended, []byte(strings.Replace(string(raw), `,\"nosuch\":3`, "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	last := testConfig(t)
	last.FromDeadLetter = mended
	if res, _ := run(t, s, last, ""); res.Delivered != 1 {
		t.Errorf("mended: %+v", res.Summary)
	}
	if got := values(t, s, "t"); got["1"] != 1 || got["2"] != 1 || len(got) != 2 {
		t.Errorf("topic holds %v", got)
	}
}

// An empty file made for nothing goes again; one that was there stays, and is
// not said to hold rejects.
func TestDeadLetterUnused(t *testing.T) {
	s := startBox(t, nil)
	cfg := testConfig(t)
	if res, _ := run(t, s, cfg, "a\n"); res.Delivered != 1 || res.DeadLetter != "" {
		t.Errorf("%+v", res.Summary)
	}
	if _, err := os.Stat(cfg.DeadLetter); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unused dead letter: %v", err)
	}
	for _, old := range []string{"", `{"topic":"t","record":"old"}` + "\n"} {
		if err := os.WriteFile(cfg.DeadLetter, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		if res, _ := run(t, s, cfg, "a\n"); res.DeadLetter != "" {
			t.Errorf("nothing was rejected, and yet: %q", res.DeadLetter)
		}
		if raw, err := os.ReadFile(cfg.DeadLetter); err != nil || string(raw) != old {
			t.Errorf("%q became %q, %v", old, raw, err)
		}
	}
}

// Lines go behind those that are there, behind one a crash has cut too.
func TestDeadLetterAppends(t *testing.T) {
	s := startBox(t, nil)
	cfg := testConfig(t)
	cfg.ValueType = "json"
	if err := os.WriteFile(cfg.DeadLetter, []byte("{\"topic\":\"t\"}\n{\"cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, s, cfg, "x\n")
	raw, err := os.ReadFile(cfg.DeadLetter)
	lines := strings.Split(string(raw), "\n")
	if err != nil || len(lines) != 4 || lines[1] != `{"cut` || !strings.Contains(lines[2], `"record":"x"`) {
		t.Errorf("%q, %v", raw, err)
	}
}

// A dead letter that cannot be written: the run ends with words, the records
// are pending, nothing is counted as kept.
func TestDeadLetterFull(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	s := startBox(t, nil)
	cfg := testConfig(t)
	cfg.ValueType, cfg.DeadLetter, cfg.patience = "json", "/dev/full", 10*time.Millisecond
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close() // never before the run has ended by itself
	go io.WriteString(pw, "{}\nx\n")
	res, log := runOn(t, s, cfg, pr)
	if res.Err == nil || !strings.Contains(res.Err.Error(), "rejected records cannot be kept: write /dev/full: ") || !strings.Contains(res.Err.Error(), "no space left") {
		t.Errorf("error %v", res.Err)
	}
	if res.Read != 2 || res.Rejected != 0 || res.Pending < 1 || res.DeadLetter != "" {
		t.Errorf("%+v", res.Summary)
	}
	if !strings.Contains(log, "cannot write the dead letter") {
		t.Errorf("log %s", log)
	}
}

// A second signal does not wait for a disk.
func TestDeadLetterHardEnd(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	kept := 0
	hard, cancel := context.WithCancelCause(t.Context())
	d, err := newDeadLetter(hard, "/dev/full", 0, time.Hour, func(*rejected) { kept++ }, slog.New(slog.DiscardHandler), cancel)
	if err != nil {
		t.Fatal(err)
	}
	d.put(rejected{})
	cancel(errors.New("signal"))
	d.close()
	if kept != 0 {
		t.Error("a record that was not kept is counted as rejected")
	}
}

// A place where no file can be made is told before anything is read.
func TestDeadLetterPlace(t *testing.T) {
	f := func(set func(*Config), want string) {
		t.Helper()
		cfg := testConfig(t)
		set(&cfg)
		if _, err := Start(t.Context(), cfg, Env{Log: slog.New(slog.DiscardHandler), Hard: t.Context()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	dir := t.TempDir()
	input := filepath.Join(dir, "input")
	if err := os.WriteFile(input, []byte("a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f(func(c *Config) { c.DeadLetter = filepath.Join(dir, "none", "dead") }, "dead letter: ")
	f(func(c *Config) { c.DeadLetter = dir }, "dead letter: ")
	f(func(c *Config) { c.DeadLetter, c.Files = input, []string{input} }, "--dead-letter and an input are one file")
	f(func(c *Config) { c.DeadLetter, c.FromDeadLetter = input, input }, "--dead-letter and --from-dead-letter are one file")
	f(func(c *Config) { c.Reports, c.Files = input, []string{input} }, "--reports and an input are one file")
	f(func(c *Config) { c.Reports = c.DeadLetter }, "--reports and --dead-letter are one file")
	f(func(c *Config) { c.Reports = filepath.Join(dir, "none", "r") }, "--reports: ")
	if raw, err := os.ReadFile(input); err != nil || string(raw) != "a\n" {
		t.Errorf("the input is %q, %v", raw, err)
	}
}

// Without --dead-letter the first rejection makes a file in the current folder
// and says so.
func TestDeadLetterDefault(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	s := startBox(t, nil)
	cfg := testConfig(t)
	cfg.DeadLetter, cfg.ValueType = "", "json"
	res, log := run(t, s, cfg, "x\n")
	if ok, _ := filepath.Match("dead-letter-20[0-9][0-9][01][0-9][0-3][0-9]T*Z.ndjson", res.DeadLetter); !ok {
		t.Errorf("dead letter %q", res.DeadLetter)
	}
	if len(deadLines(t, res.DeadLetter)) != 1 || !strings.Contains(log, "--from-dead-letter") {
		t.Errorf("log %s", log)
	}
	info, err := os.Stat(res.DeadLetter)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// A file that grows large is put aside; all together stay below their bound,
// and past it rejections wait for the operator instead of being thrown away.
func TestDeadLetterRotates(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d.ndjson")
	var kept atomic.Int64
	hard, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	d, err := newDeadLetter(hard, path, 1_000_000, 0, func(*rejected) { kept.Add(1) }, slog.New(slog.DiscardHandler), cancel)
	if err != nil {
		t.Fatal(err)
	}
	d.again = 10 * time.Millisecond
	payload := strings.Repeat("x", 10_000)
	for range 150 {
		d.put(rejected{DeadLetter: ingest.DeadLetter{Topic: "t", Record: &payload}})
	}
	full := func() bool { e := d.trouble.Load(); return e != nil && strings.Contains((*e).Error(), "full") }
	for end := time.Now().Add(10 * time.Second); !full(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not full: %d kept", kept.Load())
		}
	}
	sizes := func() (files int, bytes int64) {
		all, _ := filepath.Glob(filepath.Join(dir, "d*.ndjson"))
		for _, f := range all {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			bytes += info.Size()
		}
		return len(all), bytes
	}
	if n, bytes := sizes(); n < 2 || bytes > 1_000_000 {
		t.Errorf("%d files, %d bytes", n, bytes)
	}
	before := kept.Load()
	aside, _ := filepath.Glob(filepath.Join(dir, "d-*.ndjson"))
	for _, f := range aside {
		os.Remove(f)
	}
	d.close()
	if kept.Load() != 150 || before >= 150 || d.trouble.Load() != nil {
		t.Errorf("%d kept at first, %d after room was made", before, kept.Load())
	}
}

// The file is the operator's to move or delete while the agent runs, to make
// room or to send it again: what is rejected later is in a file of its name.
func TestDeadLetterTakenAway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "d.ndjson")
	var kept atomic.Int64
	hard, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	d, err := newDeadLetter(hard, path, 20_000, 0, func(*rejected) { kept.Add(1) }, slog.New(slog.DiscardHandler), cancel)
	if err != nil {
		t.Fatal(err)
	}
	d.again = 10 * time.Millisecond
	put := func(payload string, all int64) {
		t.Helper()
		d.put(rejected{DeadLetter: ingest.DeadLetter{Topic: "t", Record: &payload}})
		soon(t, "it is kept", func() bool { return kept.Load() == all })
	}
	put("one", 1)
	moved := filepath.Join(dir, "moved")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	put("two", 2)
	if a, b := deadLines(t, moved), deadLines(t, path); len(a) != 1 || len(b) != 1 || b[0]["record"] != "two" {
		t.Errorf("%v moved, %v", a, b)
	}
	payload := strings.Repeat("x", 19_950)
	d.put(rejected{DeadLetter: ingest.DeadLetter{Topic: "t", Record: &payload}})
	soon(t, "full", func() bool { return d.trouble.Load() != nil })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	d.maxBytes.Store(30_000)
	soon(t, "there is room again", func() bool { return kept.Load() == 3 })
	d.close()
	if l := deadLines(t, path); len(l) != 1 || d.trouble.Load() != nil {
		t.Errorf("%d lines", len(l))
	}
}
