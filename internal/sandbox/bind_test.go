package sandbox

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// decode takes src through the scanner, the binding and the serialising, and
// shows the result: "key|value", null for a Kafka null, or "code message".
func decode(t *testing.T, src string) string {
	t.Helper()
	scan := newScanner()
	from, status := scan.next([]byte(src), true)
	if status != scanValue {
		return fmt.Sprintf("broken %v", scan.err)
	}
	var r produceRecord
	if err := bindRecord(&r, []byte(src)[from:scan.pos]); err != nil {
		return "400 " + err.Error()
	}
	if scan.soft != nil {
		return "400 " + scan.soft.Error()
	}
	show := func(d *produceData) string {
		_, b, err := appendData(nil, d)
		switch {
		case err != nil:
			return fmt.Sprintf("%d %s", err.code, err.text)
		case b == nil:
			return "null"
		}
		return string(b)
	}
	return show(&r.key) + "|" + show(&r.value)
}

func TestDecodeData(t *testing.T) {
	f := func(data, want string) {
		t.Helper()
		got := strings.TrimPrefix(decode(t, `{"value":`+data+`}`), "null|")
		if got != want && !(strings.HasSuffix(want, "…") && strings.HasPrefix(got, strings.TrimSuffix(want, "…"))) {
			t.Errorf("%s\n got %s\nwant %s", data, got, want)
		}
	}
	f(`null`, "null")
	f(`{"type":"STRING","data":null}`, "null")
	f(`{"type":"STRING","data":""}`, "")
	f(`{"type":"STRING","data":"a\"\\\/\b\f\n\r\té𝄞"}`, "a\"\\/\b\f\n\r\té𝄞")
	f(`{"type":"STRING","data":"\u00e9\ud834\udd1e\u0000"}`, "é𝄞\x00")
	f(`{"type":"STRING","data":"\ud834x\udd1e\ud834\ud834\udd1e"}`, "?x??𝄞")
	f(`{"type":"STRING","data":5}`, "400 Bad Request: data=5 is not a string.")
	f(`{"type":"STRING","data":{"a":1}}`, `400 Bad Request: data={"a":1} is not a string.`)

	f(`{"type":"BINARY","data":"aGVsbG8="}`, "hello")
	f(`{"type":"BINARY","data":"aGVsbG8"}`, "hello")
	f(`{"type":"BINARY","data":"aGVsbG8==="}`, "hello")
	f(`{"type":"BINARY","data":"aGVsbG8\u003d"}`, "hello")
	f(`{"type":"BINARY","data":""}`, "")
	f(`{"type":"BINARY","data":null}`, "null")
	f(`{"type":"BINARY","data":"+/+/"}`, "\xfb\xff\xbf")
	f(`{"type":"BINARY","data":"-_-_"}`, `400 Bad Request: data="-_-_" is not a valid base64 string.`)
	f(`{"type":"BINARY","data":"aGVs bG8="}`, `400 Bad Request: data="aGVs bG8=" is not a valid base64 string.`)
	f(`{"type":"BINARY","data":"aGVs\nbG8="}`, `400 Bad Request: data="aGVs\nbG8=" is not a valid base64 string.`)
	f(`{"type":"BINARY","data":"aGVsb"}`, `400 Bad Request: data="aGVsb" is not a valid base64 string.`)
	f(`{"type":"BINARY","data":1}`, "400 Bad Request: data=1 is not a base64 string.")

	f(`{"type":"JSON","data":null}`, "null")
	f(`{"type":"JSON","data":"{\"a\":1}"}`, `"{\"a\":1}"`)
	f(`{"data": { "a" : [ 1 , 2 ] } , "type":"JSON"}`, `{"a":[1,2]}`)
	f(`{"type":"STRING","data":"a","type":"JSON"}`, `"a"`)
	f(`{"typ\u0065":"STRING","d\u0061ta":"a"}`, "a")

	f(`{"type":"STRING"}`, "400 Cannot construct instance of `io.confluent.kafkarest.entities.v3.ProduceRequest$ProduceRequestData`, problem: Null data")
	f(`{"type":"string","data":"a"}`, "400 Cannot deserialize value of type `io.confluent.kafkarest.entities.EmbeddedFormat` from String \"string\": not one of the values accepted for Enum class…")
	f(`{"type":"STRING","data":"a","x":1}`, `400 Unrecognized field "x" (class …`)
	f(`{"type":"STRING","data":"a","format":"STRING"}`, `400 Unrecognized field "format" (class …`)
	f(`{"Type":"STRING","data":"a"}`, `400 Unrecognized field "Type" (class …`)
	f(`"a"`, "400 Cannot construct instance of `io.confluent.kafkarest.entities.v3.ProduceRequest$ProduceRequestData` (although at least one Creator exists): no String-argument…")
	f(`[]`, "400 Cannot deserialize value of type `io.confluent.kafkarest.entities.v3.ProduceRequest$ProduceRequestData` from Array value (token `JsonToken.START_ARRAY`)")
	f(`true`, "400 Cannot construct instance of …")

	f(`{"data":"a"}`, "422 Error: 42206 : Payload error. Schema Registry must be configured when using schemas.")
	f(`{"type":"AVRO","schema":"\"string\"","data":"a"}`, "422 Error: 42206 : …")
	f(`{"schema_id":1,"data":"a"}`, "422 Error: 42206 : …")
	f(`{"type":"AVRO","data":"a"}`, "400 Cannot construct instance of …")
	f(`{"type":"STRING","schema_id":1,"data":"a"}`, "400 Cannot construct instance of …")
	f(`{"schema_id":1,"schema_version":1,"data":"a"}`, "400 Cannot construct instance of …")
	f(`{"subject":"s","subject_name_strategy":"TOPIC_NAME","data":"a"}`, "400 Cannot construct instance of …")
	f(`{"subject_name_strategy":"OTHER","data":"a"}`, "400 Cannot deserialize value of type …")
	f(`{"type":"JSON","data":[NaN,-Infinity]}`, "400 Non-standard token 'NaN'…")
}

