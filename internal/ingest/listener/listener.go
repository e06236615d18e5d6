// Package listener takes records over HTTP: lines, NDJSON and JSON in plain
// requests, and the produce call of Kafka REST v3 on the path a cluster has it,
// streaming both ways.
//
// A plain request is read whole before any of its records counts: a body that
// is cut adds nothing. It is answered when each of its records is settled.
package listener

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/produce-agent/produce-agent/internal/ingest"
)

// What a Listener can accept, as Config.Accept names it.
const (
	AcceptText   = "text"
	AcceptNDJSON = "ndjson"
	AcceptJSON   = "json"
	AcceptKafka  = "kafka_rest_v3"
)

// Config sets up a Listener. Start from DefaultConfig.
type Config struct {
	Name           string   // of the input, as in /ingest/{name}
	Listen         string   // host:port; port 0 takes a free one
	Accept         []string // Accept… of above
	AfterBuffer    bool     // answer when records are durable in a spool, not when they are delivered
	RespondTimeout time.Duration
	MaxBody        int64 // bytes of a body, decoded
	MaxRecordBytes int64 // bytes of one record of a stream; 0: MaxBody
	MaxInFlight    int64 // bytes of all bodies being read and taken apart
	MaxConnections int
	HeaderTimeout  time.Duration // for TLS and a request's head; after it a body must come at bodyRate
	IdleTimeout    time.Duration // of a connection between requests, and of a stream
	// Token returns the bearer token that clients must send; nil: none is asked
	// for. It is called once a request.
	Token func() (string, error)
	TLS   *tls.Config // nil: plain http. It may demand client certificates.
	// AllowTopics bounds the topics of REST v3: names, * stands for any part.
	AllowTopics    []string
	ClusterID      func() string // the id to go by; "" while it is not known
	InsecureListen bool          // listen beyond this machine though anybody may send
	StripCR        bool          // drop one CR at the end of a line
	SkipEmpty      bool          // an empty line of text is no record
	RecordIDs      bool          // records carry an id
}

// DefaultConfig: 20 MB a body is the longest Kafka message any cluster takes,
// and OTel's default; 64 MiB in flight are three of those or 6,000 requests of
// 10 KB. 1,024 connections cost 20 KB each. A head is one packet: 5 s are
// plenty. 60 s idle outlive the pauses of clients that send every 30 s. 30 s
// for an answer is less than any client library's patience.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:9880", Accept: []string{AcceptText, AcceptNDJSON, AcceptJSON, AcceptKafka},
		RespondTimeout: 30 * time.Second, MaxBody: 20e6, MaxRecordBytes: 8e6, MaxInFlight: 64 << 20,
		MaxConnections: 1024, HeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
	}
}

// Stats is what a Listener has done so far.
type Stats struct {
	Requests    map[int]int64 // answered, by HTTP status
	Bytes       int64         // of bodies, as they came
	InFlight    int64         // bytes held for bodies now
	Connections int64         // open now
	Refused     int64         // requests and connections turned away because something was full
}

// Listener is one HTTP input.
//
// Concurrency: all methods may be called from any goroutine; Serve once.
type Listener struct {
	cfg    Config
	router *ingest.Router
	reg    ingest.Registry
	log    *slog.Logger
	quiet  *throttle // for lines that repeat
	ln     net.Listener
	srv    *fasthttp.Server
	boot   string // makes record ids of this run differ from those of others
	unzip  unzippers
	memory budget

	turn   chan struct{} // holds one while a request is with the router
	failed chan struct{} // closed when the router takes nothing any more
	stop   chan struct{} // closed by Shutdown: no new request, streams read no further
	over   chan struct{} // closed when Shutdown's time is up: nothing is waited for

	stopOnce, overOnce, failOnce sync.Once
	running                      sync.WaitGroup // connections and what they left behind

	mu       sync.Mutex // guards conns, failure and trouble
	conns    map[*conn]struct{}
	failure  error // why the router takes nothing
	trouble  map[string]error
	requests atomic.Int64 // numbers them

	answered [600]atomic.Int64
	bytes    atomic.Int64
	refused  atomic.Int64
}

