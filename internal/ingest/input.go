package ingest

import (
	"context"
	"fmt"
	"io"
	"os"
)

// Input is an opened stdin or file.
type Input struct {
	Name string // as given on the command line, or stdin
	Size int64  // bytes, -1 where nobody knows
	Live bool   // bytes come as they are made: pipe, terminal, socket
	ID   string // what record ids of it begin with

	in io.Reader
	f  *os.File
}

// OpenFile opens a file given by name. Pipes and devices may be named too, as
// in `ship <(command)`.
// Errors: missing, unreadable, a directory.
func OpenFile(ctx context.Context, name string) (*Input, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	return fromFile(ctx, name, f)
}

// Stdin returns standard input.
func Stdin(ctx context.Context, f *os.File) (*Input, error) { return fromFile(ctx, "stdin", f) }

func fromFile(ctx context.Context, name string, f *os.File) (*Input, error) {
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("stat %s: %w", name, err)
	}
	in := &Input{Name: name, Size: -1, f: f, in: f}
	switch {
	case info.IsDir():
		f.Close()
		return nil, fmt.Errorf("%s is a directory: name the files in it", name)
	case info.Mode().IsRegular():
		in.Size = info.Size()
		in.ID = fileID(name, info)
		in.in = stoppable{ctx, f}
	default:
		in.Live = true
		in.ID = runID()
		in.in = interruptible(ctx, f)
	}
	return in, nil
}

// Read takes the input apart with r, as source number src, and tells
// progress of every read's bytes.
func (in *Input) Read(r *Reader, src int32, progress func(n int)) error {
	return r.Read(&counting{in.in, progress}, src, in.ID, in.Live)
}

// ReadDeadLetter takes a dead-letter file apart with r, as source number src.
func (in *Input) ReadDeadLetter(r *DeadLetterReader, src int32, progress func(n int)) error {
	return r.Read(&counting{in.in, progress}, src)
}

// Leave ends the reading of a file that stays open, for another to read on.
func (in *Input) Leave() {
	if p, ok := in.in.(*polled); ok {
		p.leave()
	}
}

// Close closes the file.
func (in *Input) Close() error {
	if c, ok := in.in.(io.Closer); ok {
		return c.Close()
	}
	return in.f.Close()
}

// stoppable ends a file's reading when ctx does.
type stoppable struct {
	ctx context.Context
	io.Reader
}

func (s stoppable) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, errStopped
	}
	return s.Reader.Read(p)
}

// counting tells of every read.
type counting struct {
	io.Reader
	tell func(n int)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.tell(n)
	return n, err
}

// pacerOf returns in as a pacer, nil when it is none.
func pacerOf(in io.Reader) pacer {
	if c, ok := in.(*counting); ok {
		in = c.Reader
	}
	p, _ := in.(pacer)
	return p
}
