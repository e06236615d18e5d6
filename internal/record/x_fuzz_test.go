package record

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// wire is a record as the standard library reads it.
type wire struct {
	Key *struct {
		Type string
		Data any
	}
	Timestamp string
	Value     struct {
		Type string
		Data *json.RawMessage
	}
}

// payloadOf returns the bytes a server would write for the value of rec.
func payloadOf(t *testing.T, rec []byte) (typ string, payload []byte) {
	t.Helper()
	var w wire
	if err := json.Unmarshal(rec, &w); err != nil {
		t.Fatalf("record %q: %v", rec, err)
	}
	var s string
	if err := json.Unmarshal(*w.Value.Data, &s); err != nil {
		t.Fatalf("data of %q: %v", rec, err)
	}
	if w.Value.Type == "STRING" {
		return w.Value.Type, []byte(s)
	}
	payload, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatalf("data of %q: %v", rec, err)
	}
	return w.Value.Type, payload
}

// FuzzRoundTrip: STRING, BINARY and AUTO give back the bytes, in one line of
// valid JSON, and Decode does too.
func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{"", logLine, plainLine, "\x00\x1f\x7f\x80", "é😀\u2028\\\"", "\xed\xa0\x80", strings.Repeat("\"\x01", 600)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		for vt, want := range map[Type]string{String: "STRING", Binary: "BINARY", Auto: "STRING"} {
			rec, err := encoderOf(t, func(c *EncoderConfig) { c.ValueType, c.KeyType = vt, Auto; c.KeyDelim = []byte("=>") }).
				Append(make([]byte, 0, 40), line, nil)
			payload := line
			if _, after, found := bytes.Cut(line, []byte("=>")); found {
				payload = after
			}
			if !utf8.Valid(payload) {
				if vt == String {
					if err == nil {
						t.Fatalf("STRING of %q: %s", line, rec)
					}
					continue
				}
				want = "BINARY"
			}
			if err != nil {
				t.Fatalf("%v of %q: %v", vt, line, err)
			}
			if !json.Valid(rec) || !utf8.Valid(rec) || bytes.IndexByte(rec, '\n') != len(rec)-1 {
				t.Fatalf("%v of %q is not one line of JSON: %q", vt, line, rec)
			}
			if err := CheckRecord(rec); err != nil {
				t.Fatalf("%v of %q: %v", vt, line, err)
			}
			if typ, got := payloadOf(t, rec); typ != want || !bytes.Equal(got, payload) {
				t.Fatalf("%v of %q came back as %s %q", vt, line, typ, got)
			}
			p, err := Decode(rec)
			if err != nil || p.Raw || p.Null || !bytes.Equal(p.Payload, payload) {
				t.Fatalf("Decode(%q) = %+v, %v", rec, p, err)
			}
			again, err := AppendEnvelope(nil, p.Envelope, p.Type, p.Payload, p.Null)
			if err != nil || !bytes.Equal(again, rec) {
				t.Fatalf("AppendEnvelope of %q = %q, %v", rec, again, err)
			}
		}
	})
}

// FuzzEscape: the fast escape is the plain one, wherever the buffer ends.
func FuzzEscape(f *testing.F) {
	f.Add([]byte(logLine), 0)
	f.Add([]byte("0123456789abcde\n0123456789abcde\""), 7)
	f.Fuzz(func(t *testing.T, s []byte, room int) {
		dst := make([]byte, 1, 1+(room&0xfff))
		want, wantASCII := appendEscapedPlain(nil, s)
		got, ascii := appendEscaped(dst, s)
		if !bytes.Equal(got[1:], want) || ascii != wantASCII {
			t.Fatalf("appendEscaped(%q) = %q, %v; want %q, %v", s, got[1:], ascii, want, wantASCII)
		}
		if ascii == slices.ContainsFunc(s, func(c byte) bool { return c >= 0x80 }) {
			t.Fatalf("appendEscaped(%q): ascii %v", s, ascii)
		}
	})
}

