package listener

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// maxHead is the longest head of a request, as a cluster has it.
// Source: rest-utils max.request.header.size.
const maxHead = 8 << 10

// writeTime is how long a client may take to take an answer.
const writeTime = 30 * time.Second

// server returns the HTTP server of l. Only the first byte of a body is read
// before a request is looked at; the rest is the handler's to read.
func (l *Listener) server() *fasthttp.Server {
	return &fasthttp.Server{
		Handler: l.handle, ExpectHandler: l.expect, HeaderReceived: headReceived, ErrorHandler: l.badHead, ConnState: l.changed,
		ReadTimeout: l.cfg.HeaderTimeout, WriteTimeout: writeTime, IdleTimeout: l.cfg.IdleTimeout,
		ReadBufferSize: maxHead, MaxRequestBodySize: 1, StreamRequestBody: true, DisablePreParseMultipartForm: true,
		NoDefaultServerHeader: true, NoDefaultContentType: true, KeepHijackedConns: true,
		NoDefaultDate:         true, // it has a goroutine for it that never ends; say sets one
		SecureErrorLogMessage: true, Logger: printer{l.log},
	}
}

// printer is fasthttp's log. What it says is of no use to an operator, and may
// be made of what clients sent: it is only kept for debugging, cut short.
type printer struct{ log *slog.Logger }

func (p printer) Printf(format string, args ...any) {
	p.log.Debug("http", "text", clip(fmt.Sprintf(format, args...), 200))
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// headReceived makes fasthttp ask for leave whatever a client expects, and
// however that is spelled; what is no 100-continue is refused then.
func headReceived(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if len(h.Peek("Expect")) > 0 {
		h.Set("Expect", "100-continue")
	}
	return fasthttp.RequestConfig{}
}

// refusal is an answer that says no.
type refusal struct {
	status  int
	code    int // error_code; 0: the status
	message string
	retry   int    // seconds to wait; 0: does not help
	allow   string // methods, with 405
}

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, message: fmt.Sprintf(format, args...)}
}

// full is a refusal for want of room.
func full(format string, args ...any) *refusal {
	return &refusal{status: fasthttp.StatusServiceUnavailable, message: fmt.Sprintf(format, args...), retry: 1}
}

