package listener

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

const records = "/v3/clusters/lkc-1/topics/t/records"

// rec is a record whose value is s.
func rec(s string) string { return `{"value":{"type":"STRING","data":"` + s + `"}}` }

// report is what a cluster says of a record with that payload, when it is short.
func report(payload string) string {
	if len(payload) > 3 {
		payload = ""
	}
	return `{"error_code":200,"cluster_id":"lkc-9","topic_name":"t","partition_id":3,"offset":7,"x":"` + payload + `"}`
}

// settled is a config whose cluster says 200 at once.
func settled() setup {
	cfg := config()
	cfg.sink.decide = func(o one) verdict { return verdict{report: report(o.payload)} }
	return cfg
}

// lines returns the reports of an answer.
func lines(answer string) []string {
	var out []string
	for _, l := range strings.Split(answer, "\r\n") {
		if l = strings.TrimSuffix(l, "\r"); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d reports, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
		return
	}
	for i := range want {
		if got[i] != want[i] && !(strings.HasSuffix(want[i], "…") && strings.HasPrefix(got[i], strings.TrimSuffix(want[i], "…"))) {
			t.Errorf("report %d: %s\nwant      %s", i, got[i], want[i])
		}
	}
}

// One body, what is sent on and what is reported.
func TestRecords(t *testing.T) {
	cfg := settled()
	cfg.MaxRecordBytes = 200_000
	g := start(t, cfg)
	said := func(code int, text string) string {
		return fmt.Sprintf(`{"error_code":%d,"message":"%s…`, code, text)
	}
	last := `Bad Request: Error processing message: `
	f := func(body string, sent []string, want ...string) {
		t.Helper()
		before := g.sink.count()
		for _, how := range []string{"length", "chunked", "bytes"} {
			var in io.Reader = strings.NewReader(body)
			switch how {
			case "chunked":
				in = struct{ io.Reader }{in}
			case "bytes":
				in = slow{strings.NewReader(body)}
			}
			resp, answer := g.do(t, "POST", records, "application/json", in)
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%.60q: status %d, %q", body, resp.StatusCode, resp.Header.Get("Content-Type"))
			}
			same(t, lines(answer), want...)
			g.sink.mu.Lock()
			got := g.sink.got[before:]
			g.sink.got = g.sink.got[:before]
			g.sink.mu.Unlock()
			if len(got) != len(sent) {
				t.Errorf("%s %.60q: %d records, want %d", how, body, len(got), len(sent))
				continue
			}
			for i, o := range got {
				if o.wire != sent[i]+"\n" || o.topic != "t" || !o.raw {
					t.Errorf("%s %.60q: sent on %q (topic %q, raw %v), want %q", how, body, o.wire, o.topic, o.raw, sent[i])
				}
			}
		}
	}
	f("", nil)
	f("\r\n \n", nil)
	f(rec("a"), []string{rec("a")}, report("a"))
	f(rec("a")+rec("b")+"\n\n"+rec("c")+"\n", []string{rec("a"), rec("b"), rec("c")}, report("a"), report("b"), report("c"))
	f("\xef\xbb\xbf"+rec("a"), []string{rec("a")}, report("a"))
	f("{}", []string{"{}"}, report("{}"))
	avro := `{ "key":{"schema_id":5,"data":{"a":1}} , "value":{"type":"AVRO","schema":"{}","subject_name_strategy":"TOPIC_NAME","data":null},"headers":[{"name":"h","value":null}]}`
	f(avro, []string{avro}, report(""))
	pretty := "{\n \"value\": {\"type\":\"PROTOBUF\",\"schema_version\":2,\"subject\":\"s\",\"data\":1}\n}"
	f(pretty, []string{pretty}, report(""))
	f(`{"nope":1}`+rec("b"), []string{rec("b")}, said(400, `record: unknown member \"nope\"`), report("b"))
	f(`{"value":{"typ":"STRING","data":""}}`+rec("b"), []string{rec("b")}, said(400, `record: value: unknown member`), report("b"))
	f(`[`+rec("a")+`]`+rec("b"), []string{rec("b")}, said(400, "record is not a JSON object"), report("b"))
	f(`null `+rec("b")+"12", []string{rec("b")}, said(400, "record is not"), report("b"), said(400, "record is not"))
	f(rec("a")+`{"value":{"data":}}`+rec("b"), []string{rec("a")}, report("a"), said(400, "record is not valid JSON"), said(400, last+"record is not valid JSON"))
	f(rec("a")+`{"value":{"data":"\xff"}}`+"", []string{rec("a")}, report("a"), said(400, ""), said(400, last))
	f(rec("a")+","+rec("b"), []string{rec("a")}, report("a"), said(400, last+`Unexpected character (',' (code 44))`))
	f(rec("a")+"}"+rec("b"), []string{rec("a")}, report("a"), said(400, last+`Unexpected character ('}' (code 125))`))
	f(rec("a")+`{"value":`, []string{rec("a")}, report("a"), said(400, "Unexpected end-of-input"), said(400, last+"Unexpected end-of-input"))
	f(rec("a")+"{\"value\":\"x\n", []string{rec("a")}, report("a"), said(400, "Illegal unquoted"), said(400, last+"Illegal unquoted"))
	f(rec(strings.Repeat("x", 200_000))+rec("b"), []string{rec("b")}, said(413, "The message is 200037 bytes"), report("b"))
	f(strings.Repeat(`{"value":{"data":`, 1001)+"1"+strings.Repeat("}}", 1001), nil, said(400, "record is nested over"), said(400, last))
}

