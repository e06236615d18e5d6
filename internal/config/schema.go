package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// member of a struct, as its tags describe it.
type field struct {
	key   string
	tag   reflect.StructTag
	value reflect.Value // addressable; in walks over types only it is a zero value
}

// fields returns the members of the struct v that a file may set. Of a union
// that is the part which kind names; the empty kind means all parts.
func fields(v reflect.Value, kind string) []field {
	var all []field
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if part := f.Tag.Get("union"); part != "" {
			if kind != "" && kind != part {
				continue
			}
			inner := v.Field(i)
			if inner.IsNil() {
				fresh := reflect.New(f.Type.Elem())
				fresh.Elem().Set(fallback(f.Type.Elem()))
				if kind == "" {
					inner = fresh
				} else {
					inner.Set(fresh)
					inner = v.Field(i)
				}
			}
			all = append(all, fields(inner.Elem(), "")...)
			continue
		}
		if key := f.Tag.Get("key"); key != "" {
			all = append(all, field{key, f.Tag, v.Field(i)})
		}
	}
	return all
}

// isUnion says that a struct's members depend on its type member.
func isUnion(t reflect.Type) bool {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("union") != "" {
			return true
		}
	}
	return false
}

// fallback returns a value of type t with its defaults.
func fallback(t reflect.Type) reflect.Value {
	switch t {
	case typeOf[Config]():
		return reflect.ValueOf(DefaultConfig())
	case typeOf[Cluster]():
		return reflect.ValueOf(DefaultCluster())
	case typeOf[FileInput]():
		return reflect.ValueOf(DefaultFileInput())
	case typeOf[HTTPInput]():
		return reflect.ValueOf(DefaultHTTPInput())
	case typeOf[Multiline]():
		return reflect.ValueOf(DefaultMultiline())
	case typeOf[Route]():
		return reflect.ValueOf(DefaultRoute())
	case typeOf[Key]():
		return reflect.ValueOf(Key{Type: "STRING"})
	case typeOf[Timestamp]():
		return reflect.ValueOf(Timestamp{Format: "auto"})
	}
	return reflect.Zero(t)
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// laterKeys are keys of the plan that nothing would be done with today.
var laterKeys = map[reflect.Type]map[string]string{
	typeOf[Retry](): {"give_up_after": "giving records up after a time is not built yet: they are tried until the cluster takes them; leave it out"},
}

// KeyInfo describes one key of the file.
type KeyInfo struct {
	Path    string // as clusters.NAME.streams.max, routes[].topic
	Type    string
	Default string // "" for none
}

// Keys returns all keys there are, in the order of the structs. Those of one
// type of input have it in their path, as inputs.NAME(http).listen.
func Keys() []KeyInfo {
	var all []KeyInfo
	root := reflect.New(typeOf[Config]()).Elem()
	root.Set(fallback(root.Type()))
	describe(&all, root, "")
	return all
}

func describe(all *[]KeyInfo, v reflect.Value, path string) {
	for _, f := range fields(v, "-") { // of no union part
		describeField(all, f, join(path, f.key))
	}
	for i := range v.NumField() {
		if part := v.Type().Field(i).Tag.Get("union"); part != "" {
			inner := reflect.New(v.Field(i).Type().Elem()).Elem()
			inner.Set(fallback(inner.Type()))
			describe(all, inner, path+"("+part+")")
		}
	}
}

func describeField(all *[]KeyInfo, f field, path string) {
	t := f.value.Type()
	note := func(kind string) {
		def := f.tag.Get("def")
		if def == "" && f.tag.Get("required") == "" {
			def = show(f.value)
		}
		*all = append(*all, KeyInfo{path, kind, def})
	}
	fresh := func(t reflect.Type) reflect.Value {
		v := reflect.New(t).Elem()
		v.Set(fallback(t))
		return v
	}
	switch {
	case t == typeOf[[]Header]():
		*all = append(*all, KeyInfo{path, "mapping of name to template", ""})
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && f.tag.Get("named") != "":
		describe(all, fresh(t.Elem()), path+"."+f.tag.Get("named"))
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		describe(all, fresh(t.Elem()), path+"[]")
	case t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct:
		describe(all, fresh(t.Elem()), path)
	case t.Kind() == reflect.Struct && t != typeOf[Secret]():
		describe(all, f.value, path)
	default:
		note(kindName(t, f.tag))
	}
}

// kindName says what values a key takes, for documents.
func kindName(t reflect.Type, tag reflect.StructTag) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	words := strings.Join(strings.Split(tag.Get("enum"), ","), ", ")
	switch {
	case t.Kind() == reflect.Slice && words != "":
		return "list of " + words
	case t.Kind() == reflect.Slice:
		return "list of text"
	case words != "":
		return words
	case t == typeOf[Secret]():
		return "secret"
	case t == typeOf[Size]():
		return "size"
	case t == typeOf[Percent]():
		return "percentage"
	case t == typeOf[time.Duration]():
		return "duration"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true, false"
	case reflect.String:
		return "text"
	}
	return "number"
}

// show writes a setting for documents.
func show(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return duration(x)
	case Size:
		return x.String()
	case Percent:
		return x.String()
	case Secret:
		return x.String()
	case []string:
		return strings.Join(x, ", ")
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	return fmt.Sprint(v.Interface())
}

// join adds a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// outside says what is wrong with a number that its tag bounds; "" for
// nothing. parse reads the bounds.
func outside(value float64, tag reflect.StructTag, parse func(string) float64) string {
	bounds := tag.Get("range")
	if bounds == "" {
		return ""
	}
	zero := tag.Get("zero")
	if zero != "" && value == 0 {
		return ""
	}
	low, high, _ := strings.Cut(bounds, "..")
	if value >= parse(low) && (high == "" || value <= parse(high)) {
		return ""
	}
	say := bounds
	if high == "" {
		say = "at least " + low
	}
	if zero != "" {
		say = "0 (" + zero + ") or " + say
	}
	return "must be " + say
}

// unknown says of a key that a struct has not what it may have been meant to be.
func unknown(key string, known []string, elsewhere map[string]string) string {
	if where := elsewhere[key]; where != "" {
		return fmt.Sprintf("key %q is for inputs of type %s", key, where)
	}
	text := fmt.Sprintf("there is no key %q here", clip(key))
	if s := suggest(key, known); s != "" {
		return text + fmt.Sprintf(": did you mean %q?", s)
	}
	slices.Sort(known)
	return text + "; there are " + list(known)
}
