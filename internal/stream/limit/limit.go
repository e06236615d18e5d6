// Package limit is the arithmetic of a cluster's limits: budgets for POSTs,
// records and bytes a second, and the search for the rate that is really there
// when a server answers 429.
//
// Nothing here sleeps or reads a clock: every call is told the time, which is
// monotonic wherever the caller has it from time.Now.
package limit

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Profile holds what a cluster of one type takes. Zero means no limit.
//
// Source: Confluent Cloud documentation, "Kafka cluster types", Kafka REST
// Produce v3 rows. Megabytes are 10^6 bytes.
type Profile struct {
	Name         string
	Connections  float64 // POSTs a second
	Records      float64 // records a second
	Bytes        float64 // bytes of records a second
	MessageBytes int     // one message
}

var profiles = map[string]Profile{
	"none":       {Name: "none"},
	"basic":      {Name: "basic", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
	"standard":   {Name: "standard", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
	"enterprise": {Name: "enterprise", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
	"freight":    {Name: "freight", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
}

// What one CKU of a dedicated cluster takes, and the most CKUs there are.
const (
	ckuConnections = 300
	ckuRecords     = 3000
	ckuBytes       = 50e6
	maxCKU         = 152
)

// ParseProfile returns the profile of that name: none, basic, standard,
// enterprise, freight, or dedicated:N for N CKUs.
func ParseProfile(name string) (Profile, error) {
	if p, ok := profiles[strings.ToLower(name)]; ok {
		return p, nil
	}
	if n, ok := strings.CutPrefix(strings.ToLower(name), "dedicated:"); ok {
		cku, err := strconv.Atoi(n)
		if err != nil || cku < 1 || cku > maxCKU {
			return Profile{}, fmt.Errorf("limits %q: dedicated:N wants N CKUs, 1..%d", name, maxCKU)
		}
		c := float64(cku)
		return Profile{
			Name: "dedicated:" + n, Connections: ckuConnections * c, Records: ckuRecords * c,
			Bytes: ckuBytes * c, MessageBytes: 20e6,
		}, nil
	}
	names := make([]string, 0, len(profiles)+1)
	for n := range profiles {
		names = append(names, n)
	}
	sort.Strings(names)
	return Profile{}, fmt.Errorf("limits %q: no such profile; there are %s and dedicated:CKU", name, strings.Join(names, ", "))
}

// ForHost names the profile a host gets that was given none: basic for
// Confluent Cloud, whose every cluster type allows at least that, else none.
func ForHost(host string) string {
	if IsConfluentCloud(host) {
		return "basic"
	}
	return "none"
}

// IsConfluentCloud says whether host is one of Confluent Cloud's.
func IsConfluentCloud(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return strings.HasSuffix(host, ".confluent.cloud") || strings.HasSuffix(host, ".confluent-cloud.com")
}

// String says what the profile allows, in an operator's words.
func (p Profile) String() string {
	if p.Connections == 0 && p.Records == 0 && p.Bytes == 0 {
		return p.Name
	}
	return fmt.Sprintf("%s (%g POSTs/s, %g records/s, %g MB/s, messages up to %d MB)",
		p.Name, p.Connections, p.Records, p.Bytes/1e6, p.MessageBytes/1e6)
}

// burstShare is the part of a second's budget that may go out at once. With a
// fiftieth no second holds more than 1.02 times the limit.
const burstShare = 0.02

// budget is a token bucket with debt: what is asked for is always granted, and
// the answer is how long to wait first.
type budget struct {
	rate  float64 // a second; 0: no limit
	burst float64
	level float64 // negative: owed
	last  time.Time
}

func newBudget(rate, share float64) budget {
	burst := max(1, rate*share)
	return budget{rate: rate, burst: burst, level: burst}
}

func (b *budget) take(now time.Time, n float64) time.Duration {
	if b.rate == 0 {
		return 0
	}
	b.refill(now)
	b.level -= n
	if b.level >= 0 {
		return 0
	}
	return time.Duration(-b.level / b.rate * float64(time.Second))
}

func (b *budget) refill(now time.Time) {
	if b.last.IsZero() {
		b.last = now
	}
	if dt := now.Sub(b.last); dt > 0 {
		b.level = min(b.burst, b.level+b.rate*dt.Seconds())
		b.last = now
	}
}

func (b *budget) setRate(now time.Time, rate, share float64) {
	b.refill(now)
	b.rate = rate
	b.burst = max(1, rate*share)
	b.level = min(b.level, b.burst)
	b.last = now
}

// Limiter keeps all that goes to one cluster inside its profile, and below it
// while the server says 429.
//
// Concurrency: safe; one lock, held for arithmetic only.
type Limiter struct {
	profile Profile

	mu    sync.Mutex
	posts budget
	recs  budget
	bytes budget

	found   float64   // records/s the server's 429s have shown; 0: no 429 yet
	cutAt   time.Time // when found was last lowered
	climbAt time.Time // when found was last raised
	start   time.Time // the slots count from here
	slots   [windowSlots]slot
}

// The window the delivered rate is measured over: ten tenths of a second.
const (
	windowSlots = 10
	slotLength  = 100 * time.Millisecond
)

type slot struct {
	index int64
	n     int
}

// New returns a limiter for a profile; all zero limits nothing until a server
// says 429.
func New(p Profile) *Limiter {
	l := &Limiter{profile: p, recs: newBudget(p.Records, burstShare), bytes: newBudget(p.Bytes, burstShare)}
	// POSTs arrive one by one, so evenly spaced at a little under the rate: a
	// sliding window of one second on the other side must never see one more.
	l.posts = newBudget(p.Connections*0.96, 0)
	return l
}

// Profile returns what the limiter was made with.
func (l *Limiter) Profile() Profile { return l.profile }

// Open reserves one POST and returns how long to wait before sending it.
func (l *Limiter) Open(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.posts.take(now, 1)
}

// Take reserves n records of that many bytes and returns how long to wait
// before sending them. Keep n within Quantum, or the second it falls into
// holds more than its share.
func (l *Limiter) Take(now time.Time, n, bytes int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.recs.rate == 0 && l.bytes.rate == 0 {
		return 0
	}
	if l.found > 0 {
		l.climb(now)
	}
	return max(l.recs.take(now, float64(n)), l.bytes.take(now, float64(bytes)))
}

// Give returns a reservation that was not used.
func (l *Limiter) Give(n, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recs.level = min(l.recs.burst, l.recs.level+float64(n))
	l.bytes.level = min(l.bytes.burst, l.bytes.level+float64(bytes))
}

// Quantum returns the most records and bytes to send at once: one per cent of
// a second's. Zero means no bound.
func (l *Limiter) Quantum() (records, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.recs.rate > 0 {
		records = max(1, int(l.recs.rate/100))
	}
	if l.bytes.rate > 0 {
		bytes = max(1, int(l.bytes.rate/100))
	}
	return records, bytes
}

// PerSecond returns the records a second allowed at present; 0 means no limit.
func (l *Limiter) PerSecond() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recs.rate
}

// Delivered tells of n good reports.
func (l *Limiter) Delivered(now time.Time, n int) {
	l.mu.Lock()
	if l.start.IsZero() {
		l.start = now
	}
	i := int64(now.Sub(l.start) / slotLength)
	s := &l.slots[i%windowSlots]
	if s.index != i {
		*s = slot{index: i}
	}
	s.n += n
	l.mu.Unlock()
}

// The search for the rate that is there: after a 429 a little under what was
// delivered in the last second, at most once a second; without one it climbs
// by a fiftieth a second.
const (
	cutTo    = 0.96
	cutEvery = time.Second
	climbBy  = 0.02
	leastPer = 1 // records/s; never stop asking
)

// Throttled tells of a report that said 429. The rate falls to just under what
// the cluster has been seen to take.
func (l *Limiter) Throttled(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cutAt.IsZero() && now.Sub(l.cutAt) < cutEvery {
		return
	}
	rate := l.deliveredPerSecond(now) * cutTo
	if l.recs.rate > 0 {
		rate = min(rate, l.recs.rate*cutTo)
		rate = max(rate, l.recs.rate/4)
	}
	l.found = max(leastPer, rate)
	l.cutAt, l.climbAt = now, now
	l.recs.setRate(now, l.found, burstShare)
}

func (l *Limiter) deliveredPerSecond(now time.Time) float64 {
	newest := int64(now.Sub(l.start) / slotLength)
	n := 0
	for _, s := range l.slots {
		if newest-s.index < windowSlots {
			n += s.n
		}
	}
	return float64(n)
}

// climb raises the found rate by climbBy a second, up to the profile's; with
// no profile it goes on rising until the next 429.
func (l *Limiter) climb(now time.Time) {
	dt := now.Sub(l.climbAt)
	if dt < slotLength {
		return
	}
	l.climbAt = now
	l.found += max(leastPer, l.found*climbBy) * min(dt.Seconds(), 1)
	if l.profile.Records > 0 && l.found >= l.profile.Records {
		l.found = 0
		l.recs.setRate(now, l.profile.Records, burstShare)
		return
	}
	l.recs.setRate(now, l.found, burstShare)
}
