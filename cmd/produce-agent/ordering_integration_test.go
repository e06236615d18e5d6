package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// inOrder checks the values of each key, numbers padded alike: the first
// appearance of each is behind those of all smaller ones. replayed says that
// records may have been sent again by a program that does not know of it; else
// one that is twice is nowhere behind a later one. It returns how many values
// there are.
func inOrder(t testing.TB, records []sandbox.Record, number func(value []byte) string, replayed bool) (distinct int) {
	t.Helper()
	last := map[string]string{}
	seen := map[string]bool{}
	wrong := 0
	for _, r := range records {
		key, n := string(r.Key), number(r.Value)
		again := seen[key+"/"+n]
		if n < last[key] && !(again && replayed) {
			if wrong++; wrong <= 5 {
				t.Errorf("%s/%d: %s of key %s at offset %d, behind %s (it was there before: %v)", r.Topic, r.Partition, n, key, r.Offset, last[key], again)
			}
		}
		if !again {
			seen[key+"/"+n] = true
			distinct++
		}
		last[key] = max(last[key], n)
	}
	return distinct
}

// --ordering key keeps the order of each key through refusals, broken streams
// and replaced ones.
func TestOrderingKey(t *testing.T) {
	const n, keys = 5000, 60
	var in strings.Builder
	for i := range n {
		fmt.Fprintf(&in, "k%d:%06d\n", (i*i+i/7)%keys, i)
	}
	f := func(faults ...string) {
		t.Run(strings.ReplaceAll(strings.Join(faults, "+"), "/", "_"), func(t *testing.T) {
			t.Parallel()
			s := startBoxWith(t, func(c *sandbox.Config) {
				c.Topics = []sandbox.Topic{{Name: "t", Partitions: 3}}
				c.MaxAgeGrace = 1e8
			}, faults...)
			r := shipTo(t, s, in.String(), "--ordering", "key", "-K", ":", "--batch-bytes", "2048", "--streams", "5", "--rotate-records", "700", "--rotate-after", "1s")
			r.want(t, exitOK, n, n, 0, 0)
			got := inOrder(t, stored(t, s, "t"), func(v []byte) string { return string(v) }, false)
			if got != n {
				t.Errorf("%d of %d values are there", got, n)
			}
			if st := s.Stats(); !felt(faults[0], r, st) {
				t.Errorf("%s was not felt: %+v", faults[0], r.Summary)
			}
		})
	}
	f("report=429,share=0.02,count=30")
	f("report=50003,every=70,count=50", "reset=300,times=4")
	f("reset=200,lost=all,times=6")
	f("expire=300,grace=100ms,stored=true", "report=40403,every=90,count=20")
	f("cut=150,mid=true,times=5", "http=503,times=3", "terminal=400,times=2")
}

const orderingYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 4, in_flight: 200, rotate_after: 1s}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
routes:
  - name: files
    inputs: [files]
    topic: "t-{{ .to }}"
    key: {field: k}
    ordering: key
    SPILL
    buffer: {type: disk, max_bytes: 64MB}
    retry: {initial: 20ms, max: 200ms}
`

// An agent that is killed, and whose topics come and go meanwhile, keeps the
// order of each key: by the file alone, and with a buffer that what is parked
// goes to.
func TestOrderingThroughKills(t *testing.T) {
	t.Parallel()
	for _, spill := range []string{"never", "parked"} {
		t.Run(spill, func(t *testing.T) {
			t.Parallel()
			rnd := seeded(t)
			o := newOracle(t, 0, func(c *sandbox.Config) {
				c.Topics = []sandbox.Topic{{Name: "t-0", Partitions: 2}, {Name: "t-1", Partitions: 2}}
			})
			x := newSite(t, o, strings.Replace(orderingYAML, "SPILL", "spill: "+spill, 1))
			n := 0
			grow := func() {
				t.Helper()
				var lines bytes.Buffer
				for range 3000 {
					fmt.Fprintf(&lines, `{"to":%d,"k":"k%d","n":"%07d"}`+"\n", n%2, rnd.IntN(50), n)
					n++
				}
				file, err := os.OpenFile(x.log("a.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := file.Write(lines.Bytes()); err != nil {
					t.Fatal(err)
				}
				if err := file.Close(); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 4 {
				o.faults(t, "reset=150,lost=all,times=3", []string{"unknown-topic=t-1,topic=t-1", "report=500,every=60,count=20"}[i%2])
				grow()
				p, _ := x.start()
				time.Sleep(between(rnd, 200*time.Millisecond, time.Second))
				grow()
				time.Sleep(between(rnd, 10*time.Millisecond, 300*time.Millisecond))
				p.kill()
			}
			o.faults(t)
			p, at := x.start()
			eventually(t, "all of it is there", func() bool {
				return metric(t, at, `input_lag_bytes{input="files"}`) == 0 && max(metric(t, at, `buffer_records{route="files"}`), metric(t, at, `records_in_flight{cluster="main"}`)) <= 0
			})
			if r := p.terminate(); r.Pending != 0 || r.Rejected != 0 {
				t.Errorf("%+v\n%s", r.Summary, r.err)
			}
			got := 0
			for _, topic := range []string{"t-0", "t-1"} {
				got += inOrder(t, stored(t, o.box, topic), func(v []byte) string {
					var line struct{ N string }
					if err := json.Unmarshal(v, &line); err != nil {
						t.Fatal(err)
					}
					return line.N
				}, true)
			}
			if got != n {
				t.Errorf("%d of %d records are there", got, n)
			}
		})
	}
}
