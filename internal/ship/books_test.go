package ship

import (
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/stream"
)

// someBooks is a run with a little of everything.
func someBooks() Summary {
	b := newBooks()
	b.read.Add(2007)
	b.readBytes.Add(1_234_567)
	b.deliver("t", 2000)
	b.deliver("u", 1)
	b.reject(0, "t", "too_large")
	b.reject(0, "t", "invalid_json")
	b.refusedHere(400)
	s := b.summary(stream.Stats{
		SentBytes: 12_345, Opened: 3, Unknown: 5,
		Resent: 9, Retried: map[string]int64{"rate_limited": 4, "error": 5},
		Codes: map[int]int64{200: 2001, 429: 4, 400: 1},
	}, time.Now(), 1.5)
	s.Seconds = 2
	return s
}

// The names are a contract: scripts depend on them.
func TestSummaryJSON(t *testing.T) {
	s := someBooks()
	s.DeadLetter = "dead.ndjson"
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"read":2007,"delivered":2001,"rejected":2,"pending":4,"retried":9,"possibly_duplicated":5,` +
		`"bytes_read":1234567,"bytes_sent":12345,"seconds":2,"cpu_seconds":1.5,` +
		`"topics":{"t":{"delivered":2000,"rejected":2},"u":{"delivered":1,"rejected":0}},` +
		`"error_codes":{"400":2,"429":4},` +
		`"streams_opened":3,"rejected_reasons":{"invalid_json":1,"too_large":1},"dead_letter":"dead.ndjson"}`
	if string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	empty, err := json.Marshal(newBooks().summary(stream.Stats{}, time.Now(), 0))
	if err != nil || !strings.Contains(string(empty), `"topics":{},"error_codes":{}`) {
		t.Errorf("nothing read: %s, %v", empty, err)
	}
}

func TestSummaryText(t *testing.T) {
	f := func(s Summary, want string) {
		t.Helper()
		if got := s.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	s := someBooks()
	s.DeadLetter = "dead.ndjson"
	f(s, "read 2007 records (1.2 MB): 2001 delivered, 2 rejected, 4 pending; sent again 9 times, 5 of them possibly duplicated; "+
		"reports other than 200: 2 × 400, 4 × 429; rejected records are kept in dead.ndjson. "+
		"12.3 KB sent in 2s, 1000 records/s, 1.50 s of CPU (749.63 s per million records).")
	f(Summary{}, "read 0 records (0 bytes): 0 delivered, 0 rejected, 0 pending. 0 bytes sent in 0s, 0.00 s of CPU.")
	f(Summary{Read: 1, Pending: 1, BytesRead: 2, DryRun: true, Seconds: 0.0005}, "read 1 records (2 bytes): 0 delivered, 0 rejected, 1 pending; dry run, nothing was sent. 0 bytes sent in 1ms, 0 records/s, 0.00 s of CPU.")
}

// Whoever looks meanwhile never sees more final than read.
func TestBooksMeanwhile(t *testing.T) {
	b := newBooks()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20_000 {
			b.read.Add(2)
			b.deliver("t", 1)
			b.reject(0, "t", "r")
		}
	}()
	for {
		if s := b.summary(stream.Stats{}, time.Now(), 0); s.Pending < 0 {
			t.Fatalf("%d pending", s.Pending)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
