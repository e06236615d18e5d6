//go:build linux

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSections(t *testing.T) {
	f := func(body string, n int) {
		t.Helper()
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cuts, err := sections(file, n)
		if err != nil || len(cuts) != n+1 || cuts[0] != 0 || cuts[n] != int64(len(body)) {
			t.Fatalf("%d sections of %q: %v, %v", n, body, cuts, err)
		}
		for i := range n {
			if cuts[i+1] < cuts[i] {
				t.Fatalf("%d sections of %q: %v goes back", n, body, cuts)
			}
			if p := body[cuts[i]:cuts[i+1]]; cuts[i+1] < int64(len(body)) && p != "" && !strings.HasSuffix(p, "\n") {
				t.Fatalf("%d sections of %q: section %d is cut inside a line: %q", n, body, i, p)
			}
		}
	}
	f("", 4)
	f("a\n", 4)
	f("a\nb\nc\nd\n", 4)
	f("no newline", 3)
	f(strings.Repeat("x", 200_000)+"\ny\n", 4)
	f(strings.Repeat("0123456789\n", 1000), 7)
}

func TestCounterAnyCut(t *testing.T) {
	body := bytes.Repeat([]byte(`{"error_code":200,"value":{"type":"JSON","size":1}}`+"\r\n"), 5)
	body = append(append([]byte("100\r\n"), body...), "\r\n0\r\n\r\n"...)
	for step := 1; step <= len(body); step++ {
		var k counter
		for at := 0; at < len(body); at += step {
			if k.ended() {
				t.Fatalf("step %d: ended at byte %d of %d", step, at, len(body))
			}
			k.add(body[at:min(at+step, len(body))])
		}
		if k.reports() != 5 || !k.ended() {
			t.Fatalf("step %d: %d reports, ended %v", step, k.reports(), k.ended())
		}
	}
}
