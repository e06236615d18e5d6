package sandbox

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	binaryV2 = "application/vnd.kafka.binary.v2+json"
	jsonV2   = "application/vnd.kafka.json.v2+json"
	textV2   = "application/vnd.kafka.text.v2+json"
	avroV2   = "application/vnd.kafka.avro.v2+json"
)

// asServer makes the sandbox speak v2 in the manner of name.
func asServer(t testing.TB, name string, faults ...string) func(*Config) {
	return withFaults(t, append([]string{"v2=" + name}, faults...)...)
}

// ask sends one request on its own connection and returns the answer.
func ask(t testing.TB, s *Sandbox, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	c := dial(t, s)
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n", method, path, len(body))
	for _, h := range headers {
		head += h + "\r\n"
	}
	c.raw(head + "\r\n" + body)
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", method, path, err)
	}
	_ = resp.Body.Close()
	return resp, string(b)
}

// v2Post posts body to topic t; ct "" sends no Content-Type.
func v2Post(t testing.TB, s *Sandbox, path, ct, body string, headers ...string) (int, string) {
	t.Helper()
	if ct != "" {
		headers = append(headers, "Content-Type: "+ct)
	}
	resp, b := ask(t, s, "POST", path, body, headers...)
	return resp.StatusCode, b
}

