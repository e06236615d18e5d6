package ship

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/produce-agent/produce-agent/internal/config"
)

// parts are the names of what a configuration changes.
type parts struct {
	clusters, routes, inputs map[string]bool
}

// Reload changes over to cfg: what it changes is stopped and started anew, the
// rest goes on undisturbed.
//
// Errors: cfg asks for what only a restart can change, or a part of it cannot
// be opened; what ran before runs on then, or again.
func (s *Service) Reload(cfg *config.Config) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	old, ending := s.cfg, s.ending
	s.mu.Unlock()
	if ending { // nothing may be opened any more
		return errEnding
	}
	var back error
	err := s.restartOnly(cfg)
	if err == nil {
		if err = s.swap(cfg); err != nil {
			// The old one could be opened before: go back to it.
			if back = s.swap(old); back != nil {
				err = errors.Join(err, fmt.Errorf("and the old configuration could not be started again: %w", back))
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reload = 1
	if err != nil {
		s.reload = -1
	}
	if err == nil || back != nil {
		s.partial = back
	}
	return err
}

// ReloadFailed notes a configuration that was not even good enough to try.
func (s *Service) ReloadFailed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reload = -1
}

// restartOnly returns an error where cfg changes what cannot be while running.
func (s *Service) restartOnly(cfg *config.Config) error {
	switch {
	case cfg.DataDir != s.cfg.DataDir:
		return fmt.Errorf("data_dir changes from %q to %q: only a restart can do that", s.cfg.DataDir, cfg.DataDir)
	case cfg.Reports != s.cfg.Reports:
		return errors.New("reports changes: only a restart can do that")
	case cfg.Observe != s.cfg.Observe:
		return errors.New("observe changes: only a restart can do that")
	}
	return nil
}

// swap stops what cfg changes and starts it as cfg has it.
func (s *Service) swap(cfg *config.Config) error {
	p := s.changed(cfg)
	for _, r := range cfg.Routes { // at once: what is to be stopped may wait for that room
		if d := s.dead[r.DeadLetter.Path]; d != nil {
			d.maxBytes.Store(int64(r.DeadLetter.MaxBytes))
		}
	}
	for name := range p.routes { // likewise: who waits for it could not be stopped
		if l := s.lanes[name]; l != nil {
			defer l.dead.free()()
		}
	}
	stopped := s.stopInputs(slices.Collect(maps.Keys(p.inputs)), errReload)
	for name := range p.routes {
		s.stopPump(name)
	}
	ctx, cancel := context.WithTimeout(s.hard, s.env.Grace)
	defer cancel()
	for name := range p.clusters {
		if k := s.clusters[name]; k != nil {
			k.stop(ctx, s, errReload)
			s.retire(name, k)
		}
	}
	for _, in := range stopped { // behind the clusters: one that is stopped gives back what it has not settled
		in.sink.settle(ctx)
	}
	for name := range p.routes {
		// A buffer that stays as it is is not closed: what of it is on its way must
		// find it when it is settled.
		was, now := routeOf(s.cfg, name), routeOf(cfg, name)
		if b := s.buffers[name]; b != nil && (now == nil || was.Buffer != now.Buffer) {
			if l := s.lanes[name]; l != nil {
				l.dead.settle(ctx)
			}
			s.origins.shut(b.source)
			if err := b.Close(); err != nil {
				s.env.Log.Error("close the buffer", "route", name, "error", err)
			}
			s.mu.Lock()
			s.countDamage()
			s.goneBuf[name] = s.buffered(name)
			s.books.read.Add(-b.Pending()) // counted again when it is opened again
			delete(s.buffers, name)
			s.mu.Unlock()
		}
		s.mu.Lock()
		delete(s.lanes, name)
		s.mu.Unlock()
	}
	return s.apply(cfg)
}

var errReload = errors.New("the agent takes a changed configuration: send this again")

// retire takes a stopped cluster out, and keeps its figures.
func (s *Service) retire(name string, k *cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.pool != nil {
		s.gone[name] = added(s.gone[name], k.pool.Stats())
	}
	delete(s.clusters, name)
}

// changed finds what has to be stopped to become what cfg has.
func (s *Service) changed(cfg *config.Config) parts {
	p := parts{clusters: map[string]bool{}, routes: map[string]bool{}, inputs: map[string]bool{}}
	for _, r := range s.cfg.Routes {
		if now := routeOf(cfg, r.Name); now == nil || !reflect.DeepEqual(r, *now) {
			p.routes[r.Name] = true
			if now == nil || r.Buffer != now.Buffer {
				p.clusters[r.Cluster] = true // what is on its way would be settled with a closed buffer
			}
		}
	}
	alike := s.once == endsItself(cfg) // else what a run that is to end gives up, a service must not
	for name, k := range s.clusters {
		if now := cfg.Cluster(name); now == nil || !alike || !k.same(now, routesTo(cfg, name)) {
			p.clusters[name] = true
		}
	}
	for _, r := range s.cfg.Routes {
		if p.clusters[r.Cluster] {
			p.routes[r.Name] = true
		}
	}
	for name, in := range s.inputs {
		now := cfg.Input(name)
		if now == nil || !reflect.DeepEqual(in.cfg, *now) || in.files != certificates(now) || !reflect.DeepEqual(in.routes, routesFrom(cfg, name)) ||
			slices.ContainsFunc(in.routes, func(r config.Route) bool { return p.routes[r.Name] }) {
			p.inputs[name] = true
		}
	}
	return p
}

// apply starts all of cfg that does not run.
func (s *Service) apply(cfg *config.Config) error {
	s.mu.Lock()
	s.cfg, s.once = cfg, endsItself(cfg)
	s.mu.Unlock()
	for _, c := range cfg.Clusters {
		routes := routesTo(cfg, c.Name)
		if s.clusters[c.Name] == nil && len(routes) > 0 {
			k := s.startCluster(c, routes)
			s.mu.Lock()
			s.clusters[c.Name] = k
			s.mu.Unlock()
		}
	}
	for i := range cfg.Routes {
		if err := s.startRoute(&cfg.Routes[i]); err != nil {
			return err
		}
	}
	var begun []*input
	for _, c := range cfg.Inputs {
		if s.inputs[c.Name] != nil {
			continue
		}
		in, err := s.openInput(c, routesFrom(cfg, c.Name))
		if err != nil {
			for _, in := range begun {
				in.abandon()
			}
			return fmt.Errorf("input %s: %w", c.Name, err)
		}
		begun = append(begun, in)
	}
	for _, in := range begun { // only now: what file is whose is asked of all of them first
		s.begin(in)
		s.mu.Lock()
		s.inputs[in.cfg.Name] = in
		s.mu.Unlock()
	}
	s.orphans()
	return nil
}

// startRoute opens what a route keeps on disk and starts its pump.
func (s *Service) startRoute(r *config.Route) error {
	if s.lanes[r.Name] != nil {
		return nil
	}
	dead, err := s.openDead(r)
	if err != nil {
		return fmt.Errorf("route %s: %w", r.Name, err)
	}
	l := &lane{name: r.Name, cluster: s.clusters[r.Cluster], dead: dead, spill: r.Spill, ordered: r.Ordering != "none", id: s.addRoute(r.Name, dead)}
	if r.Buffer.Type == "disk" {
		if l.buffer = s.buffers[r.Name]; l.buffer != nil {
			l.buffer.SetRoute(l.id)
			l.buffer.route.Store(l.id)
		} else {
			if l.buffer, err = s.openBuffer(r, l.id); err != nil {
				return err
			}
			s.mu.Lock()
			s.buffers[r.Name] = l.buffer
			s.mu.Unlock()
		}
		log := s.env.Log.With("route", r.Name)
		s.pumps[r.Name] = start(s.hard, func(ctx context.Context) { pump(ctx, l.buffer, l.cluster, log) })
	}
	s.mu.Lock()
	s.lanes[r.Name] = l
	s.mu.Unlock()
	return nil
}

// openDead opens a route's dead letter; routes may share one.
func (s *Service) openDead(r *config.Route) (*deadLetter, error) {
	path := r.DeadLetter.Path
	if d := s.dead[path]; d != nil {
		d.maxBytes.Store(int64(r.DeadLetter.MaxBytes))
		return d, nil
	}
	if path != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("dead letter: %w", err)
		}
	}
	d, err := newDeadLetter(s.hard, path, int64(r.DeadLetter.MaxBytes), 0, s.kept, s.env.Log.With("route", r.Name), s.cancel)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.dead[path] = d
	s.mu.Unlock()
	return d, nil
}

