package listener

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// What a connection is at.
const (
	waiting int32 = iota // for a request, or in the middle of its head
	busy                 // with a request
	closed
)

// conn is one client's connection. It counts what is read, and closes so that
// the client gets to read its answer.
//
// Concurrency: one goroutine reads, one writes; anybody may call kill.
type conn struct {
	net.Conn // with TLS its connection; for the goroutine that serves
	raw      net.Conn
	l        *Listener
	state    atomic.Int32
	front    []byte       // read by one server, for the next
	read     atomic.Int64 // bytes
	last     atomic.Int64 // when a byte last went either way, Unix ns
	ended    atomic.Bool  // a read said so
	drain    atomic.Bool  // there may be bytes left to read before closing
	gone     sync.Once

	unsent atomic.Int32 // answers that fasthttp has not written yet
	silent atomic.Bool  // fasthttp writes no more: the last answer was given
	late   sync.Mutex   // held while that goes out, and to close
}

// open begins a connection, or turns it away. One that is at nothing makes room
// for a new one: slow clients must not keep good ones out.
func (l *Listener) open(nc net.Conn) {
	c := &conn{Conn: nc, raw: nc, l: l}
	c.touch()
	l.mu.Lock()
	if l.stopping() {
		l.mu.Unlock()
		nc.Close()
		return
	}
	var out *conn
	full := len(l.conns) >= l.cfg.MaxConnections
	if full {
		out = l.longestWaiting()
	}
	if !full || out != nil {
		l.conns[c] = struct{}{}
		l.running.Add(1)
	}
	l.mu.Unlock()
	if out != nil {
		out.kill()
	} else if full {
		l.refused.Add(1)
		l.answered[fasthttp.StatusServiceUnavailable].Add(1)
		l.quiet.Warn("connections", "all connections are busy: turned one away", "max_connections", l.cfg.MaxConnections)
		_ = nc.SetDeadline(time.Now().Add(time.Second))
		if l.cfg.TLS == nil { // a TLS client would not understand
			_, _ = io.WriteString(nc, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
		nc.Close()
		return
	}
	go c.serve()
}

// longestWaiting takes the connection off the list that has been without a
// request for longest. l.mu is held.
func (l *Listener) longestWaiting() *conn {
	var oldest *conn
	for c := range l.conns {
		if c.state.Load() == waiting && (oldest == nil || c.last.Load() < oldest.last.Load()) {
			oldest = c
		}
	}
	if oldest == nil || !oldest.state.CompareAndSwap(waiting, closed) {
		return nil
	}
	delete(l.conns, oldest)
	return oldest
}

// serve answers the requests of one connection.
func (c *conn) serve() {
	if c.l.cfg.TLS != nil {
		tc := tls.Server(c.Conn, c.l.cfg.TLS)
		_ = tc.SetDeadline(time.Now().Add(c.l.cfg.HeaderTimeout))
		if err := tc.Handshake(); err != nil {
			c.l.quiet.Warn("tls", "no TLS connection came about", "client", c.RemoteAddr().String(), "error", err)
			_ = c.Close()
			return
		}
		_ = tc.SetDeadline(time.Time{})
		c.Conn = tc
	}
	_ = c.l.srv.ServeConn(c) // what went wrong the client was told; it closes c
}

// started is what the times of the atomics count from.
var started = time.Now().Add(-time.Second) // no time is 0, which means none

// sinceStart is t in nanoseconds by the clock that nobody sets: a wall clock
// that jumps must neither end what just began nor keep alive what is dead.
func sinceStart(t time.Time) int64 { return int64(t.Sub(started)) }

func (c *conn) touch() { c.last.Store(sinceStart(time.Now())) }

// resume makes a connection whose stream is over ready for the next request.
// rest reads through the buffer of the server that had it: what is in there is
// kept. false: it is to be closed.
func (c *conn) resume(rest net.Conn) bool {
	_ = c.SetReadDeadline(time.Unix(1, 0)) // nothing more is read from the network
	var front []byte
	for b := make([]byte, maxHead); len(front) <= 2*maxHead; {
		n, err := rest.Read(b)
		front = append(front, b[:n]...)
		if err == nil {
			continue
		}
		if !isTimeout(err) || c.ended.Load() || !c.state.CompareAndSwap(busy, waiting) {
			return false
		}
		c.front = front
		_ = c.SetDeadline(time.Time{})
		return !c.l.stopping() || !c.state.CompareAndSwap(waiting, closed)
	}
	return false
}

// again serves the requests after a stream.
func (c *conn) again() {
	if len(c.front) == 0 { // a server would allow it HeaderTimeout only
		first := make([]byte, 1)
		_ = c.SetReadDeadline(time.Now().Add(c.l.cfg.IdleTimeout))
		n, err := c.Read(first)
		if err != nil {
			_ = c.Close()
			return
		}
		c.front = first[:n]
	}
	_ = c.l.srv.ServeConn(c)
}

// Read counts what is read.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.front) > 0 {
		n := copy(p, c.front)
		c.front = c.front[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.read.Add(int64(n))
		c.touch()
	} else if errors.Is(err, io.EOF) {
		c.ended.Store(true)
	}
	return n, err
}

// Write notes that something moves.
func (c *conn) Write(p []byte) (int, error) {
	if c.silent.Load() {
		return 0, net.ErrClosed
	}
	c.unsent.Store(0)
	n, err := c.Conn.Write(p)
	c.touch()
	return n, err
}

// lastAnswer gives an answer past fasthttp, whose goroutine is held up, and ends
// the connection. Answers to earlier requests on it may be waiting to be
// written: then it only ends. c.late is held, and c.silent set.
func (c *conn) lastAnswer(body []byte) {
	if c.unsent.Load() == 0 {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Conn.Write(fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"+
			"Retry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	}
	c.kill()
}

// Bounds on what is read of a refused body before its connection is closed.
// Closing with unread bytes sends RST, and the client's kernel may throw the
// answer away: the bytes on the way, a socket's buffer or two, must be read.
const (
	drainBytes = 1 << 20
	drainTime  = 2 * time.Second
)

// Close ends the connection. The answer is out; where the client still sends,
// a little of that is read first.
func (c *conn) Close() error {
	var err error
	c.gone.Do(func() {
		c.late.Lock()
		c.late.Unlock()                                              //nolint:staticcheck // SA2001: waits for the last answer to be out
		if c.drain.Load() && c.state.CompareAndSwap(busy, waiting) { // may be cut for another one
			if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
				_ = c.Conn.SetReadDeadline(time.Now().Add(drainTime))
				_, _ = io.Copy(io.Discard, io.LimitReader(c.Conn, drainBytes))
			}
		}
		c.state.Store(closed)
		c.l.mu.Lock()
		delete(c.l.conns, c)
		c.l.mu.Unlock()
		err = c.Conn.Close()
		c.l.running.Done()
	})
	return err
}

// kill cuts the connection: its goroutine sees that and ends.
func (c *conn) kill() { c.raw.Close() }

// begin says that a request is there; false: the connection was closed.
func (c *conn) begin() bool {
	return c.state.CompareAndSwap(waiting, busy) || c.state.Load() == busy
}

// changed follows fasthttp: after an answer a connection waits again.
func (l *Listener) changed(nc net.Conn, state fasthttp.ConnState) {
	c, ok := nc.(*conn)
	if !ok || state != fasthttp.StateIdle {
		return
	}
	c.state.CompareAndSwap(busy, waiting)
	if l.stopping() && c.state.CompareAndSwap(waiting, closed) {
		c.kill()
	}
}

// closeIdle cuts the connections without a request.
func (l *Listener) closeIdle() { l.cut(waiting) }

// closeAll cuts all of them.
func (l *Listener) closeAll() {
	l.cut(waiting)
	l.cut(busy)
}

func (l *Listener) cut(state int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if c.state.CompareAndSwap(state, closed) {
			c.kill()
		}
	}
}

func (l *Listener) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// isTimeout says whether err is a deadline that passed.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
