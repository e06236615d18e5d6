package record

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The agent's own variables, which templates name as they name fields. They
// are the operator's, not the sender's: no payload can change what they say.
const (
	VarHost     = "host"      // name of the machine
	VarInput    = "input"     // name of the input in the config file
	VarFile     = "file"      // path of the file a record is from
	VarFileName = "file_name" // its last element
)

// Template is a text with fields of the record in it.
//
// Shape: literal text and {{ .name }}; nothing else of Go's templates is
// taken. A name is host, input, file or file_name, which are the agent's own
// variables, else a field of the payload: {{ .tenant }}, {{ .user.id }}. Parts
// between dots are letters, digits, _, - and @. {{ ."any name" }} in double
// quotes, with Go's escapes, is always a field of the payload, so that
// {{ ."host" }} is the payload's own host.
//
// Concurrency: safe, it never changes.
type Template struct {
	text  string
	parts []part
}

type partKind uint8

const (
	partLiteral partKind = iota
	partVar
	partField
)

type part struct {
	kind partKind
	text string // literal, or the name of the variable or field
}

// ParseTemplate reads a template.
//
// Errors: name the column, in characters from 1, what is wrong there and what
// is wanted.
func ParseTemplate(text string) (*Template, error) {
	t := &Template{text: text}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("template %q: is not valid UTF-8", text)
	}
	for rest := text; rest != ""; {
		literal, after, found := strings.Cut(rest, "{{")
		if i := strings.Index(literal, "}}"); i >= 0 {
			return nil, t.fault(len(text)-len(rest)+i, "}} without a {{ before it")
		}
		if literal != "" {
			t.parts = append(t.parts, part{partLiteral, literal})
		}
		if !found {
			break
		}
		p, n, err := t.variable(len(text) - len(after))
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, p)
		rest = text[n:]
	}
	return t, nil
}

// variable reads what is between {{ and }}, from byte i on, and returns the
// index after it.
func (t *Template) variable(i int) (p part, end int, err error) {
	open, text := i-2, t.text
	space := func() {
		for i < len(text) && (text[i] == ' ' || text[i] == '\t') {
			i++
		}
	}
	space()
	if i == len(text) || text[i] != '.' {
		return p, 0, t.fault(i, "a field is wanted here, like {{ .tenant }}")
	}
	i++
	if i < len(text) && text[i] == '"' {
		quoted, err := strconv.QuotedPrefix(text[i:])
		if err != nil {
			return p, 0, t.fault(i, `a closing " is wanted for this name`)
		}
		name, err := strconv.Unquote(quoted)
		if err != nil {
			return p, 0, t.fault(i, "this name's escapes cannot be read")
		}
		p, i = part{partField, name}, i+len(quoted)
	} else {
		from := i
		for i < len(text) {
			r, n := utf8.DecodeRuneInString(text[i:])
			dot := r == '.' && i > from && text[i-1] != '.'
			if !dot && r != '_' && r != '-' && r != '@' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
				break
			}
			i += n
		}
		name := text[from:i]
		if name == "" || strings.HasSuffix(name, ".") {
			return p, 0, t.fault(i, "a name is wanted here: letters, digits, _, - and @, or any in double quotes")
		}
		p = part{partField, name}
		if isVar(name) {
			p.kind = partVar
		}
	}
	space()
	switch {
	case strings.HasPrefix(text[i:], "}}"):
		return p, i + 2, nil
	case i == len(text) || !strings.Contains(text[i:], "}}"):
		return p, 0, t.fault(open, "this {{ has no }}")
	}
	return p, 0, t.fault(i, "}} is wanted here: only a name may be in a {{ }}, no function and no pipe")
}

// fault is an error at byte i.
func (t *Template) fault(i int, what string) error {
	return fmt.Errorf("template %q, column %d: %s", t.text, utf8.RuneCountInString(t.text[:i])+1, what)
}

func isVar(name string) bool {
	return name == VarHost || name == VarInput || name == VarFile || name == VarFileName
}

// String returns what ParseTemplate was given.
func (t *Template) String() string { return t.text }

// Constant says that there is no variable and no field in t.
func (t *Template) Constant() bool {
	return len(t.parts) == 0 || len(t.parts) == 1 && t.parts[0].kind == partLiteral
}

// Prefix is the literal text t begins with.
func (t *Template) Prefix() string {
	if len(t.parts) > 0 && t.parts[0].kind == partLiteral {
		return t.parts[0].text
	}
	return ""
}

// Literals returns the literal pieces of t.
func (t *Template) Literals() []string { return t.named(partLiteral) }

// Fields returns the names of the payload's fields in t.
func (t *Template) Fields() []string { return t.named(partField) }

// Vars returns the agent's own variables in t.
func (t *Template) Vars() []string { return t.named(partVar) }

func (t *Template) named(kind partKind) (names []string) {
	for _, p := range t.parts {
		if p.kind == kind {
			names = append(names, p.text)
		}
	}
	return names
}
