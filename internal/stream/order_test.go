package stream

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// orderModel is the reference: it sees every record that reaches the endpoint
// and knows of each key which one may be there.
type orderModel struct {
	strict bool

	mu     sync.Mutex
	last   map[string]int  // by topic and key: the number seen last
	final  map[string]bool // by topic and id: its last sending was told how it ended
	heads  map[string]int  // terminal ends at the head of which it was
	stored map[string]bool
	wrong  []string
	faults int // still to come
	limits int // 429s still to come
	closed map[string]int
	seed   uint64
}

// see takes note of a record sent: none may be one from before the key's last,
// nor come while that is not final.
func (m *orderModel) see(topic, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var key string
	var n int
	fmt.Sscanf(id, "%d-%s", &n, &key)
	if m.strict {
		key = "all"
	}
	if key == "none" {
		return
	}
	lane, me := topic+"/"+key, topic+"/"+id
	last, seen := m.last[lane]
	switch lastID := m.id(topic, last, id); {
	case seen && n < last:
		m.wrong = append(m.wrong, fmt.Sprintf("%s sent after number %d of its key", me, last))
	case seen && n > last && !m.final[lastID]:
		m.wrong = append(m.wrong, fmt.Sprintf("%s sent while %s is not final", me, lastID))
	}
	m.last[lane], m.final[me] = n, false
}

// id is the name of the record of number n: with strict its key is not known
// from another's.
func (m *orderModel) id(topic string, n int, like string) string {
	if m.strict {
		for name := range m.final {
			if strings.HasPrefix(name, fmt.Sprintf("%s/%d-", topic, n)) {
				return name
			}
		}
	}
	_, key, _ := strings.Cut(like, "-")
	return fmt.Sprintf("%s/%d-%s", topic, n, key)
}

func (m *orderModel) ends(x *exchange, id string, stored bool) {
	m.mu.Lock()
	m.final[x.topic+"/"+id] = true
	if stored {
		m.stored[x.topic+"/"+id] = true
	}
	m.mu.Unlock()
}

// run is the script of every POST: it reads records and now and then something
// goes wrong.
func (m *orderModel) run(x *exchange) {
	rng := rand.New(rand.NewPCG(m.seed, uint64(x.n)))
	if m.fails(rng, 10) {
		x.status([]int{502, 503, 500}[rng.IntN(3)], "", "")
		return
	}
	for {
		id, ok := x.next()
		if !ok {
			x.end()
			return
		}
		m.see(x.topic, id)
		if m.away(x, id) {
			return
		}
		if !m.fails(rng, 15) {
			m.ends(x, id, true)
			if x.send(goodReport(x.seen)+"\r\n") != nil {
				return
			}
			continue
		}
		if !m.fault(x, id, rng) {
			return
		}
	}
}

// fails says whether to fail now, one time in n as long as there are faults left.
func (m *orderModel) fails(rng *rand.Rand, n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.faults == 0 || rng.IntN(n) != 0 {
		return false
	}
	m.faults--
	return true
}

// away plays a topic that is not there for a while.
func (m *orderModel) away(x *exchange, id string) bool {
	m.mu.Lock()
	away := m.closed[x.topic] > 0
	m.closed[x.topic]--
	m.mu.Unlock()
	if away {
		x.refuse(40401, "Topic not present")
		leave(x)
	}
	return away
}

// fault does something wrong with a record; false ends the exchange.
func (m *orderModel) fault(x *exchange, id string, rng *rand.Rand) bool {
	me := x.topic + "/" + id
	switch rng.IntN(12) {
	case 0:
		m.mu.Lock()
		m.limits--
		limited := m.limits >= 0
		m.mu.Unlock()
		if limited {
			return x.refuse(429, "Request rate limit exceeded") == nil
		}
		return x.refuse(50003, "Expiring") == nil
	case 1, 2:
		return x.refuse(500, "Internal Server Error") == nil
	case 3:
		m.ends(x, id, false)
		return x.refuse(413, "too large") == nil
	case 4: // and all that comes in the time that is left
		for ok := true; ok && x.refuse(408, "too old") == nil; {
			if id, ok = x.next(); ok {
				m.see(x.topic, id)
			}
			ok = ok && rng.IntN(3) > 0
		}
		x.end()
		leave(x)
	case 5:
		x.reset()
	case 6: // its report is lost
		m.mu.Lock()
		m.stored[me] = true
		m.mu.Unlock()
		x.reset()
	case 7: // its report may be
		m.ends(x, id, true)
		x.send(goodReport(1) + "\r\n")
		x.reset()
	case 8:
		m.mu.Lock()
		m.heads[me]++
		m.final[me] = m.heads[me] > 1
		m.mu.Unlock()
		x.refuse(400, "Bad Request: Error processing message: Unexpected character")
		x.end()
		leave(x)
	case 9:
		x.refuse(40301, "Not authorized")
		return true
	case 10:
		x.end()
		leave(x)
	case 11:
		if rng.IntN(8) > 0 {
			x.conn.Close()
			return false
		}
		io.Copy(io.Discard, x.conn) // stalls
	}
	return false
}

