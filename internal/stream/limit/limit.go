// Package limit is the arithmetic of a cluster's limits: budgets for POSTs,
// records and bytes a second, and the search for the rate that is really there
// when a server answers 429.
//
// Nothing here sleeps or reads a clock: every call is told the time, which is
// monotonic wherever the caller has it from time.Now.
package limit

import (
	"fmt"
	"math"
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

// sendAfter says that the n just taken go out only after wait, for another
// budget has less: what the bucket would have gained past its brim by then is
// lost, or those who wait together would all go at once.
func (b *budget) sendAfter(wait time.Duration, n float64) {
	b.level = min(b.level, max(0, b.burst-n)-b.rate*wait.Seconds())
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

	found     float64   // records/s the server's 429s have shown; 0: no 429 yet
	cutAt     time.Time // when found was last set by a 429
	cutGood   float64   // the share of good reports that led to it
	deafUntil time.Time // cutting was seen not to help: 429s are not our rate's doing
	climbAt   time.Time // when found was last raised
	last429   time.Time
	start     time.Time // the slots count from here
	slots     [windowSlots]slot
}

// The reports of the last half second, in tenths: what a cut is decided by.
const (
	windowSlots = 5
	slotLength  = 100 * time.Millisecond
)

type slot struct {
	index                int64
	delivered, throttled int
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
	wait := max(l.recs.take(now, float64(n)), l.bytes.take(now, float64(bytes)))
	if wait > 0 {
		l.recs.sendAfter(wait, float64(n))
		l.bytes.sendAfter(wait, float64(bytes))
	}
	return wait
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
	l.slot(now).delivered += n
	l.mu.Unlock()
}

// slot returns the counts of the present tenth of a second.
func (l *Limiter) slot(now time.Time) *slot {
	if l.start.IsZero() {
		l.start = now
	}
	i := max(0, int64(now.Sub(l.start)/slotLength)) // the clock was read before the lock was had
	s := &l.slots[i%windowSlots]
	if s.index != i {
		*s = slot{index: i}
	}
	return s
}

// The search for the rate that is there. A 429 brings the rate to a little
// under what was delivered, at most once a second; without one it climbs, by a
// fiftieth in the first second and twice as much in each that follows. A server
// that limits the rate delivers as much as before after a cut and refuses less
// of it; where the share of good reports stays what it was, the rate was not
// the cause: the cut is taken back and none is made for a while.
const (
	firstLook    = 250 * time.Millisecond // of counts before the first cut
	cutEvery     = time.Second
	cutTo        = 0.97
	climbBy      = 0.02
	climbMost    = 0.5
	climbDeaf    = 0.2
	judgeWithin  = 3 * time.Second
	helped       = 1.2 // times the good share before
	helpedLeast  = 0.01
	helpedEnough = 0.9
	takeBack     = 2
	deafFor      = 5 * time.Second
	leastPer     = 1 // records/s; never stop asking
)

// Throttled tells of n reports that said 429. It returns true when the rate
// was lowered for them.
func (l *Limiter) Throttled(now time.Time, n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slot(now).throttled += n
	l.last429 = now
	if now.Sub(l.start) < firstLook || !l.cutAt.IsZero() && now.Sub(l.cutAt) < cutEvery {
		return false
	}
	delivered, throttled, seconds := l.window(now)
	good := delivered / (throttled + delivered)
	judged := !l.cutAt.IsZero() && now.Sub(l.cutAt) < judgeWithin
	switch {
	case now.Before(l.deafUntil):
		return false
	case judged && good < max(helped*l.cutGood, l.cutGood+helpedLeast) && good < helpedEnough:
		l.deafUntil = now.Add(deafFor)
		l.cutAt = now
		l.setFound(now, l.found*takeBack)
		return false
	}
	l.cutAt, l.cutGood = now, good
	rate := delivered / seconds * cutTo
	if l.recs.rate > 0 {
		rate = min(rate, l.recs.rate*cutTo)
	}
	l.setFound(now, max(leastPer, rate))
	return true
}

// window adds up the slots that are not over.
func (l *Limiter) window(now time.Time) (delivered, throttled, seconds float64) {
	newest := int64(now.Sub(l.start) / slotLength)
	for _, s := range l.slots {
		if newest-s.index < windowSlots {
			delivered += float64(s.delivered)
			throttled += float64(s.throttled)
		}
	}
	window := (windowSlots-1)*slotLength + (now.Sub(l.start) % slotLength)
	return delivered, throttled, min(window, now.Sub(l.start)).Seconds()
}

// climb raises the found rate, up to the profile's; with no profile it goes on
// rising until the next 429.
func (l *Limiter) climb(now time.Time) {
	dt := now.Sub(l.climbAt)
	if dt < slotLength {
		return
	}
	by := climbDeaf
	if !now.Before(l.deafUntil) {
		by = min(climbMost, climbBy*math.Exp2(now.Sub(l.last429).Seconds()))
	}
	l.setFound(now, l.found+max(leastPer, l.found*by)*min(dt.Seconds(), 1))
}

// setFound makes rate the one in force; at the profile's the search is over.
func (l *Limiter) setFound(now time.Time, rate float64) {
	l.found, l.climbAt = rate, now
	if l.profile.Records > 0 && rate >= l.profile.Records {
		l.found, rate = 0, l.profile.Records
	}
	l.recs.setRate(now, rate, burstShare)
}
