package ingest

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/record"
)

// encode returns the wire form of line.
func encode(t testing.TB, line string, set ...func(*record.EncoderConfig)) []byte {
	t.Helper()
	cfg := record.DefaultEncoderConfig()
	for _, s := range set {
		s(&cfg)
	}
	e, err := record.NewEncoder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Append(nil, []byte(line), []byte("the-id"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// again writes d as a line, and sends that line.
func again(t testing.TB, d DeadLetter, topic string, over *record.Type, enc record.EncoderConfig) (sent string, m *memory) {
	t.Helper()
	var line bytes.Buffer
	w := json.NewEncoder(&line)
	w.SetEscapeHTML(false)
	if err := w.Encode(&d); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(line.Bytes(), []byte("\n")); n != 1 {
		t.Fatalf("the line has %d line ends: %s", n, line.Bytes())
	}
	var body bytes.Buffer
	m = &memory{}
	both := teeSink{m, &body}
	cfg := lineConfig()
	cfg.Encoder = enc
	router := newRouter(t, cfg, "", both)
	r := NewDeadLetterReader(router, topic, over)
	if err := errors.Join(r.Read(&line, 0), router.Close()); err != nil {
		t.Fatal(err)
	}
	return body.String(), m
}

type teeSink struct {
	*memory
	body *bytes.Buffer
}

func (s teeSink) Submit(b *record.Batch) error {
	s.body.Write(b.Body())
	return s.memory.Submit(b)
}

// A rejected record goes out again byte by byte as it was.
func TestDeadLetterRoundTrip(t *testing.T) {
	f := func(wire []byte) {
		t.Helper()
		d := NewDeadLetter(wire)
		d.Topic = "logs"
		sent, m := again(t, d, "", nil, record.DefaultEncoderConfig())
		if sent != string(wire) || len(m.records) != 1 || m.records[0].topic != "logs" {
			t.Errorf("sent %q\nwas  %q\n%+v", sent, wire, m.records)
		}
	}
	typ := func(typ record.Type) func(*record.EncoderConfig) {
		return func(c *record.EncoderConfig) { c.ValueType = typ }
	}
	null := ""
	all := func(c *record.EncoderConfig) {
		c.HasKey, c.Key = true, []byte("k\"\n\x00é<>&\u2028")
		c.Partition = 7
		c.Headers = []record.Header{{Name: "a", Value: []byte("\xff\x00")}, {Name: "b"}, {Name: "c<>\u2029", Value: []byte{}}}
		c.RecordIDHeader = "id"
	}
	for _, line := range []string{"", "a", "é\u2028<>&\"\\\x00\x1f\x7f", "\ufffd", "\xff\xfe", "null", "\U0001f600", strings.Repeat("x", 100_000)} {
		f(encode(t, line))
		f(encode(t, line, all))
		f(encode(t, line, typ(record.Binary)))
	}
	for _, line := range []string{`{"a":1.10}`, ` [1, 2]	`, `"<>&\u2028"`, `"` + "\u2028<" + `"`, `0`, `true`} {
		f(encode(t, line, typ(record.JSON)))
		f(encode(t, line, typ(record.JSON), all))
	}
	f(encode(t, `{"k":"<\u00e9>","ts":1700000000}`, func(c *record.EncoderConfig) { c.KeyField, c.TimestampField = "k", "ts" }))
	f(encode(t, `{"k":{"a":[1.10]}}`, func(c *record.EncoderConfig) { c.KeyField, c.KeyType = "k", record.JSON }))
	f(encode(t, "", func(c *record.EncoderConfig) { c.NullValue = &null }))
	f(encode(t, "", func(c *record.EncoderConfig) { c.NullValue, c.ValueType = &null, record.Binary }, all))
	f([]byte(`{"value":{"schema_id":1,"data":{"a":1}},"key":{"data":null}}` + "\n"))
	f([]byte("{\n\"value\" : {\"data\": 1}}\n"))
}

// A line that never was encoded is, by the flags of the run that sends it.
func TestDeadLetterUnsent(t *testing.T) {
	d := DeadLetter{Topic: "logs", Source: "app.log", Position: 42, Unsent: true}
	d.SetPayload([]byte(`k:{"a":`))
	cfg := record.DefaultEncoderConfig()
	cfg.KeyDelim, cfg.RecordIDHeader = []byte(":"), "id"
	sent, _ := again(t, d, "", nil, cfg)
	want := `{"headers":[{"name":"id","value":"YXBwLmxvZzo0Mg=="}],"key":{"type":"STRING","data":"k"},"value":{"type":"STRING","data":"{\"a\":"}}` + "\n"
	if sent != want {
		t.Errorf("sent %s\nwant %s", sent, want)
	}
	cfg.ValueType = record.JSON
	if sent, m := again(t, d, "", nil, cfg); sent != "" || len(m.records) != 1 || !strings.Contains(m.records[0].message, "not valid JSON") {
		t.Errorf("sent %q, %+v", sent, m.records)
	}
}

// A topic or type given at the command line rules over the line's.
func TestDeadLetterOver(t *testing.T) {
	d := NewDeadLetter(encode(t, `{"a":1}`, func(c *record.EncoderConfig) { c.ValueType = record.JSON }))
	d.Topic = "logs"
	typ := record.String
	sent, m := again(t, d, "other", &typ, record.DefaultEncoderConfig())
	if want := `{"value":{"type":"STRING","data":"{\"a\":1}"}}` + "\n"; sent != want || m.records[0].topic != "other" {
		t.Errorf("sent %s to %+v", sent, m.records)
	}
}

// What cannot be sent is refused as the line it is, with words; the rest goes.
func TestDeadLetterRefused(t *testing.T) {
	good := `{"topic":"t","record":"a"}`
	f := func(in, topic, want string) {
		t.Helper()
		for _, sizes := range [][]byte{nil, {0, 3}} {
			var m memory
			router := newRouter(t, lineConfig(), "", &m)
			r := NewDeadLetterReader(router, topic, nil)
			if err := errors.Join(r.Read(&cutter{data: []byte(good + "\n" + in + "\n\n \n" + good), sizes: sizes}, 0), router.Close()); err != nil {
				t.Fatal(err)
			}
			all := m.sorted()
			if len(all) != 3 || all[0].reason != "" || all[2].reason != "" {
				t.Errorf("%s: %+v", in, all)
				continue
			}
			if g := all[1]; g.reason != ReasonDeadLetter || g.payload != in || !strings.Contains(g.message, want) || g.pos.Offset != int64(len(good)+1) {
				t.Errorf("%s: %+v, want %q", in, g, want)
			}
		}
	}
	f(`{"topic":"t","record":"cut`, "", "not a dead-letter line")
	f(`[]`, "", "not a dead-letter line")
	f(`rubbish`, "t", "not a dead-letter line")
	f(`{"a":1}`, "t", "not a dead-letter line")
	f(`{"topic":"t","record":5}`, "", "not a dead-letter line")
	f(`{"topic":"t","record":null,"length":9000000,"unsent":true}`, "", "too long to be kept: send it from its source")
	f(`{"topic":"","record":"a"}`, "", "a topic name is wanted")
	f(`{"topic":"no such","record":"a"}`, "", "only letters")
	f(`{"topic":"t","record":"a","encoding":"rot13"}`, "", `encoding "rot13" is not known`)
	f(`{"topic":"t","record":"?","encoding":"base64"}`, "", "base64")
	f(`{"topic":"t","record":"a","value_type":"AVRO"}`, "", "AVRO")
	f(`{"topic":"t","record":"a","envelope":[1]}`, "", "envelope is not a JSON object")
	f(`{"topic":"t","record":"a","envelope":{"value":1}}`, "", "envelope has a member")
	f(`{"topic":"t","record":"{\"value\":","raw":true}`, "", "not valid JSON")
	f(`{"topic":"t","record":"{","value_type":"JSON"}`, "", "not valid JSON")
}

// --count counts lines here too.
func TestDeadLetterCount(t *testing.T) {
	var m memory
	router := newRouter(t, lineConfig(), "", &m)
	r := NewDeadLetterReader(router, "", nil)
	r.Count = 2
	if err := r.Read(strings.NewReader(strings.Repeat(`{"topic":"t","record":"a"}`+"\n", 5)), 0); !errors.Is(err, ErrCount) {
		t.Errorf("%v, want ErrCount", err)
	}
	if err := router.Close(); err != nil || m.sent() != 2 {
		t.Errorf("%d sent, %v", m.sent(), err)
	}
}

func TestCheckTopic(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		err := CheckTopic(name)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("CheckTopic(%.20q): %v, want %q", name, err, want)
		}
	}
	f("logs", "")
	f("a.B_c-9", "")
	f("...", "")
	f(strings.Repeat("a", 249), "")
	f("", "a topic name is wanted")
	f(".", "must not be")
	f("..", "must not be")
	f(strings.Repeat("a", 250), "250 characters, must be at most 249")
	for _, bad := range []string{"a b", "a/b", "a\n", "é", "a%20", "{x}"} {
		f(bad, "only letters")
	}
}

// Whatever bytes were rejected come back from the line they are kept in.
func FuzzDeadLetterPayload(f *testing.F) {
	f.Add([]byte("a\u2028\xff"))
	f.Add([]byte("<>&\x00\ufffd"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var d DeadLetter
		d.SetPayload(payload)
		line, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseDeadLetter(line)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := back.payload(); err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%q, %v", got, err)
		}
	})
}
