package stream

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

func TestMain(m *testing.M) {
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range map[string]string{"rapid.checks": "40", "rapid.nofailfile": "true", "rapid.shrinktime": "5s"} {
		if !given[name] {
			if err := flag.Set(name, value); err != nil {
				panic(err)
			}
		}
	}
	goleak.VerifyTestMain(m)
}

// fake is a REST endpoint that does what each test says: script is run once a
// POST, on a connection of its own.
type fake struct {
	ln     net.Listener
	script func(*exchange)
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	posts    int
	most     int // connections at once
	auths    []string
	accepted []string // records, "topic/id", in the order they were stored
	topics   map[string]bool
	closed   bool
}

// newFake listens on loopback and is closed with the test. A nil script
// delivers everything.
func newFake(t testing.TB, script func(*exchange)) *fake {
	t.Helper()
	f := listenFake(t, "127.0.0.1:0", script)
	t.Cleanup(f.close)
	return f
}

func listenFake(t testing.TB, addr string, script func(*exchange)) *fake {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if script == nil {
		script = func(x *exchange) { x.deliverAll() }
	}
	f := &fake{ln: ln, script: script, conns: map[net.Conn]struct{}{}, topics: map[string]bool{}}
	f.wg.Add(1)
	go f.serve()
	return f
}

func (f *fake) close() {
	f.ln.Close()
	f.mu.Lock()
	f.closed = true
	for c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *fake) url() *url.URL { return &url.URL{Scheme: "http", Host: f.ln.Addr().String()} }

func (f *fake) serve() {
	defer f.wg.Done()
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		if f.closed {
			c.Close()
		}
		f.conns[c] = struct{}{}
		f.most = max(f.most, len(f.conns))
		f.mu.Unlock()
		f.wg.Add(1)
		go f.answer(c)
	}
}

func (f *fake) answer(c net.Conn) {
	defer f.wg.Done()
	defer func() {
		c.Close()
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
	}()
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	if req.Method == http.MethodGet { // the question whether a topic exists
		io.WriteString(c, "HTTP/1.1 503 Away\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return
	}
	f.mu.Lock()
	f.posts++
	n := f.posts
	f.auths = append(f.auths, req.Header.Get("Authorization"))
	f.mu.Unlock()
	parts := strings.Split(req.URL.Path, "/")
	x := &exchange{f: f, n: n, conn: c, req: req, body: bufio.NewReader(req.Body), topic: parts[len(parts)-2]}
	f.script(x)
}

// stored returns a copy of what was accepted.
func (f *fake) stored() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.accepted)
}

func (f *fake) postCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.posts
}

// exchange is one POST: what a script reads records from and answers to.
type exchange struct {
	f     *fake
	n     int // the how manieth POST of the fake, from 1
	conn  net.Conn
	req   *http.Request
	body  *bufio.Reader
	topic string
	head  bool
	blank int // heartbeats seen
	seen  int // records read
}

// next returns the id of the next record; false at the body's end.
func (x *exchange) next() (string, bool) {
	for {
		line, err := x.body.ReadString('\n')
		if err != nil {
			return "", false
		}
		if strings.TrimSpace(line) == "" {
			x.blank++
			continue
		}
		x.seen++
		return idOf([]byte(line)), true
	}
}

// store notes that a record was written to the topic.
func (x *exchange) store(id string) {
	x.f.mu.Lock()
	x.f.accepted = append(x.f.accepted, x.topic+"/"+id)
	x.f.mu.Unlock()
}

