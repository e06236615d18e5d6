//go:build unix

package ingest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// openFile opens a file without waiting: a named pipe that nobody writes to yet
// would else hold us up where no signal reaches. polled waits for its writer.
func openFile(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// polled reads from a descriptor that may block for ever, and comes out of it
// when ctx ends. Making the descriptor non-blocking instead would change it for
// every process that shares it, a shell's terminal among them.
type polled struct {
	ctx  context.Context
	f    *os.File
	wake *os.File // reads its end once rouse has closed the other
	tell *os.File
	once sync.Once
	stop func() bool

	fd, wakeFd int32 // asking a file for its descriptor is a system call each time
	drained    int   // bytes read after the end of ctx
}

// maxDrain is how much is still read after ctx has ended: what a pipe may hold
// by then, for nobody could read it afterwards.
const maxDrain = 1 << 20

// interruptible returns a reader of f whose Read returns errStopped once ctx
// is done and nothing is there to be read.
func interruptible(ctx context.Context, f *os.File) io.Reader {
	p := &polled{ctx: ctx, f: f}
	var err error
	if p.wake, p.tell, err = os.Pipe(); err != nil {
		return f
	}
	p.fd, p.wakeFd = int32(f.Fd()), int32(p.wake.Fd())
	p.stop = context.AfterFunc(ctx, p.rouse)
	return p
}

func (p *polled) rouse() { p.once.Do(func() { p.tell.Close() }) }

func (p *polled) Read(b []byte) (int, error) {
	fds := []unix.PollFd{
		{Fd: p.fd, Events: unix.POLLIN},
		{Fd: p.wakeFd, Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for input: %w", err)
		}
		break
	}
	if fds[0].Revents == 0 || p.drained >= maxDrain {
		return 0, errStopped
	}
	n, err := p.f.Read(b)
	if p.ctx.Err() != nil {
		p.drained += n
	}
	return n, err
}

// sleep implements pacer.
func (p *polled) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	}
}

// ready implements pacer.
func (p *polled) ready() bool {
	fds := []unix.PollFd{{Fd: p.fd, Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Close closes the descriptor and the pipe.
func (p *polled) Close() error {
	p.leave()
	return p.f.Close()
}

// leave closes the pipe.
func (p *polled) leave() {
	p.stop()
	p.rouse()
	p.wake.Close()
}

// fileID is what the record ids of a file begin with: the same for the same
// file at the same path in every run.
func fileID(name string, info os.FileInfo) string {
	path, err := filepath.Abs(name)
	if err != nil {
		path = name
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%s:%x:%x", path, st.Dev, st.Ino)
	}
	return path
}

// runID stands for an input that has no identity beyond this run.
func runID() string {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return "stdin-" + hex.EncodeToString(b[:])
}
