package listener

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry numbers origins and knows when one was given back.
type registry struct {
	mu      sync.Mutex
	origins map[int32]ingest.Origin
	next    int32
}

func (g *registry) Register(o ingest.Origin) int32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next++
	g.origins[g.next] = o
	return g.next
}

func (g *registry) Release(src int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.origins[src] == nil {
		panic(fmt.Sprintf("source %d given back twice", src))
	}
	delete(g.origins, src)
}

func (g *registry) origin(src int32) ingest.Origin {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.origins[src]
	if o == nil {
		panic(fmt.Sprintf("a record of source %d settled after it was given back", src))
	}
	return o
}

func (g *registry) left() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.origins)
}

// one is one record as a sink saw it.
type one struct {
	topic, wire, payload string
	raw                  bool // its batch wants reports
	pos                  record.Position
}

// sink is what is behind the router. decide says what becomes of a record.
type sink struct {
	reg    *registry
	decide func(o one) verdict
	block  chan struct{} // Submit waits until it is closed; nil: never
	fail   error         // of Submit

	mu   sync.Mutex
	got  []one
	late []func()
}

// verdict is what becomes of a record.
type verdict struct {
	report   string // the cluster's own, where the batch wants them
	code     int    // rejected with it
	message  string
	buffered bool
	refused  error
	late     bool // not before settle is called
}

func (s *sink) Submit(b *record.Batch) error {
	s.mu.Lock()
	block, fail := s.block, s.fail
	s.mu.Unlock()
	if block != nil {
		<-block
	}
	if fail != nil {
		b.Discard()
		return fail
	}
	for i := range b.Len() {
		o := one{topic: b.Topic, wire: string(b.Bytes(i, i+1)), raw: b.Raw, pos: b.Pos[i]}
		if parts, err := record.Decode(b.Bytes(i, i+1)); err == nil {
			o.payload = string(parts.Payload)
		}
		s.take(o)
	}
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func (s *sink) Reject(_ int32, topic string, pos record.Position, payload []byte, why *record.InvalidError) error {
	o := one{topic: topic, payload: string(payload), pos: pos}
	s.mu.Lock()
	s.got = append(s.got, o)
	s.mu.Unlock()
	s.reg.origin(pos.Source).Rejected(pos, why.Code, why.Message)
	return nil
}

func (s *sink) take(o one) {
	var v verdict
	if s.decide != nil {
		v = s.decide(o)
	}
	settle := func() { s.settleOne(o, v) }
	s.mu.Lock()
	s.got = append(s.got, o)
	if v.late {
		s.late = append(s.late, settle)
	}
	s.mu.Unlock()
	if !v.late {
		settle()
	}
}

func (s *sink) settleOne(o one, v verdict) {
	origin := s.reg.origin(o.pos.Source)
	if rep, ok := origin.(ingest.Reporter); ok && o.raw && v.report != "" {
		rep.Report(o.pos, []byte(v.report))
	}
	pos := []record.Position{o.pos}
	switch {
	case v.refused != nil:
		origin.Refused(pos, v.refused)
	case v.code != 0:
		origin.Rejected(o.pos, v.code, v.message)
	case v.buffered:
		origin.Buffered(pos)
	default:
		origin.Delivered(pos)
	}
}

// settle settles the late records, in any order given: nil is theirs.
func (s *sink) settle() {
	s.mu.Lock()
	late := s.late
	s.late = nil
	s.mu.Unlock()
	for _, f := range late {
		f()
	}
}

// waitLate waits until n records are held back.
func (s *sink) waitLate(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d records with the sink", n), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.late) == n
	})
}

func (s *sink) payloads() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, o := range s.got {
		out = append(out, o.payload)
	}
	return out
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got)
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("never came:", what)
}

// syncBuffer is a log that tests read.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// rig is a listener with a fake behind it.
type rig struct {
	*Listener
	sink   *sink
	reg    *registry
	log    *syncBuffer
	url    string
	router *ingest.Router
	served chan error
}

type setup struct {
	Config
	sink    *sink
	encoder record.EncoderConfig
	batch   ingest.BatchConfig
}

func config() setup {
	cfg := DefaultConfig()
	cfg.Name, cfg.Listen = "edge", "127.0.0.1:0"
	cfg.AllowTopics, cfg.ClusterID = []string{"t", "logs-*"}, func() string { return "lkc-1" }
	cfg.RespondTimeout, cfg.SkipEmpty = 5*time.Second, false
	return setup{Config: cfg, sink: &sink{}, encoder: record.DefaultEncoderConfig(), batch: ingest.BatchConfig{Bytes: 64 << 10, Linger: time.Millisecond}}
}

// start serves until the test ends; by then every origin is given back.
func start(t testing.TB, cfg setup) *rig {
	t.Helper()
	g := startLeaky(t, cfg)
	t.Cleanup(func() { eventually(t, "the release of every origin", func() bool { return g.reg.left() == 0 }) })
	return g
}

func startLeaky(t testing.TB, cfg setup) *rig {
	t.Helper()
	reg := &registry{origins: map[int32]ingest.Origin{}}
	cfg.sink.reg = reg
	router, err := ingest.NewRouter(ingest.RouterConfig{
		Batch: cfg.batch, Routes: []ingest.Route{{Topic: "t", AllowTopics: cfg.AllowTopics, Encoder: cfg.encoder}},
		MaxRecordBytes: int(cfg.MaxRecordBytes), RawReports: !cfg.AfterBuffer,
	}, cfg.sink)
	if err != nil {
		t.Fatal(err)
	}
	log := &syncBuffer{}
	l, err := New(cfg.Config, router, reg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	g := &rig{Listener: l, sink: cfg.sink, reg: reg, log: log, router: router, url: "http://" + l.Addr().String(), served: make(chan error, 1)}
	if cfg.TLS != nil {
		g.url = "https://" + l.Addr().String()
	}
	go func() { g.served <- l.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = l.Shutdown(ctx)
		<-g.served
		_ = router.Close()
	})
	return g
}

// post sends a body and returns the answer.
func (g *rig) post(t testing.TB, path, contentType, body string, header ...string) (int, string) {
	t.Helper()
	resp, text := g.do(t, "POST", path, contentType, strings.NewReader(body), header...)
	return resp.StatusCode, text
}

func (g *rig) do(t testing.TB, method, path, contentType string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, g.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return resp, strings.TrimSuffix(string(text), "\n")
}

// client keeps no connection, so that none outlives a test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}, Timeout: 10 * time.Second}

// raw sends bytes as they are and returns all that comes back.
func (g *rig) raw(t testing.TB, request string) string {
	t.Helper()
	nc := g.dial(t)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(nc)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Logf("read: %v", err)
	}
	return string(answer)
}

func (g *rig) dial(t testing.TB) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", g.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return nc
}
