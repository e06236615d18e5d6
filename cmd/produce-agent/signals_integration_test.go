//go:build unix

package main

import (
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// live starts ship on a pipe that stays open.
func live(t testing.TB, s *sandbox.Sandbox, args ...string) (*program, *os.File) {
	t.Helper()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pr.Close(); pw.Close() })
	p := begin(t, nil, pr, append([]string{"ship", "-o", "json", "-t", "t", "--rest-endpoint", s.URL(), "--cluster-id", s.ClusterID()}, args...)...)
	p.until("msg=shipping")
	return p, pw
}

// eventually waits until ok, for at most the tests' patience.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// The first signal takes what is in the pipe, waits for the reports and prints
// the books.
func TestSignalDrains(t *testing.T) {
	for sig, status := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		s := startBox(t, "slow=300ms")
		p, in := live(t, s)
		if _, err := io.WriteString(in, numbered(500, 10)+"last without LF"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "records on their way", func() bool { return s.Stats().RecordsRead > 0 })
		if err := p.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		r := p.ran()
		r.want(t, status, 501, 501, 0, 0)
		if got := counts(stored(t, s, "t")); got["last without LF"] != 1 || len(got) != 501 {
			t.Errorf("%d values stored", len(got))
		}
	}
}

// A server that reports nothing: --grace bounds the wait, a second signal ends
// it; both say what is pending.
func TestSignalStalled(t *testing.T) {
	s := startBox(t, "stall=0")
	p, in := live(t, s, "--grace", "300ms")
	io.WriteString(in, "a\nb\n")
	eventually(t, "records on their way", func() bool { return s.Stats().RecordsRead > 0 })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r := p.ran()
	r.want(t, exitFailure, 2, 0, 0, 2)
	r.complaint(t, "--grace 300ms")

	p, in = live(t, s, "--grace", "1h")
	before := s.Stats().RecordsRead
	io.WriteString(in, "a\nb\n")
	eventually(t, "records on their way", func() bool { return s.Stats().RecordsRead > before })
	began := time.Now()
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // two pending signals of a kind are one
	}
	r = p.ran()
	r.want(t, exitFailure, 2, 0, 0, 2)
	r.complaint(t, "second signal")
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("a second signal took %s", d)
	}
}

// A signal while the endpoint is still asked for is no failure.
func TestSignalBeforeStart(t *testing.T) {
	s := startBox(t, "refuse")
	p := begin(t, nil, strings.NewReader("a\n"), "ship", "-t", "t", "--rest-endpoint", s.URL(), "--max-attempts", "1000")
	p.until("will try again")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.end(); status != 143 {
		t.Errorf("status %d\n%s", status, p.err.String())
	}
}

// Stopping in a file sends no cut line: what was shipped are whole lines.
func TestSignalInFile(t *testing.T) {
	const n = 300_000
	s := startBox(t)
	path := write(t, "lines", numbered(n, 99))
	p := begin(t, nil, nil, "ship", "-o", "json", "-t", "t", "--rest-endpoint", s.URL(), "--cluster-id", s.ClusterID(), path)
	eventually(t, "records on their way", func() bool { return s.Stats().RecordsRead > 1000 })
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r := p.ran()
	if r.status != 130 || r.Read != r.Delivered || r.Read >= n || r.Read == 0 {
		t.Errorf("%d: %+v\n%s", r.status, r.Summary, r.err)
	}
	for v, times := range counts(stored(t, s, "t")) {
		if len(v) != 99 || times != 1 {
			t.Fatalf("value %q, %d times", v, times)
		}
	}
}

// A reader of our stdout that goes away does not cost a record.
func TestBrokenStdout(t *testing.T) {
	s := startBox(t)
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	pr.Close()
	path := write(t, "lines", numbered(20_000, 10))
	q := beginTo(t, pw, "ship", "-t", "t", "--rest-endpoint", s.URL(), "--cluster-id", s.ClusterID(), "--reports", "-", path)
	pw.Close()
	if status := q.end(); status != exitFailure || !strings.Contains(q.err.String(), "--reports: ") {
		t.Errorf("status %d\n%s", status, q.err.String())
	}
	if got := len(counts(stored(t, s, "t"))); got != 20_000 {
		t.Errorf("%d records stored", got)
	}
}

// --metrics-listen serves while the run lasts.
func TestMetricsListen(t *testing.T) {
	s := startBox(t)
	p, in := live(t, s, "--metrics-listen", "127.0.0.1:0")
	p.until("msg=metrics")
	io.WriteString(in, "a\n")
	_, rest, _ := strings.Cut(p.err.String(), "url=")
	url, _, _ := strings.Cut(rest, "\n")
	eventually(t, "a record in the metrics", func() bool {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(body), `produce_agent_delivery_reports_total{cluster="lkc-sandbox",error_code="200",route="t"} 1`)
	})
	in.Close()
	p.ran().want(t, exitOK, 1, 1, 0, 0)
}