// show writes records as partition:key=value, null and empty told apart, and
// headers and timestamps where they are not the server's.
func show(rs []Record) string {
	part := func(b []byte) string {
		if b == nil {
			return "null"
		}
		return fmt.Sprintf("%q", b)
	}
	var out []string
	for _, r := range rs {
		s := fmt.Sprintf("%d:%s=%s", r.Partition, part(r.Key), part(r.Value))
		for _, h := range r.Headers {
			s += fmt.Sprintf(" %s:%s", h.Name, part(h.Value))
		}
		if r.Timestamp.Before(time.Unix(1e9, 0)) {
			s += fmt.Sprintf(" @%d", r.Timestamp.UnixMilli())
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

// v2Case is one request to topic t and what must come of it: the answer, and
// what Kafka has got more than before.
type v2Case struct {
	ct, path, body string
	status         int
	answer         string
	stored         string
}

// runV2 runs cases against the server name; all records go to partition 0
// unless they say otherwise.
func runV2(t *testing.T, name string, cases []v2Case) {
	t.Helper()
	s := start(t, asServer(t, name))
	seen := 0
	for _, c := range cases {
		path := c.path
		if path == "" {
			path = "/topics/t"
		}
		status, b := v2Post(t, s, path, c.ct, c.body)
		if status != c.status || !strings.Contains(b, c.answer) {
			t.Errorf("%s %s %s\n got %d %s\nwant %d %s", c.ct, path, c.body, status, b, c.status, c.answer)
		}
		rs, err := s.Records(context.Background(), "t")
		if err != nil {
			t.Fatal(err)
		}
		slices.SortStableFunc(rs, func(a, b Record) int { return a.Timestamp.Compare(b.Timestamp) })
		var fresh []Record
		for _, r := range rs {
			if r.Offset >= int64(seen) || r.Partition > 0 {
				fresh = append(fresh, r)
			}
		}
		seen += len(fresh)
		if got := show(fresh); got != c.stored {
			t.Errorf("%s %s %s\n stored %s\n   want %s", c.ct, path, c.body, got, c.stored)
		}
	}
}

// Confluent: four members always there, nulls kept, the record's partition
// wins, unknown members named.
func TestV2Confluent(t *testing.T) {
	t.Parallel()
	runV2(t, V2Confluent, []v2Case{
		{
			binaryV2, "", `{"records":[{"key":"a2V5","value":"AAH/","partition":0},{"value":null,"partition":0},{"key":null,"partition":0}]}`, 200,
			`{"offsets":[{"partition":0,"offset":0,"error_code":null,"error":null},{"partition":0,"offset":1,"error_code":null,"error":null},{"partition":0,"offset":2,"error_code":null,"error":null}],"key_schema_id":null,"value_schema_id":null}`,
			`0:"key"="\x00\x01\xff"; 0:null=null; 0:null=null`,
		},
		{
			jsonV2, "", `{"records":[{"key":"k","value":{"b":1.10,"a":[true, null]},"partition":0},{"value":"","partition":0}]}`, 200, `"offset":4`,
			`0:"\"k\""="{\"b\":1.1,\"a\":[true,null]}"; 0:null="\"\""`,
		},
		{binaryV2, "/topics/t/partitions/1", `{"records":[{"value":"YQ==","partition":0}]}`, 200, `{"partition":0,"offset":5,`, `0:null="a"`},
		{binaryV2 + "; charset=utf-8", "/topics/t/partitions/0", `{"records":[{"value":"YQ==","value":"Yg=="}],"key_schema":null,"value_schema_id":7}`, 200, `"offset":6`, `0:null="b"`},

		{binaryV2, "", `{"records":[{"value":"YQ==","partition":0},{"value":"%%","partition":0}]}`, 400, `{"error_code":400,"message":"Bad Request: data=\"%%\" is not a valid base64 string."}`, ""},
		{binaryV2, "", `{"records":[{"value":{"a":1}}]}`, 400, `is not a base64 string`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","headers":[]}]}`, 422, `{"error_code":422,"message":"Unrecognized field: headers"}`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ=="}],"extra":1}`, 422, `Unrecognized field: extra`, ""},
		{binaryV2, "", `{"records":[]}`, 422, `records may not be empty`, ""},
		{binaryV2, "", `{"records":null}`, 422, `records may not be empty`, ""},
		{binaryV2, "", `{}`, 422, `records may not be empty`, ""},
		{binaryV2, "", `{"records":"x"}`, 400, `Cannot construct instance`, ""},
		{binaryV2, "", `{"records":[3]}`, 400, `Cannot construct instance`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":"x"}]}`, 400, `not a valid`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":-1}]}`, 422, `records[0].partition must be greater than or equal to 0`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":9}]}`, 200, `{"partition":null,"offset":null,"error_code":50003,"error":"Partition 9 of topic t with partition count 2 is not present in metadata after 300 ms."}`, ""},
		{binaryV2, "/topics/nope", `{"records":[{"value":"YQ=="},{"value":"YQ=="}]}`, 200, `"error_code":50003,"error":"Topic nope not present in metadata after 300 ms."},{"partition":null`, ""},
		{binaryV2, "/topics/a%20b", `{"records":[{"value":"YQ=="}]}`, 200, `"error_code":50002`, ""},
		{binaryV2, "/topics/t/partitions/x", `{"records":[{"value":"YQ=="}]}`, 404, `404`, ""},
		{binaryV2, "", ``, 400, `No content to map due to end-of-input`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ=="}`, 400, `Unexpected end-of-input`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ=="}]} x`, 400, `Trailing token`, ""},
		{binaryV2, "", "\x00\xff\x80", 400, `Unexpected character`, ""},
		{binaryV2, "", `[]`, 400, `from Array value`, ""},
		{jsonV2, "", `{"records":[{"value":` + strings.Repeat("[", 1100), 400, `nesting depth`, ""},
		{avroV2, "", `{"records":[{"value":{}}]}`, 422, `{"error_code":42206`, ""},
		{textV2, "", `{"records":[{"value":"a"}]}`, 415, `{"error_code":415,"message":"HTTP 415 Unsupported Media Type"}`, ""},
		{"application/json", "", `{"records":[]}`, 415, `415`, ""},
		{"", "", `{"records":[]}`, 415, `415`, ""},
	})
}

