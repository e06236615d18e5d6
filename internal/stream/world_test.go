package stream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// half is one direction of a connection in memory, for virtual time: a buffer
// of 256 KiB, with deadlines.
type half struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	closed bool
	dead   time.Time // the reader's deadline
	full   time.Time // the writer's
	timers []*time.Timer
}

func newHalf() *half { h := &half{}; h.cond = sync.NewCond(&h.mu); return h }

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 {
		switch {
		case h.closed:
			return 0, io.EOF
		case past(h.dead):
			return 0, os.ErrDeadlineExceeded
		}
		h.cond.Wait()
	}
	n := copy(b, h.buf)
	h.buf = h.buf[n:]
	h.cond.Broadcast()
	return n, nil
}

func (h *half) write(b []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(b) > 0 {
		switch room := 256<<10 - len(h.buf); {
		case h.closed:
			return n, syscall.EPIPE
		case past(h.full):
			return n, os.ErrDeadlineExceeded
		case room <= 0:
			h.cond.Wait()
		default:
			k := min(room, len(b))
			h.buf = append(h.buf, b[:k]...)
			b, n = b[k:], n+k
			h.cond.Broadcast()
		}
	}
	return n, nil
}

func (h *half) deadline(which *time.Time, t time.Time) {
	h.mu.Lock()
	*which = t
	if !t.IsZero() {
		h.timers = append(h.timers, time.AfterFunc(time.Until(t), h.cond.Broadcast))
	}
	h.mu.Unlock()
	h.cond.Broadcast()
}

func (h *half) close() {
	h.mu.Lock()
	h.closed = true
	for _, t := range h.timers {
		t.Stop()
	}
	h.mu.Unlock()
	h.cond.Broadcast()
}

// memConn is one end of a connection in memory.
type memConn struct{ in, out *half }

func memPipe() (a, b *memConn) {
	x, y := newHalf(), newHalf()
	return &memConn{x, y}, &memConn{y, x}
}

func (c *memConn) Read(b []byte) (int, error)         { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error)        { return c.out.write(b) }
func (c *memConn) Close() error                       { c.in.close(); c.out.close(); return nil }
func (c *memConn) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (c *memConn) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (c *memConn) SetReadDeadline(t time.Time) error  { c.in.deadline(&c.in.dead, t); return nil }
func (c *memConn) SetWriteDeadline(t time.Time) error { c.out.deadline(&c.out.full, t); return nil }
func (c *memConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// stamp is one record that reached the server.
type stamp struct {
	at    time.Duration
	bytes int
	good  bool
	topic string
}

// world is a cluster in virtual time: a REST v3 endpoint in memory that does
// what its functions say and writes down what reached it.
type world struct {
	t     *testing.T
	start time.Time
	rtt   time.Duration // from a record to its report
	ctx   context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup
	down  atomic.Bool // nobody listens

	// judge returns a record's error_code; block how long the server stands
	// still before it has one. post returns an HTTP status and headers for a
	// POST, 0 to let it in. All are called with mu held, but block.
	judge func(now time.Duration, topic string, bytes int) int
	block func(topic string) time.Duration
	post  func(now time.Duration, topic string) (int, string)
	gone  func(topic string) bool // what GET says
	age   time.Duration           // streams older than this draw 408s

	mu      sync.Mutex
	opens   []time.Duration // dials
	posts   []time.Duration
	refused int // POSTs answered with a status
	stamps  []stamp
	stored  map[string]int
	open    map[string]int // streams, by topic
	most    int            // streams at once
	conns   map[net.Conn]bool
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, start: time.Now(), rtt: 20 * time.Millisecond,
		stored: map[string]int{}, open: map[string]int{}, conns: map[net.Conn]bool{},
	}
	w.ctx, w.end = context.WithCancel(t.Context())
	return w
}

func (w *world) now() time.Duration { return time.Since(w.start) }

// inWorld runs f in virtual time, and stops what it made.
func inWorld(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(w)
		w.cut()
		w.end()
		w.wg.Wait()
	})
}

// pool returns a pool that produces to w; stop it by stopWorld.
func (w *world) pool(cfg Config, profile limit.Profile) (*Pool, *books) {
	k := newBooks()
	target := Target{Base: &url.URL{Scheme: "http", Host: "w:80"}, ClusterID: "lkc-x", Auth: auth.None{}, dial: w.dial}
	return New(cfg, target, profile, k, quiet(), nil), k
}

func (w *world) stop(pools ...*Pool) {
	for _, p := range pools {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		p.Stop(ctx)
		cancel()
	}
}

// cut closes all connections.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

func (w *world) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w.mu.Lock()
	w.opens = append(w.opens, w.now())
	w.mu.Unlock()
	select {
	case <-time.After(w.rtt):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if w.down.Load() {
		return nil, syscall.ECONNREFUSED
	}
	a, b := memPipe()
	w.mu.Lock()
	w.conns[b] = true
	w.mu.Unlock()
	w.wg.Add(1)
	go w.serve(b)
	return a, nil
}

func (w *world) serve(c net.Conn) {
	defer w.wg.Done()
	defer func() {
		c.Close()
		w.mu.Lock()
		delete(w.conns, c)
		w.mu.Unlock()
	}()
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	topic := strings.Split(req.URL.Path, "/")[5]
	if req.Method == http.MethodGet {
		status, body := "200 OK", "{}"
		if w.gone != nil && w.gone(topic) {
			status, body = "404 Not Found", `{"error_code":40403,"message":"no such topic"}`
		}
		fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
		return
	}
	w.mu.Lock()
	w.posts = append(w.posts, w.now())
	status, headers := 0, ""
	if w.post != nil {
		status, headers = w.post(w.now(), topic)
	}
	if status > 299 {
		w.refused++
	}
	w.mu.Unlock()
	if status > 299 {
		time.Sleep(w.rtt)
		fmt.Fprintf(c, "HTTP/1.1 %d X\r\n%sContent-Length: 0\r\n\r\n", status, headers)
		_, _ = io.Copy(io.Discard, c) // until the other side has read it
		return
	}
	w.stream(c, bufio.NewReaderSize(req.Body, 64<<10), topic, headers)
}

