package record

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckRecord(t *testing.T) {
	good := func(rec string) {
		t.Helper()
		if err := CheckRecord([]byte(rec)); err != nil {
			t.Errorf("CheckRecord(%s) = %v", rec, err)
		}
	}
	good(`{}`)
	good(` {"value":null,"key":null,"headers":null,"partition_id":null,"timestamp":null} `)
	good("{\n  \"value\": {\n    \"type\": \"STRING\",\n    \"data\": \"x\"\n  }\n}")
	good(`{"partition_id":1,"headers":[],"timestamp":"2021-12-13T16:29:10Z","originalSize":3}`)
	good(`{"headers":[{"name":"a","value":"eA=="},{"name":"b","value":null}, {"name":"c"}]}`)
	good(`{"value":{"type":"AVRO","schema":"\"string\"","data":"x"},"key":{"schema_id":7,"data":1}}`)
	good(`{"value":{"subject":"s","schema_version":1,"data":{"any":{"member":1}}}}`)
	good(`{"value":{"subject_name_strategy":"TOPIC_NAME","data":null}}`)
	good(`{"\u0076alue":{"type":"JSON","data":[{"unknown":1}]}}`)

	bad := func(rec, reason, text string) {
		t.Helper()
		var inv *InvalidError
		err := CheckRecord([]byte(rec))
		if !errors.As(err, &inv) || inv.Code != 400 || inv.Reason != reason || !strings.Contains(inv.Message, text) {
			t.Errorf("CheckRecord(%s) = %#v, want reason %s and %q", rec, err, reason, text)
		}
	}
	bad(``, ReasonInvalidJSON, "byte 0")
	bad(`{"value":}`, ReasonInvalidJSON, "byte 9")
	bad(`{}{}`, ReasonInvalidJSON, "byte 2")
	bad("{\"key\":{\"type\":\"STRING\",\"data\":\"\xff\"}}", ReasonInvalidUTF8, "BINARY")
	bad(`{"key":null,"value":null,"k\u0065y":{"data":"a"}}`, ReasonInvalidRecord, "stands twice")
	bad(`{"value":{"data":`+strings.Repeat("[", 999)+strings.Repeat("]", 999)+`}}`, ReasonTooDeep, "1000")
	bad(`[]`, ReasonInvalidRecord, "not a JSON object")
	bad(`null`, ReasonInvalidRecord, "not a JSON object")
	bad(`{"topic":"t"}`, ReasonInvalidRecord, `"topic"`)
	bad(`{"Value":null}`, ReasonInvalidRecord, `"Value"`)
	bad(`{"v\u0061lues":null}`, ReasonInvalidRecord, `"values"`)
	bad(`{"value":"text"}`, ReasonInvalidRecord, "value must be null or a data object")
	bad(`{"key":[]}`, ReasonInvalidRecord, "key must be null or a data object")
	bad(`{"value":{"type":"STRING"}}`, ReasonInvalidRecord, "no data member")
	bad(`{"value":{"data":1,"format":"JSON"}}`, ReasonInvalidRecord, `"format"`)
	bad(`{"partition_id":{}}`, ReasonInvalidRecord, `"partition_id"`)
	bad(`{"headers":{"a":"b"}}`, ReasonInvalidRecord, "headers must be an array")
	bad(`{"headers":["a"]}`, ReasonInvalidRecord, "a header must be an object")
	bad(`{"headers":[{"value":null}]}`, ReasonInvalidRecord, "no name")
	bad(`{"headers":[{"name":1}]}`, ReasonInvalidRecord, "no name")
	bad(`{"headers":[{"name":"a","value":"eA"}]}`, ReasonInvalidRecord, "padded standard base64")
	bad(`{"headers":[{"name":"a","value":"-_8="}]}`, ReasonInvalidRecord, "padded standard base64")
	bad(`{"headers":[{"name":"a","value":1}]}`, ReasonInvalidRecord, "padded standard base64")
	bad(`{"headers":[{"name":"a","key":"b"}]}`, ReasonInvalidRecord, `"key"`)
}

func TestAppendRaw(t *testing.T) {
	f := func(rec, want string) {
		t.Helper()
		if got := AppendRaw([]byte("a\n"), []byte(rec)); string(got) != "a\n"+want {
			t.Errorf("AppendRaw(%q) = %q, want %q", rec, got, want)
		}
	}
	f(`{}`, "{}\n")
	f(" {}\r\n", "{}\n")
	f("{\n}", "{\n}\n")
}
