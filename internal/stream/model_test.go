package stream

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/produce-agent/produce-agent/internal/stream/dialect"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// What a stream of the model does wrong, once it has taken after records.
var modelFaults = []string{
	"none", "none", "429 reports", "50003 reports", "413 reports", "408 and grace", "408 stored",
	"terminal", "terminal behind a bad record", "terminal too large", "idle terminal",
	"reset before reports", "reset after storing", "reset after reports", "cut in a report", "end early",
	"rubbish", "no JSON", "status 429", "status 503", "status 502 after reading", "status 307 here",
	"status 308 elsewhere", "status 301 elsewhere", "close at once", "stall",
}

type modelFault struct {
	kind  string
	after int
	every int
}

// model is what the fake endpoint knows of all exchanges.
type model struct {
	mu      sync.Mutex
	faults  []modelFault
	next    int
	certain map[string]int // stored, and reported so on a stream that ended well
	stored  map[string]int
	blamed  map[string]bool // refused for good, or at the head of a terminal end
	where   string          // the other host
}

// run is the script of every POST.
func (m *model) run(x *exchange) {
	m.mu.Lock()
	f := modelFault{kind: "none"}
	if m.next < len(m.faults) {
		f = m.faults[m.next]
	}
	m.next++
	m.mu.Unlock()
	if m.before(x, f) {
		return
	}
	var mine []string
	for x.seen < f.after || f.kind == "none" || strings.HasSuffix(f.kind, " reports") && f.every > 0 {
		id, ok := x.next()
		if !ok {
			x.end()
			m.settle(mine)
			return
		}
		if f.every > 0 && x.seen > f.after && x.seen%f.every == 0 {
			if m.mark(x, id, f) != nil {
				return
			}
			continue
		}
		mine = append(mine, x.topic+"/"+id)
		m.store(x, id)
		if x.send(goodReport(x.seen)+"\r\n") != nil {
			return
		}
	}
	m.breakOff(x, f, mine)
}

// before plays what happens in place of a stream.
func (m *model) before(x *exchange, f modelFault) bool {
	switch f.kind {
	case "status 429":
		x.status(429, "Content-Type: text/html\r\n", "<html><title>Too Many Requests</title></html>")
	case "status 503":
		x.status(503, "Retry-After: 0\r\n", "")
	case "status 502 after reading":
		if id, ok := x.next(); ok {
			m.store(x, id)
		}
		x.status(502, "", "bad gateway")
	case "status 307 here":
		x.status(307, "Location: "+x.req.URL.Path+"\r\n", "")
	case "status 308 elsewhere", "status 301 elsewhere":
		x.status(map[byte]int{'8': 308, '1': 301}[f.kind[9]], "Location: http://"+m.where+x.req.URL.Path+"\r\n", "")
	case "close at once":
		x.conn.Close()
	default:
		return false
	}
	return true
}

// mark reports an error on one record.
func (m *model) mark(x *exchange, id string, f modelFault) error {
	switch f.kind {
	case "429 reports":
		return x.refuse(429, "Request rate limit exceeded")
	case "50003 reports":
		return x.refuse(50003, "Expiring 1 record(s)")
	default:
		m.blame(x, id)
		return x.refuse(413, "too large")
	}
}

// breakOff ends a stream in its way.
func (m *model) breakOff(x *exchange, f modelFault, mine []string) {
	read := func(n int, store bool) (ids []string) {
		for len(ids) < n {
			id, ok := x.next()
			if !ok {
				break
			}
			ids = append(ids, id)
			if store {
				m.store(x, id)
			}
		}
		return ids
	}
	switch f.kind {
	case "408 and grace", "408 stored":
		for range 1 + f.after%3 {
			for range read(1, f.kind == "408 stored") {
				x.refuse(408, "Streaming connection open for longer than allowed: Connection will be closed.")
			}
		}
		x.end()
		m.settle(mine)
		x.linger()
	case "terminal", "terminal behind a bad record", "terminal too large", "idle terminal":
		for _, id := range read(1, false) {
			m.terminal(x, f.kind, id)
		}
		x.end()
		m.settle(mine)
		x.linger()
	case "reset before reports":
		read(1, false)
		x.reset()
	case "reset after storing":
		read(1, true)
		x.reset()
	case "reset after reports":
		x.reset()
	case "cut in a report":
		if ids := read(1, true); len(ids) > 0 {
			report := goodReport(1)
			if x.send(report[:len(report)*2/3]) == nil {
				x.conn.Close()
			}
		}
	case "end early":
		x.end()
		x.linger()
	case "rubbish":
		read(1, true) // rubbish before any report would be an endpoint that is none
		x.send(goodReport(1) + "\r\n<html>oops")
		x.linger()
	case "no JSON":
		for range read(1, true) {
			x.send(`{"error_code":200,,}`)
		}
		x.reset()
	case "stall":
		read(1, true)
		io.Copy(io.Discard, x.conn)
	}
}

