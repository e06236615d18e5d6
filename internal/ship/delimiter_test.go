package ship

import "testing"

func TestUnescape(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		got, err := unescape(in)
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	bad := func(in string) {
		t.Helper()
		if got, err := unescape(in); err == nil {
			t.Errorf("%q: %q, want an error", in, got)
		}
	}
	f("", "")
	f("::", "::")
	f(`\t`, "\t")
	f(`a\n\r\0\x1f\\b`, "a\n\r\x00\x1f\\b")
	f("ä", "ä")
	bad(`\`)
	bad(`\q`)
	bad(`\x1`)
	bad(`\xzz`)
}
