//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// oracle numbers and hashes the records that a test gives to an agent, and
// hears from the sandbox which of them Kafka has. Its verdict:
//
//	lost   accepted (a 2xx, a line in a file), and not stored
//	dup    stored more often than once, how much more often
//	wrong  stored, and not as it was made; or never made
//
// Concurrency: safe.
type oracle struct {
	box *sandbox.Sandbox
	pad int // longest filler of a payload

	spoil int // every so many-th group of records has one that no cluster takes; 0: none

	again atomic.Int64 // records that clients sent again because they had no answer

	mu      sync.Mutex
	sources []*oracleSource
	wrong   []string
	topics  map[string]int
	groups  int
	poison  map[int]bool // what was made to be rejected, and whether it was accepted
	began   time.Time
	slots   []int // records stored, by slot of 10 ms since began
}

// oracleSource is one source of records, numbered from 0.
type oracleSource struct {
	made     int
	accepted []bool
	stored   []uint16
}

// newOracle starts a sandbox and the oracle that listens to it.
func newOracle(t testing.TB, pad int, set func(*sandbox.Config)) *oracle {
	t.Helper()
	o := &oracle{pad: pad, topics: map[string]int{}, poison: map[int]bool{}, began: time.Now()}
	o.box = o.another(t, set)
	return o
}

// another starts a sandbox more, that the oracle listens to as well.
func (o *oracle) another(t testing.TB, set func(*sandbox.Config)) *sandbox.Sandbox {
	t.Helper()
	return startBoxWith(t, func(c *sandbox.Config) {
		c.OnStored = func(topic string, _ int32, _ int64, _, value []byte) { o.store(topic, value) }
		if set != nil {
			set(c)
		}
	})
}

// at returns how many records came to a topic.
func (o *oracle) at(topic string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.topics[topic]
}

// source begins a source and returns its number.
func (o *oracle) source() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sources = append(o.sources, &oracleSource{})
	return len(o.sources) - 1
}

// payload returns record n of source s: JSON that holds both, a hash of them,
// and filler of a length that follows from the hash.
func (o *oracle) payload(dst []byte, s, n int) []byte {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%d", s, n)
	sum := h.Sum64()
	hash := fmt.Sprintf("%016x", sum)
	dst = append(dst, `{"s":`...)
	dst = strconv.AppendInt(dst, int64(s), 10)
	dst = append(dst, `,"n":`...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(append(dst, `,"h":"`...), hash...)
	dst = append(dst, `","p":"`...)
	if o.pad > 0 {
		for fill := int(sum % uint64(o.pad)); fill > 0; fill -= len(hash) {
			dst = append(dst, hash[:min(fill, len(hash))]...)
		}
	}
	return append(dst, `"}`...)
}

// next makes the next n records of s, a line each, and returns the number of
// the first.
func (o *oracle) next(s, n int) (lines []byte, from int) {
	o.mu.Lock()
	x := o.sources[s]
	from = x.made
	x.made += n
	x.accepted = append(x.accepted, make([]bool, n)...)
	x.stored = append(x.stored, make([]uint16, n)...)
	o.mu.Unlock()
	for i := range n {
		lines = append(o.payload(lines, s, from+i), '\n')
	}
	return lines, from
}

// spoiled adds a record that is to end in the dead letter, when it is time for
// one. accepted is to be called once the agent has taken it.
func (o *oracle) spoiled(lines []byte) (more []byte, accepted func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.groups++
	if o.spoil == 0 || o.groups%o.spoil > 0 {
		return lines, func() {}
	}
	id := len(o.poison)
	o.poison[id] = false
	return fmt.Appendf(lines, `{"poison":%d,"open":[1,2}`+"\n", id), func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.poison[id] = true
	}
}

// buried checks that the dead letters below dir hold all that was made to be
// rejected and accepted, and no line that is not whole.
func (o *oracle) buried(t testing.TB, dir string) {
	t.Helper()
	found, again := map[int]bool{}, 0
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			var d struct{ Record string }
			var p struct{ Poison int }
			if err := json.Unmarshal([]byte(line), &d); err != nil {
				t.Errorf("%s: %v: %.200s", filepath.Base(name), err, line)
				continue
			}
			if _, err := fmt.Sscanf(d.Record, `{"poison":%d,`, &p.Poison); err != nil {
				t.Errorf("%s has what was to be delivered: %.200s", filepath.Base(name), line)
				continue
			}
			if found[p.Poison] {
				again++
			}
			found[p.Poison] = true
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	lost := 0
	for id, accepted := range o.poison {
		if accepted && !found[id] {
			lost++
		}
	}
	t.Logf("%d records were made to be rejected, %d are in the dead letters, %d more than once", len(o.poison), len(found), again)
	if lost > 0 {
		t.Errorf("%d rejected records are in no dead letter", lost)
	}
}

