//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// The rows of ship as a service. nOnce is what they are compared with: the same
// records, read once.
const (
	nOnce   = "service: files read once"
	nFollow = "service: files followed"
	nListen = "service: NDJSON requests of 100 lines"
)

// pacedBody is how many lines a request has in the run at a fixed rate.
const pacedBody = 10

// serviceYAML is the configuration of a run; the clusters' limits are off.
const serviceYAML = `
data_dir: %[1]s/data
clusters:
  c: {rest_endpoint: "http://%[2]s/v3", cluster_id: c, limits: none}
inputs:
  in: %[3]s
routes:
  - {name: r, inputs: [in], cluster: c, topic: bench, value: {type: JSON}, buffer: %[4]s}
observe: {listen: "%[5]s"}
`

// served is the outcome of the service's runs.
type served struct {
	cpu   map[string][]float64 // CPU-s per million records, by row
	rss   map[string]float64   // the largest peak, MiB
	paced *sample              // after_buffer at a fixed rate
	share float64              // of a core, in it
	again int64                // requests refused in it
	disk  float64              // p50 of a 4 KiB write and fsync there, ms
}

// service runs the rows in turns.
func (l *lab) service(ctx context.Context, res *results) *served {
	s := &served{cpu: map[string][]float64{}, rss: map[string]float64{}}
	for round := 1; round <= l.rounds; round++ {
		fmt.Fprintf(l.log, "bench: as a service, round %d of %d\n", round, l.rounds)
		for _, name := range []string{nOnce, nFollow, nListen} {
			if ctx.Err() != nil || res.errs[name] != nil {
				continue
			}
			one, _ := l.serve(ctx, name, l.records)
			res.book(name, one)
			if one.err == nil {
				s.cpu[name] = append(s.cpu[name], one.cpu*1e6/float64(one.sent))
				s.rss[name] = max(s.rss[name], one.rss)
			}
		}
	}
	name := fmt.Sprintf("%d/s, after_buffer, fsync always", perSecond)
	fmt.Fprintf(l.log, "bench: %s for %v\n", name, l.paced)
	one, again := l.serve(ctx, "paced", int64(l.paced.Seconds()*perSecond))
	res.book(name, one)
	if one.err == nil {
		s.paced, s.share, s.again = &one, one.cpu/l.paced.Seconds(), again
		s.disk = l.fsyncTime()
	}
	return s
}

// serve runs an agent with one input until n records are delivered.
func (l *lab) serve(ctx context.Context, name string, n int64) (s sample, again int64) {
	s.sent = n
	ctx, cancel := context.WithTimeout(ctx, l.timeout+2*l.paced)
	defer cancel()
	srv, err := l.startServer(ctx, "batch", n)
	if err != nil {
		s.err = err
		return s, 0
	}
	s.usage, s.own, again, s.err = l.agent(ctx, name, srv.addr, n)
	books, err := srv.stop()
	s.checked, s.err = books, errors.Join(s.err, err)
	return s, again
}

