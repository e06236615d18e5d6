// Command demo is `make demo`: it shows on real bytes that what is shipped is
// what arrives. It starts the sandbox, ships the Go standard library's source
// and a file of random bytes into two topics, reads both back through the Kafka
// protocol, and compares line by line.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// argBytes bounds the file names of one command line. Linux takes 2 MiB with
// the environment, macOS 1 MiB.
const argBytes = 512 << 10

func run() error {
	binary := flag.String("binary", filepath.Join("bin", "produce-agent"), "produce-agent to run")
	quick := flag.Bool("quick", false, "a short demo: 200,000 lines and 1 MB of random bytes")
	maxLines := flag.Int64("max-lines", 0, "stop taking Go files at this many lines; 0 takes all")
	random := flag.Int64("random-bytes", 8_000_000, "size of the file of random bytes")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of the random bytes; printed, so that a run can be repeated")
	limit := flag.Duration("timeout", 10*time.Minute, "give up after this long")
	flag.Parse()
	if flag.NArg() > 0 {
		return errors.New("usage: demo [-binary bin/produce-agent] [flags]; see -help")
	}
	if *quick {
		*random = min(*random, 1_000_000)
		if *maxLines == 0 {
			*maxLines = 200_000
		}
	}
	bin, err := filepath.Abs(*binary)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	work, err := os.MkdirTemp("", "produce-agent-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	s, err := startSandbox(ctx, bin, work)
	if err != nil {
		return err
	}
	defer s.stop()
	fmt.Printf("sandbox: cluster %s, REST %s, Kafka %s\n", s.cluster, s.rest, s.kafka)

	d := demo{bin: bin, work: work, s: s}
	okText, err := d.text(ctx, *maxLines)
	if err != nil {
		return err
	}
	okBytes, err := d.bytes(ctx, *random, *seed)
	if err != nil {
		return err
	}
	if !okText || !okBytes {
		return errors.New("what arrived is not what was sent")
	}
	fmt.Println("VERDICT: every line arrived once, byte for byte")
	return nil
}

// demo is one run.
type demo struct {
	bin, work string
	s         *sandbox
}

// text ships the Go files below GOROOT.
func (d *demo) text(ctx context.Context, maxLines int64) (bool, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return false, fmt.Errorf("go env GOROOT: %w", err)
	}
	root := strings.TrimSpace(string(out))
	m := newMultiset()
	files, size, err := goFiles(root, maxLines, m)
	if err != nil {
		return false, err
	}
	fmt.Printf("\ngo-source: %d files, %d lines, %d bytes\n", len(files), m.lines, size)
	return d.there(ctx, "go-source", root, files, size, m)
}

// goFiles returns the Go files below root, relative to it, and counts their
// lines into m, until there are maxLines or more (0: all).
func goFiles(root string, maxLines int64, m *multiset) (files []string, size int64, err error) {
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() || filepath.Ext(path) != ".go" {
			return nil
		}
		_, n, err := m.addFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files, size = append(files, rel), size+n
		if maxLines > 0 && m.lines >= maxLines {
			return filepath.SkipAll
		}
		return nil
	})
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("no Go files below %s", root)
	}
	return files, size, err
}

// bytes ships random bytes: lines that are no UTF-8, hold CR and NUL, are
// empty, and a last one without LF.
func (d *demo) bytes(ctx context.Context, size int64, seed uint64) (bool, error) {
	name := filepath.Join(d.work, "random.bin")
	if err := writeRandom(name, size, seed); err != nil {
		return false, err
	}
	m := newMultiset()
	_, n, err := m.addFile(name)
	if err != nil {
		return false, err
	}
	fmt.Printf("\nrandom-bytes: %d lines, %d bytes, seed %d\n", m.lines, n, seed)
	return d.there(ctx, "random-bytes", d.work, []string{"random.bin"}, n, m)
}

// writeRandom writes a file of size random bytes that starts with the lines
// most easily got wrong and ends without LF.
func writeRandom(name string, size int64, seed uint64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	const first = "\n\r\n\x00\n\xff\xfe\n\"\\\n\u2028\n\xed\xa0\x80\ntext\r\n\n"
	if _, err := io.WriteString(f, first); err != nil {
		return err
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	if _, err := io.CopyN(f, rand.NewChaCha8(key), max(0, size-int64(len(first))-1)); err != nil {
		return err
	}
	if _, err := io.WriteString(f, "x"); err != nil {
		return err
	}
	return f.Close()
}

// there ships files into topic, reads the topic back and prints the books.
func (d *demo) there(ctx context.Context, topic, dir string, files []string, size int64, m *multiset) (bool, error) {
	var sum summary
	runs := chop(files, argBytes)
	for _, names := range runs {
		one, err := d.s.ship(ctx, d.bin, dir, d.work, topic, names)
		if err != nil {
			return false, err
		}
		sum.add(one)
	}
	fmt.Printf("  shipped in %d run(s): read %d, delivered %d, rejected %d, pending %d; retried %d, possibly duplicated %d\n",
		len(runs), sum.Read, sum.Delivered, sum.Rejected, sum.Pending, sum.Retried, sum.PossiblyDuplicated)
	fmt.Printf("  %.0f records/s with the sandbox on the same machine, %.2f CPU-seconds of ship per million records\n",
		float64(sum.Read)/sum.wall, sum.cpu*1e6/float64(max(1, sum.Read)))
	begun := time.Now()
	back, nulls, err := readBack(ctx, d.s.kafka, topic, m)
	if err != nil {
		return false, err
	}
	missing, extra := m.rest()
	fmt.Printf("  read back %d records in %.1f s: %d missing, %d not sent or too often, %d null\n",
		back, time.Since(begun).Seconds(), missing, extra, nulls)
	faults := faults(sum, m.lines, size, back, nulls, missing, extra)
	if missing+extra > 0 {
		faults = append(faults, "lines that differ: "+strings.Join(m.examples(5), " "))
	}
	for _, f := range faults {
		fmt.Println("  WRONG:", f)
	}
	if len(faults) == 0 {
		fmt.Println("  same bytes, line for line")
	}
	return len(faults) == 0, nil
}

// faults lists everything about a run that is not as it has to be.
func faults(s summary, lines, size, back, nulls, missing, extra int64) []string {
	var out []string
	f := func(bad bool, format string, args ...any) {
		if bad {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	f(s.Read != lines, "the files hold %d lines, ship read %d", lines, s.Read)
	f(s.BytesRead != size, "the files hold %d bytes, ship read %d", size, s.BytesRead)
	f(s.Read != s.Delivered+s.Rejected+s.Pending, "read %d is not delivered %d + rejected %d + pending %d", s.Read, s.Delivered, s.Rejected, s.Pending)
	f(s.Rejected > 0, "%d rejected", s.Rejected)
	f(s.Pending > 0, "%d pending", s.Pending)
	f(back != s.Delivered, "%d delivered, %d in the topic", s.Delivered, back)
	f(nulls > 0, "%d null values", nulls)
	f(missing > 0, "%d lines missing", missing)
	f(extra > 0, "%d lines that were not sent, or too often", extra)
	var codes []string
	for c, n := range s.ErrorCodes {
		codes = append(codes, fmt.Sprintf("%s: %d", c, n))
	}
	slices.Sort(codes)
	f(s.Rejected > 0 && len(codes) > 0, "error codes %s", strings.Join(codes, ", "))
	return out
}
