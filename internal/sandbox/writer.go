package sandbox

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strconv"
	"time"
)

// writeBatch is how many reports go into one write at most: about 32 KiB.
const writeBatch = 256

// gzipBlock is how much compressed output gathers before any is sent.
// Source: Jetty GzipHandler writes out its 32 KiB aggregation buffer.
const gzipBlock = 32 << 10

// writer writes one stream's response.
//
// Concurrency: its own goroutine; the reader does not write once a record has
// been read.
type writer struct {
	st      *stream
	format  *reportFormat
	out     []byte // framed, ready to be written
	one     []byte // the report being formed
	pretty  []byte
	merged  []byte    // reports of the chunk being gathered (ChunksMerged, ChunksOdd, ChunksByte)
	head    bool      // the response head is in out or was sent
	written int       // reports formed
	odd     int       // how many odd chunks were cut
	stalled time.Time // when the present stall began
	held    bool      // a buffering proxy keeps back what is in out
	failed  bool      // the connection is not to be used any further

	zip    *gzip.Writer // with Accept-Encoding: gzip
	zipped bytes.Buffer
}

func newWriter(st *stream) *writer {
	w := &writer{st: st, format: newReportFormat(st.cluster, st.topic), held: st.faults.buffering}
	if st.req.hasToken("Accept-Encoding", "gzip") && !st.c.sb.cfg.NoGzip {
		w.zip = gzip.NewWriter(&w.zipped)
	}
	return w
}

// run reports until the stream is ended and its reports are out.
func (w *writer) run() {
	var batch []*pending
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		e := w.ending()
		if e.kind != endNone && !e.waits() {
			w.close(e)
			return
		}
		limit := writeBatch
		if e.kind >= endReset && e.kind <= endCutMid {
			if limit = min(limit, e.keep-w.written); limit <= 0 {
				w.close(e)
				return
			}
		}
		f := w.st.current()
		if !w.stall(f, &limit) {
			continue
		}
		var due time.Time
		var empty bool
		batch, due, empty = w.st.queue.take(batch[:0], time.Now(), limit)
		switch {
		case len(batch) > 0:
			w.reports(f, batch)
			clear(batch)
			continue
		case empty && e.kind != endNone:
			w.close(e)
			return
		}
		wait := time.Hour
		if !due.IsZero() {
			wait = max(time.Until(due), 0)
		}
		timer.Reset(wait)
		select {
		case <-w.st.queue.wake:
		case <-timer.C:
		}
	}
}

func (w *writer) ending() ending {
	w.st.mu.Lock()
	defer w.st.mu.Unlock()
	return w.st.end
}

// stall lowers limit to the reports due before a stall, or sits it out. It
// returns false when the caller must look at everything anew.
func (w *writer) stall(f *streamFaults, limit *int) bool {
	s := f.stall
	if s == nil {
		return true
	}
	if left := s.After - w.written; left > 0 {
		*limit = min(*limit, left)
		return true
	}
	if w.stalled.IsZero() {
		w.stalled = time.Now()
	}
	var over, idle <-chan time.Time
	if s.For > 0 {
		over = time.After(time.Until(w.stalled.Add(s.For)))
	}
	ended := w.st.ended
	if w.ending().kind != endNone {
		// Until the request has been read to its end the reader watches the
		// idle time, from then on the writer does.
		ended = nil
		if d := w.st.c.sb.cfg.IdleTimeout; d > 0 {
			idle = time.After(d)
		}
	}
	select {
	case <-over:
	case <-f.set.changed:
	case <-ended:
		return false
	case <-w.st.forced:
		return false
	case <-idle:
		w.st.finish(ending{kind: endLost})
		return false
	}
	w.stalled = time.Time{}
	w.st.mu.Lock()
	f.stall = nil
	if w.st.faults != f {
		w.st.faults.stall = nil
	}
	w.st.mu.Unlock()
	return false
}

// reports forms the reports of batch and writes them at once.
func (w *writer) reports(f *streamFaults, batch []*pending) {
	w.begin()
	chunks := ChunksTwo
	pretty := false
	w.format.extra = false
	if fr := f.framing; fr != nil {
		if fr.Chunks != "" {
			chunks = fr.Chunks
		}
		pretty, w.format.extra = fr.Pretty, fr.Extra
	}
	counts := map[int]int64{}
	for _, p := range batch {
		w.written++
		counts[p.code]++
		w.one = w.format.append(w.one[:0], p)
		if pretty {
			w.pretty = appendPretty(w.pretty[:0], w.one)
			w.one, w.pretty = w.pretty, w.one
		}
		if g := f.garbage; g != nil && w.written == g.After+1 {
			w.one = append(w.one[:0], garbageText(g)...)
		}
		w.frame(chunks)
	}
	for code, n := range counts {
		w.st.c.sb.stats.report(code, n)
	}
	w.flushFrames(chunks)
}

