package stream

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// rates is what an answer's head says of limits, as it came.
type rates struct {
	retryAfter              string
	date                    string
	limit, remaining, reset string // X-RateLimit-…
}

// note takes a header over when it is one of those. name is in lower case.
func (r *rates) note(name, value string) {
	switch name {
	case "retry-after":
		r.retryAfter = value
	case "date":
		r.date = value
	case "x-ratelimit-limit":
		r.limit = value
	case "x-ratelimit-remaining":
		r.remaining = value
	case "x-ratelimit-reset":
		r.reset = value
	}
}

// told reads what was said. Retry-After is a number of seconds or a date, which
// is compared with the answer's own Date where it has one: two machines' clocks
// need not agree. The seconds of X-RateLimit-Reset count from the answer. What
// cannot be read says nothing, and no wait is longer than limit.MaxWait.
//
// Source: RFC 9110 §10.2.3; Confluent Cloud API, "Rate limits".
func (r *rates) told(now time.Time) limit.Told {
	t := limit.Told{RetryAfter: seconds(r.retryAfter), Reset: seconds(r.reset)}
	if at, err := http.ParseTime(r.retryAfter); err == nil {
		if sent, err := http.ParseTime(r.date); err == nil {
			now = sent
		}
		t.RetryAfter = min(max(0, at.Sub(now)), limit.MaxWait)
	}
	if n, err := strconv.Atoi(r.remaining); err == nil && n >= 0 {
		t.Limited, t.Left = true, n
	}
	if n, err := strconv.Atoi(r.limit); err == nil && n > 0 {
		t.Limit = n
	}
	return t
}

// seconds reads a number of seconds, up to limit.MaxWait; 0 for anything else.
func seconds(s string) time.Duration {
	if strings.Trim(s, "0123456789.") != "" {
		return 0
	}
	n, err := strconv.ParseFloat(s, 64)
	if n <= 0 || err != nil && n == 0 { // out of range is very long
		return 0
	}
	return time.Duration(min(n, limit.MaxWait.Seconds()) * float64(time.Second))
}
