package sandbox

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// reportFormat writes reports for one stream.
//
// Concurrency: for the stream's writer.
type reportFormat struct {
	prefix []byte // {"error_code":200,"cluster_id":…,"topic_name":…,"partition_id":
	ms     int64  // the millisecond that stamp says
	stamp  []byte
	extra  bool // add members no document names
}

func newReportFormat(cluster, topic string) *reportFormat {
	p := append([]byte(`{"error_code":200,"cluster_id":`), quoted(cluster)...)
	p = append(append(p, `,"topic_name":`...), quoted(topic)...)
	return &reportFormat{prefix: append(p, `,"partition_id":`...), ms: -1}
}

// append appends the report of p, without a line end.
//
// Shape: one compact object; key and value only where the record had them,
// size -1 for a Kafka null; the timestamp has no fraction or three digits of it.
// Source: kafka-rest ProduceResponse and ErrorResponse; Java's Instant.toString.
func (f *reportFormat) append(dst []byte, p *pending) []byte {
	if p.code != 200 {
		dst = append(dst, `{"error_code":`...)
		dst = strconv.AppendInt(dst, int64(p.code), 10)
		dst = append(dst, `,"message":`...)
		dst = appendText(dst, firstLine(p.text))
	} else {
		dst = append(dst, f.prefix...)
		dst = strconv.AppendInt(dst, int64(p.rec.Partition), 10)
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendInt(dst, p.rec.Offset, 10)
		dst = append(dst, `,"timestamp":"`...)
		dst = append(dst, f.instant(p.rec.Timestamp)...)
		dst = append(dst, '"')
		if p.keyFormat != formatNone {
			dst = appendSize(append(dst, `,"key":`...), p.keyFormat, p.keySize)
		}
		if p.valueFormat != formatNone {
			dst = appendSize(append(dst, `,"value":`...), p.valueFormat, p.valueSize)
		}
	}
	if f.extra {
		dst = append(dst, `,"x_trace":{"id":"{\"[","hops":[1,2.5e3,null]},"x_note":"}\r\n{"`...)
	}
	return append(dst, '}')
}

func appendSize(dst []byte, format dataFormat, size int) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, formatNames[format]...)
	dst = append(dst, `","size":`...)
	dst = strconv.AppendInt(dst, int64(size), 10)
	return append(dst, '}')
}

// instant formats t, remembering the last one: neighbours mostly share it.
func (f *reportFormat) instant(t time.Time) []byte {
	ms := t.UnixMilli()
	if ms == f.ms {
		return f.stamp
	}
	layout := "2006-01-02T15:04:05.000Z"
	if ms%1000 == 0 {
		layout = "2006-01-02T15:04:05Z"
	}
	f.ms, f.stamp = ms, time.UnixMilli(ms).UTC().AppendFormat(f.stamp[:0], layout)
	return f.stamp
}

// firstLine cuts a message where the real server does.
func firstLine(s string) string {
	for i := range len(s) {
		if s[i] == '\n' {
			return s[:i]
		}
	}
	return s
}

// appendText appends s as a JSON string.
func appendText(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			dst = appendEscaped(dst, s[i])
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		dst = utf8.AppendRune(dst, r)
		i += n
	}
	return append(dst, '"')
}

func quoted(s string) []byte { return appendText(nil, s) }

// appendPretty appends a compact JSON object over several lines, as the
// documents show reports.
func appendPretty(dst, compact []byte) []byte {
	depth, inString := 0, false
	line := func() {
		dst = append(dst, '\n')
		for range depth {
			dst = append(dst, "  "...)
		}
	}
	for i, c := range compact {
		if inString {
			dst = append(dst, c)
			if c == '"' && !escapedAt(compact, i) {
				inString = false
			}
			continue
		}
		switch c {
		case '"':
			inString = true
			dst = append(dst, c)
		case '{', '[':
			depth++
			dst = append(dst, c)
			line()
		case '}', ']':
			depth--
			line()
			dst = append(dst, c)
		case ',':
			dst = append(dst, c)
			line()
		case ':':
			dst = append(dst, ':', ' ')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// escapedAt says whether the byte at i follows an odd number of backslashes.
func escapedAt(b []byte, i int) bool {
	n := 0
	for i--; i >= 0 && b[i] == '\\'; i-- {
		n++
	}
	return n%2 == 1
}
