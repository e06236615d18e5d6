package sandbox

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// scanAll feeds src to a scanner step bytes at a time, as stream.scan does,
// and returns the values found, how many were faulty but in step, and the error.
func scanAll(src []byte, step int) (values []string, soft int, inValue bool, err error) {
	scan := newScanner()
	var buf []byte
	for {
		n := min(step, len(src))
		buf, src = append(buf, src[:n]...), src[n:]
		for more := true; more; {
			from, status := scan.next(buf, len(src) == 0)
			switch status {
			case scanValue:
				values = append(values, string(buf[from:scan.pos]))
				if scan.soft != nil {
					soft++
				}
			case scanBroken:
				return values, soft, scan.inValue, scan.err
			case scanEOF:
				return values, soft, false, nil
			case scanMore:
				keep := scan.start
				if keep < 0 {
					keep = scan.pos
				}
				if scan.begun && keep > 0 {
					buf = append([]byte(nil), buf[keep:]...)
					scan.rebase(keep)
				}
				more = false
			}
		}
	}
}

func TestScan(t *testing.T) {
	f := func(src string, values int, inValue bool, text string) {
		t.Helper()
		for _, step := range []int{1, 2, 7, 1 << 20} {
			got, _, in, err := scanAll([]byte(src), step)
			if len(got) != values || in != inValue || (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
				t.Errorf("%q by %d: %d values, in value %v, %v; want %d, %v, %q", src, step, len(got), in, err, values, inValue, text)
			}
		}
	}
	f(``, 0, false, "")
	f(" \n", 0, false, "")
	f(`{}{}`, 2, false, "")
	f("\xef\xbb\xbf{}", 1, false, "")
	f("{}\xef\xbb\xbf", 1, false, "Unexpected character")
	f(`1 2`, 2, false, "")
	f(`1{}`, 0, false, "Expected space separating root-level values")
	f(`null{}true`, 3, false, "")
	f(`"a""b"`, 2, false, "")
	f("\"a\nb\"", 0, true, "Illegal unquoted character ((CTRL-CHAR, code 10))")
	f(`{} nul {}`, 1, false, "Unrecognized token 'nul'")
	f(`{} NaN {}`, 1, false, "Non-standard token 'NaN'")
	f(`{"a":NaN} {"a":-Infinity}`, 2, false, "")
	f(`{"a":01}`, 0, true, "Leading zeroes not allowed")
	f(`{"a":1.}`, 0, true, "Decimal point not followed by a digit")
	f(`{"a":1e}`, 0, true, "Exponent indicator not followed by a digit")
	f(`{"a":+1}`, 0, true, "Unexpected character ('+' (code 43))")
	f(`{"a":'b'}`, 0, true, "Unexpected character (''' (code 39))")
	f(`{a:1}`, 0, true, "was expecting double-quote to start field name")
	f(`{"a":1,}`, 0, true, "was expecting double-quote to start field name")
	f(`{"a" 1}`, 0, true, "was expecting a colon")
	f(`{"a":1 "b":2}`, 0, true, "was expecting comma to separate Object entries")
	f(`[1 2]`, 0, true, "was expecting comma to separate Array entries")
	f(`[1,]`, 0, true, "Unexpected close marker ']'")
	f(`{"a":[1}`, 0, true, "Unexpected close marker '}': expected ']'")
	f(`{"a":"\x"}`, 0, true, "Unrecognized character escape 'x' (code 120)")
	f(`{"a":"\u12g4"}`, 0, true, "expected a hex-digit")
	f("{\"a\":\"\xc3\"}", 0, true, "Invalid UTF-8 middle byte 0x22")
	f("{\"a\":\"\xc0\x80\"}", 0, true, "Invalid UTF-8 start byte 0xc0")
	f(`{"a":1`, 0, true, "Unexpected end-of-input: expected close marker for Object")
	f(`{"a":"b`, 0, true, "Unexpected end-of-input: was expecting closing quote")
	f(`{"a":tru`, 0, true, "Unexpected end-of-input")
	f(`// x`, 0, false, "Unexpected character ('/' (code 47))")
	f(`}`, 0, false, "Unexpected close marker '}'")
}

// FuzzScan checks that the scanner never panics, sees the same in any cut of
// the bytes, and takes exactly the values that encoding/json takes, where the
// two agree on what JSON is: valid UTF-8, depth up to 1000, no NaN.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{"value":{"type":"STRING","data":"x"}}`, `[1,2.5e-3,{"a":null}]`, `{"a":NaN}`, `"\ud800\u0041"`, `-0.0`, `{}{}`, "\xef\xbb\xbf1",
		`{"a":01}`, `nulll`, `tru`, `{"a":"` + "\x01" + `"}`, strings.Repeat("[", 1001), `1e5 "x"`, `{"a":1,"a":2}`,
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, src []byte, step int) {
		if step < 1 {
			step = 1
		}
		values, soft, _, err := scanAll(src, len(src)+1)
		again, soft2, _, err2 := scanAll(src, step)
		if len(values) != len(again) || soft != soft2 || (err == nil) != (err2 == nil) {
			t.Fatalf("whole: %q %v, by %d: %q %v", values, err, step, again, err2)
		}
		for _, v := range values {
			var r produceRecord
			if bindRecord(&r, []byte(v)) == nil {
				_, _, _ = appendData(nil, &r.key)
				_, _, _ = appendData(nil, &r.value)
			}
			if soft == 0 && !json.Valid([]byte(v)) {
				t.Fatalf("took %q, which is not JSON", v)
			}
			if soft == 0 {
				if out := appendJackson(nil, []byte(v)); !json.Valid(out) {
					t.Fatalf("wrote %q as %q, which is not JSON", v, out)
				}
			}
		}
		one := err == nil && len(values) == 1 && soft == 0
		plain := utf8.Valid(src) && !bytes.HasPrefix(src, []byte("\xef\xbb\xbf")) && bytes.Count(src, []byte("["))+bytes.Count(src, []byte("{")) <= maxDepth && len(src) < maxNumberLen
		if plain && json.Valid(src) != one {
			t.Fatalf("%q: json.Valid %v, here %q %v (soft %d)", src, json.Valid(src), values, err, soft)
		}
	})
}
