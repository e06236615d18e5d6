package ship

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/listener"
	"github.com/produce-agent/produce-agent/internal/ingest/tail"
	"github.com/produce-agent/produce-agent/internal/record"
)

// input is a running input.
type input struct {
	cfg    config.Input
	files  string // the state of its certificates
	routes []config.Route
	sink   *sink
	router *ingest.Router
	job    *job
	give   context.CancelCauseFunc // ends the sink's waiting

	tail     *tail.Tail         // of a file input
	listener *listener.Listener // of an http input
	bytes    atomic.Int64       // of stdin

	ended   atomic.Bool
	failure atomic.Pointer[error] // why it has ended
}

// openInput makes what of an input may fail for a wrong setting.
func (s *Service) openInput(c config.Input, routes []config.Route) (in *input, err error) {
	in = &input{cfg: c, files: certificates(&c), routes: routes, sink: &sink{s: s, lanes: map[int32]*lane{}}}
	ctx, give := context.WithCancelCause(s.hard)
	in.sink.ctx, in.give = ctx, give
	defer func() {
		if err != nil {
			give(err)
		}
	}()
	var lanes []*lane
	for _, r := range routes {
		l := s.lanes[r.Name]
		lanes = append(lanes, l)
		in.sink.lanes[l.id] = l
	}
	if in.router, err = s.router(c, routes, lanes, in.sink); err != nil {
		return nil, err
	}
	log := s.env.Log // they say which input they are
	switch {
	case c.File != nil:
		cfg, err := tailConfig(c, routes)
		if err != nil {
			return nil, err
		}
		in.tail, err = tail.New(cfg, in.router, registry{s.origins, fromFile, in.sink}, s.store, log)
		return in, err
	case c.HTTP != nil:
		in.sink.refuses, in.sink.buffers = true, c.HTTP.Respond == "after_buffer"
		cfg, err := listenConfig(c, lanes[0].cluster, routes)
		if err != nil {
			return nil, err
		}
		if in.listener, err = listener.New(cfg, in.router, registry{s.origins, fromRequest, in.sink}, log); err != nil {
			return nil, err
		}
		log.Info("listening", "input", c.Name, "address", in.listener.Addr().String(), "respond", c.HTTP.Respond)
	default:
		in.sink.buffers, in.sink.stdin = true, true
	}
	return in, nil
}

// begin starts an input.
func (s *Service) begin(in *input) {
	in.job = start(s.hard, func(ctx context.Context) {
		var err error
		switch {
		case in.tail != nil:
			defer context.AfterFunc(ctx, func() { in.give(errEnding) })()
			err = in.tail.Run(ctx)
		case in.listener != nil:
			err = in.listener.Serve()
		default:
			err = in.readStdin(ctx, s)
		}
		s.ends(in, err)
	})
}

// abandon gives up an input that never began.
func (in *input) abandon() {
	if in.listener != nil {
		_ = in.listener.Shutdown(in.sink.ctx)
	}
	in.give(errEnding)
}

// ends is what comes behind an input's end.
func (s *Service) ends(in *input, err error) {
	if closeErr := in.router.Close(); err == nil && closeErr != nil && !errors.Is(closeErr, errEnding) {
		err = closeErr
	}
	if err != nil && !errors.Is(err, errEnding) && s.hard.Err() == nil {
		s.env.Log.Error("an input has ended; the others go on", "input", in.cfg.Name, "error", err)
		s.note(fmt.Errorf("input %s: %w", in.cfg.Name, err))
		in.failure.Store(&err)
	}
	in.ended.Store(true) // before Run looks
	select {
	case s.ended <- struct{}{}:
	default:
	}
}

// bytesRead is how much was read so far.
func (in *input) bytesRead() int64 {
	switch {
	case in.tail != nil:
		return in.tail.Stats().Bytes
	case in.listener != nil:
		return in.listener.Stats().Bytes
	}
	return in.bytes.Load()
}

// end stops the input. A listener gets until ctx ends to answer what it has
// taken, and stdin to hand over what was read.
func (in *input) end(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { in.give(errEnding) })
	defer stop()
	if in.listener != nil {
		_ = in.listener.Shutdown(ctx)
	}
	in.job.stop()
	in.sink.again.Wait()
	in.give(errEnding)
}

// router makes the Router of an input.
func (s *Service) router(in config.Input, routes []config.Route, lanes []*lane, to ingest.Sink) (*ingest.Router, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	cfg := ingest.RouterConfig{Batch: ingest.DefaultBatchConfig(), Vars: record.Vars{Host: host, Input: in.Name}}
	cfg.RawReports = in.HTTP != nil && in.HTTP.Respond == "after_delivery"
	cfg.MaxRecordBytes, _ = recordRules(routes)
	for i := range routes {
		r := &routes[i]
		c := lanes[i].cluster.cfg.Streams
		if i == 0 || c.Linger < cfg.Batch.Linger {
			cfg.Batch.Linger = c.Linger
		}
		if i == 0 || int(c.BatchBytes) < cfg.Batch.Bytes {
			cfg.Batch.Bytes = int(c.BatchBytes)
		}
		one, err := ingestRoute(r, lanes[i].id)
		if err != nil {
			return nil, fmt.Errorf("route %s: %w", r.Name, err)
		}
		cfg.Routes = append(cfg.Routes, one)
	}
	return ingest.NewRouter(cfg, to)
}

// readStdin reads standard input to its end. A reload leaves it where it is, in
// the middle of a line if need be, and reads on from there.
func (in *input) readStdin(ctx context.Context, s *Service) error {
	src, err := ingest.Stdin(ctx, s.env.Stdin)
	if err != nil {
		return err
	}
	defer src.Leave()
	cfg := ingest.LineConfig{StripCR: in.cfg.Stdin.StripCR, SkipEmpty: in.cfg.Stdin.SkipEmpty, Rest: &s.stdin}
	cfg.MaxRecordBytes, cfg.RecordIDs = recordRules(in.routes)
	number := s.origins.add(named("stdin"), fromStdin, in.sink)
	r := ingest.NewReader(cfg, in.router)
	err = src.Read(r, number, func(n int) { in.bytes.Add(int64(n)) })
	if err == nil && src.Live && s.over() { // a line that was begun is one, for nobody reads on
		err = r.Read(strings.NewReader(""), number, src.ID, false)
	}
	return err
}
