package sandbox

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What stands before a stream: each refusal's status and body.
func TestRefusals(t *testing.T) {
	s := start(t, func(c *Config) { c.Credentials = map[string]string{"KEY": "s3cret"} })
	const auth = "Authorization: Basic S0VZOnMzY3JldA==\r\n"
	const ok = "/v3/clusters/lkc-sandbox/topics/t/records"
	f := func(head string, status int, text string) {
		t.Helper()
		c := dial(t, s)
		c.raw(head)
		resp := c.answer()
		if b, err := c.body(); resp.StatusCode != status || !strings.Contains(b, text) || err != nil || resp.Header.Get("Server") != "" {
			t.Errorf("%q\n%d %q %v", head, resp.StatusCode, b, err)
		}
	}
	post := func(path, headers string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n" + headers + "\r\n{}"
	}
	const typed = "Content-Type: application/json\r\n"
	f(post(ok, auth+typed), 200, `"error_code":200`)
	f(post("/kafka"+ok, auth+typed+"Accept: */*\r\n"), 200, `"error_code":200`)
	f(post(ok, auth+"Content-Type: application/json; charset=UTF-8\r\n"), 200, `"error_code":200`)
	f(post(ok, typed), 401, `{"error_code":40101,"message":"Unauthorized"}`)
	f(post(ok, typed+"Authorization: Basic S0VZOndyb25n\r\n"), 401, `40101`)
	f(post(ok, typed+"Authorization: Bearer x\r\n"), 401, `40101`)
	f(post(ok, auth), 415, `{"error_code":415,"message":"HTTP 415 Unsupported Media Type"}`)
	f(post(ok, auth+"Content-Type: text/plain\r\n"), 415, "415")
	f(post(ok, auth+"Content-Type: application/json;charset=utf-16\r\n"), 400, "charset")
	f(post(ok, auth+typed+"Accept: text/html\r\n"), 406, `{"error_code":406,"message":"HTTP 406 Not Acceptable"}`)
	f(post("/v3/clusters/lkc-other/topics/t/records", auth+typed), 404, `{"error_code":404,"message":"Cluster lkc-other cannot be found."}`)
	f(post("/v3/nothing", auth+typed), 404, `{"error_code":404,"message":"HTTP 404 Not Found"}`)
	f(post("/v2"+ok, auth+typed), 404, `404`)
	f(post("/v3/clusters/lkc-sandbox/topics/a%2fb/records", auth+typed), 400, "Ambiguous")
	f("GET "+ok+" HTTP/1.1\r\nHost: x\r\n"+auth+"\r\n", 405, `{"error_code":405,"message":"HTTP 405 Method Not Allowed"}`)

	f("POST "+ok+" HTTP/1.1\r\nHost: x\r\n"+auth+typed+"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Content-Length and Transfer-Encoding")
	f("POST "+ok+" HTTP/1.1\r\nHost: x\r\n"+auth+typed+"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "Content-Length")
	f("POST "+ok+" HTTP/1.1\r\nHost: x\r\n"+auth+typed+"Transfer-Encoding: xchunked\r\n\r\n", 400, "Transfer-Encoding")
	f("POST "+ok+" HTTP/1.1\r\n"+auth+typed+"Content-Length: 2\r\n\r\n{}", 400, "Host")
	f("POST "+ok+" HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n", 400, "header")
	f("nonsense\r\n\r\n", 400, "request line")
	f("GET / HTTP/2.0\r\n\r\n", 505, "")
	f("GET /v3/clusters HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("y", 9000)+"\r\n\r\n", 431, "")
	f(post(ok, auth+typed+"Expect: 200-ok\r\n"), 417, "")
}

// A connection serves further requests after a stream that ended properly,
// and after an answer whose request had a short body.
func TestKeepAlive(t *testing.T) {
	s := start(t, nil)
	c := dial(t, s)
	for i := range 3 {
		c.resp = nil
		c.head("t")
		c.send(rec)
		c.last()
		if rs, err := c.rest(); codes(rs) != "200" || err != nil {
			t.Fatalf("stream %d: %+v, %v", i, rs, err)
		}
		c.resp = nil
		c.raw("POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
		if got := c.answer().StatusCode; got != 404 {
			t.Fatalf("answer %d: %d", i, got)
		}
		_, _ = c.body()
	}
	if st := s.Stats(); st.Connections != 1 || st.Streams != 3 {
		t.Errorf("stats %+v", st)
	}
	c.resp = nil
	c.head("t", "Connection: close")
	c.send(rec)
	c.last()
	if rs, err := c.rest(); codes(rs) != "200" || err != nil {
		t.Fatalf("%+v, %v", rs, err)
	}
	if n, err := c.br.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after Connection: close: read %d, %v", n, err)
	}
}

// No byte of the response comes before the first report; 100 Continue does,
// when asked for.
func TestHeadComesWithFirstReport(t *testing.T) {
	s := start(t, nil)
	c := open(t, s, "t", "Expect: 100-continue")
	line, err := c.br.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = c.br.ReadString('\n')
	c.send("\n")
	_ = c.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if b, err := c.br.Peek(1); err == nil {
		t.Fatalf("%q before the first record", b)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	c.send(rec[:10])
	c.send(rec[10:])
	if r := c.next(); r.Code != 200 {
		t.Errorf("%+v", r)
	}
	h := c.answer().Header
	if h.Get("Content-Type") != "application/json" || h.Get("Server") != "" || h.Get("Date") == "" || len(c.resp.TransferEncoding) != 1 {
		t.Errorf("head %v", h)
	}
}

// An empty body is 200 without a report; a Content-Length body works as a
// chunked one; HTTP/1.0 gets a body that ends with the connection.
func TestBodies(t *testing.T) {
	s := start(t, nil)
	f := func(proto, body string, want string) {
		t.Helper()
		c := dial(t, s)
		c.raw(fmt.Sprintf("POST "+path+" HTTP/%s\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", "t", proto, len(body), body))
		if rs, err := c.rest(); codes(rs) != want || err != nil || c.resp.StatusCode != 200 {
			t.Errorf("%q: %s, %v", body, codes(rs), err)
		}
	}
	f("1.1", "", "")
	f("1.1", " \r\n ", "")
	f("1.1", rec+" "+rec, "200 200")
	f("1.0", rec+" "+rec, "200 200")
	f("1.1", rec+"{", "200 400 400")

	c := open(t, s, "t")
	c.raw("zz\r\n")
	if rs, err := c.rest(); codes(rs) != "400" || !strings.Contains(rs[0].Message, "Error processing message") || err != nil {
		t.Errorf("bad chunk: %+v, %v", rs, err)
	}
}

// A client that closes its sending side in mid-body still gets what is due.
func TestHalfClose(t *testing.T) {
	s := start(t, nil)
	c := open(t, s, "t")
	c.send(rec + rec)
	if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rs, err := c.rest(); codes(rs) != "200 200 400" || err != nil || rs[2].Message != "Bad Request: Error processing message: Early EOF" {
		t.Errorf("%+v, %v", rs, err)
	}
}

// A stream without a byte either way for the idle time draws a terminal report.
func TestIdle(t *testing.T) {
	s := start(t, func(c *Config) { c.IdleTimeout = time.Second })
	c := open(t, s, "t")
	c.send(rec)
	rs, err := c.rest()
	if codes(rs) != "200 400" || err != nil || !strings.Contains(rs[1].Message, "Idle timeout expired: 1000/1000 ms") {
		t.Errorf("%+v, %v", rs, err)
	}
	s = start(t, func(c *Config) { c.IdleTimeout, c.HideTerminal = time.Second, true })
	c = open(t, s, "t")
	c.send(rec)
	if rs, err := c.rest(); codes(rs) != "200" || err == nil {
		t.Errorf("just cut: %+v, %v", rs, err)
	}
}

// A byte in either direction puts the idle time-out off.
func TestIdleTimeCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		c := newConn(&Sandbox{cfg: Config{IdleTimeout: 30 * time.Second}}, near)
		go func() { // heartbeats, then a report going out, then silence
			for range 3 {
				time.Sleep(25 * time.Second)
				_, _ = far.Write([]byte("\n"))
			}
			time.Sleep(25 * time.Second)
			go func() { _, _ = far.Read(make([]byte, 1)) }()
			_ = c.write([]byte("x"))
		}()
		begin, n := time.Now(), 0
		for {
			_, err := idleReader{c}.Read(make([]byte, 1))
			if err != nil {
				if took := time.Since(begin); !errors.Is(err, errIdle) || n != 3 || took != 130*time.Second {
					t.Errorf("%d heartbeats, %v after %s; want 3, %v after 2m10s", n, err, took, errIdle)
				}
				return
			}
			n++
		}
	})
}

