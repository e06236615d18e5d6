package stream

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// v2Record is a record as a v2 server reads it; the pointers tell missing from
// empty.
type v2Record struct {
	Key, Value *string
	Partition  *int32
	Timestamp  *int64
	Headers    []struct{ Key, Value string }
}

func (r v2Record) value() string {
	if r.Value == nil {
		return "<null>"
	}
	b, err := base64.StdEncoding.DecodeString(*r.Value)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// v2Server answers POST /topics/{t} by answer, n counting the requests from 1,
// and keeps what it was sent.
type v2Server struct {
	*httptest.Server
	mu       sync.Mutex
	requests [][]v2Record
	heads    []*http.Request
	conns    int
	idle     map[net.Conn]bool
}

func newV2Server(t *testing.T, answer func(n int, records []v2Record) (status int, body string)) *v2Server {
	t.Helper()
	s := &v2Server{idle: map[net.Conn]bool{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		raw, err := io.ReadAll(r.Body)
		var body struct{ Records []v2Record }
		if err != nil || json.Unmarshal(raw, &body) != nil {
			http.Error(w, `{"error_code":42201,"message":"no JSON"}`, http.StatusUnprocessableEntity)
			return
		}
		s.mu.Lock()
		s.requests = append(s.requests, body.Records)
		s.heads = append(s.heads, r)
		n := len(s.requests)
		s.mu.Unlock()
		status, text := answer(n, body.Records)
		w.Header().Set("Content-Type", v2Accept)
		if status == 429 || status == 503 {
			w.Header().Set("Retry-After", "0")
		}
		w.WriteHeader(status)
		io.WriteString(w, text)
	}))
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.idle, c); state == http.StateIdle {
			s.idle[c] = true
		} else if state == http.StateNew {
			s.conns++
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *v2Server) got() (values []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, req := range s.requests {
		for _, r := range req {
			values = append(values, r.value())
		}
	}
	return values
}

// connected is how many connections there were so far.
func (s *v2Server) connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// cutIdle closes the connections that are idle, and says whether any was.
func (s *v2Server) cutIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	for c := range s.idle {
		c.Close()
	}
	clear(s.idle)
	return n > 0
}

// offsetsOf is the answer of a server that reports by record: entry i.
func offsetsOf(n int, entry func(i int) string) string {
	var all []string
	for i := range n {
		all = append(all, entry(i))
	}
	return `{"offsets":[` + strings.Join(all, ",") + `],"key_schema_id":null,"value_schema_id":null}`
}

func wellDone(i int) string {
	return fmt.Sprintf(`{"partition":0,"offset":%d,"error_code":null,"error":null}`, i)
}

// dialectPool is testPool for a dialect.
func dialectPool(t testing.TB, cfg Config, base string, d dialect.Dialect, profile limit.Profile) (*Pool, *books) {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	k := newBooks()
	p := New(cfg, Target{Base: u, ClusterID: "lkc-x", Auth: auth.None{}, Dialect: d}, profile, k, quiet(), nil)
	t.Cleanup(func() { stopPool(t, p, 5*time.Second) })
	return p, k
}

// rawBatch makes a batch of records as they are written here.
func rawBatch(topic string, records ...string) *record.Batch {
	b := record.NewBatch(topic)
	for i, r := range records {
		b.Commit(append(append(b.Tail(), r...), '\n'), record.Position{Offset: int64(i)})
	}
	return b
}

var v2Servers = []dialect.Dialect{dialect.V2Confluent, dialect.V2Pandaproxy, dialect.V2Karapace, dialect.V2Strimzi, dialect.V2Other}

// goodAnswer is what each server says when all was written.
func goodAnswer(d dialect.Dialect, records []v2Record) string {
	switch d {
	case dialect.V2Pandaproxy:
		return `{"offsets":[{"partition":1,"offset":3},{"partition":0,"offset":7}]}`
	case dialect.V2Karapace, dialect.V2Strimzi:
		return offsetsOf(len(records), func(i int) string { return fmt.Sprintf(`{"offset":%d,"partition":0}`, i) })
	}
	return offsetsOf(len(records), wellDone)
}

