// Package observe serves what the agent says about itself over HTTP: metrics,
// health and readiness, and profiles where that is asked for.
package observe

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config sets a Server up.
type Config struct {
	Listen  string
	Setting string              // what errors call Listen, as --metrics-listen
	Metrics prometheus.Gatherer // /metrics
	// Ready returns what keeps the agent from its work; nil for an agent that
	// is always ready. It is called by any goroutine.
	Ready func() []string
	Pprof bool // /debug/pprof
	Log   *slog.Logger
}

// Server answers /metrics, /healthz and /readyz.
type Server struct {
	http *http.Server
	addr net.Addr
	done chan struct{}
}

// Serve listens and answers until Close.
// Errors: an address that cannot be listened at.
func Serve(cfg Config) (*Server, error) {
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (is another agent running, or the address not this machine's?)", cfg.Setting, err)
	}
	logger := slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn)
	s := &Server{addr: l.Addr(), done: make(chan struct{}), http: &http.Server{
		Handler: routes(cfg), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, ErrorLog: logger,
	}}
	if !cfg.Pprof { // a profile takes as long as it is asked to
		s.http.WriteTimeout = 30 * time.Second
	}
	cfg.Log.Info("metrics", "url", "http://"+l.Addr().String()+"/metrics")
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			cfg.Log.Error("metrics end", "error", err)
		}
	}()
	return s, nil
}

func routes(cfg Config) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelError)}))
	// The process answers: that is all there is to being alive.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		var why []string
		if cfg.Ready != nil {
			why = cfg.Ready()
		}
		if len(why) == 0 {
			answer(w, http.StatusOK, "ready")
			return
		}
		for i := range why { // one reason a line
			why[i] = strings.Join(strings.Fields(why[i]), " ")
		}
		answer(w, http.StatusServiceUnavailable, "not ready\n"+strings.Join(why, "\n"))
	})
	if cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n")
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.addr }

// Close stops listening at once and waits until nothing listens any more.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
