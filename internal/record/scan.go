package record

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"
)

// ScanState remembers where NextValue stopped between two fillings of a
// buffer. The zero value is the start of a stream.
type ScanState struct {
	pos      int // first byte not looked at yet, from the start of the value
	depth    int
	bom      uint8 // bytes of a byte order mark seen; bomOver when there can be none any more
	inString bool
	escaped  bool // the byte at pos follows a backslash
	skip     bool // everything up to the next newline is rubbish
}

const (
	byteOrderMark = "\xef\xbb\xbf"
	bomOver       = uint8(len(byteOrderMark))
)

// Drop tells that the caller has dropped n bytes of a value that goes on, as
// of one too long to be kept: the next NextValue's buffer begins behind them.
func (s *ScanState) Drop(n int) { s.pos -= n }

// Pending reports whether a value has begun and not ended: at the end of the
// stream that is a truncated record.
func (s *ScanState) Pending() bool { return s.depth > 0 }

// NextValue finds the next JSON value in a stream of them, with any white
// space between two or none: an object, or an array, number or literal, which
// CheckRecord refuses without those behind it suffering for it. It cuts, it does not validate: that is
// CheckRecord's work.
//
//   - ok: buf[start:end] is a value; the caller drops buf[:end].
//   - err: buf[start:end] is rubbish up to the end of its line, as far as it is
//     there; the caller drops buf[:end]. Reading goes on at the next line.
//   - neither: more bytes are needed; the caller drops buf[:start], appends, and
//     calls again. Nothing after start was finished, and no byte is looked at twice.
//
// Ownership: buf is read, never kept.
// Errors: *InvalidError, offset counted from the start of buf.
func NextValue(buf []byte, s *ScanState) (start, end int, ok bool, err error) {
	if s.skip {
		n := bytes.IndexByte(buf, '\n')
		if n < 0 {
			return len(buf), len(buf), false, nil
		}
		s.skip = false
		start = n + 1
	}
	if s.depth == 0 {
		if start = s.skipToValue(buf, start); start == len(buf) {
			return start, start, false, nil
		}
		if c := buf[start]; c != '{' && c != '[' { // an array is one value, for CheckRecord to refuse
			end, whole := scalar(buf, start)
			switch {
			case end == len(buf) && end-start < longestScalar && isScalarByte(c):
				return start, start, false, nil
			case whole:
				return start, end, true, nil
			}
			return s.rubbish(buf, start, start)
		}
		s.depth, s.pos = 1, 1
	}
	end, raw := s.scanObject(buf, start+s.pos)
	switch {
	case raw:
		return s.rubbish(buf, start, end)
	case s.depth == 0:
		s.pos = 0
		return start, end, true, nil
	}
	s.pos = end - start
	return start, end, false, nil
}

// longestScalar is the longest number or literal looked for.
const longestScalar = 64

// scalar returns where the number or literal at buf[i] ends, and whether it is
// one: a value like any other, though never a record.
func scalar(buf []byte, i int) (end int, whole bool) {
	for end = i; end < len(buf) && end-i < longestScalar && isScalarByte(buf[end]); end++ {
	}
	f, _ := checkJSON(buf[i:end], 1)
	return end, f == faultNone
}

func isScalarByte(c byte) bool {
	return c == '-' || c == '+' || c == '.' || c == 'E' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z'
}

// skipToValue skips white space, and a byte order mark at the stream's start.
func (s *ScanState) skipToValue(buf []byte, i int) int {
	for s.bom < bomOver && i < len(buf) {
		if buf[i] != byteOrderMark[s.bom] {
			s.bom = bomOver
			break
		}
		s.bom++
		i++
	}
	return skipSpace(buf, i)
}

// rubbish reports what is wrong at index at, of a value or line begun at
// start, and moves on to the line after it.
func (s *ScanState) rubbish(buf []byte, start, at int) (int, int, bool, error) {
	what := strconv.QuoteRune(rune(buf[at]))
	if buf[at] == '\n' {
		what = "a newline inside a string"
	} else if buf[at] >= 0x80 {
		what = "byte 0x" + strconv.FormatUint(uint64(buf[at]), 16)
	}
	*s = ScanState{bom: bomOver}
	end := len(buf)
	if n := bytes.IndexByte(buf[at:], '\n'); n >= 0 {
		end = at + n + 1
	} else {
		s.skip = true
	}
	return start, end, false, invalid(ReasonInvalidRecord, "record input: "+what+" at byte "+strconv.Itoa(at)+
		" where only a JSON object can be: going on at the next line")
}

// scanObject goes on from i until the object ends (depth 0), buf ends, or a
// newline is found inside a string (raw).
func (s *ScanState) scanObject(buf []byte, i int) (at int, raw bool) {
	for {
		if s.inString {
			if i, raw = s.scanText(buf, i); raw || s.inString {
				return i, raw
			}
		}
		for ; i < len(buf); i++ {
			switch buf[i] {
			case '"':
				s.inString = true
			case '{', '[':
				s.depth++
				continue
			case '}', ']':
				if s.depth--; s.depth == 0 {
					return i + 1, false
				}
				continue
			default:
				continue
			}
			break
		}
		if i == len(buf) {
			return i, false
		}
		i++
	}
}

// scanText goes on inside a string until it is closed, buf ends or a newline.
func (s *ScanState) scanText(buf []byte, i int) (at int, raw bool) {
	for i < len(buf) {
		if s.escaped {
			s.escaped = false
			if buf[i] == '\n' {
				return i, true
			}
			i++
			continue
		}
		if i+8 <= len(buf) {
			m := specials(binary.LittleEndian.Uint64(buf[i:]))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) >> 3
		}
		switch buf[i] {
		case '"':
			s.inString = false
			return i + 1, false
		case '\\':
			s.escaped = true
		case '\n':
			return i, true
		}
		i++
	}
	return i, false
}
