package stream

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestAnswer(t *testing.T) {
	f := func(name, in string, status int, body string) {
		t.Helper()
		for how, r := range map[string]io.Reader{
			"whole": strings.NewReader(in), "byte by byte": iotest.OneByteReader(strings.NewReader(in)),
			"halves": iotest.HalfReader(strings.NewReader(in)), "with EOF": iotest.DataErrReader(strings.NewReader(in)),
		} {
			h, got, err := readAnswer(r)
			if err != nil || h.status != status || string(got) != body {
				t.Errorf("%s, %s: %d %q %v, want %d %q", name, how, h.status, got, err, status, body)
			}
		}
	}
	const ok, chunked = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	f("chunked", chunked+"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 200, "hello world")
	f("object and line end apart", chunked+"2\r\n{}\r\n2\r\n\r\n\r\n0\r\n\r\n", 200, "{}\r\n")
	f("extensions and zeros", chunked+"0005;x=\"y\"\r\nhello\r\n1 \r\n!\r\nA\r\n0123456789\r\n000\r\n\r\n", 200, "hello!0123456789")
	f("trailers", chunked+"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n", 200, "x")
	f("no body", chunked+"0\r\n\r\n", 200, "")
	f("length", ok+"Content-Length: 5\r\n\r\nhello", 200, "hello")
	f("length, more behind", ok+"content-length: 5\r\n\r\nhelloHTTP/1.1 500", 200, "hello")
	f("length 0", ok+"Content-Length: 0\r\n\r\n", 200, "")
	f("until closed", "HTTP/1.0 503 Service Unavailable\r\n\r\naway", 503, "away")
	f("no content", "HTTP/1.1 204 No Content\r\n\r\n", 204, "")
	f("no reason", "HTTP/1.1 429\r\nContent-Length: 1\r\n\r\nx", 429, "x")
	f("continue first", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"+chunked+"1\r\nx\r\n0\r\n\r\n", 200, "x")
	f("chunked rules over a length", ok+"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 200, "x")
	f("chunk larger than the buffer", chunked+"20000\r\n"+strings.Repeat("x", 0x20000)+"\r\n0\r\n\r\n", 200, strings.Repeat("x", 0x20000))
}

func TestAnswerHead(t *testing.T) {
	h, _, err := readAnswer(strings.NewReader("HTTP/1.1 307 X\r\nLocation:  http://a/b \r\nRETRY-AFTER: 3\r\nContent-Encoding: GZIP\r\nContent-Type: text/html\r\nDoSFilter: delayed\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n"))
	if err != nil || h.location != "http://a/b" || h.rates.retryAfter != "3" || h.encoding != "gzip" || h.contentType != "text/html" {
		t.Errorf("%+v, %v", h, err)
	}
}

// Wherever the connection ends before the answer does, that is told apart from
// a proper end.
func TestAnswerCut(t *testing.T) {
	f := func(in string) {
		t.Helper()
		for i := range len(in) {
			_, _, err := readAnswer(strings.NewReader(in[:i]))
			if i == 0 {
				if !errors.Is(err, io.EOF) {
					t.Errorf("nothing at all: %v", err)
				}
				continue
			}
			if !errors.Is(err, errCut) {
				t.Errorf("%q: %v", in[:i], err)
			}
		}
	}
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x\r\n!\r\n0\r\nA: b\r\n\r\n")
	f("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
}

func TestAnswerRefused(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if _, _, err := readAnswer(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q in it", in, err, want)
		}
	}
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	f("SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP/1.1 answer")
	f("HTTP/2.0 200 OK\r\n\r\n", "not an HTTP/1.1 answer")
	f("HTTP/1.1 abc\r\n\r\n", "not an HTTP/1.1 answer")
	f("HTTP/1.1 99 X\r\n\r\n", "not an HTTP/1.1 answer")
	f("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "not a length")
	f("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "not a length")
	f(chunked+"x\r\n", "chunk's size")
	f(chunked+"\r\n", "chunk's size")
	f(chunked+"-1\r\n", "chunk's size")
	f(chunked+"10000000000000000\r\n", "chunk's size")
	f(chunked+"1\r\nxy\r\n", "no line end")
	f("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 2*maxHead), "more than")
	f(chunked+strings.Repeat("0", 2*maxHead), "more than")
	f(chunked+"1;"+strings.Repeat("x", 2*maxHead), "more than")
	f(chunked+"0\r\nA: "+strings.Repeat("x", 2*maxHead), "more than")
}

// more is true exactly when the next run of bytes needs no read.
func TestAnswerMore(t *testing.T) {
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	f := func(body string, want ...bool) {
		t.Helper()
		r := io.MultiReader(strings.NewReader(chunked+body), iotest.ErrReader(errors.New("read")))
		a := newAnswer(r)
		if _, err := a.readHead(); err != nil {
			t.Fatal(err)
		}
		var got []bool
		for {
			before := a.bytesRead
			if _, err := a.next(); err != nil || a.bytesRead != before {
				break
			}
			got = append(got, a.more())
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %v, want %v", body, got, want)
		}
	}
	f("1\r\nx\r\n", false)
	f("1\r\nx\r\n1", false)
	f("1\r\nx\r\n1\r\n", false)
	f("1\r\nx\r\n1\r\ny", true, false)
	f("1\r\nx\r\n1;abc", false)
	f("1\r\nx\r\n2\r\n\r\n\r\n", true, false)
	f("1\r\nx", false)
	f("1\r\nx\r", false)
}
