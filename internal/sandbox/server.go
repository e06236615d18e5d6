package sandbox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Sandbox is a running server.
//
// Concurrency: all methods may be called from any goroutine.
type Sandbox struct {
	cfg     Config
	limits  Limits
	keeper  *keeper
	broker  *broker
	limiter *recordLimiter
	posts   *postLimiter
	routes  map[*flavour][]route
	turn    atomic.Uint32 // whose turn it is among partitions
	faults  atomic.Pointer[faultSet]
	stats   stats
	tls     *tls.Config
	caPEM   []byte
	ln      net.Listener

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // accept loop, connections, running timers

	mu     sync.Mutex // guards conns, closed and changes of faults; taken before a connection's own locks
	conns  map[*conn]struct{}
	closed bool
}

// Start starts a sandbox. It is ready for requests when Start returns.
//
// Errors: what Config.Validate says; an address in use; a Kafka that cannot be
// reached. Nothing is left running then.
func Start(cfg Config) (*Sandbox, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.clock == nil {
		cfg.clock = time.Now
	}
	if cfg.reachFor == 0 {
		cfg.reachFor = ReachKafka
	}
	s := &Sandbox{cfg: cfg, conns: map[*conn]struct{}{}}
	var err error
	if s.keeper, err = cfg.keeper(); err != nil {
		return nil, err
	}
	if s.limits, err = cfg.limits(); err != nil {
		return nil, err
	}
	s.limiter, s.posts = newRecordLimiter(s.limits), newPostLimiter(s.limits.PostsPerSecond)
	s.faults.Store(newFaultSet(cfg.Faults, confluentV2, cfg.clock()))
	s.routes = routesOf()
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.listen(); err != nil {
		s.cancel()
		return nil, err
	}
	startCtx, cancel := context.WithTimeout(s.ctx, cfg.reachFor)
	defer cancel()
	if s.broker, err = startBroker(startCtx, &s.cfg, s.limits); err != nil {
		s.cancel()
		_ = s.ln.Close()
		return nil, err
	}
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// listen opens the REST side's port, and with TLS makes and writes the certificate.
func (s *Sandbox) listen() error {
	if s.cfg.TLS {
		host, _, _ := net.SplitHostPort(s.cfg.Listen)
		var err error
		if s.tls, s.caPEM, err = selfSigned(host); err != nil {
			return err
		}
		if err := s.cfg.askForCerts(s.tls); err != nil {
			return err
		}
		if s.cfg.CAFile != "" {
			if err := os.WriteFile(s.cfg.CAFile, s.caPEM, 0o644); err != nil {
				return fmt.Errorf("write the certificate to trust: %w", err)
			}
		}
	}
	var err error
	if s.ln, err = net.Listen("tcp", s.cfg.Listen); err != nil {
		return fmt.Errorf("listen for REST on %s: %w", s.cfg.Listen, err)
	}
	return nil
}

func (s *Sandbox) accept() {
	defer s.wg.Done()
	for {
		nc, err := s.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.log("accept", "error", err)
			select {
			case <-time.After(20 * time.Millisecond): // out of files, most likely
			case <-s.ctx.Done():
				return
			}
			continue
		}
		s.stats.connections.Add(1)
		if s.faults.Load().refuse() {
			s.stats.refused.Add(1)
			_ = nc.Close()
			continue
		}
		c := newConn(s, nc)
		if !s.track(c) {
			_ = nc.Close()
			return
		}
		go func() {
			defer s.wg.Done()
			defer s.untrack(c)
			c.serve()
		}()
	}
}

// track notes an open connection and counts it in wg, unless the sandbox is
// being closed.
func (s *Sandbox) track(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return true
}

func (s *Sandbox) untrack(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// afterFunc runs fn later, unless stopTimer comes first; Close waits for it.
func (s *Sandbox) afterFunc(d time.Duration, fn func()) *time.Timer {
	s.wg.Add(1)
	return time.AfterFunc(d, func() {
		defer s.wg.Done()
		fn()
	})
}

func (s *Sandbox) stopTimer(t *time.Timer) {
	if t.Stop() {
		s.wg.Done()
	}
}

// URL returns the REST side's address: http(s)://host:port, without a path.
func (s *Sandbox) URL() string {
	scheme := "http://"
	if s.tls != nil {
		scheme = "https://"
	}
	return scheme + s.ln.Addr().String()
}

// KafkaAddr returns the Kafka side's address, host:port (several, with commas
// between them, where Config.Brokers has several).
func (s *Sandbox) KafkaAddr() string { return s.broker.addr }

// ClusterID returns the cluster id to use in paths.
func (s *Sandbox) ClusterID() string { return s.broker.cluster }

// Server returns whose manner the v2 API is spoken in: V2Confluent or another.
func (s *Sandbox) Server() string { return s.faults.Load().flavour.name }

// CAPEM returns the certificate to trust, PEM; nil without TLS.
func (s *Sandbox) CAPEM() []byte { return s.caPEM }

// SetFaults puts fs in place of the faults at work. Open streams take them up
// with their next record; a stalled stream goes on at once. Counts (Times,
// Count) start anew. Without a FaultV2 among fs the server stays the one it is.
//
// Errors: what Faults.Validate says; nothing has changed then.
func (s *Sandbox) SetFaults(fs Faults) error {
	if err := fs.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.faults.Load()
	s.faults.Store(newFaultSet(fs, old.flavour, s.cfg.clock()))
	close(old.changed)
	return nil
}

// Stats returns what the sandbox has seen so far.
func (s *Sandbox) Stats() Stats { return s.stats.snapshot() }

// Close cuts every connection, ends the Kafka in the process and removes a
// temporary data directory. No goroutine of the sandbox is left afterwards.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for c := range s.conns {
		c.killed.Store(true)
		_ = c.raw.Close()
	}
	s.mu.Unlock()
	s.cancel()
	err := s.ln.Close()
	s.wg.Wait()
	s.broker.close()
	return err
}

func (s *Sandbox) log(msg string, args ...any) { s.cfg.Logger.Debug(msg, args...) }
