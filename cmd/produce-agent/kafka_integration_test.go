//go:build unix

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// kafkaCase is one line of the table at the end.
type kafkaCase struct {
	name  string
	took  time.Duration
	v     verdict
	dups  int // the bar
	notes string
}

// kafkaSuite is what the cases share: the brokers, and the table.
type kafkaSuite struct {
	*kafka
	rows  []kafkaCase
	quiet int // noise when the case began
}

// row adds a line to the table, and judges: nothing lost, nothing wrong, no
// more than dups twice. With dups 0 the case does nothing to the brokers; where
// a busy machine does, the gateway's Kafka client has to send again.
func (s *kafkaSuite) row(t testing.TB, v verdict, dups int, notes string) {
	t.Helper()
	if dups == 0 && s.noise() > s.quiet {
		dups = v.dup
		notes += "; brokers lost touch with one another, twice is not judged"
	}
	if v.lost > 0 || v.wrong > 0 || v.dup > dups || v.accepted == 0 {
		t.Errorf("%v; want lost 0, dup <= %d, wrong 0", v, dups)
	}
	s.rows = append(s.rows, kafkaCase{name: t.Name(), v: v, dups: dups, notes: notes})
}

// TestKafka runs the real program, as a gateway and as a shipper, in front of
// a real Kafka of three brokers, and reads back from the brokers themselves.
func TestKafka(t *testing.T) {
	if os.Getenv(withKafka) == "" {
		t.Skipf("SKIP: %s is not set; make integration sets it", withKafka)
	}
	began := time.Now()
	s := &kafkaSuite{kafka: startKafka(t, 3)}
	t.Logf("three brokers after %s", time.Since(began).Round(time.Millisecond))
	for _, c := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"plain", s.plain},
		{"dialects", s.dialects},
		{"fifty partitions", s.fifty},
		{"log append time", s.logAppendTime},
		{"too large", s.tooLarge},
		{"time out of range", s.badTime},
		{"partition out of range", s.badPartition},
		{"topic missing", s.missing},
		{"topic denied", s.denied},
		{"topic made anew", s.recreated},
		{"agent killed", s.agentKill},
		{"gateway killed", s.gatewayKill},
		{"gateway first", s.gatewayFirst},
		{"leader killed", s.leaderKill},
		{"broker away", s.brokerAway},
	} {
		began := time.Now()
		t.Run(c.name, func(t *testing.T) {
			s.t, s.quiet = t, s.noise()
			rows := len(s.rows)
			defer func() {
				for i := range s.rows[rows:] {
					s.rows[rows+i].took = time.Since(began)
				}
			}()
			c.run(t)
		})
		s.t = t
	}
	var table strings.Builder
	fmt.Fprintf(&table, "%-28s %8s %8s %8s %5s %5s %5s %7s %7s\n", "case", "made", "accepted", "stored", "lost", "wrong", "twice", "at most", "seconds")
	for _, r := range s.rows {
		fmt.Fprintf(&table, "%-28s %8d %8d %8d %5d %5d %5d %7d %7.1f  %s\n", strings.TrimPrefix(r.name, "TestKafka/"),
			r.v.made, r.v.accepted, r.v.stored, r.v.lost, r.v.wrong, r.v.dup, r.dups, r.took.Seconds(), r.notes)
	}
	t.Logf("a real Kafka of three brokers, in %s:\n%s", time.Since(began).Round(time.Second), table.String())
}

// Records with everything a record may have are in Kafka as they were made.
func (s *kafkaSuite) plain(t *testing.T) {
	const n = 200_000
	s.create("plain", 6, 3, "min.insync.replicas=2")
	_, url := s.gateway(t, "127.0.0.1:0")
	r := begin(t, nil, nil, "ship", "-o", "json", "--progress", "never", "-t", "plain", "--rest-endpoint", url,
		"--input", "records", madeFile(t, n)).ran()
	r.want(t, 0, n, n, 0, 0)
	s.row(t, s.judgeMade("plain", n, true), 0, fmt.Sprintf("%.0f records/s", float64(n)/r.Seconds))
}