// depthOf returns how deep valid JSON is nested.
func depthOf(b []byte) int {
	deepest, depth := 0, 0
	dec := json.NewDecoder(bytes.NewReader(b))
	for {
		tok, err := dec.Token()
		if err != nil {
			return deepest
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			depth++
			deepest = max(deepest, depth)
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

// FuzzCheckJSON: what is valid agrees with the standard library, UTF-8 and the
// depth; deep nests a value in up to 1100 arrays.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{
		logLine, `[1,-0.5e+3,true,false,null,"\u00e9\n",{"a":{}},[]]`, `{"a":01}`, "\"\xff\"", `"\ud800"`, `{"a" : [ ] , }`,
		" \t\r\n1", `1e5`, `-`, `"\`, `[`, `{"a":1]`,
	} {
		f.Add([]byte(s), uint16(0))
		f.Add([]byte(s), uint16(998))
	}
	f.Fuzz(func(t *testing.T, b []byte, deep uint16) {
		if n := int(deep) % 1100; n > 0 {
			b = slices.Concat(bytes.Repeat([]byte("["), n), b, bytes.Repeat([]byte("]"), n))
		}
		got, at := checkJSON(b, maxValueDepth)
		want := faultNone
		switch {
		case !json.Valid(b):
			// A fault of depth may be seen before one of syntax.
			if got == faultDepth {
				return
			}
			want = faultSyntax
		case depthOf(b) > maxValueDepth:
			want = faultDepth
		case !utf8.Valid(b):
			want = faultUTF8
		}
		if got != want || at < 0 || at > len(b) {
			t.Fatalf("checkJSON(%q) = %v at %d, want %v", b, got, at, want)
		}
	})
}

// FuzzField: all members of an object and of those in it, looked for in one
// walk, agree with a map of the standard library.
func FuzzField(f *testing.F) {
	f.Add([]byte(logLine), "ts")
	f.Add([]byte(`{"a":{"b":1,"b":"\u0041"},"\u0061":{"b":2}}`), "a.b")
	f.Add([]byte(`{"a.b":null,"a":{"b":[1]}}`), "a.b")
	f.Add([]byte(`{"\\":1,"\"":2,"":3}`), `\`)
	f.Add([]byte(`{"a":{"b":{"c":1e400}},"a.b":{"c":2},"a":{"b":null,"b":{"c":[{"d":"}"}]}}}`), "a.b.c")
	f.Fuzz(func(t *testing.T, object []byte, name string) {
		if !ValidObject(object) {
			walkAll(object) // must stop, whatever it is
			return
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(object, &all); err != nil {
			t.Fatalf("ValidObject(%q): %v", object, err)
		}
		names := append(slices.Collect(maps.Keys(all)), name)
		for _, n := range slices.Clone(names) { // and a step further into each
			var inner map[string]json.RawMessage
			if json.Unmarshal(all[n], &inner) == nil {
				for k := range inner {
					names = append(names, n+"."+k)
				}
			}
		}
		var set fieldSet
		for _, name := range names {
			set.add(name)
		}
		set.scan(object)
		for _, name := range names {
			want, ok := all[name]
			if !ok && strings.Contains(name, ".") {
				want = object
				for _, part := range strings.Split(name, ".") {
					var inner map[string]json.RawMessage
					ok = false
					if json.Unmarshal(want, &inner) == nil {
						want, ok = inner[part]
					}
					if !ok {
						break
					}
				}
			}
			got := set.found(set.add(name))
			found := got != nil
			if found != ok || found && !bytes.Equal(got, want) {
				t.Fatalf("field %q of %q = %q, %v; want %q, %v", name, object, got, found, want, ok)
			}
			var text string
			if found && json.Unmarshal(got, &text) == nil && got[0] == '"' {
				if plain := AppendText(nil, got); string(plain) != text {
					t.Fatalf("AppendText(%q) = %q, want %q", got, plain, text)
				}
			}
		}
	})
}

func walkAll(b []byte) {
	w := walkObject(b)
	for w.next() {
		walkAll(w.value)
	}
}

// FuzzNextValue: objects one after another are cut where the standard
// library's Decoder cuts them, however the stream is chopped up.
func FuzzNextValue(f *testing.F) {
	f.Add([]byte(`{"a":"}"} {"b":[{}]}{}`+"\n\n{}"), uint8(1))
	f.Add([]byte(`{"a":"\\\""}{"long member name":"long value"}x`), uint8(5))
	f.Add([]byte("{\"a\":\"\n{}"), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		got := cut(string(in), int(size)+1)
		dec := json.NewDecoder(bytes.NewReader(in))
		for i := 0; ; i++ {
			var v json.RawMessage
			err := dec.Decode(&v)
			if err == io.EOF {
				if len(got) != i {
					t.Fatalf("NextValue over %q: %q, want %d objects", in, got, i)
				}
				return
			}
			if err != nil || v[0] != '{' {
				return // from here on the two have different work
			}
			if i >= len(got) || got[i] != string(v) {
				t.Fatalf("NextValue over %q, %d bytes at a time: %q; value %d is %q", in, int(size)+1, got, i, v)
			}
		}
	})
}

// FuzzDecode: anything Decode takes apart can be sent again as it was, up to
// white space in the envelope, and CheckRecord never panics.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":"v"}}`))
	f.Add([]byte(`{"headers":[{"name":"a","value":"eA=="}],"value":{"type":"JSON","data": [1] }}`))
	f.Add([]byte(`{"value":{"type":"BINARY","data":null}}`))
	f.Add([]byte(`{"value":{"type":"JSON","data":{"a":}}`))
	f.Fuzz(func(t *testing.T, rec []byte) {
		checked := CheckRecord(rec)
		if checked == nil && !json.Valid(rec) {
			t.Fatalf("CheckRecord(%q) = nil", rec)
		}
		p, err := Decode(rec)
		if err != nil || p.Raw || checked != nil {
			return
		}
		again, err := AppendEnvelope(nil, p.Envelope, p.Type, p.Payload, p.Null)
		if err != nil {
			t.Fatalf("AppendEnvelope of %q: %v", rec, err)
		}
		var a, b any
		if json.Unmarshal(rec, &a) != nil || json.Unmarshal(again, &b) != nil {
			t.Fatalf("%q or %q is not JSON", rec, again)
		}
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if !bytes.Equal(x, y) {
			t.Fatalf("%q came back as %q", rec, again)
		}
	})
}

var strictRFC3339 = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// FuzzTimestamp: RFC 3339 agrees with package time, and what is written for a
// moment reads as that moment.
func FuzzTimestamp(f *testing.F) {
	f.Add("2021-12-13T16:29:10.951+01:00", int64(1639412950951))
	f.Add("2020-02-29T23:59:59Z", int64(0))
	f.Add("2000-01-01T0:00:00Z", int64(-43))
	f.Add("1970-01-01T00:00:00.9999+23:59", int64(maxMillis))
	f.Fuzz(func(t *testing.T, s string, millis int64) {
		// time.Parse also takes hours of one digit (go.dev/issue/54580), and no leap second.
		if strictRFC3339.MatchString(s) && s[17:19] != "60" {
			want, err := time.Parse(time.RFC3339, s)
			inRange := err == nil && want.UnixMilli() >= 0 && want.UnixMilli() <= maxMillis
			got, ok := parseRFC3339([]byte(s))
			if ok != inRange || ok && got != want.UnixMilli() {
				t.Fatalf("parseRFC3339(%q) = %d, %v; want %v, %v", s, got, ok, want, err)
			}
		}
		if millis = millis & (1<<62 - 1) % (maxMillis + 1); millis < 0 {
			millis = 0
		}
		text := appendTimestamp(nil, millis)
		want := time.UnixMilli(millis).UTC().Format("2006-01-02T15:04:05.000Z")
		if string(text) != want {
			t.Fatalf("appendTimestamp(%d) = %s, want %s", millis, text, want)
		}
		if back, ok := parseRFC3339(text); !ok || back != millis {
			t.Fatalf("parseRFC3339(%s) = %d, %v; want %d", text, back, ok, millis)
		}
	})
}

// The key does not depend on the room given, and nothing panics.
func FuzzKey(f *testing.F) {
	f.Add([]byte(`{"key":{"type":"STRING","data":"a"}}`))
	f.Add([]byte(`{"key":{"type":"BINARY","data":"YQ=="},"key":{"data":"\u00`))
	f.Add([]byte(`{"key":{"data":[1.5e3,-"\`))
	f.Fuzz(func(t *testing.T, rec []byte) {
		a, ok := Key(nil, rec)
		b, again := Key([]byte("prefix"), rec)
		if string(b) != string(a) || ok != again {
			t.Errorf("%q: %q and %q", rec, a, b)
		}
	})
}
