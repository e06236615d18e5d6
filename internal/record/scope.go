package record

import (
	"path"
	"strconv"
)

// Vars are the agent's own variables that stay the same for a Scope; "" is one
// that is not known.
type Vars struct {
	Host  string
	Input string
}

// Scope is what rules can see of one record: the fields of its payload, and
// the agent's own variables. All rules that look at the same records share
// one, so that a payload is parsed at most once, and only if one is looked at.
//
// Concurrency: not safe.
type Scope struct {
	host   []byte
	input  []byte
	file   []byte
	base   []byte // last element of file
	fields fieldSet
	text   []byte // a field's text without its escapes

	payload []byte
	state   scopeState
	fault   fault // of payload, and where, with stateBroken
	at      int
}

type scopeState uint8

const (
	stateUnread scopeState = iota
	stateObject
	stateOther  // no JSON object, maybe JSON
	stateBroken // begins like an object, and is no JSON
)

// Ref names one field or variable of a Scope. The zero Ref names none.
type Ref int32

// Fields have the refs from 1 on, variables these.
const (
	refHost Ref = -1 - iota
	refInput
	refFile
	refFileName
)

// Kind is what a field holds.
type Kind uint8

// The kinds of a field.
const (
	Missing  Kind = iota // there is none, or it is null
	Scalar               // a string, number, true or false; variables are
	Compound             // an object or an array
)

// NewScope returns a Scope without a payload.
func NewScope(vars Vars) *Scope {
	return &Scope{host: []byte(vars.Host), input: []byte(vars.Input)}
}

// SetFile says which file the next records are from; "" is none.
func (s *Scope) SetFile(file string) {
	if string(s.file) == file {
		return
	}
	s.file = append(s.file[:0], file...)
	s.base = s.base[:0]
	if file != "" {
		s.base = append(s.base, path.Base(file)...)
	}
}

// Set says which payload is looked at from now on. It is not parsed before a
// field is asked for.
//
// Ownership: payload must stay unchanged until the next Set.
func (s *Scope) Set(payload []byte) { s.payload, s.state = payload, stateUnread }

// setEmpty makes the payload one without fields.
func (s *Scope) setEmpty() {
	s.fields.scan(nil)
	s.payload, s.state = nil, stateObject
}

// Field returns the Ref of a payload's field: the top-level member of exactly
// that name, else, where name has dots, the nested member they lead to. Of
// members with equal names the last counts, as on the server.
func (s *Scope) Field(name string) Ref { return Ref(s.fields.add(name) + 1) }

// Var returns the Ref of one of the agent's own variables (VarHost and so on).
func (s *Scope) Var(name string) (r Ref, known bool) {
	switch name {
	case VarHost:
		r = refHost
	case VarInput:
		r = refInput
	case VarFile:
		r = refFile
	case VarFileName:
		r = refFileName
	}
	return r, r != 0
}

// Get returns the text of a field or variable: a string's characters, anything
// else as it is written. A payload that is no JSON object has no fields.
//
// Ownership: text is only valid until the next Get, SetFile or Set.
// Allocates nothing once its scratch has the size of the longest text with
// escapes.
func (s *Scope) Get(r Ref) (text []byte, kind Kind) {
	if r < 0 {
		if text = s.variable(r); len(text) == 0 {
			return nil, Missing
		}
		return text, Scalar
	}
	if !s.object() {
		return nil, Missing
	}
	raw := s.raw(r)
	switch {
	case len(raw) == 0 || raw[0] == 'n':
		return nil, Missing
	case raw[0] == '{' || raw[0] == '[':
		return raw, Compound
	case raw[0] != '"':
		return raw, Scalar
	}
	if raw = raw[1 : len(raw)-1]; !escaped(raw) {
		return raw, Scalar
	}
	s.text, _ = appendUnescaped(s.text[:0], raw)
	return s.text, Scalar
}

func escaped(s []byte) bool {
	for _, c := range s {
		if c == '\\' {
			return true
		}
	}
	return false
}

func (s *Scope) variable(r Ref) []byte {
	switch r {
	case refHost:
		return s.host
	case refInput:
		return s.input
	case refFile:
		return s.file
	}
	return s.base
}

// raw returns a field as it is written, nil without one. The payload must have
// been found to be an object.
func (s *Scope) raw(r Ref) []byte { return s.fields.found(int(r) - 1) }

// object parses the payload, unless that was done, and says whether it is a
// JSON object the server would take.
func (s *Scope) object() bool {
	if s.state == stateUnread {
		s.parse()
	}
	return s.state == stateObject
}