// Every server gets the bytes as they were, in requests with a length, over
// connections that are used again.
func TestV2Bytes(t *testing.T) {
	for _, d := range v2Servers {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			s := newV2Server(t, func(_ int, r []v2Record) (int, string) { return 200, goodAnswer(d, r) })
			p, k := dialectPool(t, onceConfig(), s.URL+"/some/prefix", d, limit.Profile{})
			submit(t, p, rawBatch("a/b",
				`{"value":{"type":"STRING","data":"plain"}}`,
				`{"partition_id":1,"key":{"type":"STRING","data":"k\u00e9"},"value":{"type":"STRING","data":"a\"b\\\n"}}`,
				`{"key":{"type":"BINARY","data":""},"value":{"type":"BINARY","data":"AP8="}}`,
				`{"value":{"type":"JSON","data":{"n":1.10, "t":[null]}}}`,
				`{"value":{"data":"","type":"STRING"}}`))
			drain(t, p, 5*time.Second)
			for i := range 20 {
				submit(t, p, batchOf("t", 60, ids(fmt.Sprintf("%d-", i), 3)...))
				drain(t, p, 5*time.Second)
			}
			want := []string{"plain", "a\"b\\\n", "\x00\xff", `{"n":1.10, "t":[null]}`, ""}
			if got := s.got(); !slices.Equal(got[:5], want) || len(got) != 65 {
				t.Errorf("%d values, the first %q, want %q", len(got), got[:5], want)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			first := s.requests[0]
			if first[0].Key != nil || *first[1].Key != "a8Op" || *first[1].Partition != 1 || *first[2].Key != "" || first[2].Partition != nil {
				t.Errorf("keys and partitions: %+v", first)
			}
			h := s.heads[0]
			if h.URL.EscapedPath() != "/some/prefix/topics/a%2Fb" || h.ContentLength <= 0 || len(h.TransferEncoding) > 0 ||
				h.Header.Get("Content-Type") != v2Binary || h.Header.Get("Accept") != v2Accept {
				t.Errorf("%s, length %d, %v", h.URL, h.ContentLength, h.Header)
			}
			if delivered, rejected := k.counts(); delivered == 0 || rejected != 0 {
				t.Errorf("delivered %d, rejected %d", delivered, rejected)
			}
			if s.conns > 2 {
				t.Errorf("%d connections for %d requests", s.conns, len(s.requests))
			}
		})
	}
}

