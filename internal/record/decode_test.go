package record

import (
	"errors"
	"strings"
	"testing"
)

func TestDecodeAndAgain(t *testing.T) {
	null := "NULL"
	f := func(line, payload string, isNull bool, vt Type, envelope string, change func(*EncoderConfig)) {
		t.Helper()
		rec, err := encoderOf(t, change).Append(nil, []byte(line), []byte("id"))
		if err != nil {
			t.Errorf("Append(%q): %v", line, err)
			return
		}
		p, err := Decode(rec)
		if err != nil || p.Raw || string(p.Payload) != payload || p.Null != isNull || p.Type != vt || string(p.Envelope) != envelope {
			t.Errorf("Decode(%s) = payload %q type %v null %v envelope %s raw %v, %v", rec, p.Payload, p.Type, p.Null, p.Envelope, p.Raw, err)
			return
		}
		again, err := AppendEnvelope([]byte("x\n"), p.Envelope, p.Type, p.Payload, p.Null)
		if err != nil || string(again) != "x\n"+string(rec) {
			t.Errorf("AppendEnvelope of %s = %s, %v", rec, again, err)
		}
	}
	auto := func(*EncoderConfig) {}
	json := func(c *EncoderConfig) { c.ValueType = JSON }
	f("", "", false, String, "", auto)
	f("a \"b\"\\\n\x01é😀\u2028", "a \"b\"\\\n\x01é😀\u2028", false, String, "", auto)
	f("\xff\x00", "\xff\x00", false, Binary, "", auto)
	f(` {"b": 1.10, "a":"\u00e9"} `, ` {"b": 1.10, "a":"\u00e9"} `, false, JSON, "", json)
	f("NULL", "", true, String, "", func(c *EncoderConfig) { c.NullValue = &null })
	f("NULL", "", true, JSON, "", func(c *EncoderConfig) { c.NullValue, c.ValueType = &null, JSON })
	f("NULL", "", true, Binary, "", func(c *EncoderConfig) { c.NullValue, c.ValueType = &null, Binary })
	f("k,:v", "v", false, String,
		`{"partition_id":2,"headers":[{"name":"h","value":null},{"name":"i","value":"aWQ="}],"key":{"type":"STRING","data":"k,"}}`,
		func(c *EncoderConfig) {
			c.Partition, c.Headers, c.RecordIDHeader, c.KeyDelim = 2, []Header{{Name: "h"}}, "i", []byte(":")
		})
	f(`{"t":5}`, `{"t":5}`, false, JSON, `{"timestamp":"1970-01-01T00:00:05.000Z"}`,
		func(c *EncoderConfig) { c.TimestampField, c.ValueType = "t", JSON })
	f("value", "value", false, String, `{"key":{"type":"JSON","data":{"value":{"type":"JSON","data":1}}}}`,
		func(c *EncoderConfig) {
			c.HasKey, c.Key, c.KeyType = true, []byte(`{"value":{"type":"JSON","data":1}}`), JSON
		})
}