// The run limit cuts a stream, or answers 503 when nothing was reported.
func TestMaxRun(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxRun = time.Second })
	c := open(t, s, "t")
	if got := c.answer().StatusCode; got != 503 {
		t.Errorf("nothing sent: %d", got)
	}
	c = open(t, s, "t")
	c.send(rec)
	if rs, err := c.rest(); codes(rs) != "200" || err == nil {
		t.Errorf("after a report: %+v, %v", rs, err)
	}
}

// With gzip asked for, nothing comes until the request ends or a block is full.
func TestGzip(t *testing.T) {
	s := start(t, nil)
	c := open(t, s, "t", "Accept-Encoding: gzip")
	c.send(strings.Repeat(rec, 10))
	_ = c.conn.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
	if b, err := c.br.Peek(1); err == nil {
		t.Fatalf("%q came at once", b)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	c.last()
	if got := c.answer().Header.Get("Content-Encoding"); got != "gzip" {
		t.Fatalf("Content-Encoding %q", got)
	}
	z, err := gzip.NewReader(c.resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if n := bytes.Count(b, []byte("\r\n")); n != 10 || err != nil {
		t.Errorf("%d lines, %v", n, err)
	}
}

func TestTLS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	s := start(t, func(c *Config) { c.TLS, c.CAFile = true, file })
	if got := codes(post(t, s, "t", rec+rec)); got != "200 200" || !strings.HasPrefix(s.URL(), "https://127.0.0.1:") {
		t.Errorf("%s over %s", got, s.URL())
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(b, s.CAPEM()) {
		t.Errorf("the certificate's file: %v", err)
	}
	_ = s.SetFaults(parse(t, "reset=1"))
	c := open(t, s, "t")
	c.send(rec)
	if rs, err := c.rest(); len(rs) != 1 || err == nil {
		t.Errorf("reset over TLS: %+v, %v", rs, err)
	}
}

// The admin routes, and topics made through them.
func TestAdmin(t *testing.T) {
	s := start(t, nil)
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		req, _ := http.NewRequest(method, s.URL()+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != status || !strings.Contains(string(b), want) || !json.Valid(b) {
			t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, b)
		}
	}
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	const c = "/kafka/v3/clusters/lkc-sandbox"
	f("GET", "/v3/clusters", "", 200, `"kind":"KafkaClusterList"`)
	f("GET", "/kafka/v3/clusters", "", 200, `"self":"`+s.URL()+`/kafka/v3/clusters/lkc-sandbox"`)
	f("GET", c, "", 200, `"cluster_id":"lkc-sandbox","controller":{"related":`)
	f("GET", "/v3/clusters/x", "", 404, `{"error_code":404,"message":"Cluster x cannot be found."}`)
	f("GET", c+"/topics", "", 200, `"topic_name":"t","is_internal":false,"replication_factor":1,"partitions_count":2`)
	f("GET", c+"/topics/t", "", 200, `"kind":"KafkaTopic"`)
	f("GET", c+"/topics/nope", "", 404, `{"error_code":40403,"message":"This server does not host this topic-partition."}`)
	f("GET", c+"/topics/t/partitions", "", 200, `"partition_id":1,"leader":{"related":`)
	f("GET", c+"/topics/t/partitions/1", "", 200, `"kind":"KafkaPartition"`)
	f("GET", c+"/topics/t/partitions/9", "", 404, `40402`)
	f("POST", c+"/topics", `{"topic_name":"new","partitions_count":4}`, 201, `"partitions_count":4`)
	f("POST", c+"/topics", `{"topic_name":"new"}`, 400, `{"error_code":40002,"message":"Topic 'new' already exists."}`)
	f("POST", c+"/topics", `{"topic_name":"dry","partitions_count":1,"validate_only":true}`, 200, `"topic_name":"dry"`)
	f("GET", c+"/topics/dry", "", 404, `40403`)
	f("POST", c+"/topics", `{"topic_name":".."}`, 422, `42206`)
	f("POST", c+"/topics", `{"topic_name":"a b"}`, 422, `42206`)
	f("POST", c+"/topics", `{"name":"a"}`, 422, `unknown field`)
	f("POST", c+"/topics", `{`, 400, `Malformed JSON`)
	f("POST", c+"/topics", `{}`, 422, `must not be null`)
	f("DELETE", c+"/topics/t", "", 405, `405`)
	if got := codes(post(t, s, "new", rec)); got != "200" {
		t.Errorf("produce to the new topic: %s", got)
	}
}

// What a record's place in Kafka can be refused for.
func TestTopicsAndPartitions(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxBlock = 150 * time.Millisecond })
	f := func(topic, body, want, text string) {
		t.Helper()
		rs := post(t, s, topic, body)
		if codes(rs) != want || !strings.Contains(rs[0].Message, text) {
			t.Errorf("%s %s: %+v", topic, body, rs)
		}
	}
	f("nope", rec, "40401", "Topic nope not present in metadata after 150 ms.")
	f("t", `{"partition_id":9}{}`, "40401 200", "Partition 9 of topic t with partition count 2 is not present in metadata after 150 ms.")
	f("t", `{"partition_id":-1}`, "40402", "Partition not found.")
	f("a%20b", rec, "40002", "Invalid topics: [a b]")
	f("t", `{"timestamp":-5}`, "50002", "Invalid timestamp: -5000.")
	if rs := post(t, s, "t", `{"partition_id":1,"timestamp":"2021-12-13T16:29:10.000Z","key":{"type":"BINARY","data":"QUJD"},"value":{"type":"JSON","data":null}}`); rs[0].Timestamp != "2021-12-13T16:29:10Z" ||
		rs[0].Partition != 1 || *rs[0].Key != (size{"BINARY", 3}) || *rs[0].Value != (size{"JSON", -1}) {
		t.Errorf("%+v", rs[0])
	}
	s = start(t, func(c *Config) { c.AutoCreate, c.AutoCreatePartitions, c.AnyClusterID = true, 5, true })
	if rs := post(t, s, "fresh", `{"partition_id":4}`); rs[0].Code != 200 {
		t.Errorf("auto-create: %+v", rs)
	}
	c := dial(t, s)
	c.raw("POST /v3/clusters/any/topics/t/records HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	if r := c.next(); r.Code != 200 || r.Cluster != "any" {
		t.Errorf("any cluster id: %+v", r)
	}
}

