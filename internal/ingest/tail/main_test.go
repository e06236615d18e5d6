package tail

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
	"github.com/produce-agent/produce-agent/internal/record"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "48"); err != nil { // these tests wait most of the time
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// settle is what becomes of the records a sink was given.
type settle int

const (
	atOnce settle = iota
	late          // in any order, some time later
	some          // one in three never in this run
)

// got is one record that was settled.
type got struct {
	payload string
	reason  string // of a rejection
	pos     record.Position
	raw     string // as it is sent
	from    string
}

// sink takes records and settles them.
type sink struct {
	mode settle
	gate chan struct{} // when not nil, Submit waits until it is closed

	mu      sync.Mutex
	origins map[int32]ingest.Origin
	next    int32
	out     []got
	counts  map[string]int
	held    []func()
	given   int
	batches sync.WaitGroup
	stop    chan struct{}
}

func newSink(mode settle) *sink {
	return &sink{mode: mode, origins: map[int32]ingest.Origin{}, counts: map[string]int{}, stop: make(chan struct{})}
}

func (s *sink) Register(o ingest.Origin) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	s.origins[s.next] = o
	return s.next
}

func (s *sink) Release(src int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.origins[src] == nil {
		panic("BUG: released twice")
	}
	delete(s.origins, src)
}

func (s *sink) origin(src int32) ingest.Origin {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.origins[src]
	if o == nil {
		panic("BUG: a record of a source that was released")
	}
	return o
}

func (s *sink) Submit(b *record.Batch) error {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-s.stop:
			b.Discard()
			return context.Canceled
		}
	}
	var all []got
	for i := range b.Len() {
		parts, err := record.Decode(b.Bytes(i, i+1))
		if err != nil {
			return err
		}
		g := got{payload: string(parts.Payload), pos: b.Pos[i], raw: string(b.Bytes(i, i+1))}
		all = append(all, g)
	}
	b.Seal()
	b.Resolve(b.Len())
	s.batches.Add(1)
	switch s.mode {
	case atOnce:
		s.give(all)
	case late:
		go func() {
			select {
			case <-time.After(time.Duration(rand.IntN(30)) * time.Millisecond):
			case <-s.stop:
			}
			s.give(all)
		}()
		return nil
	case some:
		kept := all[:0:0]
		for _, g := range all {
			s.mu.Lock()
			s.given++
			keep := s.given%3 != 0
			s.mu.Unlock()
			if keep {
				kept = append(kept, g)
			} else {
				o := s.origin(g.pos.Source)
				s.mu.Lock()
				s.held = append(s.held, func() { o.Refused([]record.Position{g.pos}, context.Canceled) })
				s.mu.Unlock()
			}
		}
		s.give(kept)
	}
	return nil
}

// give settles records of any sources.
func (s *sink) give(all []got) {
	defer s.batches.Done()
	for len(all) > 0 {
		src := all[0].pos.Source
		n := 0
		var pos []record.Position
		for n < len(all) && all[n].pos.Source == src {
			pos = append(pos, all[n].pos)
			n++
		}
		o := s.origin(src)
		s.mu.Lock()
		for i, g := range all[:n] {
			g.from, _ = o.Where(pos[i])
			s.counts[g.payload]++
			s.out = append(s.out, g)
		}
		s.mu.Unlock()
		o.Delivered(pos)
		all = all[n:]
	}
}

func (s *sink) Reject(_ int32, _ string, pos record.Position, payload []byte, why *record.InvalidError) error {
	o := s.origin(pos.Source)
	s.mu.Lock()
	name, _ := o.Where(pos)
	s.out = append(s.out, got{payload: string(payload), reason: why.Reason + ": " + why.Message, pos: pos, from: name})
	s.mu.Unlock()
	o.Rejected(pos, why.Code, why.Message)
	return nil
}

// rig is an agent, its files and its checkpoints.
type rig struct {
	t       *testing.T
	dir     string // of the files
	data    string
	cfg     Config
	mode    settle
	enc     record.EncoderConfig
	gate    chan struct{}
	noWatch bool

	log    *bytes.Buffer
	logMu  sync.Mutex
	sink   *sink
	tail   *Tail
	store  *checkpoint.Store
	router *ingest.Router
	cancel context.CancelFunc
	done   chan error

	wrote map[string]int // lines
	seen  map[string]int // of earlier runs
	all   []got
	n     int
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), data: t.TempDir(), wrote: map[string]int{}, seen: map[string]int{}, log: &bytes.Buffer{}}
	r.enc = record.DefaultEncoderConfig()
	r.cfg = DefaultConfig()
	r.cfg.Name = "in"
	r.cfg.Include = []string{filepath.Join(r.dir, "*.log")}
	r.cfg.Poll, r.cfg.Grace = 20*time.Millisecond, 100*time.Millisecond
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("log:\n%s", r.logged())
		}
	})
	return r
}

// Write implements io.Writer, for the log.
func (r *rig) Write(p []byte) (int, error) {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.Write(p)
}

func (r *rig) logged() string {
	r.logMu.Lock()
	defer r.logMu.Unlock()
	return r.log.String()
}

