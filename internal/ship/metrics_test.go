package ship

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// What a scrape says is what the books say, under names that lint likes.
func TestMetrics(t *testing.T) {
	s := startBox(t, func(c *sandbox.Config) {
		c.Faults = sandbox.Faults{
			{Kind: sandbox.FaultReport, Code: 50002, Contains: "bad"},
			{Kind: sandbox.FaultReport, Code: 500, Contains: "again", Count: 1},
		}
	})
	cfg := testConfig(t)
	cfg.Files = []string{filepath.Join(t.TempDir(), "in")}
	if err := os.WriteFile(cfg.Files[0], []byte("a\nbad\nagain\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg, BuildInfo{"v", "r", "g"})
	env := Env{
		Target: target(t, s), Stdout: io.Discard, Log: slog.New(slog.DiscardHandler), Hard: context.Background(),
		Latency: m.Latency("lkc-1"), Started: func(r *Run) { m.Watch(r.Figures) },
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("before the run: %v, %v", problems, err)
	}
	res, err := Start(t.Context(), cfg, env)
	if err != nil || res.Err != nil {
		t.Fatal(err, res.Err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, s := range f.Metric {
			name := f.GetName()
			for _, l := range s.Label {
				if n := l.GetName(); n == "error_code" || n == "reason" {
					name += " " + l.GetValue()
				}
			}
			got[name] += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"produce_agent_build_info":                         1,
		"produce_agent_input_records_total":                4,
		"produce_agent_input_bytes_total":                  14,
		"produce_agent_records_sent_total":                 5,
		"produce_agent_sent_bytes_total":                   float64(res.BytesSent),
		"produce_agent_delivery_reports_total 200":         3,
		"produce_agent_delivery_reports_total 50002":       1,
		"produce_agent_delivery_reports_total 500":         1,
		"produce_agent_retries_total internal_error":       1,
		"produce_agent_rejected_records_total kafka_error": 1,
		"produce_agent_possibly_duplicated_records_total":  float64(res.PossiblyDuplicated),
		"produce_agent_records_in_flight":                  0,
		"produce_agent_streams_open":                       0,
		"produce_agent_streams_opened_total":               float64(res.Streams),
		"produce_agent_limit_records_per_second":           0,
		"produce_agent_limit_configured":                   0,
	} {
		if have, ok := got[name]; !ok || have != want {
			t.Errorf("%s is %v (there: %v), want %v", name, have, ok, want)
		}
	}
	if got["produce_agent_delivery_latency_seconds"] < 1 {
		t.Errorf("no latency was observed")
	}
}
