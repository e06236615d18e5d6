package sandbox

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// pandaproxyV2 is Redpanda's HTTP Proxy.
//
// Source: redpanda src/v/pandaproxy/rest/handlers.cc, json/requests/produce.h
// (the parser's states), kafka/client; Seastar's httpd. The memory budget of a
// shard, which 413 guards, is 1 MiB here; like the real one it is held against
// Content-Length alone, and a chunked body passes.
var pandaproxyV2 = &flavour{
	name: V2Pandaproxy, server: "Seastar httpd", most: maxWhole,
	routes: func() []route {
		return []route{getRoute("/status/ready", func(*exchange) *answer { return &answer{status: 200} })}
	},
	status: func(_ *request, status int) *answer {
		switch status {
		case 404, 405: // a path is known with its method only
			return jsonAnswer(404, struct {
				Message string `json:"message"`
				Code    int    `json:"code"`
			}{"Not found", 404})
		case 413:
			return &answer{status: 413}
		}
		return v2Answer(status, struct {
			Code    int    `json:"error_code"`
			Message string `json:"message"`
		}{status, "HTTP " + strconv.Itoa(status) + " " + statusText(status)})
	},
	refuse: refuseV2,
	busy: func(*request) *answer {
		return (&answer{status: 429}).with("Retry-After", "0")
	},
	head:   (*v2).pandaproxyHead,
	decode: (*v2).pandaproxyDecode,
	send:   (*v2).sendBatches,
	code:   func(code int) int { return int(pandaproxyCodes[code]) },
	result: (*v2).pandaproxyResult,
}

// refuseV2 is a whole request's error of the v2 media type.
func refuseV2(status, code int, text string) *answer {
	a := restError(status, code, "%s", text)
	a.headers[0].value = kafkaV2
	return a
}

// pandaproxyCodes are Kafka's own numbers for what v3 reports.
var pandaproxyCodes = map[int]int16{
	400: kerr.InvalidRecord.Code, 422: kerr.InvalidRecord.Code, 413: kerr.MessageTooLarge.Code,
	408: kerr.RequestTimedOut.Code, 50003: kerr.RequestTimedOut.Code,
	429: kerr.ThrottlingQuotaExceeded.Code, 42901: kerr.ThrottlingQuotaExceeded.Code,
	500: kerr.UnknownServerError.Code, 50002: kerr.UnknownServerError.Code,
	40002: kerr.InvalidTopicException.Code, 40101: kerr.SaslAuthenticationFailed.Code, 40301: kerr.TopicAuthorizationFailed.Code,
	40401: kerr.UnknownTopicOrPartition.Code, 40402: kerr.UnknownTopicOrPartition.Code, 40403: kerr.UnknownTopicOrPartition.Code,
	50302: kerr.BrokerNotAvailable.Code,
}

const pandaproxyBudget = 1 << 20

func (v *v2) pandaproxyHead() *answer {
	req := v.x.req
	if req.contentLength > pandaproxyBudget {
		req.close = true
		return v.f.status(req, 413)
	}
	var ok bool
	if v.format, ok = embedded(mediaType(req.get("Content-Type"))); !ok || v.format > formatJSON {
		return v.f.status(req, 415)
	}
	switch mediaType(req.get("Accept")) {
	case "", "*/*", kafkaV2:
	default:
		return v.f.status(req, 406)
	}
	return nil
}

// offsetError is a body that the parser gave up at an offset.
type offsetError int

func (e offsetError) Error() string { return fmt.Sprintf("parse error at offset %d", int(e)) }

func (v *v2) pandaproxyDecode() *answer {
	c, at, err := oneValue(v.st.buf)
	if err != nil {
		return refuseV2(422, 422, offsetError(at).Error())
	}
	if err := v.pandaproxyBody(c); err != nil {
		return refuseV2(422, 422, err.Error())
	}
	return nil
}

// skip takes the first token of a value that may not stand here.
func skip(c *cursor) error {
	switch c.peek() {
	case '{', '[':
		c.i++
	default:
		c.value()
	}
	return offsetError(c.i)
}

func (v *v2) pandaproxyBody(c *cursor) error {
	if c.peek() != '{' {
		return skip(c)
	}
	if !c.open() {
		return offsetError(c.i)
	}
	if name, end := nameAt(c); name != "records" {
		return offsetError(end)
	}
	if err := v.pandaproxyRecords(c); err != nil {
		return err
	}
	if c.more() {
		_, end := nameAt(c)
		return offsetError(end)
	}
	return nil
}

// nameAt takes a member's name and says where the name itself ends.
func nameAt(c *cursor) (string, int) {
	raw, escaped := c.str()
	end := c.i
	if escaped {
		raw, _ = appendUnescaped(nil, raw)
	}
	c.peek()
	c.i++
	return string(raw), end
}

// pandaproxyRecords takes what stands behind "records": by the parser's states
// an object, or an array of them to any depth.
func (v *v2) pandaproxyRecords(c *cursor) error {
	switch c.peek() {
	case '{':
		return v.pandaproxyRecord(c)
	case '[':
		for ok := c.open(); ok; ok = c.more() {
			if err := v.pandaproxyRecords(c); err != nil {
				return err
			}
		}
		return nil
	}
	return skip(c)
}

