package config

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// EnvPrefix begins the names of environment variables that override keys: the
// rest is the key's path in capitals, its parts joined by _.
const EnvPrefix = "PRODUCE_AGENT_"

// override puts what the environment says in place of what the file says.
func (l *loader) override(root *node) {
	environ := slices.Clone(l.Environ)
	slices.Sort(environ) // list elements in their order
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		rest, ours := strings.CutPrefix(name, EnvPrefix)
		if !ours || value == "" || slices.Contains(l.Own, name) {
			continue
		}
		at := Place{File: name}
		steps, leaf := resolve(typeOf[Config](), root, rest)
		switch {
		case !leaf:
			l.problem(Warning, at, "", "this environment variable names no key of the configuration%s, and is not used", near(steps))
		case !utf8.ValidString(value):
			l.problem(Error, at, "", "the value of this environment variable is not valid UTF-8")
		default:
			root.set("", steps, &node{kind: scalar, place: at, text: value})
		}
	}
}

// Override puts a plain value in place of a key, as a flag does.
type Override struct {
	Name  string // what problems call it, as --streams
	Path  string // of the key, steps joined by dots: clusters.*.streams.max; * is every one there
	Only  string // where set: only below parts of these types, as file,stdin
	Value string
}

// overlay sets one override. What has no place in the file is no problem: a
// file without a route is one already.
func (l *loader) overlay(root *node, o Override) {
	places := expand(root, strings.Split(o.Path, "."), o.Only)
	if o.Only != "" && len(places) == 0 {
		l.problem(Error, Place{File: o.Name}, "", "is for inputs of type %s, and there is none: leave it out", strings.ReplaceAll(o.Only, ",", " or "))
	}
	for _, steps := range places {
		root.set("", steps, &node{kind: scalar, place: Place{File: o.Name}, text: o.Value})
	}
}

// expand writes out the * of a path.
func expand(n *node, steps []string, only string) (all [][]string) {
	i := slices.Index(steps, "*")
	if i < 0 {
		return [][]string{steps}
	}
	for _, s := range steps[:i] {
		n = n.member(s)
	}
	if n == nil {
		return nil
	}
	add := func(name string, child *node) {
		if t := child.member("type"); only != "" && (t == nil || !slices.Contains(strings.Split(only, ","), t.text)) {
			return
		}
		for _, rest := range expand(child, steps[i+1:], only) {
			all = append(all, slices.Concat(steps[:i], []string{name}, rest))
		}
	}
	for _, m := range n.members {
		add(m.key, m.value)
	}
	for j, item := range n.items {
		add(strconv.Itoa(j), item)
	}
	return all
}

// near says how far a name could be followed.
func near(steps []string) string {
	if len(steps) == 0 {
		return ""
	}
	return " (" + strings.Join(steps, ".") + " is there, the rest is not)"
}

// capitals is how a key or name is written in the name of a variable.
func capitals(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

// resolve finds the key that rest names below n, a node of type t; n may be
// nil. leaf says that it is one that holds a plain value; else steps are those
// that could be followed.
func resolve(t reflect.Type, n *node, rest string) (steps []string, leaf bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Slice {
		return resolveElement(t, n, rest)
	}
	if t.Kind() != reflect.Struct || t == typeOf[Secret]() {
		return nil, rest == ""
	}
	type way struct {
		key string
		t   reflect.Type
		tag reflect.StructTag
	}
	var ways []way
	v := reflect.New(t).Elem()
	for _, f := range fields(v, "") {
		if !slices.ContainsFunc(ways, func(w way) bool { return w.key == f.key && w.t == f.value.Type() }) {
			ways = append(ways, way{f.key, f.value.Type(), f.tag})
		}
	}
	slices.SortStableFunc(ways, func(a, b way) int { return cmp.Compare(len(b.key), len(a.key)) })
	for _, w := range ways {
		after, ok := follow(rest, w.key)
		if !ok {
			continue
		}
		more, leaf := resolveNamed(w.t, w.tag, n.member(w.key), after)
		if found := append([]string{w.key}, more...); leaf || len(found) > len(steps) {
			steps = found
		}
		if leaf {
			return steps, true
		}
	}
	return steps, false
}

// resolveNamed goes on from a member of a struct.
func resolveNamed(t reflect.Type, tag reflect.StructTag, n *node, rest string) ([]string, bool) {
	if rest == "" && tag.Get("scalar") != "" {
		return nil, true
	}
	if tag.Get("named") == "" || n == nil {
		return resolve(t, n, rest)
	}
	var steps []string
	for _, m := range n.members { // those written are all there are: a name cannot be told from capitals
		after, ok := follow(rest, m.key)
		if !ok {
			continue
		}
		if t == typeOf[[]Header]() {
			if after == "" {
				return []string{m.key}, true
			}
			continue
		}
		more, leaf := resolve(t.Elem(), m.value, after)
		if found := append([]string{m.key}, more...); leaf || len(found) > len(steps) {
			steps = found
		}
		if leaf {
			return steps, true
		}
	}
	return steps, false
}

// resolveElement goes on from a list: its next step is a number, of an element
// that is there or, of a list of texts, the next one.
func resolveElement(t reflect.Type, n *node, rest string) ([]string, bool) {
	number, after, _ := strings.Cut(rest, "_")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 {
		return nil, false
	}
	have := 0
	if n != nil && n.kind == sequence {
		have = len(n.items)
	}
	if t.Elem().Kind() != reflect.Struct {
		return []string{number}, after == "" && rest == number && i <= have
	}
	if i >= have {
		return nil, false
	}
	more, leaf := resolve(t.Elem(), n.items[i], after)
	return append([]string{number}, more...), leaf
}

// follow takes a step's name off the front of rest.
func follow(rest, key string) (after string, ok bool) {
	after, ok = strings.CutPrefix(rest, capitals(key))
	if !ok || after == "" {
		return after, ok
	}
	return strings.CutPrefix(after, "_")
}

// short is the member that a plain value stands for where a mapping may be.
var short = map[string]string{"limits": "profile", "partition": "number"}

// set puts value at the end of steps from n, which is what key holds, and makes
// what is missing on the way.
func (n *node) set(key string, steps []string, value *node) {
	step, more := steps[0], steps[1:]
	var at **node
	if i, err := strconv.Atoi(step); err == nil && (n.kind == sequence || n.kind != mapping) {
		if n.kind == scalar { // one plain value is a list of one
			one := *n
			n.items = []*node{&one}
		}
		n.kind, n.ref = sequence, ""
		if i == len(n.items) {
			n.items = append(n.items, nil)
		}
		if i >= len(n.items) {
			return
		}
		at = &n.items[i]
	} else {
		if n.kind == scalar { // limits: standard
			one := *n
			n.members = []member{{short[key], n.place, &one}}
		}
		n.kind, n.ref = mapping, ""
		j := slices.IndexFunc(n.members, func(m member) bool { return m.key == step })
		if j < 0 {
			n.members = append(n.members, member{key: step, place: value.place})
			j = len(n.members) - 1
		}
		if len(more) == 0 {
			n.members[j].place = value.place
		}
		at = &n.members[j].value
	}
	if len(more) == 0 {
		*at = value
		return
	}
	if *at == nil {
		*at = &node{place: value.place}
	}
	(*at).set(step, more, value)
}
