package stream

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// With Strict the order of what is stored is the order of submission, whatever
// happens on the way, as long as it may be sent again.
func TestStrictOrder(t *testing.T) {
	f := func(name string, script func(x *exchange, fault func(id string, every int) bool)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hit := map[string]bool{}
			srv := newFake(t, func(x *exchange) {
				script(x, func(id string, every int) bool { // once a record, on every n-th
					var n int
					fmt.Sscanf(id, "r%d", &n)
					x.f.mu.Lock()
					defer x.f.mu.Unlock()
					if hit[id] || n%every != every-1 {
						return false
					}
					hit[id] = true
					return true
				})
			})
			cfg := fastConfig()
			cfg.Strict = true
			p, k := testPool(t, cfg, srv.url(), limit.Profile{})
			all := ids("r", 60)
			for part := range slices.Chunk(all, 7) {
				submit(t, p, batchOf("t", 0, part...))
			}
			drain(t, p, 10*time.Second)
			if n, _ := k.counts(); n != len(all) {
				t.Errorf("delivered %d of %d", n, len(all))
			}
			var want, got []string
			for _, id := range all {
				want = append(want, "t/"+id)
			}
			for _, id := range srv.stored() { // what was sent twice counts where it was stored first
				if !slices.Contains(got, id) {
					got = append(got, id)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("stored out of order:\n%s", strings.Join(got, " "))
			}
		})
	}
	each := func(act func(x *exchange, id string) bool, every int) func(*exchange, func(string, int) bool) {
		return func(x *exchange, fault func(string, int) bool) {
			for {
				id, ok := x.next()
				if !ok {
					x.end()
					return
				}
				if fault(id, every) {
					if !act(x, id) {
						return
					}
					continue
				}
				if x.ok(id) != nil {
					return
				}
			}
		}
	}
	// A 429 also slows down for seconds; what it does to order, a 50003 does too.
	f("50003", each(func(x *exchange, _ string) bool { x.refuse(50003, "later"); return true }, 3))
	f("50003 at the end of a batch", each(func(x *exchange, _ string) bool { x.refuse(50003, "later"); return true }, 7))
	f("40403", each(func(x *exchange, _ string) bool { x.refuse(40403, "This server does not host"); return true }, 5))
	f("503", each(func(x *exchange, _ string) bool { x.refuse(50003, "later"); return true }, 5))
	f("reset before the report", each(func(x *exchange, _ string) bool { x.reset(); return false }, 4))
	f("reset after storing", each(func(x *exchange, id string) bool { x.store(id); x.reset(); return false }, 5))
	f("408", each(func(x *exchange, _ string) bool { x.refuse(408, "too old"); x.end(); return false }, 6))
	f("unknown topic", each(func(x *exchange, _ string) bool { x.refuse(40401, "Topic t not present"); x.linger(); return false }, 6))
	f("denied", each(func(x *exchange, _ string) bool { x.refuse(40301, "Not authorized"); return true }, 6))
}