// What was stored can be told apart: null, empty, headers, timestamp.
func TestRecords(t *testing.T) {
	seen := make(chan string, 10)
	s := start(t, func(c *Config) {
		c.OnStored = func(topic string, p int32, off int64, k, v []byte) {
			seen <- fmt.Sprintf("%s/%d@%d %q=%q %v", topic, p, off, k, v, v == nil)
		}
	})
	post(t, s, "t", `{"partition_id":0,"key":{"type":"STRING","data":""},"value":{"type":"STRING","data":null},"headers":[{"name":"a","value":""},{"name":"b"}],"timestamp":"2021-12-13T16:29:10.951Z"}`)
	post(t, s, "t", `{"partition_id":0,"value":{"type":"STRING","data":""}}`)
	rs, err := s.Records(context.Background(), "t")
	if err != nil || len(rs) != 2 {
		t.Fatalf("%+v, %v", rs, err)
	}
	a, b := rs[0], rs[1]
	if a.Key == nil || len(a.Key) != 0 || a.Value != nil || a.Timestamp.UnixMilli() != 1639412950951 || len(a.Headers) != 2 ||
		a.Headers[0].Name != "a" || a.Headers[0].Value == nil || a.Headers[1].Value != nil {
		t.Errorf("first %+v", a)
	}
	if b.Key != nil || b.Value == nil || b.Offset != 1 {
		t.Errorf("second %+v", b)
	}
	if got := <-seen; got != `t/0@0 ""="" true` {
		t.Errorf("OnStored said %s", got)
	}
	if _, err := s.Records(context.Background(), "nope"); err == nil {
		t.Error("records of an unknown topic")
	}
}

