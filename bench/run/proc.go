//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cores says which core senders and which core the server run on; -1 leaves a
// process where the kernel puts it.
type cores struct{ sender, server int }

// pickCores takes the first two cores this process may use.
func pickCores() (cores, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return cores{}, fmt.Errorf("read the cores this process may use: %w", err)
	}
	var got []int
	for i := 0; i < 1024 && len(got) < 2; i++ {
		if set.IsSet(i) {
			got = append(got, i)
		}
	}
	if len(got) < 2 {
		return cores{-1, -1}, nil
	}
	return cores{got[0], got[1]}, nil
}

// startOn starts cmd on one core (negative: any) and at the lab's niceness. A
// process inherits both from the thread that forked it, so the Go runtime in it
// sees one core from its first moment on.
func (l *lab) startOn(cmd *exec.Cmd, core int) error {
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	if core >= 0 {
		var one unix.CPUSet
		one.Set(core)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("pin to core %d: %w", core, err)
		}
	}
	if l.nice != 0 {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, l.nice); err != nil {
			return fmt.Errorf("-nice=%d: %w (below 0 takes privileges)", l.nice, err)
		}
	}
	return cmd.Start()
}

// start runs startOn on a thread of its own, for a thread that is pinned and
// cannot be made less nice again is good for nothing else.
func (l *lab) start(cmd *exec.Cmd, core int) error {
	done := make(chan error)
	go func() { done <- l.startOn(cmd, core) }()
	return <-done
}

// usage is what a finished process took.
type usage struct {
	cpu  float64 // seconds, user and system
	wall float64 // seconds
	rss  float64 // peak, in MiB
}

// watched is a running sender whose peak memory is followed.
type watched struct {
	cmd    *exec.Cmd
	begun  time.Time
	stdout bytes.Buffer
	stderr bytes.Buffer
	stop   chan struct{}
	peak   chan float64
}

// watch starts cmd on a core and follows its memory. An unset Stdout and
// Stderr are kept for finish.
func (l *lab) watch(cmd *exec.Cmd, core int) (*watched, error) {
	w := &watched{cmd: cmd, stop: make(chan struct{}), peak: make(chan float64, 1)}
	if cmd.Stdout == nil {
		cmd.Stdout = &w.stdout
	}
	cmd.Stderr = &w.stderr
	w.begun = time.Now()
	if err := l.start(cmd, core); err != nil {
		return nil, err
	}
	go w.follow(cmd.Process.Pid)
	return w, nil
}

// follow polls the peak memory until stop is closed.
func (w *watched) follow(pid int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var peak float64
	for {
		select {
		case <-tick.C:
			peak = max(peak, peakOf(pid))
		case <-w.stop:
			w.peak <- peak
			return
		}
	}
}

// finish waits for the process. The kernel's figure for the peak of a child is
// at least the peak of the process that forked it, so it is taken only where
// it is above this program's own; else the last polled value is.
func (w *watched) finish() (usage, error) {
	err := w.cmd.Wait()
	u := usage{wall: time.Since(w.begun).Seconds()}
	close(w.stop)
	u.rss = <-w.peak
	st := w.cmd.ProcessState
	if st != nil {
		u.cpu = (st.UserTime() + st.SystemTime()).Seconds()
		if ru, ok := st.SysUsage().(*syscall.Rusage); ok {
			if kernel := float64(ru.Maxrss) / 1024; u.rss == 0 || kernel > peakOf(os.Getpid()) {
				u.rss = kernel
			}
		}
	}
	if err != nil {
		return u, fmt.Errorf("%s: %w: %s", filepath.Base(w.cmd.Path), err, lastLine(w.stderr.String()))
	}
	return u, nil
}

// peakOf returns the peak resident memory of a running process in MiB, 0 if it
// cannot be read.
func peakOf(pid int) float64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	return peakIn(b)
}

func peakIn(status []byte) float64 {
	_, rest, ok := bytes.Cut(status, []byte("VmHWM:"))
	if !ok {
		return 0
	}
	rest, _, _ = bytes.Cut(rest, []byte("kB"))
	kb, err := strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
	if err != nil {
		return 0
	}
	return kb / 1024
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// checked is what the server says at the end of a run.
type checked struct {
	Records    int64   `json:"records"`
	Distinct   int64   `json:"distinct"`
	Missing    int64   `json:"missing"`
	Duplicates int64   `json:"duplicates"`
	Unexpected int64   `json:"unexpected"`
	Chunks     int64   `json:"chunks"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
}

// server is a running discard server.
type server struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	addr  string
}

// startServer starts the discard server and waits for its address.
func (l *lab) startServer(ctx context.Context, mode string, expect int64, more ...string) (*server, error) {
	args := append([]string{"-stdin", "-report", mode, "-expect", strconv.FormatInt(expect, 10)}, more...)
	s := &server{cmd: exec.CommandContext(ctx, l.tool("discard"), args...)}
	s.cmd.Stderr = os.Stderr
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := l.start(s.cmd, l.cores.server); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	s.out = bufio.NewReader(out)
	var first struct{ Listening string }
	if err := json.NewDecoder(io.LimitReader(s.out, 200)).Decode(&first); err != nil || first.Listening == "" {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		return nil, errors.Join(errors.New("the server did not say its address"), err)
	}
	s.addr = first.Listening
	return s, nil
}

// stop ends the server and returns its books.
func (s *server) stop() (checked, error) {
	_ = s.stdin.Close()
	var c checked
	rest, err := io.ReadAll(s.out)
	if err == nil {
		err = json.Unmarshal([]byte(lastLine(string(rest))), &c)
	}
	if werr := s.cmd.Wait(); err == nil {
		err = werr
	}
	return c, err
}
