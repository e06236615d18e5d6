package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/bench/line"
)

// maxHead is the longest request head taken, in bytes.
const maxHead = 16 << 10

// server answers produce requests with one success report per record and keeps
// nothing of them but the numbers.
type server struct {
	mode    mode
	cluster string
	delay   time.Duration // of every report
	tally   *tally
}

// conn is one connection; its buffers serve all requests on it.
type conn struct {
	*server
	c    net.Conn
	buf  []byte // buf[r:w] is read and not yet taken
	r, w int
	out  []byte
}

// serve takes connections from l until l is closed.
func (s *server) serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			k := &conn{server: s, c: c, buf: make([]byte, 256<<10), out: make([]byte, chunkRoom, 256<<10)}
			for k.request() == nil {
			}
		}()
	}
}

// head is what is needed of a request's head.
type head struct {
	method, path string
	length       uint64
	chunked      bool
	expect       bool
	closes       bool
}

// request serves one request; an error ends the connection.
func (k *conn) request() error {
	h, err := k.readHead()
	if err != nil {
		return err
	}
	topic, produce := k.route(h.path)
	switch {
	case h.method == "POST" && produce:
		if h.expect {
			if _, err := io.WriteString(k.c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return err
			}
		}
		err = k.produce(h, topic)
	case h.method == "GET" && h.length == 0 && !h.chunked:
		err = k.answer(h.path)
	default:
		_, _ = io.WriteString(k.c, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return errors.New("request not served here")
	}
	if err == nil && h.closes {
		err = io.EOF
	}
	return err
}

func (k *conn) readHead() (head, error) {
	for {
		if i := bytes.Index(k.buf[k.r:k.w], []byte("\r\n\r\n")); i >= 0 {
			h, err := parseHead(string(k.buf[k.r : k.r+i]))
			k.r += i + 4
			return h, err
		}
		if k.w-k.r > maxHead {
			return head{}, errors.New("request head too long")
		}
		if err := k.fill(); err != nil {
			return head{}, err
		}
	}
}

// fill reads more; what is not yet taken stays.
func (k *conn) fill() error {
	if k.r > 0 {
		k.w = copy(k.buf, k.buf[k.r:k.w])
		k.r = 0
	}
	n, err := k.c.Read(k.buf[k.w:])
	k.w += n
	if n > 0 {
		return nil
	}
	return err
}

func parseHead(s string) (head, error) {
	var h head
	lines := strings.Split(s, "\r\n")
	f := strings.Split(lines[0], " ")
	if len(f) != 3 {
		return h, fmt.Errorf("request line %q: malformed", lines[0])
	}
	h.method, h.path = f[0], f[1]
	for _, l := range lines[1:] {
		name, value, _ := strings.Cut(l, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 62)
			if err != nil {
				return h, err
			}
			h.length = n
		case "transfer-encoding":
			h.chunked = strings.EqualFold(value, "chunked")
		case "expect":
			h.expect = strings.EqualFold(value, "100-continue")
		case "connection":
			h.closes = strings.EqualFold(value, "close")
		}
	}
	return h, nil
}

// route takes [/kafka]/v3/clusters/{id}/topics/{topic}/records apart.
func (k *conn) route(path string) (topic string, ok bool) {
	f := strings.Split(strings.TrimPrefix(path, "/kafka"), "/")
	if len(f) != 7 || f[1] != "v3" || f[2] != "clusters" || f[4] != "topics" || f[6] != "records" {
		return "", false
	}
	return f[5], true
}

