package sandbox

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// flavour is the manner in which one server speaks the v2 API.
type flavour struct {
	name    string
	server  string   // Server header; "" sends none
	headers []header // of every answer
	paths   bool     // POST /topics/{t}/partitions/{p} is there
	most    int64    // longest body

	// routes are its GETs, and whatever else only it has.
	routes func() []route
	// status is the answer with a plain HTTP status.
	status func(req *request, status int) *answer
	// refuse is an answer for the whole request with an error_code.
	refuse func(status, code int, text string) *answer
	// busy is the answer to a request over a limit.
	busy func(req *request) *answer
	// head looks at a produce request before its body is read.
	head func(v *v2) *answer
	// decode fills v.items from the body, or says why not.
	decode func(v *v2) *answer
	// send gives the records to Kafka.
	send func(v *v2)
	// code turns a code that v3 reports into the one that this server gives
	// for the same; 0 where it has none of its own.
	code func(code int) int
	// result is the answer when all records have their outcome.
	result func(v *v2) *answer
}

// Names of the servers whose manner FaultV2 takes.
const (
	V2Confluent  = "confluent"  // kafka-rest, the default; the only one with v3, too
	V2Pandaproxy = "pandaproxy" // Redpanda's HTTP Proxy
	V2Karapace   = "karapace"   // Aiven, Instaclustr
	V2Strimzi    = "strimzi"    // Strimzi's Kafka Bridge
)

// flavours are the known ones.
func flavours() []*flavour { return []*flavour{confluentV2, pandaproxyV2, karapaceV2, strimziV2} }

func findFlavour(name string) *flavour {
	for _, f := range flavours() {
		if f.name == name {
			return f
		}
	}
	return nil
}

// v2 is one v2 produce request on its way.
type v2 struct {
	x    *exchange
	st   *stream
	f    *flavour
	path string // partition in the path, "" without one

	format    dataFormat // BINARY, JSON, STRING, or one that needs a registry
	partition int32      // the path's, when hasPath
	hasPath   bool

	items   []*pending
	sources [][]byte             // each record's JSON, for the faults that look into it
	waited  map[int32]*codeError // what waiting for a partition came to; -1 is the topic itself

	keySchemaID, valueSchemaID []byte // as given, for the server that repeats them
	batches                    []v2Batch
	mute                       bool // Strimzi's async=true: the answer tells nothing
}

// postV2 produces what a v2 request holds and answers once.
func postV2(x *exchange) bool {
	s, topic := x.sb, x.params["topic"]
	f := x.flavour
	now := s.cfg.clock()
	s.stats.posts.Add(1)
	s.stats.postRate.add(now, 1)
	if f := s.faults.Load().http(topic); f != nil {
		s.stats.rejected.Add(1)
		return x.faultAnswer(f)
	}
	if !s.posts.take(now) {
		return x.reject(f.busy(x.req))
	}
	if a := x.unauthorized(); a != nil {
		return x.reject(a)
	}
	st := newStream(x.c, x.req, s.ClusterID(), topic)
	defer st.close()
	st.whole = true
	v := &v2{x: x, st: st, f: f, path: x.params["partition"], waited: map[int32]*codeError{}}
	if a := f.head(v); a != nil {
		return x.reject(a)
	}
	st.begin()
	st.checkEnds()
	if err := st.readWhole(f.most); err != nil || st.isEnded() {
		status := 400
		if err == errTooLong { //nolint:errorlint // it comes unwrapped
			status = 413
		}
		return st.unread(err, x.dressed(f.status(x.req, status)))
	}
	if a := f.decode(v); a != nil {
		return x.reject(a)
	}
	s.stats.read.Add(int64(len(v.items)))
	s.stats.readRate.add(st.now, int64(len(v.items)))
	if len(v.items) > 0 && !s.limiter.takeAll(st.now, len(v.items), len(st.buf), s.faults.Load().taken(st.now)) {
		return x.reject(f.busy(x.req))
	}
	s.stats.grantRate.add(st.now, int64(len(v.items)))
	f.send(v)
	sent := st.queue.count()
	if !st.isEnded() && st.collect(sent) {
		for _, p := range v.items {
			s.stats.report(p.code, 1)
		}
		return st.conclude(v.items[:sent], x.dressed(f.result(v)))
	}
	return st.conclude(v.items[:sent], nil)
}

// add takes one record; src is its JSON.
func (v *v2) add(src []byte, r kgo.Record) {
	p := v.st.newPending()
	p.rec = r
	v.items = append(v.items, p)
	v.sources = append(v.sources, src)
}

// sendEach gives the records to Kafka one by one.
func (v *v2) sendEach() {
	st := v.st
	for i, p := range v.items {
		st.records++
		p.slow = st.slowFor(v.sources[i])
		if err := v.sendOne(p, v.sources[i]); err != nil {
			if !p.fixed {
				p.code, p.text = err.code, err.text
			}
			st.queue.push(p)
			p.done()
		}
		if st.checkEnds(); st.isEnded() {
			return
		}
	}
}

