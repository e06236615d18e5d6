package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// The sizes of an answer's reading. 32 KiB hold about 180 delivery reports,
// one read's worth on loopback; a head over 64 KiB is no head.
const (
	answerBuffer = 32 << 10
	maxHead      = 64 << 10
)

// errCut says that the connection ended before the answer did.
var errCut = errors.New("connection cut before the end of the answer")

// head is what matters of an HTTP response head.
type head struct {
	status      int
	contentType string
	encoding    string // Content-Encoding
	location    string
	server      string // its name, as Server says it; of a GET only
	rates       rates  // what it says of limits
	sent        string // Authorization header it answers; of a GET only
	doSFilter   string // Jetty's DoS filter says here what it did
	keepOpen    bool   // HTTP/1.1 without "Connection: close"
}

// answer reads one HTTP/1.1 response from a connection: its head, then its
// body as runs of bytes that lie in its own buffer.
//
// Ownership: what next returns is valid until the next call of next.
// Concurrency: one goroutine.
// Source: RFC 9112 §6 and §7.1; 1xx heads are skipped.
type answer struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is read from src and not yet handed out

	chunked   bool
	untilEOF  bool  // no length given: the body ends with the connection
	remain    int64 // bytes left of the current chunk, or of the whole body
	needCRLF  bool  // the CRLF behind a chunk's data is still to come
	ended     bool  // the body is over
	sawHead   bool
	bytesRead int64
}

func newAnswer(src io.Reader) *answer {
	return &answer{src: src, buf: make([]byte, answerBuffer)}
}

// again makes a ready for the next response on its connection.
func (a *answer) again() { *a = answer{src: a.src, buf: a.buf} }

// over says whether the response has ended and nothing came behind it.
func (a *answer) over() bool { return a.ended && !a.untilEOF && a.r == a.w }

// fill reads more bytes behind those that are buffered, making room first.
func (a *answer) fill() error {
	if a.r == a.w {
		a.r, a.w = 0, 0
	} else if a.w == len(a.buf) {
		if a.r == 0 {
			if len(a.buf) >= maxHead {
				return fmt.Errorf("answer has a line or head of more than %d bytes", maxHead)
			}
			a.buf = append(a.buf, make([]byte, len(a.buf))...)
		} else {
			a.w = copy(a.buf, a.buf[a.r:a.w])
			a.r = 0
		}
	}
	n, err := a.src.Read(a.buf[a.w:])
	a.w += n
	a.bytesRead += int64(n)
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// readHead reads up to the end of the first head that is not 1xx.
// Errors: io.EOF when the peer closed without a byte of an answer.
func (a *answer) readHead() (head, error) {
	for {
		raw, err := a.headBytes()
		if err != nil {
			return head{}, err
		}
		h, length, err := parseHead(raw)
		if err != nil {
			return head{}, err
		}
		if h.status >= 100 && h.status < 200 && h.status != 101 {
			continue
		}
		a.sawHead = true
		switch {
		case h.status == 204 || h.status == 304:
			a.ended = true
		case length == lengthChunked:
			a.chunked = true
		case length == lengthUnknown:
			a.untilEOF = true
		case length == 0:
			a.ended = true
		default:
			a.remain = length
		}
		return h, nil
	}
}

// headBytes returns one whole head, its blank line included.
func (a *answer) headBytes() ([]byte, error) {
	for seen := 0; ; {
		if i := bytes.Index(a.buf[a.r+seen:a.w], []byte("\r\n\r\n")); i >= 0 {
			end := a.r + seen + i + 4
			raw := a.buf[a.r:end]
			a.r = end
			return raw, nil
		}
		if n := a.w - a.r; n > 3 {
			seen = n - 3
		}
		if err := a.fill(); err != nil {
			if errors.Is(err, io.EOF) && a.w > a.r {
				return nil, fmt.Errorf("in the head of the answer: %w", errCut)
			}
			return nil, err
		}
	}
}

// What parseHead says of a body's length when it is not a number of bytes.
const (
	lengthChunked = -1
	lengthUnknown = -2
)

func parseHead(raw []byte) (head, int64, error) {
	line, rest, _ := bytes.Cut(raw, []byte("\r\n"))
	h := head{}
	proto, status, ok := strings.Cut(string(line), " ")
	if !ok || !strings.HasPrefix(proto, "HTTP/1.") {
		return h, 0, fmt.Errorf("not an HTTP/1.1 answer: it starts with %q", clip(line, 60))
	}
	status, _, _ = strings.Cut(status, " ")
	code, err := strconv.Atoi(status)
	if err != nil || code < 100 || code > 999 {
		return h, 0, fmt.Errorf("not an HTTP/1.1 answer: it starts with %q", clip(line, 60))
	}
	h.status = code
	h.keepOpen = proto == "HTTP/1.1"
	length := int64(lengthUnknown)
	for len(rest) > 2 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := strings.Cut(string(line), ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		name = strings.ToLower(name)
		h.rates.note(name, value)
		switch name {
		case "content-type":
			h.contentType = value
		case "content-encoding":
			h.encoding = strings.ToLower(value)
		case "location":
			h.location = value
		case "dosfilter":
			h.doSFilter = value
		case "connection":
			if strings.EqualFold(value, "close") {
				h.keepOpen = false
			}
		case "transfer-encoding":
			if strings.EqualFold(value, "chunked") {
				length = lengthChunked
			}
		case "content-length":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return h, 0, fmt.Errorf("content-length %q of the answer is not a length", clip([]byte(value), 40))
			}
			if length != lengthChunked {
				length = n
			}
		}
	}
	return h, length, nil
}

