// Package observe serves what the agent says about itself: Prometheus metrics
// over HTTP.
package observe

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers /metrics.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Serve listens at addr and answers until Close.
// Errors: an address that cannot be listened at.
func Serve(addr string, from prometheus.Gatherer, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--metrics-listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(from, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError)}))
	s := &Server{done: make(chan struct{}), http: &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}}
	log.Info("metrics", "url", "http://"+l.Addr().String()+"/metrics")
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics end", "error", err)
		}
	}()
	return s, nil
}

// Close stops listening at once and waits until nothing listens any more.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
