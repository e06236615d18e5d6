//go:build unix

package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// streams and window bound what is on its way at a moment, in the tests that
// count duplicates.
const streams, window = 2, 500

// everyYAML has both kinds of input that lose nothing when the agent is killed.
const everyYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500, report_timeout: 2s}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
  edge: {type: http, listen: "LISTEN", respond: after_buffer}
routes:
  - {name: files, inputs: [files], topic: t, spill: never, retry: {max: 500ms}}
  - {name: edge, inputs: [edge], topic: t, buffer: {type: disk, max_bytes: 256MB}, retry: {max: 500ms}}
`

// seeded returns a source of chance and prints its seed. ORACLE_SEED repeats a run.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := times(t, "ORACLE_SEED", int(time.Now().UnixNano()%1e9)+1)
	t.Logf("ORACLE_SEED=%d", seed)
	return rand.New(rand.NewPCG(uint64(seed), 0))
}

// final is how many records at most became final since the last checkpoint:
// those of its 100 ms, and of some more for writing it on a busy machine. A
// checkpoint that is not written would cost far more, all that ever was.
func (o *oracle) final() int { return o.recent(500 * time.Millisecond) }

// The agent is killed under full load, over and over: nothing is lost, and no
// more is there twice than was on its way or final since the last checkpoint.
// ORACLE_KILLS says how often.
func TestOracleKill(t *testing.T) {
	t.Parallel()
	kills := times(t, "ORACLE_KILLS", 10)
	rnd := seeded(t)
	o := newOracle(t, 300, nil)
	o.spoil = 20
	x := newSite(t, o, strings.ReplaceAll(everyYAML, "topic: t,", "topic: t, decode: json,"))
	l := newLoad(t)
	for i := range 3 {
		l.appendTo(t, o, x.log(fmt.Sprintf("%d.log", i)), 100, 5*time.Millisecond)
	}
	for range 2 {
		l.post(t, o, x.listen, 100, 2*time.Millisecond)
	}
	bar, strict := 0, 0
	for range kills {
		p, _ := x.start()
		p.until(`"listening"`)
		time.Sleep(between(rnd, 200*time.Millisecond, 2*time.Second))
		bar += streams*window + o.final()
		strict += streams*window + o.recent(100*time.Millisecond)
		p.kill()
	}
	p, at := x.start()
	time.Sleep(200 * time.Millisecond)
	l.end()
	v := o.settle(t, 0, bar+int(o.again.Load()))
	t.Logf("%d kills: %d twice, of %d that were on their way or final within 100 ms", kills, v.dup, strict)
	r := drained(t, p, at)
	if r.Pending != 0 {
		t.Errorf("%+v\n%s", r.Summary, r.err)
	}
	o.buried(t, filepath.Join(x.data, "dead"))
	// The books go on: what was final is nobody's any more.
	p, at = x.start()
	if r = drained(t, p, at); r.Read != 0 {
		t.Errorf("read again: %+v\n%s", r.Summary, r.err)
	}
}

// drained waits until an agent has nothing left to do, ends it and returns how
// it went.
func drained(t testing.TB, p *program, at string) ran {
	t.Helper()
	eventually(t, "all is read and delivered", func() bool {
		lag := metric(t, at, `input_lag_bytes{input="files"}`)
		return max(lag, metric(t, at, `buffer_records{route="edge"}`), metric(t, at, `records_in_flight{cluster="main"}`)) <= 0
	})
	return p.terminate()
}

// What an agent finds damaged at its start costs at most the records in it, as
// counted, and never the start.
func TestOracleDamage(t *testing.T) {
	t.Parallel()
	// f lets an agent work until a buffer and checkpoints are there, kills it,
	// and starts it again behind what damage does to its data_dir. most is how
	// many records of the buffer may be lost, dups how many of files come twice.
	f := func(name string, damage func(t *testing.T, x *site), most, dups int) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOracle(t, 1000, nil)
			x := newSite(t, o, strings.Replace(everyYAML, "256MB", "16MB", 1)) // segments of 2 MB
			l := newLoad(t)
			l.appendTo(t, o, x.log("a.log"), 100, 5*time.Millisecond)
			p, at := x.start()
			eventually(t, "a checkpoint", func() bool { return o.judge().stored > 2000 })
			l.end()
			o.settle(t, 0, 0)
			time.Sleep(300 * time.Millisecond) // for the checkpoint
			files := o.judge().accepted
			o.faults(t, "stall=0")
			client := &http.Client{}
			defer client.CloseIdleConnections()
			s := o.source()
			for range 100 {
				lines, from := o.next(s, 100)
				if status, _, err := give(t.Context(), client, x.listen, lines); status != http.StatusOK {
					t.Fatalf("status %d, %v", status, err)
				}
				o.accept(s, from, 100)
			}
			// On a slow machine the silence was long enough to send a window again,
			// here or behind the start.
			toldTwice := func() int { return int(max(0, metric(t, at, `possibly_duplicated_records_total{cluster="main"}`))) }
			again := toldTwice()
			// A stream that ends for its silence still waits for its window beside
			// the one that takes its place.
			flying := max(streams*window, int(metric(t, at, `records_in_flight{cluster="main"}`)))
			p.kill()
			damage(t, x)
			o.faults(t)
			p, at = x.start()
			eventually(t, "all is read and delivered", func() bool {
				return metric(t, at, `input_lag_bytes{input="files"}`) == 0 && metric(t, at, `buffer_records{route="edge"}`) == 0
			})
			lost := int(metric(t, at, `buffer_damaged_records_total{route="edge"}`))
			v := o.judge()
			v = o.settle(t, min(v.lost, lost), flying+again+toldTwice()+min(dups, files))
			if lost > most || v.lost > lost || most > 0 && lost == 0 {
				t.Errorf("%d records counted as damaged, %d lost, want %d at most\n%s", lost, v.lost, most, p.err.String())
			}
			r := p.terminate()
			if r.Pending != 0 || r.Rejected != int64(lost) {
				t.Errorf("%+v\n%s", r.Summary, r.err)
			}
		})
	}
	const all = 1 << 30
	newest := func(t *testing.T, x *site, pattern string) string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(x.data, pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		slices.Sort(names)
		return names[len(names)-1]
	}
	change := func(t *testing.T, path string, how func(b []byte) []byte) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, how(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f("nothing", func(*testing.T, *site) {}, 0, 0)
	second := func(t *testing.T, x *site) string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(x.data, "buffer/edge/*.seg"))
		if err != nil || len(names) < 3 {
			t.Fatalf("%d segments, %v", len(names), err)
		}
		return names[1]
	}
	f("a bit of a segment flips", func(t *testing.T, x *site) {
		change(t, second(t, x), func(b []byte) []byte { b[len(b)/3] ^= 4; return b })
	}, 200, 0)
	f("the newest segment is torn", func(t *testing.T, x *site) {
		change(t, newest(t, x, "buffer/edge/*.seg"), func(b []byte) []byte { return append(b, make([]byte, 5000)...) })
	}, 0, 0)
	f("a segment is gone", func(t *testing.T, x *site) {
		if err := os.Remove(second(t, x)); err != nil {
			t.Fatal(err)
		}
	}, 6000, 0)
	f("acks are gone", func(t *testing.T, x *site) {
		names, err := filepath.Glob(filepath.Join(x.data, "buffer/edge/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if !strings.HasSuffix(name, ".seg") && !strings.HasSuffix(name, "lock") {
				t.Log("removing", filepath.Base(name))
				if err := os.Remove(name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}, 0, 0)
	f("a checkpoint is zeros", func(t *testing.T, x *site) {
		change(t, filepath.Join(x.data, "checkpoint.1"), func(b []byte) []byte { return make([]byte, len(b)) })
	}, 0, 5000)
	f("a checkpoint is cut", func(t *testing.T, x *site) {
		change(t, filepath.Join(x.data, "checkpoint.0"), func(b []byte) []byte { return b[:len(b)/2] })
	}, 0, 5000)
	f("both checkpoints are noise", func(t *testing.T, x *site) {
		for _, name := range []string{"checkpoint.0", "checkpoint.1"} {
			change(t, filepath.Join(x.data, name), func(b []byte) []byte { return []byte(strings.Repeat("noise", 100)) })
		}
	}, 0, all)
}

// fingerprint is a hash of all files below dir, names and bytes.
func fingerprint(t testing.TB, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s\n", path, len(b), b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// The agent is told to end under load, over and over: it ends soon, with a
// healthy cluster everything is there once, with a dead one at most what was on
// its way is there twice. ORACLE_STOPS says how often.
func TestOracleStop(t *testing.T) {
	t.Parallel()
	stops := times(t, "ORACLE_STOPS", 20)
	rnd := seeded(t)
	o := newOracle(t, 300, nil)
	x := newSite(t, o, everyYAML)
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 100, 10*time.Millisecond)
	l.post(t, o, x.listen, 50, 10*time.Millisecond)
	bar, slow := 0, [2]time.Duration{}
	for i := range stops {
		p, _ := x.start("--grace", "1s")
		p.until(`"listening"`)
		time.Sleep(between(rnd, 50*time.Millisecond, 500*time.Millisecond))
		dead := 0
		if i >= stops*4/5 { // the last fifth
			dead = 1
			if v := o.judge(); bar == 0 && v.dup > int(o.again.Load()) {
				t.Errorf("%d twice after %d stops with a healthy cluster", v.dup, i)
			}
			o.faults(t, "stall=0")
			time.Sleep(50 * time.Millisecond)
			bar += streams * window
		}
		began := time.Now()
		r := p.terminate()
		took := time.Since(began)
		slow[dead] = max(slow[dead], took)
		// Three times what is promised: other tests run beside this one.
		if most := []time.Duration{5 * time.Second, 2 * time.Second}[dead] * 3; took > most {
			t.Errorf("ended after %s, want %s at most\n%s", took, most, r.err)
		}
		if r.status != 128+int(syscall.SIGTERM) || r.Rejected != 0 {
			t.Errorf("status %d, %+v\n%s", r.status, r.Summary, r.err)
		}
		o.faults(t)
	}
	t.Logf("ended after %s at most, %s with a dead cluster", slow[0].Round(time.Millisecond), slow[1].Round(time.Millisecond))
	p, at := x.start()
	l.end()
	again := int(o.again.Load())
	o.settle(t, 0, bar+again)
	drained(t, p, at)

	// A second signal does not wait for anything.
	p, _ = x.start("--grace", "1m")
	o.faults(t, "stall=0")
	l = newLoad(t)
	l.appendTo(t, o, x.log("b.log"), 100, 10*time.Millisecond)
	time.Sleep(300 * time.Millisecond)
	p.signal(syscall.SIGTERM)
	time.Sleep(300 * time.Millisecond)
	select {
	case <-p.exited:
		t.Errorf("did not wait for reports\n%s", p.err.String())
	default:
	}
	began := time.Now()
	r := p.terminate()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("ended %s behind the second signal\n%s", took, r.err)
	}
	l.end()
}
