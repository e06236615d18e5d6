package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/spool"
)

var bufferLines = []string{`plain`, `with "quotes" and \`, "not \xff UTF-8", ""}

// buffer makes a disk buffer of some records for topics a and b; the first is delivered.
func buffer(t *testing.T) (dir string, open func() *spool.Spool) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "buffer")
	cfg := spool.DefaultConfig()
	cfg.Dir, cfg.Route = dir, "edge"
	open = func() *spool.Spool {
		s, err := spool.Open(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	defer s.Close()
	enc, err := record.NewEncoder(record.DefaultEncoderConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"a", "b"} {
		b := record.NewBatch(topic)
		for i, line := range append([]string{"delivered"}, bufferLines...) {
			buf, err := enc.Append(b.Tail(), []byte(line), nil)
			if err != nil {
				t.Fatal(err)
			}
			b.Commit(buf, record.Position{Offset: int64(i)})
		}
		done := make(chan error, 1)
		err := s.Append(t.Context(), b, func(p record.Position) (string, int64) { return "app.log", p.Offset },
			func(_ *record.Batch, err error) { done <- err })
		if err = errors.Join(err, <-done); err != nil {
			t.Fatal(err)
		}
	}
	c := s.Cursor(spool.Ref{}, "")
	defer c.Close()
	for range 2 {
		b, _, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Delivered(b.Pos[:1])
		b.Discard()
	}
	return dir, open
}

// spoolCmd runs a spool command and returns what it says and its exit status.
func spoolCmd(args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	root := newRoot(&signals{soft: context.Background(), hard: context.Background()})
	root.SetArgs(append([]string{"spool"}, args...))
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(context.Background())
	return out.String(), errs.String(), err
}

func statusOf(err error) int {
	var s *statusError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &s):
		return s.status
	}
	return exitUsage
}

func TestSpoolCommands(t *testing.T) {
	dir, open := buffer(t)
	damaged, _ := buffer(t)
	segments, err := filepath.Glob(filepath.Join(damaged, "*.seg"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	p, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	p[bytes.Index(p, []byte("quotes"))] ^= 4
	if err := os.WriteFile(segments[0], p, 0o600); err != nil {
		t.Fatal(err)
	}
	used, openUsed := buffer(t)
	_ = open
	s := openUsed()
	defer s.Close()
	f := func(status int, want string, args ...string) {
		t.Helper()
		stdout, stderr, err := spoolCmd(args...)
		all := stdout + stderr
		if err != nil {
			all += err.Error()
		}
		if statusOf(err) != status || !strings.Contains(all, want) {
			t.Errorf("spool %v: status %d, want %d, and something of %q in\n%s", args, statusOf(err), status, want, all)
		}
	}
	f(exitOK, "pending    8 records", "inspect", dir)
	f(exitOK, "edge", "inspect", dir)
	f(exitOK, `"topics":{"a":4,"b":4}`, "inspect", "-o", "json", dir)
	f(exitOK, "in use     yes, process ", "inspect", used)
	f(exitOK, "pending    8 records", "verify", dir)
	f(exitFailure, "at byte", "verify", damaged)
	f(exitFailure, "1 damaged places, 4 records lost", "verify", damaged)
	f(exitFailure, "stop that one first", "verify", used)
	f(exitFailure, "stop that one first", "export", used)
	f(exitFailure, "4 records are damaged", "export", damaged)
	f(exitFailure, "no disk buffer here", "inspect", t.TempDir())
	f(exitFailure, "no such file", "verify", filepath.Join(dir, "nothing"))
	f(exitUsage, "accepts 1 arg", "export")
	f(exitUsage, "text or json", "inspect", "-o", "yaml", dir)
	f(exitUsage, "text or json", "verify", "-o", "yaml", dir)
}

// What export writes is what ship --from-dead-letter reads, byte for byte.
func TestSpoolExport(t *testing.T) {
	dir, open := buffer(t)
	stdout, stderr, err := spoolCmd("export", dir)
	if err != nil || !strings.Contains(stderr, "8 pending records written") {
		t.Fatal(err, stderr)
	}
	var got []string
	for line := range strings.Lines(stdout) {
		d, err := ingest.ParseDeadLetter([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		var again ingest.DeadLetter
		again.SetPayload([]byte(bufferLines[len(got)%4]))
		if *d.Record != *again.Record || d.Encoding != again.Encoding || d.Source != "app.log" || d.Position != int64(len(got)%4+1) {
			t.Errorf("line %d: %s", len(got), line)
		}
		got = append(got, d.Topic)
	}
	if strings.Join(got, "") != "aaaabbbb" {
		t.Errorf("topics of the lines: %v", got)
	}
	s := open() // it is as it was
	defer s.Close()
	if n := s.Pending(); n != 8 {
		t.Errorf("%d records pending after an export, want 8", n)
	}
	var rep spool.Report
	stdout, _, err = spoolCmd("inspect", "-o", "json", dir)
	if err = errors.Join(err, json.Unmarshal([]byte(stdout), &rep)); err != nil || !rep.InUse || rep.Pending != 8 || rep.PID != os.Getpid() {
		t.Errorf("%+v %v", rep, err)
	}
}