func (s *Scope) parse() {
	if i := skipSpace(s.payload, 0); i == len(s.payload) || s.payload[i] != '{' {
		s.state = stateOther
		return
	}
	if s.fault, s.at = checkJSON(s.payload, maxValueDepth); s.fault != faultNone {
		s.state = stateBroken
		return
	}
	s.state = stateObject
	s.fields.scan(s.payload)
}

// Text is a Template that can be filled in with what its Scope sees.
type Text struct {
	scope  *Scope
	parts  []textPart
	fields bool // of the payload are in it
}

type textPart struct {
	literal string
	ref     Ref // 0: literal
	name    string
}

// Bind returns t for s. Variables that stay the same become part of the
// literal text.
func (s *Scope) Bind(t *Template) *Text {
	x := &Text{scope: s}
	for _, p := range t.parts {
		part := textPart{name: p.text}
		switch p.kind {
		case partLiteral:
			part.literal = p.text
		case partField:
			part.ref = s.Field(p.text)
			x.fields = true
		case partVar:
			part.ref, _ = s.Var(p.text)
			if value := s.variable(part.ref); (part.ref == refHost || part.ref == refInput) && len(value) > 0 {
				part = textPart{literal: string(value)}
			}
		}
		if n := len(x.parts); part.ref == 0 && n > 0 && x.parts[n-1].ref == 0 {
			x.parts[n-1].literal += part.literal
			continue
		}
		x.parts = append(x.parts, part)
	}
	return x
}

// Constant returns the text where it is the same for all records.
func (x *Text) Constant() (text string, ok bool) {
	switch {
	case len(x.parts) == 0:
		return "", true
	case len(x.parts) == 1 && x.parts[0].ref == 0:
		return x.parts[0].literal, true
	}
	return "", false
}

// OfPayload says that a field of the payload is in the text.
func (x *Text) OfPayload() bool { return x.fields }

// Append appends the text for the record the scope is set to. ok is false, and
// dst as it was, where a field or variable in it is missing or null; an object
// or array goes in as it is written.
func (x *Text) Append(dst []byte) (out []byte, ok bool) {
	out = dst
	for i := range x.parts {
		p := &x.parts[i]
		if p.ref == 0 {
			out = append(out, p.literal...)
			continue
		}
		text, kind := x.scope.Get(p.ref)
		if kind == Missing {
			return dst, false
		}
		out = append(out, text...)
	}
	return out, true
}

// AppendTopic appends the text as Append does, but takes only fields that can
// be part of a name: none that is missing, null, empty, an object or an array.
//
// Errors: *InvalidError with ReasonNoTopic, and dst as it was.
func (x *Text) AppendTopic(dst []byte) ([]byte, error) {
	out := dst
	for i := range x.parts {
		p := &x.parts[i]
		if p.ref == 0 {
			out = append(out, p.literal...)
			continue
		}
		text, kind := x.scope.Get(p.ref)
		if kind != Scalar || len(text) == 0 {
			return dst, x.scope.noTopic(p, kind)
		}
		out = append(out, text...)
	}
	return out, nil
}

// noTopic says why p gives no part of a topic's name.
func (s *Scope) noTopic(p *textPart, kind Kind) error {
	const remedy = ": give such records a route of their own, whose topic does without"
	name := strconv.Quote(p.name)
	switch {
	case p.ref < 0:
		return invalid(ReasonNoTopic, "the topic is made with the agent's variable "+name+", which this input does not have"+remedy)
	case s.state == stateOther:
		return invalid(ReasonNoTopic, "the topic is made with field "+name+", and the payload is not a JSON object"+remedy)
	case s.state == stateBroken:
		return invalid(ReasonNoTopic, "the topic is made with field "+name+", and the payload is "+s.fault.words(s.at)+remedy)
	case kind == Compound:
		return invalid(ReasonNoTopic, "the topic is made with field "+name+", which is an object or array: name a field in it")
	case kind == Scalar:
		return invalid(ReasonNoTopic, "the topic is made with field "+name+", which is empty"+remedy)
	case s.raw(p.ref) != nil:
		return invalid(ReasonNoTopic, "the topic is made with field "+name+", which is null"+remedy)
	}
	return invalid(ReasonNoTopic, "the topic is made with field "+name+", which the payload does not have"+remedy)
}

// words says what checkJSON found of a payload.
func (f fault) words(at int) string {
	switch f {
	case faultUTF8:
		return "not valid UTF-8, as JSON must be"
	case faultDepth:
		return "nested over " + strconv.Itoa(maxValueDepth) + " deep"
	}
	return "not valid JSON at byte " + strconv.Itoa(at)
}
