package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// expander puts the values of references in their places.
type expander struct {
	env   func(string) (string, bool)
	read  func(string) ([]byte, error)
	count int // of references followed
}

// maxReferences is how many references a file may hold: each may cost a read.
const maxReferences = 1000

// expand replaces ${env:NAME} and ${file:PATH} in text. $${ stands for ${. What
// comes in is not looked through again, and as the file is parsed by then it
// cannot become anything but text.
// Errors: a reference that cannot be followed, or is none; never a value.
func (x *expander) expand(text string) (out string, isRef bool, err error) {
	var b strings.Builder
	for rest := text; ; {
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			return b.String(), isRef, err
		}
		if i > 0 && rest[i-1] == '$' {
			b.WriteString(rest[:i-1])
			b.WriteString("${")
			rest = rest[i+2:]
			continue
		}
		b.WriteString(rest[:i])
		inner, after, closed := strings.Cut(rest[i+2:], "}")
		kind, name, _ := strings.Cut(inner, ":")
		switch {
		case !closed:
			return "", isRef, errors.New("a reference ${ without its }; write $${ for a plain ${")
		case kind != "env" && kind != "file" || name == "":
			return "", isRef, fmt.Errorf("${%s}: there are ${env:NAME} and ${file:PATH}; write $${ for a plain ${", clip(inner))
		}
		isRef = true
		value, e := x.value(kind, name)
		if e == nil && b.Len()+len(value) > maxRead {
			e = fmt.Errorf("what the references give has more than %d bytes: are they the right ones?", maxRead)
		}
		if e != nil {
			if err != nil { // two are enough to see what is missing
				return "", isRef, fmt.Errorf("%w; %w", err, e)
			}
			err = e
		}
		b.WriteString(value)
		rest = after
	}
}

// value follows one reference.
func (x *expander) value(kind, name string) (string, error) {
	if x.count++; x.count > maxReferences {
		return "", fmt.Errorf("there are more than %d references in this file", maxReferences)
	}
	if kind == "env" {
		value, ok := x.env(name)
		switch {
		case !ok:
			return "", fmt.Errorf("${env:%s}: the environment has no variable %[1]s: set it for this process, or write the value here", clip(name))
		case value == "":
			return "", fmt.Errorf("${env:%s}: the variable %[1]s is empty: give it a value", clip(name))
		}
		return value, nil
	}
	raw, err := x.read(name)
	if err != nil {
		return "", fmt.Errorf("${file:%s}: %s", clip(name), reason(err))
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("${file:%s}: the file is empty", clip(name))
	}
	return value, nil
}

// reason returns what is wrong with a file, without the path when err names it.
func reason(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err.Error()
}

// maxRead bounds what is read of a file that a configuration names.
const maxRead = 1 << 20

// readRegular reads a regular file of at most a mebibyte: a pipe could keep us
// waiting, and a device never end.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errors.New("is a directory, want a file")
	case !info.Mode().IsRegular():
		return nil, errors.New("is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err == nil && len(raw) > maxRead {
		err = fmt.Errorf("has more than %d bytes: is it the right file?", maxRead)
	}
	return raw, err
}
