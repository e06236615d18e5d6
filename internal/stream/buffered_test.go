package stream

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// counts is a Handler that only counts.
type counts struct {
	mu                  sync.Mutex
	delivered, rejected int
}

func (c *counts) Delivered(_ *record.Batch, from, to int) {
	c.mu.Lock()
	c.delivered += to - from
	c.mu.Unlock()
}

func (c *counts) Rejected(*record.Batch, int, Rejection) {
	c.mu.Lock()
	c.rejected++
	c.mu.Unlock()
}

func (c *counts) Report(*record.Batch, int, *Report) {}

// An endpoint that reads a request to its end before it answers, as a plain
// handler or a buffering proxy does, gets one request after another.
func TestBufferingEndpoint(t *testing.T) {
	var mu sync.Mutex
	var got []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		mu.Lock()
		got = append(got, body...)
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		for range bytes.Count(body, []byte("}}\n")) {
			fmt.Fprint(w, `{"error_code":200,"cluster_id":"c","topic_name":"t","partition_id":0,"offset":1}`+"\r\n")
		}
	}))
	defer server.Close()
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.OneShot, cfg.Silence, cfg.Heartbeat, cfg.InFlight = true, 100*time.Millisecond, 200*time.Millisecond, 100
	var h counts
	p := New(cfg, Target{Base: base, ClusterID: "c", Auth: auth.None{}}, limit.Profile{}, &h, quiet(), nil)
	const batches, each = 40, 25
	for i := range batches {
		b := record.NewBatch("t")
		for k := range each {
			b.Commit(fmt.Appendf(b.Tail(), `{"value":{"type":"STRING","data":"%d"}}`+"\n", i*each+k), record.Position{})
		}
		if err := p.Submit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Stop(t.Context())
	if h.delivered != batches*each || h.rejected != 0 {
		t.Errorf("delivered %d, rejected %d, want %d and 0", h.delivered, h.rejected, batches*each)
	}
	if n := bytes.Count(got, []byte("}}\n")); n != batches*each {
		t.Errorf("the endpoint got %d records, want %d", n, batches*each)
	}
	if s := p.Stats(); s.Unknown != 0 || s.Closed[endRequest] == 0 {
		t.Errorf("unknown %d, streams closed %v", s.Unknown, s.Closed)
	}
}
