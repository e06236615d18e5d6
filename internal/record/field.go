package record

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// fieldSet finds fields of JSON objects, all of them in one walk.
//
// A field is named by the top-level member of exactly that name, else, where
// the name has dots, by the nested member they lead to. Of members with equal
// names the last counts, as on the server.
//
// Shape: a tree of the names looked for. A name with a dot is in it twice, as a
// child of the root and as a path.
//
// Concurrency: not safe, scan writes what it found into the tree.
type fieldSet struct {
	root    node
	list    []field
	scratch []byte // an unescaped member name
}

// field is where scan leaves the value of one field.
type field struct {
	name  string
	exact *node
	path  *node // nil without a dot
}

// node is a member name that is looked for in one object.
type node struct {
	name string
	raw  []byte // of the last scan; nil: none
	kids []*node
	lens uint64 // bit n: a child's name has n bytes, modulo 64
}

// add returns the index of the field called name.
func (s *fieldSet) add(name string) int {
	for i := range s.list {
		if s.list[i].name == name {
			return i
		}
	}
	f := field{name: name, exact: s.root.child(name)}
	if strings.Contains(name, ".") {
		f.path = &s.root
		for part := range strings.SplitSeq(name, ".") {
			f.path = f.path.child(part)
		}
	}
	s.list = append(s.list, f)
	return len(s.list) - 1
}

func (n *node) child(name string) *node {
	for _, k := range n.kids {
		if k.name == name {
			return k
		}
	}
	k := &node{name: name}
	n.kids = append(n.kids, k)
	n.lens |= 1 << (len(name) & 63)
	return k
}

// scan looks for all fields in object, which must be valid JSON (ValidObject);
// in anything else what is found is unspecified.
//
// Allocates nothing once its scratch has the size of the longest escaped name.
func (s *fieldSet) scan(object []byte) { s.walk(&s.root, object) }

func (s *fieldSet) walk(n *node, object []byte) {
	for _, k := range n.kids {
		k.raw = nil
	}
	w := walkObject(object)
	for w.next() {
		name := w.name
		if w.escaped {
			s.scratch, _ = appendUnescaped(s.scratch[:0], name)
			name = s.scratch
		}
		if n.lens>>(len(name)&63)&1 == 0 {
			continue
		}
		for _, k := range n.kids {
			if string(name) == k.name {
				k.raw = w.value
				break
			}
		}
	}
	for _, k := range n.kids {
		if k.kids != nil {
			s.walk(k, k.raw)
		}
	}
}

// found returns the raw JSON of field i in the object scanned last, nil where
// there is none.
//
// Ownership: raw points into that object.
func (s *fieldSet) found(i int) (raw []byte) {
	f := &s.list[i]
	if f.exact.raw != nil || f.path == nil {
		return f.exact.raw
	}
	return f.path.raw
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

// AppendText appends the text of a raw JSON value: a string's
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
