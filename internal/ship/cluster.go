package ship

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// cluster is a configured cluster and the pool that produces to it. It has none
// until its endpoint has said where it is and which cluster it serves.
type cluster struct {
	cfg    config.Cluster
	routes []config.Route // that produce to it: their retry and ordering are the pool's
	log    *slog.Logger

	ready   chan struct{} // closed once pool is set
	stopped chan struct{} // closed once nobody looks for the endpoint any more
	cancel  context.CancelFunc

	mu      sync.Mutex
	pool    *stream.Pool
	target  stream.Target
	trouble error // why there is no pool yet
	failed  bool  // there will be none: trouble says why
}

// poolConfig translates a cluster's settings and those of its routes, which
// config has found to be alike.
func poolConfig(c *config.Cluster, routes []config.Route) stream.Config {
	s := stream.DefaultConfig()
	s.Streams, s.InFlight, s.InFlightBytes = c.Streams.Max, c.Streams.InFlight, int(c.Streams.InFlightBytes)
	s.RotateAfter, s.RotateRecords = c.Streams.RotateAfter, c.Streams.RotateRecords
	s.AuthPatience = c.Auth.Patience
	s.ReportTimeout, s.DialTimeout = c.Streams.ReportTimeout, c.Streams.DialTimeout
	s.Heartbeat, s.IdleEnd = c.Streams.Heartbeat, c.Streams.IdleEnd
	for _, r := range routes {
		s.RetryInitial, s.RetryMax, s.MaxAttempts = r.Retry.Initial, r.Retry.Max, r.Retry.MaxAttempts
		s.ByKey, s.Strict = r.Ordering == "key", r.Ordering == "strict"
	}
	return s
}

// startCluster begins to look for the endpoint, as long as it takes.
func (s *Service) startCluster(c config.Cluster, routes []config.Route) *cluster {
	ctx, cancel := context.WithCancel(s.hard)
	k := &cluster{cfg: c, routes: routes, log: s.env.Log.With("cluster", c.Name), ready: make(chan struct{}), stopped: make(chan struct{}), cancel: cancel}
	cfg := poolConfig(&c, routes)
	cfg.Reports, cfg.OneShot = s.reports != nil, s.once
	observe := s.env.Latency(c.Name)
	go func() {
		defer close(k.stopped)
		target, ok := k.resolve(ctx, s.env.Address, cfg)
		if !ok {
			if ctx.Err() == nil {
				k.mu.Lock()
				k.failed = true
				k.mu.Unlock()
				close(k.ready)
			}
			return
		}
		pool := stream.New(cfg, target, c.Limits.Limit(), s, k.log, observe)
		if via := target.Proxy.Via(target.Base); via != "" {
			k.log.Info("going out through a proxy", "proxy", via)
		}
		k.log.Info("shipping", "endpoint", target.String(), "dialect", target.Dialect.String(), "cluster_id", target.ClusterID, "limits", c.Limits.Limit().String(), "streams", cfg.Streams)
		k.mu.Lock()
		k.pool, k.target, k.trouble = pool, target, nil
		k.mu.Unlock()
		close(k.ready)
	}()
	return k
}

// resolve asks until the endpoint answers, for a run that is to end as often as
// it may. ok is false when there is no answer.
func (k *cluster) resolve(ctx context.Context, address func(*config.Cluster) (stream.Address, error), cfg stream.Config) (target stream.Target, ok bool) {
	wait, began := cfg.RetryInitial, time.Now()
	var a stream.Address
	defer func() {
		if !ok {
			auth.Close(a.Auth)
		}
	}()
	for tries := 1; ; tries++ {
		var err error
		if a.Auth == nil { // once it can be had, what it does in the background goes on
			a, err = address(&k.cfg)
		}
		if err == nil {
			a.Attempts = 1
			target, err = stream.Resolve(ctx, a)
		} else {
			a.Auth = nil
		}
		if err == nil {
			err = uncarried(target.Dialect, k.routes)
		}
		if ctx.Err() != nil {
			return target, false
		}
		if err == nil {
			return target, true
		}
		k.mu.Lock()
		k.trouble = err
		k.mu.Unlock()
		var e *stream.EndpointError
		denied := errors.As(err, &e) && e.Denied
		patient := denied && time.Since(began) < cfg.AuthPatience
		if cfg.OneShot && !patient && (tries >= cfg.MaxAttempts || denied || e != nil && e.Malformed) {
			return target, false
		}
		k.log.Warn("cannot reach the cluster, will try again", "error", err, "wait", wait)
		if pause(ctx, wait) != nil {
			return target, false
		}
		wait = min(2*wait, cfg.RetryMax)
	}
}

// wait returns the pool once there is one.
// Errors: ctx's cause when it ends first; why there will be none.
func (k *cluster) wait(ctx context.Context) (*stream.Pool, error) {
	select {
	case <-k.ready:
	default:
		select {
		case <-k.ready:
		case <-k.stopped:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.failed:
		return nil, k.trouble
	case k.pool == nil: // it was stopped before its endpoint answered
		return nil, stream.ErrClosed
	}
	return k.pool, nil
}

// now returns the pool, nil while there is none.
func (k *cluster) now() *stream.Pool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pool
}

// id returns the cluster's id as the endpoint said it, "" before.
func (k *cluster) id() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pool == nil {
		return k.cfg.ClusterID
	}
	return k.target.ClusterID
}

// why returns what keeps records from the cluster, nil when nothing does.
func (k *cluster) why() error {
	k.mu.Lock()
	pool, err := k.pool, k.trouble
	k.mu.Unlock()
	if pool != nil {
		err = pool.Trouble()
	} else if err == nil {
		err = errors.New("its endpoint has not answered yet")
	}
	if err != nil {
		return fmt.Errorf("cluster %s: %w", k.cfg.Name, err)
	}
	return nil
}

// givenUp returns why nothing more goes to the cluster in a run that is to end.
func (k *cluster) givenUp() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.failed:
		return k.trouble
	case k.pool == nil:
		return nil
	}
	select {
	case <-k.pool.Broken():
		return k.pool.Trouble()
	default:
		return nil
	}
}

// same says whether a changed configuration changes nothing for this cluster.
// Files of certificates and tokens are no reason: they are followed anyway.
func (k *cluster) same(c *config.Cluster, routes []config.Route) bool {
	return reflect.DeepEqual(k.cfg, *c) && poolConfig(&k.cfg, k.routes) == poolConfig(c, routes)
}

// stop drains the pool until ctx ends and returns what it still holds to its
// origins. Nothing may be submitted any more.
func (k *cluster) stop(ctx context.Context, s *Service, why error) {
	k.cancel()
	<-k.stopped
	if k.pool == nil {
		return
	}
	if err := k.pool.Drain(ctx); err != nil {
		k.log.Warn("not all delivery reports came", "error", err)
	}
	bound, cancel := context.WithTimeout(ctx, stopWithin)
	k.pool.Stop(bound)
	cancel()
	auth.Close(k.target.Auth)
	s.returned(k.pool, why)
}
