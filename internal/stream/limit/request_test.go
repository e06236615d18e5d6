package limit

import (
	"testing"
	"time"
)

// With every POST full to its bound, all the records there may be are sent and
// no second holds more than the limit and one request.
func TestRequestsHoldTheLimit(t *testing.T) {
	f := func(p Profile, least int) {
		t.Helper()
		l := New(p)
		n, _ := l.Request()
		if n < least {
			t.Errorf("%s: a request holds %d records, want %d at least", p.Name, n, least)
		}
		start := time.Unix(1e9, 0)
		now := start
		var at []time.Time
		for now.Sub(start) < 20*time.Second {
			now = now.Add(l.Open(now))
			now = now.Add(l.Take(now, n, n*200))
			at = append(at, now)
		}
		total := len(at) * n
		if got, want := float64(total)/20, p.Records; got < 0.99*want || got > 1.02*want+float64(n)/20 {
			t.Errorf("%s: %.0f records/s of %.0f", p.Name, got, want)
		}
		for i := range at {
			sent := 0
			for k := i; k < len(at) && at[k].Sub(at[i]) < time.Second; k++ {
				sent += n
			}
			if float64(sent) > 1.02*p.Records+float64(n) {
				t.Fatalf("%s: %d records in one second, requests of %d", p.Name, sent, n)
			}
		}
	}
	basic, _ := ParseProfile("basic")
	two, _ := ParseProfile("dedicated:2")
	f(basic, 42)
	f(two, 60) // a hundredth of a second's is more than a POST's share
	f(Profile{Name: "records only", Records: 500}, 5)
}