// What a server cannot carry never reaches it, in whatever record it comes.
func TestV2CannotCarry(t *testing.T) {
	const (
		headers = `{"headers":[{"name":"a","value":"QQ=="}],"value":{"type":"STRING","data":"h x"}}`
		null    = `{"key":{"type":"STRING","data":"n"},"value":null}`
		jsonNil = `{"value":{"type":"JSON","data":null}}`
		stamp   = `{"timestamp":"2021-12-13T16:29:10.951Z","value":{"type":"STRING","data":"s x"}}`
		avro    = `{"value":{"type":"AVRO","data":"v x","schema":"{}"}}`
		nilHead = `{"headers":[{"name":"a"}],"value":{"type":"STRING","data":"m x"}}`
		rubbish = `{"value":{"type":"BINARY","data":"no base64!"}}`
		good    = `{"value":{"type":"STRING","data":"g"}}`
	)
	f := func(d dialect.Dialect, refused map[string]string, taken ...string) {
		t.Helper()
		s := newV2Server(t, func(_ int, r []v2Record) (int, string) { return 200, goodAnswer(d, r) })
		p, k := dialectPool(t, onceConfig(), s.URL, d, limit.Profile{})
		submit(t, p, rawBatch("t", good))
		all := append(slices.Sorted(maps.Keys(refused)), taken...)
		submit(t, p, rawBatch("t", all...))
		drain(t, p, 5*time.Second)
		k.mu.Lock()
		defer k.mu.Unlock()
		if n := len(s.got()); n != 1+len(taken) {
			t.Errorf("%s was sent %d records, want %d: %q", d, n, 1+len(taken), s.got())
		}
		if len(k.rejected) != len(refused) {
			t.Errorf("%s: rejected %+v", d, k.rejected)
		}
		for r, why := range refused {
			got := k.rejected["t/"+idOf([]byte(r))]
			if got.Code != 400 || got.Reason != "dialect" || !strings.Contains(got.Message, why) || !strings.Contains(got.Message, d.String()) {
				t.Errorf("%s: %s: %+v, want %q", d, r, got, why)
			}
		}
	}
	f(dialect.V2Karapace, map[string]string{headers: "headers", stamp: "timestamp", avro: "registry", rubbish: "base64"})
	f(dialect.V2Karapace, map[string]string{null: "null value"})
	f(dialect.V2Karapace, map[string]string{jsonNil: "null value"})
	f(dialect.V2Pandaproxy, map[string]string{headers: "headers", stamp: "timestamp", null: "null value"})
	f(dialect.V2Confluent, map[string]string{headers: "headers", stamp: "timestamp", avro: "registry"}, null, jsonNil)
	f(dialect.V2Strimzi, map[string]string{nilHead: "header with a null value", avro: "registry"}, headers, stamp, null)
	f(dialect.V2Other, map[string]string{headers: "headers", null: "null value"})
}

