package record

import "testing"

func TestAppendAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := func(name, line string, change func(*EncoderConfig)) {
		t.Helper()
		e := encoderOf(t, change)
		buf, id, src := make([]byte, 0, 8<<10), []byte("app.log:123"), []byte(line)
		if _, err := e.Append(buf, src, id); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = e.Append(buf, src, id) }); n != 0 {
			t.Errorf("%s: %v allocations a record, want 0", name, n)
		}
	}
	typed := func(vt Type) func(*EncoderConfig) { return func(c *EncoderConfig) { c.ValueType = vt } }
	null := "NULL"
	f("auto", logLine, typed(Auto))
	f("auto, not UTF-8", logLine+"\xff", typed(Auto))
	f("auto, controls", logLine+"\x01\n", typed(Auto))
	f("string", logLine, typed(String))
	f("json", logLine, typed(JSON))
	f("binary", logLine, typed(Binary))
	f("null", null, func(c *EncoderConfig) { c.NullValue = &null })
	f("key of a delimiter", "key\tvalue", func(c *EncoderConfig) { c.KeyDelim = []byte("\t") })
	f("string key field", logLine, func(c *EncoderConfig) { c.KeyField = "service" })
	f("number key field", logLine, func(c *EncoderConfig) { c.KeyField = "user_id" })
	f("binary key field", logLine, func(c *EncoderConfig) { c.KeyField, c.KeyType = "service", Binary })
	f("nested key field, escaped names", `{"\u0061":{"\u0062":"c"}}`, func(c *EncoderConfig) { c.KeyField = "a.b" })
	f("RFC 3339", logLine, func(c *EncoderConfig) { c.TimestampField = "ts" })
	f("RFC 3339, half-hour offset", `{"ts":"2026-11-22T10:15:30+05:30"}`, func(c *EncoderConfig) { c.TimestampField = "ts" })
	f("epoch", logLine, func(c *EncoderConfig) { c.TimestampField = "user_id" })
	f("epoch with exponent", `{"ts":1.639e9}`, func(c *EncoderConfig) { c.TimestampField = "ts" })
	d := "checkout"
	f("partition field", logLine, func(c *EncoderConfig) { c.PartitionField = "user_id" })
	f("header templates", logLine, func(c *EncoderConfig) {
		c.Headers = []Header{{Name: "a", Template: template(t, "{{ .service }}:{{ .ms }}")}, {Name: "b", Template: template(t, "{{ .none }}")}, {Name: "c"}}
	})
	f("escaped texts", `{"a":"\u0041\n","p":"\u0031"}`, func(c *EncoderConfig) {
		c.Headers, c.PartitionField = []Header{{Name: "a", Template: template(t, "{{ .a }}")}}, "p"
	})
	f("key template", logLine, func(c *EncoderConfig) { c.KeyTemplate = template(t, "{{ .service }}/{{ .user_id }}") })
	f("null by a field's text", logLine, func(c *EncoderConfig) { c.NullField, c.NullEquals = "service", &d })
	f("null by a null field", `{"a":{"b":null}}`, func(c *EncoderConfig) { c.NullField = "a.b" })
	f("decode json", logLine, func(c *EncoderConfig) { c.Decode = DecodeJSON })
	f("everything from fields", logLine, func(c *EncoderConfig) {
		c.Decode, c.PartitionField, c.TimestampField, c.TimeFormat, c.RecordIDHeader = DecodeJSON, "user_id", "ts", TimeRFC3339, "id"
		c.KeyTemplate, c.NullField, c.NullEquals = template(t, "{{ .trace }}"), "level", &d
		c.Headers = []Header{{Name: "a", Template: template(t, "{{ .service }}")}}
	})
	f("everything", logLine, func(c *EncoderConfig) {
		c.ValueType, c.KeyField, c.TimestampField, c.RecordIDHeader, c.Partition = JSON, "service", "ts", "id", 7
		c.Headers, c.MaxRecordBytes = []Header{{Name: "h", Value: []byte("v")}}, 8_000_000
	})
}

func TestRawPathAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rec := []byte(`{"key":{"type":"STRING","data":"k"},"value":{"type":"JSON","data":` + logLine + "}}\n")
	buf := make([]byte, 0, 4<<10)
	n := testing.AllocsPerRun(100, func() {
		var s ScanState
		start, end, ok, err := NextValue(rec, &s)
		if !ok || err != nil || CheckRecord(rec[start:end]) != nil {
			t.Fatal("the record was refused")
		}
		buf = AppendRaw(buf[:0], rec[start:end])
	})
	if n != 0 {
		t.Errorf("NextValue, CheckRecord, AppendRaw: %v allocations a record, want 0", n)
	}
}