// send writes raw bytes of the response's body as one chunk, the head first.
func (x *exchange) send(body string) error {
	var b bytes.Buffer
	if !x.head {
		x.head = true
		b.WriteString("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
	}
	fmt.Fprintf(&b, "%x\r\n%s\r\n", len(body), body)
	_, err := x.conn.Write(b.Bytes())
	return err
}

func goodReport(offset int) string {
	return fmt.Sprintf(`{"error_code":200,"cluster_id":"lkc-x","topic_name":"t","partition_id":0,"offset":%d,"timestamp":"2021-12-13T16:29:10.951Z","value":{"type":"STRING","size":26}}`, offset)
}

// ok stores a record and reports it.
func (x *exchange) ok(id string) error {
	x.store(id)
	return x.send(goodReport(x.seen) + "\r\n")
}

// refuse reports an error.
func (x *exchange) refuse(code int, message string) error {
	return x.send(fmt.Sprintf(`{"error_code":%d,"message":%q}`, code, message) + "\r\n")
}

// end writes the last chunk.
func (x *exchange) end() {
	if !x.head {
		x.send(" ")
	}
	io.WriteString(x.conn, "0\r\n\r\n")
}

// deliverAll delivers whatever is left of the body and ends properly.
func (x *exchange) deliverAll() {
	for {
		id, ok := x.next()
		if !ok {
			break
		}
		if x.ok(id) != nil {
			return
		}
	}
	x.end()
}

// reset closes the connection with an RST.
func (x *exchange) reset() {
	if tc, ok := x.conn.(*net.TCPConn); ok {
		tc.SetLinger(0)
	}
	x.conn.Close()
}

// status answers without a stream.
func (x *exchange) status(code int, headers, body string) {
	fmt.Fprintf(x.conn, "HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s", code, headers, len(body), body)
	x.linger()
}

// linger reads what still comes for a moment, so that a close does not reset
// the answer away.
func (x *exchange) linger() {
	if tc, ok := x.conn.(*net.TCPConn); ok {
		tc.CloseWrite()
	}
	x.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	io.Copy(io.Discard, x.conn)
}

// idOf takes the id out of a record that recordOf made.
func idOf(raw []byte) string {
	_, rest, _ := bytes.Cut(raw, []byte(`"data":"`))
	id, _, _ := bytes.Cut(rest, []byte(`"`))
	id, _, _ = bytes.Cut(id, []byte(` `))
	return string(id)
}

// recordOf is a record whose data is an id, padded to about size bytes.
func recordOf(dst []byte, id string, size int) []byte {
	dst = append(dst, `{"value":{"type":"STRING","data":"`...)
	dst = append(dst, id...)
	for i := len(id) + 38; i < size; i++ {
		dst = append(dst, ' ')
	}
	return append(dst, "\"}}\n"...)
}

// batchOf makes a batch of records with those ids.
func batchOf(topic string, size int, ids ...string) *record.Batch {
	b := record.NewBatch(topic)
	for i, id := range ids {
		b.Commit(recordOf(b.Tail(), id, size), record.Position{Offset: int64(i)})
	}
	return b
}

// ids returns n ids: prefix0, prefix1, …
func ids(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}

// books is a Handler that writes down how every record ended.
type books struct {
	mu        sync.Mutex
	delivered map[string]int
	rejected  map[string]Rejection
	twice     []string // ended more than once
	reports   []string // "id code" of every single report
	onDeliver func(id string)
}

func newBooks() *books {
	return &books{delivered: map[string]int{}, rejected: map[string]Rejection{}}
}

func (k *books) Delivered(b *record.Batch, from, to int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := from; i < to; i++ {
		id := b.Topic + "/" + idOf(b.Bytes(i, i+1))
		if _, ok := k.rejected[id]; ok || k.delivered[id] > 0 {
			k.twice = append(k.twice, id)
		}
		k.delivered[id]++
		if k.onDeliver != nil {
			k.onDeliver(id)
		}
	}
}

func (k *books) Rejected(b *record.Batch, i int, why Rejection) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := b.Topic + "/" + idOf(b.Bytes(i, i+1))
	if _, ok := k.rejected[id]; ok || k.delivered[id] > 0 {
		k.twice = append(k.twice, id)
	}
	k.rejected[id] = why
}

func (k *books) Report(b *record.Batch, i int, r *Report) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reports = append(k.reports, fmt.Sprintf("%s %d", idOf(b.Bytes(i, i+1)), r.ErrorCode))
}

func (k *books) counts() (delivered, rejected int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.delivered), len(k.rejected)
}

// fastConfig has back-offs of milliseconds, so that nothing waits for long.
func fastConfig() Config {
	c := DefaultConfig()
	c.RetryInitial, c.RetryMax = time.Millisecond, 20*time.Millisecond
	c.ReportTimeout, c.Heartbeat, c.IdleEnd = 10*time.Second, 5*time.Second, 5*time.Second
	c.DialTimeout = 5 * time.Second
	return c
}

// onceConfig is fastConfig for a run that is to end.
func onceConfig() Config {
	c := fastConfig()
	c.OneShot = true
	return c
}

// quiet drops the log, unless the tests are to be watched.
func quiet() *slog.Logger {
	if os.Getenv("STREAM_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// testPool is a Pool that produces to base and is stopped with the test.
func testPool(t testing.TB, cfg Config, base *url.URL, profile limit.Profile) (*Pool, *books) {
	t.Helper()
	a, err := auth.NewBasic("key", "secret")
	if err != nil {
		t.Fatal(err)
	}
	k := newBooks()
	p := New(cfg, Target{Base: base, ClusterID: "lkc-x", Auth: a}, profile, k, quiet(), nil)
	t.Cleanup(func() { stopPool(t, p, 5*time.Second) })
	return p, k
}

// stopPool stops p and fails the test when that takes longer than it may.
func stopPool(t testing.TB, p *Pool, bound time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	done := make(chan struct{})
	go func() { p.Stop(ctx); close(done) }()
	select {
	case <-done:
	case <-time.After(bound):
		t.Errorf("Stop did not return within %s", bound)
		<-done
	}
}

// submit hands a batch over and fails the test when it is not taken in time.
func submit(t testing.TB, p *Pool, b *record.Batch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := p.Submit(ctx, b); err != nil {
		t.Fatalf("submit: %v", err)
	}
}

// drain waits until everything is final and fails the test when it is not.
func drain(t testing.TB, p *Pool, wait time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := p.Drain(ctx); err != nil {
		left, _ := p.outstanding()
		t.Fatalf("drain: %v; %d records left, stats %+v", err, left, p.Stats())
	}
}

// nextTry is what is known of a record after one sending; nil for none before.
func nextTry(t *record.Try) record.Try {
	if t == nil {
		return record.Try{Attempts: 1}
	}
	return *t
}

func authBasic() (auth.Authorizer, error) { return auth.NewBasic("key", "secret") }
