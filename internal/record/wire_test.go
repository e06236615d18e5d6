package record

import (
	"encoding/base64"
	"strings"
	"testing"
)

func TestWireScan(t *testing.T) {
	f := func(rec string, partition int32, key, value DataKind, keyBytes, valueBytes string) {
		t.Helper()
		var w Wire
		if err := w.Scan([]byte(rec)); err != nil {
			t.Errorf("%s: %v", rec, err)
			return
		}
		if w.Partition != partition || w.Key.Kind != key || w.Value.Kind != value {
			t.Errorf("%s: partition %d, key %d, value %d", rec, w.Partition, w.Key.Kind, w.Value.Kind)
		}
		for _, d := range []struct {
			data Data
			want string
		}{{w.Key, keyBytes}, {w.Value, valueBytes}} {
			if d.data.Kind == DataNull || d.data.Kind == DataSchema {
				continue
			}
			var scratch []byte
			out, err := d.data.AppendBase64(nil, &scratch)
			if got, bad := base64.StdEncoding.DecodeString(string(out)); err != nil || bad != nil || string(got) != d.want {
				t.Errorf("%s: %q (%v, %v), want %q", rec, got, err, bad, d.want)
			}
		}
	}
	f(`{"value":{"type":"STRING","data":"hi"}}`+"\n", -1, DataNull, DataString, "", "hi")
	f(`{"partition_id":3,"key":{"type":"STRING","data":"k"},"value":{"type":"BINARY","data":"AP8="}}`+"\n", 3, DataString, DataBinary, "k", "\x00\xff")
	f(`{"key":{"type":"BINARY","data":""},"value":{"type":"STRING","data":"a\"\\\u00e9\n"}}`, -1, DataBinary, DataString, "", "a\"\\é\n")
	f(`{"value":{"type":"JSON","data":{"a":1.10}}}`+"\n", -1, DataNull, DataJSON, "", `{"a":1.10}`)
	f(`{"value":{"type":"JSON","data": [1, 2] }}`+"\n", -1, DataNull, DataJSON, "", ` [1, 2] `)
	f(`{"value":{"type":"JSON","data":null}}`+"\n", -1, DataNull, DataNull, "", "")
	f(`{"value":{"type":"STRING","data":null}}`, -1, DataNull, DataNull, "", "")
	f(`{}`, -1, DataNull, DataNull, "", "")
	f(`{"key":null,"value":null,"partition_id":null,"headers":null,"timestamp":null}`, -1, DataNull, DataNull, "", "")
	// Not validated: whatever it holds is the payload.
	f(`{"value":{"type":"JSON","data":{broken}}`+"\n", -1, DataNull, DataJSON, "", `{broken`)
	f(`{"value":{"type":"JSON","data":1},"key":{"type":"STRING","data":"x}}`+"\n", -1, DataNull, DataJSON, "", `1},"key":{"type":"STRING","data":"x`)
	// As a client may write it.
	f(" {\n \"value\" : { \"data\" : \"aGk\" , \"type\" : \"BINARY\" } , \"partition_id\" : 7 }", 7, DataNull, DataBinary, "", "hi")
	f(`{"v\u0061lue":{"type":"STRING","data":"x"},"value":{"type":"STRING","data":"last"}}`, -1, DataNull, DataString, "", "last")
	f(`{"value":{"type":"JSON","data":{"a":1},"subject":null}}`, -1, DataNull, DataJSON, "", `{"a":1}`)
	f(`{"value":{"type":"JSON","data":5},"key":{"type":"JSON","data":"k"}}`, -1, DataJSON, DataJSON, `"k"`, `5`)
	f(`{"value":{"type":"AVRO","data":{"a":1},"schema":"{}"}}`, -1, DataNull, DataSchema, "", "")
	f(`{"value":{"schema_id":5,"data":{"a":1}}}`, -1, DataNull, DataSchema, "", "")
	f(`{"value":{"schema_id":5,"data":null}}`, -1, DataNull, DataSchema, "", "")
}

func TestWireRefuses(t *testing.T) {
	f := func(rec, want string) {
		t.Helper()
		var w Wire
		err := w.Scan([]byte(rec))
		if err == nil {
			var scratch []byte
			_, err = w.Value.AppendBase64(nil, &scratch)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", rec, err, want)
		}
	}
	f("", "no REST v3 record")
	f("[1]", "no REST v3 record")
	f(`{"value":{"type":"STRING","data":"x`, "no REST v3 record")
	f(`{"value":{"type":"JSON","data":1`, "no REST v3 record")
	f(`{"value":5}`, "no data")
	f(`{"value":{"type":"STRING"}}`, "no data")
	f(`{"value":{"type":"STRING","data":5}}`, "no data")
	f(`{"value":{"type":"BINARY","data":"a_-b"}}`, "not base64")
	f(`{"value":{"type":"BINARY","data":"aaaaa"}}`, "not base64")
	f(`{"value":{"type":"BINARY","data":"aa="}}`, "not base64")
	f(`{"value":{"type":"BINARY","data":"a==="}}`, "not base64")
	f(`{"value":{"type":"STRING","data":"\ud800"}}`, "lone surrogate")
	f(`{"partition_id":-1}`, "partition")
	f(`{"partition_id":"1"}`, "partition")
	f(`{"headers":{"a":"b"}}`, "headers")
}

