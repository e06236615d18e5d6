package ingest

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Reasons a Router rejects a record for; those of package record come on top.
const (
	ReasonNoRoute         = "no_route"          // no route's match holds for it
	ReasonTopicNotAllowed = "topic_not_allowed" // its topic's name is none, or not in allow_topics
)

// Route says what becomes of records: their topic and how they are encoded.
type Route struct {
	ID   int32  // its batches carry it: index into the run's table of routes
	Name string // as in the config file, for words
	// Topic is the topic's name, or a template for it (record.ParseTemplate). A
	// record of which no name can be made is rejected. "": records bring their
	// own (AddRecord, dead letters), others are rejected.
	Topic string
	// AllowTopics bounds what a template may make and what records bring along:
	// names, with * for any part of one. Topic's own name is always allowed, where
	// it is constant. Without any, a template is bounded by its first literal text.
	AllowTopics []string
	Match       *Match // nil: the route takes all records
	Encoder     record.EncoderConfig
}

// Match is one condition on a record.
//
// Field is a field of the payload as in key_field (a top-level member of that
// name, else the path its dots lead to), or one of the agent's own variables:
// @host, @input, @file or @file_name. What is compared is the text: "200" is
// equal to the number 200, "true" to true. A field that is missing or null, an
// object or an array is equal to nothing. A payload that is not a JSON object
// has no fields.
//
// Exactly one of the others is set.
type Match struct {
	Field  string
	Equals *string
	In     []string
	Regex  *regexp.Regexp // found anywhere in the text, unless it says ^ and $
	Exists *bool          // whether the field is there and not null
}

// agentField is the prefix of a Match's Field that names an agent's variable.
const agentField = "@"

// String returns the condition in words.
func (m *Match) String() string {
	name := "field " + strconv.Quote(m.Field)
	switch {
	case m.Equals != nil:
		return name + " equals " + strconv.Quote(*m.Equals)
	case m.In != nil:
		quoted := make([]string, len(m.In))
		for i, s := range m.In {
			quoted[i] = strconv.Quote(s)
		}
		return name + " in [" + strings.Join(quoted, ", ") + "]"
	case m.Regex != nil:
		return name + " matches /" + m.Regex.String() + "/"
	case m.Exists != nil && *m.Exists:
		return name + " exists"
	}
	return name + " does not exist"
}

func (m *Match) check() error {
	n := 0
	for _, given := range []bool{m.Equals != nil, m.In != nil, m.Regex != nil, m.Exists != nil} {
		if given {
			n++
		}
	}
	switch {
	case m.Field == "":
		return errors.New("match: name the field that is looked at: one of the payload's, or @host, @input, @file or @file_name")
	case n == 0:
		return fmt.Errorf("match: field %q: say what it is to be: equals, in, regex or exists", m.Field)
	case n > 1:
		return fmt.Errorf("match: field %q: give only one of equals, in, regex and exists", m.Field)
	case m.In != nil && len(m.In) == 0:
		return fmt.Errorf("match: field %q: in: the list is empty, so that no record matches", m.Field)
	}
	return nil
}

// matcher is a Match that looks through a Scope.
type matcher struct {
	*Match
	scope *record.Scope
	ref   record.Ref
	in    map[string]bool
}

func newMatcher(m *Match, scope *record.Scope) *matcher {
	if m == nil {
		return nil
	}
	c := &matcher{Match: m, scope: scope, in: map[string]bool{}}
	if name, ok := strings.CutPrefix(m.Field, agentField); ok {
		c.ref, _ = scope.Var(name)
	}
	if c.ref == 0 { // @timestamp and the like are the payload's
		c.ref = scope.Field(m.Field)
	}
	for _, s := range m.In {
		c.in[s] = true
	}
	return c
}

// holds says whether the record the scope is set to matches. It allocates
// nothing.
func (m *matcher) holds() bool {
	text, kind := m.scope.Get(m.ref)
	switch {
	case m.Exists != nil:
		return *m.Exists == (kind != record.Missing)
	case kind != record.Scalar:
		return false
	case m.Equals != nil:
		return string(text) == *m.Equals
	case m.Regex != nil:
		return m.Regex.Match(text)
	}
	return m.in[string(text)]
}

// CheckRoute returns what is wrong with a route, nil when a Router will take it
// and it can be of use.
//
// Errors: name the setting as the config file does, and the remedy.
func CheckRoute(c Route) error {
	if c.Topic == "" && len(c.AllowTopics) == 0 {
		return errors.New("topic: name the topic, or allow_topics for records that bring their own")
	}
	_, _, err := compile(c, record.NewScope(record.Vars{}))
	return err
}

// compile checks a route and makes of it what it takes to run it.
func compile(c Route, scope *record.Scope) (topic *record.Text, enc *record.Encoder, err error) {
	t, err := record.ParseTemplate(c.Topic)
	if err != nil {
		return nil, nil, fmt.Errorf("topic: %w", err)
	}
	for _, p := range c.AllowTopics {
		if err := checkPattern(p); err != nil {
			return nil, nil, err
		}
	}
	if c.Topic != "" {
		if err := checkTopicTemplate(t, c.AllowTopics); err != nil {
			return nil, nil, fmt.Errorf("topic: %w", err)
		}
	}
	if len(t.Fields()) > 0 && (c.Encoder.Decode == record.DecodeBytes || c.Encoder.Decode == record.DecodeText) {
		return nil, nil, fmt.Errorf("topic: field %q is used, and decode is %v: a payload has fields only with decode: json", t.Fields()[0], c.Encoder.Decode)
	}
	if c.Match != nil {
		if err := c.Match.check(); err != nil {
			return nil, nil, err
		}
	}
	if enc, err = scope.NewEncoder(c.Encoder); err != nil {
		return nil, nil, err
	}
	return scope.Bind(t), enc, nil
}

// checkTopicTemplate returns why t can make no topic's name, or too many.
func checkTopicTemplate(t *record.Template, allow []string) error {
	if t.Constant() {
		return CheckTopic(t.Prefix())
	}
	length := 0
	for _, text := range t.Literals() {
		if c, bad := notOfTopic(text); bad {
			return fmt.Errorf("template %q: only letters, digits, '.', '_' and '-' may be in a topic's name, not %q", t, c)
		}
		length += len(text)
	}
	if length >= maxTopic {
		return fmt.Errorf("template %.20q…: its text alone has %d characters, a topic's name has at most %d", t, length, maxTopic)
	}
	for _, v := range t.Vars() {
		if v == record.VarFile {
			return fmt.Errorf("template %q: {{ .file }} is a whole path, which no topic's name can have: use {{ .file_name }}, its last element", t)
		}
	}
	switch {
	case len(t.Fields()) > 0 && t.Prefix() == "" && len(allow) == 0:
		return fmt.Errorf("template %q: whoever writes the records could name any topic: begin it with literal text, like logs-%s, or list allow_topics", t, t)
	case len(allow) > 0 && !reachable(t.Prefix(), allow):
		return fmt.Errorf("template %q: allow_topics allows no name that begins with %q", t, t.Prefix())
	}
	return nil
}

// reachable says whether a name that begins with prefix can be allowed.
func reachable(prefix string, allow []string) bool {
	for _, p := range allow {
		head, _, star := strings.Cut(p, "*")
		if strings.HasPrefix(head, prefix) || star && strings.HasPrefix(prefix, head) {
			return true
		}
	}
	return false
}
