package ship

import (
	"errors"
	"fmt"

	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/stream"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// uncarried refuses an endpoint that cannot carry what routes ask for: their
// records would all go to the dead letter.
func uncarried(d dialect.Dialect, routes []config.Route) error {
	var all []error
	for i := range routes {
		for _, u := range routes[i].Uncarried(d) {
			all = append(all, fmt.Errorf("route %s: %s: %s", routes[i].Name, u.Key, u.Refusal(d)))
		}
	}
	if len(all) == 0 {
		return nil
	}
	return &stream.EndpointError{Malformed: true, Err: errors.Join(all...)}
}

// Uncarried names the flags that ask for what d cannot carry. Nothing is said
// of a v2 server that is still to be found out.
func (c *Config) Uncarried(d dialect.Dialect) error {
	if d == dialect.V2 {
		return nil
	}
	var all []error
	note := func(asked bool, flag string, what dialect.Feature) {
		if asked && !d.Carries(what) {
			all = append(all, fmt.Errorf("%s: %s (dialect %s) cannot carry %s: leave it out, or produce to an endpoint that can", flag, d.Server(), d, what))
		}
	}
	note(len(c.Headers) > 0, "--header", dialect.Headers)
	if e, err := c.encoder(); err == nil && d.Carries(dialect.Headers) {
		for _, h := range e.Headers {
			note(h.Value == nil && h.Template == nil, "--header "+h.Name, dialect.NullHeaders)
		}
	}
	note(c.RecordIDHeader != "", "--record-id-header", dialect.Headers)
	note(c.TimestampField != "", "--timestamp-field", dialect.Timestamps)
	note(c.HasNull, "--null-value", dialect.Tombstones)
	return errors.Join(all...)
}