// slow gives few bytes at a time.
type slow struct{ r io.Reader }

func (s slow) Read(p []byte) (int, error) {
	n := 7
	if r, ok := s.r.(*strings.Reader); ok && r.Len() > 1000 {
		n = 100_000
	}
	return s.r.Read(p[:min(n, len(p))])
}

// Reports come while the body is still being sent, each as a chunk of its own.
func TestFullDuplex(t *testing.T) {
	g := start(t, settled())
	nc := g.dial(t)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(nc, "POST /kafka%s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n", records)
	r := bufio.NewReader(nc)
	chunk := func(s string) { fmt.Fprintf(nc, "%x\r\n%s\r\n", len(s), s) }
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("%q (%v), want %q", got, err, want)
		}
	}
	chunk("\n") // no head before the first report
	_ = nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := r.Peek(1); err == nil {
		t.Fatalf("an answer before a record: %q", b)
	}
	_ = nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	for i := range 3 {
		chunk(rec(fmt.Sprint(i)))
		if i == 0 {
			head := ""
			for !strings.HasSuffix(head, "\r\n\r\n") {
				line, err := r.ReadString('\n')
				if err != nil {
					t.Fatal(err)
				}
				head += line
			}
			if !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || !strings.Contains(head, "Transfer-Encoding: chunked\r\n") {
				t.Fatal(head)
			}
		}
		want := report(fmt.Sprint(i)) + "\r\n"
		expect(fmt.Sprintf("%x\r\n%s\r\n", len(want), want))
	}
	io.WriteString(nc, "0\r\n\r\n")
	expect("0\r\n\r\n")
}

// stream is an open produce request.
type openRequest struct {
	in   *io.PipeWriter
	resp chan *http.Response
	err  chan error
}

func (g *rig) stream(t testing.TB, path string) *openRequest {
	t.Helper()
	r, w := io.Pipe()
	req, err := http.NewRequest("POST", g.url+path, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	s := &openRequest{w, make(chan *http.Response, 1), make(chan error, 1)}
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			s.err <- err
			return
		}
		s.resp <- resp
	}()
	t.Cleanup(func() { w.Close() })
	return s
}

func (s *openRequest) send(text string) { go io.WriteString(s.in, text) }