// Pandaproxy: one entry a partition with the batch's first offset, a missing
// key empty, and a parser that says no more than an offset.
func TestV2Pandaproxy(t *testing.T) {
	t.Parallel()
	runV2(t, V2Pandaproxy, []v2Case{
		{
			binaryV2, "", `{"records":[{"key":"a2V5","value":"AAH/","partition":0},{"value":"","partition":0},{"partition":0}]}`, 200,
			`{"offsets":[{"partition":0,"offset":0}]}`, `0:"key"="\x00\x01\xff"; 0:""=""; 0:""=null`,
		},
		{
			jsonV2, "", `{"records":[{"key":"k","value":{"b":1.10,"a":[true, null, "\u00e9\/\uD83D\uDE00"]},"partition":0},{"value":null,"partition":0}]}`, 200, `{"partition":0,"offset":3}`,
			`0:"\"k\""="{\"b\":1.1,\"a\":[true,null,\"é/😀\"]}"; 0:""="null"`,
		},
		{binaryV2, "", `{"records":{"value":"YQ==","partition":0}}`, 200, `"offset":5`, `0:""="a"`},
		{binaryV2, "", `{"records":[]}`, 200, `{"offsets":[]}`, ""},

		{binaryV2, "", `{"records":[{"value":null,"partition":0}]}`, 422, `{"error_code":422,"message":"parse error at offset 25"}`, ""},
		{binaryV2, "", `{"records":[{"value":"%%"}]}`, 422, `parse error at offset 25`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ"}]}`, 422, `parse error at offset 25`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","headers":[]}]}`, 422, `parse error at offset 37`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ=="}],"key_schema_id":1}`, 422, `parse error at offset 45`, ""},
		{binaryV2, "", `{"record":[]}`, 422, `parse error at offset 9`, ""},
		{binaryV2, "", `{}`, 422, `parse error at offset 2`, ""},
		{binaryV2, "", `[]`, 422, `parse error at offset 1`, ""},
		{binaryV2, "", `{"records":7}`, 422, `parse error at offset 12`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":"0"}]}`, 422, `parse error at offset 43`, ""},
		{binaryV2, "", ``, 422, `parse error at offset 0`, ""},
		{binaryV2, "", `{"records":[{`, 422, `parse error at offset 13`, ""},
		{jsonV2, "", `{"records":[{"value":1e999}]}`, 422, `parse error`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":9}]}`, 200, `{"offsets":[{"partition":9,"error_code":3,"offset":-1}]}`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":-1}]}`, 200, `{"offsets":[{"partition":-1,"error_code":3,"offset":-1}]}`, ""},
		{binaryV2, "/topics/nope", `{"records":[{"value":"YQ=="},{"value":"YQ=="}]}`, 200, `{"offsets":[{"partition":0,"error_code":3,"offset":-1}]}`, ""},
		{binaryV2, "/topics/t/partitions/0", `{"records":[]}`, 404, `{"message":"Not found","code":404}`, ""},
		{"application/json", "", `{"records":[]}`, 415, `"error_code":415`, ""},
		{avroV2, "", `{"records":[]}`, 415, `"error_code":415`, ""},
		{"", "", `{"records":[]}`, 415, `"error_code":415`, ""},
	})
}

// Karapace: what Python finds false becomes no bytes, base64 is read as
// loosely as it does, the topic is looked at before the body's shape.
func TestV2Karapace(t *testing.T) {
	t.Parallel()
	runV2(t, V2Karapace, []v2Case{
		{
			binaryV2, "", `{"records":[{"key":"a2V5","value":"AAH/","partition":0},{"value":null,"partition":0},{"key":"","partition":"0"},{"key":null,"value":0,"partition":0}]}`, 200,
			`{"key_schema_id":null,"offsets":[{"offset":0,"partition":0},{"offset":1,"partition":0},{"offset":2,"partition":0},{"offset":3,"partition":0}],"value_schema_id":null}`,
			`0:"key"="\x00\x01\xff"; 0:null=""; 0:""=""; 0:null=""`,
		},
		{
			jsonV2, "", `{"records":[{"key":"k","value":{"b":1.10,"a":["\u00e9\/😀"]},"partition":0},{"value":{ },"partition":0},{"value":false,"partition":0}]}`, 200, `"offset":6`,
			`0:"\"k\""="{\"a\":[\"\\u00e9/\\ud83d\\ude00\"],\"b\":1.1}"; 0:null=""; 0:null=""`,
		},
		{"application/json", "/topics/t/partitions/0", `{"records":[{"value":"Y_Q=="}]}`, 200, `"offset":7`, `0:null="a"`},
		{"", "/topics/t/partitions/0", `{"records":[{"value":"YQ=="}]}`, 200, `"offset":8`, `0:null="a"`},
		{
			binaryV2, "", `{"records":[{"value":"YQ==","partition":9},{"value":"Yg==","partition":0}]}`, 422,
			`{"key_schema_id":null,"offsets":[{"error":"Unrecognized partition","error_code":1},{"offset":9,"partition":0}],"value_schema_id":null}`, `0:null="b"`,
		},

		{binaryV2, "", `{"records":[{"value":"YQ==","partition":0},{"value":"YQ","partition":0}]}`, 400, `data=\"YQ\"  is not a base64 string.`, ""},
		{binaryV2, "", `{"records":[{"value":{"a":1}}]}`, 400, `data={\"a\":1}  is not a base64 string.`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","headers":[]}]}`, 422, `{"error_code":422,"message":"Invalid request format"}`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ=="}],"extra":1}`, 422, `Invalid request format`, ""},
		{binaryV2, "", `{"records":[]}`, 422, `Invalid request format`, ""},
		{binaryV2, "", `{}`, 422, `Invalid request format`, ""},
		{binaryV2, "", `{"records":"x"}`, 400, `'records' must be an array`, ""},
		{binaryV2, "", `{"records":[3]}`, 400, `Produce record must be an object`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":"x"}]}`, 500, `partition is not a valid int: x`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","partition":[]}]}`, 500, `Internal server error`, ""},
		{binaryV2, "", `[]`, 500, `Internal server error`, ""},
		{binaryV2, "", ``, 400, `Missing request JSON body`, ""},
		{binaryV2, "", `{"records"`, 400, `Invalid request JSON body`, ""},
		{textV2, "", `{"records":[]}`, 415, `{"error_code":415,"message":"HTTP 415 Unsupported Media Type"}`, ""},
		{binaryV2, "/topics/nope", `{"records":"x"}`, 404, `{"error_code":40401,"message":"Topic nope not found"}`, ""},
		{binaryV2, "/topics/t/partitions/7", `{"records":[{"value":"YQ=="}]}`, 404, `{"error_code":40402,"message":"Partition 7 not found"}`, ""},
		{binaryV2, "/topics/t/partitions/x", `{"records":[{"value":"YQ=="}]}`, 404, `{"error_code":404,"message":"Partition x not found"}`, ""},
		{avroV2, "", `{"records":[{"value":{"a":1}}]}`, 422, `{"error_code":42202,`, ""},
		{avroV2, "", `{"records":[{"key":{"a":1}}]}`, 422, `{"error_code":42201,`, ""},
		{avroV2, "", `{"records":[{"value":{"a":1}}],"value_schema":"\"string\""}`, 408, `{"error_code":40801,`, ""},
	})
}

