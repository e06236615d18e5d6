package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
)

// What of an answer with an entry a record is read at most: an entry is a
// hundred bytes, or an error's line of text.
const (
	answerBase = 1 << 20
	answerEach = 1 << 10
)

var errLongAnswer = errors.New("the answer is longer than any answer to so many records")

// whole reads the rest of an answer that is one JSON document.
//
// Ownership: the document is valid until the reading ends.
// Errors: *refusal for a compressed one; what reading said.
func (r *reading) whole(h head) ([]byte, error) {
	if h.encoding != "" && h.encoding != "identity" {
		return nil, compressed(h)
	}
	most := answerBase + answerEach*r.s.sent.records
	r.body = r.body[:0]
	for {
		data, err := r.ans.next()
		if errors.Is(err, io.EOF) {
			return r.body, nil
		}
		if err != nil {
			return nil, err
		}
		if r.body = append(r.body, data...); len(r.body) > most {
			return nil, errLongAnswer
		}
		r.s.touch()
	}
}

// notAnswer is for a document that tells of no record: a refusal, or something
// that should not be there.
func (r *reading) notAnswer(h head, body []byte) error {
	if h.status >= 200 && h.status < 300 && h.status != 204 && !isHTML(h, body) && strings.Contains(h.contentType, "json") {
		return fmt.Errorf("%w: the answer begins with %q", errNotReport, clip(bytes.TrimSpace(body), 60))
	}
	_ = r.s.conn.SetReadDeadline(time.Now().Add(lastWait))
	ref := judgeStatus(h, body)
	ref.text = auth.Scrub(ref.text, r.s.authorization)
	if h.status == 204 {
		ref.unknown = true
		ref.remedy = "it does not say what became of records: something in between asks it not to wait (async=true)"
	}
	r.s.wire.explain(ref)
	return ref
}

// member returns the value of an object's member, nil without one: the last
// one, where there are more.
func member(object []byte, name string) (value []byte) {
	m := record.MembersOf(object)
	for m.Next() {
		if string(m.Name()) == name {
			value = m.Value()
		}
	}
	return value
}

// integer reads a JSON integer.
func integer(value []byte) (int64, bool) {
	digits := value
	if len(digits) > 1 && digits[0] == '-' {
		digits = digits[1:]
	}
	var n int64
	for _, c := range digits {
		if c-'0' > 9 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, false
	}
	if value[0] == '-' {
		n = -n
	}
	return n, true
}

// unquoted takes a string's quotes off.
func unquoted(value []byte) []byte {
	if len(value) < 2 || value[0] != '"' {
		return nil
	}
	return value[1 : len(value)-1]
}

// blank returns the report to be filled for the next record: of unknown fate,
// nothing told. Hand it to tell before the next call.
func (r *reading) blank() *Report {
	r.rep = Report{Partition: -1, Offset: -1, Message: r.text[:0]}
	return &r.rep
}

// tell takes what an answer says of the next record, in REST v3's codes.
func (r *reading) tell(rep *Report) error {
	return r.tellJudged(rep, Judge(rep.ErrorCode, rep.Message))
}

// tellJudged is tell where the code does not say it all.
func (r *reading) tellJudged(rep *Report, v Verdict) error {
	r.text = rep.Message[:0]
	if v.Outcome == record.Delivered && !r.detailed() {
		r.goods++
		return nil
	}
	if err := r.told(); err != nil {
		return err
	}
	if v.Terminal { // only a stream's text means that
		v = Verdict{Outcome: record.Rejected, Reason: "bad_request"}
	}
	v.EndStream = false
	if r.detailed() {
		r.raw = appendReport(r.raw[:0], r.s.p.target.ClusterID, r.s.t.name, rep)
		rep.Raw = r.raw
	}
	if err := r.judged(rep, v); err != nil && !errors.Is(err, errHeld) {
		return err // what held the topic is no reason not to read on
	}
	return nil
}

// told hands on the good ones that were counted; call it behind the last.
func (r *reading) told() error {
	n := r.goods
	r.goods = 0
	if n == 0 {
		return nil
	}
	return r.good(n)
}

// appendReport appends a delivery report as REST v3 writes it.
func appendReport(dst []byte, cluster, topic string, rep *Report) []byte {
	dst = append(dst, `{"error_code":`...)
	dst = strconv.AppendInt(dst, int64(rep.ErrorCode), 10)
	if rep.ErrorCode != 200 {
		text, err := json.Marshal(string(rep.Message))
		if err != nil {
			text = []byte(`""`)
		}
		dst = append(append(dst, `,"message":`...), text...)
		return append(dst, '}')
	}
	dst = strconv.AppendQuote(append(dst, `,"cluster_id":`...), cluster)
	dst = strconv.AppendQuote(append(dst, `,"topic_name":`...), topic)
	dst = strconv.AppendInt(append(dst, `,"partition_id":`...), int64(rep.Partition), 10)
	dst = strconv.AppendInt(append(dst, `,"offset":`...), rep.Offset, 10)
	return append(dst, '}')
}
