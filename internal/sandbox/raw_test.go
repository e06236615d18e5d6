package sandbox

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a sandbox with topic t of two partitions.
func start(t testing.TB, change func(*Config)) *Sandbox {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Listen, cfg.KafkaListen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Topics = []Topic{{"t", 2}}
	cfg.MaxBlock = 300 * time.Millisecond
	if change != nil {
		change(&cfg)
	}
	s, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// client is one raw connection with one produce request.
type client struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	resp *http.Response
	dec  *json.Decoder
}

// dial connects, with a deadline for the whole of it.
func dial(t testing.TB, s *Sandbox) *client {
	t.Helper()
	addr := s.ln.Addr().String()
	var c net.Conn
	var err error
	if s.tls != nil {
		c, err = tls.Dial("tcp", addr, tlsClient(t, s))
	} else {
		c, err = net.Dial("tcp", addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { _ = c.Close() })
	return &client{t: t, conn: c, br: bufio.NewReader(c)}
}

const path = "/kafka/v3/clusters/lkc-sandbox/topics/%s/records"

// open sends the head of a streaming produce request.
func open(t testing.TB, s *Sandbox, topic string, headers ...string) *client {
	t.Helper()
	c := dial(t, s)
	c.head(topic, headers...)
	return c
}

func (c *client) head(topic string, headers ...string) {
	c.t.Helper()
	h := fmt.Sprintf("POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n", topic)
	for _, l := range headers {
		h += l + "\r\n"
	}
	c.raw(h + "\r\n")
}

func (c *client) raw(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// send writes s as one chunk; an error is left to the reading side.
func (c *client) send(s string) { _, _ = fmt.Fprintf(c.conn, "%x\r\n%s\r\n", len(s), s) }

// last ends the request's body.
func (c *client) last() { _, _ = io.WriteString(c.conn, "0\r\n\r\n") }

// answer reads the response's head.
func (c *client) answer() *http.Response {
	c.t.Helper()
	if c.resp == nil {
		resp, err := http.ReadResponse(c.br, &http.Request{Method: "POST"})
		if err != nil {
			c.t.Fatalf("read the response's head: %v", err)
		}
		c.resp, c.dec = resp, json.NewDecoder(resp.Body)
		c.t.Cleanup(func() { _, _ = c.conn.Close(), resp.Body.Close() }) // Body.Close alone would read on
	}
	return c.resp
}

// body reads the whole response body.
func (c *client) body() (string, error) {
	c.t.Helper()
	b, err := io.ReadAll(c.answer().Body)
	return string(b), err
}

// report is one delivery report.
type report struct {
	Code      int    `json:"error_code"`
	Message   string `json:"message"`
	Cluster   string `json:"cluster_id"`
	Topic     string `json:"topic_name"`
	Partition int32  `json:"partition_id"`
	Offset    int64  `json:"offset"`
	Timestamp string `json:"timestamp"`
	Key       *size  `json:"key"`
	Value     *size  `json:"value"`
}

type size struct {
	Type string `json:"type"`
	Size int    `json:"size"`
}

// next reads one report.
func (c *client) next() report {
	c.t.Helper()
	r, err := c.tryNext()
	if err != nil {
		c.t.Fatalf("read a report: %v", err)
	}
	return r
}

func (c *client) tryNext() (r report, err error) {
	c.t.Helper()
	c.answer()
	err = c.dec.Decode(&r)
	return r, err
}

// rest reads reports until the response ends and returns them with that error,
// nil for a proper end.
func (c *client) rest() (rs []report, err error) {
	c.t.Helper()
	for {
		r, err := c.tryNext()
		if errors.Is(err, io.EOF) {
			return rs, nil
		} else if err != nil {
			return rs, err
		}
		rs = append(rs, r)
	}
}

// codes are the error codes of rs.
func codes(rs []report) string {
	var out []string
	for _, r := range rs {
		out = append(out, fmt.Sprint(r.Code))
	}
	return strings.Join(out, " ")
}

// post sends body as one request and returns its reports.
func post(t testing.TB, s *Sandbox, topic, body string) []report {
	t.Helper()
	c := open(t, s, topic)
	c.send(body)
	c.last()
	rs, err := c.rest()
	if err != nil {
		t.Fatalf("reports: %v", err)
	}
	return rs
}

const rec = `{"value":{"type":"STRING","data":"x"}}`