func TestDecodeRecord(t *testing.T) {
	f := func(src, want string) {
		t.Helper()
		got := decode(t, src)
		if got != want && !(strings.HasSuffix(want, "…") && strings.HasPrefix(got, strings.TrimSuffix(want, "…"))) {
			t.Errorf("%s\n got %s\nwant %s", src, got, want)
		}
	}
	f(`{}`, "null|null")
	f(`{"key":null,"value":null,"headers":null,"timestamp":null,"partition_id":null}`, "null|null")
	f(`{"value":{"type":"STRING","data":"a"},"value":{"type":"STRING","data":"b"}}`, "null|b")
	f(`{"key":{"type":"STRING","data":"k"},"value":{"type":"JSON","data":[]}}`, "k|[]")
	f(`{"originalSize":7}`, "null|null")
	f(`{"original_size":7}`, `400 Unrecognized field "original_size"…`)
	f(`{"id":"1"}`, `400 Unrecognized field "id"…`)
	f(`[{}]`, "400 Cannot deserialize value of type `io.confluent.kafkarest.entities.v3.ProduceRequest` from Array value (token `JsonToken.START_ARRAY`)")
	f(`null`, "400 …")
	f(`12`, "400 …")
	f(`"x"`, "400 …")
	f(`{"partition_id":true}`, "400 Cannot deserialize value of type `java.lang.Integer` from Boolean value (token `JsonToken.VALUE_TRUE`)")
	f(`{"partition_id":3000000000}`, "400 Numeric value (3000000000) out of range of int (-2147483648 - 2147483647)")
	f(`{"partition_id":"x"}`, "400 Cannot deserialize value of type `java.lang.Integer` from String \"x\": not a valid `java.lang.Integer` value")
	f(`{"headers":{"Header-1":"SGVhZGVyLTE="}}`, "400 Cannot deserialize value of type `java.util.ArrayList<…")
	f(`{"headers":[{"Header-1":"SGVhZGVyLTE="}]}`, `400 Unrecognized field "Header-1"…`)
	f(`{"headers":[{"value":"QQ=="}]}`, "400 Cannot construct instance of …")
	f(`{"headers":[{"name":"a","value":"QQ"}]}`, "400 Cannot deserialize value of type `byte[]`…")
	f(`{"headers":[{"name":"a","value":"-_-_"}]}`, "400 Cannot deserialize value of type `byte[]`…")
	f(`{"headers":[{"name":"a","value":5}]}`, "400 Cannot …")
	f(`{"timestamp":"yesterday"}`, "400 Cannot deserialize value of type `java.time.Instant` from String…")
	f(`{"timestamp":{}}`, "400 Cannot deserialize value of type `java.time.Instant` from Object value…")
	f(strings.Repeat(`{"value":`, 999)+`{}`+strings.Repeat(`}`, 999), "400 …")
	f(strings.Repeat(`{"value":`, 1000)+`{}`+strings.Repeat(`}`, 1000), "broken Document nesting depth (1001) exceeds the maximum allowed (1000…")
	f(`{"value":{"type":"JSON","data":`+strings.Repeat("9", 1001)+`}}`, "400 Number value length (1001) exceeds…")
}