// next returns the next run of body bytes, reading from the connection only
// when none is buffered.
// Errors: io.EOF after the body's proper end; errCut when the connection ended
// first; else what reading said or what was wrong with the chunk framing.
func (a *answer) next() ([]byte, error) {
	for {
		switch {
		case a.ended:
			return nil, io.EOF
		case a.remain > 0:
			if a.r == a.w {
				if err := a.fill(); err != nil {
					return nil, cutIfEOF(err)
				}
			}
			return a.take(), nil
		case a.chunked:
			if err := a.chunkSize(); err != nil {
				return nil, err
			}
		case a.untilEOF:
			if a.r == a.w {
				if err := a.fill(); err != nil {
					return nil, err
				}
			}
			data := a.buf[a.r:a.w]
			a.r = a.w
			return data, nil
		default:
			a.ended = true
		}
	}
}

// take hands out what is buffered of the current chunk.
func (a *answer) take() []byte {
	n := a.w - a.r
	if int64(n) > a.remain {
		n = int(a.remain)
	}
	data := a.buf[a.r : a.r+n]
	a.r += n
	a.remain -= int64(n)
	if a.remain == 0 {
		if a.chunked {
			a.needCRLF = true
		} else {
			a.ended = true
		}
	}
	return data
}

// more says whether next can return body bytes, or the body's end, without
// reading.
func (a *answer) more() bool {
	buffered := a.buf[a.r:a.w]
	switch {
	case a.ended:
		return true
	case a.remain > 0 || !a.chunked:
		return len(buffered) > 0
	}
	if a.needCRLF {
		if len(buffered) < 3 {
			return false
		}
		buffered = buffered[2:]
	}
	i := bytes.IndexByte(buffered, '\n')
	return i >= 0 && i+1 < len(buffered)
}

// chunkSize reads the line in front of the next chunk's data, and the CRLF
// behind the last one's; at the last chunk it reads the trailers too.
func (a *answer) chunkSize() error {
	if a.needCRLF {
		for a.w-a.r < 2 {
			if err := a.fill(); err != nil {
				return cutIfEOF(err)
			}
		}
		if a.buf[a.r] != '\r' || a.buf[a.r+1] != '\n' {
			return fmt.Errorf("answer is not chunked as it says: no line end behind a chunk but %q", clip(a.buf[a.r:a.w], 20))
		}
		a.r += 2
		a.needCRLF = false
	}
	line, err := a.line()
	if err != nil {
		return err
	}
	size, ok := parseHex(line)
	if !ok {
		return fmt.Errorf("answer is not chunked as it says: %q stands for a chunk's size", clip(line, 20))
	}
	if size > 0 {
		a.remain = size
		return nil
	}
	for { // trailers, up to the blank line
		line, err := a.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			a.ended = true
			return nil
		}
	}
}

// line returns the next line without its CRLF.
func (a *answer) line() ([]byte, error) {
	for seen := 0; ; {
		if i := bytes.IndexByte(a.buf[a.r+seen:a.w], '\n'); i >= 0 {
			end := a.r + seen + i
			line := a.buf[a.r:end]
			a.r = end + 1
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			return line, nil
		}
		seen = a.w - a.r
		if err := a.fill(); err != nil {
			return nil, cutIfEOF(err)
		}
	}
}

// parseHex reads a chunk size; a chunk extension behind ";" is ignored.
func parseHex(line []byte) (int64, bool) {
	var n int64
	digits := 0
	for _, c := range line {
		var d byte
		switch {
		case c >= '0' && c <= '9':
			d = c - '0'
		case c >= 'a' && c <= 'f':
			d = c - 'a' + 10
		case c >= 'A' && c <= 'F':
			d = c - 'A' + 10
		case digits > 0 && (c == ';' || c == ' ' || c == '\t'):
			return n, true
		default:
			return 0, false
		}
		if digits++; digits > 15 {
			return 0, false
		}
		n = n<<4 | int64(d)
	}
	return n, digits > 0
}

// rest reads what is left of the body, at most limit bytes of it.
func (a *answer) rest(limit int) []byte {
	var out []byte
	for len(out) < limit {
		data, err := a.next()
		if err != nil {
			break
		}
		if len(data) > limit-len(out) {
			data = data[:limit-len(out)]
		}
		out = append(out, data...)
	}
	return out
}

func cutIfEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errCut
	}
	return err
}

// clip returns at most n bytes of b as text for a message.
func clip(b []byte, n int) string {
	if len(b) > n {
		return string(b[:n]) + "…"
	}
	return string(b)
}
