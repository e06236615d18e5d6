package record

import (
	"errors"
	"strings"
	"testing"
)

// encoderOf returns an encoder of the defaults with change made to them.
func encoderOf(t testing.TB, change func(*EncoderConfig)) *Encoder {
	t.Helper()
	c := DefaultEncoderConfig()
	change(&c)
	e, err := NewEncoder(c)
	if err != nil {
		t.Fatalf("NewEncoder: %v", err)
	}
	return e
}

// appendTo returns two checks of e: Append(line) gives the record want, and
// Append(line) is refused with code and reason, leaving dst as it was.
func appendTo(t *testing.T, e *Encoder) (good func(line, want string), bad func(line string, code int, reason string)) {
	t.Helper()
	good = func(line, want string) {
		t.Helper()
		got, err := e.Append([]byte("before\n"), []byte(line), []byte("app.log:7"))
		if err != nil || string(got) != "before\n"+want+"\n" {
			t.Errorf("Append(%q) = %s, %v\nwant %s", line, got, err, want)
		}
	}
	bad = func(line string, code int, reason string) {
		t.Helper()
		got, err := e.Append([]byte("before\n"), []byte(line), nil)
		var inv *InvalidError
		if !errors.As(err, &inv) || inv.Code != code || inv.Reason != reason || inv.Message == "" {
			t.Errorf("Append(%q): %#v, want code %d, reason %s", line, err, code, reason)
		}
		if string(got) != "before\n" {
			t.Errorf("Append(%q) was refused and left %q", line, got)
		}
	}
	return good, bad
}

func TestParseType(t *testing.T) {
	f := func(in string, want Type, name string) {
		t.Helper()
		got, err := ParseType(in)
		if err != nil || got != want || got.String() != name {
			t.Errorf("ParseType(%q) = %v, %v; want %s", in, got, err, name)
		}
	}
	f("auto", Auto, "AUTO")
	f("STRING", String, "STRING")
	f("Json", JSON, "JSON")
	f("bInArY", Binary, "BINARY")

	for _, in := range []string{"", "avro", "string "} {
		if got, err := ParseType(in); err == nil || !strings.Contains(err.Error(), "auto, string, json or binary") {
			t.Errorf("ParseType(%q) = %v, %v; want an error that lists the types", in, got, err)
		}
	}
}

func TestAppendString(t *testing.T) {
	good, bad := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.ValueType = String }))
	wrap := func(data string) string { return `{"value":{"type":"STRING","data":"` + data + `"}}` }
	good("", wrap(""))
	good("plain", wrap("plain"))
	good(`{"a":"b"}`, wrap(`{\"a\":\"b\"}`))
	good(`C:\dir`, wrap(`C:\\dir`))
	good("a\tb\rc\nd\be\ff", wrap(`a\tb\rc\nd\be\ff`))
	good("\x00\x01\x1f\x7f", wrap(`\u0000\u0001\u001f`+"\x7f"))
	good("/<>&\u2028é😀", wrap("/<>&\u2028é😀"))
	good("exactly sixteen!", wrap("exactly sixteen!"))
	good(`fifteen bytes "`, wrap(`fifteen bytes \"`))
	good(strings.Repeat(`"`, 3000), wrap(strings.Repeat(`\"`, 3000)))
	good(strings.Repeat("\x01", 3000), wrap(strings.Repeat(`\u0001`, 3000)))

	bad("\xff", 400, ReasonInvalidUTF8)
	bad("a long enough line that ends within a rune \xc3", 400, ReasonInvalidUTF8)
	bad("\xed\xa0\x80", 400, ReasonInvalidUTF8) // half a surrogate pair
}

func TestAppendAuto(t *testing.T) {
	good, _ := appendTo(t, encoderOf(t, func(c *EncoderConfig) {}))
	good("", `{"value":{"type":"STRING","data":""}}`)
	good(`say "hi"`, `{"value":{"type":"STRING","data":"say \"hi\""}}`)
	good("Grüße", `{"value":{"type":"STRING","data":"Grüße"}}`)
	good("\x80", `{"value":{"type":"BINARY","data":"gA=="}}`)
	good("ten bytes, then not UTF-8: \xff", `{"value":{"type":"BINARY","data":"dGVuIGJ5dGVzLCB0aGVuIG5vdCBVVEYtODog/w=="}}`)
}

