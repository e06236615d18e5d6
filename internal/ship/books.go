package ship

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream"
)

// books count every record once on its way in and once on its way out.
//
// Concurrency: safe. The lock is taken once a batch.
type books struct {
	read      atomic.Int64
	readBytes atomic.Int64
	delivered atomic.Int64
	rejected  atomic.Int64

	mu      sync.Mutex
	topics  map[string]*TopicBooks
	reasons map[routeReason]int64 // rejected
	local   map[int]int64         // rejected before sending, by the code they would have had
}

// routeReason is why records of a route were rejected.
type routeReason struct {
	route  int32
	reason string
}

// maxTopics bounds the topics told apart; templates can make any number. Those
// beyond are counted together, under otherTopics.
const (
	maxTopics   = 10_000
	otherTopics = "(others)"
)

// TopicBooks is one topic's part of a Summary, in records.
type TopicBooks struct {
	Delivered int64 `json:"delivered"`
	Rejected  int64 `json:"rejected"`
}

func newBooks() *books {
	return &books{topics: map[string]*TopicBooks{}, reasons: map[routeReason]int64{}, local: map[int]int64{}}
}

func (b *books) topic(name string) *TopicBooks {
	t := b.topics[name]
	if t == nil && len(b.topics) >= maxTopics {
		name = otherTopics
		t = b.topics[name]
	}
	if t == nil {
		t = &TopicBooks{}
		b.topics[name] = t
	}
	return t
}

func (b *books) deliver(topic string, n int) {
	b.delivered.Add(int64(n))
	b.mu.Lock()
	b.topic(topic).Delivered += int64(n)
	b.mu.Unlock()
}

func (b *books) reject(route int32, topic, reason string) {
	b.rejected.Add(1)
	b.mu.Lock()
	b.topic(topic).Rejected++
	b.reasons[routeReason{route, reason}]++
	b.mu.Unlock()
}

// lose counts records of a buffer that are gone: dropped as its policy says,
// or damaged.
func (b *books) lose(route int32, reason string, n int64) {
	b.rejected.Add(n)
	b.mu.Lock()
	b.reasons[routeReason{route, reason}] += n
	b.mu.Unlock()
}

// rejections returns the rejected records by route and reason.
func (b *books) rejections() map[routeReason]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.reasons)
}

func (b *books) refusedHere(code int) {
	b.mu.Lock()
	b.local[code]++
	b.mu.Unlock()
}

// Summary is what a run did. read = delivered + rejected + pending, always.
type Summary struct {
	Read      int64 `json:"read"`
	Delivered int64 `json:"delivered"`
	Rejected  int64 `json:"rejected"`
	Pending   int64 `json:"pending"`
	// Retried counts sendings after the first; PossiblyDuplicated those of them
	// whose record may have been written before.
	Retried            int64                  `json:"retried"`
	PossiblyDuplicated int64                  `json:"possibly_duplicated"`
	BytesRead          int64                  `json:"bytes_read"`
	BytesSent          int64                  `json:"bytes_sent"`
	Seconds            float64                `json:"seconds"`
	CPUSeconds         float64                `json:"cpu_seconds"`
	Topics             map[string]*TopicBooks `json:"topics"`
	ErrorCodes         map[string]int64       `json:"error_codes"` // reports and local refusals other than 200

	Streams    int64            `json:"streams_opened"`
	Reasons    map[string]int64 `json:"rejected_reasons,omitempty"`
	DeadLetter string           `json:"dead_letter,omitempty"`
	DryRun     bool             `json:"dry_run,omitempty"`
	Buffered   int64            `json:"buffered,omitempty"` // of those pending, in disk buffers
}

func (b *books) summary(st stream.Stats, began time.Time, cpu float64) Summary {
	b.mu.Lock()
	defer b.mu.Unlock()
	// Final before read: what is in between is pending, never less than none.
	delivered, rejected := b.delivered.Load(), b.rejected.Load()
	s := Summary{
		Read: b.read.Load(), Delivered: delivered, Rejected: rejected,
		Retried: st.Resent, PossiblyDuplicated: st.Unknown, BytesRead: b.readBytes.Load(), BytesSent: st.SentBytes,
		Seconds: roundMicro(time.Since(began).Seconds()), CPUSeconds: roundMicro(cpu),
		Topics: map[string]*TopicBooks{}, ErrorCodes: map[string]int64{}, Streams: st.Opened,
		Reasons: map[string]int64{},
	}
	for why, n := range b.reasons {
		s.Reasons[why.reason] += n
	}
	for name, t := range b.topics {
		one := *t
		s.Topics[name] = &one
	}
	s.Pending = s.Read - s.Delivered - s.Rejected
	for code, n := range st.Codes {
		if code != 200 {
			s.ErrorCodes[fmt.Sprint(code)] += n
		}
	}
	for code, n := range b.local {
		s.ErrorCodes[fmt.Sprint(code)] += n
	}
	return s
}

// roundMicro cuts what no clock here measures.
func roundMicro(s float64) float64 { return math.Round(s*1e6) / 1e6 }

// String is the summary as one paragraph for a person.
func (s Summary) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "read %d records (%s): %d delivered, %d rejected, %d pending", s.Read, sizeText(s.BytesRead), s.Delivered, s.Rejected, s.Pending)
	if s.DryRun {
		b.WriteString("; dry run, nothing was sent")
	}
	if s.Retried > 0 {
		fmt.Fprintf(&b, "; sent again %d times, %d of them possibly duplicated", s.Retried, s.PossiblyDuplicated)
	}
	if len(s.ErrorCodes) > 0 {
		b.WriteString("; reports other than 200:")
		for i, code := range slices.Sorted(maps.Keys(s.ErrorCodes)) {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, " %d × %s", s.ErrorCodes[code], code)
		}
	}
	if s.DeadLetter != "" {
		fmt.Fprintf(&b, "; rejected records are kept in %s", s.DeadLetter)
	}
	fmt.Fprintf(&b, ". %s in %s", sizeText(s.BytesSent)+" sent", time.Duration(s.Seconds*float64(time.Second)).Round(time.Millisecond))
	if s.Seconds > 0 {
		fmt.Fprintf(&b, ", %.0f records/s", float64(s.Delivered)/s.Seconds)
	}
	fmt.Fprintf(&b, ", %.2f s of CPU", s.CPUSeconds)
	if s.Delivered >= 1000 {
		fmt.Fprintf(&b, " (%.2f s per million records)", s.CPUSeconds/float64(s.Delivered)*1e6)
	}
	b.WriteString(".")
	return b.String()
}

// sizeText writes a number of bytes in powers of ten.
func sizeText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1f KB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}