// begin puts the response's head in front of its first report.
// Source: kafka-rest sends 200 with the first report; rest-utils switches the
// Server header off.
func (w *writer) begin() {
	if w.head {
		return
	}
	w.head = true
	w.out = append(w.out, "HTTP/1.1 200 OK\r\nDate: "...)
	w.out = time.Now().UTC().AppendFormat(w.out, httpDate)
	w.out = append(w.out, "\r\nContent-Type: application/json\r\n"...)
	for _, h := range w.st.c.sb.rateHeaders(200) {
		w.out = append(w.out, h.name+": "+h.value+"\r\n"...)
	}
	if w.zip != nil {
		w.out = append(w.out, "Vary: Accept-Encoding\r\nContent-Encoding: gzip\r\n"...)
	}
	if w.chunked() {
		w.out = append(w.out, "Transfer-Encoding: chunked\r\n"...)
	}
	if w.st.req.close {
		w.out = append(w.out, "Connection: close\r\n"...)
	}
	w.out = append(w.out, "\r\n"...)
}

// chunked: an HTTP/1.0 client gets a body that ends with the connection.
func (w *writer) chunked() bool { return w.st.req.minor == 1 }

// frame adds the report in one, and its CRLF, to what is to be written.
func (w *writer) frame(chunks string) {
	switch {
	case w.zip != nil:
		_, _ = w.zip.Write(w.one)
		_, _ = w.zip.Write([]byte("\r\n"))
	case chunks == ChunksTwo:
		w.chunk(w.one)
		w.chunk([]byte("\r\n"))
	case chunks == ChunksJoined:
		w.one = append(w.one, '\r', '\n')
		w.chunk(w.one)
	default:
		w.merged = append(append(w.merged, w.one...), '\r', '\n')
	}
}

// chunk adds one HTTP chunk to what is to be written.
func (w *writer) chunk(b []byte) {
	if !w.chunked() {
		w.out = append(w.out, b...)
		return
	}
	w.out = strconv.AppendInt(w.out, int64(len(b)), 16)
	w.out = append(w.out, '\r', '\n')
	w.out = append(w.out, b...)
	w.out = append(w.out, '\r', '\n')
}

var oddSizes = [...]int{1, 2, 3, 5, 7, 11, 13, 17, 23, 31, 61, 127}

// flushFrames writes what frame has gathered.
func (w *writer) flushFrames(chunks string) {
	if w.zip != nil {
		if w.zipped.Len() >= gzipBlock {
			w.chunk(w.zipped.Bytes())
			w.zipped.Reset()
			w.flush()
		}
		return
	}
	rest := w.merged
	w.merged = w.merged[:0]
	for len(rest) > 0 {
		n := len(rest)
		switch chunks {
		case ChunksByte:
			n = 1
		case ChunksOdd:
			n = min(n, oddSizes[w.odd%len(oddSizes)])
			w.odd++
		}
		w.chunk(rest[:n])
		rest = rest[n:]
		if chunks == ChunksByte {
			w.flush()
		}
	}
	w.flush()
}

// flush writes what was gathered. A failed write ends the stream.
func (w *writer) flush() {
	if len(w.out) == 0 || w.failed {
		w.out = w.out[:0]
		return
	}
	if w.held {
		return
	}
	if err := w.st.c.write(w.out); err != nil {
		w.failed = true
		w.st.finish(ending{kind: endLost})
	}
	w.out = w.out[:0]
}

// close ends the response as decided.
func (w *writer) close(e ending) {
	st := w.st
	st.c.sb.stats.lost.Add(int64(st.queue.count() - w.written))
	w.held = w.held && e.kind >= endReset && e.kind <= endCutMid
	switch e.kind {
	case endClean, endClose, endNow:
		w.begin()
		if w.zip != nil {
			_ = w.zip.Close()
			w.chunk(w.zipped.Bytes())
		}
		if w.chunked() {
			w.out = append(w.out, "0\r\n\r\n"...)
		}
		w.flush()
	case endTimeout:
		if !w.head {
			w.failed = true
			page := jettyPage(st.req, 503, "Service Unavailable", false)
			_ = st.c.write(page.encode(st.req, true))
			break
		}
		w.flush()
	case endRefused:
		w.failed = true
		_ = st.c.write(st.refused.Load().encode(st.req, true))
		st.c.lingerClose()
	case endReset, endCut:
		w.flush()
	case endCutMid:
		w.begin()
		cut := []byte(`{"error_code":200,"cluster_id":"`)
		w.out = append(fmt.Appendf(w.out, "%x\r\n", 4*len(cut)), cut...)
		w.flush()
	}
	switch e.kind {
	case endReset:
		st.c.reset()
	case endCut, endCutMid:
		st.c.finClose()
	}
}
