package stream

import "net/url"

// v3Stream is REST v3 as one request without an end: Confluent Cloud,
// Confluent Platform and Confluent Server.
// Source: Confluent REST v3 OpenAPI, produceRecord, "streaming mode".
type v3Stream struct{}

func (v3Stream) url(t *Target, topic string) *url.URL { return t.produceURL(topic) }

func (v3Stream) types() (content, accept string) { return "application/json", "application/json" }

func (v3Stream) bounds() (records, bytes int) { return 0, 0 }

func (v3Stream) begin(*request) {}

func (v3Stream) add(q *request, rec []byte) error {
	q.body = append(q.body, rec...)
	return nil
}

func (v3Stream) end(*request) {}

func (v3Stream) answer(r *reading, h head) error { return r.stream(h) }

func (v3Stream) explain(*refusal) {}