// Strimzi's Bridge carries headers and times, in members of its own.
func TestV2Strimzi(t *testing.T) {
	s := newV2Server(t, func(_ int, r []v2Record) (int, string) { return 200, goodAnswer(dialect.V2Strimzi, r) })
	p, _ := dialectPool(t, onceConfig(), s.URL, dialect.V2Strimzi, limit.Profile{})
	submit(t, p, rawBatch("t", `{"headers":[{"name":"a","value":"QQ=="},{"value":"","name":"b"}],"timestamp":"2021-12-13T16:29:10.951Z","value":null}`))
	drain(t, p, 5*time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[0][0]
	if r.Value != nil || *r.Timestamp != 1639412950951 || fmt.Sprint(r.Headers) != "[{a QQ==} {b }]" {
		t.Errorf("%+v", r)
	}
}

// One code after another, of each server that reports by record: the first
// answer has it, all later ones are good.
func TestV2Codes(t *testing.T) {
	f := func(d dialect.Dialect, status int, entry, reason string, code int) {
		t.Helper()
		s := newV2Server(t, func(n int, r []v2Record) (int, string) {
			if n == 1 {
				return status, offsetsOf(len(r), func(i int) string {
					if i == 1 {
						return entry
					}
					return wellDone(i)
				})
			}
			return 200, offsetsOf(len(r), wellDone)
		})
		p, k := dialectPool(t, fastConfig(), s.URL, d, limit.Profile{})
		submit(t, p, batchOf("t", 60, "a", "b", "c"))
		drain(t, p, 5*time.Second)
		k.mu.Lock()
		defer k.mu.Unlock()
		stats := p.Stats()
		switch {
		case code != 0: // for good
			if got := k.rejected["t/b"]; got.Reason != reason || got.Code != code || len(k.delivered) != 2 {
				t.Errorf("%s %s: %+v, delivered %v", d, entry, got, k.delivered)
			}
		case stats.Retried[reason] != 1 || len(k.delivered) != 3 || len(k.rejected) != 0:
			t.Errorf("%s %s: retried %v, delivered %v, rejected %v", d, entry, stats.Retried, k.delivered, k.rejected)
		}
		want := []string{"a", "b", "c", "b"}
		if code != 0 {
			want = want[:3]
		}
		if got := s.got(); len(got) != len(want) {
			t.Errorf("%s %s: sent %q, want %q", d, entry, got, want)
		}
	}
	confluent, karapace, strimzi := dialect.V2Confluent, dialect.V2Karapace, dialect.V2Strimzi
	f(confluent, 200, `{"partition":null,"offset":null,"error_code":50003,"error":"Expiring 1 record(s)"}`, "kafka_retriable", 0)
	f(confluent, 200, `{"partition":null,"offset":null,"error_code":50003,"error":"Topic t not present in metadata after 60000 ms."}`, "unknown_topic", 0)
	f(confluent, 200, `{"partition":null,"offset":null,"error_code":50003,"error":"Partition 9 of topic t with partition count 3 is not present in metadata after 60000 ms."}`, "unknown_partition", 0)
	f(confluent, 200, `{"partition":null,"offset":null,"error_code":50003,"error":"This server does not host this topic-partition."}`, "unknown_topic", 0)
	f(confluent, 200, `{"partition":null,"offset":null,"error_code":50002,"error":"The message is 2000000 bytes"}`, "kafka_error", 50002)
	f(confluent, 403, `{"partition":null,"offset":null,"error_code":40301,"error":"Not authorized to access topics: [t]"}`, "unauthorized", 0)
	f(confluent, 401, `{"partition":null,"offset":null,"error_code":40101,"error":"SASL"}`, "unauthenticated", 0)
	f(confluent, 200, `{"partition":null,"offset":null,"error_code":47110,"error":"?"}`, "code_47110", 47110)
	f(karapace, 422, `{"error_code":1,"error":"timed out waiting to publish message"}`, "internal_error", 0)
	f(karapace, 422, `{"error_code":2,"error":"not leader"}`, "kafka_retriable", 0)
	f(strimzi, 200, `{"error_code":404,"message":"Topic t not present in metadata after 60000 ms."}`, "unknown_topic", 0)
	f(strimzi, 200, `{"error_code":500,"message":"disk full"}`, "internal_error", 0)
	f(dialect.V2Other, 200, `{"error_code":50003,"error":"later"}`, "kafka_retriable", 0)
}

// A code that judges the record uses up its attempts.
func TestV2Attempts(t *testing.T) {
	s := newV2Server(t, func(_ int, r []v2Record) (int, string) {
		return 422, offsetsOf(len(r), func(i int) string {
			if r[i].value()[:1] == "b" {
				return `{"error_code":1,"error":"no"}`
			}
			return wellDone(i)
		})
	})
	cfg := fastConfig()
	cfg.MaxAttempts = 3
	p, k := dialectPool(t, cfg, s.URL, dialect.V2Karapace, limit.Profile{})
	submit(t, p, batchOf("t", 60, "a", "b", "c"))
	drain(t, p, 5*time.Second)
	if got := k.rejected["t/b"]; got.Code != 500 || got.Attempts != 3 || got.Message != "no" || len(k.delivered) != 2 {
		t.Errorf("%+v, delivered %v", got, k.delivered)
	}
}

// A status for the whole request holds the topic, backs off or ends the run.
func TestV2Statuses(t *testing.T) {
	passing := func(status int, body, closed string) {
		t.Helper()
		s := newV2Server(t, func(n int, r []v2Record) (int, string) {
			if n == 1 {
				return status, body
			}
			return 200, offsetsOf(len(r), wellDone)
		})
		p, k := dialectPool(t, fastConfig(), s.URL, dialect.V2Karapace, limit.Profile{})
		submit(t, p, batchOf("t", 60, "a", "b"))
		drain(t, p, 5*time.Second)
		if n, bad := k.counts(); n != 2 || bad != 0 || p.Stats().Closed[closed] == 0 {
			t.Errorf("%d %s: delivered %d, rejected %d, closed %v", status, body, n, bad, p.Stats().Closed)
		}
	}
	passing(404, `{"error_code":40401,"message":"Topic t not found"}`, endRefused)
	passing(429, ``, endRefused)
	passing(503, ``, endRefused)
	passing(503, `{"error_code":503,"message":"overloaded"}`, endRefused)
	passing(408, `{"error_code":40801,"message":"registry"}`, endRefused)
	passing(200, `{"offsets":[`, endError)
	passing(200, `{"something":"else"}`, endError)

	ending := func(status int, body string, want ...string) {
		t.Helper()
		s := newV2Server(t, func(int, []v2Record) (int, string) { return status, body })
		p, k := dialectPool(t, onceConfig(), s.URL, dialect.V2Karapace, limit.Profile{})
		submit(t, p, batchOf("t", 60, "a", "b"))
		err := p.Drain(t.Context())
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%d %s: %v, want %q", status, body, err, w)
			}
		}
		if n, bad := k.counts(); n != 0 || bad != 0 {
			t.Errorf("%d: delivered %d, rejected %d", status, n, bad)
		}
	}
	ending(404, `{"error_code":404,"message":"HTTP 404 Not Found"}`, "no v2 API", "--dialect")
	ending(405, ``, "no v2 API")
	ending(415, `{"error_code":415,"message":"Unsupported"}`, "Content-Type")
	ending(406, ``, "Accept")
	ending(204, ``, "async")
	ending(422, `{"error_code":42205,"message":"Invalid request format"}`, "42205")
	ending(401, ``, "401")
	ending(200, `<html><title>Sign in</title></html>`, "Sign in")
}

