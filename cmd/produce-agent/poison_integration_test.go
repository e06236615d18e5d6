//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

const poisonYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
routes:
  - {name: files, inputs: [files], topic: t, value: {type: JSON}, max_record_bytes: 4KB, spill: never, retry: {max: 500ms}}
`

// deadLetters returns how many records a dead letter keeps, by reason.
func deadLetters(t testing.TB, path string) map[string]int {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int{}
	for line := range strings.Lines(string(raw)) {
		var d struct {
			Code   int    `json:"error_code"`
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all[fmt.Sprintf("%d %s", d.Code, d.Reason)]++
	}
	return all
}

// One record in a thousand is poison: no JSON, too long, or refused by the
// server. Each is in the dead letter once, with its reason; all others are
// delivered, over streams that poison does not break; a restart on the way
// changes nothing of it.
func TestOraclePoison(t *testing.T) {
	t.Parallel()
	const rounds, each, kinds = 60, 1000, 3
	o := newOracle(t, 300, nil)
	refuses := "report=422,contains=no schema"
	o.faults(t, refuses)
	x := newSite(t, o, poisonYAML)
	f, err := os.Create(x.log("a.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rnd := seeded(t)
	s := o.source()
	p, at := x.start()
	for i := range rounds {
		lines, from := o.next(s, each)
		all := strings.SplitAfter(string(lines), "\n")
		where := rnd.IntN(each)
		poison := []string{
			fmt.Sprintf(`{"poison":%d,"open":[1,2}`, i),
			fmt.Sprintf(`{"poison":%d,"long":"%s"}`, i, strings.Repeat("x", 5000)),
			fmt.Sprintf(`{"poison":%d,"why":"no schema"}`, i),
		}[i%kinds]
		all[where] = poison + "\n" + all[where]
		if _, err := f.WriteString(strings.Join(all, "")); err != nil {
			t.Fatal(err)
		}
		o.accept(s, from, each)
		if i == rounds/2 {
			eventually(t, "records arrive", func() bool { return o.judge().stored > 0 })
			p.terminate()
			p, at = x.start()
		}
	}
	o.settle(t, 0, 0)
	eventually(t, "all is final", func() bool {
		return metric(t, at, `input_lag_bytes{input="files"}`) == 0 && metric(t, at, `records_in_flight{cluster="main"}`) == 0
	})
	opened := metric(t, at, `streams_opened_total{cluster="main"}`)
	if opened > 8 {
		t.Errorf("%v streams were opened", opened)
	}
	p.terminate()
	got := deadLetters(t, filepath.Join(x.data, "dead", "files.ndjson"))
	t.Logf("dead letter: %v; %v streams opened", got, opened)
	n, bad := 0, len(got) != kinds
	for _, one := range got {
		n += one
		bad = bad || one != rounds/kinds
	}
	if bad || n != rounds {
		t.Errorf("the dead letter has %v, want %d of each kind", got, rounds/kinds)
	}
}

const parkedYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 4, in_flight: 500}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
routes:
  - name: files
    inputs: [files]
    topic: "t-{{ .to }}"
    spill: parked
    buffer: {type: disk, max_bytes: 64MB}
    retry: {initial: 50ms, max: 500ms}
`

// One topic of a file takes nothing, as it is not there or is forbidden: the
// others go on, its records wait in the buffer, over a restart too, and come
// through once it takes them.
func TestOracleParked(t *testing.T) {
	t.Parallel()
	f := func(fault string) {
		t.Run(fault[:strings.IndexByte(fault, ',')], func(t *testing.T) {
			t.Parallel()
			o := newOracle(t, 300, func(c *sandbox.Config) {
				c.Topics = nil
				for i := range 4 {
					c.Topics = append(c.Topics, sandbox.Topic{Name: fmt.Sprintf("t-%d", i), Partitions: 1})
				}
			})
			o.faults(t, fault)
			x := newSite(t, o, parkedYAML)
			p, at := x.start("--grace", "1s")
			file, err := os.Create(x.log("a.log"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			var all [4]int
			for i := range all {
				all[i] = o.source()
			}
			write := func() {
				t.Helper()
				for i := range 400 {
					s := all[i%4]
					lines, from := o.next(s, 25)
					o.accept(s, from, 25)
					for line := range strings.Lines(string(lines)) {
						if _, err := file.WriteString(fmt.Sprintf(`{"to":%d,"r":%s}`, i%4, strings.TrimSuffix(line, "\n")) + "\n"); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			write()
			others := func(n int) {
				t.Helper()
				eventually(t, "the other topics have all of theirs", func() bool { return o.at("t-0")+o.at("t-1")+o.at("t-2") >= n })
			}
			others(7500)
			if n := o.at("t-3"); n != 0 {
				t.Errorf("%d records came to a topic that takes nothing", n)
			}
			eventually(t, "the rest is in the buffer, but for what the topic's streams have", func() bool {
				return metric(t, at, `buffer_records{route="files"}`) > 0 && metric(t, at, `input_lag_bytes{input="files"}`) == 0
			})
			p.terminate()
			p, at = x.start("--grace", "1s")
			write()
			others(15000)
			o.faults(t)
			v := o.settle(t, 0, 4*500)
			eventually(t, "the buffer is empty", func() bool { return metric(t, at, `buffer_records{route="files"}`) == 0 })
			time.Sleep(50 * time.Millisecond)
			r := p.terminate()
			if r.Pending != 0 || r.Rejected != 0 {
				t.Errorf("%v, %+v\n%s", v, r.Summary, r.err)
			}
		})
	}
	f("unknown-topic=t-3,topic=t-3")
	f("report=40301,topic=t-3")
}