// answer gives a refusal. Whatever of a body was not read makes the connection
// close, after a little of it was read.
func (l *Listener) answer(ctx *fasthttp.RequestCtx, no *refusal) {
	code := no.code
	if code == 0 {
		code = no.status
	}
	h := &ctx.Response.Header
	if no.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(no.retry))
		l.refused.Add(1)
	}
	if no.allow != "" {
		h.Set("Allow", no.allow)
	}
	if no.status == fasthttp.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="produce-agent"`)
	}
	body := append([]byte(`{"error_code":`), strconv.Itoa(code)...)
	body = appendString(append(body, `,"message":`...), no.message)
	l.say(ctx, no.status, append(body, "}\n"...))
}

// say answers with JSON.
func (l *Listener) say(ctx *fasthttp.RequestCtx, status int, body []byte) {
	ctx.Response.SetStatusCode(status)
	h := &ctx.Response.Header
	h.SetContentType("application/json")
	h.SetBytesV("Date", fasthttp.AppendHTTPDate(make([]byte, 0, 32), time.Now()))
	ctx.Response.SetBodyRaw(body)
	l.answered[status].Add(1)
	if l.stopping() {
		ctx.SetConnectionClose()
	}
}

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	raw, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string that is none: " + err.Error())
	}
	return append(dst, raw...)
}

// badHead answers what is no request.
func (l *Listener) badHead(ctx *fasthttp.RequestCtx, err error) {
	if c, ok := ctx.Conn().(*conn); ok && c.begin() {
		c.drain.Store(true)
	}
	status, text := fasthttp.StatusBadRequest, "the head of this request is not HTTP/1.1"
	var small *fasthttp.ErrSmallBuffer
	switch {
	case errors.As(err, &small):
		status, text = fasthttp.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("the head of a request must be shorter than %d bytes", maxHead)
	case isTimeout(err):
		status, text = fasthttp.StatusRequestTimeout, fmt.Sprintf("no whole request came within %s", l.cfg.HeaderTimeout)
	}
	l.answer(ctx, refuse(status, "%s", text))
}

// expect decides on a request whose client waits for leave to send its body.
func (l *Listener) expect(ctx *fasthttp.RequestCtx) int {
	c, ok := ctx.Conn().(*conn)
	if !ok || !c.begin() {
		return fasthttp.StatusServiceUnavailable
	}
	if _, no := l.check(ctx); no != nil {
		c.drain.Store(true)
		l.answer(ctx, no)
		return no.status
	}
	return fasthttp.StatusContinue
}

// handle answers one request.
func (l *Listener) handle(ctx *fasthttp.RequestCtx) {
	c, ok := ctx.Conn().(*conn)
	if !ok || !c.begin() { // it is being closed; no answer may say that all is well
		l.answer(ctx, full("this connection is being closed, for this agent stops or has too many: send it again"))
		ctx.SetConnectionClose()
		return
	}
	defer c.unsent.Add(1)
	t, no := l.check(ctx)
	if no != nil {
		l.leaveBody(ctx, c)
		l.answer(ctx, no)
		return
	}
	if t.serve != nil {
		l.leaveBody(ctx, c)
		t.serve(l, ctx, &t)
		return
	}
	if t.topic != "" {
		l.openStream(ctx, c, &t)
		return
	}
	l.take(ctx, c, &t)
}

// leaveBody says that the body, if there is one, is not read: the connection
// cannot be used any further.
func (l *Listener) leaveBody(ctx *fasthttp.RequestCtx, c *conn) {
	if n := ctx.Request.Header.ContentLength(); n == 0 || n == -2 {
		return
	}
	ctx.SetConnectionClose()
	c.drain.Store(true)
}

// format is what a body is made of.
type format uint8

const (
	formatText format = iota
	formatNDJSON
	formatJSON
)

// target is what a request is for.
type target struct {
	serve    func(l *Listener, ctx *fasthttp.RequestCtx, t *target) // a GET
	base     string                                                 // of REST v3 as the client sees it, up to /v3
	cluster  string
	topic    string // of a produce request
	format   format
	encoding string // of the body: "", gzip or zstd
}

// check decides on a request by its head alone.
func (l *Listener) check(ctx *fasthttp.RequestCtx) (target, *refusal) {
	if no := checkFraming(&ctx.Request.Header); no != nil {
		ctx.SetConnectionClose()
		return target{}, no
	}
	if no := l.authorize(ctx); no != nil {
		return target{}, no
	}
	t, no := l.route(ctx)
	if no != nil || t.serve != nil {
		return t, no
	}
	if l.stopping() {
		return t, full("this agent is stopping: send it again in a moment")
	}
	if err := l.routerError(); err != nil {
		return t, full("this input has ended: %v", err)
	}
	if n := ctx.Request.Header.ContentLength(); t.topic == "" && int64(n) > l.cfg.MaxBody {
		return t, l.tooLarge("the body of %d bytes", n)
	}
	return t, nil
}

func (l *Listener) tooLarge(what string, args ...any) *refusal {
	return refuse(fasthttp.StatusRequestEntityTooLarge, what+" is over max_body %d: send it in parts", append(args, l.cfg.MaxBody)...)
}

// checkFraming refuses heads of which two readers could think differently
// where the request ends. fasthttp has found its lines to be well-formed.
// Source: RFC 9112 §5.2, §6.1, §6.3.
func checkFraming(h *fasthttp.RequestHeader) *refusal {
	length, coded := false, false
	for line := range bytes.Lines(h.RawHeaders()) {
		line, whole := bytes.CutSuffix(line, []byte("\r\n"))
		if !whole {
			return refuse(fasthttp.StatusBadRequest, "a header line must end with CR and LF")
		}
		if len(line) == 0 {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			return refuse(fasthttp.StatusBadRequest, "a header that is folded over two lines is not taken")
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return refuse(fasthttp.StatusBadRequest, "a carriage return inside a header")
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || bytes.IndexByte(name, ' ') >= 0 || bytes.IndexByte(name, '\t') >= 0 {
			return refuse(fasthttp.StatusBadRequest, "a header line that is none")
		}
		if c := name[0] | 0x20; c != 'c' && c != 't' && c != 'e' {
			continue
		}
		value = bytes.Trim(value, " \t")
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length || !digits(value) {
				return refuse(fasthttp.StatusBadRequest, "Content-Length must be one number")
			}
			length = true
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			if coded || !bytes.EqualFold(value, []byte("chunked")) {
				return refuse(fasthttp.StatusBadRequest, "Transfer-Encoding can be chunked only: a compressed body has a Content-Encoding")
			}
			coded = true
		case bytes.EqualFold(name, []byte("Expect")):
			if !bytes.EqualFold(value, []byte("100-continue")) {
				return refuse(fasthttp.StatusExpectationFailed, "only Expect: 100-continue is known")
			}
		}
	}
	switch {
	case length && coded:
		return refuse(fasthttp.StatusBadRequest, "a request with both Content-Length and Transfer-Encoding is not taken")
	case coded && !h.IsHTTP11():
		return refuse(fasthttp.StatusBadRequest, "Transfer-Encoding in a request of HTTP/1.0")
	}
	return nil
}

func digits(s []byte) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(s) > 0
}

// authorize checks the token. A client that can only do Basic, as those of
// Confluent Cloud, sends the token as password.
func (l *Listener) authorize(ctx *fasthttp.RequestCtx) *refusal {
	if l.cfg.Token == nil {
		return nil
	}
	want, err := l.cfg.Token()
	if err != nil || want == "" {
		if err == nil {
			err = fmt.Errorf("the token is empty")
		}
		l.setTrouble("token", fmt.Errorf("read the listener's token: %w", err))
		l.quiet.Warn("token", "cannot read the token clients must send: all are refused", "error", err)
		return full("this agent cannot read the token it is to ask for: see its log")
	}
	l.setTrouble("token", nil)
	got := given(ctx.Request.Header.Peek("Authorization"))
	if a, b := sha256.Sum256(got), sha256.Sum256([]byte(want)); subtle.ConstantTimeCompare(a[:], b[:]) == 1 {
		return nil
	}
	return &refusal{status: fasthttp.StatusUnauthorized, code: 40101, message: "Unauthorized: send the token of this listener, as Authorization: Bearer"}
}

// given returns the secret of an Authorization header, nil without one.
func given(header []byte) []byte {
	scheme, rest, _ := bytes.Cut(header, []byte(" "))
	rest = bytes.Trim(rest, " ")
	switch {
	case bytes.EqualFold(scheme, []byte("Bearer")):
		return rest
	case bytes.EqualFold(scheme, []byte("Basic")):
		plain, err := base64.StdEncoding.DecodeString(string(rest))
		if err != nil {
			return nil
		}
		_, password, _ := bytes.Cut(plain, []byte(":"))
		return password
	}
	return nil
}

// accepts says whether the input takes a kind of body.
func (l *Listener) accepts(kind string) bool { return slices.Contains(l.cfg.Accept, kind) }

// route finds out what a request is for.
func (l *Listener) route(ctx *fasthttp.RequestCtx) (target, *refusal) {
	path := ctx.URI().PathOriginal()
	rest, api := bytes.CutPrefix(path, []byte("/kafka/v3"))
	if !api {
		rest, api = bytes.CutPrefix(path, []byte("/v3"))
	}
	if api && (len(rest) == 0 || rest[0] == '/') {
		return l.routeKafka(ctx, string(path[:len(path)-len(rest)]), string(rest))
	}
	if len(path) > 1 {
		name, ok := bytes.CutPrefix(path, []byte("/ingest"))
		if !ok || len(name) > 0 && string(name) != "/" && string(name) != "/"+l.cfg.Name {
			return target{}, refuse(fasthttp.StatusNotFound, "nothing is at %q: records go to / or /ingest or /ingest/%s", clip(string(path), 100), l.cfg.Name)
		}
	}
	if !ctx.IsPost() {
		return target{}, &refusal{status: fasthttp.StatusMethodNotAllowed, message: "records are sent by POST", allow: "POST"}
	}
	return l.routeBody(&ctx.Request.Header)
}

// routeBody looks at what kind of body a plain request has.
func (l *Listener) routeBody(h *fasthttp.RequestHeader) (t target, no *refusal) {
	kind, params, _ := strings.Cut(strings.ToLower(string(h.ContentType())), ";")
	need := ""
	switch strings.TrimSpace(kind) {
	case "", "text/plain":
		t.format, need = formatText, AcceptText
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines":
		t.format, need = formatNDJSON, AcceptNDJSON
	case "application/json":
		t.format, need = formatJSON, AcceptJSON
	}
	if need == "" || !l.accepts(need) {
		return t, refuse(fasthttp.StatusUnsupportedMediaType, "Content-Type %q is not taken here: %s", clip(kind, 60), l.takes())
	}
	if charset := paramOf(params, "charset"); need != AcceptText && charset != "" && charset != "utf-8" && charset != "us-ascii" {
		return t, refuse(fasthttp.StatusUnsupportedMediaType, "charset %q is not taken: JSON is UTF-8", clip(charset, 40))
	}
	t.encoding, no = encodingOf(h)
	return t, no
}

// takes says what kinds of body there are, with curl in mind.
func (l *Listener) takes() string {
	var known []string
	for _, a := range l.cfg.Accept {
		switch a {
		case AcceptText:
			known = append(known, "text/plain (a record a line)")
		case AcceptNDJSON:
			known = append(known, "application/x-ndjson")
		case AcceptJSON:
			known = append(known, "application/json (a value or an array of them)")
		}
	}
	if known == nil {
		return "this input takes the produce requests of Kafka REST v3 only"
	}
	return "send " + strings.Join(known, ", ")
}

// paramOf returns one parameter of a content type in lower case.
func paramOf(params, name string) string {
	for p := range strings.SplitSeq(params, ";") {
		if n, v, _ := strings.Cut(strings.TrimSpace(p), "="); n == name {
			return strings.Trim(v, `"`)
		}
	}
	return ""
}

// encodingOf returns how a body is compressed.
func encodingOf(h *fasthttp.RequestHeader) (string, *refusal) {
	all := h.PeekAll("Content-Encoding")
	if len(all) == 0 {
		return "", nil
	}
	switch e := strings.ToLower(string(all[0])); {
	case len(all) > 1:
	case e == "" || e == "identity":
		return "", nil
	case e == "gzip" || e == "x-gzip":
		return "gzip", nil
	case e == "zstd":
		return "zstd", nil
	}
	return "", refuse(fasthttp.StatusUnsupportedMediaType, "Content-Encoding %q is not known: send the body plain, or as gzip or zstd", clip(string(bytes.Join(all, []byte(", "))), 60))
}
