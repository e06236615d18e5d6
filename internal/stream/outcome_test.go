package stream

import (
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Every report of a record that kafka-rest is known to write.
func TestJudge(t *testing.T) {
	f := func(code int, message string, want Verdict) {
		t.Helper()
		if got := Judge(code, []byte(message)); got != want {
			t.Errorf("Judge(%d, %q)\n  = %+v\n want %+v", code, message, got, want)
		}
	}
	never := func(reason string) Verdict { return Verdict{Outcome: record.Rejected, Reason: reason} }
	unknown := func(reason string) Verdict {
		return Verdict{Outcome: record.Unknown, Reason: reason, Judged: true}
	}
	again := func(reason string) Verdict {
		return Verdict{Outcome: record.Retry, Reason: reason, Judged: true}
	}
	slow := func(reason string) Verdict {
		return Verdict{Outcome: record.Retry, Reason: reason, Throttle: true}
	}
	denied := func(reason string) Verdict {
		return Verdict{Outcome: record.Retry, Reason: reason, Hold: true, Denied: true}
	}

	f(200, "", Verdict{Outcome: record.Delivered})

	for _, message := range []string{
		`Bad Request: data="a" is not a base64 string.`,
		`Bad Request: data="%" is not a valid base64 string.`,
		"Bad Request: data=1 is not a string.",
		"Cannot deserialize value of type `int` from String",
		"Cannot construct instance of `X`, problem: Null data",
		`Unrecognized field "x" (class ProduceRequest), not marked as ignorable`,
		"Unexpected character ('x' (code 120)): was expecting comma",
		"Unexpected end-of-input: expected close marker for Object",
		"Unrecognized token 'nul'",
		"Illegal unquoted character ((CTRL-CHAR, code 10))",
		"", "Bad Request: Error processing",
		"something with Bad Request: Error processing message: inside",
	} {
		f(400, message, never("bad_request"))
	}

	terminal := Verdict{Outcome: record.Retry, Reason: "stream_ended", EndStream: true, Terminal: true}
	f(400, "Bad Request: Error processing message: Unexpected character ('}' (code 125))", terminal)
	f(400, "Bad Request: Error processing JSON: Unexpected character", terminal)
	large := terminal
	large.HeadTooLarge = true
	f(400, "Bad Request: Error processing message: Produce request size is larger than allowed threshold", large)

	f(408, "Streaming connection open for longer than allowed: Connection will be closed.",
		Verdict{Outcome: record.Unknown, Reason: "stream_too_old", EndStream: true})
	f(413, "The message is 1048700 bytes when serialized which is larger than 1048576", never("too_large"))
	f(413, "The request included a message larger than the max message size the server will accept.", never("too_large"))

	for _, detail := range []string{"42201", "42202", "42203", "42205", "42206"} {
		f(422, "Error: "+detail+" : cause", never("schema"))
	}
	f(42201, "", never("schema"))
	f(42206, "", never("schema"))
	f(422, "Error: 42207 : Error serializing message", again("serialization"))
	f(42207, "Error serializing message", again("serialization"))

	f(429, "Request rate limit exceeded: The rate limit of requests per second has been exceeded.", slow("rate_limited"))
	f(42901, "The throttling quota has been exceeded.", slow("broker_quota"))
	f(500, "Internal Server Error", unknown("internal_error"))
	f(502, "", unknown("unavailable"))
	f(503, "", unknown("unavailable"))
	f(504, "", unknown("unavailable"))

	f(40002, "Topic name is invalid", never("invalid_request"))
	f(40002, "This most likely occurs because of a request being malformed by the client library", never("invalid_request"))
	f(40002, "The server experienced an unexpected error when processing the request.", unknown("unknown_server_error"))
	f(401, "", denied("unauthenticated"))
	f(40101, "Authentication failed", denied("unauthenticated"))
	f(403, "", denied("unauthorized"))
	f(40301, "Not authorized to access topics: [t]", denied("unauthorized"))
	f(40401, "Topic t not present in metadata after 60000 ms.", Verdict{Outcome: record.Retry, Reason: "unknown_topic", Hold: true})
	f(40401, "Partition 9 of topic t with partition count 3 is not present in metadata after 60000 ms.", again("unknown_partition"))
	f(40402, "Partition not found.", never("unknown_partition"))
	f(40403, "This server does not host this topic-partition.", again("unknown_topic"))
	f(50002, "Invalid timestamp", never("kafka_error"))
	f(50002, "Failed to append record because it was part of a batch which had one more more invalid records", again("batch_mate"))
	f(50003, "Expiring 1 record(s) for t-0:120000 ms has passed since batch creation", unknown("kafka_retriable"))
	f(50302, "Broker not available", unknown("broker_unavailable"))

	f(0, "delivery report has no error_code", unknown("unreadable_report"))
	f(418, "", never("code_418"))
	f(59999, "", never("code_59999"))
	f(-1, "", never("code_-1"))
}

// An idle time-out ends the stream and speaks of no record, in either form.
func TestJudgeIdle(t *testing.T) {
	f := func(message string) {
		t.Helper()
		v := Judge(400, []byte(message))
		if !v.Terminal || v.Outcome != record.Retry || v.Reason != "idle" || v.HeadTooLarge {
			t.Errorf("%q: %+v", message, v)
		}
	}
	f("Idle timeout expired: 30000/30000 ms")
	f("java.util.concurrent.TimeoutException: Idle timeout expired: 30001/30000 ms")
	f("Bad Request: Error processing message: Idle timeout expired: 30000/30000 ms")

	never := func(message string) {
		t.Helper()
		if v := Judge(400, []byte(message)); v.Terminal || v.Outcome != record.Rejected {
			t.Errorf("%q: %+v, though it only repeats what the record holds", message, v)
		}
	}
	never(`Bad Request: data="Idle timeout expired: 30000/30000 ms" is not a base64 string.`)
	never(`Unrecognized field "Idle timeout expired: 1/1 ms" (class ProduceRequest)`)
}

// An HTTP status in place of reports rejects no record; what it asks for is by
// the status and, for 404, by the code in its body.
func TestJudgeStatus(t *testing.T) {
	f := func(status int, contentType, body string, fate openFate, unknown bool, text string) {
		t.Helper()
		r := judgeStatus(head{status: status, contentType: contentType, location: "http://elsewhere/"}, []byte(body))
		if r.fate != fate || r.unknown != unknown {
			t.Errorf("%d %q: fate %d unknown %v, want %d %v", status, body, r.fate, r.unknown, fate, unknown)
		}
		if !strings.Contains(r.Error(), text) {
			t.Errorf("%d %q: says %q, want %q in it", status, body, r, text)
		}
		if strings.ContainsAny(r.Error(), "\r\n") {
			t.Errorf("%d: more than one line: %q", status, r)
		}
	}
	const json, html = "application/json", "text/html;charset=utf-8"
	page := "<html>\n<head><title>Error 429\nToo Many</title></head></html>"
	f(400, json, `{"error_code":400,"message":"Invalid SNI"}`, openStop, false, "Invalid SNI")
	f(400, html, page, openStop, false, `"Error 429 Too Many"`)
	f(401, json, `{"error_code":40101,"message":"Unauthorized"}`, openDenied, false, "40101 Unauthorized")
	f(401, html, page, openDenied, false, "API key")
	f(402, json, "", openStop, false, "account")
	f(403, json, `{"error_code":40301,"message":"no"}`, openTopic, false, "grant")
	f(404, json, `{"error_code":404,"message":"HTTP 404 Not Found"}`, openStop, false, "cluster id")
	f(404, json, `{"error_code":40401,"message":"unknown topic"}`, openTopic, false, "unknown topic")
	f(404, json, `{"error_code":40403,"message":"unknown topic"}`, openTopic, false, "unknown topic")
	f(405, json, `{"error_code":405,"message":"HTTP 405 Method Not Allowed"}`, openStop, false, "path")
	f(406, json, "", openStop, false, "406")
	f(407, html, page, openDenied, false, "proxy")
	f(408, json, "", openRetry, true, "408")
	f(413, html, page, openStop, false, "size of a request body")
	f(415, json, `{"error_code":415,"message":"HTTP 415 Unsupported Media Type"}`, openStop, false, "415")
	f(417, "", "", openStop, false, "417")
	f(429, html, page, openRetry, false, "HTML page")
	f(429, json, `{"url":"/x","status":"429","message":"Too Many Requests"}`, openRetry, false, "Too Many Requests")
	f(429, json, `{"error_code":429,"message":"Request rate limit exceeded"}`, openRetry, false, "rate limit")
	f(431, html, page, openStop, false, "431")
	for _, status := range []int{500, 502, 503, 504, 507, 509, 520, 599} {
		f(status, html, page, openRetry, true, "HTML page")
		f(status, json, `{"error_code":50003,"message":"away"}`, openRetry, true, "50003 away")
		f(status, "", "", openRetry, true, "")
	}
	for _, status := range []int{301, 302, 307, 308} {
		f(status, html, page, openFollow, false, "")
	}
	f(303, html, page, openStop, false, "303")
	f(200, html, page, openStop, false, "not a Kafka REST endpoint")
	f(200, "", "<!DOCTYPE html><title>Login</title>", openStop, false, `"Login"`)
	f(204, "", "", openStop, false, "204")
	f(500, json, "\x00\x01binary", openRetry, true, "500")

	if r := judgeStatus(head{status: 307}, nil); r.fate != openStop {
		t.Errorf("a redirect to nowhere: fate %d", r.fate)
	}
}
