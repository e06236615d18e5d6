//go:build unix

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	leafYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500, report_timeout: 2s}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
routes:
  - {name: files, inputs: [files], topic: t, spill: never, retry: {max: 500ms}}
`
	hubYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500, report_timeout: 2s}}
inputs:
  edge: {type: http, listen: "LISTEN", respond: RESPOND, allow_topics: [t]}
routes:
  - {name: edge, inputs: [edge], topic: t, buffer: BUFFER, retry: {max: 500ms}}
`
)

// An agent follows files and sends to another agent in place of a cluster; both
// are killed in turns.
func TestOracleChain(t *testing.T) {
	t.Parallel()
	f := func(respond, buffer string) {
		t.Run(respond, func(t *testing.T) {
			t.Parallel()
			kills := times(t, "ORACLE_KILLS", 10) / 2
			rnd := seeded(t)
			o := newOracle(t, 300, nil)
			hub := newSite(t, o, strings.NewReplacer("RESPOND", respond, "BUFFER", buffer).Replace(hubYAML))
			leaf := newSite(t, o, leafYAML)
			leaf.endpoint = "http://" + hub.listen
			leaf.configure(leafYAML)
			l := newLoad(t)
			for i := range 2 {
				l.appendTo(t, o, leaf.log(fmt.Sprintf("%d.log", i)), 50, 5*time.Millisecond)
			}
			h, _ := hub.start()
			p, at := leaf.start()
			bar := 0
			for i := range kills {
				time.Sleep(between(rnd, 200*time.Millisecond, time.Second))
				if i%2 == 0 {
					h.kill()
					// What the hub had on its way, and what the leaf had at the hub.
					bar += 2*streams*window + o.final()
					time.Sleep(between(rnd, 10*time.Millisecond, 500*time.Millisecond))
					h, _ = hub.start()
				} else {
					p.kill()
					bar += streams*window + o.final()
					p, at = leaf.start()
				}
			}
			l.end()
			v := o.settle(t, 0, bar)
			if r := drained(t, p, at); r.Pending != 0 || r.Rejected != 0 {
				t.Errorf("leaf: %v, %+v\n%s", v, r.Summary, r.err)
			}
			if r := h.terminate(); r.Pending != 0 || r.Rejected != 0 {
				t.Errorf("hub: %v, %+v\n%s", v, r.Summary, r.err)
			}
		})
	}
	f("after_buffer", "{type: disk, max_bytes: 64MB}")
	f("after_delivery", "{type: none}")
}