// Data outlives the sandbox in a data directory, and not without one.
func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	cfg := func(c *Config) { c.DataDir = dir }
	s := start(t, cfg)
	post(t, s, "t", rec)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, start(t, cfg)); got != 1 {
		t.Errorf("%d records after a restart", got)
	}
	s = start(t, nil)
	temp := s.broker.tempDir
	_ = s.Close()
	if _, err := os.Stat(temp); !os.IsNotExist(err) {
		t.Errorf("%s is still there", temp)
	}
}

// A gateway: the second sandbox in front of the first one's Kafka.
func TestGateway(t *testing.T) {
	back := start(t, nil)
	s := start(t, func(c *Config) { c.Brokers, c.Topics = []string{back.KafkaAddr()}, nil })
	if s.ClusterID() != "lkc-sandbox" {
		t.Errorf("cluster %q", s.ClusterID())
	}
	if got := codes(post(t, s, "t", rec)); got != "200" || stored(t, back) != 1 {
		t.Errorf("reports %s, %d stored", got, stored(t, back))
	}
}

// A gateway that starts before its Kafka waits for it, and says which one it
// did not find.
func TestGatewayBeforeKafka(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	gateway := func(c *Config) {
		c.Listen, c.Brokers, c.reachFor = "127.0.0.1:0", []string{addr}, time.Second
	}
	cfg := DefaultConfig()
	gateway(&cfg)
	if s, err := Start(cfg); err == nil || !strings.Contains(err.Error(), "no broker at "+addr+" answers") {
		if s != nil {
			_ = s.Close()
		}
		t.Errorf("without Kafka: %v", err)
	}
	begun := make(chan *Sandbox, 1)
	go func() {
		time.Sleep(300 * time.Millisecond)
		cfg := DefaultConfig()
		cfg.Listen, cfg.KafkaListen = "127.0.0.1:0", addr
		s, err := Start(cfg)
		if err != nil {
			t.Error(err)
		}
		begun <- s
	}()
	s := start(t, func(c *Config) { gateway(c); c.reachFor = 20 * time.Second })
	if back := <-begun; back != nil {
		t.Cleanup(func() { _ = back.Close() })
	}
	if got := codes(post(t, s, "t", rec)); got != "200" {
		t.Errorf("reports %s", got)
	}
}

