//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"
)

// steady is what the long run shows.
type steady struct {
	sample
	allocs       float64 // per record, whole process, between a quarter and three quarters
	early, late  float64 // peak memory in MiB at a quarter and at the end
	haveCounters bool
}

// freeAddr finds a port nobody listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// steadyRun sends the long file once and scrapes the sender twice on the way.
// Each scrape costs some thousand allocations of its own, so there are only
// two, and the records between them are many. perMillion is how long the
// sender needs for a million records, in seconds.
func (l *lab) steadyRun(ctx context.Context, perMillion float64) (r steady) {
	k := shipCase(nJSON, "record", "--value-type", "json")
	ctx, cancel := context.WithTimeout(ctx, 4*l.timeout)
	defer cancel()
	r.sent = l.long
	metricsAddr, err := freeAddr()
	if err != nil {
		r.err = err
		return r
	}
	srv, err := l.startServer(ctx, k.mode, l.long)
	if err != nil {
		r.err = err
		return r
	}
	cmd := l.ship(ctx, k, srv.addr)
	cmd.Args = append(cmd.Args, "--metrics-listen", metricsAddr, l.tool("long.txt"))
	w, err := l.watch(cmd, l.cores.sender)
	if err != nil {
		r.err = err
	} else {
		quarter := time.Duration(perMillion * float64(l.long) / 4e6 * float64(time.Second))
		var m [2]metrics
		time.Sleep(quarter)
		m[0], err = scrape(metricsAddr)
		r.early = peakOf(cmd.Process.Pid)
		time.Sleep(2 * quarter)
		var err2 error
		m[1], err2 = scrape(metricsAddr)
		r.setAllocs(m, errors.Join(err, err2))
		r.usage, r.err = w.finish()
		r.late = r.rss
		if r.err == nil {
			r.own, r.err = delivered(w.stdout.String())
		}
	}
	books, err := srv.stop()
	r.checked, r.err = books, errors.Join(r.err, err)
	return r
}

// setAllocs works out allocations per record from two scrapes.
func (r *steady) setAllocs(m [2]metrics, err error) {
	const mallocs, sent = "go_memstats_mallocs_total", "produce_agent_records_sent_total"
	if err != nil || m[0].sum[mallocs] == 0 || m[1].sum[sent] <= m[0].sum[sent] {
		return
	}
	r.allocs = (m[1].sum[mallocs] - m[0].sum[mallocs]) / (m[1].sum[sent] - m[0].sum[sent])
	r.haveCounters = true
}

// slow is what a run at a fixed rate shows.
type slow struct {
	sample
	name   string
	linger time.Duration
	bars   bool    // it is a ship, and held against the bars
	share  float64 // of one core, 0..1
	ack99  float64 // write-to-ack in milliseconds
	ack50  float64
	hasAck bool
}

// perSecond is the rate of the slow runs: the records/s an ordinary cluster's
// limit allows.
const perSecond = 1000

// slowCases lists what is run at a fixed rate. curl, which sends what it reads
// as it reads it, is the floor for linger 0.
func slowCases() []kase {
	var all []kase
	for _, linger := range []string{"5ms", "0s"} {
		all = append(all, shipCase("linger "+linger, "record", "--value-type", "json", "--linger", linger))
	}
	if _, err := exec.LookPath("curl"); err == nil {
		all = append(all, kase{name: "curl -T -", mode: "record", sender: "curl"})
	}
	return all
}

// slowRun pipes lines at a fixed rate, each stamped with its due time, through
// a ship, while the server compares the stamps with its clock.
func (l *lab) slowRun(ctx context.Context, k kase) (r slow) {
	r.name, r.bars = k.name, k.sender == "ship"
	if i := slices.Index(k.args, "--linger"); i >= 0 {
		r.linger, _ = time.ParseDuration(k.args[i+1])
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout+2*l.paced)
	defer cancel()
	n := int64(l.paced.Seconds() * perSecond)
	r.sent = n
	metricsAddr, err := freeAddr()
	if err != nil {
		r.err = err
		return r
	}
	srv, err := l.startServer(ctx, k.mode, n, "-latency")
	if err != nil {
		r.err = err
		return r
	}
	r.err = l.pipe(ctx, k, srv.addr, metricsAddr, &r)
	books, err := srv.stop()
	r.checked, r.err = books, errors.Join(r.err, err)
	r.share = r.cpu / l.paced.Seconds()
	return r
}

// pipe runs lines into the sender, scrapes it shortly before the end, and waits
// for both.
func (l *lab) pipe(ctx context.Context, k kase, addr, metricsAddr string, r *slow) error {
	gen := exec.CommandContext(ctx, l.tool("lines"), "-n", strconv.FormatInt(r.sent, 10),
		"-size", strconv.Itoa(l.size), "-rate", strconv.Itoa(perSecond))
	var cmd *exec.Cmd
	if k.sender == "curl" {
		cmd = curl(ctx, addr)
		gen.Args = append(gen.Args, "-wrap", "json")
	} else {
		cmd = l.ship(ctx, k, addr)
		cmd.Args = append(cmd.Args, "--metrics-listen", metricsAddr)
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	defer pr.Close()
	defer pw.Close()
	cmd.Stdin, gen.Stdout, gen.Stderr = pr, pw, os.Stderr
	w, err := l.watch(cmd, l.cores.sender)
	if err != nil {
		return err
	}
	if err := l.start(gen, l.cores.server); err != nil {
		_ = cmd.Process.Kill()
		_, werr := w.finish()
		return errors.Join(fmt.Errorf("start lines: %w", err), werr)
	}
	_ = pr.Close()
	_ = pw.Close()
	if r.bars {
		time.Sleep(l.paced - l.paced/10)
		r.acks(scrape(metricsAddr))
	}
	gerr := gen.Wait()
	r.usage, err = w.finish()
	switch {
	case err != nil:
	case k.sender == "curl": // counts nothing itself
		r.own = r.sent
	default:
		r.own, err = delivered(w.stdout.String())
	}
	return errors.Join(err, gerr)
}

// acks takes write-to-ack times from a scrape.
func (r *slow) acks(m metrics, err error) {
	if err != nil {
		return
	}
	const name = "produce_agent_delivery_latency_seconds"
	r.ack99, r.hasAck = m.quantile(name, 0.99)
	r.ack50, _ = m.quantile(name, 0.5)
	r.ack99, r.ack50 = r.ack99*1000, r.ack50*1000
}
