//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// edgeYAML is a listener that answers when records are on the disk.
const edgeYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500}}
inputs:
  edge: {type: http, listen: "LISTEN", respond: after_buffer}
routes:
  - {name: edge, inputs: [edge], topic: t, buffer: {type: disk, max_bytes: 16MB, when_full: POLICY}, retry: {max: 500ms}}
`

// diskUse is how many bytes the files below dir have.
func diskUse(t testing.TB, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil // gone in between
		}
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A buffer reaches its quota while the server stalls. What was accepted is
// delivered or counted as dropped, to the record, and the disk holds the quota
// and a segment at most.
func TestOracleQuota(t *testing.T) {
	t.Parallel()
	const quota, segment, wanted = 16e6, 2e6, 48e6
	f := func(policy string) {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			o := newOracle(t, 8000, nil)
			o.faults(t, "stall=0")
			x := newSite(t, o, strings.Replace(edgeYAML, "POLICY", policy, 1))
			p, at := x.start()
			client := &http.Client{}
			defer client.CloseIdleConnections()
			s := o.source()
			used, given, full := int64(0), 0, 0
			for given < wanted && full < 20 {
				lines, from := o.next(s, 100)
				given += len(lines)
				status, h, err := give(t.Context(), client, x.listen, lines)
				switch {
				case status == http.StatusOK:
					o.accept(s, from, 100)
				case policy == "block" && status == http.StatusServiceUnavailable:
					if h.Get("Retry-After") == "" {
						t.Error("503 without Retry-After")
					}
					full++
				default:
					t.Fatalf("status %d, %v", status, err)
				}
				used = max(used, diskUse(t, filepath.Join(x.data, "buffer")))
			}
			if used > quota+segment {
				t.Errorf("%d bytes on the disk, the quota is %d and a segment %d", used, int(quota), int(segment))
			}
			if policy == "block" && full == 0 {
				t.Error("a full buffer refused nothing")
			}
			if status, body := ask(t, at, "/readyz"); policy == "block" && (status != 503 || !strings.Contains(body, "full")) {
				t.Errorf("readyz of a full buffer: %d %s", status, body)
			}
			o.faults(t)
			eventually(t, "the buffer is empty", func() bool { return metric(t, at, `buffer_records{route="edge"}`) == 0 })
			dropped := int(metric(t, at, `buffer_dropped_records_total{route="edge"}`))
			v := o.settle(t, dropped, 0)
			r := p.terminate()
			if (dropped == 0) != (policy == "block") || r.Rejected != int64(dropped) || r.Delivered != int64(v.stored) || r.Pending != 0 {
				t.Errorf("%d dropped, %+v\n%s", dropped, r.Summary, r.err)
			}
			t.Logf("%d dropped, %d requests refused, %d bytes on the disk at most", dropped, full, used)
		})
	}
	f("block")
	f("drop_oldest")
	f("drop_newest")
}

// tmpfs makes dir, and mounts a file system of so many bytes there for it to be
// filled. It says whether it could: that takes root.
func tmpfs(t testing.TB, dir string, size int) bool {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Logf("no small file system: %s", out)
		return false
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	return true
}

// The disk is full: clients are told to come again, the process stays, and once
// there is space it goes on by itself. Nothing that was accepted is lost, also
// not when the agent was killed meanwhile.
func TestOracleDiskFull(t *testing.T) {
	t.Parallel()
	o := newOracle(t, 8000, nil)
	o.faults(t, "refuse")
	x := newSite(t, o, strings.Replace(everyYAML, "256MB", "1GB", 1))
	if !tmpfs(t, x.data, 24<<20) {
		t.Skip("a disk that is full needs a small file system, which only root can mount")
	}
	ballast := filepath.Join(x.data, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p, at := x.start()
	files := newLoad(t)
	files.appendTo(t, o, x.log("a.log"), 10, 10*time.Millisecond)
	client := &http.Client{}
	defer client.CloseIdleConnections()
	s := o.source()
	send := func() (status int) {
		lines, from := o.next(s, 100)
		status, h, err := give(t.Context(), client, x.listen, lines)
		switch {
		case status == http.StatusOK:
			o.accept(s, from, 100)
		case status != http.StatusServiceUnavailable || h.Get("Retry-After") == "":
			t.Fatalf("status %d, Retry-After %q, %v\n%s", status, h.Get("Retry-After"), err, p.err.String())
		}
		return status
	}
	for range 5 { // smaller ones may find room yet
		eventually(t, "the disk is full", func() bool { return send() != http.StatusOK })
	}
	before := o.judge().accepted
	eventually(t, "readiness tells", func() bool {
		send()
		_, body := ask(t, at, "/readyz")
		return strings.Contains(body, "buffer of route edge") && strings.Contains(body, "no space left on device")
	})
	if status, body := ask(t, at, "/healthz"); status != http.StatusOK {
		t.Errorf("healthz %d %s", status, body)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "records are taken again", func() bool { return send() == http.StatusOK })
	t.Logf("%d records before the disk was full; took records again after %s", before, time.Since(began).Round(time.Millisecond))
	eventually(t, "the disk is full again", func() bool { return send() != http.StatusOK })
	p.kill()
	p, at = x.start() // with a full disk
	o.faults(t)
	files.end()
	v := o.settle(t, 0, 0)
	r := drained(t, p, at)
	if r.Pending != 0 || r.Rejected != 0 || v.accepted <= before {
		t.Errorf("%v, %+v\n%s", v, r.Summary, r.err)
	}
}

// memory is what Linux says of a process's resident memory, in bytes: VmRSS
// now, VmHWM at most so far.
func (p *program) memory(what string) int {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Skipf("no figures of memory here: %v", err)
	}
	m := regexp.MustCompile(what + `:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		p.t.Skipf("no %s in the figures of memory", what)
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		p.t.Fatal(err)
	}
	return kb << 10
}

