package main

import (
	"bytes"
	"errors"
)

var errChunk = errors.New("chunked body: malformed chunk")

// dechunker undoes HTTP/1.1 chunked coding of a body that arrives in pieces
// cut anywhere.
//
// Source: RFC 9112 section 7.1. Chunk extensions and trailers are skipped.
type dechunker struct {
	state  byte
	left   uint64 // payload bytes of the current chunk still to come
	digits int    // hex digits of the size seen so far
	blank  bool   // the trailer line so far is empty
	chunks int64  // chunks begun, the last one not counted
}

const (
	inSize byte = iota
	inExt
	inData
	afterData
	inTrailer
	bodyDone
)

// next takes from p what it can. It returns a piece of payload (a slice of p,
// nil if none came) and how many bytes of p it took; call it again with the
// rest until p is used up or done reports true.
func (d *dechunker) next(p []byte) (payload []byte, n int, err error) {
	for n < len(p) {
		switch d.state {
		case inData:
			take := len(p) - n
			if uint64(take) > d.left {
				take = int(d.left)
			}
			payload = p[n : n+take]
			if d.left -= uint64(take); d.left == 0 {
				d.state = afterData
			}
			return payload, n + take, nil
		case bodyDone:
			return nil, n, nil
		}
		if err := d.step(p[n]); err != nil {
			return nil, n, err
		}
		n++
	}
	return nil, n, nil
}

// step takes one byte of framing.
func (d *dechunker) step(c byte) error {
	switch d.state {
	case inSize:
		if v := hexDigit(c); v < 16 {
			if d.digits++; d.digits > 15 {
				return errChunk
			}
			d.left = d.left<<4 | uint64(v)
			return nil
		}
		if d.digits == 0 || (c != '\r' && c != '\n' && c != ';' && c != ' ') {
			return errChunk
		}
		d.state = inExt
		return d.step(c)
	case inExt:
		if c == '\n' {
			d.sized()
		}
	case afterData:
		if c == '\n' {
			d.state, d.digits = inSize, 0
		} else if c != '\r' {
			return errChunk
		}
	case inTrailer:
		if c == '\n' {
			if d.blank {
				d.state = bodyDone
			}
			d.blank = true
		} else if c != '\r' {
			d.blank = false
		}
	}
	return nil
}

// sized ends a chunk's size line.
func (d *dechunker) sized() {
	if d.left == 0 {
		d.state, d.blank = inTrailer, true
		return
	}
	d.state = inData
	d.chunks++
}

// done says that the body has ended.
func (d *dechunker) done() bool { return d.state == bodyDone }

func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10
	}
	return 0xff
}

// splitter cuts payload into newline-separated records, over any cuts of the
// payload. Lines of nothing but white space are heartbeats and no records.
type splitter struct {
	part []byte // the start of a record whose end has not come
}

// cut calls each for every record that ends in p, without its newline.
//
// Ownership: the record is valid during the call only.
func (s *splitter) cut(p []byte, each func(rec []byte)) {
	if len(s.part) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.part = append(s.part, p...)
			return
		}
		s.part = append(s.part, p[:i]...)
		p = p[i+1:]
		if !blank(s.part) {
			each(s.part)
		}
		s.part = s.part[:0]
	}
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		if !blank(p[:i]) {
			each(p[:i])
		}
		p = p[i+1:]
	}
	s.part = append(s.part, p...)
}

// end calls each for a last record without a newline, if there is one.
func (s *splitter) end(each func(rec []byte)) {
	if !blank(s.part) {
		each(s.part)
	}
	s.part = s.part[:0]
}

func blank(p []byte) bool {
	for _, c := range p {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}
