package sandbox

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

const batchPath = "/kafka/v3/clusters/lkc-sandbox/topics/%s/records:batch"

func postEntries(t testing.TB, s *Sandbox, topic, body string) (int, string) {
	t.Helper()
	resp, b := ask(t, s, "POST", fmt.Sprintf(batchPath, topic), body, "Content-Type: application/json")
	return resp.StatusCode, b
}

// entries is a batch of n entries with ids 0..n-1.
func entries(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`{"id":"%d","partition_id":0,"value":{"type":"STRING","data":"v%d"}}`, i, i))
	}
	return `{"entries":[` + strings.Join(out, ",") + `]}`
}

// What refuses a whole batch.
func TestBatchRefusals(t *testing.T) {
	s := start(t, nil)
	f := func(body string, status, code int, text string) {
		t.Helper()
		want := fmt.Sprintf(`{"error_code":%d,"message":"`, code)
		if got, b := postEntries(t, s, "t", body); got != status || !strings.HasPrefix(b, want) || !strings.Contains(b, text) {
			t.Errorf("%.200s: %d %s", body, got, b)
		}
	}
	f(``, 422, 42208, "Empty batch.")
	f(`{}`, 422, 42208, "Empty batch.")
	f(`null`, 422, 42208, "Empty batch.")
	f(`{"entries":[]}`, 422, 42208, "Empty batch.")
	f(`{"entries":null}`, 422, 42208, "Empty batch.")
	f(entries(11), 422, 42208, "Too many entries in batch.")
	f(`{"entries":[{}]}`, 422, 42208, "Batch entry identifier is not a valid string.")
	f(`{"entries":[{"id":7}]}`, 422, 42208, "not a valid string")
	f(`{"entries":[{"id":""}]}`, 422, 42208, "not a valid string")
	f(`{"entries":[{"id":"a b"}]}`, 422, 42208, "not a valid string")
	f(`{"entries":[{"id":"`+strings.Repeat("a", 81)+`"}]}`, 422, 42208, "not a valid string")
	f(`{"entries":[{"id":"a"},{"id":"b"},{"id":"\u0061"}]}`, 422, 42208, "Batch entry IDs are not distinct.")
	f(`{"entries":[{"id":"a","other":1}]}`, 422, 422, "Unrecognized field: other")
	f(`{"entries":[{"id":"a","value":{"type":"JSON","data":1,"x":2}}]}`, 422, 422, "Unrecognized field: x")
	f(`{"entries":[{"id":"a"}],"more":1}`, 422, 422, "Unrecognized field: more")
	f(`{"entries":[{"id":"a","value":{"type":"JSON"}}]}`, 400, 400, "Null data")
	f(`{"entries":[{"id":"a","value":7}]}`, 400, 400, "Cannot construct instance")
	f(`{"entries":[7]}`, 400, 400, "Cannot construct instance")
	f(`{"entries":"x"}`, 400, 400, "Cannot construct instance")
	f(`[]`, 400, 400, "from Array value")
	f(`{"entries":[`, 400, 400, "Unexpected end-of-input")
	f(entries(1)+entries(1), 400, 400, "Trailing")
	f("\x00\xff", 400, 400, "Unexpected character")
	if n := stored(t, s); n != 0 {
		t.Errorf("%d stored", n)
	}
	resp, b := ask(t, s, "POST", fmt.Sprintf(batchPath, "t"), entries(1), "Content-Type: text/plain")
	if resp.StatusCode != 415 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	if rs := post(t, s, "t", `{"id":"a"}`); codes(rs) != "400" {
		t.Errorf("a record with an id on a stream: %+v", rs)
	}
}

// Entries succeed and fail one by one, matched by id.
func TestBatch(t *testing.T) {
	s := start(t, nil)
	status, b := postEntries(t, s, "t", `{"entries":[
		{"id":"a","partition_id":0,"key":{"type":"STRING","data":"k"},"value":{"type":"BINARY","data":"AAH/"},"headers":[{"name":"h","value":"dg=="}],"timestamp":"1970-01-01T00:00:12.345Z"},
		{"id":"b","partition_id":0,"value":{"type":"BINARY","data":"%"}},
		{"id":"c","partition_id":0},
		{"id":"d","value":{"data":1}},
		{"id":"e","partition_id":9}]}`)
	const want = `{"successes":[` +
		`{"id":"a","cluster_id":"lkc-sandbox","topic_name":"t","partition_id":0,"offset":0,"timestamp":"1970-01-01T00:00:12.345Z","key":{"type":"STRING","size":1},"value":{"type":"BINARY","size":3}},` +
		`{"id":"c","cluster_id":"lkc-sandbox","topic_name":"t","partition_id":0,"offset":1,"timestamp":"`
	if status != 207 || !strings.HasPrefix(b, want) {
		t.Errorf("%d %s", status, b)
	}
	const failed = `"}],"failures":[{"id":"b","error_code":400,"message":"Bad Request: data=\"%\" is not a valid base64 string."},` +
		`{"id":"d","error_code":422,"message":"Error: 42206 : Payload error. Schema Registry must be configured when using schemas."},` +
		`{"id":"e","error_code":40401,"message":"Partition 9 of topic t with partition count 2 is not present in metadata after 300 ms."}]}`
	if !strings.HasSuffix(b, failed) {
		t.Errorf("%s", b)
	}
	rs, err := s.Records(context.Background(), "t")
	if err != nil || show(rs) != `0:"k"="\x00\x01\xff" h:"v" @12345; 0:null=null` {
		t.Errorf("%s, %v", show(rs), err)
	}
	if status, b := postEntries(t, s, "t", entries(10)); status != 207 || strings.Count(b, `"offset"`) != 10 || !strings.HasSuffix(b, `"failures":[]}`) {
		t.Errorf("%d %s", status, b)
	}
}

// Each entry counts for the record limit, each request for that of requests;
// faults choose among entries.
func TestBatchLimitsAndFaults(t *testing.T) {
	s := start(t, func(c *Config) { c.LimitsProfile = "records=3,burst=1,posts=1" })
	if status, b := postEntries(t, s, "t", entries(5)); status != 207 || strings.Count(b, `"offset"`) != 3 || strings.Count(b, `"error_code":429`) != 2 {
		t.Errorf("%d %s", status, b)
	}
	if status, b := postEntries(t, s, "t", entries(1)); status != 429 {
		t.Errorf("%d %s", status, b)
	}
	s = start(t, withFaults(t, "report=50003,contains=v1,stored=true"))
	if status, b := postEntries(t, s, "t", entries(3)); status != 207 || !strings.Contains(b, `"failures":[{"id":"1","error_code":50003,`) || stored(t, s) != 3 {
		t.Errorf("%d %s", status, b)
	}
	if err := s.SetFaults(parse(t, "reset=2")); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s)
	body := entries(3)
	c.raw(fmt.Sprintf("POST "+batchPath+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", "t", len(body), body))
	if _, err := c.br.ReadByte(); err == nil {
		t.Error("an answer")
	}
	if n := stored(t, s); n != 5 {
		t.Errorf("%d stored", n)
	}
}
