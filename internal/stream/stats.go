package stream

import (
	"maps"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// What a wait of the limiter was for.
const (
	limitConnections = "connections"
	limitRecords     = "records"
)

// Stats is what a Pool has done so far, in records unless the name says else.
type Stats struct {
	Sent      int64
	SentBytes int64
	Delivered int64
	Retried   map[string]int64 // to be sent again, by reason
	Resent    int64            // sent again
	Unknown   int64            // sent again though they may have been produced
	Codes     map[int]int64    // delivery reports by error_code
	Opened    int64            // streams
	Closed    map[string]int64 // streams, by reason
	Waited    map[string]time.Duration
	Open      int // streams now
	InFlight  int // records now
	Behind    int // records that wait for an earlier one of their key, now
	PerSecond float64
	Found     limit.Found // by the cluster's 429s, at present
	Routes    map[int32]RouteStats
}

// RouteStats is one route's part of Stats: batches tell it by their Route.
type RouteStats struct {
	Sent      int64
	SentBytes int64
	Codes     map[int]int64 // delivery reports by error_code
}

// counters is what Stats is copied from. Its lock is taken once a write, a
// read or an event, never once a record.
type counters struct {
	mu     sync.Mutex
	s      Stats
	routes map[int32]*RouteStats
}

func newCounters() *counters {
	return &counters{routes: map[int32]*RouteStats{}, s: Stats{
		Retried: map[string]int64{}, Codes: map[int]int64{},
		Closed: map[string]int64{}, Waited: map[string]time.Duration{},
	}}
}

// route is called with mu held.
func (c *counters) route(id int32) *RouteStats {
	r := c.routes[id]
	if r == nil {
		r = &RouteStats{Codes: map[int]int64{}}
		c.routes[id] = r
	}
	return r
}

func (c *counters) sent(route int32, records, bytes, resent int) {
	c.mu.Lock()
	r := c.route(route)
	r.Sent += int64(records)
	r.SentBytes += int64(bytes)
	c.s.Resent += int64(resent)
	c.s.Sent += int64(records)
	c.s.SentBytes += int64(bytes)
	c.mu.Unlock()
}

func (c *counters) code(route int32, code, n int) {
	c.mu.Lock()
	c.route(route).Codes[code] += int64(n)
	c.s.Codes[code] += int64(n)
	if code == 200 {
		c.s.Delivered += int64(n)
	}
	c.mu.Unlock()
}

func (c *counters) retried(reason string, n int) {
	c.mu.Lock()
	c.s.Retried[reason] += int64(n)
	c.mu.Unlock()
}

func (c *counters) unknown(n int) {
	c.mu.Lock()
	c.s.Unknown += int64(n)
	c.mu.Unlock()
}

func (c *counters) opened() {
	c.mu.Lock()
	c.s.Opened++
	c.mu.Unlock()
}

func (c *counters) closed(reason string) {
	c.mu.Lock()
	c.s.Closed[reason]++
	c.mu.Unlock()
}

func (c *counters) waited(limit string, d time.Duration) {
	c.mu.Lock()
	c.s.Waited[limit] += d
	c.mu.Unlock()
}

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.s
	s.Retried, s.Codes = maps.Clone(s.Retried), maps.Clone(s.Codes)
	s.Closed, s.Waited = maps.Clone(s.Closed), maps.Clone(s.Waited)
	s.Routes = make(map[int32]RouteStats, len(c.routes))
	for id, r := range c.routes {
		s.Routes[id] = RouteStats{Sent: r.Sent, SentBytes: r.SentBytes, Codes: maps.Clone(r.Codes)}
	}
	return s
}
