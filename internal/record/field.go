package record

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Field names one member of a JSON object: the top-level member of exactly
// that name, else, where the name has dots, the nested member they lead to.
// Of members with equal names the last counts, as on the server.
//
// Concurrency: not safe, Find uses scratch of the Field.
type Field struct {
	name    string
	path    []string // the parts between dots; nil without a dot
	scratch []byte   // an unescaped member name

	// What the walk under way has seen: values of the member called name, and
	// of the one called path[0].
	exact, first []byte
}

// NewField returns the Field called name.
func NewField(name string) *Field {
	f := &Field{name: name}
	if strings.Contains(name, ".") {
		f.path = strings.Split(name, ".")
	}
	return f
}

// Name returns what NewField was given.
func (f *Field) Name() string { return f.name }

// Find returns the raw JSON of the field in object, and false where there is
// none. object must be valid JSON (ValidObject); in anything else what is
// found is unspecified.
//
// Ownership: raw points into object. Allocates nothing once its scratch has
// the size of the longest escaped name.
func (f *Field) Find(object []byte) (raw []byte, ok bool) {
	f.exact, f.first = nil, nil
	w := walkObject(object)
	for w.next() {
		f.see(&w)
	}
	return f.found()
}

// findBoth is Find for two fields in one walk; either may be nil. Each one's
// found then has the result.
func findBoth(object []byte, a, b *Field) {
	if a == nil || b == nil {
		if a == nil {
			a = b
		}
		a.Find(object)
		return
	}
	a.exact, a.first, b.exact, b.first = nil, nil, nil, nil
	w := walkObject(object)
	for w.next() {
		a.see(&w)
		b.see(&w)
	}
}

// see remembers a top-level member that is the field, or leads to it.
func (f *Field) see(w *walker) {
	if f.same(w, f.name) {
		f.exact = w.value
	} else if len(f.path) > 0 && f.same(w, f.path[0]) {
		f.first = w.value
	}
}

// found ends a walk; a nil Field is never found.
func (f *Field) found() (raw []byte, ok bool) {
	if f == nil {
		return nil, false
	}
	if f.exact != nil || len(f.path) == 0 || f.first == nil {
		return f.exact, f.exact != nil
	}
	raw = f.first
	for _, name := range f.path[1:] {
		var inner []byte
		w := walkObject(raw)
		for w.next() {
			if f.same(&w, name) {
				inner = w.value
			}
		}
		if raw = inner; raw == nil {
			return nil, false
		}
	}
	return raw, true
}

// same compares w's member name with a plain one.
func (f *Field) same(w *walker, name string) bool {
	if !w.escaped {
		return string(w.name) == name
	}
	f.scratch, _ = appendUnescaped(f.scratch[:0], w.name)
	return string(f.scratch) == name
}

// walker goes over the members of a valid JSON object.
type walker struct {
	b     []byte
	i     int    // after the last member's value, or after the opening brace
	name  []byte // between the quotes, still escaped
	value []byte // raw, no white space around it

	escaped bool // name holds an escape
	start   int  // index of this member's name's opening quote
	colon   int  // index after the colon of this member
}

// walkObject starts a walk; over anything but an object it ends at once.
func walkObject(b []byte) walker {
	w := walker{b: b, i: skipSpace(b, 0)}
	if w.i < len(b) && b[w.i] == '{' {
		w.i++
	} else {
		w.i = len(b)
	}
	return w
}

// next steps to the next member and reports whether there is one. On invalid
// JSON it stops somewhere, but inside b.
func (w *walker) next() bool {
	b := w.b
	i := skipSpace(b, w.i)
	if i < len(b) && b[i] == ',' {
		i = skipSpace(b, i+1)
	}
	if i >= len(b) || b[i] != '"' {
		w.i = i
		return false
	}
	end, escaped := skipString(b, i+1)
	if w.escaped = escaped; end > len(b) {
		w.i = len(b)
		return false
	}
	w.name, w.start = b[i+1:end-1], i
	i = skipSpace(b, end)
	if i >= len(b) || b[i] != ':' {
		w.i = len(b)
		return false
	}
	w.colon = i + 1
	i = skipSpace(b, i+1)
	end = skipValue(b, i)
	if end > len(b) || end == i {
		w.i = len(b)
		return false
	}
	w.value, w.i = b[i:end], end
	return true
}

// skipString returns the index after the closing quote of the string whose
// opening quote is before i, len(b)+1 where it is not closed, and whether it
// holds an escape.
func skipString(b []byte, i int) (end int, escaped bool) {
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		q, e := x^'"'*ones, x^'\\'*ones
		m := ((q - ones) | (e - ones)) & ^x & highs
		if m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m)>>3 + 1
		if b[i-1] == '"' {
			return i, escaped
		}
		escaped = true
		i++
	}
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1, escaped
		case '\\':
			escaped = true
			i++
		}
	}
	return len(b) + 1, escaped
}

// skipValue returns the index after the value that starts at i, len(b)+1 where
// it has no end.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return len(b) + 1
	}
	switch b[i] {
	case '"':
		end, _ := skipString(b, i+1)
		return end
	case '{', '[':
	default:
		for i < len(b) && b[i] > ' ' && b[i] != ',' && b[i] != '}' && b[i] != ']' {
			i++
		}
		return i
	}
	for depth := 0; i < len(b); {
		switch b[i] {
		case '"':
			if i, _ = skipString(b, i+1); i > len(b) {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return len(b) + 1
}

// AppendText appends the text of a raw JSON value found by Find: a string's
// characters, anything else as it is written.
func AppendText(dst, raw []byte) []byte {
	if len(raw) >= 2 && raw[0] == '"' {
		dst, _ = appendUnescaped(dst, raw[1:len(raw)-1])
		return dst
	}
	return append(dst, raw...)
}

// ValidObject reports whether line is one JSON object the server would parse
// inside a record: syntax, UTF-8 and depth.
func ValidObject(line []byte) bool {
	i := skipSpace(line, 0)
	if i == len(line) || line[i] != '{' {
		return false
	}
	f, _ := checkJSON(line, maxValueDepth)
	return f == faultNone
}

// appendUnescaped appends the characters of the inside of a valid JSON string.
// exact is false where it held half a surrogate pair, which has no UTF-8 form
// and becomes U+FFFD.
func appendUnescaped(dst, s []byte) (out []byte, exact bool) {
	exact = true
	for {
		n := bytes.IndexByte(s, '\\')
		if n < 0 || n+1 >= len(s) {
			return append(dst, s...), exact
		}
		dst = append(dst, s[:n]...)
		c := s[n+1]
		s = s[n+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(s)
			s = s[min(4, len(s)):]
			if utf16.IsSurrogate(r) {
				pair := rune(utf8.RuneError)
				if len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
					pair = utf16.DecodeRune(r, hex4(s[2:]))
				}
				if pair == utf8.RuneError {
					exact = false
				} else {
					s = s[6:]
				}
				r = pair
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
	}
}

// hex4 reads the four hex digits s starts with.
func hex4(s []byte) rune {
	var r rune
	for _, c := range s[:min(4, len(s))] {
		if c |= 0x20; c >= 'a' {
			c -= 'a' - 10
		} else {
			c &= 15
		}
		r = r<<4 | rune(c&15)
	}
	return r
}
