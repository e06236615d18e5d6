//go:build unix

package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// A configuration with mistakes changes nothing: at a start and while running,
// the buffer keeps every byte.
func TestOracleBadConfig(t *testing.T) {
	t.Parallel()
	o := newOracle(t, 300, nil)
	o.faults(t, "refuse")
	x := newSite(t, o, everyYAML)
	p, at := x.start("--grace", "1s")
	client := &http.Client{}
	defer client.CloseIdleConnections()
	s := o.source()
	for range 10 {
		lines, from := o.next(s, 100)
		if status, _, err := give(t.Context(), client, x.listen, lines); status != http.StatusOK {
			t.Fatalf("status %d, %v", status, err)
		}
		o.accept(s, from, 100)
	}
	p.terminate()
	buffer := filepath.Join(x.data, "buffer")
	before := fingerprint(t, buffer)
	bad := []string{
		"routes: [",
		strings.Replace(everyYAML, "topic: t", "topic: 'a b'", 1),
		strings.Replace(everyYAML, "type: disk", "type: dusk", 1),
		strings.Replace(everyYAML, "max_bytes: 256MB", "max_bytes: 1KB", 1),
		"{}",
	}
	for _, yaml := range bad {
		x.configure(yaml)
		if r := begin(t, nil, nil, "ship", "--config", x.path).ran(); r.status != exitConfig || !strings.Contains(r.err, "agent.yaml") {
			t.Errorf("status %d\n%s", r.status, r.err)
		}
		if fingerprint(t, buffer) != before {
			t.Errorf("a bad configuration changed the buffer:\n%s", yaml)
		}
	}
	x.configure(everyYAML)
	p, at = x.start()
	eventually(t, "the buffer is open", func() bool { return metric(t, at, `buffer_records{route="edge"}`) == 1000 })
	time.Sleep(200 * time.Millisecond) // what an open buffer writes of itself
	before = fingerprint(t, buffer)
	for i, yaml := range bad {
		x.configure(yaml)
		p.signal(syscall.SIGHUP)
		eventually(t, "the reload is refused", func() bool { return strings.Count(p.err.String(), "is refused") == i+1 })
		if metric(t, at, "config_last_reload_successful") != 0 {
			t.Error("the metric does not tell of a refused reload")
		}
		if fingerprint(t, buffer) != before {
			t.Errorf("a bad configuration changed the buffer:\n%s", yaml)
		}
	}
	x.configure(everyYAML)
	p.signal(syscall.SIGHUP)
	eventually(t, "a good one is taken", func() bool { return metric(t, at, "config_last_reload_successful") == 1 })
	o.faults(t)
	o.settle(t, 0, 0)
	drained(t, p, at)
}

// The configuration changes again and again while records come from files and
// clients: other topics, clusters, streams, inputs and buffers. Nothing is lost
// and nothing there twice, for everything that goes is given its time.
func TestOracleReload(t *testing.T) {
	t.Parallel()
	topics := func(c *sandbox.Config) { c.Topics = append(c.Topics, sandbox.Topic{Name: "u", Partitions: 2}) }
	o := newOracle(t, 300, topics)
	second := o.another(t, topics)
	o.faults(t, "slow=50ms") // there is always something on its way
	if err := second.SetFaults(sandbox.Faults{{Kind: sandbox.FaultSlow, For: 50 * time.Millisecond}}); err != nil {
		t.Fatal(err)
	}
	x := newSite(t, o, everyYAML)
	p, at := x.start()
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 50, 5*time.Millisecond)
	l.post(t, o, x.listen, 20, 5*time.Millisecond)
	first := x.endpoint
	for i, change := range []string{
		"topic: t|topic: u",
		"poll: 50ms|poll: 60ms",
		"max: 2,|max: 3,",
		"cluster 2",
		"max_bytes: 256MB|max_bytes: 128MB",
		"respond: after_buffer|respond: after_delivery",
		"retry: {max: 500ms}|retry: {max: 400ms}",
		"cluster 1",
		"spill: never|buffer: {type: disk}, spill: parked",
		"|",
	} {
		time.Sleep(100 * time.Millisecond)
		old, now, _ := strings.Cut(change, "|")
		x.endpoint = first
		if change == "cluster 2" {
			x.endpoint = second.URL()
		}
		x.configure(strings.ReplaceAll(everyYAML, old, now))
		p.signal(syscall.SIGHUP)
		eventually(t, "the change is taken: "+change, func() bool {
			return strings.Count(p.err.String(), "configuration is in force")+strings.Count(p.err.String(), "is refused") == i+1
		})
		if metric(t, at, "config_last_reload_successful") != 1 {
			t.Fatalf("%s is refused:\n%s", change, p.err.String())
		}
	}
	time.Sleep(100 * time.Millisecond)
	l.end()
	again := int(o.again.Load())
	v := o.settle(t, 0, again)
	r := drained(t, p, at)
	if o.at("u") == 0 || o.at("t") == 0 || r.Pending != 0 || r.Rejected != 0 || r.Delivered != int64(v.stored+v.dup) {
		t.Errorf("%d at t, %d at u, %d given again, %v, %+v\n%s", o.at("t"), o.at("u"), again, v, r.Summary, r.err)
	}
}