func TestAppendBinary(t *testing.T) {
	good, _ := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.ValueType = Binary }))
	good("", `{"value":{"type":"BINARY","data":""}}`)
	good("a", `{"value":{"type":"BINARY","data":"YQ=="}}`)
	good("ab", `{"value":{"type":"BINARY","data":"YWI="}}`)
	good("\xfb\xff\xfe", `{"value":{"type":"BINARY","data":"+//+"}}`) // standard, not URL-safe
}

func TestAppendJSON(t *testing.T) {
	good, bad := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.ValueType = JSON }))
	wrap := func(data string) string { return `{"value":{"type":"JSON","data":` + data + `}}` }
	for _, line := range []string{
		`{}`, `[]`, `""`, `0`, `-0.5e+10`, `true`, ` {"a" : [1, {"b":null}]} `, `{"a":1,"a":2}`, `"\ud800"`, `1.10`,
		"[1,\n2]", `"é"`, strings.Repeat("[", maxValueDepth) + strings.Repeat("]", maxValueDepth),
	} {
		good(line, wrap(line))
	}
	for _, line := range []string{
		"", " ", "{", `{"a":1`, `{"a":1}}`, `{"a":1} {"b":2}`, `{'a':1}`, `{a:1}`, `[1,]`, `{"a":1,}`, `01`, `1.`, `.5`, `+1`, `1e`,
		`-`, `tru`, `nul`, `NaN`, `"a`, `"\x"`, `"\u12g4"`, "\"a\nb\"", "\"\x00\"", `{"a"}`, `{"a" 1}`, `{1:2}`, `[1 2]`, `[}`, `{]`, `[1}`,
		`{"a":1]`, "// c\n1", "\ufeff1", `,`, `"a"b`, "\x00",
	} {
		bad(line, 400, ReasonInvalidJSON)
	}
	bad("\"\xff\"", 400, ReasonInvalidUTF8)
	bad("{\"a long enough member name \xc3\":1}", 400, ReasonInvalidUTF8)
	bad(strings.Repeat("[", maxValueDepth+1)+strings.Repeat("]", maxValueDepth+1), 400, ReasonTooDeep)
	bad(strings.Repeat(`{"a":`, maxValueDepth+1)+"1"+strings.Repeat("}", maxValueDepth+1), 400, ReasonTooDeep)
	bad("null", 400, ReasonNullValue)
	bad(" null\r", 400, ReasonNullValue)
}

func TestAppendJSONUnchecked(t *testing.T) {
	good, bad := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.ValueType, c.Validate = JSON, false }))
	good(`{"a":1}`, `{"value":{"type":"JSON","data":{"a":1}}}`)
	good(`{"a":`, `{"value":{"type":"JSON","data":{"a":}}`) // trusted
	good(`nulls`, `{"value":{"type":"JSON","data":nulls}}`)
	bad("", 400, ReasonInvalidJSON)
	bad("null", 400, ReasonNullValue)
}

func TestAppendNullValue(t *testing.T) {
	null := func(text string, vt Type) (func(string, string), func(string, int, string)) {
		return appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.NullValue, c.ValueType = &text, vt }))
	}
	good, _ := null("NULL", Auto)
	good("NULL", `{"value":{"type":"STRING","data":null}}`)
	good("null", `{"value":{"type":"STRING","data":"null"}}`)
	good("", `{"value":{"type":"STRING","data":""}}`)
	good, _ = null("", String)
	good("", `{"value":{"type":"STRING","data":null}}`)
	good("NULL", `{"value":{"type":"STRING","data":"NULL"}}`)
	good, _ = null("\xff", Binary)
	good("\xff", `{"value":{"type":"BINARY","data":null}}`)
	good, bad := null("null", JSON)
	good("null", `{"value":{"type":"JSON","data":null}}`)
	bad(" null", 400, ReasonNullValue) // not equal, and would be a tombstone all the same

	// With a key before it, and with fields, which a null value has none of.
	text := "NULL"
	good, _ = appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.NullValue, c.KeyDelim = &text, []byte(":") }))
	good("k:NULL", `{"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":null}}`)
	good, bad = appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.NullValue, c.KeyField = &text, "k" }))
	good("NULL", `{"value":{"type":"STRING","data":null}}`)
	bad("NULLS", 400, ReasonNoKeyField)
}