// New listens, and answers once Serve runs.
//
// Errors: a setting out of its bounds, by its name in the config file; an
// address beyond this machine without auth; what the network says.
func New(cfg Config, router *ingest.Router, reg ingest.Registry, log *slog.Logger) (*Listener, error) {
	d := DefaultConfig()
	cfg.MaxBody = cmp.Or(cfg.MaxBody, d.MaxBody)
	cfg.MaxRecordBytes = cmp.Or(cfg.MaxRecordBytes, cfg.MaxBody)
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, d.MaxInFlight)
	cfg.MaxConnections = cmp.Or(cfg.MaxConnections, d.MaxConnections)
	cfg.HeaderTimeout = cmp.Or(cfg.HeaderTimeout, d.HeaderTimeout)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, d.IdleTimeout)
	if len(cfg.Accept) == 0 {
		cfg.Accept = d.Accept
	}
	addr, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("input %q: %w", cfg.Name, err)
	}
	ln, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("input %q: listen: %w", cfg.Name, err)
	}
	l := newListener(cfg, router, reg, log.With("input", cfg.Name))
	l.ln = ln
	if !addr.IP.IsLoopback() && cfg.TLS == nil {
		l.log.Warn("listening beyond this machine without TLS: tokens and records can be read on the way", "address", ln.Addr().String())
	}
	return l, nil
}

// newListener returns a Listener that does not listen yet.
func newListener(cfg Config, router *ingest.Router, reg ingest.Registry, log *slog.Logger) *Listener {
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.NextProtos = []string{"http/1.1"}
		cfg.TLS.MinVersion = max(cfg.TLS.MinVersion, tls.VersionTLS12)
	}
	l := &Listener{
		cfg: cfg, router: router, reg: reg, log: log, quiet: newThrottle(log),
		boot: newBoot(), unzip: newUnzippers(),
		turn: make(chan struct{}, 1), failed: make(chan struct{}), stop: make(chan struct{}), over: make(chan struct{}),
		conns: map[*conn]struct{}{}, trouble: map[string]error{},
	}
	l.memory.most = cfg.MaxInFlight
	l.srv = l.server()
	return l
}

// check returns the address to listen at.
func (c *Config) check() (*net.TCPAddr, error) {
	for _, a := range c.Accept {
		if !slices.Contains([]string{AcceptText, AcceptNDJSON, AcceptJSON, AcceptKafka}, a) {
			return nil, fmt.Errorf("accept: %q is none of text, ndjson, json and kafka_rest_v3", a)
		}
	}
	switch {
	case c.MaxBody < 1 || c.MaxBody > 1<<30:
		return nil, fmt.Errorf("max_body: %d must be 1..%d bytes", c.MaxBody, 1<<30)
	case c.MaxInFlight < c.MaxBody:
		return nil, fmt.Errorf("max_in_flight: %d bytes have no room for one body of max_body %d", c.MaxInFlight, c.MaxBody)
	case c.MaxRecordBytes < 1 || c.MaxRecordBytes > 1<<30:
		return nil, fmt.Errorf("max_record_bytes: %d must be 1..%d", c.MaxRecordBytes, 1<<30)
	case c.MaxConnections < 1:
		return nil, fmt.Errorf("max_connections: %d must be at least 1", c.MaxConnections)
	case c.HeaderTimeout < 0, c.IdleTimeout < 0, c.RespondTimeout < 0:
		return nil, errors.New("header_timeout, idle_timeout and respond_timeout must not be negative")
	}
	addr, err := net.ResolveTCPAddr("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen: %q: want host:port, like 127.0.0.1:9880: %w", c.Listen, err)
	}
	private := c.Token != nil || c.TLS != nil && c.TLS.ClientAuth == tls.RequireAndVerifyClientCert
	if !addr.IP.IsLoopback() && !private && !c.InsecureListen {
		return nil, fmt.Errorf("listen: %s can be reached from other machines, and anybody there could write into your topics: "+
			"ask for a token or for client certificates, listen at 127.0.0.1, or say insecure_listen: true", c.Listen)
	}
	return addr, nil
}

