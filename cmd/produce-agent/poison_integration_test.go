//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"maps"
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

const unchecked = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500, report_timeout: 5s}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
  edge: {type: http, listen: "LISTEN", respond: after_buffer, accept: [kafka_rest_v3], allow_topics: [t]}
routes:
  - {name: files, inputs: [files], topic: t, value: {type: JSON}, validate: false, max_record_bytes: 4KB, spill: never, retry: {max: 500ms}}
  - {name: edge, inputs: [edge], allow_topics: [t], buffer: {type: disk, max_bytes: 64MB}, retry: {max: 500ms}}
`

// Poison that nobody looks for: JSON goes to the cluster unchecked, and clients
// of the REST path send what only the cluster can refuse. Each breaks two
// streams at most, is in the dead letter once with the reason of it, and costs
// no neighbour. ORACLE_POISON says how many.
func TestOracleUncheckedPoison(t *testing.T) {
	t.Parallel()
	const each = 1000
	poisons := []struct {
		text   string
		breaks int // streams
		why    string
	}{
		{`{"poison":%d,"open":[1,2}`, 2, "400 bad_request"},
		{`{"poison":%d,"open":{"b":1}`, 2, "400 bad_request"},
		{`"poison %d, a string without an end`, 2, "400 bad_request"},
		{`{"poison":%d,"long":"` + strings.Repeat("x", 5000) + `"}`, 0, "413 too_large"},
		{`{"poison":%d,"why":"no schema"}`, 0, "422 schema"},
	}
	rounds := times(t, "ORACLE_POISON", 30)
	rnd := seeded(t)
	o := newOracle(t, 100, nil)
	o.faults(t, `report=422,contains=no schema`)
	x := newSite(t, o, unchecked)
	f, err := os.Create(x.log("a.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, at := x.start()
	s, client := o.source(), o.source()
	want, breaks := map[string]int{}, 0
	for i := range rounds {
		lines, from := o.next(s, each)
		all := strings.SplitAfter(string(lines), "\n")
		poison := poisons[i%len(poisons)]
		all[rnd.IntN(each)] += fmt.Sprintf(poison.text, i) + "\n"
		if _, err := f.WriteString(strings.Join(all, "")); err != nil {
			t.Fatal(err)
		}
		o.accept(s, from, each)
		want[poison.why]++
		breaks += poison.breaks
	}
	// A header that is no base64, among good records of one stream of a client:
	// the listener says so of that record, and takes the others.
	lines, from := o.next(client, each)
	var body strings.Builder
	bad := rnd.IntN(each)
	for n, line := range strings.Split(strings.TrimSuffix(string(lines), "\n"), "\n") {
		fmt.Fprintf(&body, `{"value":{"type":"JSON","data":%s}}`, line)
		if n == bad {
			body.WriteString(`{"headers":[{"name":"h","value":"not base64!"}],"value":{"type":"JSON","data":1}}`)
		}
	}
	status, answer := post(t, "http://"+x.listen+"/v3/clusters/"+o.box.ClusterID()+"/topics/t/records", "application/json", body.String())
	if good, refused := strings.Count(answer, `"error_code":200`), strings.Count(answer, `"error_code":400`); status != 200 || good != each || refused != 1 {
		t.Errorf("%d, %d good reports, %d that say 400", status, good, refused)
	}
	o.accept(client, from, each)
	o.settle(t, 0, 0)
	eventually(t, "all is final", func() bool {
		return metric(t, at, `input_lag_bytes{input="files"}`) == 0 && metric(t, at, `buffer_records{route="edge"}`) == 0
	})
	opened := int(metric(t, at, `streams_opened_total{cluster="main"}`))
	r := p.terminate()
	got := deadLetters(t, filepath.Join(x.data, "dead", "files.ndjson"))
	t.Logf("dead letter: %v; %d streams opened, %d poisons break streams", got, opened, breaks/2)
	if !maps.Equal(got, want) {
		t.Errorf("the dead letter has %v, want %v", got, want)
	}
	if opened > streams+breaks {
		t.Errorf("%d streams opened, want %d at most", opened, streams+breaks)
	}
	if r.Pending != 0 || r.Rejected != int64(rounds) {
		t.Errorf("%+v\n%s", r.Summary, r.err)
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
