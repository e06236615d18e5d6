// Package ship is the pipeline: sources, pool and dead letter joined, started
// in order and stopped in reverse, and the books that prove nothing was lost.
package ship

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// Env is what a run is given from outside.
type Env struct {
	Target  stream.Target
	Profile limit.Profile
	Stdin   *os.File
	Stdout  io.Writer
	Log     *slog.Logger
	Hard    context.Context // done: leave at once, whatever is pending
	// Latency observes the time from sending to report, in seconds; may be nil.
	Latency func(float64)
	// Started, when not nil, is told of the run once it can be looked at.
	Started func(*Run)
}

// Result is how a run ended.
type Result struct {
	Summary
	// Err is the first thing that kept records from being read or delivered.
	Err error
	// Denied: credentials or permissions are what was in the way.
	Denied bool
	// Kept: what is pending is in files that are read on, or in disk buffers.
	Kept bool
}

// Run is one run of the pipeline.
//
// Concurrency: Stats and Progress may be called at any time.
type Run struct {
	*outcomes
	cfg   Config
	env   Env
	dead  *deadLetter
	pool  *stream.Pool
	began time.Time
	cpu0  float64

	hard   context.Context // ends waiting for anything
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	total  int64 // bytes of all files, -1 when not known
	errs   []error
	denied bool
	shown  int // dry run: rejections told of
	sample bool
}

// Start runs the pipeline until its inputs end, ctx does, or it cannot go on.
// An error is only returned for what was wrong before anything was read; all
// else is in the Result.
func Start(ctx context.Context, cfg Config, env Env) (Result, error) {
	if cfg.MaxRecordBytes == 8e6 && !cfg.fixedMax && env.Profile.MessageBytes > 0 {
		cfg.MaxRecordBytes = Size(env.Profile.MessageBytes)
	}
	r := &Run{cfg: cfg, env: env, outcomes: newOutcomes(), began: time.Now(), cpu0: cpuSeconds(), total: -1}
	r.hard, r.cancel = context.WithCancelCause(env.Hard)
	defer r.cancel(nil)
	if err := r.open(); err != nil {
		return Result{}, err
	}
	if env.Started != nil {
		env.Started(r)
	}
	defer context.AfterFunc(ctx, r.grace)()
	return r.finish(r.read(r.reading(ctx))), nil
}

// reading returns the context that inputs are read under: it ends with ctx, and
// when nothing read could be delivered or kept any more, for an input may be
// silent for ever then.
func (r *Run) reading(ctx context.Context) context.Context {
	ctx, stop := context.WithCancel(ctx)
	context.AfterFunc(r.hard, stop)
	if r.pool != nil && r.cfg.FromDeadLetter == "" {
		go func() {
			select {
			case <-r.pool.Broken():
				stop()
			case <-ctx.Done():
			}
		}()
	}
	return ctx
}

// grace bounds the wait for reports after a signal.
func (r *Run) grace() {
	timer := time.NewTimer(r.cfg.Grace)
	defer timer.Stop()
	select {
	case <-timer.C:
		r.cancel(fmt.Errorf("not all delivery reports came within --grace %s", r.cfg.Grace))
	case <-r.hard.Done():
	}
}

// open makes everything that may fail for a wrong setting.
func (r *Run) open() (err error) {
	if r.cfg.DryRun {
		return nil
	}
	if err := r.cfg.Overwrites(); err != nil {
		return err
	}
	if r.cfg.Reports != "" {
		if r.reports, err = openReports(r.cfg.Reports, r.env.Stdout); err != nil {
			return err
		}
		r.cfg.Stream.Reports = true
	}
	if r.dead, err = newDeadLetter(r.hard, r.cfg.DeadLetter, 0, r.cfg.patience, r.kept, r.env.Log, r.cancel); err != nil {
		return err
	}
	r.addRoute(r.cfg.Topic, r.dead)
	r.pool = stream.New(r.cfg.Stream, r.env.Target, r.env.Profile, r, r.env.Log, r.env.Latency)
	return nil
}

// read takes all inputs, one after another. A file that cannot be read is
// named and noted; the others go on.
func (r *Run) read(ctx context.Context) error {
	if r.cfg.FromDeadLetter != "" {
		return r.readDeadLetter(ctx)
	}
	enc, err := r.cfg.encoder()
	if err != nil {
		return err
	}
	router, err := r.oneRoute(enc)
	if err != nil {
		return err
	}
	reader := ingest.NewReader(ingest.LineConfig{
		RecordIDs: r.cfg.RecordIDHeader != "", StripCR: r.cfg.StripCR, SkipEmpty: r.cfg.SkipEmpty,
		MaxRecordBytes: int(r.cfg.MaxRecordBytes), Count: r.cfg.Count, Values: r.cfg.Input == "records",
	}, router)
	files := r.cfg.Files
	if len(files) == 0 {
		files = []string{"-"}
	}
	r.measure(files)
	for _, name := range files {
		if ctx.Err() != nil {
			break
		}
		if err = r.readFile(ctx, reader, name); err != nil {
			break
		}
	}
	if closeErr := router.Close(); err == nil || errors.Is(err, ingest.ErrCount) {
		err = closeErr
	}
	return err
}

