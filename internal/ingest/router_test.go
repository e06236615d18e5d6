package ingest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// The first record after a pause goes at once, the next ones when the linger
// is over, a full batch without waiting.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory
		cfg := lineConfig()
		cfg.Batch = BatchConfig{Bytes: 1024, Linger: 5 * time.Millisecond}
		r := newReader(t, cfg, &m)
		pr, pw := io.Pipe()
		done := make(chan error)
		go func() { done <- r.Read(pr, 0, "", true) }()
		f := func(in string, want int) {
			t.Helper()
			if _, err := io.WriteString(pw, in); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := m.sent(); got != want {
				t.Errorf("%d records sent, want %d", got, want)
			}
		}
		time.Sleep(time.Second)
		f("a\n", 1)
		f("b\n", 1)
		time.Sleep(4 * time.Millisecond)
		f("c\n", 1)
		time.Sleep(2 * time.Millisecond) // 6 ms since the first
		f("d\n", 3)
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		if got := m.sent(); got != 4 {
			t.Errorf("%d sent after the linger, want 4", got)
		}
		f("x", 4) // no line yet
		time.Sleep(time.Second)
		f("\n", 5)
		f(strings.Repeat(long(400)+"\n", 3), 8)
		pw.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// An error of the timer's Submit ends the source at its next read.
func TestLingerError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory{}
		r := newReader(t, lineConfig(), &m)
		pr, pw := io.Pipe()
		done := make(chan error)
		go func() { done <- r.Read(pr, 0, "", true) }()
		io.WriteString(pw, "a\n")
		synctest.Wait()
		io.WriteString(pw, "b\n")
		synctest.Wait()
		full := errors.New("no more")
		m.mu.Lock()
		m.fail = full
		m.mu.Unlock()
		time.Sleep(time.Second) // the timer hands b on, and fails
		io.WriteString(pw, "c\n")
		if err := <-done; !errors.Is(err, full) {
			t.Errorf("%v, want the timer's error", err)
		}
		if err := r.Close(); !errors.Is(err, full) {
			t.Errorf("Close: %v, want the timer's error", err)
		}
		pr.Close()
	})
}

// Stdin that nobody ever closes: the end of the context ends reading, and what
// is in the pipe by then is still taken.
func TestStdinStops(t *testing.T) {
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	ctx, cancel := context.WithCancel(t.Context())
	in, err := Stdin(ctx, pr)
	if err != nil {
		t.Fatal(err)
	}
	if !in.Live || in.Size != -1 || in.Name != "stdin" {
		t.Errorf("stdin is %+v", in)
	}
	m := &memory{}
	r := newReader(t, lineConfig(), m)
	taken := make(chan int, 64)
	done := make(chan error, 1)
	go func() { done <- in.Read(r.Reader, 0, func(n int) { taken <- n }) }()
	io.WriteString(pw, "a\n")
	<-taken
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	// Now with bytes waiting before the first read, the context long over.
	io.WriteString(pw, "b\nhalf")
	if err := in.Read(r.Reader, 0, func(int) {}); err != nil {
		t.Error(err)
	}
	if err := errors.Join(r.Close(), in.Close()); err != nil {
		t.Error(err)
	}
	if got := show(m.records); got != `[0+2 "a"][0+2 "b"][2+4 "half"]` {
		t.Errorf("got %s", got)
	}
}

// A pipe that is filled without end is left alone after maxDrain.
func TestStdinDrainIsBounded(t *testing.T) {
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in, err := Stdin(ctx, pr)
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for {
			if _, err := io.WriteString(pw, long(4095)+"\n"); err != nil {
				return
			}
		}
	}()
	r := newReader(t, lineConfig(), sinkFunc(func(*record.Batch) {}))
	total := 0
	if err := in.Read(r.Reader, 0, func(n int) { total += n }); err != nil {
		t.Error(err)
	}
	if err := errors.Join(r.Close(), in.Close()); err != nil {
		t.Error(err)
	}
	<-wrote
	pw.Close()
	if total > maxDrain+readBuffer {
		t.Errorf("read %d bytes after the end", total)
	}
}

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.log")
	if err := os.WriteFile(path, []byte("a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := OpenFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if in.Live || in.Size != 2 || in.ID == "" || in.ID != again.ID {
		t.Errorf("opened %+v, then %+v", in, again)
	}
	if err := errors.Join(in.Close(), again.Close()); err != nil {
		t.Error(err)
	}
	f := func(name, want string) {
		t.Helper()
		if _, err := OpenFile(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), name) {
			t.Errorf("OpenFile(%s): %v, want %q and the name", name, err, want)
		}
	}
	f(filepath.Join(dir, "none"), "no such file")
	f(dir, "is a directory")
}

// A file that is stopped in the middle is not sent a cut line of: it can be
// read again.
func TestFileStops(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	if err := os.WriteFile(path, []byte(strings.Repeat(long(999)+"\n", 2000)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in, err := OpenFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	var m memory
	r := newReader(t, lineConfig(), &m)
	if err := in.Read(r.Reader, 0, func(int) { cancel() }); err != nil {
		t.Error(err)
	}
	if err := errors.Join(r.Close(), in.Close()); err != nil {
		t.Error(err)
	}
	if len(m.records) != readBuffer/1000 {
		t.Errorf("%d records of one read, want %d", len(m.records), readBuffer/1000)
	}
	for _, g := range m.records {
		if g.payload != long(999) {
			t.Fatalf("a cut record of %d bytes at %d", len(g.payload), g.pos.Offset)
		}
	}
}

func TestBatchConfig(t *testing.T) {
	f := func(c BatchConfig, want string) {
		t.Helper()
		err := c.Validate()
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	f(DefaultBatchConfig(), "")
	f(BatchConfig{Bytes: 1024}, "")
	f(BatchConfig{Bytes: 4 << 20, Linger: 10 * time.Second}, "")
	f(BatchConfig{Bytes: 1023}, "--batch-bytes=1023: must be 1024..4194304")
	f(BatchConfig{Bytes: 4<<20 + 1}, "--batch-bytes=4194305: must be 1024..4194304")
	f(BatchConfig{Bytes: 1024, Linger: -1}, "--linger=-1ns: must be 0..10s")
	f(BatchConfig{Bytes: 1024, Linger: 11 * time.Second}, "--linger=11s: must be 0..10s")
}
