package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// netns is a network namespace with a loopback interface of its own: what is
// done to packets there is done to nobody else's.
type netns struct {
	t    testing.TB
	name string
}

var netnsMade atomic.Int64

// newNetns makes a namespace that is removed with the test. The test is left
// out where that takes more than there is.
func newNetns(t testing.TB, tools ...string) *netns {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("LEFT OUT: a network namespace takes root")
	}
	for _, tool := range append([]string{"ip"}, tools...) {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("LEFT OUT: there is no %s here (packages iproute2, nftables)", tool)
		}
	}
	n := &netns{t: t, name: fmt.Sprintf("produce-agent-%d-%d", os.Getpid(), netnsMade.Add(1))}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		t.Skipf("LEFT OUT: no network namespace to be had: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", n.name).CombinedOutput(); err != nil {
			t.Errorf("ip netns del %s: %s", n.name, out)
		}
	})
	n.do("ip", "link", "set", "lo", "mtu", "1500") // as on a wire, not 64 KiB
	n.do("ip", "link", "set", "lo", "up")
	return n
}

// do runs a command inside.
func (n *netns) do(args ...string) {
	n.t.Helper()
	by := n.by()
	if out, err := exec.Command(by[0], append(by[1:], args...)...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %s", strings.Join(args, " "), out)
	}
}

// by is what starts a command inside, and becomes it.
func (n *netns) by() []string { return []string{"ip", "netns", "exec", n.name} }

// inside calls f on a thread that is in the namespace: sockets made there stay
// there, whoever uses them.
func (n *netns) inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		fd, err := unix.Open("/run/netns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Close(fd))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// listen returns a listening socket inside, at 127.0.0.1.
func (n *netns) listen() (l net.Listener) {
	n.t.Helper()
	err := n.inside(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return l
}