// Kafka clients are told the host that was asked for.
func TestKafkaHost(t *testing.T) {
	s := start(t, func(c *Config) { c.KafkaListen, c.KafkaHost, c.AllowRemote = "0.0.0.0:0", "localhost", true })
	if got := codes(post(t, s, "t", rec)); got != "200" || !strings.HasPrefix(s.KafkaAddr(), "localhost:") || stored(t, s) != 1 {
		t.Errorf("%s, Kafka on %s", got, s.KafkaAddr())
	}
}

// The forms of curl that Confluent's documents show.
func TestCurl(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not on this machine")
	}
	s := start(t, nil)
	u := s.URL() + fmt.Sprintf(path, "t")
	f := func(stdin, want string, args ...string) {
		t.Helper()
		cmd := exec.Command("curl", append([]string{"-sS", "-m", "20", "-X", "POST", "-H", "Content-Type: application/json", u}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		var got []string
		for line := range strings.Lines(string(out)) {
			var r report
			if json.Unmarshal([]byte(line), &r) != nil {
				t.Errorf("%q", line)
			}
			got = append(got, fmt.Sprint(r.Code))
		}
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%s: %s, %v", args, out, err)
		}
	}
	const one = `{"value": {"type": "BINARY", "data": "aGVsbG8="}}`
	f(`{"value": {"type": "JSON", "data": "{\"Hello \" : \"World\"}"}}`+"\n"+`{"value": {"type": "JSON", "data": "{\"Hi \" : \"World\"}"}}`+"\n", "200 200", "-H", "Transfer-Encoding: chunked", "-T-")
	f("", "200", "-d", one)
	f("", "200 200", "-d", one+" "+one)
	f("", "400", "-d", "["+one+","+one+"]")
}

func TestKcat(t *testing.T) {
	if _, err := exec.LookPath("kcat"); err != nil {
		t.Skip("kcat is not on this machine")
	}
	s := start(t, nil)
	post(t, s, "t", `{"partition_id":1,"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":"hello"},"headers":[{"name":"h","value":"QQ=="}]}`)
	out, err := exec.Command("kcat", "-q", "-b", s.KafkaAddr(), "-t", "t", "-C", "-e", "-f", "%p %o %k %s %h").Output()
	if string(out) != "1 0 k hello h=A" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}
