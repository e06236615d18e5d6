package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Over a limit each server refuses the whole request in its own way; nothing
// of it is written.
func TestV2Busy(t *testing.T) {
	t.Parallel()
	f := func(name, limits string, status int, retryAfter, want string) {
		t.Helper()
		s := start(t, func(c *Config) {
			asServer(t, name)(c)
			c.LimitsProfile = limits
		})
		const body = `{"records":[{"value":"YQ=="},{"value":"YQ=="}]}`
		if got, b := v2Post(t, s, "/topics/t", binaryV2, body); got != 200 {
			t.Errorf("%s: first %d %s", name, got, b)
		}
		resp, b := ask(t, s, "POST", "/topics/t", body, "Content-Type: "+binaryV2)
		if resp.StatusCode != status || b != want || resp.Header.Get("Retry-After") != retryAfter {
			t.Errorf("%s %s: %d %q %q", name, limits, resp.StatusCode, b, resp.Header.Get("Retry-After"))
		}
		if n := stored(t, s); n != 2 {
			t.Errorf("%s %s: %d stored", name, limits, n)
		}
	}
	for _, limits := range []string{"posts=1", "records=1", "bytes=1"} {
		f(V2Confluent, limits, 429, "", `{"error_code":429,"message":"Request rate limit exceeded: The rate limit of requests per second has been exceeded."}`)
		f(V2Pandaproxy, limits, 429, "0", "")
		f(V2Karapace, limits, 429, "", `{"error_code":429,"message":"HTTP 429 Too Many Requests"}`)
		f(V2Strimzi, limits, 503, "", `{"error_code":503,"message":"The bridge is overloaded"}`)
	}
}

