package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Severity says whether a configuration can be run with.
type Severity uint8

// An Error keeps a configuration from being used. A Warning does not.
const (
	Error Severity = iota
	Warning
)

// String names the severity.
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// Place is where something is written. Line and Column count from 1, columns
// in characters; both are 0 where File is not a file with lines: it could not
// be read, or it is the name of an environment variable.
type Place struct {
	File         string
	Line, Column int
}

// String returns file:line:column.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Problem is one thing that is wrong with a configuration, and what to do.
// It never holds a secret, nor a value that came from a file or the
// environment.
type Problem struct {
	Severity Severity
	Place    Place
	Key      string // as clusters.main.rest_endpoint; "" where it is no key's
	Text     string
}

// String returns "agent.yaml:3:5: clusters.main.limits: what is wrong", with
// "warning: " behind the place of a warning.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Place.String())
	b.WriteString(": ")
	if p.Severity == Warning {
		b.WriteString("warning: ")
	}
	if p.Key != "" {
		b.WriteString(p.Key)
		b.WriteString(": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems are all that was found, in the order they are written in the file;
// those of environment variables come last.
type Problems []Problem

// Err returns the errors among them joined, one a line; nil when there is none.
func (p Problems) Err() error {
	var all []error
	for _, one := range p {
		if one.Severity == Error {
			all = append(all, errors.New(one.String()))
		}
	}
	return errors.Join(all...)
}

// Warnings returns those that are no errors.
func (p Problems) Warnings() Problems {
	var all Problems
	for _, one := range p {
		if one.Severity == Warning {
			all = append(all, one)
		}
	}
	return all
}

// sorted brings problems into the order of their places, file first.
func (p Problems) sorted(file string) Problems {
	slices.SortStableFunc(p, func(a, b Problem) int {
		if aFile, bFile := a.Place.File == file, b.Place.File == file; aFile != bFile {
			if aFile {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Place.File, b.Place.File), cmp.Compare(a.Place.Line, b.Place.Line),
			cmp.Compare(a.Place.Column, b.Place.Column))
	})
	return p
}

// clip shortens what a user wrote for a problem's text.
func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// list writes names as "a, b or c".
func list(names []string) string {
	switch n := len(names); n {
	case 0:
		return ""
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
	}
}

// suggest returns the one of names that word was most likely meant to be, ""
// when none is near.
func suggest(word string, names []string) string {
	best, found := len(word)/3+1, ""
	for _, name := range names {
		if d := distance(strings.ToLower(word), name, best); d <= best && (found == "" || d < best) {
			best, found = d, name
		}
	}
	return found
}

// distance counts the letters to change, drop, add or swap to get from a to b;
// it stops counting past most.
func distance(a, b string, most int) int {
	if len(a) > len(b)+most || len(b) > len(a)+most {
		return most + 1
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
