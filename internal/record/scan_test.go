package record

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// cut runs NextValue over in, handed over size bytes at a time, and returns
// the objects and, in <>, the rubbish it found; "..." for an object begun and
// not ended.
func cut(in string, size int) []string {
	var (
		s   ScanState
		buf []byte
		out []string
	)
	for {
		start, end, ok, err := NextValue(buf, &s)
		switch {
		case ok:
			out = append(out, string(buf[start:end]))
			buf = buf[end:]
		case err != nil:
			out = append(out, "<"+string(buf[start:end])+">")
			buf = buf[end:]
		case in == "":
			if s.Pending() {
				out = append(out, "...")
			}
			return out
		default:
			n := min(size, len(in))
			buf = append(slices.Clone(buf[start:]), in[:n]...)
			in = in[n:]
		}
	}
}

func TestNextValue(t *testing.T) {
	f := func(in string, want ...string) {
		t.Helper()
		for size := 1; size <= len(in)+1; size++ {
			if got := cut(in, size); !slices.Equal(got, want) {
				t.Errorf("NextValue over %q, %d bytes at a time: %q, want %q", in, size, got, want)
				return
			}
		}
	}
	f("")
	f(" \r\n\t")
	f("{}", "{}")
	f("{}{}", "{}", "{}")
	f("\xef\xbb\xbf{} {}\n\n{}\t", "{}", "{}", "{}")
	f(`{"a":"}{\"]"}{"b":[{"c":[]}]}`, `{"a":"}{\"]"}`, `{"b":[{"c":[]}]}`)
	f("{\n  \"a\": 1\n}\n", "{\n  \"a\": 1\n}")
	f(`{"a":"\\"}{"b":"a long string that takes more than eight bytes\u0022"}`,
		`{"a":"\\"}`, `{"b":"a long string that takes more than eight bytes\u0022"}`)
	f(`{"a":`, "...")
	f(`{"a":"\`, "...")

	whole := func(in string, want ...string) { // where the rubbish's end shows is up to the refills
		t.Helper()
		if got := cut(in, len(in)+1); !slices.Equal(got, want) {
			t.Errorf("NextValue over %q: %q, want %q", in, got, want)
		}
		objects := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return s[0] == '<' })
		for size := 1; size <= len(in); size++ {
			got := slices.DeleteFunc(cut(in, size), func(s string) bool { return s[0] == '<' })
			if !slices.Equal(got, objects) {
				t.Errorf("NextValue over %q, %d bytes at a time: %q, want %q", in, size, got, objects)
			}
		}
	}
	whole("x\n{}", "<x\n>", "{}")
	whole("[1,{}] {}\n{}\n", "[1,{}]", "{}", "{}") // values, though no records: those behind them count
	whole("{} null {}\n-1.5e3{} truex\n{}", "{}", "null", "{}", "-1.5e3", "{}", "<truex\n>", "{}")
	whole("{} , {}\n{}", "{}", "<, {}\n>", "{}")
	whole("}\n\"{\"\nnil\n{}", "<}\n>", "<\"{\"\n>", "<nil\n>", "{}")
	whole("{\"a\":\"b\n{\"c\":1}", "<{\"a\":\"b\n>", "{\"c\":1}")
	whole("{\"a\":\"b\\\n{}", "<{\"a\":\"b\\\n>", "{}")
	whole("rubbish without end", "<rubbish without end>")
	whole("{}\xef\xbb\xbf{}\n{}", "{}", "<\xef\xbb\xbf{}\n>", "{}")
}

func TestNextValueSaysWhere(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		var s ScanState
		_, _, _, err := NextValue([]byte(in), &s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NextValue(%q): %v, want %q", in, err, want)
		}
	}
	f("  x\n", "'x' at byte 2")
	f("\xff", "byte 0xff at byte 0")
	f("{\"a\":\"\n", "a newline inside a string at byte 6")
}

func TestDrop(t *testing.T) {
	var s ScanState
	head := []byte(`{"a":[1,"2`)
	if _, _, ok, err := NextValue(head, &s); ok || err != nil || !s.Pending() {
		t.Fatalf("an unfinished object: %v, %v", ok, err)
	}
	s.Drop(len(head))
	buf := []byte(`}"]} {"b":1}`)
	start, end, ok, err := NextValue(buf, &s)
	if got := fmt.Sprintf("%s %v %v", buf[start:end], ok, err); got != `}"]} true <nil>` {
		t.Errorf("after Drop: %s", got)
	}
	start, end, ok, err = NextValue(buf[end:], &s)
	if !ok || err != nil || end-start != len(`{"b":1}`) {
		t.Errorf("the value behind: %d, %d, %v, %v", start, end, ok, err)
	}
}
