//go:build linux

// Command run is `make bench`: it measures produce-agent ship against blast,
// the sender that only copies bytes, and prints what it costs as a ratio.
//
// Senders run in turns, a round of all of them after another, each pinned to
// one core with the discard server on a second one. What counts is the median
// of CPU time per million records, for wall time says more about who else uses
// the machine. See docs/performance.md.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	rounds  int
	records int64
	size    int
	quick   bool
	nice    int
	bin     string
	out     string
	only    string
	skip    string
}

func run() error {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of all senders")
	flag.Int64Var(&o.records, "n", 1_000_000, "records of a run")
	flag.IntVar(&o.size, "size", 200, "bytes of a line; the bars are for 200")
	flag.BoolVar(&o.quick, "quick", false, "a short session: 2 rounds of 200,000 records, 3 s at a fixed rate")
	flag.IntVar(&o.nice, "nice", 0, "niceness of senders and server, -20..19; below 0 takes privileges and keeps a busy machine out of the latencies")
	flag.StringVar(&o.bin, "bin", "", "produce-agent to measure; built from this module if empty")
	flag.StringVar(&o.out, "o", "", "write the result to this file as well")
	flag.StringVar(&o.only, "only", "", "run only senders whose name/mode matches this expression; also steady, slow and service")
	flag.StringVar(&o.skip, "skip", "", "leave out what matches this expression")
	flag.Parse()
	if flag.NArg() > 0 || o.rounds < 1 || o.records < 1000 {
		return errors.New("usage: run [-rounds N] [-n RECORDS >= 1000] [-quick] [-o FILE]; see -help")
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	skip, err := regexp.Compile(o.skip)
	if err != nil {
		return fmt.Errorf("-skip: %w", err)
	}
	wanted := func(name string) bool {
		return only.MatchString(name) && (o.skip == "" || !skip.MatchString(name))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := newLab(ctx, o, wanted)
	if err != nil {
		return err
	}
	defer os.RemoveAll(l.dir)
	l.before = loadAverage()
	return l.session(ctx, o, wanted)
}

// fullPaced is how long a run at a fixed rate takes, but for -quick.
const fullPaced = 10 * time.Second

// newLab builds the programs and makes the files, in a folder of its own.
func newLab(ctx context.Context, o options, wanted func(string) bool) (*lab, error) {
	l := &lab{
		bin: o.bin, nice: o.nice, records: o.records, size: o.size, rounds: o.rounds, log: os.Stderr,
		paced: fullPaced, long: 4 * o.records, timeout: time.Minute,
	}
	if o.quick {
		l.rounds, l.records, l.long, l.paced = min(2, o.rounds), min(200_000, o.records), min(800_000, 4*o.records), 3*time.Second
	}
	if o.only != "" {
		l.filter += fmt.Sprintf("-only '%s'", o.only)
	}
	if o.skip != "" {
		l.filter = strings.TrimSpace(l.filter + fmt.Sprintf(" -skip '%s'", o.skip))
	}
	var err error
	if l.cores, err = pickCores(); err != nil {
		return nil, err
	}
	if l.cores.sender < 0 {
		fmt.Fprintln(l.log, "bench: one core only: sender and server share it, ratios mean little")
	}
	if l.dir, err = os.MkdirTemp("", "produce-agent-bench-"); err != nil {
		return nil, err
	}
	if err := l.prepare(ctx, wanted); err != nil {
		_ = os.RemoveAll(l.dir)
		return nil, err
	}
	return l, nil
}

func (l *lab) prepare(ctx context.Context, wanted func(string) bool) error {
	if err := os.Mkdir(l.tool("work"), 0o700); err != nil {
		return err
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module (run this inside it): %w", err)
	}
	dir := strings.TrimSpace(string(root))
	pkgs := []string{"./bench/discard", "./bench/lines", "./bench/blast", "./bench/post"}
	needShip := wanted("steady") || wanted("slow") || wanted("service")
	for _, k := range cases() {
		needShip = needShip || (k.sender == "ship" && wanted(key(k.name, k.mode)))
	}
	if l.bin == "" && needShip {
		pkgs = append(pkgs, "./cmd/produce-agent")
		l.bin = l.tool("produce-agent")
	} else if l.bin, err = filepath.Abs(l.bin); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", l.dir + "/"}, pkgs...)...)
	build.Dir, build.Stdout, build.Stderr = dir, os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	if err := l.lines(ctx, "wrapped", l.records, "-wrap", "json"); err != nil {
		return err
	}
	return l.lines(ctx, "lines.txt", l.records)
}

// lines makes a file of n lines.
func (l *lab) lines(ctx context.Context, name string, n int64, more ...string) error {
	args := append([]string{"-n", strconv.FormatInt(n, 10), "-size", strconv.Itoa(l.size), "-o", l.tool(name)}, more...)
	cmd := exec.CommandContext(ctx, l.tool("lines"), args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return nil
}

// session runs everything and prints the result.
func (l *lab) session(ctx context.Context, o options, wanted func(string) bool) error {
	var todo []kase
	for _, k := range cases() {
		if !wanted(key(k.name, k.mode)) {
			continue
		}
		if _, err := exec.LookPath("curl"); k.sender == "curl" && err != nil {
			fmt.Fprintln(l.log, "bench: no curl here, its row is left out")
			continue
		}
		todo = append(todo, k)
	}
	res := newResults(l.records)
	for round := 1; round <= l.rounds; round++ {
		fmt.Fprintf(l.log, "bench: round %d of %d\n", round, l.rounds)
		for _, k := range todo {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if res.errs[key(k.name, k.mode)] == nil { // what fails is tried once
				res.add(k.name, k.mode, l.run(ctx, k))
			}
		}
	}
	var long *steady
	if wanted("steady") {
		long = l.steady(ctx, res)
	}
	var slows []slow
	if wanted("slow") {
		for _, k := range slowCases() {
			fmt.Fprintf(l.log, "bench: %d records/s for %v, %s\n", perSecond, l.paced, k.name)
			s := l.slowRun(ctx, k)
			res.book(fmt.Sprintf("%d/s, %s", perSecond, k.name), s.sample)
			slows = append(slows, s)
		}
	}
	var service *served
	if wanted("service") {
		service = l.service(ctx, res)
	}
	var page bytes.Buffer
	l.write(&page, res, long, slows, service)
	if _, err := os.Stdout.Write(page.Bytes()); err != nil {
		return err
	}
	if o.out != "" {
		if err := os.WriteFile(o.out, page.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return res.verdict(ctx)
}

// steady makes the long file, runs it and removes it.
func (l *lab) steady(ctx context.Context, res *results) *steady {
	fmt.Fprintf(l.log, "bench: one run of %d records\n", l.long)
	wall := res.wall(nJSON, "record")
	if wall == 0 {
		s := l.run(ctx, shipCase(nJSON, "record", "--value-type", "json"))
		if res.book("steady, first run", s); s.err != nil {
			return nil
		}
		wall = s.wall * 1e6 / float64(s.sent)
	}
	if err := l.lines(ctx, "long.txt", l.long); err != nil {
		res.errs["steady"] = err
		return nil
	}
	s := l.steadyRun(ctx, wall)
	_ = os.Remove(l.tool("long.txt"))
	res.book("steady", s.sample)
	return &s
}

// book counts a run's losses without keeping its figures.
func (r *results) book(name string, s sample) {
	if s.err != nil {
		r.errs[name] = s.err
		return
	}
	r.runs++
	r.lost += s.Missing
	r.doubled += s.Duplicates
	r.other += s.off() - s.Missing - s.Duplicates
}

// write prints the page.
func (l *lab) write(w io.Writer, res *results, long *steady, slows []slow, service *served) {
	fmt.Fprintf(w, "# Speed of ship\n\n")
	fmt.Fprintf(w, "Made by `%s` on %s; %s.\n\n", l.made(), time.Now().UTC().Format("2 Jan 2006"), machine())
	fmt.Fprintf(w, "%d lines of %d bytes a run, medians of %d interleaved rounds. Two figures in a cell: the server answers in one\n"+
		"HTTP chunk per read / per report. What the columns mean: [docs/performance.md](../docs/performance.md).\n\n", l.records, l.size, l.rounds)
	if l.before != "" {
		fmt.Fprintf(w, "Load average of the machine when it began: %s. Above 0.5, something else ran as well: trust the ratios, not the latencies.\n\n", l.before)
	}
	var names []string
	for _, k := range cases() {
		if !slices.Contains(names, k.name) {
			names = append(names, k.name)
		}
	}
	res.writeCPU(w, names, l.size == 200)
	fmt.Fprintln(w)
	if l.size == 200 {
		res.writeMeasures(w, res.measures(long, slows, service))
	}
	for _, name := range sortedKeys(res.errs) {
		fmt.Fprintf(w, "\nNot measured: %s: %v\n", name, res.errs[name])
	}
}

// made is the command that repeats the session, without where it read and wrote.
func (l *lab) made() string {
	cmd := fmt.Sprintf("go run ./bench/run -rounds %d -n %d -size %d", l.rounds, l.records, l.size)
	if l.paced < fullPaced {
		cmd = "go run ./bench/run -quick"
	}
	if l.nice != 0 {
		cmd += fmt.Sprintf(" -nice %d", l.nice)
	}
	if l.filter != "" {
		cmd += " " + l.filter
	}
	return cmd
}

func sortedKeys(m map[string]error) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// verdict is an error where a run failed or lost records; slow is not wrong.
func (r *results) verdict(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(r.errs) > 0 {
		return fmt.Errorf("%d of the senders failed: %s", len(r.errs), strings.Join(sortedKeys(r.errs), ", "))
	}
	if r.lost+r.doubled+r.other > 0 {
		return fmt.Errorf("%d records lost, %d doubled, %d counted wrongly", r.lost, r.doubled, r.other)
	}
	return nil
}
