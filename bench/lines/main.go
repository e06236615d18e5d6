// Command lines writes JSON log events of one exact size, numbered from 0: at
// once into a file, wrapped as produce records if asked, or at a fixed rate
// with the time each was due in it.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/produce-agent/produce-agent/bench/line"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "lines:", err)
		os.Exit(1)
	}
}

func run() error {
	n := flag.Uint64("n", 1_000_000, "how many lines")
	size := flag.Int("size", 200, "bytes of a line, its newline not counted")
	first := flag.Uint64("first", 0, "number of the first line")
	wrap := flag.String("wrap", "", "write produce records of this type instead of bare lines: json, string or binary")
	out := flag.String("o", "-", "file to write; - is stdout")
	rate := flag.Float64("rate", 0, "lines a second, each stamped with the time it was due; 0 writes as fast as it goes")
	flag.Parse()

	if *n > line.Max || *first > line.Max-*n {
		return fmt.Errorf("-n=%d: numbers go up to %d", *n, uint64(line.Max))
	}
	m, err := line.NewMaker(*size)
	if err != nil {
		return err
	}
	w := os.Stdout
	if *out != "-" {
		if w, err = os.Create(*out); err != nil {
			return err
		}
	}
	s := source{m: m, first: *first, n: *n, wrap: strings.ToUpper(*wrap)}
	if *rate > 0 {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = s.paced(ctx, w, time.Duration(float64(time.Second) / *rate))
	} else {
		err = s.all(w)
	}
	if err != nil {
		return err
	}
	return w.Close()
}

// source is the lines of one run.
type source struct {
	m        *line.Maker
	first, n uint64
	wrap     string // record type, or empty for bare lines
	line     []byte
}

// add appends line i with its newline, wrapped if asked.
func (s *source) add(dst []byte, i uint64, due int64) ([]byte, error) {
	s.line = s.m.Append(s.line[:0], s.first+i, due)
	if s.wrap == "" {
		return append(append(dst, s.line...), '\n'), nil
	}
	return line.Wrap(dst, s.line, s.wrap)
}

// all writes the lines as fast as it goes.
func (s *source) all(to io.Writer) error {
	w := bufio.NewWriterSize(to, 256<<10)
	var buf []byte
	for i := range s.n {
		var err error
		if buf, err = s.add(buf[:0], i, 0); err != nil {
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return w.Flush()
}

// paced writes a line every gap. A line is stamped with the time it was due,
// not with the time it was written: if the reader falls behind, the delay it
// causes is measured and not hidden. Lines that are late are written together.
func (s *source) paced(ctx context.Context, w io.Writer, gap time.Duration) error {
	start := time.Now().Add(gap)
	var buf []byte
	for i := uint64(0); i < s.n && ctx.Err() == nil; {
		sleepUntil(start.Add(time.Duration(i) * gap))
		buf = buf[:0]
		for i < s.n {
			due := start.Add(time.Duration(i) * gap)
			if len(buf) > 0 && time.Until(due) > 0 {
				break
			}
			var err error
			if buf, err = s.add(buf, i, due.UnixNano()); err != nil {
				return err
			}
			i++
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
