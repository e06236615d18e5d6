package record

import (
	"regexp"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	f := func(m Match, payload string, want bool) {
		t.Helper()
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		s := NewScope(Vars{Host: "web-1", Input: "app"})
		c := s.Matcher(&m)
		s.SetFile("/var/log/nginx/a.log")
		s.Set([]byte(payload))
		if got := c.Holds(); got != want {
			t.Errorf("%s of %s: %v", &m, payload, got)
		}
	}
	equals := func(field, text string) Match { return Match{Field: field, Equals: &text} }
	in := func(field string, texts ...string) Match { return Match{Field: field, In: texts} }
	regex := func(field, text string) Match { return Match{Field: field, Regex: regexp.MustCompile(text)} }
	exists := func(field string, is bool) Match { return Match{Field: field, Exists: &is} }

	f(equals("level", "error"), `{"level":"error"}`, true)
	f(equals("level", "error"), `{"level":"\u0065rror"}`, true)
	f(equals("level", "error"), `{"\u006cevel":"error"}`, true)
	f(equals("level", "error"), `{"level":"error "}`, false)
	f(equals("level", "error"), `{"level":"Error"}`, false)
	f(equals("level", "error"), `{"level":"error","level":"info"}`, false)
	f(equals("level", "error"), `{"level":"info","level":"error"}`, true)
	f(equals("status", "200"), `{"status":200}`, true)
	f(equals("status", "200"), `{"status":"200"}`, true)
	f(equals("status", "200"), `{"status":2e2}`, false) // texts are compared
	f(equals("n", "1e400"), `{"n":1e400}`, true)
	f(equals("ok", "true"), `{"ok":true}`, true)
	f(equals("a", ""), `{"a":""}`, true)
	f(equals("a", ""), `{}`, false)
	f(equals("a", ""), `{"a":null}`, false)
	f(equals("a", "null"), `{"a":null}`, false)
	f(equals("a", "null"), `{"a":"null"}`, true)
	f(equals("a", "{}"), `{"a":{}}`, false)
	f(equals("a", "[]"), `{"a":[]}`, false)
	f(equals("a.b", "x"), `{"a":{"b":"x"}}`, true)
	f(equals("a.b", "x"), `{"a.b":"x","a":{"b":"y"}}`, true)
	f(equals("a.b", "x"), `{"a":"x"}`, false)
	f(equals("😀", "é"), `{"\ud83d\ude00":"\u00e9"}`, true)
	for _, payload := range []string{``, `text`, `"level"`, `[{"level":"error"}]`, `{"level":"error"`, `{"level":"error"} x`, "{\"level\":\"error\",\"x\":\"\xff\"}"} {
		f(equals("level", "error"), payload, false)
		f(exists("level", true), payload, false)
		f(exists("level", false), payload, true)
	}

	f(in("a", "x", "y"), `{"a":"y"}`, true)
	f(in("a", "x", "y"), `{"a":"z"}`, false)
	f(in("a", "x", "y"), `{"b":"x"}`, false)
	f(in("a", ""), `{"a":""}`, true)
	f(in("a", "1"), `{"a":[1]}`, false)

	f(regex("a", "rr"), `{"a":"error"}`, true)
	f(regex("a", "^rr"), `{"a":"error"}`, false)
	f(regex("a", "^5..$"), `{"a":503}`, true)
	f(regex("a", "\n"), `{"a":"x\ny"}`, true)
	f(regex("a", ".*"), `{"b":1}`, false)
	f(regex("a", ".*"), `{"a":null}`, false)
	f(regex("a", ""), `{"a":{}}`, false)
	f(regex("a", "(a+)+$"), `{"a":"`+strings.Repeat("a", 100_000)+`!"}`, false)

	f(exists("a", true), `{"a":0}`, true)
	f(exists("a", true), `{"a":{}}`, true)
	f(exists("a", true), `{"a":null}`, false)
	f(exists("a", false), `{"a":null}`, true)
	f(exists("a", false), `{"a":""}`, false)

	f(equals("@input", "app"), `text`, true)
	f(equals("@input", "app"), `{"@input":"evil","input":"evil"}`, true)
	f(equals("@host", "web-2"), `{}`, false)
	f(regex("@file", "^/var/log/nginx/"), ``, true)
	f(in("@file_name", "a.log"), ``, true)
	f(exists("@file", false), ``, false)
	f(equals("input", "app"), `{"input":"app"}`, true)
	f(equals("input", "app"), `{}`, false)
	f(equals("@timestamp", "5"), `{"@timestamp":5}`, true) // no variable: the payload's
}

func TestMatchCheck(t *testing.T) {
	text, yes := "x", true
	f := func(m Match, want string) {
		t.Helper()
		if err := m.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", m, err, want)
		}
	}
	f(Match{Equals: &text}, "name the field")
	f(Match{Field: "a"}, `field "a": say what it is to be`)
	f(Match{Field: "a", Equals: &text, Exists: &yes}, "only one of")
	f(Match{Field: "a", In: []string{}}, "the list is empty")
}
