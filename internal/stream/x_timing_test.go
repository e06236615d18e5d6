package stream

import (
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// A record's whole way back: its share of the success reports of one read.
func BenchmarkReports(b *testing.B) {
	f := func(name, report string, perRead int) {
		b.Run(name, func(b *testing.B) {
			var p parser
			data := []byte(strings.Repeat(report+"\r\n", perRead))
			if _, _, err := p.next(data); err != nil { // learn the shape
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if n, _ := p.successes(data); n != perRead {
					b.Fatal(n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(perRead), "ns/report")
		})
	}
	f("value/read of 1", reportWhole, 1)
	f("value/read of 180", reportWhole, 180)
	f("key and value/read of 180", reportBoth, 180)
	f("no time/read of 180", reportBare, 180)
}

// Two shapes in turn: records with and without a key on one stream.
func BenchmarkReportsTwoShapes(b *testing.B) {
	var p parser
	data := []byte(strings.Repeat(reportBoth+"\r\n"+reportWhole+"\r\n", 90))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			var ok bool
			if rest, ok, _ = p.next(rest); !ok {
				break
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/180, "ns/report")
}

// The general scanner, for what fits no shape.
func BenchmarkReportGeneral(b *testing.B) {
	data := []byte(`{"error_code":429,"message":"Request rate limit exceeded: The rate limit of requests per second has been exceeded."}` + "\r\n")
	var p parser
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := p.next(data); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

// The chunk reader, with reports framed one by one as kafka-rest does and as
// a proxy merges them.
func BenchmarkAnswer(b *testing.B) {
	f := func(name, chunk string) {
		b.Run(name, func(b *testing.B) {
			loop := &endless{piece: []byte(strings.Repeat(chunk, 32<<10/len(chunk)))}
			a := newAnswer(loop)
			a.chunked = true
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				for got := 0; got < len(chunk)/2; {
					data, err := a.next()
					if err != nil {
						b.Fatal(err)
					}
					got += len(data)
					_ = a.more()
				}
			}
		})
	}
	f("object and line end apart", "a3\r\n"+strings.Repeat("x", 0xa3)+"\r\n2\r\n\r\n\r\n")
	f("merged", "4000\r\n"+strings.Repeat("x", 0x4000)+"\r\n")
}

// endless gives piece out over and over.
type endless struct {
	piece []byte
	at    int
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, e.piece[e.at:])
	e.at = (e.at + n) % len(e.piece)
	return n, nil
}

func BenchmarkJudge(b *testing.B) {
	f := func(name string, code int, message string) {
		b.Run(name, func(b *testing.B) {
			m := []byte(message)
			b.ReportAllocs()
			for b.Loop() {
				Judge(code, m)
			}
		})
	}
	f("200", 200, "")
	f("400", 400, `Bad Request: data="a" is not a base64 string.`)
	f("429", 429, "Request rate limit exceeded: The rate limit of requests per second has been exceeded.")
}

// A batch through the window: pushed, popped, released.
func BenchmarkWindow(b *testing.B) {
	w := newWindow()
	g := segment{b: batchOf("t", 0, ids("r", 300)...), to: 300, sent: time.Now()}
	w.push(g)
	b.ReportAllocs()
	for b.Loop() {
		w.push(g)
		w.pop()
		w.release(300, g.size())
	}
}

func BenchmarkLimiterTake(b *testing.B) {
	p, err := limit.ParseProfile("dedicated:152")
	if err != nil {
		b.Fatal(err)
	}
	l := limit.New(p)
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(10 * time.Microsecond)
		l.Take(now, 4, 800)
	}
}
