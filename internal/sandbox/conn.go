package sandbox

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// httpDate is the layout of the Date header.
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

var (
	errIdle        = errors.New("idle time-out")
	errInterrupted = errors.New("reading was interrupted")
)

// conn is one client's connection.
//
// Concurrency: its own goroutine reads; one goroutine at a time writes.
type conn struct {
	sb          *Sandbox
	nc          net.Conn // the TLS connection with Config.TLS
	raw         net.Conn
	br          *bufio.Reader
	last        atomic.Int64 // when a byte last went either way, Unix ns
	interrupted atomic.Bool
	killed      atomic.Bool // the connection was reset or closed by this side
}

func newConn(sb *Sandbox, raw net.Conn) *conn {
	c := &conn{sb: sb, raw: raw, nc: raw}
	if sb.tls != nil {
		c.nc = tls.Server(raw, sb.tls)
	}
	c.br = bufio.NewReaderSize(idleReader{c}, 64<<10)
	c.last.Store(time.Now().UnixNano())
	return c
}

// idleReader reads from the connection, and gives up when no byte went either
// way for the idle time.
type idleReader struct{ c *conn }

func (r idleReader) Read(p []byte) (int, error) {
	c := r.c
	idle := c.sb.cfg.IdleTimeout
	for {
		var until time.Time
		if idle > 0 {
			until = time.Unix(0, c.last.Load()).Add(idle)
		}
		_ = c.nc.SetReadDeadline(until)
		// After setting the deadline, or interrupt's own could be undone.
		if c.interrupted.Load() {
			return 0, errInterrupted
		}
		n, err := c.nc.Read(p)
		if n > 0 {
			c.last.Store(time.Now().UnixNano())
			return n, nil
		}
		switch {
		case err == nil:
		case c.interrupted.Load():
			return 0, errInterrupted
		case !isTimeout(err):
			return 0, err
		case idle > 0 && time.Now().UnixNano()-c.last.Load() >= int64(idle):
			return 0, errIdle
		}
	}
}

// interrupt makes the reader's present and later reads fail.
func (c *conn) interrupt() {
	c.interrupted.Store(true)
	_ = c.nc.SetReadDeadline(time.Unix(1, 0))
}

// write writes b whole. A client that takes nothing for the idle time is given up.
func (c *conn) write(b []byte) error {
	if idle := c.sb.cfg.IdleTimeout; idle > 0 {
		_ = c.nc.SetWriteDeadline(time.Now().Add(idle))
	}
	_, err := c.nc.Write(b)
	c.last.Store(time.Now().UnixNano())
	return err
}

// reset waits a moment for what was written to arrive, then sends RST.
func (c *conn) reset() {
	waitSent(c.raw, time.Second)
	if tc, ok := c.raw.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	c.killed.Store(true)
	_ = c.raw.Close()
}

// close closes the connection. What the client still sends is not read, so
// that it gets a reset, as from the real server.
func (c *conn) close() {
	if !c.killed.Swap(true) {
		_ = c.nc.Close()
	}
}

// lingerClose sends FIN and reads what the client still sends for a moment:
// without that, its kernel may throw the answer away unread.
func (c *conn) lingerClose() {
	type closeWriter interface{ CloseWrite() error }
	if cw, ok := c.nc.(closeWriter); ok && cw.CloseWrite() == nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, io.LimitReader(c.nc, 16<<20))
	}
	c.close()
}

// finClose sends a bare FIN (with TLS: no close_notify), as from a proxy that
// died, and takes what the client sends until it notices.
func (c *conn) finClose() {
	if tc, ok := c.raw.(*net.TCPConn); ok && tc.CloseWrite() == nil {
		_ = c.raw.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, c.raw)
	}
	c.killed.Store(true)
	_ = c.raw.Close()
}

const lingerTime = 2 * time.Second

// serve handles requests until the connection ends.
func (c *conn) serve() {
	defer c.close()
	for {
		req, err := readRequest(c.br)
		if err != nil {
			var he *headError
			if errors.As(err, &he) {
				c.sb.log("request refused", "status", he.status, "text", he.text)
				_ = c.write(jettyPage(&request{minor: 1}, he.status, he.text, false).encode(&request{minor: 1}, true))
				c.lingerClose()
			}
			return
		}
		if !c.sb.handle(c, req) {
			return
		}
	}
}

// answer writes a whole response, steps over the request's body if that is
// short, and says whether the connection may be used again.
func (c *conn) answer(req *request, a *answer) bool {
	b := newBody(c.br, req)
	short := !req.hasBody() || !req.chunked && req.contentLength <= 64<<10 && !req.expect
	if req.close {
		short = false
	}
	if err := c.write(a.encode(req, !short)); err != nil {
		return false
	}
	if !short {
		c.lingerClose()
		return false
	}
	for {
		if _, err := b.appendNext(nil); errors.Is(err, io.EOF) {
			return true
		} else if err != nil {
			return false
		}
	}
}
