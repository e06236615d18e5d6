package sandbox

import (
	"bytes"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

// maxEntries is how many records one records:batch request may hold.
// Source: kafka-rest api.v3.produce.batch.maximum.entries.
const maxEntries = 10

// batchEntry is one record of a batch, and what its answer is matched by.
type batchEntry struct {
	id  []byte
	src []byte
}

// postBatch produces the entries of a records:batch request and answers once
// all of them have their outcome. Each of them counts for the record limits,
// and the request for that of requests.
// Source: kafka-rest ProduceBatchAction, ProduceBatchRequest.
func postBatch(x *exchange) bool {
	s, topic := x.sb, x.params["topic"]
	now := s.cfg.clock()
	s.stats.posts.Add(1)
	s.stats.postRate.add(now, 1)
	if f := s.faults.Load().http(topic); f != nil {
		s.stats.rejected.Add(1)
		return x.faultAnswer(f)
	}
	if a := x.refuseProduce(now); a != nil {
		return x.reject(a)
	}
	st := newStream(x.c, x.req, x.clusterName(), topic)
	defer st.close()
	st.whole = true
	st.begin()
	st.checkEnds()
	if err := st.readWhole(maxWhole); err != nil || st.isEnded() {
		status := 400
		if errors.Is(err, errTooLong) {
			status = 413
		}
		return st.unread(err, statusError(status))
	}
	entries, a := st.batchEntries()
	if a != nil {
		return x.reject(a)
	}
	items := make([]*pending, 0, len(entries))
	for i := range entries {
		if st.isEnded() {
			break
		}
		items = append(items, st.produceEntry(entries[i].src))
	}
	if st.isEnded() || !st.collect(len(items)) {
		return st.conclude(items, nil)
	}
	return st.conclude(items, x.dressed(batchAnswer(newReportFormat(st.cluster, topic), entries, items, &s.stats)))
}

// produceEntry takes one entry through the steps of a record on a stream.
func (st *stream) produceEntry(src []byte) *pending {
	sb := st.c.sb
	st.records++
	sb.stats.read.Add(1)
	sb.stats.readRate.add(st.now, 1)
	p := st.newPending()
	p.slow = st.slowFor(src)
	if err := st.produce(p, src, nil); err != nil {
		if !p.fixed {
			p.code, p.text = err.code, err.text
		}
		st.queue.push(p)
		p.done()
	}
	st.checkEnds()
	return p
}

func batchError(text string) *answer { return restError(422, 42208, "%s", text) }

// batchEntries reads the body. What Jackson refuses anywhere in it refuses the
// whole request, unlike on a stream.
func (st *stream) batchEntries() ([]batchEntry, *answer) {
	c, _, err := oneValue(st.buf)
	switch {
	case errors.Is(err, errNoValue):
		return nil, batchError("Empty batch.")
	case err != nil:
		return nil, restError(400, 400, "%s", err)
	case c.peek() == 'n':
		return nil, batchError("Empty batch.")
	case c.peek() != '{':
		return nil, restError(400, 400, "%s", wrongToken("io.confluent.kafkarest.entities.v3.ProduceBatchRequest", c))
	}
	var raw []byte
	for ok := c.open(); ok; ok = c.more() {
		name := string(c.name())
		if name != "entries" {
			return nil, restError(422, 422, "Unrecognized field: %s", name)
		}
		raw = c.value()
	}
	if raw == nil || raw[0] == 'n' {
		return nil, batchError("Empty batch.")
	}
	ec := cursor{b: raw}
	if raw[0] != '[' {
		return nil, restError(400, 400, "%s", wrongToken("java.util.ArrayList<io.confluent.kafkarest.entities.v3.ProduceBatchRequestEntry>", &ec))
	}
	var out []batchEntry
	for ok := ec.open(); ok; ok = ec.more() {
		e := batchEntry{src: ec.value()}
		if err := bindEntry(&st.bound, e.src); err != nil {
			return nil, refuseEntry(err)
		}
		e.id = st.bound.id
		out = append(out, e)
	}
	return out, checkEntries(out)
}

// checkEntries applies the rules of number and ids.
func checkEntries(es []batchEntry) *answer {
	switch {
	case len(es) == 0:
		return batchError("Empty batch.")
	case len(es) > maxEntries:
		return batchError("Too many entries in batch.")
	}
	seen := map[string]bool{}
	for _, e := range es {
		if !entryID.Match(e.id) {
			return batchError("Batch entry identifier is not a valid string.")
		}
		if seen[string(e.id)] {
			return batchError("Batch entry IDs are not distinct.")
		}
		seen[string(e.id)] = true
	}
	return nil
}

var entryID = regexp.MustCompile(`^[0-9A-Za-z_-]{1,80}$`)

// refuseEntry is the answer to an entry that cannot be bound.
func refuseEntry(err error) *answer {
	if rest, ok := strings.CutPrefix(err.Error(), "Unrecognized field "); ok {
		if q, qerr := strconv.QuotedPrefix(rest); qerr == nil {
			name, _ := strconv.Unquote(q)
			return restError(422, 422, "Unrecognized field: %s", name)
		}
	}
	return restError(400, 400, "%s", err)
}

// batchAnswer is 207, both arrays always there.
func batchAnswer(f *reportFormat, es []batchEntry, items []*pending, stats *stats) *answer {
	var good, bad []byte
	var one []byte
	for i, p := range items {
		stats.report(p.code, 1)
		to := &bad
		one = f.append(one[:0], p)
		rest := one[1:]
		if p.code == 200 {
			to, rest = &good, bytes.TrimPrefix(rest, []byte(`"error_code":200,`))
		}
		if len(*to) > 0 {
			*to = append(*to, ',')
		}
		*to = append(append(*to, `{"id":"`...), es[i].id...)
		*to = append(append(*to, `",`...), rest...)
	}
	body := append([]byte(`{"successes":[`), good...)
	body = append(append(append(body, `],"failures":[`...), bad...), "]}"...)
	return &answer{status: 207, headers: []header{{"Content-Type", "application/json"}}, body: body}
}
