package stream

import (
	"bytes"
	"errors"
	"net/url"
	"strconv"

	"github.com/produce-agent/produce-agent/internal/record"
)

// v3Batch is REST v3's records:batch: up to ten records a request, each with an
// id that its outcome is found by. Confluent Platform has it, Confluent Cloud
// has not.
// Source: confluentinc/kafka-rest OpenAPI, produceRecordsBatch.
type v3Batch struct{}

// batchEntries is api.v3.produce.batch.maximum.entries where nobody set it.
const batchEntries = 10

func (v3Batch) url(t *Target, topic string) *url.URL {
	return below(t.Base, "v3", "clusters", url.PathEscape(t.ClusterID), "topics", url.PathEscape(topic), "records:batch")
}

func (v3Batch) types() (content, accept string) { return "application/json", "application/json" }

func (v3Batch) bounds() (records, bytes int) { return batchEntries, 64 << 20 }

func (v3Batch) begin(q *request) { q.body = append(q.body, `{"entries":[`...) }

var errNoObject = errors.New("it is no JSON object")

// add appends a record object with an id, its place, in front of its members.
func (v3Batch) add(q *request, rec []byte) error {
	rec = bytes.Trim(rec, " \t\r\n")
	if len(rec) < 2 || rec[0] != '{' {
		return errNoObject
	}
	rec = trimSpace(rec[1:])
	if q.records > 0 {
		q.body = append(q.body, ',')
	}
	q.body = append(q.body, `{"id":"`...)
	q.body = strconv.AppendInt(q.body, int64(q.records), 10)
	q.body = append(q.body, '"')
	if rec[0] != '}' {
		q.body = append(q.body, ',')
	}
	q.body = append(q.body, rec...)
	return nil
}

func (v3Batch) end(q *request) { q.body = append(q.body, "]}"...) }

// batchOutcome is what an answer says of one record.
type batchOutcome struct {
	entry  []byte
	failed bool
}

func (v3Batch) answer(r *reading, h head) error {
	body, err := r.whole(h)
	if err != nil {
		return err
	}
	successes, failures := member(body, "successes"), member(body, "failures")
	if h.status != 207 && h.status != 200 || successes == nil && failures == nil {
		return r.notAnswer(h, body)
	}
	r.taken(h)
	var seen [batchEntries]batchOutcome
	note := func(entries []byte, failed bool) {
		for {
			entry, rest, more := record.Item(entries)
			if !more {
				return
			}
			if i, ok := integer(unquoted(member(entry, "id"))); ok && i >= 0 && int(i) < min(batchEntries, r.s.sent.records) {
				seen[i] = batchOutcome{entry, failed}
			}
			entries = rest
		}
	}
	note(successes, false)
	note(failures, true)
	for i := range r.s.sent.records {
		if err := r.tell(batchReport(r, seen[i])); err != nil {
			return err
		}
	}
	return r.told()
}

// batchReport makes a report of one entry.
func batchReport(r *reading, o batchOutcome) *Report {
	rep := r.blank()
	if o.entry == nil {
		rep.Message = append(rep.Message, "the answer has no entry for the record"...)
		return rep
	}
	if !o.failed {
		rep.ErrorCode = 200
	}
	m := record.MembersOf(o.entry)
	for m.Next() {
		switch string(m.Name()) {
		case "partition_id":
			if n, ok := integer(m.Value()); ok {
				rep.Partition = int32(n)
			}
		case "offset":
			if n, ok := integer(m.Value()); ok {
				rep.Offset = n
			}
		case "error_code":
			if n, ok := integer(m.Value()); ok && o.failed {
				rep.ErrorCode = int(n)
			}
		case "message":
			rep.Message = record.AppendText(rep.Message, m.Value())
		}
	}
	return rep
}

func (v3Batch) explain(ref *refusal) {
	if ref.fate == openStop && (ref.status == 404 || ref.status == 405) {
		ref.remedy = "this server has no records:batch at this path, as none of Confluent Cloud has: use --dialect v3-stream, or v3-records where something in between buffers requests"
	}
}