// An answer with too few entries tells of no record: each is tried as often as
// a bad one may be, and then kept.
func TestV2Mismatch(t *testing.T) {
	s := newV2Server(t, func(int, []v2Record) (int, string) { return 200, offsetsOf(1, wellDone) })
	cfg := fastConfig()
	cfg.MaxAttempts = 2
	p, k := dialectPool(t, cfg, s.URL, dialect.V2Strimzi, limit.Profile{})
	submit(t, p, batchOf("t", 60, "a", "b"))
	drain(t, p, 5*time.Second)
	if got := k.rejected["t/a"]; got.Reason != "unreadable_report" || !strings.Contains(got.Message, "1 entries for 2 records") {
		t.Errorf("%+v", k.rejected)
	}
	if n := p.Stats().Unknown; n < 2 {
		t.Errorf("%d unknown", n)
	}
}

// Redpanda's proxy answers by partition.
func TestV2Pandaproxy(t *testing.T) {
	one := func(id string, partition int) string {
		return fmt.Sprintf(`{"partition_id":%d,"value":{"type":"STRING","data":"%s x"}}`, partition, id)
	}
	f := func(answer string, records []string, retried map[string]int64, delivered ...string) *books {
		t.Helper()
		s := newV2Server(t, func(n int, r []v2Record) (int, string) {
			if n == 1 {
				return 200, answer
			}
			return 200, `{"offsets":[{"partition":0,"offset":9},{"partition":1,"offset":9},{"partition":2,"offset":9}]}`
		})
		cfg := fastConfig()
		cfg.Reports = true
		p, k := dialectPool(t, cfg, s.URL, dialect.V2Pandaproxy, limit.Profile{})
		submit(t, p, rawBatch("t", records...))
		drain(t, p, 5*time.Second)
		s.mu.Lock()
		again := 0
		for _, r := range s.requests[1:] {
			again += len(r)
		}
		s.mu.Unlock()
		if got := p.Stats().Retried; !maps.Equal(got, retried) || again != len(records)-len(delivered) {
			t.Errorf("%s: retried %v, want %v; %d sent again", answer, got, retried, again)
		}
		return k
	}
	chosen := []string{one("a", 0), one("b", 1), one("c", 0), one("d", 1)}
	free := []string{`{"value":{"type":"STRING","data":"a x"}}`, `{"value":{"type":"STRING","data":"b x"}}`}
	k := f(`{"offsets":[{"partition":1,"offset":30},{"partition":0,"offset":7}]}`, chosen, map[string]int64{}, "a", "b", "c", "d")
	if want := []string{"a 200", "b 200", "c 200", "d 200"}; !slices.Equal(k.reports, want) {
		t.Errorf("reports %q", k.reports)
	}
	f(`{"offsets":[{"partition":1,"error_code":7,"offset":-1},{"partition":0,"offset":7}]}`, chosen, map[string]int64{"kafka_retriable": 2}, "a", "c")
	f(`{"offsets":[{"partition":1,"error_code":29,"offset":-1},{"partition":0,"offset":7}]}`, chosen, map[string]int64{"unauthorized": 2}, "a", "c")
	f(`{"offsets":[{"partition":1,"error_code":3,"offset":-1},{"partition":0,"offset":7}]}`, chosen, map[string]int64{"unknown_topic": 2}, "a", "c")
	f(`{"offsets":[{"partition":1,"error_code":10,"offset":-1},{"partition":0,"offset":7}]}`, chosen, map[string]int64{"too_large_together": 2}, "a", "c")
	f(`{"offsets":[{"partition":0,"offset":7}]}`, chosen, map[string]int64{"unreadable_report": 2}, "a", "c")
	f(`{"offsets":[{"partition":1,"offset":30},{"partition":0,"offset":7}]}`, free, map[string]int64{}, "a", "b")
	f(`{"offsets":[{"partition":5,"offset":7}]}`, free, map[string]int64{}, "a", "b")
	f(`{"offsets":[{"partition":1,"error_code":3,"offset":-1}]}`, free, map[string]int64{"unknown_topic": 2})
	f(`{"offsets":[{"partition":1,"error_code":6,"offset":-1},{"partition":0,"error_code":7,"offset":-1}]}`, free, map[string]int64{"kafka_retriable": 2})
	f(`{"offsets":[{"partition":1,"error_code":29,"offset":-1},{"partition":0,"offset":1}]}`, free, map[string]int64{"kafka_retriable": 2})
	f(`{"offsets":[]}`, free, map[string]int64{"unreadable_report": 2})
}

