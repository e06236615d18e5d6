package spool

import "time"

// SetGather sets the least time between two syncs.
func (c *Config) SetGather(d time.Duration) { c.gather = d }
