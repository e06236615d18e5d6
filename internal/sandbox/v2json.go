package sandbox

import (
	"math"
	"sort"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// rewriter writes a JSON value again as another server's library does.
type rewriter struct {
	sorted bool // members by name, a repeated one's last value; else all, as they came
	text   func(dst, raw []byte) ([]byte, bool)
	double func(dst []byte, f float64) ([]byte, bool)
	big    bool // whole numbers of any size are kept
}

var (
	// rapidJSON is RapidJSON's Writer behind its Reader.
	rapidJSON = &rewriter{text: rapidText, double: rapidDouble}
	// pythonJSON is json.dumps(separators=(",",":"), sort_keys=True).
	pythonJSON = &rewriter{sorted: true, text: pythonText, double: pythonDouble, big: true}
)

// append appends the value at the cursor, which a scanner has accepted. It
// returns false where the library refuses it; the cursor then stands behind
// the culprit.
func (w *rewriter) append(dst []byte, c *cursor) ([]byte, bool) {
	switch c.peek() {
	case '{':
		return w.object(dst, c)
	case '[':
		dst = append(dst, '[')
		for ok, first := c.open(), true; ok; ok, first = c.more(), false {
			if !first {
				dst = append(dst, ',')
			}
			var fine bool
			if dst, fine = w.append(dst, c); !fine {
				return dst, false
			}
		}
		return append(dst, ']'), true
	case '"':
		raw, _ := c.str()
		return w.text(dst, raw)
	case 't', 'f', 'n':
		return append(dst, c.value()...), true
	}
	return w.number(dst, string(c.value()))
}

func (w *rewriter) object(dst []byte, c *cursor) ([]byte, bool) {
	type member struct{ name, value []byte }
	var members []member
	at := map[string]int{}
	for ok := c.open(); ok; ok = c.more() {
		raw, _ := c.str()
		c.peek()
		c.i++
		var m member
		var fine bool
		if m.name, fine = w.text(nil, raw); fine {
			m.value, fine = w.append(nil, c)
		}
		if !fine {
			return dst, false
		}
		i, twice := at[string(m.name)]
		if !twice || !w.sorted {
			i = len(members)
			members = append(members, m)
			at[string(m.name)] = i
		}
		members[i] = m
	}
	if w.sorted {
		sort.SliceStable(members, func(i, j int) bool { return pythonLess(members[i].name, members[j].name) })
	}
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, m.name...), ':'), m.value...)
	}
	return append(dst, '}'), true
}

// pythonLess compares two quoted names by their code points.
func pythonLess(a, b []byte) bool {
	ua, _ := appendUnescaped(nil, a[1:len(a)-1])
	ub, _ := appendUnescaped(nil, b[1:len(b)-1])
	return string(ua) < string(ub)
}

func (w *rewriter) number(dst []byte, src string) ([]byte, bool) {
	if !strings.ContainsAny(src, ".eE") {
		_, serr := strconv.ParseInt(src, 10, 64)
		_, uerr := strconv.ParseUint(src, 10, 64)
		switch {
		case src == "-0":
			return append(dst, '0'), true
		case w.big || serr == nil || uerr == nil:
			return append(dst, src...), true
		}
	}
	f, _ := strconv.ParseFloat(src, 64)
	return w.double(dst, f)
}

// rapidDouble writes the shortest digits, plain up to 21 before the point and
// 6 zeros behind it. Infinity cannot be read.
// Source: RapidJSON internal/dtoa.h, Prettify.
func rapidDouble(dst []byte, f float64) ([]byte, bool) {
	if math.IsInf(f, 0) {
		return dst, false
	}
	if a := math.Abs(f); a == 0 || a >= 1e-6 && a < 1e21 {
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return append(dst, s...), true
	}
	return append(dst, shortExponent(f)...), true
}

// pythonDouble is float.__repr__.
func pythonDouble(dst []byte, f float64) ([]byte, bool) {
	a := math.Abs(f)
	switch {
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...), true
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...), true
	case a == 0 || a >= 1e-4 && a < 1e16:
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return append(dst, s...), true
	}
	return strconv.AppendFloat(dst, f, 'e', -1, 64), true
}

// shortExponent writes f as d.ddden, n without a plus or leading zeros.
func shortExponent(f float64) string {
	mantissa, exp, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	n, _ := strconv.Atoi(exp)
	return mantissa + "e" + strconv.Itoa(n)
}

// rapidText writes a string as UTF-8, escaping what must be. Half a surrogate
// pair cannot be read.
func rapidText(dst, raw []byte) ([]byte, bool) {
	text, lone := appendUnescaped(nil, raw)
	if lone {
		return dst, false
	}
	dst = append(dst, '"')
	for _, b := range text {
		dst = appendEscaped(dst, b)
	}
	return append(dst, '"'), true
}

// pythonText writes a string in ASCII, all else as \uXXXX in lower case.
func pythonText(dst, raw []byte) ([]byte, bool) {
	dst = append(dst, '"')
	for i := 0; i < len(raw); {
		if raw[i] == '\\' {
			if raw[i+1] == 'u' {
				dst = pythonUnit(dst, hex4(raw[i+2:]))
				i += 6
			} else {
				dst = pythonUnit(dst, rune(unescapeByte(raw[i+1])))
				i += 2
			}
			continue
		}
		r, n := utf8.DecodeRune(raw[i:])
		if r > 0xffff {
			hi, lo := utf16.EncodeRune(r)
			dst = pythonUnit(pythonUnit(dst, hi), lo)
		} else {
			dst = pythonUnit(dst, r)
		}
		i += n
	}
	return append(dst, '"'), true
}

func pythonUnit(dst []byte, r rune) []byte {
	switch {
	case r >= 0x80, r < 0x20 && !strings.ContainsRune("\b\t\n\f\r", r):
		const hex = "0123456789abcdef"
		return append(dst, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
	}
	return appendEscaped(dst, byte(r))
}
