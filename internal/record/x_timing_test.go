package record

import (
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goccy/go-json"
)

// logLine is an application's log event: 200 bytes, 28 quotes.
const logLine = `{"ts":"2026-11-22T10:15:30.123456Z","level":"info","service":"checkout",` +
	`"msg":"order placed for customer after a retry","path":"/api/v1/orders","user_id":48213377,"ms":12.75,"trace":"6f9619ff8b86d0"}`

// plainLine is text that needs no escape: 200 bytes.
var plainLine = strings.Repeat("the quick brown fox jumps over the lazy dog, again ", 4)[:200]

// sizedLine is a log event of n bytes, quotes as dense as in logLine.
func sizedLine(n int) []byte {
	s := `{"level":"info","msg":"request served","ms":12`
	for i := 0; len(s) < n-20; i++ {
		s += `,"field` + string(rune('a'+i%26)) + `":"` + strings.Repeat("v", 5+i%9) + `"`
	}
	s += `,"p":"`
	return []byte(s + strings.Repeat("x", n-len(s)-2) + `"}`)
}

func benchEncode(b *testing.B, change func(*EncoderConfig), line []byte) {
	c := DefaultEncoderConfig()
	change(&c)
	e, err := NewEncoder(c)
	if err != nil {
		b.Fatal(err)
	}
	buf, id := make([]byte, 0, 64<<10), []byte("app.log:123456789")
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if len(buf) > 56<<10 {
			buf = buf[:0]
		}
		if buf, err = e.Append(buf, line, id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, l := range []struct {
		name string
		line []byte
	}{
		{"log100", sizedLine(100)},
		{"log200", []byte(logLine)},
		{"log1000", sizedLine(1000)},
		{"plain200", []byte(plainLine)},
	} {
		for t := Auto; t <= Binary; t++ {
			if t == JSON && l.name == "plain200" {
				continue
			}
			b.Run(t.String()+"/"+l.name, func(b *testing.B) {
				benchEncode(b, func(c *EncoderConfig) { c.ValueType = t }, l.line)
			})
		}
	}
	b.Run("JSON-unchecked/log200", func(b *testing.B) {
		benchEncode(b, func(c *EncoderConfig) { c.ValueType, c.Validate = JSON, false }, []byte(logLine))
	})
	b.Run("AUTO-utf8/log200", func(b *testing.B) {
		benchEncode(b, func(*EncoderConfig) {}, []byte(strings.ReplaceAll(logLine, "order", "örder")))
	})
	b.Run("AUTO-key-time-id-headers/log200", func(b *testing.B) {
		benchEncode(b, func(c *EncoderConfig) {
			c.KeyField, c.TimestampField, c.RecordIDHeader = "user_id", "ts", "id"
			c.Headers = []Header{{Name: "source", Value: []byte("web-042")}}
		}, []byte(logLine))
	})
}

func BenchmarkEscape(b *testing.B) {
	for name, line := range map[string]string{"log": logLine, "plain": plainLine} {
		buf := make([]byte, 0, 4096)
		b.Run("own/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			src := []byte(line)
			for b.Loop() {
				buf, _ = appendEscaped(buf[:0], src)
			}
		})
		b.Run("goccy/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				out, _ := json.MarshalWithOption(line, json.DisableHTMLEscape())
				buf = append(buf[:0], out...)
			}
		})
	}
}

func BenchmarkValid(b *testing.B) {
	line := []byte(logLine)
	b.Run("own", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			if f, _ := checkJSON(line, maxValueDepth); f != faultNone {
				b.Fatal(f)
			}
		}
	})
	b.Run("goccy+utf8", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			if !json.Valid(line) || !utf8.Valid(line) {
				b.Fatal("invalid")
			}
		}
	})
}

func BenchmarkFind(b *testing.B) {
	line := []byte(logLine)
	for _, names := range [][]string{{"user_id"}, {"user_id", "ts"}, {"user_id", "ts", "service", "level", "path", "none", "a.b"}} {
		var s fieldSet
		for _, name := range names {
			s.add(name)
		}
		b.Run(strconv.Itoa(len(names)), func(b *testing.B) {
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			for b.Loop() {
				s.scan(line)
			}
		})
	}
}

func BenchmarkNextValue(b *testing.B) {
	rec := []byte(`{"value":{"type":"JSON","data":` + logLine + "}}\n")
	b.SetBytes(int64(len(rec)))
	b.ReportAllocs()
	for b.Loop() {
		var s ScanState
		if _, _, ok, _ := NextValue(rec, &s); !ok {
			b.Fatal("not found")
		}
	}
}

func BenchmarkCheckRecord(b *testing.B) {
	rec := []byte(`{"value":{"type":"JSON","data":` + logLine + "}}\n")
	b.SetBytes(int64(len(rec)))
	b.ReportAllocs()
	for b.Loop() {
		if err := CheckRecord(rec); err != nil {
			b.Fatal(err)
		}
	}
}
