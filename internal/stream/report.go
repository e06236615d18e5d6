package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/goccy/go-json"
)

// maxReport is the longest report believed in: the message of an error is one
// line of text, so a megabyte without an end is no report.
const maxReport = 1 << 20

// Report is one delivery report.
//
// Ownership: the slices point into the parser's or the connection's buffer and
// are valid until the next call of the parser.
// Source: kafka-rest ProduceResponse; an error report holds error_code and
// message and nothing else.
type Report struct {
	ErrorCode int
	Partition int32 // -1 when not told
	Offset    int64 // -1 when not told
	Message   []byte
	Raw       []byte // the whole object as it came
}

var (
	errNotReport  = errors.New("answer is not a sequence of JSON delivery reports")
	errLongReport = fmt.Errorf("a delivery report is longer than %d bytes", maxReport)
)

// parser cuts the bytes of an answer into delivery reports.
//
// Reports may be split anywhere, merged, or printed over many lines: the only
// thing relied on is JSON's own structure. The success reports of a stream
// differ only in a few numbers and a time, so their shape is learned from the
// first ones and compared from then on; whatever does not fit goes through the
// general scanner.
//
// Concurrency: one goroutine.
type parser struct {
	shapes [2]shape // the shapes learned; the one that fitted last is first

	// A report that is not whole yet: its bytes so far and where the scan stands.
	carry   []byte
	depth   int
	inText  bool
	escaped bool

	report Report
}

// next cuts one report off data.
//
// It returns the bytes behind the report and ok when p.report was filled; with
// ok false and no error all of data was taken and more is needed.
// Errors: errNotReport for bytes that cannot begin a report; errLongReport. A
// balanced object that is not JSON, or holds no error_code, is a report with
// ErrorCode 0: its record's fate is unknown.
func (p *parser) next(data []byte) (rest []byte, ok bool, err error) {
	if len(p.carry) == 0 {
		data = trimSpace(data)
		if len(data) == 0 {
			return nil, false, nil
		}
		if n := p.shapes[0].match(data, &p.report); n > 0 {
			return data[n:], true, nil
		}
		if n := p.shapes[1].match(data, &p.report); n > 0 {
			p.shapes[0], p.shapes[1] = p.shapes[1], p.shapes[0]
			return data[n:], true, nil
		}
		if data[0] != '{' {
			return nil, false, errNotReport
		}
	}
	n := p.scan(data)
	if n < 0 {
		if len(p.carry)+len(data) > maxReport {
			return nil, false, errLongReport
		}
		p.carry = append(p.carry, data...)
		return nil, false, nil
	}
	object := data[:n]
	if len(p.carry) > 0 {
		p.carry = append(p.carry, object...)
		object = p.carry
		p.carry = p.carry[:0]
	}
	if len(object) > maxReport {
		return nil, false, errLongReport
	}
	// A report cut by the end of a read has the known shape like any other.
	for i := range p.shapes {
		if p.shapes[i].match(object, &p.report) == len(object) {
			return data[n:], true, nil
		}
	}
	parseReport(&p.report, object)
	if p.report.ErrorCode == 200 {
		var s shape
		if s.learn(object) {
			p.shapes[0], p.shapes[1] = s, p.shapes[0]
		}
	}
	return data[n:], true, nil
}

// successes counts the reports at the head of data that fit a learned shape,
// and returns the bytes behind them: the loop a healthy stream lives in.
func (p *parser) successes(data []byte) (n int, rest []byte) {
	if len(p.carry) > 0 {
		return 0, data
	}
	for {
		data = trimSpace(data)
		size := p.shapes[0].match(data, &p.report)
		if size == 0 {
			return n, data
		}
		n++
		data = data[size:]
	}
}

// scan moves over data and returns where the object ends, or -1 when its end
// is not in data. The state is kept, so no byte is looked at twice.
func (p *parser) scan(data []byte) int {
	for i := 0; i < len(data); i++ {
		c := data[i]
		if p.inText {
			switch {
			case p.escaped:
				p.escaped = false
			case c == '\\':
				p.escaped = true
			case c == '"':
				p.inText = false
			}
			continue
		}
		switch c {
		case '"':
			p.inText = true
		case '{', '[':
			p.depth++
		case '}', ']':
			if p.depth--; p.depth <= 0 {
				p.depth = 0
				return i + 1
			}
		}
	}
	return -1
}

// pending says whether the beginning of a report is waiting for its end.
func (p *parser) pending() bool { return len(p.carry) > 0 }

func trimSpace(data []byte) []byte {
	for len(data) > 0 {
		switch data[0] {
		case '\r', '\n', ' ', '\t':
			data = data[1:]
		default:
			return data
		}
	}
	return data
}

// parseReport fills dst from one JSON object, the general way.
func parseReport(dst *Report, object []byte) {
	*dst = Report{Partition: -1, Offset: -1, Raw: object}
	var wire struct {
		ErrorCode int    `json:"error_code"`
		Partition *int32 `json:"partition_id"`
		Offset    *int64 `json:"offset"`
		Message   string `json:"message"`
	}
	if err := json.Unmarshal(object, &wire); err != nil {
		dst.Message = []byte("delivery report is not readable: " + err.Error())
		return
	}
	dst.ErrorCode = wire.ErrorCode
	if wire.Partition != nil {
		dst.Partition = *wire.Partition
	}
	if wire.Offset != nil {
		dst.Offset = *wire.Offset
	}
	dst.Message = []byte(wire.Message)
	if wire.ErrorCode == 0 {
		dst.Message = []byte("delivery report has no error_code")
	}
}

