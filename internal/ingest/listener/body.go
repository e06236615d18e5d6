package listener

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/valyala/fasthttp"
)

// bodyRate is how many bytes a second a body must have on average, after a
// first HeaderTimeout: a tenth of what the slowest modem did.
const bodyRate = 512

// firstBuffer is what a body is read into at first.
const firstBuffer = 32 << 10

// pace sets the time until which more of a request must have come.
type pace struct {
	c     *conn
	grace time.Duration
	began time.Time
	from  int64 // bytes the connection had then
}

func (l *Listener) newPace(c *conn) pace {
	return pace{c: c, grace: l.cfg.HeaderTimeout, began: time.Now(), from: c.read.Load()}
}

// until is when the client is too slow.
func (p *pace) until() time.Time {
	came := p.c.read.Load() - p.from
	return p.began.Add(p.grace + time.Duration(came)*(time.Second/bodyRate))
}

// readBody reads the whole body into r, decoded.
// Errors: what to answer; the connection is of no further use then.
func (l *Listener) readBody(ctx *fasthttp.RequestCtx, c *conn, r *request, encoding string) *refusal {
	no := l.readRaw(ctx, c, r)
	if no != nil || encoding == "" {
		return no
	}
	return l.decode(r, encoding)
}

// sentBody is a request's body. fasthttp takes the end of the connection for
// the end of a body: that is told apart here.
type sentBody struct {
	c    *conn
	r    io.Reader
	left int64 // -1: chunked
}

// bodyOf returns the body of a request.
func bodyOf(ctx *fasthttp.RequestCtx, c *conn) *sentBody {
	r := ctx.RequestBodyStream()
	n := ctx.Request.Header.ContentLength()
	if r == nil || n == 0 || n == -2 {
		return &sentBody{}
	}
	return &sentBody{c, r, int64(n)}
}

// Read returns io.EOF, and nothing that wraps it, at the body's proper end only.
func (b *sentBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	// No more is read than is needed: a connection that was seen to end, ended
	// in the body, for its last chunk was not there.
	if errors.Is(err, io.EOF) && (b.left > 0 || b.left < 0 && b.c.ended.Load()) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// readRaw reads the body as it is sent.
func (l *Listener) readRaw(ctx *fasthttp.RequestCtx, c *conn, r *request) *refusal {
	body := bodyOf(ctx, c)
	p := l.newPace(c)
	no := fill(r, body.left, func(dst []byte) (int, error) {
		_ = c.SetReadDeadline(p.until())
		n, err := body.Read(dst)
		l.bytes.Add(int64(n))
		return n, err
	})
	if no == nil {
		return nil
	}
	ctx.SetConnectionClose()
	c.drain.Store(true)
	var why *readError
	switch {
	case !errors.As(no, &why):
		return l.refusalOf(no, "the body")
	case isTimeout(why.err):
		return refuse(fasthttp.StatusRequestTimeout, "the body came too slowly, %d bytes in %s: nothing of it was taken", len(r.body), time.Since(p.began).Round(time.Second))
	}
	return refuse(fasthttp.StatusBadRequest, "the body ends early or is not chunked as it says, after %d bytes: nothing of it was taken", len(r.body))
}

var (
	errTooLarge = errors.New("too large")
	errNoRoom   = errors.New("no room")
)

// readError is what reading said.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func (l *Listener) refusalOf(err error, what string) *refusal {
	switch {
	case errors.Is(err, errTooLarge):
		return l.tooLarge("%s", what)
	case errors.Is(err, errNoRoom):
		l.quiet.Warn("in flight", "no room for more bodies: refused one", "max_in_flight", l.cfg.MaxInFlight)
		return full("this agent holds as many bodies as it may (max_in_flight): nothing of this one was taken, send it again")
	}
	return refuse(fasthttp.StatusBadRequest, "%s: %v", what, err)
}

// fill reads the body to its end. Its buffer grows as bytes come, within the
// bytes that all bodies may have: who only says that there will be many holds
// nothing. size is how many there will be, as far as they do come; -1 where
// nobody says.
// Errors: errTooLarge, errNoRoom, *readError.
func fill(r *request, size int64, read func([]byte) (int, error)) error {
	l, buf := r.l, &r.body
	if cap(*buf) == 0 {
		if !r.grow(buf, firstBuffer) {
			return errNoRoom
		}
	} else if !r.hold(int64(cap(*buf))) { // one kept from before
		return errNoRoom
	}
	most := l.cfg.MaxBody + 1
	if size >= 0 {
		most = min(most, size+1) // one more, to see that it ends
	}
	b := (*buf)[:0]
	for empty := 0; ; {
		if len(b) == cap(b) {
			*buf = b
			if !r.grow(buf, min(2*int64(cap(b)), max(most, int64(cap(b))+1))) {
				return errNoRoom
			}
			b = *buf
		}
		n, err := read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		*buf = b
		if int64(len(b)) > l.cfg.MaxBody {
			return errTooLarge
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &readError{err}
		}
		if empty++; n > 0 {
			empty = 0
		} else if empty > 100 {
			return &readError{io.ErrNoProgress}
		}
	}
}