// Strimzi: headers and timestamps, text, always 200 once the body is good.
func TestV2Strimzi(t *testing.T) {
	t.Parallel()
	runV2(t, V2Strimzi, []v2Case{
		{
			binaryV2, "", `{"records":[{"key":"a2V5","value":"AAH/","partition":0,"timestamp":12345,"headers":[{"key":"h","value":"dg=="},{"key":"e","value":""}]}]}`, 200,
			`{"offsets":[{"partition":0,"offset":0}]}`, `0:"key"="\x00\x01\xff" h:"v" e:"" @12345`,
		},
		{
			textV2, "", `{"records":[{"key":"k","value":"h\u00e9\n","partition":0},{"value":"","partition":0},{"partition":0}]}`, 200, `"offset":3`,
			`0:"k"="hé\n"; 0:null=""; 0:null=null`,
		},
		{jsonV2, "", `{"records":[{"key":"k","value":{"b":1.10},"partition":0},{"value":null,"partition":0}]}`, 200, `"offset":5`, `0:"\"k\""="{\"b\":1.1}"; 0:null="null"`},
		{"", "/topics/t/partitions/0", `{"records":[{"value":"YQ=="}]}`, 200, `"offset":6`, `0:null="a"`},
		{binaryV2, "/topics/t?async=true", `{"records":[{"value":"Yg==","partition":0}]}`, 204, ``, `0:null="b"`},
		{binaryV2, "", `{"records":[]}`, 200, `{"offsets":[]}`, ""},
		{
			binaryV2, "", `{"records":[{"value":"YQ==","partition":9},{"value":"Yw==","partition":0}]}`, 200,
			`{"offsets":[{"error_code":404,"message":"Partition 9 of topic t with partition count 2 is not present in metadata after 300 ms."},{"partition":0,"offset":8}]}`, `0:null="c"`,
		},
		{binaryV2, "/topics/nope", `{"records":[{"value":"YQ=="},{"value":"YQ=="}]}`, 200, `{"error_code":404,"message":"Topic nope not present in metadata after 300 ms."},{"error_code":404`, ""},

		{binaryV2, "/topics/t/partitions/0", `{"records":[{"value":"YQ==","partition":0}]}`, 422, `{"error_code":422,"message":"Partition specified in body and in request path"}`, ""},
		{binaryV2, "/topics/t/partitions/x", `{"records":[]}`, 422, `not a valid number`, ""},
		{binaryV2, "/topics/t/partitions/-1", `{"records":[{"value":"YQ=="}]}`, 422, `non-negative`, ""},
		{binaryV2, "", `{"records":[{"value":"%%"}]}`, 422, `base64`, ""},
		{binaryV2, "", `{"records":[{"value":null}]}`, 422, `must be a string`, ""},
		{textV2, "", `{"records":[{"value":7}]}`, 422, `Because the embedded format is 'text', the value must be a string`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","timestamp":-1}]}`, 422, `timestamp`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","headers":{"a":"b"}}]}`, 422, `headers`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","headers":[{"key":"a","value":"%"}]}]}`, 422, `headers`, ""},
		{binaryV2, "", `{"records":[{"value":"YQ==","other":1}]}`, 422, `other`, ""},
		{binaryV2, "", `{"records":"x"}`, 422, `records`, ""},
		{binaryV2, "", `{}`, 422, `records`, ""},
		{binaryV2, "", `[3]`, 422, `not an object`, ""},
		{binaryV2, "", `{"records":[3]}`, 422, `object`, ""},
		{binaryV2, "", ``, 422, `No content`, ""},
		{binaryV2, "", "\xff\x00", 422, `Unexpected character`, ""},
		{avroV2, "", `{"records":[]}`, 415, `{"error_code":415,"message":"Unsupported Media Type"}`, ""},
		{"application/json", "", `{"records":[]}`, 415, `415`, ""},
	})
}