func TestWireTimestampAndHeaders(t *testing.T) {
	ms := func(raw string, want int64) {
		t.Helper()
		w := Wire{Timestamp: []byte(raw)}
		if got, err := w.Millis(); got != want || (err != nil) != (want == 0) {
			t.Errorf("%s: %d, %v", raw, got, err)
		}
	}
	ms(`"1970-01-01T00:00:01.5Z"`, 1500)
	ms(`"2021-12-13T16:29:10.951Z"`, 1639412950951)
	ms(`1639412950.951`, 1639412950951) // a bare number is seconds
	ms(`"yesterday"`, 0)
	ms(`true`, 0)

	var got []string
	rest := []byte(`[ {"name":"a","value":"QQ=="} ,{"value":null,"name":"\u0062"}, {"name":"c"}]`)
	for {
		name, value, left, more, err := WireHeader(rest)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
		got = append(got, string(name)+"="+string(value))
		rest = left
	}
	if s := strings.Join(got, " "); s != `"a"="QQ==" "\u0062"= "c"=` {
		t.Error(s)
	}
	for _, bad := range []string{`[5]`, `[{"value":"QQ=="}]`, `[{"name":"a","value":5}]`, `[{"name":"a"`} {
		if _, _, _, _, err := WireHeader([]byte(bad)); err == nil {
			t.Errorf("%s: taken", bad)
		}
	}
}

// Members and Item take apart what servers answer.
func TestMembersAndItems(t *testing.T) {
	var got []string
	m := MembersOf([]byte(`{"a": 1, "b" : [ {"x":1} , "y" ]}`))
	for m.Next() {
		got = append(got, string(m.Name()))
		rest := m.Value()
		for {
			item, left, more := Item(rest)
			if !more {
				break
			}
			got = append(got, string(item))
			rest = left
		}
	}
	if s := strings.Join(got, " "); s != `a 1 b {"x":1} "y"` {
		t.Error(s)
	}
}

func TestWireAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rec := []byte(`{"partition_id":1,"key":{"type":"STRING","data":"k\n"},"timestamp":"2021-12-13T16:29:10.951Z","value":{"type":"JSON","data":{"a":"b"}}}` + "\n")
	dst, scratch := make([]byte, 0, 1024), make([]byte, 0, 1024)
	var w Wire
	if n := testing.AllocsPerRun(100, func() {
		if w.Scan(rec) != nil {
			panic("scan")
		}
		dst, _ = w.Key.AppendBase64(dst[:0], &scratch)
		dst, _ = w.Value.AppendBase64(dst, &scratch)
		if _, err := w.Millis(); err != nil {
			panic(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a record, want 0", n)
	}
}

// Whatever is a record by the server's rules is taken apart, and what the
// encoders wrote comes out as Decode says.
func FuzzWire(f *testing.F) {
	for _, s := range []string{
		`{"value":{"type":"STRING","data":"hi"}}`, `{"value":{"type":"JSON","data":{"a":[1,2]}}}`,
		`{"partition_id":1,"headers":[{"name":"a","value":"QQ=="}],"key":{"type":"BINARY","data":"QQ=="},"value":{"type":"BINARY","data":"QUI="}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, rec []byte) {
		var w Wire
		err := w.Scan(rec)
		var scratch []byte
		if err == nil {
			_, _ = w.Key.AppendBase64(nil, &scratch)
			rest, more := w.Headers, true
			for bad := error(nil); more && bad == nil; {
				_, _, rest, more, bad = WireHeader(rest)
			}
		}
		p, bad := Decode(rec)
		if bad != nil || p.Raw || err != nil {
			return
		}
		if p.Null != (w.Value.Kind == DataNull) {
			t.Fatalf("%q: null %v, kind %d", rec, p.Null, w.Value.Kind)
		}
		if !p.Null {
			out, err := w.Value.AppendBase64(nil, &scratch)
			got, bad := base64.StdEncoding.DecodeString(string(out))
			if err == nil && (bad != nil || strings.TrimSpace(string(got)) != strings.TrimSpace(string(p.Payload))) {
				t.Fatalf("%q: %q, Decode says %q", rec, got, p.Payload)
			}
		}
	})
}
