package record

import "testing"

func TestKey(t *testing.T) {
	f := func(rec, want string) {
		t.Helper()
		got, ok := Key([]byte("x"), []byte(rec))
		if string(got) != want || !ok {
			t.Errorf("%s: %q, %v; want %q", rec, got, ok, want)
		}
	}
	f(`{"key":{"type":"STRING","data":"a b"},"value":{"type":"STRING","data":"v"}}`+"\n", "a b")
	f(`{"key":{"type":"STRING","data":""},"value":{"type":"STRING","data":"v"}}`, "")
	f(`{"key":{"type":"STRING","data":"a\u0062\"\\"},"value":null}`, `ab"\`)
	f(`{"partition_id":3,"headers":[{"name":"key","value":"eA=="}],"key":{"type":"STRING","data":"a"}}`, "a")
	f(`{"value":{"type":"JSON","data":{"key":{"type":"STRING","data":"no"}}},"key":{"type":"STRING","data":"yes"}}`, "yes")
	f(`{"\u006bey":{"d\u0061ta":"a","type":"STRING"}}`, "a")
	f("{\n \"key\" : { \"type\" : \"STRING\" , \"data\" : \"a\" } }\n", "a")
	f(`{"key":{"type":"BINARY","data":"YQ=="}}`, "a")
	f(`{"key":{"type":"BINARY","data":"\u0059Q=="}}`, "a")
	f(`{"key":{"type":"BINARY","data":"/wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJico"}}`,
		"\xff\x00\x01\x02\x03\x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f !\"#$%&'(")
	f(`{"key":{"type":"BINARY","data":"no base64"}}`, "no base64")
	f(`{"key":{"type":"STRING","data":17}}`, "17")
	f(`{"key":{"type":"JSON","data":{ "a" : [ 1 , "b\u0063 d" ] , "e":true}}}`, `{"a":[1,"bc d"],"e":true}`)
	f(`{"key":{"type":"JSON","data":1.10}}`, "1.1")
	f(`{"key":{"type":"JSON","data":11e-1}}`, "1.1")
	f(`{"key":{"type":"JSON","data":-12345678901234567890123}}`, "-12345678901234567890123")
	f(`{"key":{"schema_id":7,"data":{"id": 5}}}`, `{"id":5}`)

	g := func(rec string) {
		t.Helper()
		if got, ok := Key(nil, []byte(rec)); ok || len(got) > 0 {
			t.Errorf("%s: has key %q", rec, got)
		}
	}
	g(`{"value":{"type":"STRING","data":"v"}}`)
	g(`{"key":null,"value":{"type":"STRING","data":"v"}}`)
	g(`{"key":{"type":"STRING","data":null}}`)
	g(`{"key":{}}`)
	g(`{"key":"a"}`)
	g(`{"key":{"type":"STRING","data":"a`)
	g(`[]`)
	g(``)
}

// What an Encoder writes has the key it was given.
func TestKeyOfEncoder(t *testing.T) {
	id := []byte("id")
	f := func(cfg EncoderConfig) {
		t.Helper()
		cfg.KeyDelim = []byte(":")
		e, err := NewEncoder(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"plain", `q"uote\`, "é", "\u2028", "17"} {
			if cfg.KeyType == JSON {
				key = "17"
			}
			rec, err := e.Append(nil, []byte(key+":value"), id)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := Key(nil, rec); !ok || string(got) != key {
				t.Errorf("%s: key %q, %v; want %q", rec, got, ok, key)
			}
		}
	}
	cfg := DefaultEncoderConfig()
	for _, cfg.KeyType = range []Type{Auto, String, Binary, JSON} {
		f(cfg)
	}
	cfg.Partition, cfg.RecordIDHeader, cfg.Headers = 2, "id", []Header{{Name: "h", Value: []byte("v")}}
	f(cfg)
}

func TestKeyAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, rec := range []string{
		`{"key":{"type":"STRING","data":"abc"},"value":{"type":"STRING","data":"v"}}`,
		`{"partition_id":1,"key":{"type":"STRING","data":"a\u0062c"},"value":{"type":"STRING","data":"v"}}`,
		`{"key":{"type":"BINARY","data":"YWJj"},"value":{"type":"STRING","data":"v"}}`,
		`{"key":{"type":"JSON","data":{"a":[1,1.5]}},"value":{"type":"STRING","data":"v"}}`,
	} {
		raw := []byte(rec)
		if n := testing.AllocsPerRun(100, func() {
			var room [256]byte
			Key(room[:0], raw)
		}); n != 0 {
			t.Errorf("%s: %v allocations", rec, n)
		}
	}
}
