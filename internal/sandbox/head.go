package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
)

// maxHead is how many bytes a request's head may have.
// Source: rest-utils max.request.header.size.
const maxHead = 8192

// header is one line of a request's head; names keep the client's spelling.
type header struct{ name, value string }

// request is one request's head.
type request struct {
	method  string
	path    string // as sent, without the query
	query   url.Values
	minor   int // 0 or 1 of HTTP/1.x
	headers []header

	contentLength int64 // -1: none given
	chunked       bool
	close         bool // the connection ends with this response
	expect        bool // 100-continue was asked for
}

// get returns the first value of a header, "" when there is none.
func (r *request) get(name string) string {
	for _, h := range r.headers {
		if strings.EqualFold(h.name, name) {
			return h.value
		}
	}
	return ""
}

// hasToken says whether a comma-separated header names token.
func (r *request) hasToken(name, token string) bool {
	for _, h := range r.headers {
		if !strings.EqualFold(h.name, name) {
			continue
		}
		for part := range strings.SplitSeq(h.value, ",") {
			part, _, _ = strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// hasBody says whether a body follows the head.
func (r *request) hasBody() bool { return r.chunked || r.contentLength > 0 }

// headError is a head that cannot be served: the status to answer with before
// closing.
type headError struct {
	status int
	text   string
}

func (e *headError) Error() string { return fmt.Sprintf("%d: %s", e.status, e.text) }

// readRequest reads one head. io.EOF means the client closed between requests.
//
// Errors: *headError for what deserves an answer, else the connection's own.
// Source: RFC 9112; a head with both Content-Length and Transfer-Encoding, two
// lengths, or a coding other than chunked is refused, so that no two readers
// can disagree about where the next request starts.
func readRequest(br *bufio.Reader) (*request, error) {
	left := maxHead
	line, err := readLine(br, &left)
	for err == nil && line == "" { // blank lines before a request are allowed
		line, err = readLine(br, &left)
	}
	if err != nil {
		return nil, err
	}
	r := &request{contentLength: -1}
	if err := r.startLine(line); err != nil {
		return nil, err
	}
	for {
		line, err := readLine(br, &left)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, &headError{400, "Bad Request: illegal header line"}
		}
		r.headers = append(r.headers, header{name, strings.Trim(value, " \t")})
	}
	return r, r.framing()
}

// readLine reads one line without its end, counting its bytes against left.
func readLine(br *bufio.Reader, left *int) (string, error) {
	line, err := br.ReadSlice('\n')
	*left -= len(line)
	if errors.Is(err, bufio.ErrBufferFull) || *left < 0 {
		return "", &headError{431, "Request Header Fields Too Large"}
	}
	if err != nil {
		if len(line) > 0 && errors.Is(err, io.EOF) {
			return "", io.ErrUnexpectedEOF
		}
		return "", err
	}
	line = bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'})
	return string(line), nil
}

func (r *request) startLine(line string) error {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[0] == "" {
		return &headError{400, "Bad Request: illegal request line"}
	}
	switch parts[2] {
	case "HTTP/1.1":
		r.minor = 1
	case "HTTP/1.0":
	default:
		return &headError{505, "HTTP Version Not Supported"}
	}
	r.method = parts[0]
	target := parts[1]
	if i := strings.Index(target, "://"); i > 0 { // absolute form
		rest := target[i+3:]
		target = "/"
		if j := strings.IndexByte(rest, '/'); j >= 0 {
			target = rest[j:]
		}
	}
	if !strings.HasPrefix(target, "/") {
		return &headError{400, "Bad Request: illegal request target"}
	}
	var rawQuery string
	r.path, rawQuery, _ = strings.Cut(target, "?")
	var err error
	if r.query, err = url.ParseQuery(rawQuery); err != nil {
		return &headError{400, "Bad Request: illegal query"}
	}
	return nil
}

// framing works out how the body is delimited and whether the connection goes on.
func (r *request) framing() error {
	hosts := 0
	for _, h := range r.headers {
		switch {
		case strings.EqualFold(h.name, "Content-Length"):
			n, err := strconv.ParseInt(h.value, 10, 64)
			if err != nil || n < 0 || r.contentLength >= 0 && r.contentLength != n {
				return &headError{400, "Bad Request: illegal Content-Length"}
			}
			r.contentLength = n
		case strings.EqualFold(h.name, "Transfer-Encoding"):
			if !strings.EqualFold(h.value, "chunked") || r.chunked {
				return &headError{400, "Bad Request: unknown Transfer-Encoding"}
			}
			r.chunked = true
		case strings.EqualFold(h.name, "Host"):
			hosts++
		case strings.EqualFold(h.name, "Expect"):
			if !strings.EqualFold(h.value, "100-continue") {
				return &headError{417, "Expectation Failed"}
			}
			r.expect = r.minor == 1
		}
	}
	switch {
	case r.chunked && r.contentLength >= 0:
		return &headError{400, "Bad Request: Content-Length and Transfer-Encoding"}
	case r.chunked && r.minor == 0:
		return &headError{400, "Bad Request: Transfer-Encoding in HTTP/1.0"}
	case r.minor == 1 && hosts != 1:
		return &headError{400, "Bad Request: one Host header is needed"}
	}
	r.close = r.hasToken("Connection", "close") || r.minor == 0 && !r.hasToken("Connection", "keep-alive")
	return nil
}