// maxWindow is the largest zstd window: what RFC 8878 asks of all decoders.
const maxWindow = 8 << 20

// unzipper decodes one body after the other. What decodes to little is decoded
// once; the length of more is found out first, so that a bomb is never held.
type unzipper struct {
	src  bytes.Reader
	gzip gzip.Reader
	zstd *zstd.Decoder
	head [keptBuffer]byte
}

// unzippers are as many as there are processors: a body is whole before it is
// decoded, so none waits for a client, and a hundred bombs at a time still
// have only the windows of these.
type unzippers chan *unzipper

func newUnzippers() unzippers {
	all := make(unzippers, max(2, runtime.GOMAXPROCS(0)))
	for range cap(all) {
		all <- &unzipper{}
	}
	return all
}

// decode replaces r's body with what it decodes to.
func (l *Listener) decode(r *request, encoding string) *refusal {
	if n := announced(r.body, encoding); n > uint64(l.cfg.MaxBody) {
		return l.tooLarge("what this %s body of %d bytes decodes to", encoding, len(r.body))
	}
	r.arm()
	var u *unzipper
	select {
	case u = <-l.unzip:
	case <-r.late:
		return full("too many compressed bodies at a time: nothing of this one was taken, send it again")
	case <-l.over:
		return full("this agent is stopping: nothing of this body was taken, send it again")
	}
	err := u.decode(r, encoding)
	u.src.Reset(nil)
	l.unzip <- u
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errTooLarge), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return l.tooLarge("what this %s body of %d bytes decodes to", encoding, len(r.body))
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return refuse(fasthttp.StatusRequestEntityTooLarge, "this zstd body wants a window of over %d bytes: compress it with a smaller one (zstd without --long)", maxWindow)
	case errors.Is(err, errNoRoom):
		return l.refusalOf(err, "")
	}
	return refuse(fasthttp.StatusBadRequest, "the body is not the %s it says it is, or is cut: %s; nothing of it was taken", encoding, reason(err))
}

// decode puts what r's body decodes to in its place.
// Errors: errTooLarge, errNoRoom, the decoder's.
func (u *unzipper) decode(r *request, encoding string) error {
	from, err := u.open(r.body, encoding)
	if err != nil {
		return err
	}
	n, err := readUpTo(from, u.head[:])
	size := int64(n)
	switch {
	case err == nil: // there is more: how much?
		rest, err := io.Copy(io.Discard, io.LimitReader(from, r.l.cfg.MaxBody+1-size))
		if err != nil {
			return err
		}
		size += rest
	case !errors.Is(err, io.EOF):
		return err
	}
	if size > r.l.cfg.MaxBody {
		return errTooLarge
	}
	var out []byte
	if !r.grow(&out, max(size, 1)) {
		return errNoRoom
	}
	if size > int64(n) {
		if from, err = u.open(r.body, encoding); err != nil {
			return err
		}
		out = out[:size]
		if _, err := io.ReadFull(from, out); err != nil {
			return err
		}
	} else {
		out = append(out, u.head[:n]...)
	}
	r.shed(&r.body)
	r.body = out
	return nil
}

// readUpTo fills p from r.
// Errors: io.EOF, and nothing that wraps it, where r ends in p or right behind
// it; r's others.
func readUpTo(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}

func reason(err error) string { return clip(err.Error(), 120) }

// announced returns how long a zstd body says it is decoded, 0 where it does
// not: bombs are honest about it as a rule. What gzip says is at the end, and
// nothing but noise when that was cut.
// Source: RFC 8878 §3.1.1.1.4, Frame_Content_Size.
func announced(raw []byte, encoding string) uint64 {
	var h zstd.Header
	if encoding != "zstd" || h.Decode(raw) != nil || !h.HasFCS {
		return 0
	}
	return h.FrameContentSize
}

// open returns a reader of what raw decodes to.
func (u *unzipper) open(raw []byte, encoding string) (io.Reader, error) {
	u.src.Reset(raw)
	if encoding == "gzip" {
		if err := u.gzip.Reset(&u.src); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		return &u.gzip, nil
	}
	if u.zstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("BUG: set up zstd: %w", err)
		}
		u.zstd = d
	}
	if len(raw) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return u.zstd, u.zstd.Reset(&u.src)
}