// oneRoute returns the one route that flags describe.
func (r *Run) oneRoute(enc record.EncoderConfig) (*ingest.Router, error) {
	return ingest.NewRouter(ingest.RouterConfig{
		Batch: r.cfg.Batch, Routes: []ingest.Route{{Topic: r.cfg.Topic, Encoder: enc}}, MaxRecordBytes: int(r.cfg.MaxRecordBytes),
	}, r)
}

// readFile reads one file. Only an error that ends the run is returned.
func (r *Run) readFile(ctx context.Context, reader *ingest.Reader, name string) error {
	in, err := r.openInput(ctx, name)
	if name == "-" {
		name = "stdin"
	}
	if err == nil {
		err = in.Read(reader, r.origins.add(named(name), fromFile, nil), func(n int) { r.books.readBytes.Add(int64(n)) })
		in.Close()
	}
	if err == nil || errors.Is(err, ingest.ErrCount) || endsRun(err) {
		return err
	}
	r.env.Log.Error("cannot read a file; the others go on", "file", name, "error", err)
	r.note(fmt.Errorf("read %s: %w", name, err))
	return nil
}

// endsRun tells what the pool or the dead letter says from what a file does.
func endsRun(err error) bool {
	var t *stream.TopicError
	var e *stream.EndpointError
	return errors.As(err, &t) || errors.As(err, &e) || errors.Is(err, errLeave)
}

var errLeave = errors.New("the run is over")

func (r *Run) openInput(ctx context.Context, name string) (*ingest.Input, error) {
	if name == "-" {
		return ingest.Stdin(ctx, r.env.Stdin)
	}
	return ingest.OpenFile(ctx, name)
}

func (r *Run) readDeadLetter(ctx context.Context) error {
	var over *record.Type
	if r.cfg.fixedType {
		t, err := record.ParseType(r.cfg.ValueType)
		if err != nil {
			return err
		}
		over = &t
	}
	enc, err := r.cfg.encoder()
	if err != nil {
		return err
	}
	router, err := r.oneRoute(enc)
	if err != nil {
		return err
	}
	reader := ingest.NewDeadLetterReader(router, r.cfg.Topic, over)
	r.measure([]string{r.cfg.FromDeadLetter})
	in, err := r.openInput(ctx, r.cfg.FromDeadLetter)
	if err != nil {
		return err
	}
	defer in.Close()
	reader.Count = r.cfg.Count
	err = in.ReadDeadLetter(reader, r.origins.add(named(r.cfg.FromDeadLetter), fromFile, nil), func(n int) { r.books.readBytes.Add(int64(n)) })
	if closeErr := router.Close(); err == nil || errors.Is(err, ingest.ErrCount) {
		err = closeErr
	}
	return err
}

// measure adds up what there is to read, for the progress bar.
func (r *Run) measure(files []string) {
	var total int64
	for _, name := range files {
		info, err := os.Stat(name)
		if name == "-" {
			info, err = r.env.Stdin.Stat()
		}
		if err != nil {
			continue
		}
		if !info.Mode().IsRegular() {
			total = -1
			break
		}
		total += info.Size()
	}
	r.mu.Lock()
	r.total = total
	r.mu.Unlock()
}

// stopWithin is how long streams get to end properly once nothing is owed.
const stopWithin = 5 * time.Second

// finish drains what was read and adds the books up. A run that was told to
// stop waits for reports as long as its grace.
func (r *Run) finish(readErr error) Result {
	if readErr != nil && !errors.Is(readErr, ingest.ErrCount) && !errors.Is(readErr, errLeave) {
		r.note(readErr)
	}
	var stats stream.Stats
	if r.pool != nil {
		if err := r.pool.Drain(r.hard); err != nil {
			r.note(err)
		}
		// Whatever still comes in the next seconds is welcome, unless the time is up.
		bound, cancel := context.WithTimeout(r.hard, stopWithin)
		r.pool.Stop(bound)
		cancel()
		r.dead.close()
		stats = r.pool.Stats()
	}
	if r.reports != nil {
		if err := r.reports.close(); err != nil {
			r.note(err)
		}
	}
	res := Result{Summary: r.books.summary(stats, r.began, cpuSeconds()-r.cpu0)}
	if res.Pending > 0 && r.hard.Err() != nil {
		r.note(context.Cause(r.hard)) // the dead letter's end among them
	}
	res.DryRun = r.cfg.DryRun
	if r.dead != nil {
		res.DeadLetter = r.dead.name()
	}
	r.mu.Lock()
	res.Err, res.Denied = errors.Join(r.errs...), r.denied
	r.mu.Unlock()
	return res
}