// Addr is where it listens.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Serve answers requests until Shutdown, or until the router takes nothing any
// more, which is the error.
func (l *Listener) Serve() error {
	go func() { // the router's end is the listener's
		select {
		case <-l.failed:
			l.ln.Close()
		case <-l.stop:
		}
	}()
	err := l.accept()
	select {
	case <-l.failed:
		return l.routerError()
	case <-l.stop:
		return nil
	default:
		return fmt.Errorf("input %q: accept: %w", l.cfg.Name, err)
	}
}

// accept takes connections until the listening socket is closed. When there is
// no file descriptor left, or no memory, it waits and goes on.
func (l *Listener) accept() error {
	const longest = time.Second
	for wait := 5 * time.Millisecond; ; {
		nc, err := l.ln.Accept()
		if err == nil {
			wait = 5 * time.Millisecond
			l.setTrouble("accept", nil)
			l.open(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		l.setTrouble("accept", fmt.Errorf("take a connection: %w", err))
		what := "cannot take a connection; trying again"
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			what += "; raise the limit of open files, or lower max_connections"
		}
		l.quiet.Warn("accept", what, "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-l.stop:
			return net.ErrClosed
		}
		wait = min(2*wait, longest)
	}
}

// Shutdown accepts no more, answers what gets settled until ctx ends, then
// closes. Records that are not settled by then stay with the router's Sink;
// their clients are told that their fate is not known.
func (l *Listener) Shutdown(ctx context.Context) error {
	l.stopOnce.Do(func() {
		close(l.stop)
		l.ln.Close()
	})
	l.closeIdle()
	done := make(chan struct{})
	go func() {
		l.running.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		l.overOnce.Do(func() { close(l.over) }) // now they answer 503, and streams end
		select {
		case <-done:
		case <-time.After(lastWords):
			l.closeAll()
			err = fmt.Errorf("input %q: %d connections had to be cut: %w", l.cfg.Name, l.connections(), context.Cause(ctx))
		}
	}
	l.overOnce.Do(func() { close(l.over) })
	return err
}

// lastWords is how long the last answers get to go out.
const lastWords = time.Second

// Stats returns what was done so far.
func (l *Listener) Stats() Stats {
	s := Stats{
		Requests: map[int]int64{}, Bytes: l.bytes.Load(), InFlight: l.memory.inUse(),
		Connections: int64(l.connections()), Refused: l.refused.Load(),
	}
	for status := range l.answered {
		if n := l.answered[status].Load(); n > 0 {
			s.Requests[status] = n
		}
	}
	return s
}

// Trouble returns what keeps clients from being served, nil when all is well.
func (l *Listener) Trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return l.failure
	}
	var all []error
	for _, err := range l.trouble {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// setTrouble notes what is wrong with one thing; nil: nothing any more.
func (l *Listener) setTrouble(what string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(l.trouble, what)
		return
	}
	l.trouble[what] = err
}

// fail ends the input: the router takes nothing any more.
func (l *Listener) fail(err error) {
	l.failOnce.Do(func() {
		l.mu.Lock()
		l.failure = fmt.Errorf("input %q: %w", l.cfg.Name, err)
		l.mu.Unlock()
		close(l.failed)
	})
}

// routerError returns why the router takes nothing, nil while it does.
func (l *Listener) routerError() error {
	select {
	case <-l.failed:
	default:
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// stopping says that Shutdown was called.
func (l *Listener) stopping() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}
