package stream

import (
	"fmt"
	"time"
)

// watch looks after the streams' clocks: stalls, age, heartbeats.
func (p *Pool) watch() {
	defer p.wg.Done()
	period := min(time.Second, p.cfg.ReportTimeout/4, p.cfg.Heartbeat/2)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	swept := time.Now()
	for {
		select {
		case <-p.ctx.Done():
			return
		case now := <-ticker.C:
			var silent []*stream
			p.eachStream(func(s *stream) {
				s.inspect(now)
				if s.silent.Load() && !s.confirmed.Load() {
					silent = append(silent, s)
				}
			})
			for _, s := range silent {
				p.suspect(s)
			}
			if now.Sub(swept) > forgetAfter/4 {
				swept = now
				p.forget(now)
			}
			p.links.sweep(now)
		}
	}
}

// proveWithin is how long a stream may be the only one that tries while opens
// fail. One that has nothing to send, or whose topic alone falls silent, would
// keep all others from an endpoint that is well.
const proveWithin = time.Second

// inspect is the watch's look at one stream.
func (s *stream) inspect(now time.Time) {
	records, _, oldest := s.win.fill()
	if records > 0 {
		last := s.p.at(s.progress.Load())
		if oldest.After(last) {
			last = oldest
		}
		if now.Sub(last) > s.p.cfg.ReportTimeout {
			s.t.proven.Store(false)
			s.abort(endStalled)
			return
		}
	}
	if now.Sub(s.born) > proveWithin {
		s.release()
	}
	if !s.confirmed.Load() && records > 0 && now.Sub(oldest) > s.p.cfg.Silence &&
		(s.link == nil || !s.t.proven.Load()) && !s.silent.Swap(true) {
		// A server blocks for up to a minute on a topic that is not there; and
		// what buffers requests answers only once the body has ended.
		s.p.wg.Add(1)
		go s.p.explainSilence(s.t)
	}
	if s.link != nil {
		s.kick()
		return // its connection is replaced between two requests
	}
	cfg := s.p.cfg
	old := cfg.RotateAfter > 0 && now.Sub(s.born) > jittered(cfg.RotateAfter, s.jitter)
	if old || cfg.RotateRecords > 0 && float64(s.records.Load()) > float64(cfg.RotateRecords)*s.jitter {
		if int64(s.p.since(now)) >= s.retireAt.Load() {
			s.retire.Store(true)
		}
	}
	s.kick()
}

// explainSilence looks for the reason why a topic's stream brings no report.
func (p *Pool) explainSilence(t *topic) {
	defer p.wg.Done()
	if !p.target.MissingTopic(p.ctx, t.name) {
		return
	}
	text := fmt.Sprintf("does not exist on cluster %s, and was not created by producing to it (create the topic, or check its name)", p.target.ClusterID)
	if p.cfg.OneShot {
		t.fail(&TopicError{Topic: t.name, Text: text})
		p.abortTopic(t)
		return
	}
	p.park(t, text)
}

func jittered(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) * factor)
}

// promptly is how soon after the end of a silent stream's body its reports come
// when the body's end was what they waited for.
const promptly = time.Second

// answeredAtEnd decides whether the endpoint, or what stands before it, takes
// requests only as a whole: from then on each carries one window and ends.
func (p *Pool) answeredAtEnd(s *stream) {
	if p.since(time.Now())-time.Duration(s.ended.Load()) > promptly || p.buffered.Swap(true) {
		return
	}
	p.log.Warn("the endpoint answers only once a request has ended, something in between buffers: sending one request after another instead of streams",
		"topic", s.t.name)
}