// Pandaproxy looks at Content-Length alone and answers without JSON; Karapace
// counts what it reads.
func TestV2TooLong(t *testing.T) {
	body := `{"records":[{"value":"` + strings.Repeat("AAAA", 300_000) + `","partition":0}]}`
	f := func(name string, chunked bool, status int, want string) {
		t.Helper()
		s := start(t, asServer(t, name))
		c := dial(t, s)
		framing := fmt.Sprintf("Content-Length: %d", len(body))
		sent := body
		if chunked {
			framing, sent = "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		}
		go func() {
			_, _ = fmt.Fprintf(c.conn, "POST /topics/t HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\n%s\r\n\r\n%s", binaryV2, framing, sent)
		}()
		got, err := c.body()
		if c.resp.StatusCode != status || !strings.Contains(got, want) || want == "" && got != "" || err != nil {
			t.Errorf("%s chunked=%t: %d %.200s %v", name, chunked, c.resp.StatusCode, got, err)
		}
	}
	f(V2Pandaproxy, false, 413, "")
	f(V2Pandaproxy, true, 200, `"offset":0`)
	f(V2Karapace, false, 413, `{"error_code":413,"message":"HTTP Request Entity Too Large"}`)
	f(V2Karapace, true, 413, `413`)
	f(V2Confluent, false, 200, `"offset":0`)
}

// Records of one request for one partition are one batch: all or none.
func TestV2PandaproxyAtomic(t *testing.T) {
	s := start(t, asServer(t, V2Pandaproxy))
	big := base64.StdEncoding.EncodeToString(make([]byte, 700_000))
	c := dial(t, s)
	body := fmt.Sprintf(`{"records":[{"value":%q,"partition":0},{"value":%q,"partition":0},{"value":"YQ==","partition":1}]}`, big, big)
	go func() {
		_, _ = fmt.Fprintf(c.conn, "POST /topics/t HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", binaryV2, len(body), body)
	}()
	got, err := c.body()
	if err != nil || !strings.Contains(got, `{"partition":0,"error_code":10,"offset":-1}`) || !strings.Contains(got, `{"partition":1,"offset":0}`) {
		t.Errorf("%s, %v", got, err)
	}
	if n := stored(t, s); n != 1 {
		t.Errorf("%d stored", n)
	}
	// Without a partition: by key, else in turn over all of them.
	if status, b := v2Post(t, s, "/topics/t", jsonV2, `{"records":[{"value":1},{"value":2},{"value":3},{"value":4}]}`); status != 200 || strings.Count(b, `"partition"`) != 2 {
		t.Errorf("%d %s", status, b)
	}
	for range 2 {
		if status, b := v2Post(t, s, "/topics/t", jsonV2, `{"records":[{"key":"a","value":1},{"key":"a","value":2}]}`); status != 200 || strings.Count(b, `"partition"`) != 1 {
			t.Errorf("%d %s", status, b)
		}
	}
}

// Credentials are asked for in each server's shape, and a connection serves
// further requests.
func TestV2AuthAndKeepAlive(t *testing.T) {
	for _, name := range []string{V2Confluent, V2Pandaproxy, V2Karapace, V2Strimzi} {
		s := start(t, func(c *Config) {
			asServer(t, name)(c)
			c.Credentials = map[string]string{"KEY": "s3cret"}
		})
		status, b := v2Post(t, s, "/topics/t", binaryV2, `{"records":[{"value":"YQ=="}]}`)
		if status != 401 || !json.Valid([]byte(b)) {
			t.Errorf("%s: %d %s", name, status, b)
		}
		c := dial(t, s)
		for i := range 3 {
			c.resp = nil
			const body = `{"records":[{"value":"YQ==","partition":0}]}`
			c.raw(fmt.Sprintf("POST /topics/t HTTP/1.1\r\nHost: x\r\nAuthorization: Basic S0VZOnMzY3JldA==\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", binaryV2, len(body), body))
			got, err := c.body()
			if err != nil || c.resp.StatusCode != http.StatusOK || !strings.Contains(got, fmt.Sprintf(`"offset":%d`, i)) {
				t.Fatalf("%s request %d: %d %s %v", name, i, c.resp.StatusCode, got, err)
			}
		}
	}
}

// Topics are made on first use where that is asked for.
func TestV2AutoCreate(t *testing.T) {
	for _, name := range []string{V2Confluent, V2Pandaproxy, V2Karapace, V2Strimzi} {
		s := start(t, func(c *Config) {
			asServer(t, name)(c)
			c.AutoCreate = true
		})
		if status, b := v2Post(t, s, "/topics/fresh", binaryV2, `{"records":[{"value":"YQ=="}]}`); status != 200 || strings.Contains(b, `"error_code":4`) || strings.Contains(b, `"error_code":5`) || !strings.Contains(b, `"offset":0`) {
			t.Errorf("%s: %d %s", name, status, b)
		}
	}
}

// Faults and limits by time hold for a request that is answered once, too.
func TestV2Time(t *testing.T) {
	t.Parallel()
	const body = `{"records":[{"value":"YQ==","partition":0}]}`
	f := func(fault string, change func(*Config), want string, records int) {
		t.Helper()
		s := start(t, func(c *Config) {
			c.Faults = parse(t, fault, "v2=strimzi")
			if change != nil {
				change(c)
			}
		})
		begin := time.Now()
		c := dial(t, s)
		c.raw(fmt.Sprintf("POST /topics/t HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", binaryV2, len(body), body))
		line, _ := c.br.ReadString('\n')
		if d := time.Since(begin); strings.TrimSpace(line) != want || d < 150*time.Millisecond {
			t.Errorf("%s: %q after %s", fault, line, d)
		}
		if n := stored(t, s); n != records {
			t.Errorf("%s: %d stored", fault, n)
		}
	}
	f("slow-read=200", nil, "HTTP/1.1 200 OK", 1)
	f("stall,for=200ms", nil, "HTTP/1.1 200 OK", 1)
	f("slow=200ms", func(c *Config) { c.Faults = append(c.Faults, parse(t, "reset=150ms")...) }, "", 1)
	f("stall", func(c *Config) { c.Faults = append(c.Faults, parse(t, "cut=150ms")...) }, "", 1)
	f("stall", func(c *Config) { c.IdleTimeout = 200 * time.Millisecond }, "", 1)
	f("stall", func(c *Config) { c.MaxRun = 200 * time.Millisecond }, "HTTP/1.1 503 Service Unavailable", 1)
	f("unknown-topic", func(c *Config) { c.MaxRun = 200 * time.Millisecond }, "HTTP/1.1 503 Service Unavailable", 0)
}

// A body that ends early, or whose frame is broken, is answered or dropped,
// and the sandbox serves on.
func TestV2BrokenBodies(t *testing.T) {
	t.Parallel()
	for _, name := range []string{V2Confluent, V2Pandaproxy, V2Karapace, V2Strimzi} {
		s := start(t, asServer(t, name))
		f := func(framing, body string, half bool, want string) {
			t.Helper()
			c := dial(t, s)
			c.raw("POST /topics/t HTTP/1.1\r\nHost: x\r\nContent-Type: " + binaryV2 + "\r\n" + framing + "\r\n\r\n" + body)
			if half {
				_ = c.conn.(*net.TCPConn).CloseWrite()
			}
			line, _ := c.br.ReadString('\n')
			if !strings.HasPrefix(line, want) || want == "" && line != "" {
				t.Errorf("%s %q %q: %q", name, framing, body, line)
			}
		}
		f("Content-Length: 100", `{"records":[`, true, "")
		f("Transfer-Encoding: chunked", "5\r\n{\"rec", true, "")
		f("Transfer-Encoding: chunked", "zz\r\n", false, "HTTP/1.1 400 ")
		f("Transfer-Encoding: chunked", "2\r\n{}x\r\n", false, "HTTP/1.1 400 ")
		f("Content-Length: 2\r\nTransfer-Encoding: chunked", "{}", false, "HTTP/1.1 400 ")
		f("Transfer-Encoding: chunked\r\nExpect: 100-continue", "2c\r\n"+`{"records":[{"value":"YQ==","partition":0}]}`+"\r\n0\r\n\r\n", false, "HTTP/1.1 200 OK") // nothing to wait for
		if n := stored(t, s); n > 1 {
			t.Errorf("%s: %d stored", name, n)
		}
		if status, b := v2Post(t, s, "/topics/t", binaryV2, `{"records":[{"value":"YQ=="}]}`); status != 200 {
			t.Errorf("%s: %d %s", name, status, b)
		}
	}
}
