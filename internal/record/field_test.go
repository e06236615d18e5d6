package record

import "testing"

// find looks for one field alone.
func find(name, object string) []byte {
	var s fieldSet
	i := s.add(name)
	s.scan([]byte(object))
	return s.found(i)
}

func TestField(t *testing.T) {
	f := func(name, object, want string) {
		t.Helper()
		if raw := find(name, object); string(raw) != want {
			t.Errorf("field %q of %s = %s; want %s", name, object, raw, want)
		}
	}
	f("a", `{"a":1}`, `1`)
	f("a", " {\n\"a\" : \"x\" , \"b\" : 2 } ", `"x"`)
	f("b", `{"a":"\"b\":1","b":{"c":"}"}}`, `{"c":"}"}`)
	f("a", `{"a":1,"a":[2,{"a":3}]}`, `[2,{"a":3}]`)
	f("a", `{"x":{"a":1},"a":2}`, `2`)
	f("", `{"":1}`, `1`)
	f("é", `{"\u00E9":1}`, `1`)
	f("😀", `{"\ud83d\uDE00":1}`, `1`)
	f("a\"b\\c/", `{"a\"b\\c\/":1}`, `1`)
	f(`\n`, `{"\\n":1,"\n":2}`, `1`)
	f("\n", `{"\\n":1,"\n":2}`, `2`)
	f("a.b", `{"a":{"b":1}}`, `1`)
	f("a.b", `{"a":{"b":1},"a.b":2}`, `2`)
	f("a.b", `{"a.b":2,"a":{"b":1}}`, `2`)
	f("a.b.c.d", `{"a":{"b":{"c":{"d":null}}}}`, `null`)
	f("a.b", `{"a":1,"a":{"b":1,"b":2}}`, `2`)
	f(".", `{"":{"":3}}`, `3`)
	f("long_member_name_of_many_bytes", `{"long_member_name_of_many_byte":0,"long_member_name_of_many_bytes":"long value of many bytes \\"}`,
		`"long value of many bytes \\"`)

	none := func(name, object string) {
		t.Helper()
		if raw := find(name, object); raw != nil {
			t.Errorf("field %q of %s = %s; want none", name, object, raw)
		}
	}
	none("a", `{}`)
	none("a", `{"A":1,"aa":2,"b":"a"}`)
	none("a", `[{"a":1}]`)
	none("a", `"a"`)
	none("a.b", `{"a":{"c":1},"b":2}`)
	none("a.b", `{"a":{"b":1},"a":null}`)
	none("a.b", `{"a":"b"}`)
	none("a.b.c", `{"a":{"b.c":1}}`)
	none("a", ``)
}

// Several fields in one walk, some under the same member, and again in other
// objects: nothing is left over from the one before.
func TestFieldSet(t *testing.T) {
	var s fieldSet
	names := []string{"a", "a.b", "a.c.d", "a.c", "x.y", "long.path.to.a.leaf"}
	for i, name := range names {
		if got := s.add(name); got != i {
			t.Errorf("add(%q) = %d, want %d", name, got, i)
		}
	}
	if got := s.add("a.c"); got != 3 {
		t.Errorf("a name added twice is %d, want 3", got)
	}
	f := func(object string, want ...string) {
		t.Helper()
		s.scan([]byte(object))
		for i, name := range names {
			if raw := s.found(i); string(raw) != want[i] {
				t.Errorf("field %q of %s = %q, want %q", name, object, raw, want[i])
			}
		}
	}
	f(`{"a":{"b":1,"c":{"d":2}},"x":{"y":3}}`, `{"b":1,"c":{"d":2}}`, `1`, `2`, `{"d":2}`, `3`, ``)
	f(`{"x":1}`, ``, ``, ``, ``, ``, ``)
	f(`{"a":{"b":1,"c":{"d":2}},"a":{"c":[]}}`, `{"c":[]}`, ``, ``, `[]`, ``, ``)
	f(`{"a":{"c":{"d":1},"c":null}}`, `{"c":{"d":1},"c":null}`, ``, ``, `null`, ``, ``)
	f(`{"a.c":1,"a":{"c":{"d":2}},"x.y":null,"x":{"y":2}}`, `{"c":{"d":2}}`, ``, `2`, `1`, `null`, ``)
	f(`{"long":{"path":{"to":{"a":{"leaf":"!"}}}},"a":"s"}`, `"s"`, ``, ``, ``, ``, `"!"`)
	f(`[{"a":1}]`, ``, ``, ``, ``, ``, ``)
	f(``, ``, ``, ``, ``, ``, ``)
}

func TestAppendText(t *testing.T) {
	f := func(raw, want string) {
		t.Helper()
		if got := AppendText([]byte("x"), []byte(raw)); string(got) != "x"+want {
			t.Errorf("AppendText(%s) = %q, want %q", raw, got, want)
		}
	}
	f(`"a"`, "a")
	f(`""`, "")
	f(`"\b\f\n\r\t\"\\\/\u0041\u00e9\ud83d\ude00"`, "\b\f\n\r\t\"\\/Aé😀")
	f(`"\ud800"`, "\ufffd")
	f(`"\ud800\ud83d\ude00"`, "\ufffd😀")
	f(`"\ud800x\udc00"`, "\ufffdx\ufffd")
	f(`1.50`, "1.50")
	f(`{"a":1}`, `{"a":1}`)
}

func TestValidObject(t *testing.T) {
	f := func(line string, want bool) {
		t.Helper()
		if got := ValidObject([]byte(line)); got != want {
			t.Errorf("ValidObject(%q) = %v", line, got)
		}
	}
	f(`{}`, true)
	f(` {"a":[1]} `, true)
	f(``, false)
	f(`[]`, false)
	f(`{"a":1`, false)
	f("{\"a\":\"\xff\"}", false)
}