func TestAppendEnvelopeOrder(t *testing.T) {
	good, _ := appendTo(t, encoderOf(t, func(c *EncoderConfig) {
		c.Partition = 12
		c.Headers = []Header{{Name: "a\"b", Value: []byte("x")}, {Name: "empty", Value: []byte{}}, {Name: "null"}, {Name: "bin", Value: []byte{0xfb, 0xff}}}
		c.RecordIDHeader = "id"
		c.KeyField = "k"
		c.TimestampField = "t"
	}))
	head := `{"partition_id":12,"headers":[{"name":"a\"b","value":"eA=="},{"name":"empty","value":""},` +
		`{"name":"null","value":null},{"name":"bin","value":"+/8="},{"name":"id","value":"YXBwLmxvZzo3"}],`
	good(`{"k":"v","t":1639412950951}`, head+`"key":{"type":"STRING","data":"v"},"timestamp":"2021-12-13T16:29:10.951Z",`+
		`"value":{"type":"STRING","data":"{\"k\":\"v\",\"t\":1639412950951}"}}`)
	good(`{"t":null,"k":null}`, head+`"value":{"type":"STRING","data":"{\"t\":null,\"k\":null}"}}`)

	good, _ = appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.Partition = 0 }))
	good("v", `{"partition_id":0,"value":{"type":"STRING","data":"v"}}`)
	good, _ = appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.Headers = []Header{{Name: "h", Value: []byte("1")}} }))
	good("v", `{"headers":[{"name":"h","value":"MQ=="}],"value":{"type":"STRING","data":"v"}}`)
	good, _ = appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.RecordIDHeader, c.HasKey, c.Key = "id", true, []byte("k") }))
	good("v", `{"headers":[{"name":"id","value":"YXBwLmxvZzo3"}],"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":"v"}}`)
}

func TestAppendKeyForAll(t *testing.T) {
	f := func(key string, kt Type, want string) {
		t.Helper()
		good, _ := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.Key, c.HasKey, c.KeyType = []byte(key), true, kt }))
		good("v", `{`+want+`"value":{"type":"STRING","data":"v"}}`)
	}
	f("k", String, `"key":{"type":"STRING","data":"k"},`)
	f("", String, `"key":{"type":"STRING","data":""},`)
	f(`"`, Auto, `"key":{"type":"STRING","data":"\""},`)
	f("\xff", Auto, `"key":{"type":"BINARY","data":"/w=="},`)
	f("k", Binary, `"key":{"type":"BINARY","data":"aw=="},`)
	f(`{"a":1}`, JSON, `"key":{"type":"JSON","data":{"a":1}},`)
	f(`null`, JSON, ``)
}

func TestAppendKeyDelim(t *testing.T) {
	with := func(delim string, kt Type) (func(string, string), func(string, int, string)) {
		return appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.KeyDelim, c.KeyType = []byte(delim), kt }))
	}
	good, bad := with(":", String)
	good("k:v", `{"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":"v"}}`)
	good("k:v:w", `{"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":"v:w"}}`)
	good(":v", `{"key":{"type":"STRING","data":""},"value":{"type":"STRING","data":"v"}}`)
	good("k:", `{"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":""}}`)
	good("v", `{"value":{"type":"STRING","data":"v"}}`)
	good("k:\xff", `{"key":{"type":"STRING","data":"k"},"value":{"type":"BINARY","data":"/w=="}}`)
	bad("\xff:v", 400, ReasonInvalidKey)
	good, _ = with("||", Auto)
	good("\xff||v", `{"key":{"type":"BINARY","data":"/w=="},"value":{"type":"STRING","data":"v"}}`)
	good, bad = with("\t", JSON)
	good("1\tv", `{"key":{"type":"JSON","data":1},"value":{"type":"STRING","data":"v"}}`)
	good("null\tv", `{"value":{"type":"STRING","data":"v"}}`)
	bad("k\tv", 400, ReasonInvalidKey)
	bad("\tv", 400, ReasonInvalidKey)
}

