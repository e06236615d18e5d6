package tail

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow caps what a zstd stream may ask to be kept: 8 MiB is what the
// format tells decoders to support, and zstd up to level 19 stays within; 32 MiB
// is room for --long=25. One file at a time is decompressed.
const maxWindow = 32 << 20

// format is a way to compress.
type format struct {
	name  string
	magic string
	open  func(io.Reader) (io.ReadCloser, error) // nil: known by sight only
}

var formats = []format{
	{"gzip", "\x1f\x8b\x08", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"zstd", "\x28\xb5\x2f\xfd", openZstd},
	{"bzip2", "BZh", func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
	{"xz", "\xfd7zXZ\x00", nil},
	{"lz4", "\x04\x22\x4d\x18", nil},
	{"compress", "\x1f\x9d", nil},
}

func openZstd(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

// formatOf tells by its first bytes how a file is compressed; nil: it is not.
// Of BZh a digit and the magic of a block must follow: it could be text.
func formatOf(head []byte) *format {
	for i := range formats {
		f := &formats[i]
		if !bytes.HasPrefix(head, []byte(f.magic)) {
			continue
		}
		if f.name == "bzip2" && (len(head) < 10 || string(head[4:10]) != "1AY&SY") {
			continue
		}
		return f
	}
	return nil
}

// unpacker reads what is in a compressed file, from its beginning on.
type unpacker struct {
	in   io.ReadCloser
	buf  []byte
	fill int   // of buf
	at   int64 // offset of buf[0] in what is in the file
	raw  *counted
}

// counted counts the compressed bytes.
type counted struct {
	f  *os.File
	at int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.f.ReadAt(p, c.at)
	c.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func newUnpacker(f *os.File, buffer int) (*unpacker, error) {
	var head [16]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	kind := formatOf(head[:n])
	if kind == nil {
		return nil, errChanged
	}
	if kind.open == nil {
		return nil, fmt.Errorf("compressed with %s, which is not read here: use gzip or zstd", kind.name)
	}
	u := &unpacker{raw: &counted{f: f}, buf: make([]byte, buffer)}
	if u.in, err = kind.open(u.raw); err != nil {
		return nil, u.wrap(err)
	}
	return u, nil
}

// read reads once behind what is in buf.
//
// Errors: io.EOF at the proper end, *unpackError.
func (u *unpacker) read() error {
	n, err := u.in.Read(u.buf[u.fill:])
	u.fill += n
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return u.wrap(err)
	}
	if errors.Is(err, io.EOF) && n > 0 {
		return nil
	}
	return err
}

// drop takes n bytes off the head of buf.
func (u *unpacker) drop(n int) {
	u.fill = copy(u.buf, u.buf[n:u.fill])
	u.at += int64(n)
}

func (u *unpacker) close() { u.in.Close() }

func (u *unpacker) wrap(err error) error {
	return &unpackError{at: u.at + int64(u.fill), raw: u.raw.at, err: err}
}

// unpackError says where a compressed file cannot be read on.
type unpackError struct {
	at, raw int64
	err     error
}

func (e *unpackError) Error() string {
	if errors.Is(e.err, io.ErrUnexpectedEOF) || errors.Is(e.err, io.EOF) {
		return fmt.Sprintf("the compressed file ends in the middle, at byte %d (byte %d of what is in it)", e.raw, e.at)
	}
	if errors.Is(e.err, zstd.ErrWindowSizeExceeded) {
		return fmt.Sprintf("its zstd window is larger than %d MiB: compress it without --long", maxWindow>>20)
	}
	return fmt.Sprintf("damaged near byte %d (byte %d of what is in it): %v", e.raw, e.at, e.err)
}

func (e *unpackError) Unwrap() error { return e.err }
