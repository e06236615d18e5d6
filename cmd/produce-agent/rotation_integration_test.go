//go:build unix

package main

import (
	"compress/gzip"
	"fmt"
	"os"
	"testing"
	"time"
)

const followYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500}}
inputs:
  files: {type: file, include: ["LOGS/app.log*"], poll: 50ms}
routes:
  - {name: files, inputs: [files], topic: t, spill: never, retry: {max: 500ms}}
`

// Files are rotated in every way while the agent follows them, and while it is
// down: each line comes through, once.
func TestOracleRotation(t *testing.T) {
	t.Parallel()
	type agent struct {
		o    *oracle
		x    *site
		s    int
		path string
	}
	// write appends records to the file at path.
	write := func(t *testing.T, a *agent, path string, n int) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines, from := a.o.next(a.s, n)
		half := len(lines) - 7 // the last line comes in two parts
		for _, part := range [][]byte{lines[:half], lines[half:]} {
			if _, err := f.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		a.o.accept(a.s, from, n)
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pack := func(t *testing.T, from, to string) {
		t.Helper()
		raw, err := os.ReadFile(from)
		must(t, err)
		f, err := os.Create(to)
		must(t, err)
		z := gzip.NewWriter(f)
		_, err = z.Write(raw)
		must(t, err)
		must(t, z.Close())
		must(t, f.Close())
		must(t, os.Remove(from))
	}
	copyTo := func(t *testing.T, from, to string) {
		t.Helper()
		raw, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(to, raw, 0o600))
	}
	// f does one rotation: twice with the agent running, and once while it is
	// down. all: it has read all there is before the file is rotated, for what
	// cannot work otherwise.
	f := func(name string, all bool, rotate func(t *testing.T, a *agent, i int)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOracle(t, 300, nil)
			a := &agent{o: o, x: newSite(t, o, followYAML), s: o.source()}
			a.path = a.x.log("app.log")
			write(t, a, a.path, 500)
			p, at := a.x.start()
			for i := range 3 {
				write(t, a, a.path, 500)
				if all {
					o.settle(t, 0, 0)
				}
				if i == 2 {
					eventually(t, "something is read", func() bool { return o.judge().stored > 0 })
					p.terminate()
				}
				rotate(t, a, i)
				write(t, a, a.path, 500)
				if i == 2 {
					p, at = a.x.start()
				}
				eventually(t, "the rotation is seen", func() bool { return o.judge().lost == 0 })
			}
			o.settle(t, 0, 0)
			time.Sleep(200 * time.Millisecond) // what would come twice has come
			o.settle(t, 0, 0)
			r := drained(t, p, at)
			if r.Pending != 0 || r.Rejected != 0 {
				t.Errorf("%+v\n%s", r.Summary, r.err)
			}
		})
	}
	f("rename and create", false, func(t *testing.T, a *agent, i int) {
		must(t, os.Rename(a.path, fmt.Sprintf("%s.%d", a.path, i)))
	})
	f("rename and write on", false, func(t *testing.T, a *agent, i int) {
		old := fmt.Sprintf("%s.%d", a.path, i)
		must(t, os.Rename(a.path, old))
		write(t, a, a.path, 500)
		write(t, a, old, 200) // by a writer that has not seen it yet
	})
	f("copytruncate", true, func(t *testing.T, a *agent, i int) {
		copyTo(t, a.path, fmt.Sprintf("%s.%d", a.path, i))
		must(t, os.Truncate(a.path, 0))
	})
	f("delete and create", true, func(t *testing.T, a *agent, _ int) {
		must(t, os.Remove(a.path))
	})
	f("rename and gzip", true, func(t *testing.T, a *agent, i int) {
		old := fmt.Sprintf("%s.%d", a.path, i)
		must(t, os.Rename(a.path, old))
		pack(t, old, old+".gz")
	})
	f("gzip of what is not read", false, func(t *testing.T, a *agent, i int) {
		old := fmt.Sprintf("%s.%d", a.path, i)
		if i == 2 {
			write(t, a, a.path, 1500)
		}
		must(t, os.Rename(a.path, old))
		if i == 2 { // the agent is down
			pack(t, old, old+".gz")
		}
	})
}