// note keeps an error for the Result.
func (r *Run) note(err error) {
	var t *stream.TopicError
	var e *stream.EndpointError
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.As(err, &t) && t.Denied || errors.As(err, &e) && e.Denied {
		r.denied = true
	}
	for _, known := range r.errs {
		if known.Error() == err.Error() {
			return
		}
	}
	r.errs = append(r.errs, err)
}

// Submit counts a batch as read and hands it to the pool.
func (r *Run) Submit(b *record.Batch) error {
	n := b.Len()
	r.books.read.Add(int64(n))
	if r.cfg.DryRun {
		r.showSample(b)
		b.Seal()
		b.Resolve(n)
		return nil
	}
	if r.hard.Err() != nil { // the Pool takes what it has room for
		r.note(context.Cause(r.hard))
		b.Discard()
		return errLeave
	}
	err := r.pool.Submit(r.hard, b)
	if err == nil {
		return nil
	}
	b.Discard()
	var t *stream.TopicError
	switch {
	case errors.As(err, &t) && r.cfg.FromDeadLetter != "" && r.cfg.Topic == "":
		r.note(err) // the file's other topics go on
		return nil
	case errors.As(err, &t), r.hard.Err() == nil:
		return err
	}
	r.note(context.Cause(r.hard))
	return errLeave
}

// Reject counts a record as read that can never be sent, and keeps it.
func (r *Run) Reject(_ int32, topic string, pos record.Position, payload []byte, why *record.InvalidError) error {
	r.books.read.Add(1)
	r.books.refusedHere(why.Code)
	if r.cfg.DryRun {
		r.showRejection(topic, pos, why)
		return nil
	}
	if r.hard.Err() != nil {
		r.note(context.Cause(r.hard))
		return errLeave
	}
	if why.Reason == ingest.ReasonDeadLetter {
		r.keepLine(topic, pos, payload, why)
		return nil
	}
	d := refused(r.cfg.Input == "records", pos, payload)
	r.keep(&d, 0, topic, pos, stream.Rejection{Code: why.Code, Reason: why.Reason, Message: why.Message})
	return nil
}

// keepLine keeps a line of a dead-letter file that cannot be sent again. It
// still tells of the record it told of; a line that told of none is kept as a
// record that is to be mended, for it must not be sent as anyone's value.
func (r *Run) keepLine(topic string, pos record.Position, line []byte, why *record.InvalidError) {
	d, err := ingest.ParseDeadLetter(line)
	if err != nil {
		d = ingest.DeadLetter{Raw: true}
		d.SetPayload(line)
		r.keep(&d, 0, topic, pos, stream.Rejection{Code: why.Code, Reason: why.Reason, Message: why.Message})
		return
	}
	d.Time = time.Now().UTC().Format(time.RFC3339Nano)
	d.ErrorCode, d.Reason, d.Message = why.Code, why.Reason, why.Message
	r.dead.put(rejected{DeadLetter: d, pos: pos})
}

// The most rejections a dry run tells of one by one.
const maxShown = 20

func (r *Run) showRejection(topic string, pos record.Position, why *record.InvalidError) {
	r.books.reject(0, topic, why.Reason)
	if r.shown++; r.shown <= maxShown {
		source, _ := r.origins.get(pos.Source).Where(pos)
		r.env.Log.Warn("would be rejected", "source", source, "position", pos.Offset, "error", why.Message)
	}
}

func (r *Run) showSample(b *record.Batch) {
	if !r.sample {
		r.sample = true
		r.env.Log.Info("the first record as it would be sent", "topic", b.Topic, "record", string(b.Bytes(0, 1)))
	}
}

// Now returns the books and the pool's figures as they stand.
func (r *Run) Now() (Summary, stream.Stats) {
	var stats stream.Stats
	if r.pool != nil {
		stats = r.pool.Stats()
	}
	return r.books.summary(stats, r.began, cpuSeconds()-r.cpu0), stats
}

// Figures returns what metrics tell of the run: its cluster under its id, its
// one route under the topic's name, all it reads as one input.
func (r *Run) Figures() Figures {
	s, st := r.Now()
	f := Figures{
		Inputs:   []InputFigures{{Name: "args", Records: s.Read, Bytes: s.BytesRead, Lag: -1}},
		Clusters: []ClusterFigures{{Name: r.env.Target.ClusterID, Limits: r.env.Profile, Stats: st, Routes: map[string]stream.RouteStats{r.cfg.Topic: st.Routes[0]}}},
		Rejected: map[[2]string]int64{},
	}
	for why, n := range r.books.rejections() {
		f.Rejected[[2]string{r.cfg.Topic, why.reason}] += n
	}
	return f
}

// Total returns how many bytes there are to read, -1 when nobody knows.
func (r *Run) Total() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.total
}
