package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// Each fault in turn, on a run of its own: the books balance, nothing is lost,
// nothing hangs, and what is twice in the topic was sent again after a stream
// that broke, a window of it at most.
func TestEveryFault(t *testing.T) {
	const n, window = 6000, 500
	in := numbered(n, 20)
	f := func(want ending, faults ...string) {
		t.Run(strings.ReplaceAll(strings.Join(faults, "+"), "/", "_"), func(t *testing.T) {
			t.Parallel()
			attempts := "10"
			if want.pending { // a topic that stays away is probed so often, at growing intervals
				attempts = "3"
			}
			s := startBoxWith(t, func(c *sandbox.Config) { c.MaxAgeGrace = 1e8 }, faults...)
			r := shipTo(t, s, in, "--in-flight", strconv.Itoa(window), "--report-timeout", "1s", "--batch-bytes", "4096", "--streams", "3", "--max-attempts", attempts)
			want.check(t, r, s, n, window)
			for _, fault := range faults {
				if !felt(fault, r, s.Stats()) {
					t.Errorf("%s was not felt: %+v\n%s", fault, r.Summary, r.err)
				}
			}
		})
	}
	clean := ending{}
	f(clean, "refuse=2")
	f(clean, "http=429,times=2")
	f(clean, "http=429,body=html,times=2,retry-after=1")
	f(clean, "http=429,body=jetty,times=1")
	f(clean, "http=503,times=2")
	f(clean, "http=502,body=html,times=2,read=1000")
	f(clean, "http=500,body=empty,times=1")
	f(clean, "report=429,share=0.2,count=600")
	f(clean, "report=42901,every=50,count=40")
	f(clean, "report=40403,every=500,count=5")
	f(ending{resent: 40}, "report=500,every=100,count=20", "report=50003,every=70,count=20")
	f(ending{resent: 20}, "report=50302,stored=true,every=100,count=20")
	f(ending{rejected: 12}, "report=50002,every=100,count=12")
	f(ending{rejected: 12}, "report=413,every=100,count=12")
	f(ending{rejected: 3}, "report=59999,every=100,count=3")
	f(ending{broken: true}, "expire=700,grace=100ms")
	f(ending{broken: true}, "expire=700,grace=100ms,stored=true")
	f(clean, "terminal=1500,times=3")
	f(ending{broken: true}, "reset=500,times=4")
	f(ending{broken: true}, "reset=500,lost=all,times=4")
	f(ending{broken: true}, "reset=500,lost=37,times=4")
	f(ending{broken: true}, "cut=300,times=4")
	f(ending{broken: true}, "cut=300,mid=true,times=4")
	f(ending{broken: true}, "cut=300,lost=all,times=4")
	f(ending{broken: true}, "end=300,times=4")
	f(ending{broken: true}, "stall=400,times=2")
	f(clean, "stall=400,for=300ms")
	f(clean, "slow=50ms")
	f(clean, "slow=150ms,partition=1")
	f(clean, "framing=two")
	f(clean, "framing=joined,extra=true")
	f(clean, "framing=merged,pretty=true")
	f(clean, "framing=byte")
	f(clean, "framing=odd,pretty=true,extra=true")
	f(ending{broken: true}, "garbage=900,times=2")
	f(clean, "slow-read=400000")
	f(ending{pending: true}, "unknown-topic=t")
	f(ending{broken: true}, "reset=700,times=2", "report=429,share=0.05,count=200", "framing=odd")
}

// felt tells from the sandbox's figures and the books that a fault was met: a
// test of a fault that never came would prove nothing.
func felt(fault string, r ran, st sandbox.Stats) bool {
	name, _, _ := strings.Cut(fault, "=")
	switch name {
	case "refuse":
		return st.Refused > 0
	case "http":
		return st.PostsRejected > 0
	case "report":
		return len(r.ErrorCodes) > 0
	case "expire":
		return r.ErrorCodes["408"] > 0
	case "terminal", "reset", "cut", "end", "garbage", "unknown-topic":
		return r.Retried > 0 && r.Streams > 1
	}
	return true // it shows in nothing but time and shape
}

// ending is what a run under faults may end with; the zero value is all
// delivered, once.
type ending struct {
	rejected int64
	resent   int64 // duplicates that reports of unknown fate allow
	broken   bool  // streams broke: a window each may be twice
	pending  bool  // the run gives up
}

func (e ending) check(t *testing.T, r ran, s *sandbox.Sandbox, n, window int) {
	t.Helper()
	status := exitOK
	switch {
	case e.pending:
		status = exitFailure
	case e.rejected > 0:
		status = exitRejected
	}
	if r.status != status || r.Rejected != e.rejected || (r.Pending > 0) != e.pending || !e.pending && r.Read != int64(n) {
		t.Errorf("status %d, want %d: %+v\n%s", r.status, status, r.Summary, r.err)
	}
	got := counts(stored(t, s, "t"))
	lost, twice := int64(0), int64(0)
	for i := range n {
		times := got[fmt.Sprintf("%020d", i)]
		if times == 0 {
			lost++
		}
		twice += int64(max(0, times-1))
	}
	if len(got)+int(lost) != n {
		t.Errorf("%d values that were never sent", len(got)+int(lost)-n)
	}
	if unread := int64(n) - r.Read; lost > r.Rejected+r.Pending+unread {
		t.Errorf("%d lost: %+v\n%s", lost, r.Summary, r.err)
	}
	allowed := e.resent
	if e.broken {
		allowed += r.Streams * int64(window)
	}
	if twice > allowed || twice > r.PossiblyDuplicated {
		t.Errorf("%d twice, %d allowed, %d told: %+v\n%s", twice, allowed, r.PossiblyDuplicated, r.Summary, r.err)
	}
	if strings.Contains(r.err, "BUG") || strings.Contains(r.err, "goroutine ") {
		t.Errorf("it broke down:\n%s", r.err)
	}
}

// --ordering strict keeps the order through refusals and broken streams.
func TestStrictKeepsOrder(t *testing.T) {
	const n = 300
	for _, faults := range [][]string{
		{"report=429,share=0.05,count=8"},
		{"report=40403,every=60,count=4", "reset=80,times=2"},
	} {
		s := startBoxWith(t, func(c *sandbox.Config) { c.Topics = []sandbox.Topic{{Name: "t", Partitions: 1}} }, faults...)
		shipTo(t, s, numbered(n, 6), "--ordering", "strict").want(t, exitOK, n, n, 0, 0)
		var order []string
		for _, r := range stored(t, s, "t") {
			if v := string(r.Value); len(order) == 0 || order[len(order)-1] != v { // sent again at once
				order = append(order, v)
			}
		}
		if len(order) != n || !slices.IsSorted(order) {
			t.Errorf("%v: %d values, in order: %v", faults, len(order), slices.IsSorted(order))
		}
	}
}