// all returns the reports up to the end, and how that came.
func (s *openRequest) all(t testing.TB) ([]string, error) {
	t.Helper()
	select {
	case resp := <-s.resp:
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return lines(string(text)), err
	case err := <-s.err:
		return nil, err
	case <-time.After(8 * time.Second):
		t.Fatal("no answer")
		return nil, nil
	}
}

// Reports that come out of order wait their turn.
func TestOrder(t *testing.T) {
	cfg := settled()
	cfg.sink.decide = func(o one) verdict { return verdict{report: report(o.payload), late: o.payload == "0"} }
	g := start(t, cfg)
	s := g.stream(t, records)
	s.send(rec("0") + rec("1") + rec("2"))
	g.sink.waitLate(t, 1)
	eventually(t, "all three", func() bool { return g.sink.count() == 3 })
	select {
	case <-s.resp:
		t.Fatal("a report overtook another")
	case <-time.After(30 * time.Millisecond):
	}
	g.sink.settle()
	s.in.Close()
	got, err := s.all(t)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, report("0"), report("1"), report("2"))
}

// What becomes of a record, and what is said of it.
func TestVerdicts(t *testing.T) {
	f := func(afterBuffer bool, v verdict, want string) {
		t.Helper()
		cfg := config()
		cfg.AfterBuffer = afterBuffer
		cfg.sink.decide = func(one) verdict { return v }
		g := start(t, cfg)
		_, answer := g.do(t, "POST", records, "application/json", strings.NewReader(rec("a")))
		same(t, lines(answer), want)
	}
	f(false, verdict{report: report("a")}, report("a"))
	f(false, verdict{}, `{"error_code":200,"cluster_id":"lkc-1","topic_name":"t","partition_id":-1,"offset":-1,"message":"delivered"}`)
	f(true, verdict{buffered: true, report: report("a")}, `{"error_code":200,"cluster_id":"lkc-1","topic_name":"t","partition_id":-1,"offset":-1,"message":"buffered"}`)
	f(false, verdict{code: 40301, message: "Not authorized\nat all"}, `{"error_code":40301,"message":"Not authorized"}`)
	f(false, verdict{code: 413, report: `{"error_code":413,"message":"cluster's own"}` + "\r\n"}, `{"error_code":413,"message":"cluster's own"}`)
	f(true, verdict{refused: errors.New("quota reached")}, `{"error_code":429,"message":"Request rate limit exceeded: …`)
}

// What is refused before anything of the body is read.
func TestProduceRefused(t *testing.T) {
	g := start(t, settled())
	f := func(path, contentType string, status, code int, text string, header ...string) {
		t.Helper()
		got, answer := g.post(t, path, contentType, rec("a"), header...)
		if got != status || !strings.HasPrefix(answer, fmt.Sprintf(`{"error_code":%d,"message":"`, code)) || !strings.Contains(answer, text) {
			t.Errorf("%s: %d %s, want %d %d %q", path, got, answer, status, code, text)
		}
		if g.sink.count() > 0 {
			t.Fatalf("%s: a record came through", path)
		}
	}
	const js = "application/json"
	f("/v3/clusters/lkc-2/topics/t/records", js, 404, 404, "Cluster lkc-2 cannot be found.")
	f("/v3/clusters/lkc-1/topics/secret/records", js, 403, 40301, "Not authorized to access topics: [secret]")
	f("/v3/clusters/lkc-1/topics/a%20b/records", js, 400, 40002, "Topic name is invalid")
	f("/v3/clusters/lkc-1/topics/..%2ft/records", js, 400, 400, "Ambiguous")
	f("/v3/clusters/lkc-1/topics/%2e%2e/records", js, 400, 400, "Ambiguous")
	f("/v3/clusters/lkc-1/topics/"+strings.Repeat("t", 250)+"/records", js, 400, 40002, "250 characters")
	f("/v3/clusters/lkc-1/topics/t/records:batch", js, 404, 404, "404")
	f("/v3/clusters/lkc-1/brokers", js, 404, 404, "404")
	f("/v4/clusters", js, 404, 404, "")
	f(records, "text/plain", 415, 415, "application/json")
	f(records, js, 415, 415, "cannot be compressed", "Content-Encoding", "gzip")
	f(records, js+"; charset=utf-16", 400, 400, "charset")
	if resp, _ := g.do(t, "GET", records, "", nil); resp.StatusCode != 405 {
		t.Error("GET records:", resp.StatusCode)
	}
}

