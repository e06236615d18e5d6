//go:build unix

package ingest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A named pipe that nobody writes to can be opened and left.
func TestFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	in, err := OpenFile(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	var m memory
	r := newReader(t, lineConfig(), &m)
	cancel()
	if err := in.Read(r.Reader, 0, func(int) {}); err != nil {
		t.Error(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}

	in, err = OpenFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- in.Read(r.Reader, 0, func(int) {}) }()
	if err := os.WriteFile(path, []byte("a\nb"), 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := errors.Join(r.Close(), in.Close()); err != nil {
		t.Error(err)
	}
	if got := show(m.records); got != `[0+2 "a"][2+1 "b"]` {
		t.Errorf("got %s", got)
	}
}