// The cluster is dead, and a reload names another: all that the old one has not
// reported goes to the new one.
func TestOracleReloadDead(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"stall=50", "refuse"} {
		o := newOracle(t, 300, nil)
		second := o.another(t, nil)
		yaml := strings.Replace(everyYAML, "report_timeout: 2s", "report_timeout: 1m", 1)
		x := newSite(t, o, yaml)
		p, at := x.start("--grace", "1s")
		l := newLoad(t)
		l.appendTo(t, o, x.log("a.log"), 50, 5*time.Millisecond)
		l.post(t, o, x.listen, 20, 5*time.Millisecond)
		time.Sleep(200 * time.Millisecond)
		o.faults(t, fault)
		time.Sleep(300 * time.Millisecond)
		x.endpoint = second.URL()
		x.configure(yaml)
		began := time.Now()
		p.signal(syscall.SIGHUP)
		p.until("is in force")
		took := time.Since(began)
		l.end()
		v := o.settle(t, 0, streams*window+int(o.again.Load()))
		r := drained(t, p, at)
		t.Logf("%s: in force after %s", fault, took.Round(time.Millisecond))
		if r.Pending != 0 || r.Rejected != 0 || took > 10*time.Second {
			t.Errorf("%s: in force after %s, %v, %+v\n%s", fault, took, v, r.Summary, r.err)
		}
	}
}

// A second process on a data_dir refuses at once, in words, and changes nothing
// of what the first one does. So does one whose data_dir it may not write.
func TestOracleDataDir(t *testing.T) {
	t.Parallel()
	o := newOracle(t, 300, nil)
	x := newSite(t, o, everyYAML)
	p, at := x.start()
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 50, 5*time.Millisecond)
	l.post(t, o, x.listen, 20, 5*time.Millisecond)
	for range 3 {
		began := time.Now()
		r := begin(t, nil, nil, "ship", "--config", x.path, "--metrics-listen", "127.0.0.1:0").ran()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("refused after %s", took)
		}
		if r.status != exitFailure || !strings.Contains(r.err, x.data) || !strings.Contains(r.err, "in use") {
			t.Errorf("status %d\n%s", r.status, r.err)
		}
	}
	l.end()
	o.settle(t, 0, 0)
	drained(t, p, at)

	closed := filepath.Join(x.dir, "closed")
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	f := func(dir string, words ...string) {
		t.Helper()
		x.data = dir
		x.configure(everyYAML)
		r := begin(t, []string{asAnybody + "=1"}, nil, "ship", "--config", x.path, "--metrics-listen", "127.0.0.1:0").ran()
		if r.status != exitFailure && r.status != exitConfig {
			t.Errorf("status %d\n%s", r.status, r.err)
		}
		for _, w := range append(words, "data_dir", dir) {
			if !strings.Contains(r.err, w) {
				t.Errorf("nothing of %q in\n%s", w, r.err)
			}
		}
	}
	f(closed, "permission denied")
	f(filepath.Join(closed, "sub"), "permission denied")
	f(x.path, "not a directory")
}
