//go:build unix

package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// specFault is one thing that a Confluent server can do to a producer, how the
// sandbox does it, and what must come of it.
type specFault struct {
	of, row string   // section of the API's life; what the server does
	faults  []string // of the sandbox; none where test says how else it is had
	want    ending
	stops   int    // the run ends with this status, and keeps what it read as pending
	test    string // where it is tested, when not here
}

// specFaults are all failures that kafka-rest, rest-utils and Jetty can answer
// a produce request with, by their sources.
var specFaults = []specFault{
	// In place of a stream: nothing was read, or nothing is known.
	{of: "status", row: "400, Jetty's page: invalid SNI, ambiguous URI, bad charset", faults: []string{"http=400,body=jetty"}, stops: exitFailure},
	{of: "status", row: "401: credentials", faults: []string{"http=401"}, stops: exitDenied},
	{of: "status", row: "403: permissions", faults: []string{"http=403"}, stops: exitDenied},
	{of: "status", row: "404: path, prefix, cluster id", faults: []string{"http=404"}, stops: exitFailure},
	{of: "status", row: "405: the endpoint is blocked", faults: []string{"http=405,body=html"}, stops: exitFailure},
	{of: "status", row: "406", faults: []string{"http=406"}, stops: exitFailure},
	{of: "status", row: "415", faults: []string{"http=415"}, stops: exitFailure},
	{of: "status", row: "417", faults: []string{"http=417"}, stops: exitFailure},
	{of: "status", row: "431: headers too large", faults: []string{"http=431,body=jetty"}, stops: exitFailure},
	{of: "status", row: "429 of the DoS filter, a page of HTML", faults: []string{"http=429,body=html,times=2"}},
	{of: "status", row: "429 of the DoS filter, JSON without an error_code", faults: []string{"http=429,body=jetty,times=2"}},
	{of: "status", row: "429 with Retry-After", faults: []string{"http=429,retry-after=1,times=1"}},
	{of: "status", row: "500", faults: []string{"http=500,times=2"}},
	{of: "status", row: "502 of a load balancer", faults: []string{"http=502,body=html,times=2"}},
	{of: "status", row: "503 of the DoS filter's run limit, records having been read", faults: []string{"http=503,body=jetty,read=1000,times=2"}},
	{of: "status", row: "504: request.timeout.ms", faults: []string{"http=504,read=1000,times=2"}},

	// A report of one record.
	{of: "report", row: "400: data is not base64", faults: []string{"report=400,every=100,count=4"}, want: ending{rejected: 4}},
	{of: "report", row: "400: wrong type or shape", faults: []string{"report=400,every=100,count=4,message=Cannot deserialize value of type `java.lang.String` from Object value"}, want: ending{rejected: 4}},
	{of: "report", row: "400: unrecognized field", faults: []string{`report=400,every=100,count=4,message=Unrecognized field "x" (class ProduceRequest)\, not marked as ignorable`}, want: ending{rejected: 4}},
	{of: "report", row: "400: syntax error in a record, then the terminal report", test: "TestOracleUncheckedPoison"},
	{of: "report", row: "408: the stream is too old, records in Kafka", faults: []string{"expire=300,grace=100ms"}, want: ending{broken: true}},
	{of: "report", row: "408, records not in Kafka", faults: []string{"expire=300,grace=100ms,stored=false"}, want: ending{broken: true}},
	{of: "report", row: "413", faults: []string{"report=413,every=100,count=4"}, want: ending{rejected: 4}},
	{of: "report", row: "422: 42201 key schema missing", faults: []string{"report=422,every=100,count=4,message=Error: 42201 : Key schema missing. One of keySchema or keySchemaId must be specified"}, want: ending{rejected: 4}},
	{of: "report", row: "422: 42202, 42203, 42205", faults: []string{
		"report=422,every=101,count=2,message=Error: 42202 : Value schema missing", "report=422,every=103,count=2,message=Error: 42203 : Conversion of JSON to Object failed",
		"report=422,every=107,count=2,message=Error: 42205 : Invalid schema",
	}, want: ending{rejected: 6}},
	{of: "report", row: "422: 42206 payload, no schema registry", faults: []string{"report=422,every=100,count=4"}, want: ending{rejected: 4}},
	{of: "report", row: "422: 42207 serialisation, the registry is away", faults: []string{"report=422,every=100,count=4,message=Error: 42207 : Error serializing message"}},
	{of: "report", row: "429 of the record limiter", faults: []string{"report=429,share=0.2,count=200"}},
	{of: "report", row: "500: unmapped exception", faults: []string{"report=500,every=100,count=4,stored=true"}, want: ending{resent: 4}},
	{of: "report", row: "40002: invalid topic, policy, request", faults: []string{"report=40002,every=100,count=4"}, want: ending{rejected: 4}},
	{of: "report", row: "40002: UnknownServerException", faults: []string{"report=40002,every=100,count=4,stored=true,message=The server experienced an unexpected error when processing the request."}, want: ending{resent: 4}},
	{of: "report", row: "40101: SASL failure", faults: []string{"report=40101"}, stops: exitDenied},
	{of: "report", row: "40301: ACL", faults: []string{"report=40301"}, stops: exitDenied},
	{of: "report", row: "40401: topic not present, and then it is", faults: []string{"report=40401,count=2"}, want: ending{broken: true}},
	{of: "report", row: "40401: topic not present, each record blocks the stream", faults: []string{"unknown-topic=t"}, stops: exitFailure},
	{of: "report", row: "40401: partition not present", faults: []string{"report=40401,every=100,count=4,message=Partition 9 of topic t with partition count 3 is not present in metadata after 60000 ms."}},
	{of: "report", row: "40402: negative partition", faults: []string{"report=40402,every=100,count=4"}, want: ending{rejected: 4}},
	{of: "report", row: "40403: the broker does not host the partition", faults: []string{"report=40403,every=100,count=4"}},
	{of: "report", row: "42901: broker quota", faults: []string{"report=42901,every=20,count=20"}},
	{of: "report", row: "50002: any Kafka error that stays", faults: []string{"report=50002,every=100,count=4"}, want: ending{rejected: 4}},
	{of: "report", row: "50003: any Kafka error that may pass, record not written", faults: []string{"report=50003,every=100,count=4"}, want: ending{resent: 4}},
	{of: "report", row: "50003, record written", faults: []string{"report=50003,every=100,count=4,stored=true"}, want: ending{resent: 4}},
	{of: "report", row: "50302: broker not available", faults: []string{"report=50302,every=100,count=4,stored=true"}, want: ending{resent: 4}},
	{of: "report", row: "a code that nobody knows", faults: []string{"report=49999,every=100,count=4"}, want: ending{rejected: 4}},

	// A report that belongs to no record, and the end of the stream with it.
	{of: "terminal", row: "400: Error processing message", faults: []string{"terminal=300,times=2"}},
	{of: "terminal", row: "400: Error processing JSON", faults: []string{"terminal=300,times=2,message=Error processing JSON: Unexpected character ('}' (code 125))"}},
	{of: "terminal", row: "400: idle timeout, nobody's fault", faults: []string{"terminal=300,times=3,message=Error processing message: java.util.concurrent.TimeoutException: Idle timeout expired: 30000/30000 ms"}},
	{of: "terminal", row: "400: a record over the size limit is at the head", test: "TestSpecTooLarge"},
	{of: "terminal", row: "RST", faults: []string{"reset=300,times=3"}, want: ending{broken: true}},
	{of: "terminal", row: "RST with reports unread", faults: []string{"reset=300,lost=all,times=3"}, want: ending{broken: true}},
	{of: "terminal", row: "FIN without a last chunk", faults: []string{"cut=300,lost=50,times=3"}, want: ending{broken: true}},
	{of: "terminal", row: "FIN inside a chunk", faults: []string{"cut=300,mid=true,times=3"}, want: ending{broken: true}},

	// The life of a stream.
	{of: "life", row: "streaming.connection.max.duration, again and again", test: "TestOracleServerRotates"},
	{of: "life", row: "idle.timeout: a silent stream is cut, a heartbeat keeps it", test: "TestSpecIdle"},
	{of: "life", row: "dos.filter.max.requests: cut in mid-stream at an age", test: "TestOracleServerRotates"},
	{of: "life", row: "the response ends properly, the request is not read on", faults: []string{"end=300,times=3"}, want: ending{broken: true}},
	{of: "life", row: "more streams than threads: accepted, then silence", faults: []string{"stall=0,times=1"}, want: ending{broken: true}},
	{of: "life", row: "connection limit: closed when accepted", faults: []string{"refuse=3"}},
	{of: "life", row: "network.traffic.rate.limit: the body is read slowly", faults: []string{"slow-read=60000"}},
	{of: "life", row: "a partition's reports come late, and all behind it", faults: []string{"slow=100ms,partition=1"}},
	{of: "life", row: "what is no report where one is due", faults: []string{"garbage=300,times=2"}, want: ending{broken: true}},
}

