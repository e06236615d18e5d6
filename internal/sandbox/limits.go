package sandbox

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits are what the cluster allows. A zero number means no limit.
type Limits struct {
	PostsPerSecond   int   // produce requests per second, over all clients
	RecordsPerSecond int   // records per second, over all streams
	BytesPerSecond   int64 // raw JSON bytes of records per second, over all streams
	MessageBytes     int   // longest record; 0 takes Kafka's max.request.size of 1 MiB

	// MessageTerminal makes a record over MessageBytes end its stream with a
	// terminal 400, counted on its JSON source
	// (api.v3.produce.request.size.limit.max.bytes), instead of drawing a 413
	// of its own, counted on the serialised record (max.request.size).
	MessageTerminal bool

	// Burst is the share of a second's records or bytes that may pass at once
	// after a pause: a limit of 1000 and 0.02 never let more than 1020 records
	// pass in any second. 0 means DefaultBurst.
	Burst float64

	// JettyJSON answers a refused request with Jetty's JSON error page even
	// when the client does not ask for JSON.
	JettyJSON bool
}

// DefaultBurst is how far over the limit the record limiter goes in a second
// that follows a pause.
const DefaultBurst = 0.02

// ParseLimits reads a profile's name, or single numbers, or a profile with
// numbers that replace its own:
// "standard", "dedicated:4", "records=500,posts=10", "basic,bytes=2MB".
// The numbers are posts, records, bytes (per second), message (bytes), burst
// (share of a second), and the words terminal and jetty-json.
//
// Source: Confluent Cloud cluster limits: 25 POST/s, 1000 records/s, 10 MB/s,
// 8 MB messages; Dedicated 300 POST/s, 3000 records/s and 50 MB/s a CKU, 20 MB.
func ParseLimits(s string) (Limits, error) {
	var l Limits
	for i, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" && s == "" {
			continue
		}
		if i == 0 {
			p, ok, err := limitsProfile(part)
			if err != nil {
				return l, err
			}
			if ok {
				l = p
				continue
			}
		}
		if err := l.set(part); err != nil {
			return l, err
		}
	}
	return l, nil
}

func limitsProfile(name string) (Limits, bool, error) {
	name, arg, _ := strings.Cut(name, ":")
	switch name {
	case "none", "":
		return Limits{}, true, nil
	case "basic", "standard", "enterprise", "freight":
		return Limits{PostsPerSecond: 25, RecordsPerSecond: 1000, BytesPerSecond: 10_000_000, MessageBytes: 8_000_000}, true, nil
	case "dedicated":
		n := 1
		if arg != "" {
			var err error
			if n, err = strconv.Atoi(arg); err != nil || n < 1 || n > 152 {
				return Limits{}, false, fmt.Errorf("limits %q: dedicated takes a number of CKUs, 1..152", name+":"+arg)
			}
		}
		return Limits{PostsPerSecond: 300 * n, RecordsPerSecond: 3000 * n, BytesPerSecond: 50_000_000 * int64(n), MessageBytes: 20_000_000}, true, nil
	}
	return Limits{}, false, nil
}

func (l *Limits) set(part string) error {
	name, value, hasValue := strings.Cut(part, "=")
	switch name {
	case "terminal":
		l.MessageTerminal = true
		return nil
	case "jetty-json":
		l.JettyJSON = true
		return nil
	case "burst":
		f, err := strconv.ParseFloat(value, 64)
		if err != nil || f < 0 || f > 10 {
			return fmt.Errorf("limits %q: burst is a share of a second, 0..10", part)
		}
		l.Burst = f
		return nil
	}
	n, err := parseAmount(value)
	known := name == "posts" || name == "records" || name == "bytes" || name == "message"
	if !known || !hasValue {
		return fmt.Errorf("limits %q: want none, basic, standard, enterprise, freight, dedicated:CKU, or posts=, records=, bytes=, message=, burst=, terminal, jetty-json", part)
	}
	unit := strings.HasSuffix(value, "B") && (name == "posts" || name == "records")
	if err != nil || unit || n < 0 || n > math.MaxInt32 {
		return fmt.Errorf("limits %q: want a number from 0 to %d, KB, MB, KiB or MiB behind it if it counts bytes", part, math.MaxInt32)
	}
	switch name {
	case "posts":
		l.PostsPerSecond = int(n)
	case "records":
		l.RecordsPerSecond = int(n)
	case "bytes":
		l.BytesPerSecond = n
	default:
		l.MessageBytes = int(n)
	}
	return nil
}

