package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestMultisetLines(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		m := newMultiset()
		lines, size, err := m.add(iotest.OneByteReader(strings.NewReader(body)), -1)
		if err != nil || lines != int64(len(want)) || m.lines != lines || size != int64(len(body)) {
			t.Fatalf("%.40q: %d lines, %d bytes, %v; want %d lines of %d bytes", body, lines, size, err, len(want), len(body))
		}
		for _, l := range want {
			m.take([]byte(l))
		}
		if missing, extra := m.rest(); missing+extra != 0 {
			t.Fatalf("%.40q: %d missing, %d extra after taking %.40q", body, missing, extra, want)
		}
	}
	f("")
	f("\n", "")
	f("a", "a")
	f("a\n", "a")
	f("a\nb", "a", "b")
	f("a\n\nb\n\n", "a", "", "b", "")
	f("a\r\n\r\n\r", "a\r", "\r", "\r")
	f("\x00\xff\n\xfe", "\x00\xff", "\xfe")
	long := strings.Repeat("x", 64<<10)
	f(long+"\n"+long+"y", long, long+"y")
	f(long, long)
	f(long+long+"\n", long+long)
	f("same\nsame\n", "same", "same")
}

func TestMultisetDifferences(t *testing.T) {
	f := func(sent string, back []string, wantMissing, wantExtra int64) {
		t.Helper()
		m := newMultiset()
		if _, _, err := m.add(strings.NewReader(sent), -1); err != nil {
			t.Fatal(err)
		}
		for _, b := range back {
			m.take([]byte(b))
		}
		if missing, extra := m.rest(); missing != wantMissing || extra != wantExtra {
			t.Fatalf("%q against %q: %d missing, %d extra, want %d, %d", sent, back, missing, extra, wantMissing, wantExtra)
		}
		if n := len(m.examples(5)); (n > 0) != (wantMissing+wantExtra > 0) {
			t.Fatalf("%q against %q: %d examples", sent, back, n)
		}
	}
	f("a\nb\n", []string{"b", "a"}, 0, 0)
	f("a\nb\n", []string{"a"}, 1, 0)
	f("a\nb\n", []string{"a", "b", "b"}, 0, 1)
	f("a\na\n", []string{"a", "b"}, 1, 1)
	f("a\r\n", []string{"a"}, 1, 1)
	f("", []string{""}, 0, 1)
}

func TestMultisetLimit(t *testing.T) {
	m := newMultiset()
	if lines, size, err := m.add(strings.NewReader("a\nb\nc\n"), 2); err != nil || lines != 2 || size != 4 {
		t.Fatalf("%d lines, %d bytes, %v", lines, size, err)
	}
	if _, _, err := m.add(iotest.ErrReader(os.ErrClosed), -1); err == nil {
		t.Fatal("an error of the reader was swallowed")
	}
}

func TestChop(t *testing.T) {
	f := func(names []string, limit int, want ...int) {
		t.Helper()
		var got []int
		var all []string
		for _, run := range chop(names, limit) {
			got, all = append(got, len(run)), append(all, run...)
		}
		if !slices.Equal(got, want) || !slices.Equal(all, names) {
			t.Fatalf("chop(%q, %d): runs of %v, want %v", names, limit, got, want)
		}
	}
	f(nil, 10)
	f([]string{"aaa"}, 2, 1)
	f([]string{"aaa", "bbb"}, 8, 2)
	f([]string{"aaa", "bbb"}, 7, 1, 1)
	f([]string{"a", "b", "c", "dddddd", "e"}, 6, 3, 1, 1)
}

func TestWriteRandom(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, n := range []string{a, b} {
		if err := writeRandom(n, 100_000, 7); err != nil {
			t.Fatal(err)
		}
	}
	pa, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	pb, err := os.ReadFile(b)
	if err != nil || !bytes.Equal(pa, pb) {
		t.Fatalf("one seed, two files: %v", err)
	}
	if len(pa) != 100_000 || pa[len(pa)-1] == '\n' || !bytes.Contains(pa, []byte("\r\n")) || bytes.IndexByte(pa, 0) < 0 {
		t.Fatalf("%d bytes that end in %q", len(pa), pa[len(pa)-1])
	}
}

