package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/bench/line"
)

// unchunk feeds body to a dechunker in pieces of step bytes.
func unchunk(body string, step int) (got string, d dechunker, rest int, err error) {
	var out []byte
	for len(body) > 0 && !d.done() {
		p := []byte(body[:min(step, len(body))])
		body = body[len(p):]
		for len(p) > 0 && !d.done() {
			payload, n, err := d.next(p)
			if err != nil {
				return string(out), d, 0, err
			}
			out = append(out, payload...)
			p = p[n:]
		}
		rest = len(p) + len(body)
	}
	return string(out), d, rest, nil
}

func TestDechunkerAnyCut(t *testing.T) {
	f := func(body, want string, wantChunks int64) {
		t.Helper()
		const next = "GET / HTTP/1.1\r\n"
		for step := 1; step <= len(body)+len(next); step++ {
			got, d, rest, err := unchunk(body+next, step)
			if err != nil || got != want || !d.done() || rest != len(next) || d.chunks != wantChunks {
				t.Fatalf("step %d: %q, done %v, %d bytes left, %d chunks, error %v; want %q, %d left, %d chunks",
					step, got, d.done(), rest, d.chunks, err, want, len(next), wantChunks)
			}
		}
	}
	f("0\r\n\r\n", "", 0)
	f("3\r\nabc\r\n0\r\n\r\n", "abc", 1)
	f("3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\n", "abc0123456789", 2)
	f("9;name=value\r\n0\r\n\r\n\r\n\r\n\r\n1\r\nx\r\n0\r\n\r\n", "0\r\n\r\n\r\n\r\nx", 2)
	f("1\r\nx\r\n0\r\nTrailer: a\r\nOther: b\r\n\r\n", "x", 1)
}

func TestDechunkerRefuses(t *testing.T) {
	f := func(body string) {
		t.Helper()
		for step := 1; step <= len(body); step++ {
			if got, d, _, err := unchunk(body, step); err == nil {
				t.Fatalf("step %d: %q taken as %q, done %v", step, body, got, d.done())
			}
		}
	}
	f("\r\n\r\n")
	f("xyz\r\n")
	f("-1\r\nx")
	f("3\r\nabcd\r\n")
	f("ffffffffffffffff\r\n")
}

func TestSplitterAnyCut(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		for step := 1; step <= len(body); step++ {
			var got []string
			each := func(rec []byte) { got = append(got, string(rec)) }
			var s splitter
			for at := 0; at < len(body); at += step {
				s.cut([]byte(body[at:min(at+step, len(body))]), each)
			}
			s.end(each)
			if !slices.Equal(got, want) {
				t.Fatalf("step %d of %q: %q, want %q", step, body, got, want)
			}
		}
	}
	f("a\nbb\nccc\n", "a", "bb", "ccc")
	f("a\nbb", "a", "bb")
	f("\n", []string(nil)...)
	f("\n\n{}\n \r\n{}\n\t", "{}", "{}")
}

func TestSeen(t *testing.T) {
	f := func(seqs []uint64, expect uint64, distinct, missing, dups, unexpected int64) {
		t.Helper()
		ta := newTally(expect, 1000, false)
		for _, s := range seqs {
			ta.seen.mark(s, true)
		}
		r := ta.result()
		if r.Distinct != distinct || r.Missing != missing || r.Duplicates != dups || r.Unexpected != unexpected {
			t.Fatalf("%v of %d: %+v, want %d distinct, %d missing, %d duplicates, %d unexpected",
				seqs, expect, r, distinct, missing, dups, unexpected)
		}
	}
	f(nil, 0, 0, 0, 0, 0)
	f(nil, 7, 0, 7, 0, 0)
	f([]uint64{0, 1, 2}, 0, 3, 0, 0, 0)
	f([]uint64{0, 2, 64, 127, 128}, 0, 5, 124, 0, 0)
	f([]uint64{0, 1, 1, 1, 2}, 3, 3, 0, 2, 0)
	f([]uint64{62, 63, 64, 65}, 64, 2, 62, 0, 2)
	f([]uint64{64, 65, 66}, 65, 1, 64, 0, 2)
	f([]uint64{0, 1_000_000}, 1, 1, 0, 0, 1)

	ta := newTally(1, 64, false)
	ta.seen.mark(0, false)
	if r := ta.result(); r.Distinct != 0 || r.Unexpected != 1 {
		t.Fatalf("a record without a number was counted: %+v", r)
	}
}

