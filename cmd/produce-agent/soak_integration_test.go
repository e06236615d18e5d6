//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	o     *oracle
	w     *wire
	x     *site
	p     *program
	logs  []*rotated
	small bool // data_dir can be filled
	bar   int  // of duplicates
	did   map[string]int

	mu   sync.Mutex // guards next
	next []trouble  // of the next connections
	hole bool       // new connections fall silent at once
}

// soakTime is how long the soak goes on where SOAK_TIME does not say.
const soakTime = time.Minute

// TestOracleSoak mixes kills, stops, full disks, connections that are cut at any
// byte or fall silent, refusals, storms of 429 and rotations by chance, for
// SOAK_TIME. Nothing is lost, nothing is wrong, and a record that comes when the
// faults are over is there in 10 s.
func TestOracleSoak(t *testing.T) {
	t.Parallel()
	long := soaking()
	if long == 0 {
		long = soakTime
	}
	rnd := seeded(t)
	k := &soak{t: t, o: newOracle(t, 300, nil), did: map[string]int{}}
	k.o.spoil = 10
	k.w = newWire(t, k.o.box.URL(), nil, k.plan)
	k.x = newSite(t, k.o, soakYAML)
	k.x.endpoint = k.w.url()
	k.x.configure(soakYAML)
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
		e := draw(rnd)
		k.do(e)
		time.Sleep(e.then)
	}
	t.Logf("events: %v", k.did)
	k.o.faults(t)
	k.clear()
	k.mend()
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

// plan says what happens to a connection.
func (k *soak) plan([]byte) (tr trouble) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hole {
		return trouble{how: cutHole, after: [2]int64{1, 0}}
	}
	if len(k.next) > 0 {
		tr, k.next = k.next[0], k.next[1:]
	}
	return tr
}

// mend lets the wire do no more harm to new connections.
func (k *soak) mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hole, k.next = false, nil
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

// event is one thing that happens in a soak. All of it is drawn before it
// happens: the same seed gives the same events in the same order, whatever the
// machine makes of them.
type event struct {
	what  string
	fault int           // in streamFaults
	log   int           // which file
	also  bool          // what it does besides
	last  time.Duration // how long it goes on
	cuts  []trouble     // of the next connections
	then  time.Duration // until the next event

	down   time.Duration // how long the agent is down; 0: it starts at once
	rotate int           // which file is rotated meanwhile
}

// draw draws the next event.
func draw(rnd *rand.Rand) (e event) {
	what := []string{
		"kill", "stop", "full disk", "rotate", "rotate", "cut", "cut", "hole", "429", "fault", "fault", "fault", "fault", "fault",
	}
	e = event{
		what: what[rnd.IntN(len(what))], fault: rnd.IntN(len(streamFaults)), log: rnd.IntN(3), also: rnd.IntN(3) == 0,
		last: between(rnd, 200*time.Millisecond, 3*time.Second), then: between(rnd, 50*time.Millisecond, 2*time.Second),
	}
	if rnd.IntN(3) == 0 {
		e.down, e.rotate = between(rnd, 10*time.Millisecond, time.Second), rnd.IntN(3)
	}
	for range 2 + rnd.IntN(6) {
		dir := rnd.IntN(2)
		tr := trouble{how: cutting(rnd.IntN(2))}
		tr.after[dir] = somewhere(rnd, 50_000)
		e.cuts = append(e.cuts, tr)
	}
	return e
}

// do lets one thing happen.
func (k *soak) do(e event) {
	if e.what == "full disk" && !k.small {
		e.what = "rotate"
	}
	k.did[e.what]++
	switch e.what {
	case "kill":
		k.p.kill()
		k.bar += streams*window + k.o.final()
		k.restart(e)
	case "stop":
		k.p.terminate()
		k.bar += streams * window
		k.restart(e)
	case "full disk":
		k.fill()
		time.Sleep(e.last)
		if e.also { // killed with it: the checkpoints are as old as that
			k.did["full disk and kill"]++
			k.p.kill()
			k.bar += streams*window + k.o.recent(5*time.Second)
			k.restart(e)
		}
		k.clear()
	case "rotate":
		if err := k.logs[e.log].rotate(e.also); err != nil {
			k.t.Fatal(err)
		}
	case "cut":
		k.mu.Lock()
		k.next = e.cuts
		k.mu.Unlock()
		k.w.cutAll()
		k.bar += (len(e.cuts) + streams) * window
		time.Sleep(e.last)
	case "hole":
		k.mu.Lock()
		k.hole = true
		k.mu.Unlock()
		k.w.silence()
		k.bar += streams * window
		time.Sleep(e.last)
		k.mend()
	case "429":
		k.o.faults(k.t, "report=429,share=0.5")
		time.Sleep(e.last)
		k.o.faults(k.t)
	default:
		f := streamFaults[e.fault]
		k.did[f.name]++
		k.o.faults(k.t, f.name)
		k.bar += f.breaks * window
		time.Sleep(e.last)
		if !e.also { // else it goes on into what comes next
			k.o.faults(k.t)
		}
	}
}

// restart starts the agent, at times after a while in which files are rotated.
func (k *soak) restart(e event) {
	if e.down > 0 {
		k.did["rotate while down"]++
		if err := k.logs[e.rotate].rotate(false); err != nil {
			k.t.Fatal(err)
		}
		time.Sleep(e.down)
	}
	k.p, _ = k.x.start("--grace", "1s")
}

// The same seed draws the same soak, and a long one has everything in it.
func TestSoakRepeats(t *testing.T) {
	series := func(seed uint64) (all []string, kinds map[string]int) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		kinds = map[string]int{}
		for range 300 {
			e := draw(rnd)
			kinds[e.what]++
			all = append(all, fmt.Sprintf("%+v", e))
		}
		return all, kinds
	}
	a, kinds := series(7)
	if b, _ := series(7); !slices.Equal(a, b) {
		t.Error("one seed drew two soaks")
	}
	if b, _ := series(8); slices.Equal(a, b) {
		t.Error("two seeds drew one soak")
	}
	for _, what := range []string{"kill", "stop", "full disk", "rotate", "cut", "hole", "429", "fault"} {
		if kinds[what] == 0 {
			t.Errorf("no %s in 300 events: %v", what, kinds)
		}
	}
}
