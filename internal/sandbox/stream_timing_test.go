package sandbox

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// BenchmarkDecode measures what the sandbox itself spends on a record of 200
// bytes: scanning, binding, serialising and forming the report.
func BenchmarkDecode(b *testing.B) {
	value := strings.Repeat("abcdefghij", 20)
	for name, src := range map[string]string{
		"string": `{"value":{"type":"STRING","data":"` + value + `"}}` + "\n",
		"binary": `{"key":{"type":"STRING","data":"user-1"},"value":{"type":"BINARY","data":"` + value + `"}}` + "\n",
		"json":   `{"value":{"type":"JSON","data":{"user":"u1","n":12345,"f":1.25,"tags":["a","b"],"text":"` + value[:120] + `"}}}` + "\n",
	} {
		b.Run(name, func(b *testing.B) {
			buf := bytes.Repeat([]byte(src), 100)
			var rec produceRecord
			format := newReportFormat("lkc-sandbox", "logs")
			arena := make([]byte, 0, 1<<20)
			var out []byte
			p := &pending{code: 200}
			p.rec.Timestamp = time.Now()
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			scan := newScanner()
			for b.Loop() {
				from, status := scan.next(buf, false)
				if status == scanMore {
					scan.rebase(len(buf))
					from, status = scan.next(buf, false)
				}
				if status != scanValue {
					b.Fatal(scan.err)
				}
				if err := bindRecord(&rec, buf[from:scan.pos]); err != nil {
					b.Fatal(err)
				}
				_, v, cerr := appendData(arena[:0], &rec.value)
				if cerr != nil {
					b.Fatal(cerr)
				}
				p.valueFormat, p.valueSize = rec.value.format, len(v)
				out = format.append(out[:0], p)
			}
		})
	}
}

// BenchmarkStream measures a whole stream, Kafka side and client included.
func BenchmarkStream(b *testing.B) {
	s := start(b, nil)
	c := open(b, s, "t")
	_ = c.conn.SetDeadline(time.Time{})
	value := strings.Repeat("abcdefghij", 20)
	one := `{"value":{"type":"STRING","data":"` + value + `"}}` + "\n"
	const per = 200
	batch := strings.Repeat(one, per)
	chunk := []byte(fmt.Sprintf("%x\r\n%s\r\n", len(batch), batch))
	done := make(chan error)
	b.ReportAllocs()
	n := 0
	go func() {
		_, err := io.Copy(io.Discard, c.br)
		done <- err
	}()
	for b.Loop() {
		if n%per == 0 {
			_, _ = c.conn.Write(chunk)
		}
		n++
	}
	_, _ = io.WriteString(c.conn, "0\r\n\r\n")
	for s.Stats().OpenStreams > 0 {
		time.Sleep(time.Millisecond)
	}
	_ = c.conn.Close()
	<-done
	b.ReportMetric(float64(s.Stats().RecordsStored)/b.Elapsed().Seconds(), "records/s")
}
