package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/spool"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// ServiceEnv is what a Service is given from outside.
type ServiceEnv struct {
	Stdin  *os.File
	Stdout io.Writer
	Log    *slog.Logger
	Hard   context.Context // done: leave at once, whatever is pending
	Grace  time.Duration   // after the end was asked for, how long to wait for reports
	// Address says where a cluster is and as whom to speak to it. It is asked
	// again before every try.
	Address func(*config.Cluster) (stream.Address, error)
	// Latency returns the observer of a cluster's delivery latency, in seconds;
	// the observer may be nil.
	Latency func(cluster string) func(float64)
}

// Service runs a whole configuration: inputs, routes, buffers and clusters,
// until it is told to end or all its inputs have.
//
// Order: buffers and dead letters are opened first and closed last, clusters
// come next, then the pumps between them, inputs start last and stop first.
//
// Concurrency: Reload, Ready, Figures and Summary may be called at any time.
type Service struct {
	*outcomes
	env   ServiceEnv
	began time.Time
	cpu0  float64

	hard   context.Context // ends waiting for anything
	cancel context.CancelCauseFunc
	once   bool              // no input follows: the run is to end
	store  *checkpoint.Store // without a data_dir it keeps nothing
	lock   io.Closer         // of the data_dir

	change sync.Mutex // held by what starts or stops parts

	mu       sync.Mutex // guards what follows; a leaf
	cfg      *config.Config
	clusters map[string]*cluster
	lanes    map[string]*lane       // by route
	buffers  map[string]*buffer     // by route
	dead     map[string]*deadLetter // by path
	pumps    map[string]*job        // by route; guarded by change
	inputs   map[string]*input
	ending   bool
	gone     map[string]stream.Stats // of pools that were replaced, by cluster
	goneIn   map[string]InputFigures // counters of inputs that were replaced
	goneBuf  map[string]RouteFigures // counters of buffers that were closed, by route
	reload   int                     // -1 the last one failed, 1 it worked, 0 there was none
	partial  error                   // why not all of the configuration runs, after a reload that could not be undone
	ended    chan struct{}           // one token: an input has ended
	errs     []error
	adopted  sync.WaitGroup // batches looking for a new pool
	stdin    ingest.Rest    // between one reading of it and the next
}

// job is something that runs until it is stopped.
type job struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func start(ctx context.Context, run func(context.Context)) *job {
	ctx, cancel := context.WithCancel(ctx)
	j := &job{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(j.done)
		run(ctx)
	}()
	return j
}

func (j *job) stop() {
	j.cancel()
	<-j.done
}

// NewService opens everything that may fail for a wrong setting and starts it.
// Errors: what was wrong; nothing runs then.
func NewService(cfg *config.Config, env ServiceEnv) (*Service, error) {
	s := &Service{
		outcomes: newOutcomes(), env: env, began: time.Now(), cpu0: cpuSeconds(), cfg: cfg,
		clusters: map[string]*cluster{}, lanes: map[string]*lane{}, buffers: map[string]*buffer{}, dead: map[string]*deadLetter{},
		pumps: map[string]*job{}, inputs: map[string]*input{}, gone: map[string]stream.Stats{},
		goneIn: map[string]InputFigures{}, goneBuf: map[string]RouteFigures{}, ended: make(chan struct{}, 1),
	}
	s.hard, s.cancel = context.WithCancelCause(env.Hard)
	s.once = endsItself(cfg)
	if err := s.open(); err != nil {
		s.ending = true
		ctx, cancel := context.WithTimeout(s.hard, env.Grace)
		s.stopRest(ctx)
		cancel()
		s.close()
		return nil, err
	}
	return s, nil
}

// endsItself says whether all inputs of a configuration come to an end.
func endsItself(cfg *config.Config) bool {
	return !slices.ContainsFunc(cfg.Inputs, func(in config.Input) bool { return in.HTTP != nil || in.File != nil && in.File.Follow })
}

