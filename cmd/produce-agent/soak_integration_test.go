//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const soakYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500, report_timeout: 2s}}
inputs:
  files: {type: file, include: ["LOGS/*.log*"], poll: 100ms}
  edge: {type: http, listen: "LISTEN", respond: after_buffer, respond_timeout: 5s}
routes:
  - {name: files, inputs: [files], topic: t, spill: never, value: {type: JSON}, retry: {max: 500ms, max_attempts: 1000}}
  - {name: edge, inputs: [edge], topic: t, value: {type: JSON}, buffer: {type: disk, max_bytes: 64MB}, retry: {max: 500ms, max_attempts: 1000}}
`

// rotated is a log file that is written and rotated.
type rotated struct {
	path string

	mu sync.Mutex // held while a record is written, and while the file is rotated
	f  *os.File
	n  int
}

func newRotated(t testing.TB, path string) *rotated {
	t.Helper()
	r := &rotated{path: path}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.f.Close() })
	return r
}

func (r *rotated) open() (err error) {
	r.f, err = os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// Write implements io.Writer.
func (r *rotated) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.f.Write(p)
}

// rotate renames the file and begins anew, or copies and truncates it.
func (r *rotated) rotate(truncate bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	old := fmt.Sprintf("%s.%d", r.path, r.n)
	if !truncate {
		if err := os.Rename(r.path, old); err != nil {
			return err
		}
		r.f.Close()
		return r.open()
	}
	raw, err := os.ReadFile(r.path)
	if err == nil {
		err = os.WriteFile(old, raw, 0o600)
	}
	if err == nil {
		err = r.f.Truncate(0)
	}
	return err
}

// soak is one long run.
type soak struct {
	t     *testing.T
	rnd   *rand.Rand
	o     *oracle
	x     *site
	p     *program
	logs  []*rotated
	small bool // data_dir can be filled
	bar   int  // of duplicates
	did   map[string]int
}

// TestOracleSoak mixes kills, stops, full disks, broken and silent streams,
// refusals and rotations by chance, for SOAK_TIME. Nothing is lost, nothing is
// wrong, and a record that comes when the faults are over is there in 10 s.
func TestOracleSoak(t *testing.T) {
	long := soaking()
	if long == 0 {
		t.Skip("SOAK_TIME says how long, as in SOAK_TIME=10m")
	}
	k := &soak{t: t, rnd: seeded(t), o: newOracle(t, 300, nil), did: map[string]int{}}
	k.o.spoil = 10
	k.x = newSite(t, k.o, soakYAML)
	k.small = tmpfs(t, k.x.data, 192<<20)
	l := newLoad(t)
	for i := range 3 {
		r := newRotated(t, k.x.log(fmt.Sprintf("app%d.log", i)))
		k.logs = append(k.logs, r)
		l.writeTo(t, k.o, r, 20, 20*time.Millisecond)
	}
	for range 2 {
		l.post(t, k.o, k.x.listen, 20, 20*time.Millisecond)
	}
	k.p, _ = k.x.start("--grace", "1s")
	for end := time.Now().Add(long); time.Now().Before(end) && !t.Failed(); {
		k.once()
		time.Sleep(between(k.rnd, 50*time.Millisecond, 2*time.Second))
	}
	t.Logf("events: %v", k.did)
	k.o.faults(t)
	k.clear()
	fresh := k.o.source()
	lines, from := k.o.next(fresh, 1)
	if _, err := k.logs[0].Write(lines); err != nil {
		t.Fatal(err)
	}
	k.o.accept(fresh, from, 1)
	began := time.Now()
	eventually(t, "a fresh record is there", func() bool { return k.o.has(fresh, 0) })
	took := time.Since(began)
	t.Logf("a fresh record was there after %s", took.Round(time.Millisecond))
	if took > 10*time.Second {
		t.Errorf("a fresh record was there after %s, want 10 s", took)
	}
	l.end()
	k.o.settle(t, 0, k.bar+int(k.o.again.Load()))
	k.p.terminate()
	p, at := k.x.start()
	if r := drained(t, p, at); r.Pending != 0 || r.Rejected != 0 {
		t.Errorf("%+v\n%s", r.Summary, r.err)
	}
	k.o.settle(t, 0, k.bar+int(k.o.again.Load()))
	k.o.buried(t, filepath.Join(k.x.data, "dead"))
}

// has says whether a record is stored.
func (o *oracle) has(s, n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sources[s].stored[n] > 0
}

// ballast is the file that fills the data_dir.
func (k *soak) ballast() string { return filepath.Join(k.x.data, "ballast") }

func (k *soak) clear() {
	if err := os.Remove(k.ballast()); err != nil && !os.IsNotExist(err) {
		k.t.Fatal(err)
	}
}

// fill leaves no room in the data_dir.
func (k *soak) fill() {
	f, err := os.OpenFile(k.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		k.t.Logf("ballast: %v", err)
		return
	}
	defer f.Close()
	for size := 1 << 20; size >= 1<<12; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// streamFaults are what happens to streams, and how many of them break of it.
var streamFaults = []struct {
	name   string
	breaks int
}{
	{"reset=500,lost=all,times=2", 2},
	{"cut=300,mid=true,times=2", 2},
	{"cut=1000,lost=100,times=1", 1},
	{"expire=700,grace=100ms,times=3", 3},
	{"http=429,times=3", 0},
	{"http=503,times=3", 0},
	{"refuse=3", 0},
	{"refuse", 2},
	{"report=429,share=0.5,count=2000", 0},
	{"report=500,share=0.1,count=100", 2},
	{"stall=100,for=500ms", 2},
	{"stall=50,times=4", 4},
	{"slow=200ms", 0},
	{"garbage=100,times=1", 1},
}

// once lets one thing happen.
func (k *soak) once() {
	switch n := k.rnd.IntN(10); {
	case n == 0:
		k.did["kill"]++
		k.p.kill()
		k.bar += streams*window + k.o.final()
		k.restart()
	case n == 1:
		k.did["stop"]++
		k.p.terminate()
		k.bar += streams * window
		k.restart()
	case n == 2 && k.small:
		k.did["full disk"]++
		k.fill()
		time.Sleep(between(k.rnd, 200*time.Millisecond, 3*time.Second))
		if k.rnd.IntN(3) == 0 { // killed with it: the checkpoints are as old as that
			k.did["full disk and kill"]++
			k.p.kill()
			k.bar += streams*window + k.o.recent(5*time.Second)
			k.restart()
		}
		k.clear()
	case n <= 4:
		truncate := k.rnd.IntN(3) == 0
		k.did[fmt.Sprintf("rotate, truncate %t", truncate)]++
		if err := k.logs[k.rnd.IntN(len(k.logs))].rotate(truncate); err != nil {
			k.t.Fatal(err)
		}
	default:
		f := streamFaults[k.rnd.IntN(len(streamFaults))]
		k.did[f.name]++
		k.o.faults(k.t, f.name)
		k.bar += f.breaks * window
		time.Sleep(between(k.rnd, 200*time.Millisecond, 3*time.Second))
		if k.rnd.IntN(4) > 0 { // else it goes on into what comes next
			k.o.faults(k.t)
		}
	}
}

// restart starts the agent, at times after a while in which files are rotated.
func (k *soak) restart() {
	if k.rnd.IntN(3) == 0 {
		k.did["rotate while down"]++
		if err := k.logs[k.rnd.IntN(len(k.logs))].rotate(false); err != nil {
			k.t.Fatal(err)
		}
		time.Sleep(between(k.rnd, 10*time.Millisecond, time.Second))
	}
	k.p, _ = k.x.start("--grace", "1s")
}