// orphans tells of buffers that no route has.
func (s *Service) orphans() {
	if s.cfg.DataDir == "" {
		return
	}
	for _, name := range dirsBelow(s.dataPath("buffer")) {
		if s.buffers[name] == nil {
			s.env.Log.Warn("a buffer belongs to no route of this configuration; its records wait until one of that name has a disk buffer again",
				"directory", s.dataPath("buffer", name), "look_at_it_with", "produce-agent spool inspect")
		}
	}
}

// stopInputs stops inputs by name and waits until each is over. why is what
// clients are told; nil for the end of all. It returns those it stopped.
func (s *Service) stopInputs(names []string, why error) (stopped []*input) {
	grace, cancel := context.WithTimeout(s.hard, s.env.Grace)
	defer cancel()
	done := make(chan struct{}, len(names))
	for _, name := range names {
		in := s.inputs[name]
		if in != nil {
			stopped = append(stopped, in)
		}
		go func() {
			defer func() { done <- struct{}{} }()
			if in != nil {
				in.end(grace)
			}
		}()
	}
	for range names {
		<-done
	}
	if why == nil {
		return stopped
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		if in := s.inputs[name]; in != nil {
			was := s.goneIn[name]
			was.Records += in.sink.read.Load()
			was.Bytes += in.bytesRead()
			s.goneIn[name] = was
			delete(s.inputs, name)
		}
	}
	return stopped
}

func (s *Service) stopPump(route string) {
	if j := s.pumps[route]; j != nil {
		j.stop()
		delete(s.pumps, route)
	}
}

// certificates tells whether the files that an input's TLS is made of are what
// they were: a reload takes renewed ones.
func certificates(in *config.Input) string {
	if in.HTTP == nil {
		return ""
	}
	return states(in.HTTP.TLS.CertFile, in.HTTP.TLS.KeyFile, in.HTTP.TLS.ClientCAFile)
}

// states tells files from what they were before they were written again.
func states(paths ...string) string {
	var b strings.Builder
	for _, path := range paths {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err != nil {
			fmt.Fprintln(&b, path, err)
		} else {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}

// dirsBelow returns the names of dir's directories, none when it is not there.
func dirsBelow(dir string) (names []string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func routeOf(cfg *config.Config, name string) *config.Route {
	for i := range cfg.Routes {
		if cfg.Routes[i].Name == name {
			return &cfg.Routes[i]
		}
	}
	return nil
}

func routesTo(cfg *config.Config, cluster string) (out []config.Route) {
	for _, r := range cfg.Routes {
		if r.Cluster == cluster {
			out = append(out, r)
		}
	}
	return out
}

// routesFrom returns an input's routes in the order in which they are tried.
func routesFrom(cfg *config.Config, input string) (out []config.Route) {
	for _, r := range cfg.Routes {
		if slices.Contains(r.Inputs, input) {
			out = append(out, r)
		}
	}
	return out
}
