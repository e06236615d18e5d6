package record

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// shape writes a template's parts down: 'literal', var:name, field:"name".
func shape(t *Template) string {
	var out []string
	for _, p := range t.parts {
		switch p.kind {
		case partLiteral:
			out = append(out, fmt.Sprintf("'%s'", p.text))
		case partVar:
			out = append(out, "var:"+p.text)
		case partField:
			out = append(out, fmt.Sprintf("field:%q", p.text))
		}
	}
	return strings.Join(out, " ")
}

func TestParseTemplate(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		got, err := ParseTemplate(text)
		if err != nil || shape(got) != want || got.String() != text {
			t.Errorf("ParseTemplate(%q) = %v, %v\nwant %s", text, got, err, want)
		}
	}
	f("", "")
	f("logs", "'logs'")
	f("a { b } c", "'a { b } c'")
	f("logs-{{ .tenant }}", `'logs-' field:"tenant"`)
	f("{{.a}}{{.b}}", `field:"a" field:"b"`)
	f("{{ \t.a.b.c\t }}-x", `field:"a.b.c" '-x'`)
	f("{{ .host }}/{{ .input }}/{{ .file }}/{{ .file_name }}", "var:host '/' var:input '/' var:file '/' var:file_name")
	f("{{ .host.name }}{{ .Host }}{{ .files }}", `field:"host.name" field:"Host" field:"files"`)
	f(`{{ ."host" }}`, `field:"host"`)
	f(`{{ ."a \"b\" }} c\u00e9" }}!`, `field:"a \"b\" }} cé" '!'`)
	f(`{{ ."" }}`, `field:""`)
	f("{{ .@timestamp }}{{ .user-id }}{{ ._x }}{{ .größe.0 }}", `field:"@timestamp" field:"user-id" field:"_x" field:"größe.0"`)

	bad := func(text string, column int, want string) {
		t.Helper()
		got, err := ParseTemplate(text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf(", column %d: ", column)) {
			t.Errorf("ParseTemplate(%q) = %v, %v; want column %d and %q", text, got, err, column, want)
		}
	}
	bad("{{ .a", 1, "this {{ has no }}")
	bad("ü{{ .a } b", 2, "this {{ has no }}")
	bad("a }} b", 3, "}} without a {{")
	bad("{{ .a }} }}", 10, "}} without a {{")
	bad("{{", 3, "a field is wanted")
	bad("{{}}", 3, "a field is wanted")
	bad("ü-{{ tenant }}", 6, "a field is wanted here, like {{ .tenant }}")
	bad("{{ . }}", 5, "a name is wanted")
	bad("{{ .a. }}", 7, "a name is wanted")
	bad("{{ .a..b }}", 7, "a name is wanted")
	bad("{{ ..a }}", 5, "a name is wanted")
	bad("{{ .a b }}", 7, "no function and no pipe")
	bad("{{ .a | upper }}", 7, "no function and no pipe")
	bad("{{ .a/b }}", 6, "}} is wanted here")
	bad("{{ .a {{ .b }}", 7, "}} is wanted here")
	bad(`{{ ."a }}`, 5, `a closing "`)
	bad(`{{ ."a\q" }}`, 5, "name")
	bad("{{ .a\n}}", 6, "}} is wanted here")
	if _, err := ParseTemplate("\xff"); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("a template that is not UTF-8: %v", err)
	}
}

func TestTemplateTells(t *testing.T) {
	f := func(text, prefix string, constant bool, fields, vars, literals string) {
		t.Helper()
		x, err := ParseTemplate(text)
		if err != nil {
			t.Fatal(err)
		}
		if x.Prefix() != prefix || x.Constant() != constant || strings.Join(x.Fields(), " ") != fields ||
			strings.Join(x.Vars(), " ") != vars || strings.Join(x.Literals(), " ") != literals {
			t.Errorf("%q: prefix %q, constant %v, fields %q, variables %q, literals %q", text, x.Prefix(), x.Constant(), x.Fields(), x.Vars(), x.Literals())
		}
	}
	f("", "", true, "", "", "")
	f("logs", "logs", true, "", "", "logs")
	f("logs-{{ .a.b }}-{{ .host }}-{{ .c }}", "logs-", false, "a.b c", "host", "logs- - -")
	f("{{ .input }}-x", "", false, "", "input", "-x")
}

// textOf binds a template to a scope.
func textOf(t testing.TB, s *Scope, text string) *Text {
	t.Helper()
	x, err := ParseTemplate(text)
	if err != nil {
		t.Fatal(err)
	}
	return s.Bind(x)
}