// Accept is looked at by each server's own rule.
func TestV2Accept(t *testing.T) {
	f := func(name, accept string, status int) {
		t.Helper()
		s := start(t, asServer(t, name))
		if got, b := v2Post(t, s, "/topics/t", binaryV2, `{"records":[{"value":"YQ=="}]}`, "Accept: "+accept); got != status {
			t.Errorf("%s, Accept: %s: %d %s", name, accept, got, b)
		}
	}
	f(V2Confluent, kafkaV2, 200)
	f(V2Confluent, "*/*", 200)
	f(V2Confluent, "application/json", 406)
	f(V2Pandaproxy, kafkaV2, 200)
	f(V2Pandaproxy, "application/json", 406)
	f(V2Karapace, "application/json", 200)
	f(V2Karapace, "text/html", 406)
	f(V2Strimzi, "text/html", 200)
}

// What tells a server from another without producing, and that only
// kafka-rest speaks v3.
func TestV2Identity(t *testing.T) {
	f := func(name, server, path string, status int, want string) {
		t.Helper()
		s := start(t, asServer(t, name))
		resp, b := ask(t, s, "GET", path, "")
		if resp.StatusCode != status || b != want || resp.Header.Get("Server") != server {
			t.Errorf("%s %s: %d %q, Server %q", name, path, resp.StatusCode, b, resp.Header.Get("Server"))
		}
		if path != "/topics" {
			return
		}
		if resp, b := ask(t, s, "GET", "/v3/clusters", ""); (resp.StatusCode == 200) != (name == V2Confluent) {
			t.Errorf("%s: /v3/clusters: %d %s", name, resp.StatusCode, b)
		}
		if resp, _ := ask(t, s, "POST", fmt.Sprintf(path3, "t"), rec, "Content-Type: application/json"); (resp.StatusCode == 200) != (name == V2Confluent) {
			t.Errorf("%s: v3 records: %d", name, resp.StatusCode)
		}
	}
	const seastar, karapace = "Seastar httpd", "Karapace/5.0.1"
	for name, server := range map[string]string{V2Confluent: "", V2Pandaproxy: seastar, V2Karapace: karapace, V2Strimzi: ""} {
		f(name, server, "/topics", 200, `["t"]`)
		f(name, server, "/brokers", 200, `{"brokers":[0]}`)
	}
	f(V2Confluent, "", "/", 200, "{}")
	f(V2Confluent, "", "/nothing", 404, `{"error_code":404,"message":"HTTP 404 Not Found"}`)
	f(V2Pandaproxy, seastar, "/status/ready", 200, "")
	f(V2Pandaproxy, seastar, "/", 404, `{"message":"Not found","code":404}`)
	f(V2Karapace, karapace, "/", 200, "{}")
	f(V2Karapace, karapace, "/nothing", 404, "404: Not Found")
	f(V2Strimzi, "", "/", 200, `{"bridge_version":"0.33.0"}`)
	f(V2Strimzi, "", "/healthy", 204, "")
	f(V2Strimzi, "", "/nothing", 404, `{"error_code":404,"message":"Not Found"}`)
}

