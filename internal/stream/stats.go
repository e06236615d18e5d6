package stream

import (
	"maps"
	"sync"
	"time"
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
	PerSecond float64
}

// counters is what Stats is copied from. Its lock is taken once a write, a
// read or an event, never once a record.
type counters struct {
	mu sync.Mutex
	s  Stats
}

func newCounters() *counters {
	return &counters{s: Stats{
		Retried: map[string]int64{}, Codes: map[int]int64{},
		Closed: map[string]int64{}, Waited: map[string]time.Duration{},
	}}
}

func (c *counters) sent(records, bytes, resent int) {
	c.mu.Lock()
	c.s.Resent += int64(resent)
	c.s.Sent += int64(records)
	c.s.SentBytes += int64(bytes)
	c.mu.Unlock()
}

func (c *counters) code(code, n int) {
	c.mu.Lock()
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
	return s
}
