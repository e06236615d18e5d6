package sandbox

import (
	"fmt"
	"unicode/utf8"
)

// maxDepth is how deep a record may nest, the record's own object included.
// Source: Jackson StreamReadConstraints.DEFAULT_MAX_DEPTH.
const maxDepth = 1000

// maxNumberLen is how many characters a number may have.
// Source: Jackson StreamReadConstraints.DEFAULT_MAX_NUM_LEN.
const maxNumberLen = 1000

// scanStatus says where a scanner stopped.
type scanStatus uint8

const (
	scanMore   scanStatus = iota // every byte was looked at; more are needed
	scanValue                    // one whole value: bytes start..end
	scanBroken                   // syntax error; err, inValue and start say where
	scanEOF                      // clean end of the body between values
)

// scanState is what the scanner expects at the next byte.
type scanState uint8

const (
	stTop       scanState = iota // between values of the body
	stValue                      // a value must follow
	stFirstElem                  // after '[': a value or ']'
	stFirstKey                   // after '{': a name or '}'
	stKey                        // after ',' in an object: a name
	stColon                      // after a name
	stAfter                      // after a value inside a container
	stString                     // in a string or name
	stEscape                     // after a backslash
	stHex                        // in \uXXXX; hex digits still to come in hexLeft
	stMinus                      // number: after '-'
	stZero                       // number: after a leading 0
	stInt                        // number: in the digits before the point
	stPoint                      // number: just after '.'
	stFrac                       // number: in the digits after the point
	stExp                        // number: just after 'e'
	stExpSign                    // number: after the exponent's sign
	stExpDigits                  // number: in the exponent
	stLiteral                    // in true, false, null or a non-standard number word
	stToken                      // in an unrecognised word, for the error's text
)

// scanner finds the end of each value in a body of concatenated JSON, byte by
// byte and across reads, and refuses what Jackson's UTF8StreamJsonParser
// refuses. It keeps no bytes: the caller holds one growing buffer, from the
// value's first byte on, and hands it in at each call.
//
// Concurrency: for one goroutine.
type scanner struct {
	pos   int // next byte of the buffer to look at
	start int // first byte of the value being read, -1 between values

	state    scanState
	stack    []byte // '{' or '[' for every open container
	isKey    bool   // the string being read is a member's name
	strStart int    // first byte after the opening quote
	nonASCII bool   // the string holds bytes above 0x7f
	hexLeft  int
	numStart int
	word     string // stLiteral: the word being matched
	wordPos  int
	top      bool // the value being read is a scalar between records

	soft    error // first fault of this value that leaves the parser in step
	err     error // the syntax error of scanBroken
	inValue bool  // scanBroken: the error is inside a value (else between values)
	begun   bool  // a byte of the body has been seen (byte order mark handled)
}

// stringStop marks the bytes that end a run of plain ones inside a string.
var stringStop = func() (t [256]bool) {
	for i := range 0x20 {
		t[i] = true
	}
	t['"'], t['\\'] = true, true
	for i := 0x80; i < 0x100; i++ {
		t[i] = true
	}
	return t
}()

// newScanner returns a scanner for a new body.
func newScanner() *scanner {
	return &scanner{start: -1, stack: make([]byte, 0, 32)}
}

// rebase tells the scanner that n bytes were dropped from the buffer's front.
func (s *scanner) rebase(n int) {
	s.pos -= n
	s.strStart -= n
	s.numStart -= n
	if s.start >= 0 {
		s.start -= n
	}
}

// next looks at the bytes from pos on. After scanValue, the value is
// b[from:s.pos], and s.soft holds its fault, if any; the next call goes on
// behind it. After scanBroken the scanner is done for.
func (s *scanner) next(b []byte, eof bool) (from int, status scanStatus) {
	if !s.begun && !s.skipBOM(b, eof) {
		return 0, scanMore
	}
	for s.pos < len(b) {
		switch s.state {
		case stString:
			if !s.inString(b) {
				return 0, scanBroken
			}
		case stTop, stValue, stFirstElem, stFirstKey, stKey, stColon, stAfter:
			c := b[s.pos]
			if c == ' ' || c == '\n' || c == '\r' || c == '\t' {
				s.pos++
				continue
			}
			if s.state == stTop {
				s.start, s.soft, s.top = s.pos, nil, false
			}
			if !s.structure(c) {
				return 0, scanBroken
			}
		default:
			if !s.inScalar(b) {
				return 0, scanBroken
			}
		}
		if s.state == stTop && s.start >= 0 {
			from, s.start = s.start, -1
			return from, scanValue
		}
	}
	if !eof {
		return 0, scanMore
	}
	return s.atEOF(b)
}

