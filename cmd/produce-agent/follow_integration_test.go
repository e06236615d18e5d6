package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Files given by name are followed until a signal comes; with a data_dir the
// next run goes on where this one was.
func TestFollow(t *testing.T) {
	s := startBox(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "a [1].log")
	add := func(text string) {
		t.Helper()
		f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []string{"a\nb\n", "c\n"} {
		add(part)
		p := begin(t, nil, nil, "ship", "-o", "json", "--follow", "-t", "t", "-k", "key", "--data-dir", filepath.Join(dir, "data"),
			"--rest-endpoint", s.URL(), log)
		before := len(stored(t, s, "t"))
		eventually(t, "what is there", func() bool { return len(stored(t, s, "t")) > before })
		add("more " + part)
		eventually(t, "what comes", func() bool { return len(stored(t, s, "t")) >= before+2*strings.Count(part, "\n") })
		p.signal(syscall.SIGTERM)
		n := int64(2 * strings.Count(part, "\n"))
		p.ran().want(t, 143, n, n, 0, 0)
	}
	onceEach(t, s, "a\nb\nmore a\nb\nc\nmore c\n", "t")
	for _, r := range stored(t, s, "t") {
		if string(r.Key) != "key" {
			t.Errorf("key %q", r.Key)
		}
	}
}

// What has no meaning for files that are followed is refused, and so is a file
// that would be fed to itself.
func TestFollowRefuses(t *testing.T) {
	log := write(t, "a.log", "a\n")
	f := func(words string, args ...string) {
		t.Helper()
		r := begin(t, nil, strings.NewReader(""), append([]string{"ship", "--follow", "-t", "t", "--rest-endpoint", "http://127.0.0.1:1"}, args...)...).ran()
		if r.status != exitUsage || !strings.Contains(r.err, words) {
			t.Errorf("%v: status %d\n%s", args, r.status, r.err)
		}
	}
	f("which files")
	f("stdin is read", "-")
	f("no end to count", log, "--count", "3")
	f("dry run", log, "--dry-run")
	f("no end", log, "--progress", "always")
	f("are one file", log, "--dead-letter", log)
	f("are one file", log, "--reports", log)
	f("0..1h", log, "--grace", "2h")
}