// open opens the data_dir and reports, and starts what the configuration says.
func (s *Service) open() (err error) {
	cfg := s.cfg
	if cfg.DataDir != "" {
		if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
			return fmt.Errorf("data_dir: %w (give the agent's user a directory it may write)", err)
		}
		if s.lock, err = checkpoint.Lock(cfg.DataDir); err != nil {
			return fmt.Errorf("data_dir: %w", err)
		}
		if s.store, err = checkpoint.Open(cfg.DataDir, s.env.Log); err != nil {
			return fmt.Errorf("data_dir: %w", err)
		}
	} else {
		s.store = checkpoint.Volatile(s.env.Log)
	}
	switch cfg.Reports.To {
	case "stdout":
		s.reports, err = openReports("-", s.env.Stdout)
	case "file":
		s.reports, err = openReports(cfg.Reports.Path, s.env.Stdout)
	}
	if err != nil {
		return err
	}
	s.change.Lock()
	defer s.change.Unlock()
	return s.apply(cfg)
}

// Run goes on until ctx ends, or all inputs have ended and none follows, and
// then stops everything in order. Nothing may be asked of the Service but its
// figures afterwards.
func (s *Service) Run(ctx context.Context) Result {
	for s.alive() {
		select {
		case <-s.ended:
			continue
		case <-ctx.Done():
		case <-s.hard.Done():
		}
		break
	}
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	defer context.AfterFunc(ctx, s.bound)() // it may be asked for while the rest is waited for
	s.change.Lock()
	defer s.change.Unlock()
	s.stopInputs(slices.Collect(maps.Keys(s.inputs)), nil)
	s.drainBuffers(ctx)
	s.adopted.Wait()
	s.stopRest(s.hard)
	s.close()
	return s.result()
}

// stopRest stops pumps and clusters. What is on its way is waited for until ctx
// ends: a start that fails at its last step, again and again, must not send the
// same records of a buffer each time.
func (s *Service) stopRest(ctx context.Context) {
	for name := range s.pumps {
		s.stopPump(name)
	}
	var all sync.WaitGroup
	for _, k := range s.clusters {
		all.Go(func() { k.stop(ctx, s, errEnding) })
	}
	all.Wait()
}

// bound ends all waiting once grace is over.
func (s *Service) bound() {
	if pause(s.hard, s.env.Grace) == nil {
		s.cancel(fmt.Errorf("not all delivery reports came within --grace %s", s.env.Grace))
	}
}

var errEnding = errors.New("the agent is shutting down")

// alive says whether an input still runs, or a reload is about to start one, or
// the next one may.
func (s *Service) alive() bool {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.partial != nil {
		return true
	}
	for _, in := range s.inputs {
		if !in.ended.Load() {
			return true
		}
	}
	return false
}

// drainBuffers waits until the buffers are empty, when the inputs have ended of
// themselves: a service that is told to stop leaves them for its next start.
func (s *Service) drainBuffers(ctx context.Context) {
	for s.hard.Err() == nil {
		pumped := false
		for _, j := range s.pumps {
			select {
			case <-j.done: // its cluster was given up
			default:
				pumped = true
			}
		}
		if !pumped || s.Summary().Pending == 0 || pause(ctx, 20*time.Millisecond) != nil {
			return
		}
	}
}

// close closes what open opened, as far as it came.
func (s *Service) close() {
	for _, d := range s.dead {
		d.close()
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.note(fmt.Errorf("checkpoints: %w", err))
		}
	}
	for name, b := range s.buffers {
		if err := b.Close(); err != nil {
			s.note(fmt.Errorf("buffer of route %s: %w", name, err))
		}
	}
	if s.reports != nil {
		if err := s.reports.close(); err != nil {
			s.note(err)
		}
	}
	if s.lock != nil {
		s.lock.Close()
	}
	s.cancel(nil)
}