func (v *v2) pandaproxyRecord(c *cursor) error {
	start := c.i
	rec := kgo.Record{Partition: -1}
	for ok := c.open(); ok; ok = c.more() {
		name, end := nameAt(c)
		var err error
		switch name {
		case "partition":
			n, perr := strconv.ParseInt(string(c.value()), 10, 64)
			if perr != nil || n < -1<<31 || n >= 1<<32 {
				return offsetError(c.i)
			}
			rec.Partition = int32(n)
			if rec.Partition < 0 {
				rec.Partition = noPartition
			}
		case "key":
			rec.Key, err = v.pandaproxyData(c)
		case "value":
			rec.Value, err = v.pandaproxyData(c)
		default:
			return offsetError(end)
		}
		if err != nil {
			return err
		}
	}
	v.add(c.b[start:c.i], rec)
	return nil
}

// noPartition is a partition that no topic has.
const noPartition = 1<<31 - 1

func (v *v2) pandaproxyData(c *cursor) ([]byte, error) {
	if v.format == formatJSON {
		out, ok := rapidJSON.append([]byte{}, c)
		if !ok {
			return nil, offsetError(c.i)
		}
		return out, nil
	}
	if c.peek() != '"' {
		return nil, skip(c)
	}
	raw, escaped := c.str()
	if escaped {
		raw, _ = appendUnescaped(nil, raw)
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(raw)))
	n, err := base64.StdEncoding.Strict().Decode(out, raw)
	if err != nil || hasNewline(raw) {
		return nil, offsetError(c.i)
	}
	return out[:n], nil
}

// v2Batch is the records of one request that go to one partition: written as
// one batch, all or none.
type v2Batch struct {
	partition int32
	items     []*pending
	offset    int64
	code      int // Kafka's own number, or a fault's; 0 is success
	fixed     bool
}

// sendBatches sorts the records by partition and gives each partition's to
// Kafka as one batch.
func (v *v2) sendBatches() {
	st := v.st
	n := v.count()
	at := map[int32]int{}
	for i, p := range v.items {
		st.records++
		p.slow = st.slowFor(v.sources[i])
		refused := v.fault(p, v.sources[i]) != nil
		_ = st.complete(p) // the batch draws what Kafka says
		p.rec.Partition = v.x.sb.spread(&p.rec, n)
		if p.rec.Key == nil {
			p.rec.Key = []byte{} // a missing key is an empty one
		}
		b, ok := at[p.rec.Partition]
		if !ok {
			b = len(v.batches)
			at[p.rec.Partition] = b
			v.batches = append(v.batches, v2Batch{partition: p.rec.Partition})
		}
		batch := &v.batches[b]
		batch.items = append(batch.items, p)
		if p.fixed && batch.code == 0 {
			batch.code, batch.fixed = p.code, refused
		}
		st.queue.push(p)
		if st.checkEnds(); st.isEnded() {
			break
		}
	}
	for i := range v.batches {
		v.sendBatch(&v.batches[i], n)
	}
}

// spread chooses a record's partition: its own, by its key, else in turn.
// Source: redpanda kafka/client/partitioners; a topic that is not there counts
// as one with a first partition.
func (s *Sandbox) spread(r *kgo.Record, n int32) int32 {
	switch {
	case r.Partition >= 0:
		return r.Partition
	case n == 0:
		return 0
	case r.Key != nil:
		return int32(kgo.StickyKeyPartitioner(nil).ForTopic(r.Topic).Partition(r, int(n)))
	}
	return int32(s.turn.Add(1) % uint32(n))
}

// sendBatch writes one partition's records, and takes what came of it.
func (v *v2) sendBatch(b *v2Batch, partitions int32) {
	sb := v.x.sb
	b.offset = -1
	switch {
	case b.fixed:
	case b.partition >= partitions:
		if b.code == 0 {
			b.code = int(kerr.UnknownTopicOrPartition.Code)
		}
	default:
		offset, code, err := sb.broker.writeBatch(sb.ctx, v.st.topic, b.partition, b.items)
		if err != nil {
			code = kerr.NetworkException.Code
		}
		if code == 0 {
			for i, p := range b.items {
				p.rec.Offset = offset + int64(i)
				p.stored(&p.rec)
			}
		}
		if b.code == 0 { // a fault's code stands
			b.code = int(code)
			if code == 0 {
				b.offset = offset
			}
		}
	}
	for _, p := range b.items {
		if p.code = 200; b.code != 0 {
			p.code = b.code
		}
		p.done()
	}
}

// pandaproxyResult has one entry a partition, in no promised order.
func (v *v2) pandaproxyResult() *answer {
	type entry struct {
		Partition int32 `json:"partition"`
		Code      int   `json:"error_code,omitempty"`
		Offset    int64 `json:"offset"`
	}
	out := struct {
		Offsets []entry `json:"offsets"`
	}{[]entry{}}
	for _, b := range v.batches {
		if b.partition == noPartition {
			b.partition = -1
		}
		out.Offsets = append(out.Offsets, entry{b.partition, b.code, b.offset})
	}
	rand.Shuffle(len(out.Offsets), func(i, j int) {
		out.Offsets[i], out.Offsets[j] = out.Offsets[j], out.Offsets[i]
	})
	return v2Answer(200, out)
}
