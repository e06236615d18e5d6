//go:build unix

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The other ways to send, and the other servers' manners, end in the same
// Kafka: v3 with everything that a record may have, v2 with keys and values.
func (s *kafkaSuite) dialects(t *testing.T) {
	const n = 5000
	all := madeFile(t, n)
	sum := verdict{}
	add := func(dialect string, v verdict) {
		t.Logf("%s: %v", dialect, v)
		sum.made, sum.accepted, sum.stored = sum.made+v.made, sum.accepted+v.accepted, sum.stored+v.stored
		sum.lost, sum.wrong, sum.dup = sum.lost+v.lost, sum.wrong+v.wrong, sum.dup+v.dup
	}
	_, url := s.gateway(t, "127.0.0.1:0")
	for _, dialect := range []string{"v3-records", "v3-batch"} {
		s.create(dialect, 3, 3, "min.insync.replicas=2")
		r := begin(t, nil, nil, "ship", "-o", "json", "--progress", "never", "-t", dialect, "--rest-endpoint", url,
			"--dialect", dialect, "--input", "records", all).ran()
		r.want(t, 0, n, n, 0, 0)
		add(dialect, s.judgeMade(dialect, n, true))
	}
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "k%d:%06d grüße\n", i%50, i)
	}
	for _, server := range []string{"confluent", "pandaproxy", "karapace", "strimzi"} {
		topic := "v2-" + server
		s.create(topic, 3, 3, "min.insync.replicas=2")
		_, url := s.gateway(t, "127.0.0.1:0", "--fault", "v2="+server)
		r := begin(t, nil, strings.NewReader(lines.String()), "ship", "-o", "json", "--progress", "never", "-t", topic,
			"--rest-endpoint", url, "--dialect", "v2:"+server, "-K", ":").ran()
		r.want(t, 0, n, n, 0, 0)
		add(topic, s.judgeKeyed(topic, n))
	}
	s.row(t, sum, 0, "v3-records, v3-batch; v2 as confluent, pandaproxy, karapace, strimzi")
}

// judgeKeyed judges a topic that is to hold n numbered values, each with its key.
func (s *kafkaSuite) judgeKeyed(topic string, n int) verdict {
	v := verdict{made: n, accepted: n}
	stored := make([]int, n)
	s.read(topic, func(r *kgo.Record) {
		var at int
		if _, err := fmt.Sscanf(string(r.Value), "%06d ", &at); err != nil || at < 0 || at >= n ||
			string(r.Value) != fmt.Sprintf("%06d grüße", at) || string(r.Key) != fmt.Sprintf("k%d", at%50) {
			if v.wrong++; v.wrong <= 3 {
				s.t.Logf("wrong: %q: %q", r.Key, r.Value)
			}
			return
		}
		stored[at]++
	})
	for _, times := range stored {
		if times == 0 {
			v.lost++
			continue
		}
		v.stored++
		v.dup += times - 1
	}
	return v
}