func TestText(t *testing.T) {
	f := func(text, file, payload, want string, wantOK bool) {
		t.Helper()
		s := NewScope(Vars{Host: "web-1", Input: "app"})
		x := textOf(t, s, text)
		s.SetFile(file)
		s.Set([]byte(payload))
		got, ok := x.Append([]byte("x"))
		if string(got) != "x"+want || ok != wantOK {
			t.Errorf("%q of %s = %q, %v; want %q, %v", text, payload, got, ok, want, wantOK)
		}
	}
	f("a", "", "not JSON", "a", true)
	f("", "", "", "", true)
	f("{{ .host }}/{{ .input }}:{{ .file }}:{{ .file_name }}", "/var/log/a.log", "not JSON", "web-1/app:/var/log/a.log:a.log", true)
	f("{{ .a }}", "", `{"a":"é\u00e9\n\"\ud83d\ude00"}`, "éé\n\"😀", true)
	f("{{ .a }}", "", `{"a":1.10e400}`, "1.10e400", true)
	f("<{{ .a }}>", "", `{"a":false}`, "<false>", true)
	f("<{{ .a }}>", "", `{"a":""}`, "<>", true)
	f("{{ .a }}", "", `{"a":{"b":[1, 2]}}`, `{"b":[1, 2]}`, true)
	f("{{ .a.b }}-{{ .a.c }}-{{ .a.b }}", "", `{"a":{"b":1,"c":"x"}}`, "1-x-1", true)
	f("{{ .a.b }}", "", `{"a":{"b":1},"a.b":2}`, "2", true)
	f("{{ .a }}", "", `{"a":1,"a":2}`, "2", true)

	// The agent's own names are not for records to choose.
	f("{{ .host }} {{ .input }}", "", `{"host":"evil","input":"evil"}`, "web-1 app", true)
	f(`{{ ."host" }} {{ .host.name }}`, "", `{"host":{"name":"db-2"}}`, `{"name":"db-2"} db-2`, true)

	f("pre {{ .a }}", "", `{"a":null}`, "", false)
	f("pre {{ .a }}", "", `{"b":1}`, "", false)
	f("pre {{ .a }}", "", `{"a":1`, "", false)
	f("pre {{ .a }}", "", `[1]`, "", false)
	f("pre {{ .a }}", "", ``, "", false)
	f("pre {{ .file }}", "", `{"file":"evil"}`, "", false)
	f("pre {{ .file_name }}", "", `{}`, "", false)
}

func TestTextBound(t *testing.T) {
	f := func(text, constant string, isConstant, ofPayload bool) {
		t.Helper()
		x := textOf(t, NewScope(Vars{Host: "web-1"}), text)
		got, ok := x.Constant()
		if got != constant || ok != isConstant || x.OfPayload() != ofPayload {
			t.Errorf("%q: constant %q, %v, of the payload %v", text, got, ok, x.OfPayload())
		}
	}
	f("", "", true, false)
	f("a", "a", true, false)
	f("a-{{ .host }}-b", "a-web-1-b", true, false)
	f("{{ .host }}{{ .host }}", "web-1web-1", true, false)
	f("{{ .input }}", "", false, false) // not known here
	f("{{ .file }}", "", false, false)
	f("a-{{ .b }}", "", false, true)
}

func TestTextTopic(t *testing.T) {
	f := func(text, file, payload, want string) {
		t.Helper()
		s := NewScope(Vars{Host: "web-1"})
		x := textOf(t, s, text)
		s.SetFile(file)
		s.Set([]byte(payload))
		got, err := x.AppendTopic([]byte("x"))
		if err == nil {
			if string(got) != "x"+want {
				t.Errorf("topic %q of %s = %q, want %q", text, payload, got, want)
			}
			return
		}
		var inv *InvalidError
		if !errors.As(err, &inv) || inv.Code != 400 || inv.Reason != ReasonNoTopic || string(got) != "x" || !strings.Contains(inv.Message, want) {
			t.Errorf("topic %q of %s: %q, %v; want %q", text, payload, got, err, want)
		}
	}
	f("logs-{{ .t }}", "", `{"t":"a"}`, "logs-a")
	f("logs-{{ .t }}", "", `{"t":7}`, "logs-7")
	f("logs-{{ .t }}", "", `{"t":true}`, "logs-true")
	f("logs-{{ .host }}-{{ .file_name }}", "/x/y.log", `text`, "logs-web-1-y.log")
	f("logs-{{ .a.t }}", "", `{"b":1}`, `field "a.t", which the payload does not have`)
	f("logs-{{ .t }}", "", `{"t":null}`, `field "t", which is null`)
	f("logs-{{ .t }}", "", `{"t":""}`, `field "t", which is empty`)
	f("logs-{{ .t }}", "", `{"t":[1]}`, `field "t", which is an object or array`)
	f("logs-{{ .t }}", "", `{"t":{}}`, `field "t", which is an object or array`)
	f("logs-{{ .t }}", "", `text`, `the payload is not a JSON object`)
	f("logs-{{ .t }}", "", ``, `the payload is not a JSON object`)
	f("logs-{{ .t }}", "", `{"t":x}`, `not valid JSON at byte 5`)
	f("logs-{{ .t }}", "", "{\"t\":\"\xff\"}", `not valid UTF-8`)
	f("logs-{{ .t }}", "", strings.Repeat(`{"t":`, 1001)+"1"+strings.Repeat("}", 1001), "nested over 998 deep")
	f("logs-{{ .file_name }}", "", `{"file_name":"x"}`, `variable "file_name", which this input does not have`)
}

// Whatever the text, parsing ends, says where a fault is, and keeps the pieces
// that are not in braces.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"logs-{{ .a.b }}x{{.host}}", `{{ ."a\"}}" }}`, "{{{{}}}}", "{{ .é }}}}", "\xff{{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x, err := ParseTemplate(text)
		if err != nil {
			return
		}
		rest := text
		for _, p := range x.parts {
			if p.kind == partLiteral {
				i := strings.Index(rest, p.text)
				if i < 0 {
					t.Fatalf("%q: literal %q is not in it", text, p.text)
				}
				rest = rest[i+len(p.text):]
			}
		}
		s := NewScope(Vars{Host: "h", Input: "i"})
		bound := s.Bind(x)
		s.SetFile("f")
		s.Set([]byte(`{}`))
		if out, ok := bound.Append(nil); ok != (len(x.Fields()) == 0) {
			t.Fatalf("%q without fields: %q, %v", text, out, ok)
		}
	})
}
