package spool

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/produce-agent/produce-agent/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// testConfig is of a small spool that waits for nothing.
func testConfig(dir string) Config {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Route, cfg.RouteID, cfg.gather, cfg.segment = dir, "r", 7, 0, 64<<10
	return cfg
}

func openSpool(t testing.TB, cfg Config) *Spool {
	t.Helper()
	s, err := Open(cfg, silent)
	if err != nil {
		t.Fatal(err)
	}
	s.SetSource(5)
	return s
}

// payload is record i as the tests make it.
func payload(i int) string {
	return fmt.Sprintf(`{"value":{"type":"STRING","data":"record %d %s"}}`+"\n", i, strings.Repeat("x", i%97))
}

// batchOf is records [from,to) for topic. Their place is "src", i*10.
func batchOf(topic string, from, to int) *record.Batch {
	b := record.NewBatch(topic)
	for i := from; i < to; i++ {
		b.Commit(append(b.Tail(), payload(i)...), record.Position{Offset: int64(i), Source: 1})
	}
	return b
}

func origin(pos record.Position) (string, int64) { return "src", pos.Offset * 10 }

// put appends a batch and waits until it is durable.
func put(t testing.TB, s Buffer, b *record.Batch) error {
	t.Helper()
	done := make(chan error, 1)
	err := s.Append(t.Context(), b, origin, func(b *record.Batch, err error) {
		if b.Pos[0].Source != 1 {
			err = fmt.Errorf("durable sees positions that are not the caller's: %+v", b.Pos[0])
		}
		done <- err
	})
	if err != nil {
		return err
	}
	return <-done
}

func mustPut(t testing.TB, s Buffer, topic string, from, to int) {
	t.Helper()
	if err := put(t, s, batchOf(topic, from, to)); err != nil {
		t.Fatal(err)
	}
}

// take reads until it has want records or nothing comes for a while, and
// returns the batches, still unsettled.
func take(t testing.TB, c Cursor, want int) (all []*record.Batch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for n := 0; n < want; {
		b, _, err := c.Next(ctx)
		if err != nil {
			t.Fatalf("%d of %d records came: %v", n, want, err)
		}
		n += b.Len()
		all = append(all, b)
	}
	return all
}

// nextAbove returns the next batch, or nil once no more than n records are
// pending: what is left of a damaged spool may be no batch at all.
func nextAbove(s *Spool, c Cursor, n int64) (*record.Batch, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	watched := make(chan struct{})
	defer func() { <-watched }()
	defer cancel()
	go func() {
		defer close(watched)
		for ctx.Err() == nil && s.Pending() > n {
			time.Sleep(100 * time.Microsecond)
		}
		cancel()
	}()
	b, _, err := c.Next(ctx)
	if err != nil && s.Pending() <= n {
		return nil, nil
	}
	return b, err
}

// drain takes all that is pending, by what Pending says, and settles it.
func drain(t testing.TB, s *Spool) (payloads []string) {
	t.Helper()
	c := s.Cursor(Ref{}, "")
	defer c.Close()
	for s.Pending() > 0 {
		b, err := nextAbove(s, c, 0)
		if err != nil {
			t.Fatalf("%d records pending that do not come: %v", s.Pending(), err)
		}
		if b == nil {
			break
		}
		for i := range b.Len() {
			payloads = append(payloads, string(b.Bytes(i, i+1)))
		}
		s.Delivered(b.Pos)
		b.Discard()
	}
	return payloads
}

func closeSpool(t testing.TB, s *Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	checkSums(t, s)
}

// checkSums checks that every record ended once.
func checkSums(t testing.TB, s *Spool) {
	t.Helper()
	st := s.Stats()
	if in, out := st.Opened+st.Appended, st.Delivered+st.Rejected+st.DroppedOldest+st.CorruptRecords+st.Pending; in != out {
		t.Errorf("%d records in, %d out and pending: %+v", in, out, st)
	}
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"+segmentExt))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// copyDir copies a spool as a crash would leave it.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
