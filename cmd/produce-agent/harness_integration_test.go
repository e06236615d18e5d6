package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/sandbox"
	"github.com/produce-agent/produce-agent/internal/ship"
)

// The test binary is the program too: with this variable set it is what main is.
const asProgram = "TEST_AS_PRODUCE_AGENT"

// With this one set as well, root may not read what its mode forbids.
const asAnybody = "TEST_AS_ANYBODY"

// With this variable set the tests named TestKafka run, against a real Apache
// Kafka. KAFKA_HOME names an unpacked one to use in place of Maven Central's.
const withKafka = "PRODUCE_AGENT_INTEGRATION"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if os.Getenv(asAnybody) != "" {
			if err := heedModes(); err != nil {
				fmt.Fprintln(os.Stderr, "heed modes:", err)
				os.Exit(exitFailure)
			}
		}
		main()
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // most of these tests wait for programs that wait: two a processor
		if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// startBox starts a sandbox in this process for one test.
func startBox(t testing.TB, faults ...string) *sandbox.Sandbox {
	t.Helper()
	return startBoxWith(t, nil, faults...)
}

func startBoxWith(t testing.TB, set func(*sandbox.Config), faults ...string) *sandbox.Sandbox {
	t.Helper()
	cfg := sandbox.DefaultConfig()
	cfg.Listen, cfg.KafkaListen, cfg.DataDir = "127.0.0.1:0", "127.0.0.1:0", t.TempDir()
	cfg.Topics = []sandbox.Topic{{Name: "t", Partitions: 3}}
	cfg.MaxBlock = 50 * time.Millisecond
	for _, text := range faults {
		f, err := sandbox.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Faults = append(cfg.Faults, f)
	}
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

// stored returns what topic holds.
func stored(t testing.TB, s *sandbox.Sandbox, topic string) []sandbox.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	records, err := s.Records(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// counts returns how often each value is among records.
func counts(records []sandbox.Record) map[string]int {
	out := make(map[string]int, len(records))
	for _, r := range records {
		out[string(r.Value)]++
	}
	return out
}

// text is a program's output that may be looked at while it is written.
type text struct {
	mu    sync.Mutex
	b     bytes.Buffer
	grown chan struct{}
}

func (x *text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case x.grown <- struct{}{}:
	default:
	}
	return x.b.Write(p)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

// program is a started produce-agent.
type program struct {
	t        testing.TB
	cmd      *exec.Cmd
	out, err text
	exited   chan struct{}
}

// patience bounds everything a program does in these tests.
const patience = 60 * time.Second

// soaking is for how long a soak goes on, 0 when there is none.
func soaking() time.Duration { return lasting("SOAK_TIME") }

// stalling is for how long a stall goes on, 0 when nobody says.
func stalling() time.Duration { return lasting("ORACLE_STALL") }

// lengthened is how much longer a program may live where a variable asks for
// more of something than CI has.
func lengthened() time.Duration {
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "ORACLE_") && !strings.HasPrefix(v, "ORACLE_SEED=") {
			return time.Hour
		}
	}
	return 0
}

// integrating is what a program may take longer in front of a real Kafka, whose
// brokers come and go.
func integrating() time.Duration {
	if os.Getenv(withKafka) == "" {
		return 0
	}
	return time.Minute
}

func lasting(name string) time.Duration {
	d, _ := time.ParseDuration(os.Getenv(name))
	return max(d, 0)
}

// begin starts the program. It is killed when the test ends.
func begin(t testing.TB, env []string, stdin io.Reader, args ...string) *program {
	t.Helper()
	return beginWith(t, env, stdin, nil, args...)
}

// beginTo starts the program with its stdout at out.
func beginTo(t testing.TB, out *os.File, args ...string) *program {
	t.Helper()
	return beginWith(t, nil, nil, out, args...)
}

func beginWith(t testing.TB, env []string, stdin io.Reader, out *os.File, args ...string) *program {
	t.Helper()
	return beginBehind(t, nil, env, stdin, out, args...)
}

// beginBehind starts the program by another, that becomes it.
func beginBehind(t testing.TB, by, env []string, stdin io.Reader, out *os.File, args ...string) *program {
	t.Helper()
	args = append(append(by, os.Args[0]), args...)
	ctx, cancel := context.WithTimeout(context.Background(), patience+soaking()+stalling()+lengthened()+integrating())
	p := &program{t: t, cmd: exec.CommandContext(ctx, args[0], args[1:]...), exited: make(chan struct{})}
	p.err.grown, p.out.grown = make(chan struct{}, 1), make(chan struct{}, 1)
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = append([]string{asProgram + "=1", "PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR")}, env...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.out, &p.err
	if out != nil {
		p.cmd.Stdout = out
	}
	if err := p.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() { cancel(); <-p.exited })
	return p
}

// until waits for words on stderr.
func (p *program) until(words string) {
	p.t.Helper()
	limit := time.After(patience)
	for !strings.Contains(p.err.String(), words) {
		select {
		case <-p.err.grown:
		case <-p.exited:
			if !strings.Contains(p.err.String(), words) {
				p.t.Fatalf("ended without %q:\n%s", words, p.err.String())
			}
		case <-limit:
			p.t.Fatalf("no %q:\n%s", words, p.err.String())
		}
	}
}

// end waits for the program's end and returns its status.
func (p *program) end() int {
	p.t.Helper()
	<-p.exited
	status := p.cmd.ProcessState.ExitCode()
	if status < 0 {
		p.t.Errorf("killed:\n%s", p.err.String())
	}
	return status
}

// ran is how a program went.
type ran struct {
	status       int
	out, err     string
	ship.Summary // of the last line of stdout, with -o json
}

func (p *program) ran() ran {
	p.t.Helper()
	r := ran{status: p.end(), out: p.out.String(), err: p.err.String()}
	lines := strings.Split(strings.TrimRight(r.out, "\n"), "\n")
	if last := lines[len(lines)-1]; strings.HasPrefix(last, `{"read":`) {
		if err := json.Unmarshal([]byte(last), &r.Summary); err != nil {
			p.t.Errorf("summary %s: %v", last, err)
		}
		if r.Read != r.Delivered+r.Rejected+r.Pending || r.Pending < 0 {
			p.t.Errorf("the books do not balance: %s", last)
		}
	}
	return r
}

// shipTo runs ship on in against s, with -o json.
func shipTo(t testing.TB, s *sandbox.Sandbox, in string, args ...string) ran {
	t.Helper()
	return begin(t, nil, strings.NewReader(in), append([]string{
		"ship", "-o", "json", "--progress", "never", "-t", "t", "--rest-endpoint", s.URL(), "--cluster-id", s.ClusterID(),
	}, args...)...).ran()
}

// want compares a run's end with status and books.
func (r ran) want(t testing.TB, status int, read, delivered, rejected, pending int64) {
	t.Helper()
	if r.status != status || r.Read != read || r.Delivered != delivered || r.Rejected != rejected || r.Pending != pending {
		t.Errorf("status %d, read %d = %d + %d + %d; want %d, %d = %d + %d + %d\n%s", r.status, r.Read, r.Delivered, r.Rejected, r.Pending,
			status, read, delivered, rejected, pending, r.err)
	}
}

// write makes a file in a temporary folder and returns its path.
func write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// numbered is n lines, each its own number padded to width.
func numbered(n, width int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%0*d\n", width, i)
	}
	return b.String()
}
