package ingest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/produce-agent/produce-agent/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// got is one record as a sink saw it.
type got struct {
	topic   string
	payload string // as record.Decode gives it back, or as it was rejected
	null    bool
	held    bool // rejected with its payload
	reason  string
	message string
	pos     record.Position
}

// memory is a Sink that keeps everything, in order of arrival.
type memory struct {
	mu      sync.Mutex
	records []got
	batches []int // records in each
	fail    error // of every Submit
}

func (m *memory) Submit(b *record.Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		b.Discard()
		return m.fail
	}
	m.batches = append(m.batches, b.Len())
	for i := range b.Len() {
		parts, err := record.Decode(b.Bytes(i, i+1))
		if err != nil {
			return fmt.Errorf("BUG: decode what was encoded: %w", err)
		}
		m.records = append(m.records, got{topic: b.Topic, payload: string(parts.Payload), null: parts.Null, pos: b.Pos[i]})
	}
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func (m *memory) Reject(_ int32, topic string, pos record.Position, payload []byte, why *record.InvalidError) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = append(m.records, got{
		topic: topic, payload: string(payload), held: payload != nil, reason: why.Reason, message: why.Message, pos: pos,
	})
	return nil
}

func (m *memory) sent() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, b := range m.batches {
		n += b
	}
	return n
}

// sorted returns what came, in the order of the source.
func (m *memory) sorted() []got {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := append([]got(nil), m.records...)
	for i := range out { // rejections overtake the batch being built
		for j := i; j > 0 && out[j].pos.Offset < out[j-1].pos.Offset; j-- {
			out[j], out[j-1] = out[j-1], out[j]
		}
	}
	return out
}

// cutter hands bytes out in pieces of the given sizes, over and over.
type cutter struct {
	data  []byte
	sizes []byte
	i     int
}

func (c *cutter) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := len(c.data)
	if len(c.sizes) > 0 {
		n = int(c.sizes[c.i%len(c.sizes)]) + 1
		c.i++
	}
	n = copy(p, c.data[:min(n, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

// lineSet is how one input with one route of one topic is set up.
type lineSet struct {
	LineConfig
	Batch   BatchConfig
	Encoder record.EncoderConfig
}

func lineConfig() lineSet {
	return lineSet{LineConfig{MaxRecordBytes: 8e6}, DefaultBatchConfig(), record.DefaultEncoderConfig()}
}

// newRouter returns a Router whose one route is what cfg says, to topic.
func newRouter(t testing.TB, cfg lineSet, topic string, sink Sink) *Router {
	t.Helper()
	r, err := NewRouter(RouterConfig{
		Batch: cfg.Batch, Routes: []Route{{Topic: topic, Encoder: cfg.Encoder}}, MaxRecordBytes: cfg.MaxRecordBytes,
	}, sink)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lineReader is a Reader and its Router.
type lineReader struct {
	*Reader
	router *Router
}

func (r lineReader) Close() error { return r.router.Close() }

func newReader(t testing.TB, cfg lineSet, sink Sink) lineReader {
	t.Helper()
	cfg.RecordIDs = cfg.Encoder.RecordIDHeader != ""
	router := newRouter(t, cfg, "t", sink)
	return lineReader{NewReader(cfg.LineConfig, router), router}
}

// read takes all of in apart and returns what came of it.
func read(t testing.TB, cfg lineSet, in io.Reader) []got {
	t.Helper()
	var m memory
	r := newReader(t, cfg, &m)
	if err := r.Read(in, 3, "id", false); err != nil && !errors.Is(err, ErrCount) {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return m.sorted()
}

// show writes records as a test compares them: payload, or !reason.
func show(records []got) string {
	var b strings.Builder
	for _, g := range records {
		switch {
		case g.reason != "" && g.held:
			fmt.Fprintf(&b, "[%d+%d !%s %q]", g.pos.Offset, g.pos.Len, g.reason, g.payload)
		case g.reason != "":
			fmt.Fprintf(&b, "[%d+%d !%s]", g.pos.Offset, g.pos.Len, g.reason)
		case g.null:
			fmt.Fprintf(&b, "[%d+%d null]", g.pos.Offset, g.pos.Len)
		default:
			fmt.Fprintf(&b, "[%d+%d %q]", g.pos.Offset, g.pos.Len, g.payload)
		}
	}
	return b.String()
}

// long is a line of n bytes that tells where it was cut.
func long(n int) string {
	return strings.Repeat("0123456789", n/10) + "0123456789"[:n%10]
}
