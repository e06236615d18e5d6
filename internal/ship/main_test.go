package ship

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/sandbox"
	"github.com/produce-agent/produce-agent/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startBox starts a sandbox for one test.
func startBox(t testing.TB, set func(*sandbox.Config)) *sandbox.Sandbox {
	t.Helper()
	cfg := sandbox.DefaultConfig()
	cfg.Listen, cfg.KafkaListen, cfg.DataDir = "127.0.0.1:0", "127.0.0.1:0", t.TempDir()
	cfg.Topics = []sandbox.Topic{{Name: "t", Partitions: 2}}
	cfg.MaxBlock = 50 * time.Millisecond
	if set != nil {
		set(&cfg)
	}
	s, err := sandbox.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// lockedBuffer is a log that may be read while it is written.
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

// target is where the sandbox is.
func target(t testing.TB, s *sandbox.Sandbox) stream.Target {
	t.Helper()
	base, err := url.Parse(s.URL() + "/kafka")
	if err != nil {
		t.Fatal(err)
	}
	return stream.Target{Base: base, ClusterID: s.ClusterID(), Auth: auth.None{}}
}

// testConfig is a run whose waits suit a test.
func testConfig(t testing.TB) Config {
	cfg := DefaultConfig()
	cfg.Topic = "t"
	cfg.DeadLetter = filepath.Join(t.TempDir(), "dead.ndjson")
	cfg.Stream.RetryInitial, cfg.Stream.RetryMax = time.Millisecond, 20*time.Millisecond
	return cfg
}

// run runs cfg on in as stdin, in a minute at most.
func run(t testing.TB, s *sandbox.Sandbox, cfg Config, in string) (Result, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return runOn(t, s, cfg, f)
}

func runOn(t testing.TB, s *sandbox.Sandbox, cfg Config, stdin *os.File) (Result, string) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	hard, cancel := context.WithTimeoutCause(context.Background(), time.Minute, fmt.Errorf("the test's time is up"))
	defer cancel()
	var log lockedBuffer
	env := Env{Stdin: stdin, Stdout: io.Discard, Log: slog.New(slog.NewTextHandler(&log, nil)), Hard: hard}
	if s != nil {
		env.Target = target(t, s)
	}
	res, err := Start(hard, cfg, env)
	if err != nil {
		t.Fatal(err)
	}
	if res.Read != res.Delivered+res.Rejected+res.Pending || res.Pending < 0 {
		t.Errorf("the books do not balance: %+v", res.Summary)
	}
	return res, log.String()
}

// values returns what topic holds, by value.
func values(t testing.TB, s *sandbox.Sandbox, topic string) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	records, err := s.Records(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, r := range records {
		out[string(r.Value)]++
	}
	return out
}
