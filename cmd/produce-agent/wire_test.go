package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wire is a TCP proxy between an agent and a cluster that does to connections
// what a bad network does to them, each as plan says of it.
//
// A library (toxiproxy) can break connections after a time, or close them after
// so many bytes. Here a reset has to come at a chosen byte of a chosen
// direction, and silence has to fall on one topic's streams and on no other's.
//
// Concurrency: safe.
type wire struct {
	t    testing.TB
	l    net.Listener
	to   string // the cluster's host:port
	plan func(first []byte) trouble
	good atomic.Bool // healed: plan is not asked any more
	done chan struct{}
	all  sync.WaitGroup

	opened atomic.Int64 // connections taken
	cuts   atomic.Int64 // ends of connections that were this wire's doing
	carry  [2]atomic.Int64

	mu    sync.Mutex          // guards what follows
	conns map[net.Conn][]byte // with what the agent sent first on it
	live  map[*carried]bool
}

// trouble is what happens to one connection. The zero value is none.
type trouble struct {
	after [2]int64      // up to the cluster, down to the agent: behind so many bytes it happens; 0: never there
	how   cutting       // what
	delay time.Duration // each way
	rate  int           // bytes a second each way; 0: as fast as can be
	hit   func()        // called when it happens; may be nil
}

// cutting is how a connection ends.
type cutting int

const (
	cutReset cutting = iota // RST, both ways
	cutClose                // FIN, both ways
	cutHole                 // nothing: not a byte goes either way from then on
)

const up, down = 0, 1

// newWire starts a wire to the cluster at url (http://host:port) that listens
// on l, or where that is nil on a port of its own. plan is asked once for each
// connection, with what the agent sent first; nil is a good wire.
func newWire(t testing.TB, url string, l net.Listener, plan func(first []byte) trouble) *wire {
	t.Helper()
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	_, to, _ := strings.Cut(url, "://")
	w := &wire{t: t, l: l, to: to, plan: plan, done: make(chan struct{}), conns: map[net.Conn][]byte{}, live: map[*carried]bool{}}
	w.all.Go(w.accept)
	t.Cleanup(func() {
		close(w.done)
		l.Close()
		w.cutAll()
		w.all.Wait()
	})
	return w
}

// url is the cluster's, over this wire.
func (w *wire) url() string { return "http://" + w.l.Addr().String() }

func (w *wire) accept() {
	for {
		c, err := w.l.Accept()
		if err != nil {
			return
		}
		w.opened.Add(1)
		w.all.Go(func() { w.connection(c.(*net.TCPConn)) })
	}
}

// hold notes a connection, to be cut from outside, until the func it returns
// is called.
func (w *wire) hold(c net.Conn, first []byte) (letGo func()) {
	w.mu.Lock()
	w.conns[c] = first
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		delete(w.conns, c)
		w.mu.Unlock()
	}
}

// heal lets no further connection come to harm, and resets those that may.
func (w *wire) heal() {
	w.good.Store(true)
	w.mu.Lock()
	w.cuts.Add(int64(len(w.conns)+1) / 2) // a connection is two
	w.mu.Unlock()
	w.cutAll()
}

// cutAll resets every connection there is.
func (w *wire) cutAll() { w.cutTopics("") }

// cutTopics resets the streams there are to these topics.
func (w *wire) cutTopics(topics ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, first := range w.conns {
		for _, topic := range topics {
			if topic == "" || bytes.Contains(first, []byte("/topics/"+topic+"/records")) {
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
				break
			}
		}
	}
}

// silence lets every connection there is fall silent, for good.
func (w *wire) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.live {
		c.once.Do(func() {
			c.how.Store(int32(cutHole))
			close(c.over)
		})
	}
}

// connection carries one connection to its end.
func (w *wire) connection(agent *net.TCPConn) {
	defer agent.Close()
	letGo := w.hold(agent, nil)
	defer func() { letGo() }()
	first := make([]byte, 16<<10)
	n, err := agent.Read(first)
	if err != nil {
		return
	}
	var x trouble
	if w.plan != nil && !w.good.Load() {
		x = w.plan(first[:n])
	}
	far, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer far.Close()
	letGo = w.hold(agent, first[:n])
	defer w.hold(far, first[:n])()
	one := &carried{w: w, x: x, ends: [2]*net.TCPConn{agent, far.(*net.TCPConn)}, over: make(chan struct{})}
	one.how.Store(int32(x.how))
	w.mu.Lock()
	w.live[one] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.live, one)
	}()
	var both sync.WaitGroup
	both.Go(func() { one.copy(up, io.MultiReader(bytes.NewReader(first[:n]), agent), far) })
	both.Go(func() { one.copy(down, far, agent) })
	both.Wait()
}