// Each failure of the server's, on a run of its own: nothing is lost, all that
// the server cannot take is told of, and what it may take later is delivered.
func TestSpecFaults(t *testing.T) {
	t.Parallel()
	const n, inFlight = 600, 200
	in := numbered(n, 20)
	for _, x := range specFaults {
		if x.test != "" {
			continue
		}
		t.Run(x.of+" "+x.row, func(t *testing.T) {
			t.Parallel()
			s := startBoxWith(t, func(c *sandbox.Config) { c.MaxAgeGrace = 1e8 }, x.faults...)
			attempts := "10"
			if x.stops != exitOK {
				attempts = "2"
			}
			r := shipTo(t, s, in, "--in-flight", fmt.Sprint(inFlight), "--report-timeout", "1s", "--batch-bytes", "2048", "--streams", "2", "--max-attempts", attempts,
				"--dead-letter", t.TempDir()+"/dead.ndjson")
			if x.stops == exitOK {
				x.want.check(t, r, s, n, inFlight)
			} else if r.status != x.stops || r.Read == 0 || r.Pending != r.Read || len(stored(t, s, "t")) > 0 {
				t.Errorf("status %d, want %d; %d stored: %+v\n%s", r.status, x.stops, len(stored(t, s, "t")), r.Summary, r.err)
			} else {
				r.complaint(t, "(") // what to do about it
			}
			for _, fault := range x.faults {
				if !felt(fault, r, s.Stats()) {
					t.Errorf("%s was not felt: %+v\n%s", fault, r.Summary, r.err)
				}
			}
		})
	}
}

