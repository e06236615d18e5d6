package ingest

import (
	"errors"
	"fmt"
	"strings"
)

// maxTopic is the longest name of a topic.
//
// Source: Apache Kafka, org.apache.kafka.common.internals.Topic.
const maxTopic = 249

// CheckTopic returns why name cannot be a topic's.
// Source: Apache Kafka, org.apache.kafka.common.internals.Topic.
func CheckTopic(name string) error {
	switch {
	case name == "":
		return errors.New("a topic name is wanted")
	case name == "." || name == "..":
		return fmt.Errorf("topic %q: must not be \".\" or \"..\"", name)
	case len(name) > maxTopic:
		return fmt.Errorf("topic %.20q…: %d characters, must be at most %d", name, len(name), maxTopic)
	}
	if c, bad := notOfTopic(name); bad {
		return fmt.Errorf("topic %q: only letters, digits, '.', '_' and '-' may be in a name, not %q", name, c)
	}
	return nil
}

// notOfTopic returns the first character that no topic's name may have.
func notOfTopic(name string) (c rune, bad bool) {
	for _, c := range name {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			continue
		}
		return c, true
	}
	return 0, false
}

// Allows says whether one of patterns matches a topic's name. In a pattern a *
// stands for any characters or none, all else for itself.
func Allows(patterns []string, topic string) bool {
	for _, p := range patterns {
		if wild(p, topic) {
			return true
		}
	}
	return false
}

// wild matches from left to right: each piece between stars as early as it can.
func wild(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	name = name[len(head):]
	for {
		piece, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(name, piece)
		}
		i := strings.Index(name, piece)
		if i < 0 {
			return false
		}
		name, rest = name[i+len(piece):], after
	}
}

// CheckPattern returns why a pattern of an allow list can match no topic.
func CheckPattern(pattern string) error {
	bare := strings.ReplaceAll(pattern, "*", "")
	if pattern == "" {
		return errors.New(`"" matches no topic: name one, or use * for parts of a name`)
	}
	if c, bad := notOfTopic(bare); bad {
		return fmt.Errorf("%q can match no topic: only letters, digits, '.', '_', '-' and the wildcard * may be in it, not %q", pattern, c)
	}
	if len(bare) > maxTopic {
		return fmt.Errorf("%.20q…: %d characters, a topic has at most %d", pattern, len(bare), maxTopic)
	}
	return nil
}