func (m *model) terminal(x *exchange, kind, id string) {
	switch kind {
	case "terminal behind a bad record":
		m.blame(x, id)
		x.refuse(400, "Unexpected character ('x')")
		x.refuse(400, "Bad Request: Error processing message: Unexpected character")
	case "terminal too large":
		m.blame(x, id)
		x.refuse(400, "Bad Request: Error processing message: Produce request size is larger than allowed threshold")
	case "idle terminal":
		x.refuse(400, "Bad Request: Error processing message: Idle timeout expired: 30000/30000 ms")
	default:
		m.blame(x, id)
		x.refuse(400, "Bad Request: Error processing message: Unexpected character")
	}
}

func (m *model) store(x *exchange, id string) {
	m.mu.Lock()
	m.stored[x.topic+"/"+id]++
	m.mu.Unlock()
}

func (m *model) blame(x *exchange, id string) {
	m.mu.Lock()
	m.blamed[x.topic+"/"+id] = true
	m.mu.Unlock()
}

func (m *model) settle(mine []string) {
	m.mu.Lock()
	for _, id := range mine {
		m.certain[id]++
	}
	m.mu.Unlock()
}

// Whatever streams do: every record ends exactly once, what is delivered was
// stored, what was reported stored on a stream that ended well is never sent
// again, and no credentials leave the endpoint's own host.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{certain: map[string]int{}, stored: map[string]int{}, blamed: map[string]bool{}}
		srv := listenFake(t, "127.0.0.1:0", m.run)
		defer srv.close()
		other := listenFake(t, "127.0.0.1:0", m.run)
		defer other.close()
		m.where = other.ln.Addr().String()
		cfg := fastConfig()
		cfg.Streams = rapid.IntRange(1, 4).Draw(rt, "streams")
		cfg.InFlight = rapid.SampledFrom([]int{1, 3, 20, 8192}).Draw(rt, "in flight")
		cfg.Reports = rapid.Bool().Draw(rt, "reports")
		cfg.Strict = rapid.Bool().Draw(rt, "strict")
		cfg.RotateRecords = int64(rapid.SampledFrom([]int{0, 0, 10}).Draw(rt, "rotate"))
		cfg.Heartbeat = 20 * time.Millisecond
		stalls := 0
		for i := range rapid.IntRange(0, 8).Draw(rt, "faults") {
			f := modelFault{
				kind:  rapid.SampledFrom(modelFaults).Draw(rt, fmt.Sprint("fault ", i)),
				after: rapid.SampledFrom([]int{0, 1, 2, 5, 17, 60}).Draw(rt, "after"),
			}
			if strings.HasSuffix(f.kind, "3 reports") || f.kind == "429 reports" { // 50003 and 413 too
				f.every = rapid.IntRange(2, 5).Draw(rt, "every")
			}
			if f.kind == "stall" {
				if stalls++; stalls > 2 {
					f.kind = "none"
				}
				cfg.ReportTimeout = time.Second
			}
			m.faults = append(m.faults, f)
		}
		k := newBooks()
		a, _ := authBasic()
		spoken := rapid.SampledFrom([]dialect.Dialect{dialect.V3Stream, dialect.V3Records}).Draw(rt, "dialect")
		p := New(cfg, Target{Base: srv.url(), ClusterID: "lkc-x", Auth: a, Dialect: spoken}, limit.Profile{}, k, quiet(), nil)
		var all []string
		for i := range rapid.IntRange(1, 12).Draw(rt, "batches") {
			topic := fmt.Sprint("t", rapid.IntRange(0, 3).Draw(rt, "topic"))
			size := rapid.SampledFrom([]int{0, 300, 9000}).Draw(rt, "size")
			names := ids(fmt.Sprint("b", i, "-"), rapid.IntRange(1, 30).Draw(rt, "records"))
			for _, n := range names {
				all = append(all, topic+"/"+n)
			}
			submit(t, p, batchOf(topic, size, names...))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err := p.Drain(ctx)
		stats := p.Stats()
		stopPool(t, p, 5*time.Second)
		if err != nil {
			rt.Fatalf("drain: %v, stats %+v", err, stats)
		}
		m.check(rt, k, all, cfg)
		if slices.ContainsFunc(other.auths, func(a string) bool { return a != "" }) {
			rt.Errorf("credentials went to another host")
		}
		if slices.Contains(srv.auths, "") {
			rt.Errorf("a POST to the endpoint had no credentials")
		}
		if stats.InFlight != 0 || int(stats.Delivered) != len(k.delivered) {
			rt.Errorf("stats %+v, %d delivered", stats, len(k.delivered))
		}
	})
}

func (m *model) check(t *rapid.T, k *books, all []string, cfg Config) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(k.twice) > 0 {
		t.Errorf("ended twice: %v", k.twice)
	}
	if n := len(k.delivered) + len(k.rejected); n != len(all) {
		t.Errorf("%d of %d records ended", n, len(all))
	}
	for _, id := range all {
		why, rejected := k.rejected[id]
		switch {
		case k.delivered[id] > 0 && m.stored[id] == 0:
			t.Errorf("%s: delivered but never stored", id)
		case rejected && !m.blamed[id] && why.Reason != "unreadable_report" && why.Attempts < cfg.MaxAttempts:
			t.Errorf("%s: rejected for nothing: %+v", id, why)
		}
		if m.certain[id] > 1 {
			t.Errorf("%s: sent again %d times though its report was good", id, m.certain[id]-1)
		}
	}
}