func (v *v2) sendOne(p *pending, src []byte) *codeError {
	st := v.st
	if err := v.fault(p, src); err != nil {
		return err
	}
	if err := st.complete(p); err != nil {
		return err
	}
	if err := v.wait(p.rec.Partition); err != nil {
		return err
	}
	st.queue.push(p)
	st.c.sb.broker.client.Produce(st.c.sb.ctx, &p.rec, p.acked)
	return nil
}

// fault gives the record the outcome that a fault wants, and says so where the
// record is not to be produced.
func (v *v2) fault(p *pending, src []byte) *codeError {
	f := v.st.reportFault(src)
	if f == nil {
		return nil
	}
	p.code, p.text, p.fixed = f.Code, f.Message, true
	if slices.Contains(v3Codes, f.Code) {
		if own := v.f.code(f.Code); own != 0 {
			p.code = own
		}
	}
	if p.text == "" {
		p.text = usualText(f.Code, v.st.topic, v.st.c.sb.cfg.MaxBlock)
	}
	if f.Stored {
		return nil
	}
	return &codeError{p.code, p.text}
}

// v3Codes are the codes that reports of v3 have.
var v3Codes = []int{400, 408, 413, 422, 429, 500, 40002, 40101, 40301, 40401, 40402, 40403, 42901, 50002, 50003, 50302}

// retriable says whether a v3 code is of a Kafka error that may pass.
func retriable(code int) bool {
	switch code {
	case 408, 429, 40401, 40403, 42901, 50003, 50302:
		return true
	}
	return false
}

// complete fills in what the record did not bring, and refuses what Kafka's
// producer refuses.
func (st *stream) complete(p *pending) *codeError {
	if err := st.checkSize(&p.rec); err != nil {
		return err
	}
	p.rec.Topic = st.topic
	if p.rec.Timestamp.IsZero() {
		p.rec.Timestamp = st.now
	}
	if checkTopicName(st.topic) != nil {
		return &codeError{40002, "Invalid topics: [" + st.topic + "]"}
	}
	return nil
}

// wait waits for the topic and the partition, -1 for any. What it found out
// holds for the whole request: 500 records wait no longer than one.
func (v *v2) wait(partition int32) *codeError {
	if err, ok := v.waited[partition]; ok {
		return err
	}
	st := v.st
	st.bound.partition, st.bound.hasPartition = partition, partition >= 0
	err := st.waitPartition()
	v.waited[partition] = err
	return err
}

// count says how many partitions the topic has now, 0 for none; a topic that
// --auto-create covers is made.
func (v *v2) count() int32 {
	st, b := v.st, v.x.sb.broker
	if st.faults.unknown != nil || checkTopicName(st.topic) != nil {
		return 0
	}
	n, err := b.partitions(st.ctx, st.topic, !b.knows(st.topic))
	if err == nil && n == 0 && v.x.sb.cfg.AutoCreate {
		_ = b.createTopic(st.ctx, st.topic, int32(v.x.sb.cfg.AutoCreatePartitions), -1, nil, false)
		n, _ = b.partitions(st.ctx, st.topic, true)
	}
	return n
}

// oneValue scans body, which must hold one JSON value, and returns a cursor at
// its start. at is where a bad one goes wrong.
func oneValue(body []byte) (c *cursor, at int, err error) {
	s := newScanner()
	from, status := s.next(body, true)
	switch {
	case status == scanEOF:
		return nil, len(body), errNoValue
	case status == scanBroken:
		return nil, s.pos, s.err
	case s.soft != nil:
		return nil, s.pos, s.soft
	}
	end := s.pos
	rest := bytes.TrimLeft(body[end:], " \t\r\n")
	if len(rest) > 0 {
		at := len(body) - len(rest)
		return nil, at, errTrailing
	}
	return &cursor{b: body[:end], i: from}, end, nil
}

const (
	errNoValue  = textError("No content to map due to end-of-input")
	errTrailing = textError("Trailing token found after value")
)

type textError string

func (e textError) Error() string { return string(e) }

// mediaType returns a header's type without parameters, in lower case.
func mediaType(value string) string {
	media, _, _ := strings.Cut(value, ";")
	return strings.ToLower(strings.TrimSpace(media))
}

const (
	kafkaV2     = "application/vnd.kafka.v2+json"
	embedPrefix = "application/vnd.kafka."
	embedSuffix = ".v2+json"
)

// embedded returns the format that a v2 content type names.
func embedded(media string) (dataFormat, bool) {
	name, ok := strings.CutPrefix(media, embedPrefix)
	if !ok {
		return formatNone, false
	}
	if name, ok = strings.CutSuffix(name, embedSuffix); !ok {
		return formatNone, false
	}
	i := slices.Index([]string{"binary", "json", "text", "avro", "jsonschema", "protobuf"}, name)
	return formatBinary + dataFormat(i), i >= 0
}

// pathPartition reads the partition in the path.
func (v *v2) pathPartition() bool {
	if v.path == "" {
		return true
	}
	n, err := strconv.ParseInt(v.path, 10, 32)
	v.partition, v.hasPath = int32(n), err == nil
	return err == nil
}

// v2Answer answers with v as JSON of the v2 media type.
func v2Answer(status int, v any) *answer {
	a := jsonAnswer(status, v)
	a.headers[0].value = kafkaV2
	return a
}
