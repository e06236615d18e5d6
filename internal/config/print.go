package config

import (
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Print writes what is in force as YAML that can be loaded again, all defaults
// in it. Secrets are ***; a value that holds ${env:…} or ${file:…} is printed
// as it was written.
func (c *Config) Print(w io.Writer) error {
	p := &printer{c: c}
	p.members(reflect.ValueOf(c).Elem(), "", 0)
	_, err := io.WriteString(w, p.b.String())
	return err
}

type printer struct {
	c *Config
	b strings.Builder
}

// line writes one line; behind a dash of a list the indent is there already.
func (p *printer) line(depth int, text string) {
	p.b.WriteString(strings.Repeat("  ", depth))
	p.b.WriteString(text)
	p.b.WriteByte('\n')
}

// members writes the members of a struct.
func (p *printer) members(v reflect.Value, path string, depth int) {
	for _, f := range fields(v, "-") {
		p.member(f, join(path, f.key), depth)
	}
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("union") != "" && !v.Field(i).IsNil() {
			p.members(v.Field(i).Elem(), path, depth)
		}
	}
}

func (p *printer) member(f field, path string, depth int) {
	t := f.value.Type()
	optional := t.Kind() == reflect.Pointer
	if optional {
		if f.value.IsNil() {
			return
		}
		f.value, t = f.value.Elem(), t.Elem()
	}
	switch {
	case t == typeOf[[]Header]():
		headers := f.value.Interface().([]Header)
		if len(headers) == 0 {
			return
		}
		p.line(depth, f.key+":")
		for _, h := range headers {
			if h.Value == nil {
				p.line(depth+1, quoteAs(h.Name)+": null")
				continue
			}
			p.line(depth+1, quoteAs(h.Name)+": "+p.text(*h.Value, join(path, h.Name)))
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		p.elements(f, path, depth)
	case t.Kind() == reflect.Slice:
		all := make([]string, f.value.Len())
		for i := range all {
			at := index(path, i)
			if len(all) == 1 && p.c.written[path] != "" {
				at = path
			}
			all[i] = p.text(f.value.Index(i).String(), at)
		}
		if len(all) == 0 {
			return
		}
		p.line(depth, f.key+": ["+strings.Join(all, ", ")+"]")
	case t.Kind() == reflect.Struct && t != typeOf[Secret]():
		p.section(f, path, depth)
	case !optional && f.value.IsZero() && (t.Kind() == reflect.String || t == typeOf[Secret]()) && path != "observe.listen":
		// Not set, and that is the default.
	default:
		line := f.key + ": " + p.plain(f.value, path)
		if p.c.written[path] != "" {
			line += "  # " + masked
		}
		p.line(depth, line)
	}
}

// section writes a struct; what sets number or field writes one of them.
func (p *printer) section(f field, path string, depth int) {
	if part, ok := f.value.Interface().(Partition); ok {
		if part.Field == "" {
			p.line(depth, f.key+": "+p.plain(f.value.FieldByName("Number"), path+".number"))
			return
		}
		p.line(depth, f.key+": {field: "+p.text(part.Field, path+".field")+"}")
		return
	}
	whole := p
	p = &printer{c: p.c}
	defer func() {
		if p.b.Len() > 0 { // nothing set is nothing to say
			whole.line(depth, f.key+":")
			whole.b.WriteString(p.b.String())
		}
	}()
	switch x := f.value.Interface().(type) {
	case Key: // what is not set must not be there
		p.chosen(path, depth+1, map[string]*string{"field": given(x.Field), "template": given(x.Template), "value": x.Value, "delimiter": given(x.Delimiter)})
		p.line(depth+1, "type: "+p.text(x.Type, path+".type"))
	case Test:
		p.line(depth+1, "field: "+p.text(x.Field, path+".field"))
		p.chosen(path, depth+1, map[string]*string{"equals": x.Equals, "regex": given(x.Regex)})
		if x.Exists != nil {
			p.line(depth+1, "exists: "+strconv.FormatBool(*x.Exists))
		}
		if len(x.In) > 0 {
			p.member(field{key: "in", value: reflect.ValueOf(x.In)}, path+".in", depth+1)
		}
	default:
		p.members(f.value, path, depth+1)
	}
}

func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// chosen writes the one of several members that is set.
func (p *printer) chosen(path string, depth int, which map[string]*string) {
	for name, s := range which {
		if s != nil {
			p.line(depth, name+": "+p.text(*s, join(path, name)))
		}
	}
}

// elements writes clusters, inputs and routes.
func (p *printer) elements(f field, path string, depth int) {
	p.line(depth, f.key+":")
	for i := range f.value.Len() {
		one := f.value.Index(i)
		if f.tag.Get("named") != "" {
			name := one.FieldByName("Name").String()
			p.line(depth+1, quote(name)+":")
			p.members(one, join(path, name), depth+2)
			continue
		}
		item := &printer{c: p.c}
		item.members(one, index(path, i), depth+2)
		p.line(depth+1, "- "+strings.TrimSpace(item.b.String()))
	}
}

// plain writes a value that is no text.
func (p *printer) plain(v reflect.Value, path string) string {
	if p.c.written[path] != "" {
		return p.text("", path)
	}
	switch x := v.Interface().(type) {
	case Secret:
		if x.Reveal() == "" {
			return `""`
		}
		return `"` + masked + `"`
	case time.Duration:
		return duration(x)
	case Size:
		return x.String()
	case Percent:
		return x.String()
	case ProxyURL:
		if ref := p.c.written[path]; ref != "" {
			return quoteAs(maskWritten(ref))
		}
		return quote(x.String())
	}
	switch v.Kind() {
	case reflect.String:
		return p.text(v.String(), path)
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'f', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

// text writes a text: as it was written where it holds references, with the
// mark of a secret behind it.
func (p *printer) text(s, path string) string {
	if ref := p.c.written[path]; ref != "" {
		return quoteAs(ref)
	}
	if strings.HasSuffix(path, ".dead_letter.path") {
		// As below data_dir, which may hold references itself.
		if rel, err := filepath.Rel(p.c.DataDir, s); err == nil && p.c.DataDir != "" && filepath.IsLocal(rel) {
			s = rel
		}
	}
	return quote(s)
}

// plainText is what needs no quotes: no word, number or time that YAML takes
// for something else.
var plainText = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)

// quote writes a text as a YAML scalar that reads as that text.
func quote(s string) string { return quoteAs(strings.ReplaceAll(s, "${", "$${")) }

// quoteAs is quote for what may hold references.
func quoteAs(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
	default:
		if plainText.MatchString(s) {
			return s
		}
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case unicode.IsPrint(r) && r != '\ufeff':
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