func (w *world) count(topic string, by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[topic] += by; w.open[topic] == 0 {
		delete(w.open, topic)
	}
	all := 0
	for _, n := range w.open {
		all += n
	}
	w.most = max(w.most, all)
}

// stream reads records and reports each a round trip later, in order.
func (w *world) stream(c net.Conn, body *bufio.Reader, topic, headers string) {
	w.count(topic, 1)
	defer w.count(topic, -1)
	born, first408 := w.now(), time.Duration(0)
	type due struct {
		at   time.Time
		text string
	}
	reports := make(chan due, 1<<16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		out, head := []byte(nil), false
		for d := range reports {
			time.Sleep(time.Until(d.at))
			if !head {
				out, head = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sTransfer-Encoding: chunked\r\n\r\n", headers), true
			}
			out = append(out, d.text...)
			if len(reports) > 0 && len(out) < 8<<10 {
				continue
			}
			if _, err := c.Write(out); err != nil {
				c.Close()
			}
			out = out[:0]
		}
		if _, err := c.Write(out); err != nil {
			c.Close()
		}
	}()
	report := func(code int) {
		text := goodReport(0)
		if code != 200 {
			text = fmt.Sprintf(`{"error_code":%d,"message":"m"}`, code)
		}
		reports <- due{time.Now().Add(w.rtt), fmt.Sprintf("%x\r\n%s\r\n\r\n", len(text)+2, text)}
	}
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			break
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		if w.block != nil {
			if d := w.block(topic); d > 0 {
				select {
				case <-time.After(d):
				case <-w.ctx.Done():
				}
			}
		}
		now := w.now()
		if w.age > 0 && now-born > w.age { // the grace is half a second
			if first408 == 0 {
				first408 = now
			}
			report(408)
			if now-first408 > 500*time.Millisecond {
				break
			}
			continue
		}
		w.mu.Lock()
		code := 200
		if w.judge != nil {
			code = w.judge(now, topic, len(line))
		}
		w.stamps = append(w.stamps, stamp{now, len(line), code == 200, topic})
		if code == 200 {
			w.stored[topic+"/"+idOf([]byte(line))]++
		}
		w.mu.Unlock()
		report(code)
	}
	reports <- due{time.Now().Add(w.rtt), "0\r\n\r\n"}
	close(reports)
	<-done
}

// since returns what reached the server from then on.
func (w *world) since(from time.Duration) (good, all int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.stamps {
		if s.at < from {
			continue
		}
		all++
		if s.good {
			good++
			bytes += int64(s.bytes)
		}
	}
	return good, all, bytes
}

// twice returns the ids that were stored more than once.
func (w *world) twice() (ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, n := range w.stored {
		if n > 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

// inAnySecond is the largest number of times within one second.
func inAnySecond(times []time.Duration) (most int) {
	slices.Sort(times)
	first := 0
	for i, t := range times {
		for t-times[first] >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// bucket is a server's limiter: what is there, never more than a fiftieth of a
// second's. A cost larger than what is left is granted while something is, and
// those behind it pay.
type bucket struct {
	rate, level float64
	last        time.Duration
}

func (b *bucket) take(now time.Duration, n float64) bool {
	b.level = min(max(1, b.rate/50), b.level+b.rate*(now-b.last).Seconds())
	b.last = now
	if b.level < min(1, n) {
		return false
	}
	b.level -= n
	return true
}

// sliding is a server's limiter that counts what it took in the last second, or
// what it was asked for where it counts the refused as well.
type sliding struct {
	most   int
	all    bool
	stamps []time.Duration
}

func (s *sliding) take(now time.Duration) bool {
	for len(s.stamps) > 0 && now-s.stamps[0] >= time.Second {
		s.stamps = s.stamps[1:]
	}
	ok := len(s.stamps) < s.most
	if ok || s.all {
		s.stamps = append(s.stamps, now)
	}
	return ok
}

// feed submits batches of n records of that size to topic for ever, until the
// world ends.
func (w *world) feed(p *Pool, topic string, n int, size func(i int) int) {
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		for i := 0; ; i++ {
			if p.Submit(w.ctx, batchOf(topic, size(i), ids(fmt.Sprintf("%s%p-%d-", topic, p, i), n)...)) != nil {
				return
			}
		}
	}()
}

func always(size int) func(int) int { return func(int) int { return size } }

func mustProfile(t *testing.T, name string) limit.Profile {
	t.Helper()
	p, err := limit.ParseProfile(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// worldConfig is a service's, with everything as it is by default.
func worldConfig() Config { return DefaultConfig() }

// trickle submits so many records a second, in batches of ten, as a source does
// that has no more.
func (w *world) trickle(p *Pool, topic string, perSecond int, size func(i int) int) {
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		next := time.Now()
		for i := 0; ; i++ {
			if p.Submit(w.ctx, batchOf(topic, size(i), ids(fmt.Sprintf("%s%p-%d-", topic, p, i), 10)...)) != nil {
				return
			}
			next = next.Add(10 * time.Second / time.Duration(perSecond))
			time.Sleep(time.Until(next))
		}
	}()
}