const path3 = "/v3/clusters/lkc-sandbox/topics/%s/records"

// A failed record's error has each server's shape, and the others are written.
func TestV2Reports(t *testing.T) {
	t.Parallel()
	const body = `{"records":[{"value":"YQ==","partition":0},{"value":"Yg==","partition":1},{"value":"Yw==","partition":0}]}`
	f := func(name, fault string, status, wantStored int, want ...string) {
		t.Helper()
		s := start(t, asServer(t, name, fault))
		got, b := v2Post(t, s, "/topics/t", binaryV2, body)
		if got != status {
			t.Errorf("%s %s: %d %s", name, fault, got, b)
		}
		for _, w := range want {
			if !strings.Contains(b, w) {
				t.Errorf("%s %s: %s, want %s", name, fault, b, w)
			}
		}
		if n := stored(t, s); n != wantStored {
			t.Errorf("%s %s: %d stored, want %d", name, fault, n, wantStored)
		}
	}
	f(V2Confluent, "report=50003,contains=Yg", 200, 2, `"offset":0,"error_code":null,"error":null},{"partition":null,"offset":null,"error_code":50003,"error":"Expiring`)
	f(V2Confluent, "report=40301,count=1,stored=true", 403, 3, `"error_code":40301`)
	f(V2Confluent, "report=40101,every=2", 401, 2, `"error_code":40101`)
	f(V2Pandaproxy, "report=7,contains=Yw", 200, 1, `{"partition":0,"error_code":7,"offset":-1}`, `{"partition":1,"offset":0}`)
	f(V2Pandaproxy, "report=7,contains=Yw,stored=true", 200, 3, `{"partition":0,"error_code":7,"offset":-1}`)
	f(V2Karapace, "report=2,contains=Yg,message=later", 422, 2, `{"offset":0,"partition":0},{"error":"later","error_code":2},{"offset":1,"partition":0}`)
	f(V2Strimzi, "report=500,contains=Yg,message=later", 200, 2, `{"error_code":500,"message":"later"}`)
	// What v3 reports, each server says in its own codes.
	f(V2Confluent, "report=429,count=1", 200, 2, `"error_code":50003`)
	f(V2Confluent, "report=413,count=1", 200, 2, `"error_code":50002`)
	f(V2Pandaproxy, "report=50003,contains=Yg", 200, 2, `{"partition":1,"error_code":7,"offset":-1}`)
	f(V2Pandaproxy, "report=429,contains=Yg", 200, 2, `"error_code":89`)
	f(V2Pandaproxy, "report=50002,contains=Yg", 200, 2, `"error_code":-1`)
	f(V2Pandaproxy, "report=40301", 200, 0, `"error_code":29`)
	f(V2Karapace, "report=50003,count=1", 422, 2, `"error_code":2`)
	f(V2Karapace, "report=40301,count=1", 422, 2, `"error_code":1`)
	f(V2Strimzi, "report=50003,count=1", 200, 2, `"error_code":500`)
	f(V2Strimzi, "report=40403,count=1", 200, 2, `"error_code":404`)
	f(V2Strimzi, "report=12345,count=1", 200, 2, `"error_code":12345`)

	f(V2Confluent, "garbage=2", 200, 3, "<html>")
	f(V2Confluent, "garbage=3", 200, 3, `"offset":1`)
	f(V2Karapace, "unknown-topic", 404, 0, "40401")
	f(V2Strimzi, "unknown-topic", 200, 0, `"error_code":404`)
	f(V2Pandaproxy, "unknown-topic", 200, 0, `"error_code":3`)
	f(V2Confluent, "unknown-topic=t", 200, 0, `"error_code":50003`)
	f(V2Pandaproxy, "http=429,body=empty,retry-after=0", 429, 0)
	f(V2Strimzi, "http=503", 503, 0)
}