// accept notes that the agent has taken n records of s.
func (o *oracle) accept(s, from, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range n {
		o.sources[s].accepted[from+i] = true
	}
}

// identify finds which record value is.
func (o *oracle) identify(value []byte) (s, n int, ok bool) {
	if i := bytes.Index(value, []byte(`"r":`)); i > 0 { // inside another, that says where it goes
		value = value[i+4 : len(value)-1]
	}
	if _, err := fmt.Sscanf(string(value), `{"s":%d,"n":%d,`, &s, &n); err != nil {
		return 0, 0, false
	}
	return s, n, s >= 0 && n >= 0 && bytes.Equal(o.payload(nil, s, n), value)
}

// store notes what Kafka has.
func (o *oracle) store(topic string, value []byte) {
	s, n, ok := o.identify(value)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !ok || s >= len(o.sources) || n >= o.sources[s].made {
		o.wrong = append(o.wrong, string(value))
		return
	}
	o.sources[s].stored[n]++
	o.topics[topic]++
	slot := int(time.Since(o.began) / oracleSlot)
	for len(o.slots) <= slot {
		o.slots = append(o.slots, 0)
	}
	o.slots[slot]++
}

const oracleSlot = 10 * time.Millisecond

// recent returns how many records were stored in the last d.
func (o *oracle) recent(d time.Duration) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, one := range o.slots[max(0, min(len(o.slots), int((time.Since(o.began)-d)/oracleSlot))):] {
		n += one
	}
	return n
}

// verdict is what an oracle finds.
type verdict struct {
	made, accepted, stored, lost, dup, wrong int
}

func (v verdict) String() string {
	return fmt.Sprintf("%d made, %d accepted, %d stored; lost %d, dup %d, wrong %d", v.made, v.accepted, v.stored, v.lost, v.dup, v.wrong)
}

// judge compares.
func (o *oracle) judge() (v verdict) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.sources {
		v.made += x.made
		for n, stored := range x.stored {
			if x.accepted[n] {
				v.accepted++
				if stored == 0 {
					v.lost++
				}
			}
			if stored > 0 {
				v.stored++
				v.dup += int(stored) - 1
			}
		}
	}
	v.wrong = len(o.wrong)
	return v
}