// answer serves the two GETs a client may start with.
func (k *conn) answer(path string) error {
	one := fmt.Sprintf(`{"kind":"KafkaCluster","metadata":{"self":"/v3/clusters/%s","resource_name":null},"cluster_id":%q}`, k.cluster, k.cluster)
	status, body := "200 OK", one
	switch strings.TrimPrefix(path, "/kafka") {
	case "/v3/clusters", "/v3/clusters/":
		body = `{"kind":"KafkaClusterList","metadata":{"self":"/v3/clusters","next":null},"data":[` + one + `]}`
	case "/v3/clusters/" + k.cluster:
	default:
		status, body = "404 Not Found", `{"error_code":404,"message":"HTTP 404 Not Found"}`
	}
	_, err := fmt.Fprintf(k.c, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
	return err
}

const answerHead = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

// produce serves one stream of records. The head of the answer goes out with
// the first report, as kafka-rest does it.
func (k *conn) produce(h head, topic string) error {
	n := k.tally.streams.Add(1)
	rep := newReporter(k.mode, k.cluster, topic, n*10_000_000)
	var body dechunker
	if !h.chunked {
		body = dechunker{state: inData, left: h.length}
		if h.length == 0 {
			body.state = bodyDone
		}
	}
	var cut splitter
	sink := k.newSink(rep)
	w := io.Writer(k.c)
	if k.delay > 0 {
		late := newLateWriter(k.c, k.delay)
		defer late.close()
		w = late
	}
	started := false
	for {
		sink.begin()
		bytes0, chunks0 := sink.bytes, body.chunks
		for k.r < k.w && !ended(&body, h) {
			p, took, err := body.next(k.buf[k.r:k.w])
			if err != nil {
				return err
			}
			k.r += took
			sink.bytes += int64(len(p))
			cut.cut(p, sink.each)
		}
		over := ended(&body, h)
		if over {
			cut.end(sink.each)
		}
		k.tally.chunks.Add(body.chunks - chunks0)
		k.tally.bytes.Add(sink.bytes - bytes0)
		if err := k.flush(w, sink, over, &started); err != nil || over {
			return err
		}
		if err := k.fill(); err != nil {
			return err
		}
	}
}

// ended says that a body is complete: by its last chunk, or by its length.
func ended(d *dechunker, h head) bool {
	return d.done() || (!h.chunked && d.state != inData)
}

// flush sends the reports of one read, and the end of the answer if over.
func (k *conn) flush(w io.Writer, s *sink, over bool, started *bool) error {
	s.settle()
	var p []byte
	if s.n > 0 {
		p = s.rep.seal(k.out)
		s.n = 0
	}
	if len(p) == 0 && !over {
		return nil
	}
	if over {
		p = append(p, "0\r\n\r\n"...)
		k.tally.clean.Add(1)
	}
	if !*started {
		*started = true
		p = append([]byte(answerHead), p...)
	}
	_, err := w.Write(p)
	return err
}

// sink takes the records of one stream and gathers their reports.
type sink struct {
	k      *conn
	rep    *reporter
	each   func(rec []byte)
	n      int // records since the last flush
	bytes  int64
	now    int64
	delays []int64
}

func (k *conn) newSink(rep *reporter) *sink {
	s := &sink{k: k, rep: rep}
	s.each = s.take
	return s
}

// begin starts one read's worth of records.
func (s *sink) begin() {
	now := time.Now()
	s.now = now.UnixNano()
	s.rep.begin(now)
	s.k.out = s.k.out[:chunkRoom]
	s.delays = s.delays[:0]
}

func (s *sink) take(rec []byte) {
	s.n++
	seq, due, ok := line.Find(rec)
	s.k.tally.seen.mark(seq, ok)
	if s.k.tally.arrive != nil && ok {
		s.delays = append(s.delays, s.now-due)
	}
	s.k.out = s.rep.add(s.k.out, len(rec))
}

// settle adds what was gathered since begin to the tally.
func (s *sink) settle() {
	if s.n == 0 {
		return
	}
	s.k.tally.records.Add(int64(s.n))
	s.k.tally.reports.Add(int64(s.n))
	if len(s.delays) > 0 {
		s.k.tally.arrived(s.delays)
	}
}

// lateWriter hands on what is written to it, in order, a fixed time later.
//
// Concurrency: one writer; close waits for everything to be out.
type lateWriter struct {
	delay time.Duration
	queue chan lateWrite
	done  sync.WaitGroup
}

type lateWrite struct {
	at time.Time
	p  []byte
}

func newLateWriter(w io.Writer, delay time.Duration) *lateWriter {
	l := &lateWriter{delay: delay, queue: make(chan lateWrite, 4096)}
	l.done.Go(func() {
		var failed bool
		for q := range l.queue {
			if failed {
				continue
			}
			time.Sleep(time.Until(q.at))
			_, err := w.Write(q.p)
			failed = err != nil
		}
	})
	return l
}

// Write keeps a copy of p. It never fails: an error of the connection shows
// when the connection is next read.
func (l *lateWriter) Write(p []byte) (int, error) {
	l.queue <- lateWrite{time.Now().Add(l.delay), bytes.Clone(p)}
	return len(p), nil
}

func (l *lateWriter) close() {
	close(l.queue)
	l.done.Wait()
}