// shape is what the success reports of a stream have in common: the bytes in
// front of, between and behind the values that vary.
type shape struct {
	prefix []byte // up to the number of the partition
	offset []byte // up to the number of the offset
	time   []byte // up to the first digit of the time
	sizes  [][]byte
	end    []byte
}

// The markers a compact success report is cut at. They are looked for as they
// stand, so an object in which a string holds one of them is compared with a
// shape that never fits again, and the general scanner takes it.
var (
	markOffset = []byte(`,"offset":`)
	markTime   = []byte(`,"timestamp":"`)
	markSize   = []byte(`,"size":`)
	markPart   = []byte(`,"partition_id":`)
)

// learn takes the shape of one parsed success report. It declines, returning
// false, whatever is not laid out as kafka-rest does it.
func (s *shape) learn(object []byte) bool {
	part := bytes.Index(object, markPart)
	if part < 0 || !bytes.HasPrefix(object, []byte(`{"error_code":200,`)) {
		return false
	}
	at := part + len(markPart)
	s.prefix = bytes.Clone(object[:at])
	at += digits(object[at:])
	if !bytes.HasPrefix(object[at:], markOffset) {
		return false
	}
	s.offset = markOffset
	at += len(markOffset)
	at += digits(object[at:])
	if bytes.HasPrefix(object[at:], markTime) {
		s.time = markTime
		at += len(markTime)
		n := timeLen(object[at:])
		if n == 0 {
			return false
		}
		at += n
	}
	for {
		i := bytes.Index(object[at:], markSize)
		if i < 0 {
			break
		}
		piece := object[at : at+i+len(markSize)]
		s.sizes = append(s.sizes, bytes.Clone(piece))
		at += len(piece)
		at += digits(object[at:])
	}
	s.end = bytes.Clone(object[at:])
	var check Report
	return s.match(object, &check) == len(object)
}

// match compares the head of data with s and returns the length of the report
// there, 0 when it does not fit or is not whole.
func (s *shape) match(data []byte, dst *Report) int {
	if len(s.prefix) == 0 || !bytes.HasPrefix(data, s.prefix) {
		return 0
	}
	at := len(s.prefix)
	partition, n := number(data[at:])
	if n == 0 {
		return 0
	}
	at += n
	if !bytes.HasPrefix(data[at:], s.offset) {
		return 0
	}
	at += len(s.offset)
	offset, n := number(data[at:])
	if n == 0 {
		return 0
	}
	at += n
	if len(s.time) > 0 {
		if !bytes.HasPrefix(data[at:], s.time) {
			return 0
		}
		at += len(s.time)
		if n = timeLen(data[at:]); n == 0 {
			return 0
		}
		at += n
	}
	for _, piece := range s.sizes {
		if !bytes.HasPrefix(data[at:], piece) {
			return 0
		}
		at += len(piece)
		if n = digits(data[at:]); n == 0 {
			return 0
		}
		at += n
	}
	if !bytes.HasPrefix(data[at:], s.end) {
		return 0
	}
	at += len(s.end)
	dst.ErrorCode, dst.Partition, dst.Offset = 200, int32(partition), offset
	dst.Message, dst.Raw = nil, data[:at]
	return at
}

// digits returns how many bytes at the head of data are an integer.
func digits(data []byte) int {
	i := 0
	if len(data) > 0 && data[0] == '-' {
		i = 1
	}
	start := i
	for i < len(data) && data[i]-'0' <= 9 {
		i++
	}
	if i == start {
		return 0
	}
	return i
}

// number reads the integer at the head of data and how long it is; 0 when
// there is none, or when data ends with it and more digits may follow.
func number(data []byte) (value int64, n int) {
	for n < len(data) && data[n]-'0' <= 9 {
		value = value*10 + int64(data[n]-'0')
		n++
	}
	if n == len(data) || n > 18 {
		return 0, 0
	}
	return value, n
}

// timeLen returns the length of an ISO-8601 UTC time with 0 or 3 digits of a
// fraction at the head of data: what kafka-rest writes. 0 for all else.
func timeLen(data []byte) int {
	if len(data) < 21 || data[4] != '-' || data[7] != '-' || data[10] != 'T' || data[13] != ':' || data[16] != ':' {
		return 0
	}
	// A quote or a backslash in place of a digit would end or bend the string.
	if !digitsIn(data, 0, dayDigits) || !digitsIn(data, 8, clockDigits) || !digitsIn(data, 11, clockDigits) {
		return 0
	}
	if data[19] == 'Z' && data[20] == '"' {
		return 20
	}
	if len(data) > 24 && data[19] == '.' && data[23] == 'Z' && data[24] == '"' &&
		data[20]-'0' <= 9 && data[21]-'0' <= 9 && data[22]-'0' <= 9 {
		return 24
	}
	return 0
}

// Which of eight bytes are to be digits, the first in the lowest byte.
const (
	dayDigits   = 0x00_ff_ff_00_ff_ff_ff_ff // "2021-12-"
	clockDigits = 0xff_ff_00_ff_ff_00_ff_ff // "13T16:29" and "16:29:10"
)

// digitsIn says whether those of the eight bytes at data[at:] that mask names
// are digits: high half 3, low half at most 9, all eight at once.
func digitsIn(data []byte, at int, mask uint64) bool {
	const high, low = 0xf0f0f0f0f0f0f0f0, 0x0f0f0f0f0f0f0f0f
	w := binary.LittleEndian.Uint64(data[at:])
	return (w&high^0x3030303030303030)&mask == 0 && (w&low+0x0606060606060606)&high&mask == 0
}
