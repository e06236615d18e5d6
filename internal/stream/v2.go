package stream

import (
	"errors"
	"net/url"
	"strconv"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// v2 is the older API, as Redpanda's HTTP Proxy, Karapace, Strimzi's Bridge and
// Confluent's REST Proxy speak it. Records go in the binary format only: that
// one reproduces any bytes, and all four have it.
//
// Source: confluentinc/kafka-rest api/v2, redpanda pandaproxy, Karapace
// kafka_rest_apis, Strimzi's http package.
type v2 struct {
	server dialect.Dialect
}

const v2Binary, v2Accept = "application/vnd.kafka.binary.v2+json", "application/vnd.kafka.v2+json"

func (v2) url(t *Target, topic string) *url.URL {
	return below(t.Base, "topics", url.PathEscape(topic))
}

func (v2) types() (content, accept string) { return v2Binary, v2Accept }

// 512 KiB of records are at most 700 KiB in base64: Karapace takes 1 MiB by
// default. Whoever takes less says 413.
func (v2) bounds() (records, bytes int) { return 8192, 512 << 10 }

func (v2) begin(q *request) { q.body = append(q.body, `{"records":[`...) }

func (v2) end(q *request) { q.body = append(q.body, "]}"...) }

var (
	errTombstone  = errors.New("it has a null value")
	errHasHeaders = errors.New("it has headers")
	errNullHeader = errors.New("it has a header with a null value")
	errHasTime    = errors.New("it has a timestamp of its own")
	errSchema     = errors.New("its key or value is of a schema registry's kind")
)

// add appends one record: what is null is left out, which all that know a null
// take for one.
func (w v2) add(q *request, rec []byte) error {
	if err := q.rec.Scan(rec); err != nil {
		return err
	}
	if err := w.carries(&q.rec); err != nil {
		return err
	}
	start := len(q.body)
	body := q.body
	if q.records > 0 {
		body = append(body, ',')
	}
	body, err := w.appendRecord(append(body, '{'), q)
	if err != nil {
		q.body = body[:start]
		return err
	}
	if body[len(body)-1] == ',' {
		body = body[:len(body)-1]
	}
	q.body = append(body, '}')
	q.chosen = append(q.chosen, q.rec.Partition)
	q.keyless = q.keyless || q.rec.Key.Kind == record.DataNull
	return nil
}

// carries returns why the server could not take the record as it is.
func (w v2) carries(rec *record.Wire) error {
	switch {
	case rec.Key.Kind == record.DataSchema || rec.Value.Kind == record.DataSchema:
		return errSchema
	case rec.Value.Kind == record.DataNull && !w.server.Carries(dialect.Tombstones):
		return errTombstone
	case rec.Headers != nil && string(rec.Headers) != "[]" && !w.server.Carries(dialect.Headers):
		return errHasHeaders
	case rec.Timestamp != nil && !w.server.Carries(dialect.Timestamps):
		return errHasTime
	}
	return nil
}

// appendRecord appends the record's members, each with a comma behind it.
func (w v2) appendRecord(dst []byte, q *request) ([]byte, error) {
	var err error
	if q.rec.Key.Kind != record.DataNull {
		if dst, err = q.rec.Key.AppendBase64(append(dst, `"key":"`...), &q.scratch); err != nil {
			return dst, err
		}
		dst = append(dst, `",`...)
	}
	if q.rec.Value.Kind != record.DataNull {
		if dst, err = q.rec.Value.AppendBase64(append(dst, `"value":"`...), &q.scratch); err != nil {
			return dst, err
		}
		dst = append(dst, `",`...)
	}
	if q.rec.Partition >= 0 {
		dst = strconv.AppendInt(append(dst, `"partition":`...), int64(q.rec.Partition), 10)
		dst = append(dst, ',')
	}
	if q.rec.Timestamp != nil {
		millis, err := q.rec.Millis()
		if err != nil {
			return dst, err
		}
		dst = append(strconv.AppendInt(append(dst, `"timestamp":`...), millis, 10), ',')
	}
	if q.rec.Headers != nil {
		return appendV2Headers(dst, q.rec.Headers)
	}
	return dst, nil
}

// appendV2Headers appends headers as Strimzi's Bridge wants them.
func appendV2Headers(dst, headers []byte) ([]byte, error) {
	dst = append(dst, `"headers":[`...)
	for n := 0; ; n++ {
		name, value, rest, more, err := record.WireHeader(headers)
		switch {
		case err != nil:
			return dst, err
		case !more:
			return append(dst, `],`...), nil
		case value == nil:
			return dst, errNullHeader
		case n > 0:
			dst = append(dst, ',')
		}
		dst = append(append(dst, `{"key":`...), name...)
		dst = append(append(dst, `,"value":`...), value...)
		dst = append(dst, '}')
		headers = rest
	}
}

func (w v2) explain(ref *refusal) {
	switch {
	case ref.fate != openStop:
	case ref.status == 404 || ref.status == 405:
		ref.remedy = "there is no v2 API at this path: check --rest-endpoint, or use --dialect auto"
	case ref.status == 406 || ref.status == 415:
		ref.remedy = "it does not take the v2 API's binary format, or something in between changes Content-Type or Accept"
	}
}
