package stream

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
)

// Verdict is what one delivery report means for its record and its stream.
type Verdict struct {
	Outcome record.Outcome
	Reason  string // bounded label for metrics and the dead letter

	// Judged: the report is about this record, so it uses up one attempt.
	Judged bool
	// Throttle: the cluster asks for fewer records a second.
	Throttle bool
	// Hold: the topic cannot take any record now. It is probed at growing
	// intervals, and what Denied says decides how the run ends.
	Hold bool
	// Denied: credentials or permissions, not existence.
	Denied bool
	// EndStream: nothing more may be written to this stream.
	EndStream bool
	// Alone: the record goes again in a request that holds no other.
	Alone bool
	// Terminal: the report belongs to no record; the answer ends behind it and
	// no unreported record was produced.
	Terminal bool
	// HeadTooLarge: with Terminal, the head of the window is the culprit.
	HeadTooLarge bool
}

// The two texts a terminal report begins with.
// Source: kafka-rest StreamingResponse, its last-resort error handler.
var (
	terminalMessage = []byte("Bad Request: Error processing message: ")
	terminalJSON    = []byte("Bad Request: Error processing JSON: ")
	tooLarge        = []byte("size is larger than allowed threshold")
	idleTimeout     = []byte("Idle timeout expired: ")
	quotesData      = []byte("Bad Request: data=") // these two repeat what the record holds
	quotesField     = []byte("Unrecognized field ")
	batchMate       = []byte("it was part of a batch which had one more more invalid records") // Kafka's Sender, in these words
)

// Judge returns what a delivery report with this code and message means. A
// code that is not in the table is Rejected under its own number: no guess,
// no loop.
//
// Source: kafka-rest's exception mappers and KafkaExceptionMapper; three
// digits are an HTTP status, five are status × 100 + detail.
func Judge(code int, message []byte) Verdict {
	switch code {
	case 200:
		return Verdict{Outcome: record.Delivered}
	case 0:
		return Verdict{Outcome: record.Unknown, Reason: "unreadable_report", Judged: true}
	case 400:
		return judge400(message)
	case 408:
		// The server has run the produce step before it throws the result away.
		return Verdict{Outcome: record.Unknown, Reason: "stream_too_old", EndStream: true}
	case 413:
		return Verdict{Outcome: record.Rejected, Reason: "too_large"}
	case 422, 42201, 42202, 42203, 42205, 42206, 42207, 42208:
		// 42207 may be a registry that is away; the number may stand in the text only.
		if code == 42207 || bytes.Contains(message, []byte("42207")) {
			return Verdict{Outcome: record.Retry, Reason: "serialization", Judged: true}
		}
		return Verdict{Outcome: record.Rejected, Reason: "schema"}
	case 429:
		return Verdict{Outcome: record.Retry, Reason: "rate_limited", Throttle: true}
	case 42901:
		return Verdict{Outcome: record.Retry, Reason: "broker_quota", Throttle: true}
	case 500:
		return Verdict{Outcome: record.Unknown, Reason: "internal_error", Judged: true}
	case 502, 503, 504:
		return Verdict{Outcome: record.Unknown, Reason: "unavailable", Judged: true}
	case 40002:
		// An unknown server error hides behind the same number.
		if bytes.Contains(message, []byte("unexpected error")) || bytes.Contains(message, []byte("UnknownServer")) {
			return Verdict{Outcome: record.Unknown, Reason: "unknown_server_error", Judged: true}
		}
		return Verdict{Outcome: record.Rejected, Reason: "invalid_request"}
	case 401, 40101:
		return Verdict{Outcome: record.Retry, Reason: "unauthenticated", Hold: true, Denied: true}
	case 403, 40301:
		return Verdict{Outcome: record.Retry, Reason: "unauthorized", Hold: true, Denied: true}
	case 404, 40401:
		// "Partition 9 of topic t with partition count 3 is not present": the
		// record asks for what the topic does not have, the topic itself is fine.
		if bytes.HasPrefix(message, []byte("Partition ")) {
			return Verdict{Outcome: record.Retry, Reason: "unknown_partition", Judged: true}
		}
		return Verdict{Outcome: record.Retry, Reason: "unknown_topic", Hold: true}
	case 40402:
		return Verdict{Outcome: record.Rejected, Reason: "unknown_partition"}
	case 40403:
		return Verdict{Outcome: record.Retry, Reason: "unknown_topic", Judged: true}
	case 50002:
		// Kafka refused a whole batch for another record in it; this one was not
		// written, and is fine.
		if bytes.Contains(message, batchMate) {
			return Verdict{Outcome: record.Retry, Reason: "batch_mate", Judged: true}
		}
		return Verdict{Outcome: record.Rejected, Reason: "kafka_error"}
	case 50003:
		return Verdict{Outcome: record.Unknown, Reason: "kafka_retriable", Judged: true}
	case 50302:
		return Verdict{Outcome: record.Unknown, Reason: "broker_unavailable", Judged: true}
	}
	return Verdict{Outcome: record.Rejected, Reason: "code_" + strconv.Itoa(code)}
}

