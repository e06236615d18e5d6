package ship

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// Figures is what there is to say of a run at one moment, for metrics.
type Figures struct {
	Clusters []ClusterFigures
	Routes   []RouteFigures
	Inputs   []InputFigures
	Rejected map[[2]string]int64 // by route and reason
	Reload   int                 // 1: the last reload worked, -1: it failed, 0: there was none
}

// ClusterFigures is one cluster's part.
type ClusterFigures struct {
	Name   string
	Gone   bool // a reload has taken it out: only its counters go on
	Limits limit.Profile
	Routes map[string]stream.RouteStats
	stream.Stats
}

// RouteFigures is a route's buffer.
type RouteFigures struct {
	Name            string
	Bytes, Capacity int64
	Pending         int64 // records
	Oldest          time.Duration
	Dropped         int64
	Damaged         int64
	SyncErrors      int64
}

// InputFigures is one input's part.
type InputFigures struct {
	Name       string
	Records    int64
	Bytes      int64
	Lag        int64 // bytes there and not read, -1 where nobody knows
	Checkpoint time.Duration
	Kept       bool // it has checkpoints
}

// added sums the counters of two pools of one cluster.
func added(a, b stream.Stats) stream.Stats {
	a.Sent += b.Sent
	a.SentBytes += b.SentBytes
	a.Delivered += b.Delivered
	a.Resent += b.Resent
	a.Unknown += b.Unknown
	a.Opened += b.Opened
	a.Retried = sum(a.Retried, b.Retried)
	a.Codes = sum(a.Codes, b.Codes)
	a.Closed = sum(a.Closed, b.Closed)
	a.Waited = sum(a.Waited, b.Waited)
	a.Open, a.InFlight, a.Behind, a.PerSecond, a.Found = b.Open, b.InFlight, b.Behind, b.PerSecond, b.Found
	routes := maps.Clone(a.Routes)
	if routes == nil {
		routes = map[int32]stream.RouteStats{}
	}
	for id, r := range b.Routes {
		have := routes[id]
		routes[id] = stream.RouteStats{Sent: have.Sent + r.Sent, SentBytes: have.SentBytes + r.SentBytes, Codes: sum(have.Codes, r.Codes)}
	}
	a.Routes = routes
	return a
}

func sum[K comparable, V int | int64 | time.Duration](a, b map[K]V) map[K]V {
	out := maps.Clone(a)
	if out == nil {
		out = map[K]V{}
	}
	for k, v := range b {
		out[k] += v
	}
	return out
}

// stats returns a cluster's counters, those of replaced pools among them.
// Called with mu held.
func (s *Service) stats(name string) stream.Stats {
	st := s.gone[name]
	if k := s.clusters[name]; k != nil {
		if pool := k.now(); pool != nil {
			st = added(st, pool.Stats())
		}
	}
	return st
}

// Figures returns the figures as they stand.
func (s *Service) Figures() Figures {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := Figures{Rejected: map[[2]string]int64{}, Reload: s.reload}
	names := map[string]bool{}
	for name := range s.clusters {
		names[name] = true
	}
	for name := range s.gone {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c := ClusterFigures{Name: name, Stats: s.stats(name), Routes: map[string]stream.RouteStats{}}
		if k := s.clusters[name]; k != nil {
			c.Limits = k.cfg.Limits.Limit()
		} else {
			c.Gone = true
		}
		for id, r := range c.Stats.Routes { // a route has a new number after each change of it
			have := c.Routes[s.route(id).name]
			c.Routes[s.route(id).name] = stream.RouteStats{
				Sent: have.Sent + r.Sent, SentBytes: have.SentBytes + r.SentBytes, Codes: sum(have.Codes, r.Codes),
			}
		}
		f.Clusters = append(f.Clusters, c)
	}
	for _, name := range slices.Sorted(maps.Keys(s.buffers)) {
		f.Routes = append(f.Routes, s.buffered(name))
	}
	for _, name := range slices.Sorted(maps.Keys(s.inputs)) {
		in := s.inputs[name]
		was := s.goneIn[name]
		one := InputFigures{Name: name, Records: was.Records + in.sink.read.Load(), Bytes: was.Bytes + in.bytesRead(), Lag: -1}
		if in.tail != nil {
			one.Lag = in.tail.Stats().Lag
			if s.cfg.DataDir != "" {
				one.Kept, one.Checkpoint = true, s.store.Age()
			}
		}
		f.Inputs = append(f.Inputs, one)
	}
	s.countDamage()
	for why, n := range s.books.rejections() {
		f.Rejected[[2]string{s.route(why.route).name, why.reason}] += n
	}
	return f
}