// start serves with s on a free port until the test ends.
func start(t *testing.T, s *server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.serve(l) }()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func records(t *testing.T, typ string, from, to uint64) []byte {
	t.Helper()
	m, err := line.NewMaker(200)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for i := from; i < to; i++ {
		if out, err = line.Wrap(out, m.Append(nil, i, 0), typ); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// checkReports reads want success reports from r and then its end.
func checkReports(t *testing.T, r io.Reader, want int) {
	t.Helper()
	in := bufio.NewReader(r)
	next := map[int32]int64{}
	for i := range want {
		l, err := in.ReadBytes('\n')
		if err != nil || !bytes.HasSuffix(l, []byte("}\r\n")) {
			t.Fatalf("report %d: %q, %v", i, l, err)
		}
		var rep struct {
			Code      int    `json:"error_code"`
			Cluster   string `json:"cluster_id"`
			Topic     string `json:"topic_name"`
			Partition *int32 `json:"partition_id"`
			Offset    int64
			Timestamp time.Time
			Value     struct {
				Type string
				Size int
			}
		}
		if err := json.Unmarshal(l, &rep); err != nil {
			t.Fatalf("report %d: %s: %v", i, l, err)
		}
		if rep.Code != 200 || rep.Cluster != "lkc-1" || rep.Topic != "t" || rep.Partition == nil ||
			rep.Timestamp.IsZero() || rep.Value.Type == "" || rep.Value.Size == 0 {
			t.Fatalf("report %d: %s", i, l)
		}
		if o, known := next[*rep.Partition]; known && rep.Offset != o {
			t.Fatalf("report %d: offset %d, want %d", i, rep.Offset, o)
		}
		next[*rep.Partition] = rep.Offset + 1
	}
	if l, err := in.ReadBytes('\n'); err != io.EOF {
		t.Fatalf("after %d reports: %q, %v", want, l, err)
	}
}

func TestServer(t *testing.T) {
	f := func(m mode, delay time.Duration, chunked bool, typ string) {
		t.Helper()
		s := &server{mode: m, cluster: "lkc-1", delay: delay, tally: newTally(3000, 3000, true)}
		base := "http://" + start(t, s)
		for i, prefix := range []string{"", "/kafka", ""} { // three requests, one connection
			from := uint64(i) * 1000
			var body io.Reader = bytes.NewReader(records(t, typ, from, from+1000))
			if chunked {
				body = struct{ io.Reader }{body}
			}
			req, err := http.NewRequest("POST", base+prefix+"/v3/clusters/lkc-1/topics/t/records", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Expect", "100-continue")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("answer %s %v", resp.Status, resp.Header)
			}
			checkReports(t, resp.Body, 1000)
			_ = resp.Body.Close()
		}
		r := s.tally.result()
		if r.Records != 3000 || r.Distinct != 3000 || r.Missing+r.Duplicates+r.Unexpected != 0 ||
			r.Reports != 3000 || r.Streams != 3 || r.CleanEnds != 3 || r.Max == 0 {
			t.Fatalf("%+v", r)
		}
	}
	f(perBatch, 0, true, "JSON")
	f(perRecord, 0, true, "STRING")
	f(split, 0, true, "BINARY")
	f(perBatch, 0, false, "JSON")
	f(perRecord, time.Millisecond, true, "JSON")
}

// TestServerFrames reads the answer's chunks as they are on the wire, while
// the request is still open.
func TestServerFrames(t *testing.T) {
	f := func(m mode, want int) {
		t.Helper()
		s := &server{mode: m, cluster: "lkc-1", tally: newTally(0, 100, false)}
		c, err := net.Dial("tcp", start(t, s))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		recs := records(t, "JSON", 0, 3)
		fmt.Fprintf(c, "POST /v3/clusters/x/topics/t/records HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(recs), recs)
		in := bufio.NewReader(c)
		for l := ""; l != "\r\n"; {
			if l, err = in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		body := make([]byte, 0, 1000)
		for i := range want {
			var n int
			if _, err := fmt.Fscanf(in, "%x\r\n", &n); err != nil {
				t.Fatalf("chunk %d: %v", i, err)
			}
			at := len(body)
			body = append(body, make([]byte, n+2)...)
			if _, err := io.ReadFull(in, body[at:]); err != nil || !bytes.HasSuffix(body, []byte("\r\n")) {
				t.Fatalf("chunk %d: %q, %v", i, body[at:], err)
			}
			body = body[:at+n]
		}
		if n := strings.Count(string(body), "}}\r\n"); n != 3 {
			t.Fatalf("%d reports in %d chunks, want 3: %q", n, want, body)
		}
		fmt.Fprint(c, "0\r\n\r\n")
		end := make([]byte, 5)
		if _, err := io.ReadFull(in, end); err != nil || string(end) != "0\r\n\r\n" {
			t.Fatalf("end of the answer: %q, %v", end, err)
		}
	}
	f(perBatch, 1)
	f(perRecord, 3)
	f(split, 6)
}

func TestServerOther(t *testing.T) {
	s := &server{cluster: "lkc-1", tally: newTally(0, 64, false)}
	base := "http://" + start(t, s)
	f := func(method, path string, wantStatus int, want string) {
		t.Helper()
		req, err := http.NewRequest(method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != wantStatus || !strings.Contains(string(b), want) {
			t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, b, err)
		}
		if want != "" && !json.Valid(b) {
			t.Fatalf("%s %s: not JSON: %s", method, path, b)
		}
	}
	f("GET", "/v3/clusters", 200, `"cluster_id":"lkc-1"`)
	f("GET", "/kafka/v3/clusters", 200, `"KafkaClusterList"`)
	f("GET", "/v3/clusters/lkc-1", 200, `"KafkaCluster"`)
	f("GET", "/v3/clusters/lkc-2", 404, `"error_code":404`)
	f("POST", "/v3/clusters/lkc-1/topics/t/records", 200, "")
	f("POST", "/v3/clusters/lkc-1/topics/t/records:batch", 405, "")
	f("DELETE", "/v3/clusters", 405, "")
}

func TestSelfSigned(t *testing.T) {
	ca := t.TempDir() + "/ca.pem"
	conf, err := selfSigned(ca)
	if err != nil {
		t.Fatal(err)
	}
	if len(conf.Certificates) != 1 || conf.NextProtos[0] != "http/1.1" {
		t.Fatalf("%+v", conf)
	}
	if _, err := selfSigned(t.TempDir() + "/none/ca.pem"); err == nil {
		t.Fatal("a certificate that could not be written was no error")
	}
}

func TestParseMode(t *testing.T) {
	for _, s := range []string{"batch", "record", "split"} {
		if _, err := parseMode(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := parseMode("pretty"); err == nil {
		t.Fatal("an unknown mode was taken")
	}
}