// Offsets of single records come from the batch's first, where all records chose
// their partition: else those that did not may lie between.
func TestV2PandaproxyOffsets(t *testing.T) {
	f := func(records, want []string) {
		t.Helper()
		s := newV2Server(t, func(int, []v2Record) (int, string) {
			return 200, `{"offsets":[{"partition":1,"offset":30},{"partition":0,"offset":7}]}`
		})
		cfg := onceConfig()
		cfg.Reports = true
		h := &rawReports{}
		u, _ := url.Parse(s.URL)
		p := New(cfg, Target{Base: u, ClusterID: "host:1", Auth: auth.None{}, Dialect: dialect.V2Pandaproxy}, limit.Profile{}, h, quiet(), nil)
		t.Cleanup(func() { stopPool(t, p, 5*time.Second) })
		submit(t, p, rawBatch("t", records...))
		drain(t, p, 5*time.Second)
		for i := range want {
			want[i] = `{"error_code":200,"cluster_id":"host:1","topic_name":"t",` + want[i] + "}"
		}
		if !slices.Equal(h.raw, want) {
			t.Errorf("%s", strings.Join(h.raw, "\n"))
		}
	}
	chosen := []string{
		`{"partition_id":1,"value":null,"value":{"type":"STRING","data":"a"}}`, `{"partition_id":0,"value":{"type":"STRING","data":"b"}}`,
		`{"partition_id":1,"value":{"type":"STRING","data":"c"}}`,
	}
	f(chosen, []string{`"partition_id":1,"offset":30`, `"partition_id":0,"offset":7`, `"partition_id":1,"offset":31`})
	f(append(chosen, `{"value":{"type":"STRING","data":"d"}}`), []string{
		`"partition_id":1,"offset":-1`, `"partition_id":0,"offset":-1`, `"partition_id":1,"offset":-1`, `"partition_id":-1,"offset":-1`,
	})
}