// buffered returns the figures of a route's buffer, with the counters of those
// it had before. Called with mu held.
func (s *Service) buffered(route string) RouteFigures {
	st, was := s.buffers[route].Stats(), s.goneBuf[route]
	return RouteFigures{
		Name: route, Bytes: st.Bytes, Capacity: st.Capacity, Pending: st.Pending, Oldest: st.OldestAge,
		Dropped: was.Dropped + st.DroppedOldest + st.DroppedNewest, Damaged: was.Damaged + st.CorruptRecords,
		SyncErrors: was.SyncErrors + st.SyncErrors,
	}
}

// countDamage takes into the books what buffers found they cannot read. Called
// with mu held.
func (s *Service) countDamage() {
	for _, b := range s.buffers {
		if now := b.Stats().CorruptRecords; now > b.damaged {
			s.books.lose(b.route.Load(), reasonDamaged, now-b.damaged)
			b.damaged = now
		}
	}
}

// Summary returns the books as they stand.
func (s *Service) Summary() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countDamage()
	var st stream.Stats
	names := map[string]bool{}
	for name := range s.clusters {
		names[name] = true
	}
	for name := range s.gone {
		names[name] = true
	}
	for name := range names {
		st = added(st, s.stats(name))
	}
	sum := s.books.summary(st, s.began, cpuSeconds()-s.cpu0)
	sum.BytesRead = 0
	for _, was := range s.goneIn {
		sum.BytesRead += was.Bytes
	}
	for _, in := range s.inputs {
		sum.BytesRead += in.bytesRead()
	}
	for _, b := range s.buffers {
		sum.Buffered += b.Pending()
	}
	for _, d := range s.dead {
		sum.DeadLetter = cmp.Or(sum.DeadLetter, d.name())
	}
	return sum
}

// result is the end of a run. Records that are pending are safe with a buffer
// or a file, for the next start to go on with; only those of stdin are nobody's.
func (s *Service) result() Result {
	res := Result{Summary: s.Summary()}
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := s.errs
	if s.partial != nil {
		errs = append(errs, fmt.Errorf("a reload failed and could not be undone: %w", s.partial))
	}
	for _, name := range slices.Sorted(maps.Keys(s.clusters)) {
		if k := s.clusters[name]; s.once {
			var e *stream.EndpointError
			var t *stream.TopicError
			err := k.givenUp()
			if err != nil {
				errs = append(errs, fmt.Errorf("cluster %s: %w", name, err))
			}
			res.Denied = res.Denied || errors.As(err, &e) && e.Denied || errors.As(err, &t) && t.Denied
		}
	}
	kept := true
	for _, in := range s.inputs {
		kept = kept && (in.tail == nil || s.cfg.DataDir != "") && in.cfg.Stdin == nil
	}
	res.Kept = kept || res.Pending <= res.Buffered
	if err := context.Cause(s.hard); !res.Kept && err != nil && !errors.Is(err, context.Canceled) {
		errs = append(errs, err)
	}
	res.Err = errors.Join(errs...)
	return res
}

// Ready returns what keeps the service from doing its work, nothing when it is
// ready. What passes by itself within seconds does not count.
func (s *Service) Ready() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var why []string
	add := func(err error) {
		if err != nil {
			why = append(why, err.Error())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.clusters)) {
		add(s.clusters[name].why())
	}
	for _, name := range slices.Sorted(maps.Keys(s.buffers)) {
		st := s.buffers[name].Stats()
		switch {
		case st.Unready != "":
			why = append(why, fmt.Sprintf("buffer of route %s: %s", name, st.Unready))
		case st.Full:
			why = append(why, fmt.Sprintf("buffer of route %s: full, %s of %s", name, sizeText(st.Bytes), sizeText(st.Capacity)))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(s.dead)) {
		if err := s.dead[path].trouble.Load(); err != nil {
			add(*err)
		}
	}
	if err := s.store.Err(); err != nil {
		why = append(why, "checkpoints: "+err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(s.inputs)) {
		in := s.inputs[name]
		if in.listener != nil {
			if err := in.listener.Trouble(); err != nil {
				why = append(why, fmt.Sprintf("input %s: %v", name, err))
			}
		}
		if err := in.failure.Load(); err != nil && !s.ending {
			why = append(why, fmt.Sprintf("input %s: has ended: %v", name, *err))
		}
	}
	if s.partial != nil {
		add(fmt.Errorf("a reload failed and could not be undone, mend it and reload again: %w", s.partial))
	}
	if s.ending {
		why = append(why, errEnding.Error())
	}
	return why
}
