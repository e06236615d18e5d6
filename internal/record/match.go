package record

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Match is one condition on a record.
//
// Field is one of the payload's (see Scope.Field), or one of the agent's own
// variables: @host, @input, @file or @file_name. What is compared is its text:
// "200" is equal to the number 200, "true" to true. A field that is missing or
// null, an object or an array is equal to nothing. A payload that is not a JSON
// object has no fields.
//
// Exactly one of the others is set.
type Match struct {
	Field  string
	Equals *string
	In     []string
	Regex  *regexp.Regexp // found anywhere in the text, unless it says ^ and $
	Exists *bool          // whether the field is there and not null
}

// varPrefix is what a Match's Field begins with that names an agent's variable.
const varPrefix = "@"

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

// Check returns what is wrong with m.
func (m *Match) Check() error {
	n := 0
	for _, given := range []bool{m.Equals != nil, m.In != nil, m.Regex != nil, m.Exists != nil} {
		if given {
			n++
		}
	}
	switch {
	case m.Field == "":
		return errors.New("name the field that is looked at: one of the payload's, or @host, @input, @file or @file_name")
	case n == 0:
		return fmt.Errorf("field %q: say what it is to be: equals, in, regex or exists", m.Field)
	case n > 1:
		return fmt.Errorf("field %q: give only one of equals, in, regex and exists", m.Field)
	case m.In != nil && len(m.In) == 0:
		return fmt.Errorf("field %q: in: the list is empty, so that no record matches", m.Field)
	}
	return nil
}

// Matcher is a Match that looks at records through a Scope.
type Matcher struct {
	m     Match
	scope *Scope
	ref   Ref
	in    map[string]bool
}

// Matcher returns m for s. m must have passed its Check.
func (s *Scope) Matcher(m *Match) *Matcher {
	c := &Matcher{m: *m, scope: s, in: make(map[string]bool, len(m.In))}
	if name, ok := strings.CutPrefix(m.Field, varPrefix); ok {
		c.ref, _ = s.Var(name)
	}
	if c.ref == 0 { // @timestamp and the like are the payload's
		c.ref = s.Field(m.Field)
	}
	for _, text := range m.In {
		c.in[text] = true
	}
	return c
}

// Holds says whether the record the scope is set to matches. Allocates nothing.
func (c *Matcher) Holds() bool {
	text, kind := c.scope.Get(c.ref)
	switch m := &c.m; {
	case m.Exists != nil:
		return *m.Exists == (kind != Missing)
	case kind != Scalar:
		return false
	case m.Equals != nil:
		return string(text) == *m.Equals
	case m.Regex != nil:
		return m.Regex.Match(text)
	}
	return c.in[string(text)]
}