// settle waits until all that was accepted but left records is stored, and
// checks that nothing is wrong and no more than dups are there twice.
func (o *oracle) settle(t testing.TB, left, dups int) verdict {
	t.Helper()
	var v verdict
	limit := time.Now().Add(patience / 2)
	for v = o.judge(); v.lost > left && time.Now().Before(limit); v = o.judge() {
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%v; dup bar %d", v, dups)
	if v.lost != left || v.wrong > 0 || v.dup > dups {
		t.Errorf("%v; want lost %d, dup <= %d, wrong 0", v, left, dups)
		o.mu.Lock()
		defer o.mu.Unlock()
		for s, x := range o.sources {
			shown := 0
			for n, stored := range x.stored {
				if shown < 5 && x.accepted[n] && stored == 0 {
					t.Logf("lost: record %d of source %d, which made %d", n, s, x.made)
					shown++
				}
			}
		}
		for _, w := range o.wrong[:min(3, len(o.wrong))] {
			t.Logf("wrong: %.200s", w)
		}
	}
	return v
}

// faults changes what the sandbox does wrong.
func (o *oracle) faults(t testing.TB, faults ...string) {
	t.Helper()
	var all sandbox.Faults
	for _, text := range faults {
		f, err := sandbox.ParseFault(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	if err := o.box.SetFaults(all); err != nil {
		t.Fatal(err)
	}
}

// load is goroutines that give records to an agent until it is ended.
type load struct {
	stop context.CancelFunc
	ctx  context.Context
	all  sync.WaitGroup
}

func newLoad(t testing.TB) *load {
	l := &load{}
	l.ctx, l.stop = context.WithCancel(context.Background())
	t.Cleanup(l.end)
	return l
}

// end stops all and waits for them.
func (l *load) end() {
	l.stop()
	l.all.Wait()
}

// appendTo appends records of a new source to file, so many at a time, with a
// pause behind each. A line counts as accepted once it is written.
func (l *load) appendTo(t testing.TB, o *oracle, file string, each int, every time.Duration) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	l.writeTo(t, o, f, each, every)
}

// writeTo is appendTo for what is open already.
func (l *load) writeTo(t testing.TB, o *oracle, f io.Writer, each int, every time.Duration) {
	s := o.source()
	l.all.Go(func() {
		for l.ctx.Err() == nil {
			lines, from := o.next(s, each)
			lines, accepted := o.spoiled(lines)
			if _, err := f.Write(lines); err != nil {
				t.Error(err)
				return
			}
			o.accept(s, from, each)
			accepted()
			sleep(l.ctx, every)
		}
	})
}

// post sends records of a new source to the listener at addr, so many a
// request, each again until it is answered 2xx.
func (l *load) post(t testing.TB, o *oracle, addr string, each int, every time.Duration) {
	s := o.source()
	l.all.Go(func() {
		client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
		defer client.CloseIdleConnections()
		for l.ctx.Err() == nil {
			lines, from := o.next(s, each)
			lines, accepted := o.spoiled(lines)
			for l.ctx.Err() == nil {
				status, _, err := give(l.ctx, client, addr, lines)
				if status/100 == 2 {
					o.accept(s, from, each)
					accepted()
					break
				}
				if status != 0 && status != http.StatusServiceUnavailable {
					t.Errorf("a request was answered %d", status)
					return
				}
				// No answer, or one that does not say what became of each record.
				if !errors.Is(err, syscall.ECONNREFUSED) {
					o.again.Add(int64(each))
				}
				sleep(l.ctx, 50*time.Millisecond)
			}
			sleep(l.ctx, every)
		}
	})
}

// give sends one request. Its status is 0 when there was no answer.
func give(ctx context.Context, client *http.Client, addr string, lines []byte) (status int, h http.Header, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/ingest/edge", bytes.NewReader(lines))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header, nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// freeAddr returns an address of this machine that nobody listens on, for a
// listener that is to be found there again after a restart. Where it can it has
// a host of its own, as no connection of another test then has its port.
func freeAddr(t testing.TB) string {
	t.Helper()
	n := freeAddrs.Add(1)
	l, err := net.Listen("tcp", fmt.Sprintf("127.77.%d.%d:0", n/200, 1+n%200))
	if err != nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var freeAddrs atomic.Int32

// site is a folder for one agent: its logs, data_dir and configuration.
type site struct {
	t                testing.TB
	dir, data, logs  string
	listen, endpoint string
	path             string // of the configuration
}

func newSite(t testing.TB, o *oracle, yaml string) *site {
	t.Helper()
	return newSiteAt(t, o.box.URL(), yaml)
}

func newSiteAt(t testing.TB, endpoint, yaml string) *site {
	t.Helper()
	x := &site{t: t, dir: t.TempDir(), listen: freeAddr(t), endpoint: endpoint}
	x.data, x.logs, x.path = filepath.Join(x.dir, "data"), filepath.Join(x.dir, "logs"), filepath.Join(x.dir, "agent.yaml")
	if err := os.Mkdir(x.logs, 0o700); err != nil {
		t.Fatal(err)
	}
	x.configure(yaml)
	return x
}

// configure writes the configuration.
func (x *site) configure(yaml string) {
	x.t.Helper()
	yaml = strings.NewReplacer("DATA", x.data, "LOGS", x.logs, "LISTEN", x.listen, "ENDPOINT", x.endpoint).Replace(yaml)
	if err := os.WriteFile(x.path, []byte(yaml), 0o600); err != nil {
		x.t.Fatal(err)
	}
}

// start starts the agent and waits until it can be asked.
func (x *site) start(args ...string) (p *program, at string) {
	x.t.Helper()
	return service(x.t, x.path, nil, args...)
}

// log returns the path of a log file.
func (x *site) log(name string) string { return filepath.Join(x.logs, name) }

// kill ends a program as a crash would.
func (p *program) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// terminate asks a program to end and returns how it went.
func (p *program) terminate() ran {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	return p.ran()
}

// aside runs a subtest beside others that do little but wait: unlike parallel
// ones they take no processor's place. all is to be waited for.
func aside(t *testing.T, all *sync.WaitGroup, name string, test func(t *testing.T)) {
	all.Go(func() { t.Run(name, test) })
}

// times is an integer from the environment, for longer runs than CI has.
func times(t testing.TB, name string, without int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return without
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: want a number from 1", name, text)
	}
	return n
}

// metric returns a metric's value as /metrics has it, -1 when it is not there.
func metric(t testing.TB, at, name string) float64 {
	t.Helper()
	_, body := ask(t, at, "/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "produce_agent_"+name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

// between is a random duration, short ones more often.
func between(rnd *rand.Rand, from, to time.Duration) time.Duration {
	x := rnd.Float64()
	return from + time.Duration(x*x*float64(to-from))
}