// A cut or reset request has its first records in Kafka, and no answer.
func TestV2Ends(t *testing.T) {
	const body = `{"records":[{"value":"YQ==","partition":0},{"value":"Yg==","partition":1},{"value":"Yw==","partition":0}]}`
	f := func(name, fault string, want int, part string) {
		t.Helper()
		s := start(t, asServer(t, name, fault))
		c := dial(t, s)
		c.raw(fmt.Sprintf("POST /topics/t HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", binaryV2, len(body), body))
		b, err := io.ReadAll(c.br)
		if strings.HasPrefix(fault, "reset") != (err != nil) || !strings.HasPrefix(string(b), part) || part == "" && len(b) > 0 {
			t.Errorf("%s %s: %q, %v", name, fault, b, err)
		}
		if n := stored(t, s); n != want {
			t.Errorf("%s %s: %d stored, want %d", name, fault, n, want)
		}
	}
	f(V2Confluent, "reset=2", 2, "")
	f(V2Confluent, "reset", 0, "")
	f(V2Strimzi, "cut=3", 3, "")
	f(V2Pandaproxy, "reset=3", 3, "")
	f(V2Karapace, "cut=1,mid=true", 1, "HTTP/1.1 200 OK\r\n")
}

// A stalled answer comes when faults change; a slow one late; the records are
// there all along.
func TestV2Stall(t *testing.T) {
	s := start(t, asServer(t, V2Karapace, "stall=0"))
	done := make(chan string, 1)
	go func() {
		_, b := v2Post(t, s, "/topics/t", binaryV2, `{"records":[{"value":"YQ=="}]}`)
		done <- b
	}()
	for stored(t, s) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	select {
	case b := <-done:
		t.Fatalf("answered at once: %s", b)
	case <-time.After(50 * time.Millisecond):
	}
	if err := s.SetFaults(nil); err != nil {
		t.Fatal(err)
	}
	if b := <-done; !strings.Contains(b, `"key_schema_id"`) {
		t.Errorf("%s", b)
	}
	// The server is still the same one.
	if _, b := v2Post(t, s, "/nothing", binaryV2, ""); b != "404: Not Found" {
		t.Errorf("after SetFaults: %s", b)
	}
	if err := s.SetFaults(parse(t, "slow=150ms,partition=1", "v2=strimzi")); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	v2Post(t, s, "/topics/t", binaryV2, `{"records":[{"value":"YQ==","partition":1}]}`)
	if d := time.Since(begin); d < 150*time.Millisecond {
		t.Errorf("answered after %s", d)
	}
}
