package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Options are what Load needs of the process. The zero value reads files from
// disk and knows no environment.
type Options struct {
	// Env looks a variable up, for ${env:NAME}.
	Env func(name string) (string, bool)
	// Environ holds NAME=VALUE pairs; those that begin with EnvPrefix override
	// keys of the file.
	Environ []string
	// Own are names beginning with EnvPrefix that mean something else.
	Own []string
	// Overrides are set last, each in place of what file and environment say.
	Overrides []Override
	// ReadFile reads the file, and those it names. Default: regular files of at
	// most a mebibyte.
	ReadFile func(path string) ([]byte, error)
	// Stat is asked for the file's mode. Default: os.Stat.
	Stat func(path string) (fs.FileInfo, error)
}

// loader is one Load.
type loader struct {
	Options
	cfg      Config
	dir      string // what relative paths begin at
	problems Problems
}

// Load reads the configuration at path. Where Problems.Err says nothing the
// Config is whole: every default is in it. Else it is only good for what it
// holds of places.
//
// Concurrency: safe. Nothing is kept open.
func Load(path string, o Options) (*Config, Problems) {
	if o.Env == nil {
		o.Env = func(string) (string, bool) { return "", false }
	}
	if o.ReadFile == nil {
		o.ReadFile = readRegular
	}
	if o.Stat == nil {
		o.Stat = os.Stat
	}
	l := &loader{Options: o, cfg: DefaultConfig()}
	l.cfg.file = path
	l.cfg.places, l.cfg.written = map[string]Place{}, map[string]string{}
	if dir, err := filepath.Abs(filepath.Dir(path)); err == nil {
		l.dir = dir
	}
	src, err := o.ReadFile(path)
	if err != nil {
		text := reason(err)
		if errors.Is(err, fs.ErrNotExist) {
			text = "there is no such file: name the configuration to read"
		}
		l.problem(Error, Place{File: path}, "", "%s", text)
		return &l.cfg, l.problems
	}
	x := &expander{env: o.Env, read: func(name string) ([]byte, error) { return o.ReadFile(l.absolute(name)) }}
	b := &builder{file: path, expand: x.expand, note: func(at Place, format string, args ...any) {
		l.problem(Error, at, "", format, args...)
	}}
	root := b.parse(src)
	if root == nil || b.overfull {
		return &l.cfg, l.problems.sorted(path)
	}
	l.override(root)
	for _, o := range l.Overrides {
		l.overlay(root, o)
	}
	l.decode(root, reflect.ValueOf(&l.cfg).Elem(), "", "")
	l.check()
	l.checkMode()
	return &l.cfg, l.problems.sorted(path)
}

// problem notes one.
func (l *loader) problem(s Severity, at Place, key, format string, args ...any) {
	l.problems = append(l.problems, Problem{s, at, key, fmt.Sprintf(format, args...)})
}

// absolute makes a path of the file's absolute.
func (l *loader) absolute(path string) string {
	if path == "" || filepath.IsAbs(path) || l.dir == "" {
		return path
	}
	return filepath.Join(l.dir, path)
}

// decode puts what n holds into v. Whatever cannot be taken keeps its default
// and is noted.
func (l *loader) decode(n *node, v reflect.Value, path string, tag reflect.StructTag) {
	if path != "" {
		if _, known := l.cfg.places[path]; !known {
			l.cfg.places[path] = n.place
		}
	}
	if n.ref != "" {
		l.cfg.written[path] = n.ref
	}
	t := v.Type()
	switch {
	case n.err != nil:
		l.problem(Error, n.place, path, "%v", n.err)
	case n.kind == null:
		l.problem(Error, n.place, path, "has no value: give it one, or leave the key out")
	case t == typeOf[[]Header]():
		l.headers(n, v, path)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		l.elements(n, v, path, tag)
	case t.Kind() == reflect.Slice:
		l.words(n, v, path, tag)
	case t.Kind() == reflect.Pointer:
		inner := reflect.New(t.Elem())
		inner.Elem().Set(fallback(t.Elem()))
		l.decode(n, inner.Elem(), path, tag)
		v.Set(inner)
	case t.Kind() == reflect.Struct && t != typeOf[Secret]():
		l.structure(n, v, path, tag)
	case n.kind != scalar:
		l.problem(Error, n.place, path, "want one value, have %s", n.kind)
	default:
		if what := l.plain(n, v, tag); what != "" {
			l.problem(Error, n.place, path, "%s", what)
		}
	}
}