// What clients ask before they produce.
func TestProbes(t *testing.T) {
	g := start(t, config())
	f := func(path string, status int, want string) {
		t.Helper()
		resp, answer := g.do(t, "GET", path, "", nil)
		if resp.StatusCode != status || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %s, want %d %s", path, resp.StatusCode, answer, status, want)
		}
	}
	self := `"self":"` + g.url
	f("/v3/clusters", 200, `{"kind":"KafkaClusterList","metadata":{`+self+`/v3/clusters","next":null},"data":[{"kind":"KafkaCluster"`)
	f("/kafka/v3/clusters/", 200, self+`/kafka/v3/clusters/lkc-1"`)
	f("/kafka/v3/clusters", 200, `"cluster_id":"lkc-1"`)
	f("/v3/clusters/lkc-1", 200, `"kind":"KafkaCluster"`)
	f("/v3/clusters/other", 404, `{"error_code":404,"message":"Cluster other cannot be found."}`)
	f("/v3/clusters/lkc-1/topics/logs-x", 200, `"topic_name":"logs-x"`)
	f("/v3/clusters/lkc-1/topics/other", 404, `{"error_code":40403,`)
	f("/v3/nothing", 404, `{"error_code":404,`)
	cfg := config()
	cfg.ClusterID = func() string { return "" }
	g = start(t, cfg)
	f("/v3/clusters", 503, "does not know the id")
	cfg = config()
	cfg.Accept = []string{AcceptText}
	g = start(t, cfg)
	f("/v3/clusters", 404, "its accept does not name kafka_rest_v3")
}

// While the cluster's id is not known, records wait for it all the same.
func TestClusterUnknown(t *testing.T) {
	cfg := config()
	cfg.AfterBuffer, cfg.ClusterID = true, nil
	g := start(t, cfg)
	_, answer := g.do(t, "POST", "/v3/clusters/any/topics/t/records", "", strings.NewReader(rec("a")))
	same(t, lines(answer), `{"error_code":200,"cluster_id":"any","topic_name":"t","partition_id":-1,"offset":-1,"message":"buffered"}`)
}

// A stream is read no further than its window, and goes on when reports come.
func TestWindow(t *testing.T) {
	cfg := settled()
	cfg.sink.decide = func(o one) verdict { return verdict{report: report("x"), late: true} }
	g := start(t, cfg)
	s := g.stream(t, records)
	s.send(strings.Repeat(rec("x"), 2*windowRecords))
	g.sink.waitLate(t, windowRecords)
	time.Sleep(20 * time.Millisecond)
	if n := g.sink.count(); n != windowRecords {
		t.Errorf("%d records unreported, want at most %d", n, windowRecords)
	}
	g.sink.settle()
	g.sink.waitLate(t, windowRecords)
	s.in.Close()
	g.sink.settle()
	got, err := s.all(t)
	if err != nil || len(got) != 2*windowRecords {
		t.Errorf("%d reports (%v), want %d", len(got), err, 2*windowRecords)
	}
}

// A stream on which nothing happens ends, once all its reports are out.
func TestIdleStream(t *testing.T) {
	cfg := settled()
	cfg.IdleTimeout = 60 * time.Millisecond
	cfg.sink.decide = func(o one) verdict { return verdict{report: report(o.payload), late: true} }
	g := start(t, cfg)
	s := g.stream(t, records)
	s.send(rec("a"))
	g.sink.waitLate(t, 1)
	time.Sleep(150 * time.Millisecond) // a report is owed: not idle
	g.sink.settle()
	got, err := s.all(t)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, report("a"), `{"error_code":400,"message":"Bad Request: Error processing message: java.util.concurrent.TimeoutException: Idle timeout expired: …`)
}