func (s *Service) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}

// where names a record's source, for buffers.
func (s *Service) where(pos record.Position) (source string, offset int64) {
	return s.origins.get(pos.Source).Where(pos)
}

// giveBack returns records that were not taken to their origins.
//
// Those of a request and of a file come again and do not count as read; of a
// file that is read on only at the next start they count as pending, as do
// those of stdin, which nobody has any more. A buffer keeps its own.
func (s *Service) giveBack(pos []record.Position, why error) {
	ending := s.over()
	s.origins.each(pos, func(o origin, pos []record.Position) {
		if o.kind == fromRequest || o.kind == fromFile && !ending {
			s.books.read.Add(-int64(len(pos)))
		}
		o.Refused(pos, why)
		o.settled(len(pos))
	})
}

// returned gives back what a stopped pool still holds. Records of stdin go to
// whatever pool their route has then: nobody else has them.
func (s *Service) returned(p *stream.Pool, why error) {
	p.Leftover(func(b *record.Batch, from, to int) {
		var once *record.Batch
		for i := from; i < to; i++ {
			if s.origins.get(b.Pos[i].Source).kind != fromStdin {
				s.giveBack(b.Pos[i:i+1], why)
				continue
			}
			if once == nil {
				once = b.Fresh()
			}
			once.Again(b, i, record.Try{})
		}
		if once != nil {
			s.adopt(once)
		}
	})
}

// adopt sends a batch of stdin's records, over the pool its route has after a
// reload. When the service ends they stay pending, and it returns false.
func (s *Service) adopt(b *record.Batch) bool {
	if s.over() {
		return false
	}
	name := s.route(b.Route).name
	s.adopted.Go(func() {
		for {
			s.mu.Lock()
			l, known := s.lanes[name], routeOf(s.cfg, name) != nil
			s.mu.Unlock()
			switch {
			case l != nil:
				pool, err := l.cluster.wait(s.hard)
				if err == nil {
					err = pool.Submit(s.hard, b)
				}
				if err == nil || l.cluster.givenUp() != nil {
					return
				}
			case !known:
				s.env.Log.Error("records of stdin have no route any more; they stay pending", "route", name, "records", b.Len())
				return
			}
			if pause(s.hard, adoptAgain) != nil { // the reload goes on
				return
			}
		}
	})
	return true
}

// over says that the end was asked for.
func (s *Service) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending
}

// adoptAgain is how long a batch waits whose route has just lost its pool.
const adoptAgain = 50 * time.Millisecond

// dataPath returns a path below the data_dir.
func (s *Service) dataPath(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.DataDir}, elem...)...)
}

// openBuffer opens a route's buffer. What it holds counts as read.
func (s *Service) openBuffer(r *config.Route, id int32) (*buffer, error) {
	c := spool.DefaultConfig()
	c.Dir, c.Route, c.RouteID, c.MaxBytes = s.dataPath("buffer", r.Name), r.Name, id, int64(r.Buffer.MaxBytes)
	if err := c.WhenFull.UnmarshalText([]byte(r.Buffer.WhenFull)); err != nil {
		return nil, err
	}
	if r.Buffer.Fsync == "1s" {
		c.Fsync = spool.EverySecond
	}
	b := &buffer{}
	b.route.Store(id)
	reason := reasonDroppedOldest
	if c.WhenFull == spool.DropNewest {
		reason = reasonDroppedNewest
	}
	c.Dropped = func(n int64) { s.books.lose(b.route.Load(), reason, n) }
	var err error
	if b.Spool, err = spool.Open(c, s.env.Log); err != nil {
		return nil, fmt.Errorf("buffer of route %s: %w", r.Name, err)
	}
	b.source = s.origins.add(b.Spool, fromBuffer, nil)
	b.SetSource(b.source)
	s.books.read.Add(b.Stats().Opened)
	return b, nil
}