// plain sets v to a scalar and returns what is wrong with it.
func (l *loader) plain(n *node, v reflect.Value, tag reflect.StructTag) string {
	shown := n.shown()
	switch v.Interface().(type) {
	case Secret:
		v.Set(reflect.ValueOf(NewSecret(n.text)))
		return ""
	case time.Duration:
		d, err := parseDuration(n.text)
		if err != nil {
			return n.explain(err, "is no duration: write a number with ms, s, m, h or d")
		}
		v.SetInt(int64(d))
		return bounded(shown, float64(d), tag, func(s string) float64 {
			d, _ := parseDuration(s)
			return float64(d)
		})
	case Size:
		s, err := ParseSize(n.text)
		if err != nil {
			return n.explain(err, "is no size: write bytes, or a number with KB, MB, GB, KiB, MiB or GiB")
		}
		v.SetInt(int64(s))
		return bounded(shown, float64(s), tag, func(s string) float64 {
			size, _ := ParseSize(s)
			return float64(size)
		})
	}
	if _, ok := v.Interface().(Percent); ok {
		p, err := ParsePercent(n.text)
		if err != nil {
			return n.explain(err, "is no percentage: write a number with %")
		}
		v.SetFloat(float64(p))
		return bounded(shown, float64(p), tag, func(s string) float64 {
			p, _ := ParsePercent(s)
			return float64(p)
		})
	}
	number := func(s string) float64 {
		f, _ := strconv.ParseFloat(s, 64)
		return f
	}
	digits := strings.ReplaceAll(n.text, "_", "")
	switch v.Kind() {
	case reflect.Bool:
		switch n.text {
		case "true", "false":
			v.SetBool(n.text == "true")
			return ""
		}
		return shown + " is neither true nor false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(digits, 10, v.Type().Bits())
		if err != nil {
			return shown + " is no whole number, or too large a one"
		}
		v.SetInt(i)
		return bounded(shown, float64(i), tag, number)
	case reflect.Float64:
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil || f != f {
			return shown + " is no number"
		}
		v.SetFloat(f)
		return bounded(shown, f, tag, number)
	}
	if !utf8.ValidString(n.text) {
		return shown + " is not valid UTF-8"
	}
	if what := oneOf(n, tag); what != "" {
		return what
	}
	v.SetString(n.text)
	return ""
}

// shown is how a problem's text names the value of a scalar.
func (n *node) shown() string {
	if n.ref != "" {
		return "what " + clip(n.ref) + " gives"
	}
	return strconv.Quote(clip(n.text))
}

// explain says err, or of a value that is not to be shown what.
func (n *node) explain(err error, what string) string {
	if n.ref != "" {
		return n.shown() + " " + what
	}
	return err.Error()
}

func bounded(shown string, value float64, tag reflect.StructTag, parse func(string) float64) string {
	if what := outside(value, tag, parse); what != "" {
		return shown + ": " + what
	}
	return ""
}

// oneOf checks a word against the tag's.
func oneOf(n *node, tag reflect.StructTag) string {
	if tag.Get("enum") == "" {
		return ""
	}
	words := strings.Split(tag.Get("enum"), ",")
	if slices.Contains(words, n.text) {
		return ""
	}
	what := fmt.Sprintf("%s: must be %s", n.shown(), list(words))
	if s := suggest(n.text, words); s != "" && n.ref == "" && len(words) > 2 {
		what += fmt.Sprintf("; did you mean %s?", s)
	}
	return what
}

// words fills a list of strings; one plain value is a list of one.
func (l *loader) words(n *node, v reflect.Value, path string, tag reflect.StructTag) {
	items := n.items
	switch n.kind {
	case mapping:
		l.problem(Error, n.place, path, "want a list, have %s", n.kind)
		return
	case scalar:
		items = []*node{n}
	}
	var all []string
	for i, item := range items {
		at := index(path, i)
		l.cfg.places[at] = item.place
		if item.ref != "" {
			l.cfg.written[at] = item.ref
		}
		if item.err != nil || item.kind != scalar {
			l.decode(item, reflect.New(typeOf[string]()).Elem(), at, tag)
			all = append(all, "")
			continue
		}
		one := reflect.New(typeOf[string]()).Elem()
		if what := l.plain(item, one, tag); what != "" {
			l.problem(Error, item.place, at, "%s", what)
		}
		if slices.Contains(all, one.String()) && one.String() != "" {
			l.problem(Error, item.place, at, "%s is in the list already", item.shown())
		}
		all = append(all, one.String())
	}
	v.Set(reflect.ValueOf(all))
}

// headers fills the headers of a route, in order.
func (l *loader) headers(n *node, v reflect.Value, path string) {
	if n.kind != mapping {
		l.problem(Error, n.place, path, "want a mapping of header names to values, have %s", n.kind)
		return
	}
	var all []Header
	for _, m := range n.members {
		h, at := Header{Name: m.key}, join(path, m.key)
		if m.value.kind != null || m.value.err != nil {
			h.Value = new(string)
			l.decode(m.value, reflect.ValueOf(h.Value).Elem(), at, "")
		} else {
			l.cfg.places[at] = m.place
		}
		all = append(all, h)
	}
	v.Set(reflect.ValueOf(all))
}

// nameRule is what clusters, inputs and routes may be called: they become
// parts of file names and labels of metrics.
var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)

const nameHint = "a name is up to 100 letters, digits, _ and -, for it becomes part of file names and metrics"