func TestBindFields(t *testing.T) {
	bind := func(src string) produceRecord {
		t.Helper()
		var r produceRecord
		if err := bindRecord(&r, []byte(src)); err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		return r
	}
	partition := func(src string, want int32, has bool) {
		t.Helper()
		if r := bind(`{"partition_id":` + src + `}`); r.partition != want || r.hasPartition != has {
			t.Errorf("partition_id %s: %d %v, want %d %v", src, r.partition, r.hasPartition, want, has)
		}
	}
	partition("3", 3, true)
	partition(`"1"`, 1, true)
	partition("1.7", 1, true)
	partition("1e1", 10, true)
	partition("-1", -1, true)
	partition(`""`, 0, false)
	partition("null", 0, false)

	stamp := func(src, want string) {
		t.Helper()
		if got := bind(`{"timestamp":` + src + `}`).timestamp.Format(time.RFC3339Nano); got != want {
			t.Errorf("timestamp %s: %s, want %s", src, got, want)
		}
	}
	stamp(`"2021-12-13T16:29:10.951Z"`, "2021-12-13T16:29:10.951Z")
	stamp(`"2021-12-13T17:29:10+01:00"`, "2021-12-13T16:29:10Z")
	stamp(`1639412950`, "2021-12-13T16:29:10Z")
	stamp(`1639412950.951`, "2021-12-13T16:29:10.951Z")
	stamp(`1.639412950951e9`, "2021-12-13T16:29:10.951Z")
	stamp(`1e-999999999`, "1970-01-01T00:00:00Z")
	stamp(`"1639412950"`, "2021-12-13T16:29:10Z")

	r := bind(`{"headers":[{"name":"a","value":"QQ=="},{"value":null,"name":"b"},{"name":"a"},{"name":7,"value":""}]}`)
	want := []kgo.RecordHeader{{Key: "a", Value: []byte("A")}, {Key: "b"}, {Key: "a"}, {Key: "7", Value: []byte{}}}
	if len(r.headers) != len(want) {
		t.Fatalf("headers %v", r.headers)
	}
	for i, h := range r.headers {
		if h.Key != want[i].Key || string(h.Value) != string(want[i].Value) || (h.Value == nil) != (want[i].Value == nil) {
			t.Errorf("header %d: %q %q, want %q %q", i, h.Key, h.Value, want[i].Key, want[i].Value)
		}
	}
}

func TestJackson(t *testing.T) {
	f := func(src, want string) {
		t.Helper()
		if got := string(appendJackson(nil, []byte(src))); got != want {
			t.Errorf("%s\n got %s\nwant %s", src, got, want)
		}
	}
	f(` { "a" : 1 , "b" : [ ] , "c" : { } } `, `{"a":1,"b":[],"c":{}}`)
	f("1.10", "1.1")
	f("1e3", "1000.0")
	f("1.0", "1.0")
	f("100", "100")
	f("-0", "0")
	f("-0.0", "-0.0")
	f("0.0", "0.0")
	f("0.001", "0.001")
	f("0.0001", "1.0E-4")
	f("9999999.5", "9999999.5")
	f("1e7", "1.0E7")
	f("12345678.9", "1.23456789E7")
	f("1.5e300", "1.5E300")
	f("0.1234567890123456789", "0.12345678901234568")
	f("1e400", `"Infinity"`)
	f("-1e400", `"-Infinity"`)
	f("1e-400", "0.0")
	f("123456789012345678901234567890", "123456789012345678901234567890")
	f(`"\u00e9\/\u001f\u0041\n"`, `"é/\u001FA\n"`)
	f(`"é𝄞"`, `"é\uD834\uDD1E"`)
	f(`"\ud834"`, `"\uD834"`)
	f(`"\u0022\u005c"`, `"\"\\"`)
	f(`{"a":1,"b":2,"a":[3]}`, `{"a":[3],"b":2}`)
	f(`{"a":1,"b":{"x":1,"x":2},"\u0061":3}`, `{"a":3,"b":{"x":2}}`)
	f(`{"a":1,"a":"longer","b":2,"b":{}}`, `{"a":"longer","b":{}}`)
	var many, want []string
	for i := range 40 {
		many = append(many, fmt.Sprintf(`"k%d":%d`, i, i))
		want = append(want, fmt.Sprintf(`"k%d":%d`, i, i))
	}
	many = append(many, `"k30":true`)
	want[30] = `"k30":true`
	f("{"+strings.Join(many, ",")+"}", "{"+strings.Join(want, ",")+"}")
}