func TestGoFiles(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{"a.go": "1\n2\n", "b/c.go": "3", "b/d.txt": "4\n", "e.go": "5\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := func(maxLines, wantLines, wantSize int64, want ...string) {
		t.Helper()
		m := newMultiset()
		files, size, err := goFiles(dir, maxLines, m)
		if err != nil || !slices.Equal(files, want) || size != wantSize || m.lines != wantLines {
			t.Fatalf("goFiles(%d) = %q, %d bytes, %d lines, %v", maxLines, files, size, m.lines, err)
		}
	}
	f(0, 4, 7, "a.go", filepath.Join("b", "c.go"), "e.go")
	f(2, 2, 4, "a.go")
	f(3, 3, 5, "a.go", filepath.Join("b", "c.go"))
	if _, _, err := goFiles(filepath.Join(dir, "none"), 0, newMultiset()); err == nil {
		t.Fatal("a folder that is not there was no error")
	}
}

func TestFaults(t *testing.T) {
	good := summary{Read: 10, Delivered: 10, BytesRead: 100}
	if got := faults(good, 10, 100, 10, 0, 0, 0); len(got) != 0 {
		t.Fatalf("a good run has faults: %q", got)
	}
	f := func(what string, s summary, lines, size, back, nulls, missing, extra int64) {
		t.Helper()
		got := faults(s, lines, size, back, nulls, missing, extra)
		if len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), what) {
			t.Fatalf("want a fault about %q, got %q", what, got)
		}
	}
	f("lines", good, 11, 100, 10, 0, 0, 0)
	f("bytes", good, 10, 101, 10, 0, 0, 0)
	f("in the topic", good, 10, 100, 9, 0, 0, 0)
	f("null", good, 10, 100, 10, 1, 0, 0)
	f("missing", good, 10, 100, 10, 0, 1, 0)
	f("not sent", good, 10, 100, 10, 0, 0, 1)
	f("is not delivered", summary{Read: 10, Delivered: 9, BytesRead: 100}, 10, 100, 9, 0, 0, 0)
	f("pending", summary{Read: 10, Delivered: 9, Pending: 1, BytesRead: 100}, 10, 100, 9, 0, 0, 0)
	f("413: 1", summary{Read: 10, Delivered: 9, Rejected: 1, BytesRead: 100, ErrorCodes: map[string]int64{"413": 1}}, 10, 100, 9, 0, 0, 0)
}

func TestSummaryAdd(t *testing.T) {
	var s summary
	s.add(summary{Read: 1, Delivered: 2, Rejected: 3, Pending: 4, BytesRead: 5, ErrorCodes: map[string]int64{"429": 6}, cpu: 7, wall: 8})
	s.add(summary{Read: 1, Delivered: 2, Rejected: 3, Pending: 4, BytesRead: 5, ErrorCodes: map[string]int64{"429": 6}, cpu: 7, wall: 8})
	if s.Read != 2 || s.Delivered != 4 || s.Rejected != 6 || s.Pending != 8 || s.BytesRead != 10 || s.ErrorCodes["429"] != 12 || s.cpu != 14 || s.wall != 16 {
		t.Fatalf("%+v", s)
	}
}

func TestReadBack(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	broker := c.ListenAddrs()[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	m := newMultiset()
	var sent bytes.Buffer
	var recs []*kgo.Record
	for i := range 1000 { // partition 2 stays empty
		l := fmt.Sprintf("line %d", i)
		fmt.Fprintln(&sent, l)
		recs = append(recs, &kgo.Record{Topic: "t", Partition: int32(i % 2), Value: []byte(l)})
	}
	sent.WriteString("\n\n")
	recs = append(recs, &kgo.Record{Topic: "t", Value: []byte{}}, &kgo.Record{Topic: "t", Value: nil})
	if err := cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.add(&sent, -1); err != nil {
		t.Fatal(err)
	}
	n, nulls, err := readBack(ctx, broker, "t", m)
	if err != nil || n != 1002 || nulls != 1 {
		t.Fatalf("%d records, %d nulls, %v; want 1002, 1", n, nulls, err)
	}
	if missing, extra := m.rest(); missing+extra != 0 {
		t.Fatalf("%d missing, %d extra", missing, extra)
	}
	if _, _, err := readBack(ctx, broker, "none", m); err == nil {
		t.Fatal("a topic that is not there was read")
	}
}
