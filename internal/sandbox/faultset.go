package sandbox

import (
	"bytes"
	"sync/atomic"
	"time"
)

// activeFault is a Fault at work, with what it has done so far.
type activeFault struct {
	Fault
	seen    atomic.Int64 // streams or connections that could have been hit
	streams atomic.Int64 // those that were
	records atomic.Int64 // records that were
	drawn   atomic.Uint64
}

// faultSet is one setting of Faults. It is replaced as a whole.
type faultSet struct {
	all   []*activeFault
	since time.Time // when it was set

	rateHeaders *activeFault
	shared      []*activeFault

	flavour *flavour      // FaultV2's, else that of the set before
	changed chan struct{} // closed when another set takes its place
}

func newFaultSet(fs Faults, flavour *flavour, now time.Time) *faultSet {
	s := &faultSet{changed: make(chan struct{}), flavour: flavour, since: now}
	for i := len(fs) - 1; i >= 0; i-- {
		if fs[i].Kind == FaultV2 {
			s.flavour = findFlavour(fs[i].Flavour)
		}
	}
	for _, f := range fs {
		a := &activeFault{Fault: f}
		s.all = append(s.all, a)
		switch {
		case f.Kind == FaultShared:
			s.shared = append(s.shared, a)
		case f.Kind == FaultRateHeaders && s.rateHeaders == nil:
			s.rateHeaders = a
		}
	}
	return s
}

// claim says whether f applies to one more stream, and counts it.
func (f *activeFault) claim() bool {
	if f.Times == 0 {
		f.streams.Add(1)
		return true
	}
	if f.streams.Add(1) > int64(f.Times) {
		f.streams.Add(-1)
		return false
	}
	return true
}

// draw decides by Share, with a sequence that is the same in every run.
func (f *activeFault) draw() bool {
	x := f.drawn.Add(0x9e3779b97f4a7c15)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11)/(1<<53) < f.Share
}

// during says whether f is at work so long after it was set: from Age on, for
// For, or for ever.
func (f *activeFault) during(age time.Duration) bool {
	return age >= f.Age && (f.For == 0 || age < f.Age+f.For)
}

// taken is how many records per second other clients take at now.
func (s *faultSet) taken(now time.Time) float64 {
	sum := 0.0
	for _, f := range s.shared {
		if f.during(now.Sub(s.since)) {
			sum += float64(f.Rate)
		}
	}
	return sum
}

// refuse says whether the connection just accepted is to be closed.
func (s *faultSet) refuse() bool {
	for _, f := range s.all {
		if f.Kind == FaultRefuse && f.claim() {
			return true
		}
	}
	return false
}

// http returns the answer to give in place of a stream to topic, if any.
func (s *faultSet) http(topic string) *activeFault {
	for _, f := range s.all {
		if f.Kind != FaultHTTP || f.Topic != "" && f.Topic != topic {
			continue
		}
		n := f.seen.Add(1)
		if f.Every > 0 && n%int64(f.Every) != 0 || f.Share > 0 && !f.draw() {
			continue
		}
		if f.claim() {
			return f
		}
	}
	return nil
}

// streamFaults is what applies to one stream.
type streamFaults struct {
	set     *faultSet
	reports []*activeFault
	slow    []*activeFault
	ends    []*activeFault // expire, terminal, reset, cut, end

	stall, unknown, framing, garbage, slowRead *activeFault

	buffering bool
}

// forStream works out what applies to a new stream to topic.
func (s *faultSet) forStream(topic string) *streamFaults {
	out := &streamFaults{set: s}
	one := func(slot **activeFault, f *activeFault) {
		if *slot == nil && f.claim() {
			*slot = f
		}
	}
	for _, f := range s.all {
		if f.Topic != "" && f.Topic != topic {
			continue
		}
		switch f.Kind {
		case FaultReport:
			if f.claim() {
				out.reports = append(out.reports, f)
			}
		case FaultSlow:
			if f.claim() {
				out.slow = append(out.slow, f)
			}
		case FaultExpire, FaultTerminal, FaultReset, FaultCut, FaultEnd:
			if f.claim() {
				out.ends = append(out.ends, f)
			}
		case FaultStall:
			one(&out.stall, f)
		case FaultUnknown:
			one(&out.unknown, f)
		case FaultFraming:
			one(&out.framing, f)
		case FaultGarbage:
			one(&out.garbage, f)
		case FaultBuffering:
			out.buffering = out.buffering || f.claim()
		case FaultSlowRead:
			one(&out.slowRead, f)
		}
	}
	return out
}

// hits says whether f applies to the n-th record (from 1) of a stream.
func (f *activeFault) hits(n int, src []byte) bool {
	if n <= f.After ||
		f.Every > 0 && (n-f.After)%f.Every != 0 ||
		f.Contains != "" && !bytes.Contains(src, []byte(f.Contains)) ||
		f.Share > 0 && !f.draw() {
		return false
	}
	if hit := f.records.Add(1); f.Count > 0 && hit > int64(f.Count) {
		return false
	}
	return true
}