// elements fills clusters and inputs, a mapping by name, and routes, a list.
func (l *loader) elements(n *node, v reflect.Value, path string, tag reflect.StructTag) {
	named := tag.Get("named") != ""
	if want := map[bool]kind{true: mapping, false: sequence}[named]; n.kind != want {
		form := ", each behind a dash"
		if named {
			form = " of names, as main:"
		}
		l.problem(Error, n.place, path, "want %s%s, have %s", want, form, n.kind)
		return
	}
	add := func(name string, n *node, at string) {
		one := reflect.New(v.Type().Elem()).Elem()
		one.Set(fallback(one.Type()))
		if name != "" {
			one.FieldByName("Name").SetString(name)
		}
		l.decode(n, one, at, "")
		v.Set(reflect.Append(v, one))
	}
	for _, m := range n.members {
		at := join(path, m.key)
		l.cfg.places[at] = m.place
		if !nameRule.MatchString(m.key) {
			l.problem(Error, m.place, path, "%q: %s", clip(m.key), nameHint)
		}
		add(m.key, m.value, at)
	}
	for i, item := range n.items {
		add("", item, index(path, i))
	}
}

// structure fills a struct.
func (l *loader) structure(n *node, v reflect.Value, path string, tag reflect.StructTag) {
	if short := tag.Get("scalar"); short != "" && n.kind == scalar {
		n = &node{kind: mapping, place: n.place, members: []member{{short, n.place, n}}}
	}
	if n.kind != mapping {
		l.problem(Error, n.place, path, "want a mapping, have %s", n.kind)
		return
	}
	part := ""
	elsewhere := map[string]string{}
	if isUnion(v.Type()) {
		if part = l.part(n, v, path); part == "" {
			return
		}
		elsewhere = l.elsewhere(v.Type(), part)
	}
	all := fields(v, part)
	known := make([]string, 0, len(all))
	for _, f := range all {
		known = append(known, f.key)
	}
	for _, f := range all {
		meant := func(m member) bool { return !slices.Contains(known, m.key) && suggest(m.key, known) == f.key }
		if f.tag.Get("required") != "" && n.member(f.key) == nil && !slices.ContainsFunc(n.members, meant) {
			l.problem(Error, l.cfg.Place(path), path, "%s is missing: %s", f.key, f.tag.Get("required"))
		}
	}
	for _, m := range n.members {
		i := slices.Index(known, m.key)
		if i < 0 {
			later, ok := laterKeys[v.Type()][m.key]
			switch {
			case ok && (m.value.text == "0s" || m.value.text == "0"):
			case ok:
				l.problem(Error, m.place, join(path, m.key), "%s", later)
			default:
				l.problem(Error, m.place, path, "%s", unknown(m.key, slices.Clone(known), elsewhere))
			}
			continue
		}
		at := join(path, m.key)
		if m.value.kind != scalar {
			l.cfg.places[at] = m.place
		}
		l.decode(m.value, all[i].value, at, all[i].tag)
	}
}

// part decides which part of a union n is; "" and noted where it says nothing
// that is known.
func (l *loader) part(n *node, v reflect.Value, path string) string {
	common := fields(v, "-")
	of := n.member("type")
	if of == nil {
		l.problem(Error, l.cfg.Place(path), path, "type is missing: %s", common[0].tag.Get("required"))
		return ""
	}
	if of.kind != scalar || of.err != nil || oneOf(of, common[0].tag) != "" {
		l.decode(of, common[0].value, join(path, "type"), common[0].tag)
		return ""
	}
	return of.text
}

// elsewhere names the parts of a union that have the keys which part has not.
func (l *loader) elsewhere(t reflect.Type, part string) map[string]string {
	out := map[string]string{}
	for i := range t.NumField() {
		other := t.Field(i).Tag.Get("union")
		if other == "" || other == part {
			continue
		}
		inner := reflect.New(t.Field(i).Type.Elem()).Elem()
		for _, f := range fields(inner, "") {
			if out[f.key] == "" {
				out[f.key] = other
			}
		}
	}
	return out
}

// checkMode warns of secrets that others may read.
func (l *loader) checkMode() {
	info, err := l.Stat(l.cfg.file)
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return
	}
	secret := func(path string, s Secret) {
		if s.Reveal() == "" || l.cfg.written[path] != "" || l.cfg.Place(path).File != l.cfg.file {
			return
		}
		l.problem(Warning, l.cfg.Place(path), path,
			"a secret is written here, and the file's mode %#o lets everybody on this machine read it: chmod 640 it, or use ${file:PATH}",
			info.Mode().Perm())
	}
	for i := range l.cfg.Clusters {
		c := &l.cfg.Clusters[i]
		at := "clusters." + c.Name
		secret(at+".auth.password", c.Auth.Password)
		secret(at+".auth.oauth2.client_secret", c.Auth.OAuth2.ClientSecret)
		if openPassword(string(c.Proxy)) {
			secret(at+".proxy", NewSecret(string(c.Proxy)))
		}
	}
	for i := range l.cfg.Inputs {
		if in := &l.cfg.Inputs[i]; in.HTTP != nil {
			secret("inputs."+in.Name+".auth.token", in.HTTP.Auth.Token)
		}
	}
}
