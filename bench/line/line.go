// Package line makes the log lines the load programs send, and finds their
// numbers again in what arrives: the sender's side and the checking side of one
// fixed layout.
package line

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
)

// Base is added to a line's number, so that the number always has the same
// ten digits and every line of a run the same length.
const Base = 1_000_000_000

// Max is the largest number a line can carry.
const Max = 9_999_999_999 - Base

// epoch is the due time of line 0 in a file; line i is due i microseconds
// later. Any nanosecond time with nineteen digits would do.
const epoch = 1_700_000_000_000_000_000

const (
	seqName = `{"seq":`
	dueName = `,"due":`
	seqAt   = len(seqName)
	dueAt   = seqAt + 10 + len(dueName)
	headLen = dueAt + 19
	// b64Head is how many base64 characters hold the first headLen bytes.
	b64Head = (headLen + 2) / 3 * 4
)

// MinSize is the shortest line a Maker makes, in bytes.
const MinSize = headLen + len(`,"trace":"`) + 8 + len(`"}`)

// Maker makes JSON log events of one size that differ in number, due time,
// level and trace.
//
// Concurrency: for one goroutine.
type Maker struct {
	tmpl  []byte
	level int // where the level's four letters are, 0 without
	trace int // where the trace starts
}

// NewMaker returns a Maker of lines of size bytes, the newline not counted.
//
// Shape: `{"seq":…,"due":…,"level":"info",…,"trace":"…"}`. A line of 200 bytes
// holds 28 quotes, for quotes are what makes a STRING record dear; shorter
// lines have fewer fields, from 400 bytes on more are added at the same density.
// Errors: a size below MinSize.
func NewMaker(size int) (*Maker, error) {
	if size < MinSize {
		return nil, fmt.Errorf("line of %d bytes: the shortest is %d", size, MinSize)
	}
	m := &Maker{}
	t := fmt.Appendf(nil, "%s%d%s%d", seqName, Base, dueName, epoch)
	const tail = `,"trace":"` + `"}`
	room := func(field string) bool { return len(t)+len(field)+len(tail)+8 <= size }
	for _, field := range []string{
		`,"level":"info"`, `,"service":"checkout"`, `,"host":"web-17"`,
		`,"msg":"request served"`, `,"path":"/api/v1/items"`,
	} {
		if !room(field) {
			break
		}
		if m.level == 0 {
			m.level = len(t) + len(`,"level":"`)
		}
		t = append(t, field...)
	}
	for i := 0; size >= 400; i++ {
		field := fmt.Sprintf(`,"tag%02d":"eu-central-%05d"`, i%100, i)
		if !room(field) {
			break
		}
		t = append(t, field...)
	}
	t = append(t, `,"trace":"`...)
	m.trace = len(t)
	for len(t) < size-2 {
		t = append(t, '0')
	}
	m.tmpl = append(t, `"}`...)
	return m, nil
}

// Append appends line number seq, due at the Unix time due in nanoseconds, and
// no newline. A due of 0 stands for the made-up time lines in files carry.
func (m *Maker) Append(dst []byte, seq uint64, due int64) []byte {
	at := len(dst)
	dst = append(dst, m.tmpl...)
	l := dst[at:]
	if due == 0 {
		due = epoch + int64(seq)*1000
	}
	digits(l[seqAt:seqAt+10], seq+Base)
	digits(l[dueAt:dueAt+19], uint64(due))
	h := seq*0x9E3779B97F4A7C15 + 1
	if m.level > 0 && h>>60 == 0 {
		copy(l[m.level:], "warn")
	}
	t := l[m.trace : len(l)-2]
	for i := range t {
		if i&15 == 15 {
			h ^= h << 13
			h ^= h >> 7
			h ^= h << 17
		}
		t[i] = "0123456789abcdef"[h>>(uint(i&15)*4)&15]
	}
	return dst
}

// digits fills p with n in decimal, padded with zeros.
func digits(p []byte, n uint64) {
	for i := len(p) - 1; i >= 0; i-- {
		p[i] = byte('0' + n%10)
		n /= 10
	}
}

// Wrap appends line as one produce record of type JSON, STRING or BINARY, with
// its newline.
//
// Errors: another type.
// Source: Confluent REST v3 OpenAPI, schema ProduceRequest.
func Wrap(dst, line []byte, typ string) ([]byte, error) {
	dst = append(dst, `{"value":{"type":"`...)
	dst = append(dst, typ...)
	dst = append(dst, `","data":`...)
	switch typ {
	case "JSON":
		dst = append(dst, line...)
	case "STRING": // a line of a Maker is ASCII: what strconv writes is JSON
		dst = strconv.AppendQuote(dst, string(line))
	case "BINARY":
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, line)
		dst = append(dst, '"')
	default:
		return dst, fmt.Errorf("record type %q: JSON, STRING or BINARY", typ)
	}
	return append(dst, "}}\n"...), nil
}

var (
	valueMark = []byte(`"value":{`)
	dataMark  = []byte(`"data":`)
)

// Find returns the number and the due time (Unix nanoseconds) of the line that
// the produce record rec holds, whichever of the three types carries it.
// ok is false where rec holds no such line.
//
// Ownership: rec is read, never kept. Allocates nothing.
func Find(rec []byte) (seq uint64, due int64, ok bool) {
	i := bytes.Index(rec, valueMark)
	if i < 0 {
		return 0, 0, false
	}
	d := rec[i+len(valueMark):]
	if i = bytes.Index(d, dataMark); i < 0 {
		return 0, 0, false
	}
	d = d[i+len(dataMark):]
	if len(d) > 0 && d[0] == ' ' {
		d = d[1:]
	}
	switch {
	case bytes.HasPrefix(d, []byte(`{`)):
		return numbers(d, 0)
	case bytes.HasPrefix(d, []byte(`"{`)):
		return numbers(d[1:], 1)
	case bytes.HasPrefix(d, []byte(`"`)) && len(d) > b64Head:
		var head [b64Head]byte
		n, err := base64.StdEncoding.Decode(head[:], d[1:1+b64Head])
		if err != nil {
			return 0, 0, false
		}
		return numbers(head[:n], 0)
	}
	return 0, 0, false
}

// numbers reads seq and due from the head of a line in which every quote has
// esc bytes before it.
func numbers(d []byte, esc int) (uint64, int64, bool) {
	s, u := seqAt+2*esc, dueAt+4*esc
	if len(d) < u+19 || d[s-1] != ':' || d[u-1] != ':' ||
		string(d[2+esc:5+esc]) != "seq" || d[s+10] != ',' {
		return 0, 0, false
	}
	seq, ok1 := decimal(d[s : s+10])
	due, ok2 := decimal(d[u : u+19])
	if !ok1 || !ok2 || seq < Base {
		return 0, 0, false
	}
	return seq - Base, int64(due), true
}

func decimal(p []byte) (n uint64, ok bool) {
	for _, c := range p {
		if c -= '0'; c > 9 {
			return 0, false
		}
		n = n*10 + uint64(c)
	}
	return n, true
}