func (l *lab) agent(ctx context.Context, name, addr string, n int64) (u usage, own, again int64, err error) {
	dir, err := os.MkdirTemp(l.dir, "service-")
	if err != nil {
		return u, 0, 0, err
	}
	defer os.RemoveAll(dir)
	metricsAddr, err := freeAddr()
	if err != nil {
		return u, 0, 0, err
	}
	listen, err := freeAddr()
	if err != nil {
		return u, 0, 0, err
	}
	input, buffer := fmt.Sprintf(`{type: file, include: [%q], follow: %v}`, l.tool("lines.txt"), name == nFollow), "{type: none}"
	switch name {
	case nListen:
		input = fmt.Sprintf(`{type: http, listen: %q}`, listen)
	case "paced":
		input, buffer = fmt.Sprintf(`{type: http, listen: %q, respond: after_buffer}`, listen), "{type: disk, max_bytes: 256MB, fsync: always}"
	}
	file := dir + "/agent.yaml"
	if err := os.WriteFile(file, fmt.Appendf(nil, serviceYAML, dir, addr, input, buffer, metricsAddr), 0o600); err != nil {
		return u, 0, 0, err
	}
	cmd := exec.CommandContext(ctx, l.bin, "ship", "--config", file, "-o", "json", "--progress", "never")
	cmd.Env = cleanEnv(os.Environ())
	w, err := l.watch(cmd, l.cores.sender)
	if err != nil {
		return u, 0, 0, err
	}
	switch name {
	case nOnce:
	case nFollow:
		err = untilDelivered(ctx, metricsAddr, n)
	case nListen:
		again, err = l.post(ctx, metricsAddr, "http://"+listen+"/", n)
	default:
		again, err = l.post(ctx, metricsAddr, "http://"+listen+"/", n, "-rate", strconv.Itoa(perSecond), "-batch", strconv.Itoa(pacedBody))
	}
	if name != nOnce {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	u, werr := w.finish()
	if exit := (*exec.ExitError)(nil); errors.As(werr, &exit) && exit.ExitCode() == 128+int(syscall.SIGTERM) {
		werr = nil
	}
	if err = errors.Join(err, werr); err != nil {
		return u, 0, again, err
	}
	own, err = delivered(w.stdout.String())
	return u, own, again, err
}

// post sends n lines to the listener once it answers.
func (l *lab) post(ctx context.Context, metricsAddr, url string, n int64, more ...string) (again int64, err error) {
	if err := untilDelivered(ctx, metricsAddr, 0); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, l.tool("post"), append([]string{"-url", url, "-file", l.tool("lines.txt"), "-n", strconv.FormatInt(n, 10)}, more...)...)
	w, err := l.watch(cmd, l.cores.server)
	if err != nil {
		return 0, err
	}
	if _, err := w.finish(); err != nil {
		return 0, err
	}
	var said struct {
		Accepted  int64
		SentAgain int64 `json:"sent_again"`
	}
	if err := json.Unmarshal([]byte(lastLine(w.stdout.String())), &said); err != nil || said.Accepted != n {
		return 0, fmt.Errorf("accepted %d of %d records (%w)", said.Accepted, n, err)
	}
	return said.SentAgain, untilDelivered(ctx, metricsAddr, n)
}

// untilDelivered asks the agent's metrics until n reports are good. It asks
// rarely: a scrape costs the agent what a thousand records do.
func untilDelivered(ctx context.Context, addr string, n int64) error {
	wait := 50 * time.Millisecond
	if n > 100_000 {
		wait = 250 * time.Millisecond
	}
	for {
		m, err := scrape(addr)
		if err == nil && m.sum["produce_agent_delivery_reports_total"] >= float64(n) {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("the agent did not deliver %d records: %w", n, errors.Join(context.Cause(ctx), err))
		}
	}
}

// fsyncTime is what a small write and sync costs where the agent's data was.
func (l *lab) fsyncTime() float64 {
	f, err := os.Create(l.tool("fsync"))
	if err != nil {
		return 0
	}
	defer f.Close()
	var all []float64
	for range 50 {
		began := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil || f.Sync() != nil {
			return 0
		}
		all = append(all, time.Since(began).Seconds()*1000)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// measures makes the rows of the service.
func (s *served) measures() []measure {
	if s == nil {
		return nil
	}
	var ms []measure
	once := median(s.cpu[nOnce])
	ratio := func(name, text string, must, good float64) {
		if v := median(s.cpu[name]); v > 0 && once > 0 {
			ms = append(ms, limit(text, "%.2f", v/once, must, good, ""))
		}
	}
	if once > 0 {
		ms = append(ms, measure{name: "as a service: files read once, followed; NDJSON requests, CPU-s/M", value: fmt.Sprintf("%.2f, %.2f; %.2f",
			once, median(s.cpu[nFollow]), median(s.cpu[nListen]))})
	}
	ratio(nFollow, "following files, x reading them once", 1.10, 1.05)
	ratio(nListen, "listener, NDJSON in batches of 100, x reading files", 1.5, 1.2)
	if v := s.rss[nFollow]; v > 0 {
		ms = append(ms, limit("peak RSS following, MiB", "%.1f", v, 40, 28, ""))
	}
	if s.paced != nil {
		ms = append(ms, limit(fmt.Sprintf("%d/s in requests of %d, after_buffer, fsync always: CPU of a core, %%", perSecond, pacedBody), "%.1f", 100*s.share, 10, 6, ""),
			measure{name: "requests of it that had to be sent again; write and fsync of 4 KiB there, ms", value: fmt.Sprintf("%d; %.2f", s.again, s.disk)})
	}
	return ms
}
