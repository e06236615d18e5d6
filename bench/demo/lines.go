package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// sum stands for a line: the first half of its SHA-256. Two lines of some
// millions share one with a chance below 1 in 10^25.
type sum [16]byte

// multiset counts lines: up for every one read from a file, down for every one
// read back. It keeps sums, not lines: some 40 bytes for each different line.
type multiset struct {
	counts map[sum]int32
	lines  int64 // lines added
}

func newMultiset() *multiset { return &multiset{counts: map[sum]int32{}} }

// add counts the lines of r up, at most limit of them (negative: no limit), and
// returns how many bytes they take in r.
//
// Only LF ends a line, and it is no part of it; CR is. A last line without LF
// counts, an empty line counts, an empty file has no line.
func (m *multiset) add(r io.Reader, limit int64) (lines, size int64, err error) {
	in := bufio.NewReaderSize(r, 64<<10)
	h := sha256.New()
	var full [sha256.Size]byte
	open := false // a line has begun
	for limit < 0 || lines < limit {
		p, err := in.ReadSlice('\n')
		size += int64(len(p))
		switch {
		case err == nil:
			h.Write(p[:len(p)-1])
		case errors.Is(err, bufio.ErrBufferFull):
			h.Write(p)
			open = true
			continue
		case errors.Is(err, io.EOF):
			if len(p) == 0 && !open {
				return lines, size, nil
			}
			h.Write(p)
		default:
			return lines, size, err
		}
		m.counts[sum(h.Sum(full[:0])[:16])]++
		h.Reset()
		m.lines++
		lines++
		if open = false; err != nil {
			break
		}
	}
	return lines, size, nil
}

// take counts one line down.
func (m *multiset) take(value []byte) {
	full := sha256.Sum256(value)
	s := sum(full[:16])
	if n := m.counts[s] - 1; n == 0 {
		delete(m.counts, s)
	} else {
		m.counts[s] = n
	}
}

// rest returns how many lines never came back and how many came that were not
// sent, or too often.
func (m *multiset) rest() (missing, extra int64) {
	for _, n := range m.counts {
		if n > 0 {
			missing += int64(n)
		} else {
			extra -= int64(n)
		}
	}
	return missing, extra
}

// examples names up to n of the lines that differ, by the start of their sums,
// so that two runs can be compared.
func (m *multiset) examples(n int) []string {
	var out []string
	for s, c := range m.counts {
		out = append(out, fmt.Sprintf("%s:%+d", hex.EncodeToString(s[:4]), -c))
		if len(out) == n {
			break
		}
	}
	slices.Sort(out)
	return out
}

// addFile counts the lines of a file.
func (m *multiset) addFile(name string) (lines, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	return m.add(f, -1)
}

// chop cuts names into runs whose lengths add up to at most limit bytes each,
// for a command line has a bound.
func chop(names []string, limit int) [][]string {
	var out [][]string
	var run []string
	size := 0
	for _, n := range names {
		if len(run) > 0 && size+len(n)+1 > limit {
			out, run, size = append(out, run), nil, 0
		}
		run = append(run, n)
		size += len(n) + 1
	}
	if len(run) > 0 {
		out = append(out, run)
	}
	return out
}