// start runs the agent.
func (r *rig) start() {
	r.t.Helper()
	if r.cancel != nil {
		return
	}
	log := slog.New(slog.NewTextHandler(r, nil))
	var err error
	if r.store, err = checkpoint.Open(r.data, log); err != nil {
		r.t.Fatal(err)
	}
	r.sink = newSink(r.mode)
	r.sink.gate = r.gate
	r.router, err = ingest.NewRouter(ingest.RouterConfig{
		Batch: ingest.DefaultBatchConfig(), Routes: []ingest.Route{{Topic: "t", Encoder: r.enc}}, MaxRecordBytes: r.cfg.MaxRecordBytes,
	}, r.sink)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.tail, err = New(r.cfg, r.router, r.sink, r.store, log); err != nil {
		r.t.Fatal(err)
	}
	r.tail.quiet, r.tail.noWatch = 100*time.Millisecond, r.noWatch
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan error, 1)
	go func() { r.done <- r.tail.Run(ctx) }()
}

// stop ends the agent as a signal does.
func (r *rig) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	close(r.sink.stop)
	if err := <-r.done; err != nil {
		r.t.Error("run:", err)
	}
	r.after()
}

// wait waits until the agent ends by itself.
func (r *rig) wait() {
	r.t.Helper()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Error("run:", err)
		}
	case <-time.After(patience):
		r.t.Fatalf("it does not end; %d of %d lines\n%s", len(r.got()), len(r.wrote), r.logged())
	}
	r.cancel()
	close(r.sink.stop)
	r.after()
}

func (r *rig) after() {
	r.t.Helper()
	if err := r.router.Close(); err != nil && r.sink.gate == nil {
		r.t.Error("router:", err)
	}
	if r.mode != some {
		r.sink.batches.Wait()
	}
	for _, f := range r.sink.held {
		f()
	}
	if n := len(r.sink.origins); n > 0 && r.sink.gate == nil {
		r.t.Errorf("%d sources were not released", n)
	}
	if err := r.store.Close(); err != nil {
		r.t.Error("store:", err)
	}
	r.take()
	r.cancel, r.sink = nil, nil
}

// take keeps what a run delivered.
func (r *rig) take() {
	r.sink.mu.Lock()
	defer r.sink.mu.Unlock()
	for p, n := range r.sink.counts {
		r.seen[p] += n
	}
	r.all = append(r.all, r.sink.out...)
}

// got returns how often each line was delivered so far.
func (r *rig) got() map[string]int {
	out := maps.Clone(r.seen)
	if r.sink != nil {
		r.sink.mu.Lock()
		defer r.sink.mu.Unlock()
		for p, n := range r.sink.counts {
			out[p] += n
		}
	}
	return out
}

// records returns all records so far.
func (r *rig) records() []got {
	out := slices.Clone(r.all)
	if r.sink != nil {
		r.sink.mu.Lock()
		defer r.sink.mu.Unlock()
		out = append(out, r.sink.out...)
	}
	return out
}

// until waits for something.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain until %s; log:\n%s", what, r.logged())
		}
	}
}

// delivered waits until every line written was delivered.
func (r *rig) delivered() {
	r.t.Helper()
	end := time.Now().Add(patience)
	for {
		got := r.got()
		missing := 0
		for line, n := range r.wrote {
			if got[line] < n {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(end) {
			r.judge()
			r.t.Fatalf("%d lines of %d did not come", missing, len(r.wrote))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// judge compares what was delivered with what was written: each line once.
func (r *rig) judge() {
	r.t.Helper()
	got := r.got()
	lost, dup, wrong := 0, 0, 0
	tell := func(what, line string) {
		if lost+dup+wrong < 6 {
			r.t.Errorf("%s: %.80q", what, line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(r.wrote)) {
		switch n := got[line]; {
		case n < r.wrote[line]:
			tell("lost", line)
			lost++
		case n > r.wrote[line]:
			tell(fmt.Sprintf("delivered %d times", n), line)
			dup++
		}
	}
	for line := range got {
		if r.wrote[line] == 0 {
			tell("never written", line)
			wrong++
		}
	}
	if lost+dup+wrong > 0 {
		r.t.Errorf("of %d lines: lost %d, duplicate %d, wrong %d", len(r.wrote), lost, dup, wrong)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// lines makes n lines nobody has seen, and expects them.
func (r *rig) lines(n int) string {
	var b strings.Builder
	for range n {
		r.n++
		line := fmt.Sprintf("line %06d of %s", r.n, r.t.Name())
		r.wrote[line]++
		b.WriteString(line + "\n")
	}
	return b.String()
}

// write appends to a file.
func (r *rig) write(name, text string) {
	r.t.Helper()
	f, err := os.OpenFile(r.path(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	r.must(err)
	_, err = f.WriteString(text)
	r.must(err)
	r.must(f.Close())
}

func (r *rig) append(name string, n int) { r.t.Helper(); r.write(name, r.lines(n)) }

func (r *rig) rename(from, to string) {
	r.t.Helper()
	r.must(os.Rename(r.path(from), r.path(to)))
}

func (r *rig) remove(name string) { r.t.Helper(); r.must(os.Remove(r.path(name))) }
