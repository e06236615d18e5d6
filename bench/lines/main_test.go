package main

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/bench/line"
)

func newSource(t *testing.T, wrap string, first, n uint64) source {
	t.Helper()
	m, err := line.NewMaker(100)
	if err != nil {
		t.Fatal(err)
	}
	return source{m: m, first: first, n: n, wrap: wrap}
}

func TestAll(t *testing.T) {
	f := func(wrap string, wantLen int) {
		t.Helper()
		s := newSource(t, wrap, 5, 1000)
		var out bytes.Buffer
		if err := s.all(&out); err != nil {
			t.Fatal(err)
		}
		lines := bytes.SplitAfter(out.Bytes(), []byte{'\n'})
		if len(lines) != 1001 || len(lines[1000]) != 0 {
			t.Fatalf("wrap %q: %d pieces, want 1000 lines that end in LF", wrap, len(lines))
		}
		for i, l := range lines[:1000] {
			if wantLen > 0 && len(l) != wantLen {
				t.Fatalf("wrap %q: line %d has %d bytes, want %d", wrap, i, len(l), wantLen)
			}
			if wrap == "" {
				continue
			}
			if seq, _, ok := line.Find(l); !ok || seq != uint64(i)+5 {
				t.Fatalf("wrap %q: line %d carries number %d, %v", wrap, i, seq, ok)
			}
		}
	}
	f("", 101)
	f("JSON", 100+34)
	f("STRING", 0)
	f("BINARY", 0)

	s := newSource(t, "AVRO", 0, 1)
	if err := s.all(&bytes.Buffer{}); err == nil {
		t.Fatal("an unknown record type was written")
	}
}

func TestPacedStampsWhatWasDue(t *testing.T) {
	const gap = 100 * time.Microsecond
	s := newSource(t, "JSON", 0, 50)
	var out bytes.Buffer
	before := time.Now()
	if err := s.paced(context.Background(), &out, gap); err != nil {
		t.Fatal(err)
	}
	after := time.Now().UnixNano()
	var last int64
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte{'\n'})
	if len(lines) != 50 {
		t.Fatalf("%d lines, want 50", len(lines))
	}
	for i, l := range lines {
		seq, due, ok := line.Find(l)
		if !ok || seq != uint64(i) {
			t.Fatalf("line %d carries number %d, %v", i, seq, ok)
		}
		if due < before.UnixNano() || due > after {
			t.Fatalf("line %d was due at %d, outside %d..%d", i, due, before.UnixNano(), after)
		}
		if i > 0 && due-last != int64(gap) {
			t.Fatalf("line %d was due %d ns after the one before, want %d", i, due-last, gap)
		}
		last = due
	}
}