// skipBOM steps over a byte order mark at the very start of the body. It
// returns false while it cannot tell yet.
func (s *scanner) skipBOM(b []byte, eof bool) bool {
	const bom = "\xef\xbb\xbf"
	if !eof && len(b) < len(bom) && string(b) == bom[:len(b)] {
		return false
	}
	s.begun = true
	if len(b) >= len(bom) && string(b[:len(bom)]) == bom {
		s.pos = len(bom)
	}
	return true
}

// structure handles one byte that is not in a string, number or word.
func (s *scanner) structure(c byte) bool {
	switch s.state {
	case stTop, stValue, stFirstElem:
		if c == ']' && s.state == stFirstElem {
			return s.closeContainer(c)
		}
		return s.beginValue(c)
	case stFirstKey, stKey:
		if c == '}' && s.state == stFirstKey {
			return s.closeContainer(c)
		}
		if c != '"' {
			return s.fail("Unexpected character (%s): was expecting double-quote to start field name", charDesc(c))
		}
		s.beginString(true)
		return true
	case stColon:
		if c != ':' {
			return s.fail("Unexpected character (%s): was expecting a colon to separate field name and value", charDesc(c))
		}
		s.state = stValue
		s.pos++
		return true
	default: // stAfter
		return s.afterValue(c)
	}
}

// afterValue handles the byte behind a value inside a container.
func (s *scanner) afterValue(c byte) bool {
	in := s.stack[len(s.stack)-1]
	switch {
	case c == ',' && in == '{':
		s.state = stKey
	case c == ',':
		s.state = stValue
	case c == '}' || c == ']':
		return s.closeContainer(c)
	case in == '{':
		return s.fail("Unexpected character (%s): was expecting comma to separate Object entries", charDesc(c))
	default:
		return s.fail("Unexpected character (%s): was expecting comma to separate Array entries", charDesc(c))
	}
	s.pos++
	return true
}

// beginValue handles the first byte of a value.
func (s *scanner) beginValue(c byte) bool {
	scalar := true
	switch {
	case c == '{' || c == '[':
		scalar = false
		if len(s.stack) == maxDepth {
			return s.fail("Document nesting depth (%d) exceeds the maximum allowed (%d, from `StreamReadConstraints.getMaxNestingDepth()`)",
				maxDepth+1, maxDepth)
		}
		s.stack = append(s.stack, c)
		s.state = stFirstKey
		if c == '[' {
			s.state = stFirstElem
		}
		s.pos++
	case c == '"':
		s.top = len(s.stack) == 0
		s.beginString(false)
		return true
	case c == '-':
		s.beginNumber(stMinus)
	case c == '0':
		s.beginNumber(stZero)
	case c >= '1' && c <= '9':
		s.beginNumber(stInt)
	case c == 't':
		s.beginWord("true")
	case c == 'f':
		s.beginWord("false")
	case c == 'n':
		s.beginWord("null")
	case c == 'N':
		s.beginWord("NaN")
	case c == 'I':
		s.beginWord("Infinity")
	case c == '}' || c == ']':
		return s.badClose(c)
	case isWordByte(c):
		s.state, s.numStart = stToken, s.pos
	default:
		return s.fail("Unexpected character (%s): expected a valid value (JSON String, Number, Array, Object or token 'null', 'true' or 'false')", charDesc(c))
	}
	s.top = scalar && len(s.stack) == 0
	return true
}

func (s *scanner) beginString(key bool) {
	s.pos++
	s.state, s.isKey, s.strStart, s.nonASCII = stString, key, s.pos, false
}

func (s *scanner) beginNumber(st scanState) {
	s.state, s.numStart = st, s.pos
	s.pos++
}

func (s *scanner) beginWord(w string) {
	s.state, s.word, s.wordPos, s.numStart = stLiteral, w, 1, s.pos
	s.pos++
}

// closeContainer handles '}' or ']' where one may stand.
func (s *scanner) closeContainer(c byte) bool {
	open := s.stack[len(s.stack)-1]
	if (c == '}') != (open == '{') {
		return s.badClose(c)
	}
	s.stack = s.stack[:len(s.stack)-1]
	s.pos++
	s.valueDone()
	return true
}