// A heartbeat keeps a stream open; a record that does not get whole ends it.
func TestHeartbeat(t *testing.T) {
	cfg := settled()
	cfg.IdleTimeout, cfg.HeaderTimeout = 150*time.Millisecond, 100*time.Millisecond
	g := start(t, cfg)
	s := g.stream(t, records)
	for range 8 {
		io.WriteString(s.in, "\n")
		time.Sleep(40 * time.Millisecond)
	}
	s.send(rec("a") + `{"value":`)
	got, err := s.all(t)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, report("a"), `{"error_code":400,"message":"Bad Request: Error processing message: java.util.concurrent.TimeoutException: a record did not…`)
}

// A record whose fate does not become known is reported so; what comes later is
// not reported twice.
func TestStreamTimeout(t *testing.T) {
	cfg := settled()
	cfg.RespondTimeout = 60 * time.Millisecond
	cfg.sink.decide = func(o one) verdict { return verdict{report: report(o.payload), late: o.payload == "a"} }
	g := start(t, cfg)
	s := g.stream(t, records)
	s.send(rec("a") + rec("b"))
	time.Sleep(150 * time.Millisecond)
	g.sink.settle()
	s.in.Close()
	got, err := s.all(t)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, `{"error_code":50003,"message":"Expiring 1 record(s) for t: 60 ms has passed: its fate is not known yet.…`, report("b"))
}

// A client that goes away takes nothing with it: its records are settled later.
func TestClientGone(t *testing.T) {
	cfg := settled()
	cfg.sink.decide = func(o one) verdict { return verdict{report: report(o.payload), late: true} }
	g := start(t, cfg)
	nc := g.dial(t)
	fmt.Fprintf(nc, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n%s", records, rec("a"))
	g.sink.waitLate(t, 1)
	_ = nc.(*net.TCPConn).SetLinger(0)
	nc.Close()
	time.Sleep(20 * time.Millisecond)
	g.sink.settle()
	eventually(t, "its end", func() bool { return g.connections() == 0 && g.reg.left() == 0 })
}

// HTTP/1.0 has no chunks.
func TestHTTP10(t *testing.T) {
	g := start(t, settled())
	body := rec("a") + rec("b")
	answer := g.raw(t, fmt.Sprintf("POST %s HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", records, len(body), body))
	if !strings.HasPrefix(answer, "HTTP/1.1 200 OK\r\n") || strings.Contains(answer, "chunked") || !strings.HasSuffix(answer, "\r\n\r\n"+report("a")+"\r\n"+report("b")+"\r\n") {
		t.Errorf("%q", answer)
	}
}

// After a stream the connection goes on, with what was sent ahead too.
func TestStreamKeepAlive(t *testing.T) {
	g := start(t, settled())
	one := func(more string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", records, more, len(rec("a")), rec("a"))
	}
	plain := "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nb"
	answer := g.raw(t, one("")+plain+one("")+one("")+one("Connection: close\r\n")+plain)
	if n := strings.Count(answer, "HTTP/1.1 200 OK\r\n"); n != 5 || strings.Count(answer, "Connection: close") != 1 || g.sink.count() != 5 {
		t.Errorf("%d answers, %d records: %q", n, g.sink.count(), answer)
	}
	nc := g.dial(t)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	r := bufio.NewReader(nc)
	for i := range 3 { // one after the other's answer
		io.WriteString(nc, one(""))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(i, err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Error(i, resp.StatusCode, err)
		}
		same(t, lines(string(text)), report("a"))
	}
	if n := g.Stats().Connections; n != 1 {
		t.Errorf("%d connections", n)
	}
	go g.Shutdown(t.Context())
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Error("an idle connection stays:", err)
	}
}
