package stream

import (
	"bytes"
	"slices"
	"strconv"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// v2Entry is one entry of a v2 answer's "offsets".
type v2Entry struct {
	partition int32 // -1 when not told
	offset    int64 // likewise
	code      int   // 0: written
	text      []byte
	next      int64 // how many records of its partition were told
}

// answer reads {"offsets":[…]}. Its status is 200, or 401, 403 and 422 where a
// server says so though some records were written.
func (w v2) answer(r *reading, h head) error {
	body, err := r.whole(h)
	if err != nil {
		return err
	}
	offsets := []byte(nil)
	switch h.status {
	case 200, 401, 403, 422:
		if record.ValidObject(body) {
			offsets = member(body, "offsets")
		}
	}
	if len(offsets) == 0 || offsets[0] != '[' {
		return r.notAnswer(h, body)
	}
	r.taken(h)
	r.entries = r.entries[:0]
	bare := false // an error without a text
	for {
		item, rest, more := record.Item(offsets)
		if !more {
			break
		}
		e := v2EntryOf(item)
		bare = bare || e.code != 0 && e.text == nil
		r.entries = append(r.entries, e)
		offsets = rest
	}
	n := r.s.sent.records
	perPartition := w.server == dialect.V2Pandaproxy ||
		w.server == dialect.V2Other && (len(r.entries) < n || bare)
	switch {
	case perPartition:
		err = w.byPartition(r)
	case len(r.entries) != n:
		err = w.mismatch(r)
	default:
		err = w.byRecord(r)
	}
	if err != nil {
		return err
	}
	return r.told()
}

func v2EntryOf(item []byte) v2Entry {
	e := v2Entry{partition: -1, offset: -1}
	m := record.MembersOf(item)
	for m.Next() {
		n, ok := integer(m.Value())
		switch string(m.Name()) {
		case "partition":
			if ok {
				e.partition = int32(n)
			}
		case "offset":
			if ok {
				e.offset = n
			}
		case "error_code":
			if ok {
				e.code = int(n)
			}
		case "error", "message": // Strimzi's word is the second
			if string(m.Value()) != "null" {
				e.text = m.Value()
			}
		}
	}
	return e
}

// mismatch is for an answer that cannot be matched: every record's fate is
// unknown, and each is tried again as often as a bad one may be.
func (w v2) mismatch(r *reading) error {
	n := r.s.sent.records
	r.s.p.warn("mismatch", "an answer does not fit its request: what became of these records is unknown, they are sent again",
		"topic", r.s.t.name, "records", n, "entries", len(r.entries), "server", w.server.Server())
	for range n {
		rep := r.blank()
		rep.Message = append(rep.Message, "the answer has "...)
		rep.Message = strconv.AppendInt(rep.Message, int64(len(r.entries)), 10)
		rep.Message = append(rep.Message, " entries for "...)
		rep.Message = strconv.AppendInt(rep.Message, int64(n), 10)
		rep.Message = append(rep.Message, " records"...)
		if err := r.tell(rep); err != nil {
			return err
		}
	}
	return nil
}

// byRecord takes one entry a record, in order.
func (w v2) byRecord(r *reading) error {
	for i := range r.entries {
		e := &r.entries[i]
		rep := r.blank()
		if w.server != dialect.V2Other || len(r.entries) == 1 {
			rep.Partition, rep.Offset = e.partition, e.offset
		}
		rep.ErrorCode = 200
		if e.code != 0 {
			rep.Message = record.AppendText(rep.Message, e.text)
			rep.ErrorCode = v2Code(w.server, e.code, rep.Message)
		}
		if err := r.tell(rep); err != nil {
			return err
		}
	}
	return nil
}

var (
	notInMetadata = []byte("not present in metadata")
	notHosted     = []byte("does not host this topic-partition")
)

// v2Code returns the REST v3 code for a record's error of a server that reports
// by record.
//
// Source: kafka-rest v2 ProduceResponse; Karapace produce_messages, where 1 is
// any failure, time-outs among them, and 2 a broker's that may pass; Strimzi
// HttpSourceBridgeEndpoint, which knows 404 and 500.
func v2Code(server dialect.Dialect, code int, text []byte) int {
	switch {
	case code == 404:
		return 40401
	case bytes.Contains(text, notInMetadata) && (code == 50003 || code == 500):
		return 40401
	case bytes.Contains(text, notHosted) && code == 50003:
		return 40403
	case server == dialect.V2Karapace && code == 1:
		return 500
	case server == dialect.V2Karapace && code == 2:
		return 50003
	}
	return code
}

// byPartition takes one entry a partition, in no order: a record that chose its
// partition is told by that one's entry, any other only when all went alike.
// The records of a request to one partition are one batch, in order, of which
// the entry has the first offset.
func (w v2) byPartition(r *reading) error {
	q := r.s.sent
	common, failed := 0, 0 // the code of all that failed, in v3's numbers; -1: several
	for i := range r.entries {
		if e := &r.entries[i]; e.code != 0 {
			failed++
			if c := kafkaCode(e.code); common == 0 || common == c {
				common = c
			} else {
				common = -1
			}
		}
	}
	// Offsets can be counted only where every record of a partition is known.
	exact := len(r.entries) == 1 || !slices.Contains(q.chosen, -1)
	for i := range q.records {
		rep := r.blank()
		e := entryFor(r.entries, q.chosen[i])
		switch {
		case e != nil && e.code == 0:
			rep.ErrorCode, rep.Partition = 200, e.partition
			if e.offset >= 0 && exact {
				rep.Offset = e.offset + e.next
				e.next++
			}
		case e != nil:
			rep.ErrorCode = kafkaCode(e.code)
			rep.Message = appendKafkaError(rep.Message, e)
		case failed == 0 && len(r.entries) > 0 && q.chosen[i] < 0:
			rep.ErrorCode = 200
		case failed > 0 && failed == len(r.entries) && common > 0:
			rep.ErrorCode = common
			rep.Message = appendKafkaError(rep.Message, &r.entries[0])
		case failed > 0:
			rep.ErrorCode = 50003
			rep.Message = append(rep.Message, "some partitions failed and the answer does not tell which this record went to"...)
			if q.records > 1 { // by itself it has an answer of its own
				if err := r.tellJudged(rep, Verdict{Outcome: record.Unknown, Reason: "kafka_retriable", Alone: true}); err != nil {
					return err
				}
				continue
			}
		default:
			rep.Message = append(rep.Message, "the answer does not tell of the record's partition"...)
		}
		if err := w.tellOfBatch(r, rep, q.chosen[i] >= 0); err != nil {
			return err
		}
	}
	return nil
}

// tellOfBatch tells of a record whose outcome is that of a whole batch.
func (w v2) tellOfBatch(r *reading, rep *Report, chosen bool) error {
	q := r.s.sent
	switch {
	case rep.ErrorCode == 413 && q.records > 1:
		// The batch was too large, and this record need not be.
		r.s.p.shrink(q, false)
		rep.ErrorCode = 50003
		return r.tellJudged(rep, Verdict{Outcome: record.Retry, Reason: "too_large_together"})
	case q.records > 1 && Judge(rep.ErrorCode, rep.Message).Outcome == record.Rejected:
		// One of the batch is to blame, and the answer does not tell which.
		return r.tellJudged(rep, Verdict{Outcome: record.Retry, Reason: "batch_mate", Alone: true})
	case rep.ErrorCode == 40401 && chosen:
		rep.ErrorCode = 40403 // its partition may be what is missing
	}
	return r.tell(rep)
}

// entryFor returns the entry of a partition; for a record that chose none the
// only one there is.
func entryFor(entries []v2Entry, partition int32) *v2Entry {
	if partition < 0 {
		if len(entries) == 1 {
			return &entries[0]
		}
		return nil
	}
	for i := range entries {
		if entries[i].partition == partition {
			return &entries[i]
		}
	}
	return nil
}

func appendKafkaError(dst []byte, e *v2Entry) []byte {
	dst = append(dst, "Kafka error "...)
	dst = strconv.AppendInt(dst, int64(e.code), 10)
	if name := kafkaNames[e.code]; name != "" {
		dst = append(append(append(dst, " ("...), name...), ')')
	}
	if e.partition >= 0 {
		dst = append(dst, " on partition "...)
		dst = strconv.AppendInt(dst, int64(e.partition), 10)
	}
	if e.text != nil {
		dst = record.AppendText(append(dst, ": "...), e.text)
	}
	return dst
}

// kafkaNames are the errors of a produce request that an operator may meet.
// Source: Apache Kafka protocol, error codes.
var kafkaNames = map[int]string{
	-1: "unknown server error", 2: "corrupt message", 3: "unknown topic or partition", 5: "leader not available",
	6: "not leader", 7: "request timed out", 8: "broker not available", 9: "replica not available", 10: "message too large",
	13: "network exception", 17: "invalid topic", 18: "record list too large", 19: "not enough replicas",
	20: "not enough replicas after append", 29: "topic authorization failed", 31: "cluster authorization failed",
	32: "invalid timestamp", 42: "invalid request", 44: "policy violation", 56: "storage error", 58: "SASL authentication failed",
	87: "invalid record", 89: "throttling quota exceeded",
}

// kafkaCode returns the REST v3 code that kafka-rest gives for a Kafka error.
// Source: Apache Kafka protocol, error codes and which of them are retriable.
func kafkaCode(code int) int {
	switch code {
	case -1:
		return 500
	case 3, 100:
		return 40401
	case 2, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 56, 74, 75, 76:
		return 50003
	case 10, 18:
		return 413
	case 17, 21, 32, 35, 42, 43, 44, 87:
		return 40002
	case 29, 31, 53:
		return 40301
	case 33, 34, 54, 58:
		return 40101
	case 89:
		return 42901
	}
	return 50002
}
