package ingest

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/produce-agent/produce-agent/internal/record"
)

func tenant(r *Route) { r.Topic = "logs-{{ .t }}" }

// counted is a Sink that looks at how much its Router holds.
type counted struct {
	r       *Router
	records map[string]int
	most    int // batches held at a time
	topics  int // remembered at a time
	fail    error
}

func (s *counted) look() {
	n := 0
	for o := s.r.held.first; o != nil; o = o.next {
		n++
		if o.cur == nil {
			panic("held, and without a batch")
		}
	}
	if n != s.r.held.n {
		panic(fmt.Sprintf("%d are held, counted are %d", n, s.r.held.n))
	}
	s.most = max(s.most, n+1) // the one that is being submitted
	n = 0
	for _, to := range s.r.routes {
		n += len(to.outs)
	}
	s.topics = max(s.topics, n)
}

func (s *counted) Submit(b *record.Batch) error {
	if s.fail != nil {
		b.Discard()
		return s.fail
	}
	s.look()
	s.records[b.Topic] += b.Len()
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func (s *counted) Reject(int32, string, record.Position, []byte, *record.InvalidError) error {
	return nil
}

// of returns how many records topic got, all topics for "".
func (s *counted) of(topic string) (n int) {
	s.r.Lock()
	defer s.r.Unlock()
	for name, records := range s.records {
		if topic == "" || name == topic {
			n += records
		}
	}
	return n
}

func countedRouter(t testing.TB, bytes int, all []Route) (*Router, *counted) {
	t.Helper()
	s := &counted{records: map[string]int{}}
	r, err := NewRouter(RouterConfig{Batch: BatchConfig{Bytes: bytes, Linger: 5 * time.Millisecond}, Routes: all, MaxRecordBytes: 8e6}, s)
	if err != nil {
		t.Fatal(err)
	}
	s.r = r
	return r, s
}

// However many topics there are, what is held and remembered is bounded, and
// every record arrives where it belongs.
func TestManyTopics(t *testing.T) {
	f := func(batchBytes, topics, rounds, most int) {
		t.Helper()
		r, s := countedRouter(t, batchBytes, routes(tenant, func(*Route) {}))
		line := []byte(nil)
		r.Lock()
		for range rounds {
			for i := range topics {
				line = strconv.AppendInt(append(line[:0], `{"t":`...), int64(i), 10)
				line = append(line, '}')
				if err := r.Add(line, nil, record.Position{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.Unlock()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if s.most > most || s.topics > maxIdle+maxHeld+1 {
			t.Errorf("%d topics: %d batches held, %d names remembered", topics, s.most, s.topics)
		}
		if len(s.records) != topics {
			t.Errorf("%d topics got records, want %d", len(s.records), topics)
		}
		for topic, n := range s.records {
			if n != rounds {
				t.Fatalf("topic %s got %d records, want %d", topic, n, rounds)
			}
		}
	}
	f(64<<10, 10, 1000, 10)
	f(64<<10, maxHeld, 10, maxHeld)
	f(64<<10, maxHeld+1, 10, maxHeld)
	f(64<<10, 20_000, 2, maxHeld)
	f(4<<20, 1000, 3, 4) // large batches: fewer of them
	f(1024, 5000, 20, maxHeld)
}

// A topic that is full of records that cannot be encoded holds no buffer.
func TestRejectedHoldNothing(t *testing.T) {
	r, s := countedRouter(t, 64<<10, routes(func(r *Route) { tenant(r); r.Encoder.PartitionField = "p" }))
	for i := range 1000 {
		add(t, r, fmt.Sprintf(`{"t":%d,"p":"x"}`, i))
	}
	if r.held.n != 0 || r.idle.n != 1000 {
		t.Errorf("%d held, %d idle", r.held.n, r.idle.n)
	}
	// Beside records that can, they leave the batch as it was.
	add(t, r, `{"t":1,"p":1}`, `{"t":1,"p":"x"}`, `{"t":1,"p":2}`)
	if err := r.Close(); err != nil || s.records["logs-1"] != 2 || len(s.records) != 1 {
		t.Errorf("%v, %v", s.records, err)
	}
}

// The name of a known topic is one string, and a caller's is not kept.
func TestTopicsAreInterned(t *testing.T) {
	var names []string
	r := routerOf(t, sinkFunc(func(b *record.Batch) { names = append(names, b.Topic) }), routes(tenant))
	caller := []byte("logs-b")
	for range 3 {
		add(t, r, `{"t":"a"}`)
		r.Lock()
		if err := r.AddRecord(unsafe.String(&caller[0], len(caller)), []byte(`{"value":{"data":1}}`), record.Position{}); err != nil {
			t.Fatal(err)
		}
		if err := r.Flush(); err != nil {
			t.Fatal(err)
		}
		r.Unlock()
	}
	copy(caller, "XXXXXX")
	if got := strings.Join(names, " "); got != "logs-a logs-b logs-a logs-b logs-a logs-b" {
		t.Errorf("topics %s", got)
	}
	for i := 2; i < len(names); i++ {
		if unsafe.StringData(names[i]) != unsafe.StringData(names[i-2]) {
			t.Errorf("the name of batch %d is a new string", i)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// Routing allocates nothing, whatever the rules.
func TestRouterAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	yes := true
	f := func(name string, all []Route, lines ...string) {
		t.Helper()
		r := routerOf(t, sinkFunc(func(*record.Batch) {}), all)
		payloads := make([][]byte, len(lines))
		for i, l := range lines {
			payloads[i] = []byte(l)
		}
		r.Lock()
		defer r.Unlock()
		files := []string{"/var/log/a.log", "/var/log/b.log"}
		i := 0
		run := func() {
			r.File(files[i/2%2])
			if err := r.Add(payloads[i%len(payloads)], nil, record.Position{}); err != nil {
				t.Fatal(err)
			}
			i++
		}
		for range 5000 { // until pool, scratch and topics are there
			run()
		}
		// A collection empties the pool of batches once in a while.
		if per := testing.AllocsPerRun(5000, run); per != 0 {
			t.Errorf("%s: %v allocations a record", name, per)
		}
	}
	f("one topic", routes(func(*Route) {}), logLine)
	f("a field", routes(func(r *Route) { r.Topic = "logs-{{ .service }}" }), logLine)
	f("two topics in turns", routes(tenant), `{"t":"a"}`, `{"t":"b"}`, `{"t":"\u0061"}`)
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprintf(`{"t":"tenant-%d","text":"%s"}`, i, long(100))
	}
	f("200 topics", routes(tenant), many...)
	f("an allow list", routes(func(r *Route) { r.Topic, r.AllowTopics = "{{ .t }}", []string{"x", "tenant-*"} }), many...)
	f("the file's name", routes(func(r *Route) { r.Topic = "logs-{{ .file_name }}" }), "text", logLine)
	f("matches", routes(
		func(r *Route) { r.Match = equals("level", "error") },
		func(r *Route) { r.Match = &Match{Field: "service", In: []string{"a", "b"}} },
		func(r *Route) { r.Match = &Match{Field: "msg", Regex: regexp.MustCompile("order (failed|lost)")} },
		func(r *Route) { r.Match = &Match{Field: "a.b.c", Exists: &yes} },
		func(r *Route) { r.Match = equals("@file", "/none") },
		func(r *Route) {
			r.Topic = "{{ .input }}-{{ .level }}"
			r.AllowTopics = []string{"app-*"}
			r.Encoder.Decode, r.Encoder.KeyField, r.Encoder.TimestampField, r.Encoder.PartitionField = record.DecodeJSON, "trace", "ts", "user_id"
			r.Encoder.Headers = []record.Header{{Name: "s", Template: template(t, "{{ .file }}:{{ .service }}")}}
			r.Encoder.NullField = "msg"
		}), logLine)
	f("a key's delimiter", routes(func(r *Route) { tenant(r); r.Encoder.KeyDelim = []byte("\t") }), "k\t{\"t\":1}", "{\"t\":2}")
}

// Of many topics none waits for the others: not in an input that pauses, nor
// in one that never does.
func TestTopicsLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := countedRouter(t, 1024, routes(tenant))
		busy := `{"t":"busy","x":"` + long(400) + `"}`
		add(t, r, `{"t":"rare"}`)
		for range 99 { // a record a millisecond, and a batch every three
			time.Sleep(time.Millisecond)
			add(t, r, busy)
		}
		if s.of("logs-rare") != 0 || s.of("logs-busy") == 0 {
			t.Errorf("before its time: %d, and %d busy ones", s.of("logs-rare"), s.of("logs-busy"))
		}
		for range 5 {
			time.Sleep(time.Millisecond)
			add(t, r, busy)
		}
		if s.of("logs-rare") != 1 {
			t.Errorf("an input that never pauses: %d", s.of(""))
		}

		// One that pauses after each record: a linger is enough, though another
		// topic's batches keep going.
		time.Sleep(time.Second)
		r.Lock()
		_ = r.Pause()
		r.Unlock()
		add(t, r, busy, `{"t":"rare"}`)
		for i := range 6 {
			r.Lock()
			if err := r.Pause(); err != nil {
				t.Fatal(err)
			}
			r.Unlock()
			if want := 1 + i/5; s.of("logs-rare") != want {
				t.Errorf("after %d ms: %d", i, s.of("logs-rare"))
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			add(t, r, busy, busy, busy)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A live input's topics all go when it pauses.
func TestTopicsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s := countedRouter(t, 1024, routes(tenant))
		in := NewReader(LineConfig{MaxRecordBytes: 8e6}, r)
		pr, pw := io.Pipe()
		done := make(chan error)
		go func() { done <- in.Read(pr, 0, "", true) }()
		time.Sleep(time.Second)
		io.WriteString(pw, "{\"t\":1}\n{\"t\":2}\n{\"t\":3}\n")
		synctest.Wait()
		if s.of("") != 3 {
			t.Errorf("the first of each: %d", s.of(""))
		}
		io.WriteString(pw, "{\"t\":1}\n{\"t\":4}\n")
		synctest.Wait()
		if s.of("") != 3 {
			t.Errorf("before the linger: %d", s.of(""))
		}
		time.Sleep(6 * time.Millisecond)
		synctest.Wait()
		if s.of("logs-1") != 2 || s.of("logs-4") != 1 {
			t.Errorf("after the linger: %d", s.of(""))
		}
		pw.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The error of a batch that goes early for another topic ends the input.
func TestEarlySendFails(t *testing.T) {
	r, s := countedRouter(t, 64<<10, routes(tenant))
	for i := range maxHeld {
		add(t, r, fmt.Sprintf(`{"t":%d}`, i))
	}
	s.fail = io.ErrClosedPipe
	r.Lock()
	err := r.Add([]byte(`{"t":"more"}`), nil, record.Position{})
	r.Unlock()
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v, want the sink's error", err)
	}
	if err := r.Close(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Close: %v, want the sink's error", err)
	}
}
