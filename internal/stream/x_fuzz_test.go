package stream

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzReports: reports come out alike whether fed whole, cut anywhere, or
// byte by byte, whether by the learned shapes or by the general scanner; and
// they say what encoding/json says.
func FuzzReports(f *testing.F) {
	for _, s := range []string{
		reportBoth, reportWhole + "\r\n" + reportBoth, strings.Repeat(reportNulls+reportBare, 3),
		`{"error_code":400,"message":"a \"}{\\\" \\ ["}` + reportBare, `{"error_code":200,,}{}`, "{]", "<html>", reportBoth + reportBoth[:50],
		reportBoth + strings.Replace(reportBoth, "67217", "007", 1),
		reportBoth + strings.Replace(reportBoth, `26}`, `026}`, 1),
		reportBoth + strings.Replace(reportBoth, "16:29", `1":29`, 1),
		reportBoth + strings.Replace(reportBoth, "2021", "20\x011", 1),
		reportBoth + strings.Replace(reportBoth, `:3,`, `:3000000000,`, 1),
		reportBoth + strings.Replace(reportBoth, "67217", "-", 1),
	} {
		f.Add([]byte(s), uint(7), uint(40))
	}
	f.Fuzz(func(t *testing.T, in []byte, a, b uint) {
		want, wantErr := feed(false, bytes.Clone(in))
		n := uint(len(in)) + 1
		at := []int{int(a % n), int(b % n)}
		if at[0] > at[1] {
			at[0], at[1] = at[1], at[0]
		}
		same := func(how string, got []parsed, err error) {
			if fmt.Sprint(got) != fmt.Sprint(want) || !errors.Is(err, wantErr) {
				t.Errorf("%s of %q:\n got %+v %v\nwant %+v %v", how, in, got, err, want, wantErr)
			}
		}
		got, err := feed(false, split(in, at...)...)
		same(fmt.Sprint("cut at ", at), got, err)
		if len(in) > 1 {
			single := make([]int, len(in)-1)
			for i := range single {
				single[i] = i + 1
			}
			got, err = feed(false, split(in, single...)...)
			same("byte by byte", got, err)
		}
		fast, err := feed(true, bytes.Clone(in))
		if len(fast) != len(want) || !errors.Is(err, wantErr) {
			t.Errorf("by shapes %q: %d reports, %v; want %d, %v", in, len(fast), err, len(want), wantErr)
		}
		for i := range min(len(fast), len(want)) {
			if (fast[i].code == 200) != (want[i].code == 200) {
				t.Errorf("report %d of %q: code %d by shapes, %d without", i, in, fast[i].code, want[i].code)
			}
		}
		compare(t, in, want)
	})
}

// compare reads in with encoding/json as far as that can, and wants the same
// error codes and offsets.
func compare(t *testing.T, in []byte, got []parsed) {
	d := json.NewDecoder(bytes.NewReader(in))
	for i := 0; ; i++ {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil || len(raw) == 0 || raw[0] != '{' {
			return
		}
		var wire struct {
			ErrorCode int    `json:"error_code"`
			Offset    *int64 `json:"offset"`
		}
		err := json.Unmarshal(raw, &wire)
		if i >= len(got) {
			t.Fatalf("encoding/json finds report %d in %q: %s", i, in, raw)
		}
		// goccy/go-json is as strict about what matters, a code and an offset;
		// where either declines the report counts as unreadable.
		if err == nil && got[i].code != 0 && got[i].code != wire.ErrorCode {
			t.Errorf("report %d of %q: code %d, encoding/json says %d", i, in, got[i].code, wire.ErrorCode)
		}
		if err == nil && got[i].code == 200 && wire.Offset != nil && got[i].offset != *wire.Offset {
			t.Errorf("report %d of %q: offset %d, encoding/json says %d", i, in, got[i].offset, *wire.Offset)
		}
		if err != nil && got[i].code == 200 {
			t.Errorf("report %d of %q is good, encoding/json says %v", i, in, err)
		}
	}
}

// FuzzAnswer: a response that both we and net/http read has the same status
// and body; what net/http finds cut short is no proper end for us.
func FuzzAnswer(f *testing.F) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, s := range []string{
		ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		ok + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n00a\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
		ok + "Content-Length: 5\r\n\r\nhello", ok + "Content-Length: 5\r\n\r\nhel", ok + "\r\nto the end",
		ok + "Content-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.0 503 X\r\n\r\naway",
		"HTTP/1.1 100 Continue\r\n\r\n" + ok + "Content-Length: 1\r\n\r\nx",
		ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n", ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "nonsense", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		h, body, err := readAnswer(bytes.NewReader(in))
		h1, body1, err1 := readAnswer(iotest.OneByteReader(bytes.NewReader(in)))
		if h != h1 || !bytes.Equal(body, body1) || (err == nil) != (err1 == nil) {
			t.Errorf("%q byte by byte: %+v %q %v, whole %+v %q %v", in, h1, body1, err1, h, body, err)
		}
		headEnd := bytes.Index(in, []byte("\r\n\r\n"))
		if headEnd < 0 || bytes.Count(in[:headEnd], []byte("\n")) != bytes.Count(in[:headEnd], []byte("\r\n")) {
			return // net/http takes a lone line feed for a line's end, RFC 9112 allows to
		}
		if bytes.HasPrefix(in, []byte("HTTP/1.0")) && bytes.Contains(bytes.ToLower(in[:headEnd]), []byte("transfer-encoding")) {
			return // net/http ignores it there; servers that send it mean it
		}
		status, want, wantErr := readNetHTTP(in)
		if h.status == http.StatusSwitchingProtocols {
			return // nobody asked for it
		}
		if err != nil || wantErr != nil {
			// Each is stricter about something; but nothing that net/http calls
			// cut short in a body of known framing may be whole for us.
			if err == nil && errors.Is(wantErr, io.ErrUnexpectedEOF) && h.status == status && status != 0 {
				t.Errorf("%q: %q is whole, net/http says %v", in, body, wantErr)
			}
			return
		}
		if status != h.status || !bytes.Equal(body, want) {
			t.Errorf("%q: %d %q, net/http reads %d %q", in, h.status, body, status, want)
		}
	})
}

// readAnswer reads one response the way a stream does.
func readAnswer(r io.Reader) (head, []byte, error) {
	a := newAnswer(r)
	h, err := a.readHead()
	if err != nil {
		return h, nil, err
	}
	var body []byte
	for {
		data, err := a.next()
		body = append(body, data...)
		if errors.Is(err, io.EOF) {
			return h, body, nil
		}
		if err != nil {
			return h, body, err
		}
	}
}

// readNetHTTP reads one response with net/http, 1xx heads skipped. Its status
// is 0 for what it reads otherwise on purpose: codings in layers, bare line
// feeds, folded or doubled headers.
func readNetHTTP(in []byte) (status int, body []byte, err error) {
	br := bufio.NewReader(bytes.NewReader(in))
	for {
		resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodPost})
		if err != nil {
			return 0, nil, err
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 && resp.StatusCode != 101 {
			continue
		}
		if te := resp.Header.Values("Transfer-Encoding"); len(te) > 0 || resp.ProtoMajor != 1 || len(resp.Header.Values("Content-Length")) > 1 {
			return 0, nil, errors.New("read otherwise")
		}
		body, err = io.ReadAll(resp.Body)
		return resp.StatusCode, body, err
	}
}
