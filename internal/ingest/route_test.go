package ingest

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
)

// routed is a Sink that writes down which route and topic each payload came
// to: "1:topic payload", or "1!reason payload".
type routed struct {
	got      []string
	messages []string
	topics   []string // that rejections named
}

func (s *routed) Submit(b *record.Batch) error {
	for i := range b.Len() {
		p, err := record.Decode(b.Bytes(i, i+1))
		if err != nil {
			return err
		}
		s.got = append(s.got, fmt.Sprintf("%d:%s %s", b.Route, b.Topic, p.Payload))
	}
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func (s *routed) Reject(route int32, topic string, _ record.Position, payload []byte, why *record.InvalidError) error {
	s.got = append(s.got, fmt.Sprintf("%d!%s %s", route, why.Reason, payload))
	s.messages = append(s.messages, why.Message)
	s.topics = append(s.topics, topic)
	return nil
}

// route returns a Route of the defaults with change made to it, its ID the
// number of its place from 1.
func routes(change ...func(*Route)) []Route {
	all := make([]Route, len(change))
	for i, c := range change {
		all[i] = Route{ID: int32(i + 1), Name: string(rune('a' + i)), Topic: "t", Encoder: record.DefaultEncoderConfig()}
		c(&all[i])
	}
	return all
}

func routerOf(t testing.TB, sink Sink, routes []Route) *Router {
	t.Helper()
	r, err := NewRouter(RouterConfig{
		Batch: DefaultBatchConfig(), Routes: routes, MaxRecordBytes: 8e6, Vars: record.Vars{Host: "web-1", Input: "app"},
	}, sink)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// add gives payloads to r, each at its own offset.
func add(t testing.TB, r *Router, payloads ...string) {
	t.Helper()
	r.Lock()
	defer r.Unlock()
	for i, p := range payloads {
		if err := r.Add([]byte(p), nil, record.Position{Offset: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

func equals(field, text string) *Match { return &Match{Field: field, Equals: &text} }

func TestRouter(t *testing.T) {
	f := func(all []Route, payload, want, words string) {
		t.Helper()
		var s routed
		r := routerOf(t, &s, all)
		r.Lock()
		r.File("/var/log/nginx/access.log")
		r.Unlock()
		add(t, r, payload)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.got, "; "); got != want {
			t.Errorf("%.100s:\n got %.200s\nwant %.200s", payload, got, want)
		}
		for i, m := range s.messages {
			if words == "" || !strings.Contains(m, words) {
				t.Errorf("%.100s: %q, want %q", payload, m, words)
			}
			if strings.Contains(want, "!no_") && s.topics[i] != "" {
				t.Errorf("%.100s: rejected under topic %q, which it never had", payload, s.topics[i])
			}
		}
	}
	yes := true
	topic := func(text string, allow ...string) func(*Route) {
		return func(r *Route) { r.Topic, r.AllowTopics = text, allow }
	}
	match := func(topic string, m *Match) func(*Route) {
		return func(r *Route) { r.Topic, r.Match = topic, m }
	}

	// Which route.
	three := routes(match("errors", equals("level", "error")), match("nginx", &Match{Field: "@file", Regex: regexp.MustCompile("/nginx/")}), topic("rest"))
	f(three, `{"level":"error"}`, `1:errors {"level":"error"}`, "")
	f(three, `{"level":"info"}`, `2:nginx {"level":"info"}`, "")
	f(three, `level=error`, `2:nginx level=error`, "")
	two := routes(match("errors", equals("level", "error")), match("known", &Match{Field: "level", Exists: &yes}))
	f(two, `{"level":5}`, `2:known {"level":5}`, "")
	f(two, `{"level":null}`, `1!no_route {"level":null}`, `tried "a" (field "level" equals "error"), "b" (field "level" exists)`)
	f(two, ``, `1!no_route `, "add a route without a match")
	f(routes(topic("first"), topic("second")), `x`, `1:first x`, "")

	// Which topic.
	f(routes(topic("logs-{{ .tenant }}")), `{"tenant":"a"}`, `1:logs-a {"tenant":"a"}`, "")
	f(routes(topic("logs-{{ .host }}-{{ .input }}")), `{"host":"evil","input":"evil"}`, `1:logs-web-1-app {"host":"evil","input":"evil"}`, "")
	f(routes(topic("{{ .file_name }}")), `text`, `1:access.log text`, "")
	f(routes(topic("logs-{{ .a.b }}.{{ .n }}")), `{"a":{"b":"x"},"n":7}`, `1:logs-x.7 {"a":{"b":"x"},"n":7}`, "")
	f(routes(topic("logs-{{ .t }}")), `{"t":"\u0061"}`, `1:logs-a {"t":"\u0061"}`, "")
	f(routes(topic("logs-{{ .t }}")), `{"u":1}`, `1!no_topic {"u":1}`, `field "t", which the payload does not have`)
	f(routes(topic("logs-{{ .t }}")), `{"t":{}}`, `1!no_topic {"t":{}}`, `field "t", which is an object`)
	f(routes(topic("logs-{{ .t }}")), `text`, `1!no_topic text`, `not a JSON object`)
	f(routes(topic("logs-{{ .t }}")), `{"t":"a`, `1!no_topic {"t":"a`, `not valid JSON at byte 7`)
	f(routes(topic("logs-{{ .t }}")), ``, `1!no_topic `, `not a JSON object`)
	f(routes(topic("logs-{{ .t }}")), `{"t":"a/b"}`, `1!topic_not_allowed {"t":"a/b"}`, `only letters`)
	f(routes(topic("logs-{{ .t }}")), `{"t":"\n"}`, `1!topic_not_allowed {"t":"\n"}`, `only letters`)
	f(routes(topic("logs-{{ .t }}")), `{"t":"é"}`, `1!topic_not_allowed {"t":"é"}`, `not 'é'`)
	f(routes(topic("logs-{{ .t }}")), `{"t":1.5e+400}`, `1!topic_not_allowed {"t":1.5e+400}`, `not '+'`)
	huge := `{"t":"` + long(7_000_000) + `"}`
	f(routes(topic("logs-{{ .t }}")), huge, `1!topic_not_allowed `+huge, `must be at most 249`)
	f(routes(topic("{{ .t }}", "logs-*", "audit")), `{"t":"audit"}`, `1:audit {"t":"audit"}`, "")
	f(routes(topic("{{ .t }}", "logs-*", "audit")), `{"t":"logs-"}`, `1:logs- {"t":"logs-"}`, "")
	f(routes(topic("{{ .t }}", "logs-*", "audit")), `{"t":"audits"}`, `1!topic_not_allowed {"t":"audits"}`, `allow_topics has logs-*, audit only`)
	f(routes(topic("{{ .t }}", "a*")), `{"t":"."}`, `1!topic_not_allowed {"t":"."}`, `must not be`)
	f(routes(topic("", "a")), `x`, `1!no_topic x`, "the route has no topic")

	// A match that looks at the payload does not make it JSON.
	f(routes(match("a", equals("x", "1")), topic("rest")), `{"x":1`, `2:rest {"x":1`, "")
	// Fields are those behind the key's delimiter, whatever the routes before do.
	delim := func(r *Route) { r.Topic, r.Encoder.KeyDelim = "logs-{{ .t }}", []byte("\t") }
	f(routes(match("a", equals("x", "1")), delim), "k\t{\"t\":\"z\"}", `2:logs-z {"t":"z"}`, "")
	f(routes(func(r *Route) { delim(r); r.Match = equals("t", "y") }, match("whole", equals("t", "z"))), `{"t":"z"}`, `2:whole {"t":"z"}`, "")
	// A topic is found, and then the record cannot be encoded.
	f(routes(func(r *Route) { r.Topic, r.Encoder.TimestampField = "logs-{{ .t }}", "ts" }), `{"t":"a","ts":"x"}`,
		`1!bad_timestamp {"t":"a","ts":"x"}`, "not a time")
	f(routes(func(r *Route) { r.Encoder.MaxRecordBytes = 5 }), `123456`, `1!too_large 123456`, "limit of 5")
}

// What a rejected record's topic was goes with it, where it had one.
func TestRouterRejectedTopic(t *testing.T) {
	var s routed
	r := routerOf(t, &s, routes(func(r *Route) { r.Topic, r.Encoder.PartitionField = "logs-{{ .t }}", "p" }))
	add(t, r, `{"t":"a","p":"x"}`)
	if err := r.Close(); err != nil || len(s.topics) != 1 || s.topics[0] != "logs-a" {
		t.Errorf("topics %q, %v", s.topics, err)
	}
}

func TestCheckRoute(t *testing.T) {
	f := func(want string, change func(*Route)) {
		t.Helper()
		err := CheckRoute(routes(change)[0])
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	topic := func(text string, allow ...string) func(*Route) {
		return func(r *Route) { r.Topic, r.AllowTopics = text, allow }
	}
	f("", topic("logs"))
	f("", topic("logs", "other-*")) // for records that bring their own
	f("", topic("", "edge-*"))
	f("", topic("logs-{{ .t }}"))
	f("", topic("{{ .t }}", "logs-*", "audit"))
	f("", topic("logs-{{ .t }}", "*"))
	f("", topic("logs-{{ .t }}", "lo*s-x"))
	f("", topic("{{ .host }}-{{ .file_name }}")) // the operator's own
	f("", func(r *Route) { r.Encoder.Decode = record.DecodeText })
	f("", func(r *Route) { r.Match, r.Encoder.Decode = equals("a", "b"), record.DecodeText })
	f("", func(r *Route) { r.Match = equals("@host", "b") })

	f("name the topic", topic(""))
	f("topic: template", topic("logs-{{ .t }"))
	f("column 9", topic("logs-{{ t }}"))
	f("only letters", topic("lo gs"))
	f("only letters", topic("lo/gs-{{ .t }}"))
	f("must not be", topic(".."))
	f("must be at most 249", topic(strings.Repeat("a", 250)))
	f("its text alone has 300 characters", topic(strings.Repeat("a", 300)+"{{ .t }}"))
	f("use {{ .file_name }}", topic("logs-{{ .file }}"))
	f("could name any topic", topic("{{ .t }}"))
	f("could name any topic", topic("{{ .t }}-logs"))
	f("could name any topic", topic("{{ .host }}-{{ .t }}"))
	f("could name any topic", topic("{{ .t }}", "a", "**"))
	f(`no name that begins with "logs-"`, topic("logs-{{ .t }}", "app-*", "log"))
	f("allow_topics", topic("logs", ""))
	f("allow_topics", topic("logs", "a/*"))
	f("match: name the field", func(r *Route) { r.Match = equals("", "b") })
	f("match: field", func(r *Route) { r.Match = &Match{Field: "a"} })
	f("decode is text", func(r *Route) { r.Topic, r.Encoder.Decode = "logs-{{ .t }}", record.DecodeText })
	f(`field "k" is used`, func(r *Route) { r.Encoder.KeyField, r.Encoder.Decode = "k", record.DecodeBytes })
	f("--partition", func(r *Route) { r.Encoder.Partition = -2 })
}

func TestNewRouterErrors(t *testing.T) {
	f := func(want string, all []Route) {
		t.Helper()
		_, err := NewRouter(RouterConfig{Batch: DefaultBatchConfig(), Routes: all, Vars: record.Vars{Host: "web 1"}}, &routed{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f("without a route", nil)
	f(`route "b": topic: template`, routes(func(*Route) {}, func(r *Route) { r.Topic = "{{" }))
	f(`route "a": topic "logs-web 1": only letters`, routes(func(r *Route) { r.Topic = "logs-{{ .host }}" }))
}

func TestAllows(t *testing.T) {
	f := func(pattern, topic string, want bool) {
		t.Helper()
		if got := Allows([]string{"no", pattern}, topic); got != want {
			t.Errorf("%q allows %q: %v", pattern, topic, got)
		}
	}
	f("logs", "logs", true)
	f("logs", "log", false)
	f("logs", "logs2", false)
	f("logs-*", "logs-", true)
	f("logs-*", "logs-a-b", true)
	f("logs-*", "xlogs-a", false)
	f("*", "", true)
	f("*-logs", "a-logs", true)
	f("*-logs", "a-logs-b", false)
	f("a*b", "ab", true)
	f("a*b", "a", false)
	f("ab*b", "ab", false)
	f("a*bc*d", "a.bbc.d", true)
	f("a*b*a", "aba", true)
	f("a*a", "a", false)
	f("a**b", "axb", true)
	f("a.c", "abc", false)
	if Allows(nil, "a") {
		t.Error("an empty list allows a topic")
	}
}

// A pattern matches what the regular expression it stands for matches.
func FuzzAllows(f *testing.F) {
	f.Add("a*b*a", "aba")
	f.Add("**", "")
	f.Add("ab*ab*b", "ababb")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		re, err := regexp.Compile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$")
		if err != nil || strings.ContainsRune(name, '\ufffd') || !valid(pattern) || !valid(name) {
			return
		}
		if got, want := wild(pattern, name), re.MatchString(name); got != want {
			t.Fatalf("%q over %q: %v, want %v", pattern, name, got, want)
		}
	})
}

func valid(s string) bool { return strings.ToValidUTF8(s, "") == s }

// Records that bring their topic along, and those that are to have one.
func TestAddRecord(t *testing.T) {
	const rec = `{"value":{"type":"STRING","data":"x"}}`
	f := func(all []Route, topic, want, words string) {
		t.Helper()
		var s routed
		r := routerOf(t, &s, all)
		name := []byte(topic)
		r.Lock()
		r.File("/a/b.log")
		if err := errors.Join(r.AddRecord(string(name), []byte(" "+rec+"\n"), record.Position{})); err != nil {
			t.Fatal(err)
		}
		r.Unlock()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.got, "; "); got != want || strings.Join(s.messages, "") == "" != (words == "") || !strings.Contains(strings.Join(s.messages, ""), words) {
			t.Errorf("got %s %q, want %s %q", got, s.messages, want, words)
		}
	}
	topic := func(text string) []Route {
		return routes(func(r *Route) { r.Topic, r.AllowTopics = text, []string{"*"} }, func(*Route) {})
	}
	f(topic("t"), "", `1:t x`, "")
	f(topic("t"), "other", `1:other x`, "")
	f(topic("l-{{ .t }}"), "other", `1:other x`, "")
	f(topic("l-{{ .file_name }}"), "", `1:l-b.log x`, "")
	f(topic("l-{{ .t }}"), "", `1!no_topic  `+rec+"\n", "whole records are not looked into")
	f(topic(""), "", `1!no_topic  `+rec+"\n", "the route has no topic")
}

// raws notes which batches want the reports as they are.
type raws struct {
	memory
	raw map[string]bool
}

func (s *raws) Submit(b *record.Batch) error {
	s.raw[b.Topic] = b.Raw
	return s.memory.Submit(b)
}

// Batches with records of AddRecord want their reports raw, when they are to.
func TestRawReports(t *testing.T) {
	for _, want := range []bool{false, true} {
		s := &raws{raw: map[string]bool{}}
		r, err := NewRouter(RouterConfig{
			Batch: DefaultBatchConfig(), Routes: []Route{{Topic: "t", Encoder: record.DefaultEncoderConfig()}}, RawReports: want,
		}, s)
		if err != nil {
			t.Fatal(err)
		}
		r.Lock()
		err = errors.Join(r.Add([]byte("x"), nil, record.Position{}), r.AddRecord("other", []byte("{}"), record.Position{}))
		r.Unlock()
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if len(s.raw) != 2 || s.raw["t"] || s.raw["other"] != want {
			t.Errorf("RawReports %v: %v", want, s.raw)
		}
	}
}

// The next file is another value of the same template.
func TestRouterFile(t *testing.T) {
	var s routed
	r := routerOf(t, &s, routes(func(r *Route) {
		r.Topic = "{{ .file_name }}"
		r.Encoder.Headers = []record.Header{{Name: "f", Template: template(t, "{{ .file }}")}}
	}))
	for _, file := range []string{"/x/a", "/x/b", "/y/a", "/y/a", ""} {
		r.Lock()
		r.File(file)
		r.Unlock()
		add(t, r, file)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.got, "; "); got != "1!no_topic ; 1:a /x/a; 1:a /y/a; 1:a /y/a; 1:b /x/b" {
		t.Errorf("got %s", got)
	}
}

func template(t testing.TB, text string) *record.Template {
	t.Helper()
	x, err := record.ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// Whatever the payload, it ends once: in a topic that is allowed, or rejected
// as it was. It never ends the input.
func FuzzRouter(f *testing.F) {
	for _, s := range []string{logLine, `{"t":"a","k":{"x":1}}`, `{"t":"../x","p":1}`, `{"t":"a","p":1e400}`, `{"t":"a","ts":"x"}`, "text", "", "\xff", "k\t{\"t\":\"b\"}"} {
		f.Add([]byte(s), "/var/log/a.log")
	}
	f.Fuzz(func(t *testing.T, payload []byte, file string) {
		var s routed
		r := routerOf(t, &s, routes(
			func(r *Route) {
				r.Topic, r.Match, r.Encoder.Decode = "logs-{{ .t }}", &Match{Field: "p", Regex: regexp.MustCompile("^.")}, record.DecodeJSON
				r.Encoder.PartitionField, r.Encoder.KeyField, r.Encoder.TimestampField = "p", "k.x", "ts"
				r.Encoder.Headers = []record.Header{{Name: "h", Template: template(t, "{{ .t }}/{{ .file }}")}}
			},
			func(r *Route) { tenant(r); r.Encoder.KeyDelim, r.Match = []byte("\t"), equals("t", "b") },
			func(r *Route) {
				r.Topic, r.AllowTopics, r.Match = "{{ .file_name }}", []string{"a*", "b"}, equals("x", "")
			},
			func(r *Route) { r.Topic, r.AllowTopics = "{{ .t }}", []string{"logs-a*", "b"} },
		))
		before := strings.Clone(string(payload))
		r.Lock()
		r.File(file)
		err := r.Add(payload, nil, record.Position{})
		r.Unlock()
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if len(s.got) != 1 || string(payload) != before {
			t.Fatalf("%q came to %q", payload, s.got)
		}
		if len(s.messages) == 1 {
			if !strings.HasSuffix(s.got[0], " "+before) {
				t.Fatalf("%q was rejected as %q", payload, s.got[0])
			}
			return
		}
		topic, _, _ := strings.Cut(s.got[0][2:], " ")
		if err := CheckTopic(topic); err != nil || !Allows([]string{"logs-*", "a*", "b"}, topic) {
			t.Fatalf("%q came to topic %q: %v", payload, topic, err)
		}
	})
}