func judge400(message []byte) Verdict {
	if bytes.Contains(message, idleTimeout) && !bytes.HasPrefix(message, quotesData) && !bytes.HasPrefix(message, quotesField) {
		// Whatever it begins with, it is nobody's fault: the head must not be blamed.
		return Verdict{Outcome: record.Retry, Reason: "idle", EndStream: true, Terminal: true}
	}
	if bytes.HasPrefix(message, terminalMessage) || bytes.HasPrefix(message, terminalJSON) {
		return Verdict{
			Outcome: record.Retry, Reason: "stream_ended", EndStream: true, Terminal: true,
			HeadTooLarge: bytes.Contains(message, tooLarge),
		}
	}
	return Verdict{Outcome: record.Rejected, Reason: "bad_request"}
}

// noCredentials replaces a 401's remedy where none were sent.
const noCredentials = "it wants credentials and none were given: set KAFKA_API_KEY and KAFKA_API_SECRET, or --api-key and --api-secret-file"

// openFate is what an HTTP status in place of a stream calls for.
type openFate uint8

const (
	openRetry  openFate = iota // wait, then open again
	openFollow                 // 301, 302, 307, 308: the same POST at Location
	openStop                   // nothing here gets better by itself: the run ends
	openDenied                 // likewise, and it is the credentials' or the permissions' doing
	openTopic                  // this topic only
	openAgain                  // another request at once: this one was too large, or a record of it is to blame
)

// refusal is a response that is no stream: its status, what to do about it and
// what to tell the operator. No record was rejected by it.
type refusal struct {
	status   int
	code     int // the body's error_code, 0 without one
	fate     openFate
	unknown  bool // records sent before it may have been produced all the same
	throttle bool // too many POSTs a second
	denied   bool // with openTopic
	location string
	text     string // what the server said, one line
	remedy   string // what to do
	html     bool
	rates    rates // what the head said of limits
}

func (r *refusal) Error() string {
	s := fmt.Sprintf("%d %s", r.status, http.StatusText(r.status))
	if r.text != "" {
		s += ": " + r.text
	}
	if r.remedy != "" {
		s += " (" + r.remedy + ")"
	}
	return s
}

