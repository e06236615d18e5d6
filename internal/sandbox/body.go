package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// body reads one request's body. It gives out what the connection's buffer
// holds, so that a record is seen as soon as its bytes are there.
//
// Concurrency: for the connection's own goroutine.
type body struct {
	br       *bufio.Reader
	chunked  bool
	left     int64 // bytes left of the chunk, or of the whole body
	done     bool
	inChunk  bool   // left counts a chunk whose end has not been read
	before   func() // called once before the first read that may block (100 Continue)
	maxRead  int    // bytes given out at once; 0 = no bound
	consumed int64
}

// errBadChunk is a chunk frame that cannot be read. The connection cannot be
// used any further.
var errBadChunk = errors.New("bad chunk")

func newBody(br *bufio.Reader, r *request) *body {
	b := &body{br: br, chunked: r.chunked, left: max(r.contentLength, 0)}
	b.done = !r.chunked && b.left == 0
	return b
}

// appendNext waits for bytes of the body and appends what is there to dst. It
// returns io.EOF at the body's end, io.ErrUnexpectedEOF when the connection
// ends first.
func (b *body) appendNext(dst []byte) ([]byte, error) {
	if b.before != nil {
		if b.br.Buffered() == 0 && !b.done {
			b.before()
		}
		b.before = nil
	}
	for !b.done && b.chunked && b.left == 0 {
		if err := b.nextChunk(); err != nil {
			return dst, err
		}
	}
	if b.done {
		return dst, io.EOF
	}
	if b.br.Buffered() == 0 {
		if _, err := b.br.Peek(1); err != nil {
			return dst, unexpected(err)
		}
	}
	n := int(min(int64(b.br.Buffered()), b.left))
	if b.maxRead > 0 {
		n = min(n, b.maxRead)
	}
	part, _ := b.br.Peek(n)
	dst = append(dst, part...)
	_, _ = b.br.Discard(n)
	b.consumed += int64(n)
	if b.left -= int64(n); b.left == 0 && !b.chunked {
		b.done = true
	}
	return dst, nil
}

// nextChunk reads the end of the chunk before and the head of the next.
func (b *body) nextChunk() error {
	left := 4096
	if b.inChunk {
		line, err := readLine(b.br, &left)
		if err != nil {
			return unexpected(err)
		}
		if line != "" {
			return fmt.Errorf("%w: no line end behind its data", errBadChunk)
		}
		b.inChunk = false
	}
	line, err := readLine(b.br, &left)
	if err != nil {
		return unexpected(err)
	}
	size, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(strings.TrimRight(size, " \t"), 16, 62)
	if err != nil {
		return fmt.Errorf("%w: size %q", errBadChunk, size)
	}
	if n > 0 {
		b.left, b.inChunk = int64(n), true
		return nil
	}
	for { // trailers
		line, err := readLine(b.br, &left)
		if err != nil {
			return unexpected(err)
		}
		if line == "" {
			b.done = true
			return nil
		}
	}
}

// unexpected makes an end of the connection inside a body distinct from the
// body's own end.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