func (s *scanner) badClose(c byte) bool {
	want, where := ']', "Array"
	switch {
	case len(s.stack) == 0:
		where = "root"
	case s.stack[len(s.stack)-1] == '{':
		want, where = '}', "Object"
	}
	return s.fail("Unexpected close marker '%c': expected '%c' (for %s starting at [Source: REDACTED])", c, want, where)
}

// valueDone moves on behind a whole value.
func (s *scanner) valueDone() {
	s.state = stAfter
	if len(s.stack) == 0 {
		s.state = stTop
	}
}

// inString reads on inside a string until its end or the end of the buffer.
func (s *scanner) inString(b []byte) bool {
	i := s.pos
	for {
		for i < len(b) && !stringStop[b[i]] {
			i++
		}
		if i == len(b) {
			s.pos = i
			return true
		}
		switch c := b[i]; {
		case c >= 0x80:
			s.nonASCII = true
			i++
		case c == '"':
			if s.nonASCII && !utf8.Valid(b[s.strStart:i]) {
				s.pos = i
				return s.fail("%s", badUTF8(b[s.strStart:i+1]))
			}
			s.pos = i + 1
			if s.isKey {
				s.state = stColon
			} else {
				s.valueDone()
			}
			return true
		case c == '\\':
			s.pos, s.state = i+1, stEscape
			return true
		default:
			s.pos = i
			return s.fail("Illegal unquoted character (%s): has to be escaped using backslash to be included in %s",
				charDesc(c), map[bool]string{true: "name", false: "string value"}[s.isKey])
		}
	}
}

// inScalar handles one byte of an escape, a number or a word.
func (s *scanner) inScalar(b []byte) bool {
	c := b[s.pos]
	switch s.state {
	case stEscape:
		switch c {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			s.state = stString
		case 'u':
			s.state, s.hexLeft = stHex, 4
		default:
			return s.fail("Unrecognized character escape %s", charDesc(c))
		}
		s.pos++
		return true
	case stHex:
		if !isHex(c) {
			return s.fail("Unexpected character (%s): expected a hex-digit for character escape sequence", charDesc(c))
		}
		s.pos++
		if s.hexLeft--; s.hexLeft == 0 {
			s.state = stString
		}
		return true
	case stLiteral:
		return s.inWord(b, c)
	case stToken:
		if isWordByte(c) && s.pos-s.numStart < 256 {
			s.pos++
			return true
		}
		return s.failToken(b)
	default:
		return s.inNumber(b, c)
	}
}

// inWord matches true, false, null, or one of the number words JSON lacks.
func (s *scanner) inWord(b []byte, c byte) bool {
	if s.wordPos < len(s.word) {
		if c != s.word[s.wordPos] {
			s.state = stToken
			return true
		}
		s.wordPos++
		s.pos++
		return true
	}
	if isWordByte(c) {
		s.state = stToken
		return true
	}
	return s.endWord(b)
}

// endWord ends a word that matched in full.
func (s *scanner) endWord(b []byte) bool {
	if c := s.word[0]; c == 'N' || c == 'I' {
		// A non-standard number inside a record is refused but does not put
		// the parser out of step; between records it is rubbish.
		if len(s.stack) == 0 {
			return s.fail("%s", nonStandard(b[s.numStart:s.pos]))
		}
		s.setSoft(nonStandard(b[s.numStart:s.pos]))
	}
	s.valueDone()
	return true
}

func nonStandard(word []byte) string {
	return fmt.Sprintf("Non-standard token '%s': enable `JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS` to allow", word)
}

// inNumber handles one byte of a number.
func (s *scanner) inNumber(b []byte, c byte) bool {
	digit := c >= '0' && c <= '9'
	switch s.state {
	case stMinus:
		switch {
		case c == '0':
			s.state = stZero
		case digit:
			s.state = stInt
		case c == 'I':
			s.state, s.word, s.wordPos = stLiteral, "Infinity", 1
		default:
			return s.fail("Unexpected character (%s) in numeric value: expected digit (0-9) to follow minus sign, for valid numeric value", charDesc(c))
		}
	case stZero, stInt:
		switch {
		case digit && s.state == stZero:
			return s.fail("Invalid numeric value: Leading zeroes not allowed")
		case digit:
		case c == '.':
			s.state = stPoint
		case c == 'e' || c == 'E':
			s.state = stExp
		default:
			return s.endNumber(b, c)
		}
	case stPoint:
		if !digit {
			return s.fail("Unexpected character (%s) in numeric value: Decimal point not followed by a digit", charDesc(c))
		}
		s.state = stFrac
	case stFrac:
		switch {
		case digit:
		case c == 'e' || c == 'E':
			s.state = stExp
		default:
			return s.endNumber(b, c)
		}
	case stExp, stExpSign:
		switch {
		case digit:
			s.state = stExpDigits
		case s.state == stExp && (c == '+' || c == '-'):
			s.state = stExpSign
		default:
			return s.fail("Unexpected character (%s) in numeric value: Exponent indicator not followed by a digit", charDesc(c))
		}
	default: // stExpDigits
		if !digit {
			return s.endNumber(b, c)
		}
	}
	s.pos++
	return true
}

