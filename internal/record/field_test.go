package record

import "testing"

func TestField(t *testing.T) {
	f := func(name, object, want string) {
		t.Helper()
		raw, ok := NewField(name).Find([]byte(object))
		if !ok || string(raw) != want {
			t.Errorf("field %q of %s = %s, %v; want %s", name, object, raw, ok, want)
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
		if raw, ok := NewField(name).Find([]byte(object)); ok || raw != nil {
			t.Errorf("field %q of %s = %s, %v; want none", name, object, raw, ok)
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

func TestFieldReused(t *testing.T) {
	f := NewField("a.b")
	if _, ok := f.Find([]byte(`{"a":{"b":1}}`)); !ok {
		t.Error("not found in the first object")
	}
	if raw, ok := f.Find([]byte(`{"x":1}`)); ok {
		t.Errorf("found %s, left over from the object before", raw)
	}
	if f.Name() != "a.b" {
		t.Errorf("Name() = %q", f.Name())
	}
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