// carried is a connection under way.
type carried struct {
	w    *wire
	x    trouble
	ends [2]*net.TCPConn
	how  atomic.Int32
	once sync.Once
	over chan struct{} // closed when the trouble has happened
}

// piece is some bytes and when they are due at the other end.
type piece struct {
	b   []byte
	due time.Time
}

// copy carries one direction. What the trouble leaves of a piece goes through.
func (c *carried) copy(dir int, from io.Reader, to net.Conn) {
	line := make(chan piece, 1024)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range line {
			if d := time.Until(p.due); d > 0 {
				c.sleep(d)
			}
			if c.hollow() {
				continue
			}
			n, _ := to.Write(p.b)
			c.w.carry[dir].Add(int64(n))
		}
		if !c.happened() {
			_ = to.(*net.TCPConn).CloseWrite()
		}
	})
	defer writer.Wait()
	defer close(line)
	buf := make([]byte, 16<<10)
	for left, free := c.x.after[dir], time.Now(); ; {
		n, err := from.Read(buf)
		if c.hollow() {
			<-c.w.done // nobody reads any more, and nobody hears of it
			return
		}
		cut := c.x.after[dir] > 0 && int64(n) >= left
		if cut {
			n = int(left)
		}
		left -= int64(n)
		if n > 0 {
			free = later(free, time.Now())
			if c.x.rate > 0 {
				free = free.Add(time.Duration(n) * time.Second / time.Duration(c.x.rate))
				c.sleep(time.Until(free)) // so that the sender's buffers fill
			}
			line <- piece{bytes.Clone(buf[:n]), time.Now().Add(c.x.delay)}
		}
		if cut {
			c.happen(line)
			return
		}
		if err != nil {
			return
		}
	}
}

// happen lets the trouble happen, once what came before it is through.
func (c *carried) happen(line chan piece) {
	for len(line) > 0 {
		time.Sleep(100 * time.Microsecond)
	}
	time.Sleep(200 * time.Microsecond) // the last piece is being written
	c.once.Do(func() {
		c.w.cuts.Add(1)
		if c.x.hit != nil {
			c.x.hit()
		}
		close(c.over)
		if c.x.how == cutHole {
			return
		}
		for _, end := range c.ends {
			if c.x.how == cutReset {
				_ = end.SetLinger(0)
			}
			end.Close()
		}
	})
	if c.hollow() {
		<-c.w.done
	}
}

// happened says whether the trouble is over this connection.
func (c *carried) happened() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

func (c *carried) hollow() bool { return c.happened() && cutting(c.how.Load()) == cutHole }

func (c *carried) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.w.done:
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// The wire itself: bytes come through whole up to the one it breaks at, in the
// way it says.
func TestWire(t *testing.T) {
	t.Parallel()
	f := func(x trouble, sent string, want string, reset bool) {
		t.Helper()
		far, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer far.Close()
		go func() {
			c, err := far.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
		w := newWire(t, "http://"+far.Addr().String(), nil, func([]byte) trouble { return x })
		c, err := net.Dial("tcp", w.l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		if x.how != cutHole {
			_ = c.(*net.TCPConn).CloseWrite()
		}
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		got, err := io.ReadAll(c)
		var n net.Error
		some := reset || x.after[up] > 0 // what comes back may be cut off as well
		if string(got) != want && !some || !strings.HasPrefix(want, string(got)) {
			t.Errorf("%+v: got %q, want %q", x, got, want)
		}
		if silent := errors.As(err, &n) && n.Timeout(); silent != (x.how == cutHole) || reset != (err != nil && !silent) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	f(trouble{how: cutClose}, "hello", "hello", false)
	f(trouble{how: cutClose, delay: 50 * time.Millisecond, rate: 1000}, "hello", "hello", false)
	f(trouble{how: cutClose, after: [2]int64{0, 3}}, "hello", "hel", false)
	f(trouble{how: cutClose, after: [2]int64{2, 0}}, "hello", "he", false)
	f(trouble{how: cutReset, after: [2]int64{0, 3}}, "hello", "hel", true)
	f(trouble{how: cutHole, after: [2]int64{0, 3}}, "hello", "hel", false)
}