// lines is an endless input: the oracle's records of one source.
type lines struct {
	o    *oracle
	s    int
	rest []byte
	most int // records; EOF behind them
	read atomic.Int64
}

func (l *lines) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		each := min(100, l.most)
		if each == 0 {
			return 0, io.EOF
		}
		l.most -= each
		var from int
		l.rest, from = l.o.next(l.s, each)
		l.o.accept(l.s, from, each)
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	l.read.Add(int64(n))
	return n, nil
}

const stalledYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT"}
inputs:
  in: {type: stdin}
  edge: {type: http, listen: "LISTEN", respond: after_delivery, respond_timeout: 2s}
routes:
  - {name: in, inputs: [in], topic: t, buffer: {type: disk, max_bytes: 16MB}}
  - {name: edge, inputs: [edge], topic: t2}
`

// The server takes nothing any more while ten times what the buffer holds comes
// from stdin, and a hundred clients send a megabyte each: memory stays bounded,
// and all that stdin gave comes through at last.
func TestOracleStalledMemory(t *testing.T) {
	const bar = 128e6
	if raceEnabled {
		t.Skip("the race detector's own memory would be measured")
	}
	o := newOracle(t, 4000, func(c *sandbox.Config) { c.Topics = append(c.Topics, sandbox.Topic{Name: "t2", Partitions: 1}) })
	o.faults(t, "stall=0")
	x := newSite(t, o, stalledYAML)
	in := &lines{o: o, s: o.source(), most: 80_000}
	p, at := service(t, x.path, in)
	var clients sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer clients.Wait()
	defer cancel()
	for range 100 {
		s := o.source()
		clients.Go(func() {
			client := &http.Client{}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				body, _ := o.next(s, 500)
				if status, _, _ := give(ctx, client, x.listen, body); status == http.StatusOK {
					t.Error("answered, though nothing is delivered")
				}
				sleep(ctx, 100*time.Millisecond)
			}
		})
	}
	eventually(t, "the buffer is full", func() bool {
		_, body := ask(t, at, "/readyz")
		return strings.Contains(body, "buffer of route in: full")
	})
	time.Sleep(max(3*time.Second, stalling())) // clients go on: their requests time out and come again
	cancel()
	clients.Wait()
	high := p.memory("VmHWM")
	t.Logf("%d MB resident at most, %d MB read of stdin", high>>20, in.read.Load()>>20)
	if float64(high) > bar {
		t.Errorf("%d bytes resident at most, want %.0f", high, bar)
	}
	o.faults(t)
	eventually(t, "stdin is read to its end", func() bool { return o.judge().lost == 0 && in.read.Load() > 100<<20 })
	o.settle(t, 0, 100*500) // of clients nobody answered
	high = p.memory("VmHWM")
	if float64(high) > bar {
		t.Errorf("%d bytes resident at most while it came through, want %.0f", high, bar)
	}
	p.terminate()
}

// A backlog costs the start neither memory nor time. ORACLE_BACKLOG says how
// many megabytes it has.
func TestOracleBacklog(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory would be measured")
	}
	soak := os.Getenv("ORACLE_BACKLOG") != ""
	megabytes := times(t, "ORACLE_BACKLOG", 200)
	o := newOracle(t, 16000, nil)
	o.faults(t, "refuse")
	x := newSite(t, o, strings.NewReplacer("POLICY", "block", "16MB", "8GB").Replace(edgeYAML))
	start := func() (p *program, ready time.Duration, resident int) {
		began := time.Now()
		p, at := x.start()
		eventually(t, "it listens", func() bool {
			status, _ := ask(t, at, "/healthz")
			return status == http.StatusOK
		})
		return p, time.Since(began), p.memory("VmHWM")
	}
	p, _, empty := start()
	client := &http.Client{}
	defer client.CloseIdleConnections()
	s := o.source()
	for given := 0; given < megabytes<<20; {
		body, from := o.next(s, 500)
		given += len(body)
		if status, _, err := give(t.Context(), client, x.listen, body); status != http.StatusOK {
			t.Fatalf("status %d, %v", status, err)
		}
		o.accept(s, from, 500)
	}
	p.kill()
	p, ready, full := start()
	t.Logf("%d MB of backlog: listening after %s, %d MB resident; %d MB without", diskUse(t, x.data)>>20, ready.Round(time.Millisecond), full>>20, empty>>20)
	if full > empty+32<<20 {
		t.Errorf("%d bytes resident with a backlog, %d without: want 32 MiB more at most", full, empty)
	}
	if soak && ready > time.Second {
		t.Errorf("listening after %s, want a second", ready)
	}
	o.faults(t)
	o.settle(t, 0, 0)
	t.Logf("%d MB resident while it was sent", p.memory("VmHWM")>>20)
	p.terminate()
}

// A hundred files are followed at full speed, and memory stays small.
func TestOracleManyFiles(t *testing.T) {
	const bar, files, lines = 40 << 20, 100, 4000
	if raceEnabled {
		t.Skip("the race detector's own memory would be measured")
	}
	o := newOracle(t, 300, nil)
	x := newSite(t, o, followYAML)
	for i := range files {
		s := o.source()
		text, from := o.next(s, lines)
		o.accept(s, from, lines)
		if err := os.WriteFile(x.log(fmt.Sprintf("app.log.%d", i)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	p, at := x.start()
	o.settle(t, 0, 0)
	took := time.Since(began)
	high := p.memory("VmHWM")
	t.Logf("%d records in %s, %d MB resident at most", files*lines, took.Round(time.Millisecond), high>>20)
	if high > bar {
		t.Errorf("%d bytes resident at most, want %d", high, bar)
	}
	drained(t, p, at)
}

// A hundred decompression bombs at a time: each is refused, and none of what
// they decode to is ever held.
func TestOracleBombs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory would be measured")
	}
	var packed [2]bytes.Buffer // of 256 MiB, half as much again as all bodies may have
	z, err := zstd.NewWriter(&packed[1])
	if err != nil {
		t.Fatal(err)
	}
	g := gzip.NewWriter(&packed[0])
	zeros := make([]byte, 1<<20)
	for range 256 {
		if _, err := io.MultiWriter(g, z).Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(g.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	const inFlight = 64 << 20
	o := newOracle(t, 10, func(c *sandbox.Config) { c.Topics = append(c.Topics, sandbox.Topic{Name: "t2", Partitions: 1}) })
	x := newSite(t, o, strings.Replace(stalledYAML, "respond: after_delivery", "max_body: 16MiB, max_in_flight: 64MiB, respond: after_delivery", 1))
	hold, writer := io.Pipe()
	defer writer.Close()
	p, at := service(t, x.path, hold)
	eventually(t, "it is ready", func() bool { status, _ := ask(t, at, "/readyz"); return status == http.StatusOK })
	before := p.memory("VmHWM")
	var clients sync.WaitGroup
	for i := range 100 {
		clients.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+x.listen+"/", bytes.NewReader(packed[i%2].Bytes()))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "text/plain")
			req.Header.Set("Content-Encoding", []string{"gzip", "zstd"}[i%2])
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusRequestEntityTooLarge && resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	clients.Wait()
	rise := p.memory("VmHWM") - before
	t.Logf("%d MiB more resident at most", rise>>20)
	if rise > inFlight+16<<20 {
		t.Errorf("%d bytes more resident at most, want %d", rise, inFlight+16<<20)
	}
	if status, _, err := give(t.Context(), http.DefaultClient, x.listen, []byte("a\n")); status != http.StatusOK {
		t.Errorf("after them: status %d %v", status, err)
	}
}