// judgeStatus says what an HTTP status means that came instead of delivery
// reports. Such a status never rejects a record: it speaks of the request,
// the connection or what stands in between.
//
// Source: kafka-rest and rest-utils before the handler runs (Jetty's own error
// pages among them), RFC 9110 for the rest.
func judgeStatus(h head, body []byte) *refusal {
	r := &refusal{status: h.status, location: h.location, rates: h.rates}
	code, text := errorBody(body)
	r.code = code
	if code != 0 && code != h.status {
		text = strconv.Itoa(code) + " " + text
	}
	if text != fmt.Sprintf("HTTP %d %s", h.status, http.StatusText(h.status)) {
		r.text = text
	}
	r.html = isHTML(h, body)
	if r.html {
		r.text = "an HTML page: " + htmlTitle(body)
	}
	r.text, r.location = auth.Scrub(r.text, h.sent), auth.Scrub(r.location, h.sent)
	switch h.status {
	case 200:
		r.fate = openStop
		r.remedy = "this is not a Kafka REST endpoint, or a proxy or login page answers in its place: check --rest-endpoint"
	case 301, 302, 307, 308:
		r.fate = openFollow
		if h.location == "" {
			r.fate = openStop
			r.remedy = "the redirect names no place to go: check --rest-endpoint"
		}
	case 401, 407:
		r.fate = openDenied
		r.remedy = "the API key or secret is not accepted: a Kafka cluster's own API key is wanted here, a Cloud API key (for the management API) does not work; a new key takes up to some minutes to be known"
		if h.status == 407 {
			r.remedy = "a proxy in between wants credentials"
		}
	case 403:
		r.fate, r.denied = openTopic, true
		r.remedy = "the key is known but may not write to this topic: grant its principal WRITE, or use a key of this cluster"
	case 404:
		r.fate = openStop
		if code == 40401 || code == 40403 {
			r.fate = openTopic
		}
		r.remedy = "check the cluster id, and whether the endpoint wants /kafka/v3 or /v3 in its path"
	case 405:
		r.fate = openStop
		r.remedy = "the endpoint does not take produce requests at this path: check --rest-endpoint, or the server's api.endpoints settings"
	case 402:
		r.fate = openStop
		r.remedy = "the provider wants payment: check the account"
	case 413:
		r.fate = openStop
		r.remedy = "something in between limits the size of a request body: lift that limit for this path; no record was rejected"
	case 408, 425:
		r.fate, r.unknown = openRetry, true
	case 429:
		r.fate, r.throttle = openRetry, true
	case 500, 502, 503, 504, 507, 509:
		// A filter's run limit answers 503, a gateway 502 or 504, when records
		// may have been produced already.
		r.fate, r.unknown = openRetry, true
	default:
		switch {
		case h.status >= 500:
			r.fate, r.unknown = openRetry, true
		default:
			r.fate = openStop
			r.remedy = "the endpoint refuses the request as a whole: check --rest-endpoint and what stands in between"
		}
	}
	return r
}

// errorBody reads an error body of REST v3 or of Jetty; code 0 when there is none.
func errorBody(body []byte) (code int, text string) {
	trimmed := bytes.TrimSpace(body)
	if len(trimmed) == 0 || trimmed[0] != '{' {
		if isPrintable(trimmed) {
			return 0, oneLine(clip(trimmed, 200))
		}
		return 0, ""
	}
	var r Report
	parseReport(&r, trimmed)
	text = oneLine(clip(r.Message, 300))
	if r.ErrorCode != 0 && r.ErrorCode != 200 {
		return r.ErrorCode, text
	}
	return 0, oneLine(clip(trimmed, 200))
}

func isHTML(h head, body []byte) bool {
	if strings.HasPrefix(strings.ToLower(h.contentType), "text/html") {
		return true
	}
	b := bytes.ToLower(bytes.TrimSpace(body[:min(len(body), 64)]))
	return bytes.HasPrefix(b, []byte("<!doctype html")) || bytes.HasPrefix(b, []byte("<html"))
}

// htmlTitle returns what an HTML error page says of itself, or its first text.
func htmlTitle(body []byte) string {
	lower := bytes.ToLower(body)
	if i := bytes.Index(lower, []byte("<title>")); i >= 0 {
		rest := body[i+len("<title>"):]
		if j := bytes.IndexByte(rest, '<'); j >= 0 {
			return strconv.Quote(oneLine(clip(bytes.TrimSpace(rest[:j]), 120)))
		}
	}
	return strconv.Quote(oneLine(clip(bytes.TrimSpace(body), 80)))
}

func isPrintable(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return true
}

// oneLine folds white space, so that a server's text stays on a log's line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