// parseAmount reads a number, with a unit of bytes or without.
func parseAmount(s string) (int64, error) {
	for _, u := range []struct {
		name string
		size float64
	}{{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}} {
		if head, ok := strings.CutSuffix(s, u.name); ok {
			f, err := strconv.ParseFloat(head, 64)
			if err != nil || f < 0 || f*u.size > math.MaxInt32 {
				return 0, strconv.ErrRange
			}
			return int64(f * u.size), nil
		}
	}
	return strconv.ParseInt(s, 10, 64)
}

func (l Limits) burst() float64 {
	if l.Burst <= 0 {
		return DefaultBurst
	}
	return l.Burst
}

// bucket is a token bucket in plain arithmetic: the caller has the clock.
// A cost larger than what is there is granted once the bucket is not empty,
// and the debt is paid by those who come after, as in Guava's RateLimiter.
type bucket struct {
	rate, depth float64 // tokens per second; most tokens kept
	tokens      float64
	last        time.Time
}

func newBucket(rate, burst float64) *bucket {
	depth := max(1, rate*burst)
	return &bucket{rate: rate, depth: depth, tokens: depth}
}

// refill adds what has come in since the last call, less what others take per
// second.
func (b *bucket) refill(now time.Time, taken float64) {
	if !b.last.IsZero() {
		if d := now.Sub(b.last); d > 0 {
			b.tokens = min(b.depth, b.tokens+d.Seconds()*max(0, b.rate-taken))
		} else {
			return
		}
	}
	b.last = now
}

// recordLimiter counts records and bytes over all streams.
// Source: kafka-rest ProduceRateLimiters.
type recordLimiter struct {
	mu      sync.Mutex // guards the buckets
	records *bucket    // nil: no limit
	bytes   *bucket
}

func newRecordLimiter(l Limits) *recordLimiter {
	r := &recordLimiter{}
	if l.RecordsPerSecond > 0 {
		r.records = newBucket(float64(l.RecordsPerSecond), l.burst())
	}
	if l.BytesPerSecond > 0 {
		r.bytes = newBucket(float64(l.BytesPerSecond), l.burst())
	}
	return r
}

// take says whether a record of n raw bytes may pass at now, while others take
// so many records per second.
func (r *recordLimiter) take(now time.Time, n int, taken float64) bool {
	if r.records == nil && r.bytes == nil {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.records != nil {
		if r.records.refill(now, taken); r.records.tokens < 1 {
			return false
		}
	}
	if r.bytes != nil {
		if r.bytes.refill(now, 0); r.bytes.tokens <= 0 {
			return false
		}
		r.bytes.tokens -= float64(n)
	}
	if r.records != nil {
		r.records.tokens--
	}
	return true
}

// takeAll says whether a request of so many records, n bytes in all, may pass
// at now: it does when one record may, and those behind it pay for the rest.
func (r *recordLimiter) takeAll(now time.Time, records, n int, taken float64) bool {
	if !r.take(now, n, taken) {
		return false
	}
	if r.records != nil {
		r.mu.Lock()
		r.records.tokens -= float64(records - 1)
		r.mu.Unlock()
	}
	return true
}

// postLimiter refuses a produce request when the limit-th one before it is
// less than a second old. Refused ones count, as in Jetty's DoSFilter: who
// keeps hammering is never let in.
// Source: Jetty DoSFilter.RateTracker.
type postLimiter struct {
	mu   sync.Mutex // guards the rest
	ring []time.Time
	next int
}

func newPostLimiter(perSecond int) *postLimiter {
	return &postLimiter{ring: make([]time.Time, max(perSecond, 0))}
}

// left is how many produce requests would be let in at now.
func (p *postLimiter) left(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, at := range p.ring {
		if at.IsZero() || now.Sub(at) >= time.Second {
			n++
		}
	}
	return n
}

// take says whether a produce request at now is within the limit.
func (p *postLimiter) take(now time.Time) bool {
	if len(p.ring) == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.ring[p.next]
	p.ring[p.next] = now
	p.next = (p.next + 1) % len(p.ring)
	return last.IsZero() || now.Sub(last) >= time.Second
}
