package main

import (
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// A cluster that takes a third of what the agent believes there is gets all of
// the records, hardly any of them twice, and no POST too many.
func TestLimitsThirdOfProfile(t *testing.T) {
	t.Parallel()
	s := startBoxWith(t, func(c *sandbox.Config) {
		c.Limits = sandbox.Limits{PostsPerSecond: 25, RecordsPerSecond: 1000, MessageBytes: 8_000_000}
	})
	const n = 4000
	r := shipTo(t, s, numbered(n, 60), "--limits", "dedicated:1")
	r.want(t, 0, n, n, 0, 0)
	st := s.Stats()
	if st.Reports[429] == 0 || st.Reports[429] > n || st.PostsRejected > 0 {
		t.Errorf("%d records and %d POSTs refused of %d and %d\n%s", st.Reports[429], st.PostsRejected, n, st.Posts, r.err)
	}
	if !strings.Contains(r.err, "the cluster says 429: slowing down") {
		t.Errorf("nothing is said of the limits:\n%s", r.err)
	}
}

// One of two agents keeps to its half.
func TestLimitsFleet(t *testing.T) {
	t.Parallel()
	s := startBox(t)
	const n = 1200
	r := shipTo(t, s, numbered(n, 60), "--limits", "basic", "--fleet-agents", "2", "--fleet-headroom", "0%")
	r.want(t, 0, n, n, 0, 0)
	if most := s.Stats().MaxRecordsPerSecond; most > 600 { // 510, and what a busy machine lets come together
		t.Errorf("%d records read within one second, half of the limit is 500", most)
	}
	if !strings.Contains(r.err, "basic, one of 2 agents (12.5 POSTs/s, 500 records/s, 5 MB/s, messages up to 8 MB)") {
		t.Errorf("the share is not said:\n%s", r.err)
	}
	for _, bad := range [][]string{{"--fleet-agents", "0"}, {"--fleet-headroom", "5"}, {"--fleet-headroom", "95%"}} {
		if r := shipTo(t, s, "x\n", bad...); r.status != exitUsage || !strings.Contains(r.err, bad[0]) {
			t.Errorf("%q: status %d\n%s", bad, r.status, r.err)
		}
	}
}