func TestAppendKeyField(t *testing.T) {
	f := func(field string, kt Type, line, want string) {
		t.Helper()
		good, _ := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.KeyField, c.KeyType, c.ValueType = field, kt, JSON }))
		good(line, `{`+want+`"value":{"type":"JSON","data":`+line+`}}`)
	}
	str := func(data string) string { return `"key":{"type":"STRING","data":"` + data + `"},` }
	f("id", String, `{"id":"u1"}`, str("u1"))
	f("id", Auto, `{"id":"u1"}`, str("u1"))
	f("id", String, `{"id":"a\"\u00e9\/\n"}`, str(`a\"\u00e9\/\n`)) // its own escapes, untouched
	f("id", String, `{"id":""}`, str(""))
	f("id", String, `{"id":12.50}`, str("12.50"))
	f("id", String, `{"id":true}`, str("true"))
	f("id", String, `{"id": {"a": "b"} }`, str(`{\"a\": \"b\"}`))
	f("id", String, `{"id":[1, 2]}`, str("[1, 2]"))
	f("id", String, `{"id":null}`, "")
	f("id", String, `{"x":1}`, "")
	f("id", String, `{}`, "")
	f("id", String, `{"id":1,"id":2}`, str("2"))
	f("id", String, `{"id":1,"\u0069d":2}`, str("2"))
	f("a.b", String, `{"a":{"b":1}}`, str("1"))
	f("a.b", String, `{"a":{"b":1},"a.b":2}`, str("2"))
	f("a.b", String, `{"a":{"b":1},"a.b":null}`, "")
	f("a.b.c", String, `{"a":{"b":{"x":0,"c":"d"}}}`, str("d"))
	f("a.b", String, `{"a":{"b":1},"a":7}`, "")
	f("a.b", String, `{"a":[{"b":1}]}`, "")
	f("id", JSON, `{"id":"u1"}`, `"key":{"type":"JSON","data":"u1"},`)
	f("id", JSON, `{"id":{"a":1}}`, `"key":{"type":"JSON","data":{"a":1}},`)
	f("id", Binary, `{"id":"a\"b"}`, `"key":{"type":"BINARY","data":"YSJi"},`)
	f("id", Binary, `{"id":12}`, `"key":{"type":"BINARY","data":"MTI="},`)

	_, bad := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.KeyField = "id" }))
	bad("", 400, ReasonNoKeyField)
	bad("text", 400, ReasonNoKeyField)
	bad(`["id"]`, 400, ReasonNoKeyField)
	bad(`{"id":1`, 400, ReasonInvalidJSON)
	bad(`{"id":"k"} more`, 400, ReasonInvalidJSON)
	bad("{\"id\":\"\xff\"}", 400, ReasonInvalidUTF8)
}

func TestAppendTooLarge(t *testing.T) {
	// The envelope of a STRING and its newline are 38 bytes.
	good, bad := appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.MaxRecordBytes = 41 }))
	good("123", `{"value":{"type":"STRING","data":"123"}}`)
	bad("1234", 413, ReasonTooLarge)
	bad(`12"`, 413, ReasonTooLarge) // fits, its escaped form does not
	bad(strings.Repeat("x", 43), 413, ReasonTooLarge)
	good, _ = appendTo(t, encoderOf(t, func(c *EncoderConfig) { c.MaxRecordBytes = 0 }))
	long := strings.Repeat("x", 1<<20)
	good(long, `{"value":{"type":"STRING","data":"`+long+`"}}`)
}

func TestNewEncoderErrors(t *testing.T) {
	f := func(want string, change func(*EncoderConfig)) {
		t.Helper()
		c := DefaultEncoderConfig()
		change(&c)
		if _, err := NewEncoder(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewEncoder: %v, want an error with %q", err, want)
		}
	}
	f("--key, --key-field", func(c *EncoderConfig) { c.HasKey, c.KeyField = true, "id" })
	f("-K", func(c *EncoderConfig) { c.HasKey, c.KeyDelim = true, []byte(":") })
	f("-K", func(c *EncoderConfig) { c.KeyField, c.KeyDelim = "id", []byte(":") })
	f("--partition=-2", func(c *EncoderConfig) { c.Partition = -2 })
	f("--max-record-bytes=-1", func(c *EncoderConfig) { c.MaxRecordBytes = -1 })
	f("--value-type", func(c *EncoderConfig) { c.ValueType = 9 })
	f("--key-type", func(c *EncoderConfig) { c.KeyType = 9 })
	f("-H", func(c *EncoderConfig) { c.Headers = []Header{{Name: "", Value: []byte("x")}} })
	f("-H", func(c *EncoderConfig) { c.Headers = []Header{{Name: "\xff"}} })
	f("--record-id-header", func(c *EncoderConfig) { c.RecordIDHeader = "\xff" })
	f("--key: key", func(c *EncoderConfig) { c.HasKey, c.Key = true, []byte("\xff") })
	f("--key: key", func(c *EncoderConfig) { c.HasKey, c.Key, c.KeyType = true, []byte("{"), JSON })
	f("only one of them", func(c *EncoderConfig) { c.KeyField, c.KeyTemplate = "id", template(t, "{{ .a }}") })
	f("--partition=3", func(c *EncoderConfig) { c.Partition, c.PartitionField = 3, "p" })
	f("null equals", func(c *EncoderConfig) { c.NullEquals = new(string) })
	f("decode=", func(c *EncoderConfig) { c.Decode = 9 })
	f("time format", func(c *EncoderConfig) { c.TimeFormat = 9 })
	f(`field "k" is used`, func(c *EncoderConfig) { c.Decode, c.KeyField = DecodeText, "k" })
	f(`field "k" is used`, func(c *EncoderConfig) {
		c.Decode, c.Headers = DecodeBytes, []Header{{Name: "h", Template: template(t, "{{ .k }}")}}
	})
}