// A record that makes its whole batch fail costs no other one; nor does a
// partition that is away cost those that went elsewhere more than one sending.
func TestV2PandaproxyFindsTheOne(t *testing.T) {
	f := func(code int, rejected, most int) {
		t.Helper()
		sent := 0
		s := newV2Server(t, func(_ int, r []v2Record) (int, string) {
			sent += len(r)
			for _, one := range r {
				if strings.HasPrefix(one.value(), "bad") {
					if len(r) == 1 {
						return 200, fmt.Sprintf(`{"offsets":[{"partition":1,"error_code":%d,"offset":-1}]}`, code)
					}
					return 200, fmt.Sprintf(`{"offsets":[{"partition":0,"offset":7},{"partition":1,"error_code":%d,"offset":-1}]}`, code)
				}
			}
			return 200, `{"offsets":[{"partition":0,"offset":7}]}`
		})
		p, k := dialectPool(t, fastConfig(), s.URL, dialect.V2Pandaproxy, limit.Profile{})
		submit(t, p, batchOf("t", 20, append(ids("r", 30), "bad")...))
		drain(t, p, 10*time.Second)
		if n, bad := k.counts(); n != 31-rejected || bad != rejected || sent > most {
			t.Errorf("code %d: delivered %d, rejected %+v, sent %d", code, n, k.rejected, sent)
		}
	}
	f(87, 1, 62)
	f(7, 1, 62+fastConfig().MaxAttempts)
}

// rawReports is a Handler that keeps every report as it would be passed on.
type rawReports struct {
	counts
	raw []string
}

func (h *rawReports) Report(_ *record.Batch, _ int, r *Report) {
	h.mu.Lock()
	h.raw = append(h.raw, string(r.Raw))
	h.mu.Unlock()
}

// Every Kafka error that a proxy may pass on means something.
func TestKafkaCodes(t *testing.T) {
	f := func(want int, codes ...int) {
		t.Helper()
		for _, c := range codes {
			if got := kafkaCode(c); got != want {
				t.Errorf("Kafka error %d is %d, want %d", c, got, want)
			}
		}
	}
	f(500, -1)
	f(40401, 3)
	f(50003, 2, 5, 6, 7, 8, 9, 13, 19, 20, 56)
	f(413, 10, 18)
	f(40002, 17, 32, 42, 44, 87)
	f(40301, 29, 31)
	f(40101, 58)
	f(42901, 89)
	f(50002, 999, 4)
	for c := range kafkaNames {
		if v := Judge(kafkaCode(c), nil); v.Outcome == record.Delivered {
			t.Errorf("Kafka error %d counts as delivered", c)
		}
	}
}

// Making a request's body costs no allocation a record.
func TestRequestsAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	records := [][]byte{
		[]byte(`{"value":{"type":"STRING","data":"some text"}}` + "\n"),
		[]byte(`{"partition_id":1,"key":{"type":"STRING","data":"k"},"value":{"type":"BINARY","data":"AP8="}}` + "\n"),
		[]byte(`{"key":{"type":"STRING","data":"k\n"},"value":{"type":"JSON","data":{"a":"b"}}}` + "\n"),
	}
	for _, w := range []wire{v3Records{}, v3Batch{}, v2{server: dialect.V2Karapace}, v2{server: dialect.V2Strimzi}} {
		q := new(request)
		if n := testing.AllocsPerRun(100, func() {
			q.reset()
			w.begin(q)
			for _, rec := range records {
				if w.add(q, rec) != nil {
					panic("refused")
				}
				q.records++
			}
			w.end(q)
		}); n != 0 {
			t.Errorf("%T: %v allocations a request of three records, want 0", w, n)
		}
	}
}
