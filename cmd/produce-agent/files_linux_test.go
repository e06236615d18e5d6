package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openFiles returns how many files, sockets among them, a program has open.
func (p *program) openFiles() int {
	p.t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Skip("LEFT OUT: /proc does not tell which files are open: ", err)
	}
	return len(names)
}

// limitFiles bounds the files that a running program may have open, and returns
// what undoes it.
func (p *program) limitFiles(n int) (undo func()) {
	p.t.Helper()
	var was unix.Rlimit
	set := func(now, old *unix.Rlimit) {
		p.t.Helper()
		if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, now, old); err != nil {
			p.t.Fatal(err)
		}
	}
	set(nil, &was)
	set(&unix.Rlimit{Cur: uint64(n), Max: was.Max}, nil)
	return func() { set(&was, nil) }
}

// The system gives no more open files, to new clients, new log files and new
// streams alike: what is open goes on, the log says what is missing, and with
// files to be had all is as before within seconds.
func TestOracleOutOfFiles(t *testing.T) {
	t.Parallel()
	o := newOracle(t, 300, nil)
	x := newSite(t, o, everyYAML)
	w := newWire(t, o.box.URL(), nil, nil)
	x.endpoint = w.url()
	x.configure(everyYAML)
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 20, 10*time.Millisecond)
	l.post(t, o, x.listen, 20, 10*time.Millisecond)
	p, at := x.start()
	eventually(t, "records arrive", func() bool { return o.judge().stored > 500 && metric(t, at, `buffer_records{route="edge"}`) >= 0 })
	undo := p.limitFiles(p.openFiles() + 2)
	for i := range 20 { // each wants one
		l.appendTo(t, o, x.log(fmt.Sprintf("new%d.log", i)), 2, 50*time.Millisecond)
		c, err := net.Dial("tcp", x.listen)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	p.until("take a connection")
	before := o.judge().stored
	time.Sleep(time.Second)
	if now := o.judge().stored; now == before {
		t.Error("no record of what was open was delivered while there were no files")
	}
	// Not even what is closed can be had again: streams that break do not come back.
	undoAll := p.limitFiles(3)
	w.cutAll()
	p.until("cannot connect")
	time.Sleep(500 * time.Millisecond)
	undoAll()
	undo()
	fresh := o.source()
	lines, from := o.next(fresh, 1)
	if err := os.WriteFile(x.log("fresh.log"), lines, 0o600); err != nil {
		t.Fatal(err)
	}
	o.accept(fresh, from, 1)
	began := time.Now()
	eventually(t, "a fresh file is delivered", func() bool { return o.has(fresh, 0) })
	took := time.Since(began)
	t.Logf("a fresh file was delivered %s after there were files again", took.Round(time.Millisecond))
	if took > 3*5*time.Second { // three times the bar
		t.Errorf("a fresh file was delivered after %s, want 5 s", took)
	}
	l.end()
	o.settle(t, 0, 2*streams*window+int(o.again.Load()))
	r := drained(t, p, at)
	if r.Pending != 0 || r.Rejected != 0 {
		t.Errorf("%+v\n%s", r.Summary, r.err)
	}
	if n := strings.Count(r.err, "too many open files"); n > 50 {
		t.Errorf("%d lines about it\n%s", n, r.err)
	}
	for _, want := range []string{"trying again; raise the limit of open files", "no more files and connections: raise the limit of open files"} {
		if !strings.Contains(r.err, want) {
			t.Errorf("no word of %q\n%s", want, r.err)
		}
	}
}