func TestAppendTimestamp(t *testing.T) {
	e := encoderOf(t, func(c *EncoderConfig) { c.TimestampField, c.ValueType = "t", JSON })
	good, bad := appendTo(t, e)
	f := func(value, want string) {
		t.Helper()
		line := `{"t":` + value + `}`
		if want != "" {
			want = `"timestamp":"` + want + `",`
		}
		good(line, `{`+want+`"value":{"type":"JSON","data":`+line+`}}`)
	}
	f(`null`, "")
	f(`"2021-12-13T16:29:10Z"`, "2021-12-13T16:29:10.000Z")
	f(`"2021-12-13T16:29:10.9Z"`, "2021-12-13T16:29:10.900Z")
	f(`"2021-12-13t16:29:10.951999999z"`, "2021-12-13T16:29:10.951Z")
	f(`"2021-12-13 16:29:10,951+01:00"`, "2021-12-13T15:29:10.951Z")
	f(`"2021-12-13T16:29:10-0530"`, "2021-12-13T21:59:10.000Z")
	f(`"2020-02-29T23:59:60Z"`, "2020-03-01T00:00:00.000Z") // a leap second
	f(`"1970-01-01T00:00:00Z"`, "1970-01-01T00:00:00.000Z")
	f(`"9999-12-31T23:59:59.999Z"`, "9999-12-31T23:59:59.999Z")
	f(`0`, "1970-01-01T00:00:00.000Z")
	f(`1639412950`, "2021-12-13T16:29:10.000Z")
	f(`1639412950.951`, "2021-12-13T16:29:10.951Z")
	f(`1639412950.9519`, "2021-12-13T16:29:10.951Z")
	f(`1639412950.5`, "2021-12-13T16:29:10.500Z")
	f(`1639412950951`, "2021-12-13T16:29:10.951Z")
	f(`1639412950951.7`, "2021-12-13T16:29:10.951Z")
	f(`1639412950951123`, "2021-12-13T16:29:10.951Z")
	f(`1639412950951123456`, "2021-12-13T16:29:10.951Z")
	f(`1.639412950951e9`, "2021-12-13T16:29:10.951Z")
	f(`1.639412950951E+12`, "2021-12-13T16:29:10.951Z")
	f(`"1639412950951"`, "2021-12-13T16:29:10.951Z")
	f(`"1639412950.951"`, "2021-12-13T16:29:10.951Z")
	good(`{"x":1}`, `{"value":{"type":"JSON","data":{"x":1}}}`)

	for _, value := range []string{
		`""`, `"yesterday"`, `"2021-12-13T16:29:10"`, `"2021-12-13"`, `"2021-13-01T00:00:00Z"`, `"2021-02-29T00:00:00Z"`,
		`"2021-12-13T24:00:00Z"`, `"2021-12-13T16:60:00Z"`, `"2021-12-13T16:29:10.Z"`, `"2021-12-13T16:29:10.5"`, `"2021-12-13T16:29:10+1:00"`,
		`"2021-12-13T16:29:10+24:00"`, `"2021-12-13T16:29:10*01:00"`, `"2021-12-13T16:29:10ZZ"`, `"1969-12-31T23:59:59Z"`,
		`"20x1-12-13T16:29:10Z"`, `-1`, `"-1"`, `true`, `{}`, `[1]`, `9999999999999999999`, `99999999999999999999`, `1e400`, `" 1"`, `"1 "`, `"0x10"`,
	} {
		bad(`{"t":`+value+`}`, 400, ReasonBadTimestamp)
	}
	bad(`1639412950`, 400, ReasonBadTimestamp)
}