// leave is linger for those in a hurry: an answer that is lost is one fault more.
func leave(x *exchange) {
	if tc, ok := x.conn.(*net.TCPConn); ok {
		tc.CloseWrite()
	}
	x.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	io.Copy(io.Discard, x.conn)
}

// keyedRecord makes a record whose key is spelled in one of several ways.
func keyedRecord(dst []byte, id, key string, way int) []byte {
	value := `"value":{"type":"STRING","data":"` + id + `"}`
	switch {
	case key == "none":
		return append(dst, "{"+value+"}\n"...)
	case way == 0:
		return append(dst, "{"+value+`,"key":{"type":"STRING","data":"`+key+"\"}}\n"...)
	case way == 1:
		return append(dst, "{"+value+`, "key" : {"data":"\u006b`+key[1:]+"\",\"type\":\"STRING\"}}\n"...)
	}
	return append(dst, fmt.Sprintf("{%s,\"key\":{\"type\":\"BINARY\",\"data\":%q}}\n", value, base64.StdEncoding.EncodeToString([]byte(key)))...)
}

// With order, of each key no record is sent while an earlier one is not final,
// and none that was sent before is sent again behind a later one, whatever
// streams do; and all end, once each.
func TestOrderModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &orderModel{
			last: map[string]int{}, final: map[string]bool{}, heads: map[string]int{}, stored: map[string]bool{},
			faults: rapid.IntRange(0, 20).Draw(rt, "faults"), limits: rapid.SampledFrom([]int{0, 0, 0, 0, 0, 1}).Draw(rt, "429s"),
			closed: map[string]int{"t1": rapid.SampledFrom([]int{0, 0, 3}).Draw(rt, "away")},
			strict: rapid.IntRange(0, 4).Draw(rt, "strict") == 0,
			seed:   rapid.Uint64().Draw(rt, "seed"),
		}
		srv := listenFake(t, "127.0.0.1:0", m.run)
		defer srv.close()
		cfg := fastConfig()
		cfg.ByKey, cfg.Strict = !m.strict, m.strict
		cfg.Streams = rapid.IntRange(1, 6).Draw(rt, "streams")
		cfg.InFlight = rapid.SampledFrom([]int{1, 3, 20, 8192}).Draw(rt, "in flight")
		cfg.InFlightBytes = rapid.SampledFrom([]int{0, 0, 1024, 4096}).Draw(rt, "in flight bytes")
		cfg.RotateRecords = int64(rapid.SampledFrom([]int{0, 5, 20}).Draw(rt, "rotate"))
		cfg.Heartbeat, cfg.ReportTimeout, cfg.MaxAttempts = 20*time.Millisecond, time.Second, 1000
		k := newBooks()
		a, _ := authBasic()
		spoken := rapid.SampledFrom([]dialect.Dialect{dialect.V3Stream, dialect.V3Records}).Draw(rt, "dialect")
		p := New(cfg, Target{Base: srv.url(), ClusterID: "lkc-x", Auth: a, Dialect: spoken}, limit.Profile{}, k, quiet(), nil)
		topics := rapid.IntRange(1, 3).Draw(rt, "topics")
		keys := rapid.SampledFrom([]int{1, 2, 7, 40}).Draw(rt, "keys")
		rng := rand.New(rand.NewPCG(m.seed, 0))
		var all []string
		for range rapid.IntRange(1, 25).Draw(rt, "batches") {
			b := record.NewBatch(fmt.Sprint("t", rng.IntN(topics)))
			for range 1 + rng.IntN(12) {
				key := fmt.Sprint("k", rng.IntN(keys))
				if rng.IntN(20) == 0 {
					key = "none"
				}
				id := fmt.Sprintf("%d-%s", len(all), key)
				all = append(all, b.Topic+"/"+id)
				b.Commit(keyedRecord(b.Tail(), id, key, rng.IntN(3)), record.Position{})
			}
			submit(t, p, b)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		err := p.Drain(ctx)
		stats := p.Stats()
		stopPool(t, p, 5*time.Second)
		if err != nil {
			rt.Fatalf("drain: %v, stats %+v", err, stats)
		}
		m.check(rt, k, all)
		p.Leftover(func(b *record.Batch, from, to int) { rt.Errorf("%d records left", to-from) })
	})
}

func (m *orderModel) check(t *rapid.T, k *books, all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.wrong {
		t.Errorf("%s", w)
	}
	if len(k.twice) > 0 {
		t.Errorf("ended twice: %v", k.twice)
	}
	if n := len(k.delivered) + len(k.rejected); n != len(all) {
		t.Errorf("%d of %d records ended", n, len(all))
	}
	for _, id := range all {
		if k.delivered[id] > 0 && !m.stored[id] {
			t.Errorf("%s: delivered but never stored", id)
		}
	}
}
