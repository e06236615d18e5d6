package ingest

import (
	"errors"
	"fmt"
	"slices"
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
type Match = record.Match

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
		if err := CheckPattern(p); err != nil {
			return nil, nil, fmt.Errorf("allow_topics: %w", err)
		}
	}
	if c.Topic != "" {
		if err := CheckTopicTemplate(t, c.AllowTopics); err != nil {
			return nil, nil, fmt.Errorf("topic: %w", err)
		}
	}
	if len(t.Fields()) > 0 && (c.Encoder.Decode == record.DecodeBytes || c.Encoder.Decode == record.DecodeText) {
		return nil, nil, fmt.Errorf("topic: field %q is used, and decode is %v: a payload has fields only with decode: json", t.Fields()[0], c.Encoder.Decode)
	}
	if c.Match != nil {
		if err := c.Match.Check(); err != nil {
			return nil, nil, fmt.Errorf("match: %w", err)
		}
	}
	if enc, err = scope.NewEncoder(c.Encoder); err != nil {
		return nil, nil, err
	}
	return scope.Bind(t), enc, nil
}

// CheckTopicTemplate returns why t can make no topic's name, or too many. allow
// is the route's AllowTopics.
func CheckTopicTemplate(t *record.Template, allow []string) error {
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
	case len(t.Fields()) > 0 && t.Prefix() == "" && (len(allow) == 0 || slices.ContainsFunc(allow, anything)):
		return fmt.Errorf("template %q: whoever writes the records could name any topic: begin it with literal text, like logs-%s, or list allow_topics", t, t)
	case len(allow) > 0 && !reachable(t.Prefix(), allow):
		return fmt.Errorf("template %q: allow_topics allows no name that begins with %q", t, t.Prefix())
	}
	return nil
}

// anything says that a pattern allows every topic.
func anything(pattern string) bool { return strings.Trim(pattern, "*") == "" }

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
