package config

import (
	"fmt"

	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// Uncarried is a setting of a route that asks for what a dialect cannot carry.
type Uncarried struct {
	Key  string // below the route
	What dialect.Feature
}

// Uncarried lists the settings of r that d cannot carry. Nothing is said of a
// v2 server that is still to be found out.
func (r *Route) Uncarried(d dialect.Dialect) (out []Uncarried) {
	if d == dialect.V2 {
		return nil
	}
	note := func(asked bool, key string, what dialect.Feature) {
		if asked && !d.Carries(what) {
			out = append(out, Uncarried{key, what})
		}
	}
	note(len(r.Headers) > 0, "headers", dialect.Headers)
	if d.Carries(dialect.Headers) {
		for _, h := range r.Headers {
			note(h.Value == nil, "headers."+h.Name, dialect.NullHeaders)
		}
	}
	note(r.RecordIDHeader != "", "record_id_header", dialect.Headers)
	note(r.Timestamp != nil, "timestamp", dialect.Timestamps)
	note(r.Null != nil, "null", dialect.Tombstones)
	note(r.NullValue != nil, "null_value", dialect.Tombstones)
	return out
}

// Refusal says why a setting cannot be had, and what to do.
func (u Uncarried) Refusal(d dialect.Dialect) string {
	return fmt.Sprintf("%s (dialect %s) cannot carry %s: leave it out, or produce to an endpoint that can", d.Server(), d, u.What)
}

// carries refuses what the route's cluster cannot carry, as far as the file
// says what that is.
func (l *loader) carries(r *Route, at string) {
	c := l.cfg.Cluster(r.Cluster)
	if c == nil || l.failed("clusters."+c.Name+".dialect") {
		return
	}
	d, err := dialect.Parse(c.Dialect)
	if err != nil {
		return // said where it is written
	}
	for _, u := range r.Uncarried(d) {
		l.bad(at+"."+u.Key, "%s", u.Refusal(d))
	}
}