func TestDecodeUnchecked(t *testing.T) {
	f := func(line string) {
		t.Helper()
		e := encoderOf(t, func(c *EncoderConfig) {
			c.ValueType, c.Validate, c.HasKey, c.Key, c.Partition = JSON, false, true, []byte("k\""), 1
		})
		rec, err := e.Append(nil, []byte(line), nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Decode(rec)
		if err != nil || string(p.Payload) != line || string(p.Envelope) != `{"partition_id":1,"key":{"type":"STRING","data":"k\""}}` {
			t.Errorf("Decode(%s) = %q, %s, %v", rec, p.Payload, p.Envelope, err)
		}
	}
	f(`{"a":`)
	f(`}}`)
	f("\"\xff\"")
	f(`"value":{"type":"JSON","data":`)
	f(strings.Repeat("[", 2000) + strings.Repeat("]", 2000))
}

func TestDecodeRaw(t *testing.T) {
	raw := func(rec string) {
		t.Helper()
		if p, err := Decode([]byte(rec + "\n")); err != nil || !p.Raw || string(p.Payload) != rec || p.Envelope != nil {
			t.Errorf("Decode(%s) = %+v, %v; want it whole", rec, p, err)
		}
	}
	raw(`{}`)
	raw(`{"value":null}`)
	raw(`{"value":{"type":"AVRO","schema":"\"int\"","data":1}}`)
	raw(`{"value":{"schema_id":1,"data":1}}`)
	raw(`{"value":{"data":"x","type":"STRING"}}`)
	raw(`{"value":{"type":"STRING","data":"x"},"key":null}`)
	raw(`{"value":{"type":"STRING","data":1}}`)
	raw(`{"value":{"type":"STRING","data":"\ud800"}}`) // has no UTF-8 form to hold
	raw(`{"value":{"type":"BINARY","data":"-_"}}`)
	raw(`{"value":{"type":"BINARY","data":"\/w=="}}`)
	raw(`{"value":{"type":"JSON","data":1,"data":2}}`)

	bad := func(rec string) {
		t.Helper()
		var inv *InvalidError
		if p, err := Decode([]byte(rec)); !errors.As(err, &inv) {
			t.Errorf("Decode(%s) = %+v, %v; want an InvalidError", rec, p, err)
		}
	}
	bad(``)
	bad(`[]`)
	bad(`null`)
	bad(`{"value":`)
	bad(`{"value":{"type":"STRING","data":"x}}`)
}

func TestAppendEnvelope(t *testing.T) {
	good := func(envelope string, vt Type, payload string, null bool, want string) {
		t.Helper()
		got, err := AppendEnvelope(nil, []byte(envelope), vt, []byte(payload), null)
		if err != nil || string(got) != want+"\n" {
			t.Errorf("AppendEnvelope(%s, %v, %q) = %s, %v; want %s", envelope, vt, payload, got, err, want)
		}
	}
	good("", Auto, "x", false, `{"value":{"type":"STRING","data":"x"}}`)
	good(" { } ", Auto, "\xff", false, `{"value":{"type":"BINARY","data":"/w=="}}`)
	good(`{ "partition_id": 1 }`, JSON, "[1]", false, `{"partition_id": 1,"value":{"type":"JSON","data":[1]}}`)
	good("", Auto, "", true, `{"value":{"type":"STRING","data":null}}`)

	bad := func(envelope string, vt Type, payload, reason string) {
		t.Helper()
		var inv *InvalidError
		got, err := AppendEnvelope([]byte("x"), []byte(envelope), vt, []byte(payload), false)
		if !errors.As(err, &inv) || inv.Reason != reason || string(got) != "x" {
			t.Errorf("AppendEnvelope(%s, %v, %q) = %s, %#v; want %s", envelope, vt, payload, got, err, reason)
		}
	}
	bad("[]", Auto, "x", ReasonInvalidRecord)
	bad(`{"a":1`, Auto, "x", ReasonInvalidRecord)
	bad(`{"topic":"t"}`, Auto, "x", ReasonInvalidRecord)
	bad(`{"value":null}`, Auto, "x", ReasonInvalidRecord)
	bad("", JSON, "{", ReasonInvalidJSON)
	bad("", JSON, "null", ReasonNullValue)
	bad("", String, "\xff", ReasonInvalidUTF8)
	bad("", Type(9), "x", ReasonInvalidRecord)
}

func TestAppendPayloadJSON(t *testing.T) {
	f := func(payload, want, encoding string) {
		t.Helper()
		got, enc := AppendPayloadJSON([]byte("x"), []byte(payload))
		if string(got) != "x"+want || enc != encoding {
			t.Errorf("AppendPayloadJSON(%q) = %s, %q; want %s, %q", payload, got, enc, want, encoding)
		}
	}
	f("", `""`, "")
	f("a\"\n", `"a\"\n"`, "")
	f("\xff", `"/w=="`, "base64")
}
