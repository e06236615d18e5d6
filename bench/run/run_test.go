//go:build linux

package main

import (
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const scraped = `# HELP go_memstats_mallocs_total Total number of heap objects allocated.
# TYPE go_memstats_mallocs_total counter
go_memstats_mallocs_total 1.5e+06
produce_agent_records_sent_total{cluster="a",route="x"} 100
produce_agent_records_sent_total{cluster="b",route="x y"} 20
produce_agent_delivery_latency_seconds_bucket{cluster="a",le="0.001"} 50
produce_agent_delivery_latency_seconds_bucket{cluster="a",le="0.002"} 90
produce_agent_delivery_latency_seconds_bucket{cluster="a",le="0.004"} 100
produce_agent_delivery_latency_seconds_bucket{cluster="a",le="+Inf"} 100
produce_agent_delivery_latency_seconds_bucket{cluster="b",le="0.001"} 50
produce_agent_delivery_latency_seconds_bucket{cluster="b",le="0.002"} 90
produce_agent_delivery_latency_seconds_bucket{cluster="b",le="0.004"} 100
produce_agent_delivery_latency_seconds_bucket{cluster="b",le="+Inf"} 100
produce_agent_delivery_latency_seconds_sum{cluster="a"} 1

not a metric
`

func TestParseMetrics(t *testing.T) {
	m := parseMetrics(strings.NewReader(scraped))
	if m.sum["go_memstats_mallocs_total"] != 1.5e6 || m.sum["produce_agent_records_sent_total"] != 120 {
		t.Fatalf("%v", m.sum)
	}
	const name = "produce_agent_delivery_latency_seconds"
	f := func(q, want float64) {
		t.Helper()
		if got, ok := m.quantile(name, q); !ok || math.Abs(got-want) > 1e-9 {
			t.Fatalf("quantile %v = %v, %v, want %v", q, got, ok, want)
		}
	}
	f(0.25, 0.0005)
	f(0.5, 0.001)
	f(0.7, 0.0015)
	f(0.95, 0.003)
	f(1, 0.004)
	if _, ok := m.quantile("none", 0.5); ok {
		t.Fatal("a histogram that is not there has a quantile")
	}
	over := parseMetrics(strings.NewReader("x_bucket{le=\"1\"} 1\nx_bucket{le=\"+Inf\"} 10\n"))
	if got, ok := over.quantile("x", 0.99); !ok || got != 1 {
		t.Fatalf("above the last bound: %v, %v", got, ok)
	}
	none := parseMetrics(strings.NewReader("x_bucket{le=\"1\"} 0\nx_bucket{le=\"+Inf\"} 0\n"))
	if _, ok := none.quantile("x", 0.99); ok {
		t.Fatal("a histogram without samples has a quantile")
	}
}

func TestSetAllocs(t *testing.T) {
	at := func(mallocs, sent float64) metrics {
		return metrics{sum: map[string]float64{"go_memstats_mallocs_total": mallocs, "produce_agent_records_sent_total": sent}}
	}
	f := func(a, b metrics, err error, want float64, ok bool) {
		t.Helper()
		var s steady
		s.setAllocs([2]metrics{a, b}, err)
		if s.allocs != want || s.haveCounters != ok {
			t.Fatalf("%v, %v; want %v, %v", s.allocs, s.haveCounters, want, ok)
		}
	}
	f(at(100, 1000), at(300, 2000), nil, 0.2, true)
	f(at(100, 1000), at(300, 1000), nil, 0, false)
	f(at(0, 1000), at(300, 2000), nil, 0, false)
	f(at(100, 1000), at(300, 2000), os.ErrClosed, 0, false)
}

func TestMedian(t *testing.T) {
	f := func(want float64, v ...float64) {
		t.Helper()
		if got := median(v); got != want {
			t.Fatalf("median(%v) = %v, want %v", v, got, want)
		}
	}
	f(0)
	f(3, 3)
	f(2, 3, 1)
	f(2, 9, 1, 3, 1)
	f(3, 9, 1, 3)
}

func TestDelivered(t *testing.T) {
	f := func(out string, want int64, ok bool) {
		t.Helper()
		if n, err := delivered(out); n != want || (err == nil) != ok {
			t.Fatalf("delivered(%q) = %d, %v", out, n, err)
		}
	}
	f(`{"read":5,"delivered":4}`, 4, true)
	f("a report\n{\"delivered\":0}\n\n", 0, true)
	f(`{"read":5}`, 0, false)
	f("", 0, false)
}

func TestOff(t *testing.T) {
	f := func(s sample, want int64) {
		t.Helper()
		if got := s.off(); got != want {
			t.Fatalf("%+v is off by %d, want %d", s, got, want)
		}
	}
	f(sample{sent: 5, own: 5}, 0)
	f(sample{sent: 5, own: 4}, 1)
	f(sample{sent: 5, own: 7}, 2)
	f(sample{sent: 5, own: 5, checked: checked{Missing: 1, Duplicates: 2, Unexpected: 3}}, 6)
}

func TestCleanEnv(t *testing.T) {
	in := []string{"HOME=/x", "HTTPS_PROXY=y", "no_proxy=z", "KAFKA_ID=1", "PRODUCE_AGENT_LINGER=1s", "GOGC=off", "PATH=p"}
	if got := cleanEnv(in); !slices.Equal(got, []string{"HOME=/x", "PATH=p"}) {
		t.Fatalf("%q", got)
	}
}

func TestPeakIn(t *testing.T) {
	if v := peakIn([]byte("Name:\tx\nVmHWM:\t   10240 kB\nVmRSS:\t 5 kB\n")); v != 10 {
		t.Fatalf("%v MiB", v)
	}
	if v := peakIn([]byte("Name:\tx\n")); v != 0 {
		t.Fatalf("%v MiB without the line", v)
	}
	if v := peakOf(os.Getpid()); v < 1 {
		t.Fatalf("this process peaked at %v MiB", v)
	}
}

// TestStartOn reads the cores a child sees, and that this process keeps its own.
func TestStartOn(t *testing.T) {
	c, err := pickCores()
	if err != nil {
		t.Fatal(err)
	}
	if c.server < 0 {
		t.Skip("one core: nothing is pinned")
	}
	var l lab
	cmd := exec.Command("grep", "Cpus_allowed_list", "/proc/self/status")
	w, err := l.watch(cmd, c.server)
	if err != nil {
		t.Fatal(err)
	}
	u, err := w.finish()
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(w.stdout.String())
	if len(f) != 2 || f[1] != strconv.Itoa(c.server) {
		t.Fatalf("child on core %d sees %q", c.server, f)
	}
	if u.wall <= 0 || u.rss <= 0 {
		t.Fatalf("usage %+v", u)
	}
	if again, err := pickCores(); err != nil || again != c {
		t.Fatalf("cores were %v, are %v, %v", c, again, err)
	}
}

func TestWatchedFailure(t *testing.T) {
	var l lab
	w, err := l.watch(exec.Command("sh", "-c", "echo one >&2; echo two >&2; exit 3"), -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.finish(); err == nil || !strings.Contains(err.Error(), "exit status 3: two") {
		t.Fatalf("%v", err)
	}
}

func TestTable(t *testing.T) {
	r := newResults(1000)
	add := func(name, mode string, cpu float64) {
		r.add(name, mode, sample{usage: usage{cpu: cpu, wall: 1, rss: 20}, sent: 1000, own: 1000})
	}
	add(nBlast, "batch", 0.0001)
	add(nBlast, "record", 0.0002)
	add(nJSON, "batch", 0.0005)  // 5.0 times: meets
	add(nJSON, "record", 0.0008) // 4.0 times: good
	add(nRaw, "batch", 0.0005)   // 5.0 times: misses
	add(streamsName(1), "batch", 0.0005)
	add(streamsName(16), "batch", 0.0005)
	add(streamsName(32), "batch", 0.0006)
	r.add(nString, "batch", sample{err: os.ErrClosed})
	var b strings.Builder
	r.writeCPU(&b, []string{nBlast, nJSON, nRaw, nString}, true)
	for _, want := range []string{
		"| blast | 0.100 / 0.200 | 1.0 / 1.0 | - / - | 20.0 |",
		"| JSON, validated | 0.500 / 0.800 | 5.0 / 4.0 | 0.40 / 0.60 | 20.0 | 6.0 / 7.5 | 4.5 / 5.5 | 3.4 / 4.5 | meets |",
		"| JSON, validation off | 0.500 / - | 5.0 / - | 0.40 / - | 20.0 | 3.5 / 4.5 | 2.2 / 3.0 | 1.5 / 2.2 | **misses** |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Fatalf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), nString) {
		t.Fatalf("a row without figures was printed:\n%s", b.String())
	}
	if s, ok := r.spread(); !ok || math.Abs(s-0.2) > 1e-9 {
		t.Fatalf("spread %v, %v", s, ok)
	}
	if err := r.verdict(t.Context()); err == nil || !strings.Contains(err.Error(), nString) {
		t.Fatalf("a failed sender: %v", err)
	}
	delete(r.errs, key(nString, "batch"))
	if err := r.verdict(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.add(nJSON, "batch", sample{sent: 1000, own: 999, checked: checked{Missing: 1}})
	if err := r.verdict(t.Context()); err == nil {
		t.Fatal("a lost record is no error")
	}
	ms := r.measures(nil, nil, nil)
	if last := ms[len(ms)-1]; last.value != "1, 0, 1" || last.verdict != "**misses**" {
		t.Fatalf("%+v", last)
	}
}

func TestSlowMeasures(t *testing.T) {
	f := func(s slow, want ...string) {
		t.Helper()
		var got []string
		for _, m := range slowMeasures(s) {
			got = append(got, m.value+" "+m.verdict)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	books := sample{checked: checked{P50: 1, P99: 6, Chunks: 7}}
	f(slow{sample: books, linger: 5 * time.Millisecond, bars: true, share: 0.05, ack99: 2, ack50: 0.5, hasAck: true},
		"5.0 meets", "6.00 good", "2.00 meets", "1.00, 0.50; 7 ")
	f(slow{sample: books, bars: true, share: 0.05}, "5.0 ", "6.00 **misses**", "1.00, -; 7 ")
	f(slow{sample: books, share: 0.05}, "5.0 ", "6.00 ", "1.00, -; 7 ")
	f(slow{sample: sample{err: os.ErrClosed}})
}
