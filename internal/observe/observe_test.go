package observe

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // an address to be had, and one that is taken
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "produce_agent_test", Help: "A test."})
	gauge.Set(7)
	reg.MustRegister(gauge)
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	var why []string
	cfg := Config{Listen: l.Addr().String(), Setting: "--metrics-listen", Metrics: reg, Log: logger, Ready: func() []string { return why }}
	if _, err := Serve(cfg); err == nil || !strings.HasPrefix(err.Error(), "--metrics-listen: ") {
		t.Errorf("an address in use: %v", err)
	}
	l.Close()
	s, err := Serve(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	f := func(method, path string, status int, want string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != status || !strings.Contains(string(body), want) {
			t.Errorf("%s %s: %d %s, %v", method, path, resp.StatusCode, body, err)
		}
	}
	f("GET", "/metrics", 200, "produce_agent_test 7")
	f("GET", "/", 404, "")
	f("POST", "/metrics", 405, "")
	f("GET", "/healthz", 200, "ok\n")
	f("GET", "/readyz", 200, "ready\n")
	why = []string{"cluster a: no\nroute", "buffer b: full"}
	f("GET", "/readyz", 503, "not ready\ncluster a: no route\nbuffer b: full\n")
	f("GET", "/healthz", 200, "ok\n")
	f("GET", "/debug/pprof/", 404, "")
	if !strings.Contains(log.String(), "http://"+l.Addr().String()+"/metrics") {
		t.Errorf("the log does not tell the address: %s", log.String())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	cfg.Pprof = true
	if s, err = Serve(cfg); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f("GET", "/debug/pprof/", 200, "goroutine")
	f("GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine")
}