// endNumber ends a number before byte c (0 at the end of the body).
func (s *scanner) endNumber(b []byte, c byte) bool {
	if n := s.pos - s.numStart; n > maxNumberLen {
		s.setSoft(fmt.Sprintf("Number value length (%d) exceeds the maximum allowed (%d, from `StreamReadConstraints.getMaxNumberLength()`)", n, maxNumberLen))
	}
	if len(s.stack) == 0 && c != 0 && c != ' ' && c != '\t' && c != '\r' && c != '\n' {
		return s.fail("Unexpected character (%s): Expected space separating root-level values", charDesc(c))
	}
	_ = b
	s.valueDone()
	return true
}

// atEOF ends the body: cleanly, with a last scalar, or in the middle of a value.
func (s *scanner) atEOF(b []byte) (from int, status scanStatus) {
	switch s.state {
	case stTop:
		return 0, scanEOF
	case stZero, stInt, stFrac, stExpDigits:
		if len(s.stack) == 0 {
			s.endNumber(b, 0)
		}
	case stLiteral:
		if len(s.stack) == 0 && s.wordPos == len(s.word) && !s.endWord(b) {
			return 0, scanBroken
		}
	case stToken:
		s.failToken(b)
		return 0, scanBroken
	}
	if s.state == stTop {
		from, s.start = s.start, -1
		return from, scanValue
	}
	what := "was expecting closing quote for a string value"
	switch {
	case s.state == stString && s.isKey:
		what = "in field name"
	case s.state == stEscape || s.state == stHex:
		what = "in character escape sequence"
	case s.state == stString:
	case len(s.stack) > 0:
		what = "expected close marker for Object (start marker at [Source: REDACTED])"
		if s.stack[len(s.stack)-1] == '[' {
			what = "expected close marker for Array (start marker at [Source: REDACTED])"
		}
	default:
		what = "in a value"
	}
	s.fail("Unexpected end-of-input: %s", what)
	return 0, scanBroken
}

// failToken refuses the word at numStart..pos.
func (s *scanner) failToken(b []byte) bool {
	return s.fail("Unrecognized token '%s': was expecting (JSON String, Number, Array, Object or token 'null', 'true' or 'false')", b[s.numStart:s.pos])
}

// fail notes a syntax error. It is inside a value unless it stands between
// records: there a bad scalar is met while looking for the next record, except
// for a string, whose text is read only when the record is bound.
func (s *scanner) fail(format string, args ...any) bool {
	s.err = fmt.Errorf(format, args...)
	s.inValue = len(s.stack) > 0 || (s.top && (s.state == stString || s.state == stEscape || s.state == stHex))
	return false
}

func (s *scanner) setSoft(text string) {
	if s.soft == nil {
		s.soft = fmt.Errorf("%s", text)
	}
}

// charDesc writes a byte as Jackson does in its messages.
func charDesc(c byte) string {
	if c < 0x20 {
		return fmt.Sprintf("(CTRL-CHAR, code %d)", c)
	}
	if c >= 0x80 {
		return fmt.Sprintf("'\\u%04x' (code %d)", c, c)
	}
	return fmt.Sprintf("'%c' (code %d)", c, c)
}

// badUTF8 names the first wrong byte of b.
func badUTF8(b []byte) string {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r != utf8.RuneError || n > 1 {
			i += n
			continue
		}
		if b[i] >= 0xc2 && b[i] <= 0xf4 && i+1 < len(b) {
			return fmt.Sprintf("Invalid UTF-8 middle byte 0x%x", b[i+1])
		}
		return fmt.Sprintf("Invalid UTF-8 start byte 0x%x", b[i])
	}
	return "Invalid UTF-8"
}

// isWordByte says whether c can be part of a word, by Java's identifier rule
// within ASCII.
func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$'
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