// template returns a parsed template.
func template(t testing.TB, text string) *Template {
	t.Helper()
	x, err := ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// appendWith is appendTo for an encoder of a scope that knows its host and file.
func appendWith(t *testing.T, change func(*EncoderConfig)) (good func(line, want string), bad func(line string, code int, reason string)) {
	t.Helper()
	s := NewScope(Vars{Host: "web-1", Input: "app"})
	s.SetFile("/var/log/a.log")
	c := DefaultEncoderConfig()
	change(&c)
	e, err := s.NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	return appendTo(t, e)
}

func TestAppendHeaderTemplates(t *testing.T) {
	headers := func(texts ...string) []Header {
		var all []Header
		for i, text := range texts {
			all = append(all, Header{Name: string(rune('a' + i)), Template: template(t, text)})
		}
		return all
	}
	value := func(line string) string {
		return `"value":{"type":"STRING","data":"` + strings.ReplaceAll(line, `"`, `\"`) + `"}}`
	}
	// What does not change from record to record is in the prefix.
	good, _ := appendWith(t, func(c *EncoderConfig) { c.Headers = headers("{{ .host }}/{{ .input }}", "", "x") })
	good("text", `{"headers":[{"name":"a","value":"d2ViLTEvYXBw"},{"name":"b","value":""},{"name":"c","value":"eA=="}],`+value("text"))

	// A file is known without a payload of JSON; other variables are not the payload's.
	good, _ = appendWith(t, func(c *EncoderConfig) { c.Headers = headers("{{ .file }}", "{{ .host }}") })
	good("text", `{"headers":[{"name":"a","value":"L3Zhci9sb2cvYS5sb2c="},{"name":"b","value":"d2ViLTE="}],`+value("text"))

	good, bad := appendWith(t, func(c *EncoderConfig) {
		c.Headers = append(headers("{{ .x }}", "{{ .y }}-{{ .z.z }}"), Header{Name: "const", Value: []byte("k")}, Header{Name: "null"})
	})
	rest := `{"name":"const","value":"aw=="},{"name":"null","value":null}],`
	good(`{"x":"1","y":2,"z":{"z":true}}`, `{"headers":[{"name":"a","value":"MQ=="},{"name":"b","value":"Mi10cnVl"},`+rest+value(`{"x":"1","y":2,"z":{"z":true}}`))
	good(`{"y":2,"z":{}}`, `{"headers":[`+rest+value(`{"y":2,"z":{}}`))
	good(`{"x":null}`, `{"headers":[`+rest+value(`{"x":null}`))
	good(`{"x":""}`, `{"headers":[{"name":"a","value":""},`+rest+value(`{"x":""}`))
	good(`{"x":[1]}`, `{"headers":[{"name":"a","value":"WzFd"},`+rest+value(`{"x":[1]}`))
	bad("text", 400, ReasonNoFields)
	bad(`{"x":`, 400, ReasonInvalidJSON)

	// All of them left out, with and without an id behind them.
	good, _ = appendWith(t, func(c *EncoderConfig) { c.Headers = headers("{{ .x }}") })
	good(`{}`, `{`+value(`{}`))
	good, _ = appendWith(t, func(c *EncoderConfig) {
		c.Headers, c.RecordIDHeader, c.HasKey, c.Key = headers("{{ .x }}"), "id", true, []byte("k")
	})
	good(`{}`, `{"headers":[{"name":"id","value":"YXBwLmxvZzo3"}],"key":{"type":"STRING","data":"k"},`+value(`{}`))
	good(`{"x":1}`, `{"headers":[{"name":"a","value":"MQ=="},{"name":"id","value":"YXBwLmxvZzo3"}],"key":{"type":"STRING","data":"k"},`+value(`{"x":1}`))

	// A null value has no fields.
	null := "NULL"
	good, _ = appendWith(t, func(c *EncoderConfig) { c.Headers, c.NullValue = headers("{{ .x }}", "{{ .file_name }}"), &null })
	good("NULL", `{"headers":[{"name":"b","value":"YS5sb2c="}],"value":{"type":"STRING","data":null}}`)
}

func TestAppendPartitionField(t *testing.T) {
	good, bad := appendWith(t, func(c *EncoderConfig) {
		c.PartitionField, c.ValueType, c.Headers = "p", JSON, []Header{{Name: "h"}}
	})
	f := func(value, want string) {
		t.Helper()
		line := `{"p":` + value + `}`
		good(line, `{`+want+`"headers":[{"name":"h","value":null}],"value":{"type":"JSON","data":`+line+`}}`)
	}
	f(`0`, `"partition_id":0,`)
	f(`17`, `"partition_id":17,`)
	f(`2147483647`, `"partition_id":2147483647,`)
	f(`"12"`, `"partition_id":12,`)
	f(`"\u0031"`, `"partition_id":1,`)
	f(`null`, ``)
	good(`{}`, `{"headers":[{"name":"h","value":null}],"value":{"type":"JSON","data":{}}}`)
	for _, value := range []string{`-1`, `1.0`, `1e2`, `2147483648`, `99999999999999999999`, `""`, `" 1"`, `"x"`, `true`, `[1]`, `{}`} {
		bad(`{"p":`+value+`}`, 400, ReasonBadPartition)
	}
	bad(`7`, 400, ReasonNoFields)
	bad(`{"p":1`, 400, ReasonInvalidJSON)
}

func TestAppendNullField(t *testing.T) {
	d := "d"
	good, bad := appendWith(t, func(c *EncoderConfig) { c.KeyField, c.NullField, c.NullEquals = "id", "op", &d })
	good(`{"op":"d","id":1}`, `{"key":{"type":"STRING","data":"1"},"value":{"type":"STRING","data":null}}`)
	good(`{"op":"u","id":1}`, `{"key":{"type":"STRING","data":"1"},"value":{"type":"STRING","data":"{\"op\":\"u\",\"id\":1}"}}`)
	good(`{"id":1}`, `{"key":{"type":"STRING","data":"1"},"value":{"type":"STRING","data":"{\"id\":1}"}}`)
	bad(`d`, 400, ReasonNoKeyField)
	yes := "true"
	good, _ = appendWith(t, func(c *EncoderConfig) { c.ValueType, c.NullField, c.NullEquals = JSON, "gone", &yes })
	good(`{"gone":true}`, `{"value":{"type":"JSON","data":null}}`)
	good(`{"gone":false}`, `{"value":{"type":"JSON","data":{"gone":false}}}`)
	good(`{"gone":[true]}`, `{"value":{"type":"JSON","data":{"gone":[true]}}}`)
	good, bad = appendWith(t, func(c *EncoderConfig) { c.ValueType, c.NullField = JSON, "after" })
	good(`{"after":null}`, `{"value":{"type":"JSON","data":null}}`)
	good(`{"after":0}`, `{"value":{"type":"JSON","data":{"after":0}}}`)
	good(`{"after":"null"}`, `{"value":{"type":"JSON","data":{"after":"null"}}}`)
	good(`{}`, `{"value":{"type":"JSON","data":{}}}`) // missing is not null here: the value would be lost
	bad(`[]`, 400, ReasonNoFields)
	bad(`null`, 400, ReasonNoFields)
	bad(`{"after":null`, 400, ReasonInvalidJSON)
}

func TestAppendKeyTemplate(t *testing.T) {
	good, bad := appendWith(t, func(c *EncoderConfig) { c.KeyTemplate = template(t, "{{ .a }}/{{ .b }}") })
	good(`{"a":"\n","b":2}`, `{"key":{"type":"STRING","data":"\n/2"},"value":{"type":"STRING","data":"{\"a\":\"\\n\",\"b\":2}"}}`)
	good(`{"a":1}`, `{"value":{"type":"STRING","data":"{\"a\":1}"}}`)
	bad(`x`, 400, ReasonNoKeyField)
	good, _ = appendWith(t, func(c *EncoderConfig) { c.KeyTemplate = template(t, "{{ .host }}") })
	good(`x`, `{"key":{"type":"STRING","data":"web-1"},"value":{"type":"STRING","data":"x"}}`)
	_, bad = appendWith(t, func(c *EncoderConfig) { c.KeyTemplate, c.KeyType = template(t, "[{{ .a }}]"), JSON })
	bad(`{"a":"x"}`, 400, ReasonInvalidKey)
}

func TestAppendDecode(t *testing.T) {
	typed := func(d Decoding, vt Type) func(*EncoderConfig) {
		return func(c *EncoderConfig) { c.Decode, c.ValueType = d, vt }
	}
	good, _ := appendWith(t, typed(DecodeText, Auto))
	good("a", `{"value":{"type":"STRING","data":"a"}}`)
	good("\xff", `{"value":{"type":"BINARY","data":"/w=="}}`)
	good, _ = appendWith(t, typed(DecodeBytes, Auto))
	good("a", `{"value":{"type":"BINARY","data":"YQ=="}}`)
	good, _ = appendWith(t, typed(DecodeBytes, String))
	good("a", `{"value":{"type":"STRING","data":"a"}}`)
	for _, vt := range []Type{Auto, String, Binary, JSON} {
		_, bad := appendWith(t, typed(DecodeJSON, vt))
		bad("text", 400, ReasonInvalidJSON)
		bad("", 400, ReasonInvalidJSON)
		bad(`{"a":1`, 400, ReasonInvalidJSON)
		bad("\"\xff\"", 400, ReasonInvalidUTF8)
		bad(strings.Repeat("[", maxValueDepth+1)+strings.Repeat("]", maxValueDepth+1), 400, ReasonTooDeep)
	}
	good, _ = appendWith(t, typed(DecodeJSON, Auto))
	good(`[1.10]`, `{"value":{"type":"STRING","data":"[1.10]"}}`) // no field is asked for
	_, bad := appendWith(t, func(c *EncoderConfig) { c.Decode, c.ValueType, c.Validate = DecodeJSON, JSON, false })
	bad(`{"a":`, 400, ReasonInvalidJSON)
	_, bad = appendWith(t, func(c *EncoderConfig) { c.Decode, c.KeyField = DecodeJSON, "a" })
	bad(`[1]`, 400, ReasonNoKeyField)
	null := ""
	good, _ = appendWith(t, func(c *EncoderConfig) { c.Decode, c.NullValue = DecodeJSON, &null })
	good("", `{"value":{"type":"STRING","data":null}}`)

	// Fields are those of what is behind the delimiter.
	good, bad = appendWith(t, func(c *EncoderConfig) { c.KeyDelim, c.PartitionField = []byte("\t"), "p" })
	good("k\t{\"p\":1}", `{"partition_id":1,"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":"{\"p\":1}"}}`)
	bad("{\"p\":1}\tx", 400, ReasonNoFields)
}

func TestParseNames(t *testing.T) {
	for d := DecodeAny; d <= DecodeJSON; d++ {
		if got, err := ParseDecoding(d.String()); got != d || err != nil {
			t.Errorf("ParseDecoding(%v) = %v, %v", d, got, err)
		}
	}
	for f := TimeAuto; f <= TimeUnixNanos; f++ {
		if got, err := ParseTimeFormat(f.String()); got != f || err != nil {
			t.Errorf("ParseTimeFormat(%v) = %v, %v", f, got, err)
		}
	}
	if _, err := ParseDecoding("yaml"); err == nil || !strings.Contains(err.Error(), "json, text, bytes or any") {
		t.Error(err)
	}
	if _, err := ParseTimeFormat("ms"); err == nil || !strings.Contains(err.Error(), "rfc3339, unix, unix_ms") {
		t.Error(err)
	}
}

func TestAppendTimeFormat(t *testing.T) {
	f := func(format TimeFormat, value, want string) {
		t.Helper()
		good, bad := appendWith(t, func(c *EncoderConfig) { c.TimestampField, c.TimeFormat, c.ValueType = "t", format, JSON })
		line := `{"t":` + value + `}`
		if want == "" {
			bad(line, 400, ReasonBadTimestamp)
			return
		}
		good(line, `{"timestamp":"`+want+`","value":{"type":"JSON","data":`+line+`}}`)
	}
	f(TimeRFC3339, `"2021-12-13T16:29:10Z"`, "2021-12-13T16:29:10.000Z")
	f(TimeRFC3339, `1639412950`, "")
	f(TimeRFC3339, `"1639412950"`, "")
	f(TimeUnix, `1639412950.951`, "2021-12-13T16:29:10.951Z")
	f(TimeUnix, `"1639412950"`, "2021-12-13T16:29:10.000Z")
	f(TimeUnix, `1.639412950951e9`, "2021-12-13T16:29:10.951Z")
	f(TimeUnix, `253402300799`, "9999-12-31T23:59:59.000Z")
	f(TimeUnix, `253402300800`, "")
	f(TimeUnix, `9223372036854775807`, "")
	f(TimeUnix, `1e400`, "")
	f(TimeUnix, `"2021-12-13T16:29:10Z"`, "")
	f(TimeUnixMillis, `5000`, "1970-01-01T00:00:05.000Z") // auto would take it for seconds
	f(TimeUnixMillis, `1639412950951.9`, "2021-12-13T16:29:10.951Z")
	f(TimeUnixMicros, `1639412950951123`, "2021-12-13T16:29:10.951Z")
	f(TimeUnixMicros, `1.5e6`, "1970-01-01T00:00:01.500Z")
	f(TimeUnixNanos, `1639412950951123456`, "2021-12-13T16:29:10.951Z")
	f(TimeUnixNanos, `999999`, "1970-01-01T00:00:00.000Z")
	f(TimeUnixNanos, `-1`, "")
}