// The server ends a stream for a record that is too large, which the text alone
// tells: it is in the dead letter, its neighbours are delivered.
func TestSpecTooLarge(t *testing.T) {
	t.Parallel()
	s := startBoxWith(t, func(c *sandbox.Config) { c.Limits = sandbox.Limits{MessageBytes: 2000, MessageTerminal: true} })
	in := numbered(300, 20)
	long := strings.Repeat("x", 3000)
	r := shipTo(t, s, in+long+"\n"+in, "--dead-letter", t.TempDir()+"/dead.ndjson")
	r.want(t, exitRejected, 601, 600, 1, 0)
	got := counts(stored(t, s, "t"))
	if len(got) != 300 || got[long] != 0 {
		t.Errorf("%d different values, the long one %d times", len(got), got[long])
	}
}

// A server cuts what is idle: a heartbeat in time keeps the stream, and without
// one the next record opens another.
func TestSpecIdle(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	f := func(heartbeat string, streams float64) {
		aside(t, &all, "heartbeat "+heartbeat, func(t *testing.T) {
			o := newOracle(t, 100, func(c *sandbox.Config) { c.IdleTimeout = 2500 * time.Millisecond })
			x := newSite(t, o, strings.Replace(oneStreamYAML, "max: 1,", "max: 1, idle_end: 1m, heartbeat: "+heartbeat+",", 1))
			p, at := x.start()
			s := o.source()
			write := func() {
				t.Helper()
				f, err := os.OpenFile(x.log("a.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				lines, from := o.next(s, 10)
				if _, err := f.Write(lines); err != nil {
					t.Fatal(err)
				}
				o.accept(s, from, 10)
				o.settle(t, 0, 0)
			}
			write()
			time.Sleep(3500 * time.Millisecond)
			write()
			if n := metric(t, at, `streams_opened_total{cluster="main"}`); n != streams {
				t.Errorf("%v streams were opened, want %v\n%s", n, streams, p.err.String())
			}
			if r := drained(t, p, at); r.Pending != 0 || r.PossiblyDuplicated != 0 {
				t.Errorf("%+v\n%s", r.Summary, r.err)
			}
		})
	}
	f("1s", 1)
	f("1m", 2)
}

// docs/reliability.md has each failure with its fault and its test.
func TestDocsSpecFaults(t *testing.T) {
	const path, begin, end = "../../docs/reliability.md", "<!-- spec faults -->\n", "<!-- end of spec faults -->\n"
	var b strings.Builder
	b.WriteString("| where | what the server does | `--fault` | test |\n|---|---|---|---|\n")
	for _, x := range specFaults {
		test := x.test
		if test == "" {
			test = "TestSpecFaults"
		}
		var faults []string
		for _, f := range x.faults {
			name, _, _ := strings.Cut(f, ",message=")
			faults = append(faults, "`"+name+"`")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | `%s` |\n", x.of, x.row, strings.Join(faults, ", "), test)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	front, rest, ok := strings.Cut(string(raw), begin)
	was, back, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	if was == b.String() {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the table in specFaults says; run `make docs`", path)
	}
	if err := os.WriteFile(path, []byte(front+begin+b.String()+end+back), 0o600); err != nil {
		t.Fatal(err)
	}
}
