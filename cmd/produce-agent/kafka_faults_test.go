//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// newTally returns an oracle without a sandbox: what Kafka has it hears once,
// at the end, from the brokers.
func newTally() *oracle {
	return &oracle{topics: map[string]int{}, poison: map[int]bool{}, began: time.Now(), pad: 300}
}

// tally reads a topic back and judges.
func (s *kafkaSuite) tally(o *oracle, topic string) verdict {
	s.t.Helper()
	s.read(topic, func(r *kgo.Record) { o.store(topic, r.Value) })
	for _, w := range o.wrong[:min(3, len(o.wrong))] {
		s.t.Logf("wrong: %.200s", w)
	}
	return o.judge()
}

// piped starts ship on a pipe that load fills; finish ends both.
func (s *kafkaSuite) piped(t *testing.T, o *oracle, url, topic string, each int, every time.Duration) (finish func() ran) {
	t.Helper()
	in, out := io.Pipe()
	p := begin(t, nil, in, "ship", "-o", "json", "--progress", "never", "-t", topic, "--rest-endpoint", url,
		"--streams", fmt.Sprint(streams), "--in-flight", fmt.Sprint(window))
	l := newLoad(t)
	l.writeTo(t, o, out, each, every)
	t.Cleanup(func() { out.Close() })
	return func() ran {
		l.end()
		out.Close()
		return p.ran()
	}
}

// The leader of a partition is killed under load, and comes back later.
func (s *kafkaSuite) leaderKill(t *testing.T) {
	s.create("leader", 3, 3, "min.insync.replicas=2")
	_, url := s.gateway(t, "127.0.0.1:0")
	o := newTally()
	finish := s.piped(t, o, url, "leader", 100, 10*time.Millisecond)
	time.Sleep(2 * time.Second)
	node := s.leader("leader")
	s.kill(node)
	time.Sleep(5 * time.Second)
	s.start(node)
	time.Sleep(3 * time.Second)
	r := finish()
	s.whole()
	v := s.tally(o, "leader")
	r.want(t, 0, int64(v.made), int64(v.made), 0, 0)
	s.row(t, v, streams*window+int(r.PossiblyDuplicated), codes(r))
}

// The only broker that has a topic is away for 15 s.
func (s *kafkaSuite) brokerAway(t *testing.T) {
	s.create("away", 1, 1)
	_, url := s.gateway(t, "127.0.0.1:0")
	o := newTally()
	finish := s.piped(t, o, url, "away", 100, 10*time.Millisecond)
	time.Sleep(time.Second)
	node := s.leader("away")
	s.kill(node)
	time.Sleep(15 * time.Second)
	s.start(node)
	time.Sleep(2 * time.Second)
	r := finish()
	s.whole()
	v := s.tally(o, "away")
	r.want(t, 0, int64(v.made), int64(v.made), 0, 0)
	s.row(t, v, streams*window+int(r.PossiblyDuplicated), codes(r))
}

// codes names the reports other than 200 of a run.
func codes(r ran) string {
	if len(r.ErrorCodes) == 0 {
		return "no report but 200"
	}
	return fmt.Sprintf("reports other than 200: %v", r.ErrorCodes)
}

// deadLetters returns how many lines of a dead letter have this code, and the
// records in them. Any other code is an error.
func deadLetters(t testing.TB, path string, code int) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		var d struct {
			Record  string
			Code    int `json:"error_code"`
			Message string
		}
		if err := json.Unmarshal([]byte(line), &d); err != nil || d.Code != code || out[d.Record] {
			t.Errorf("dead letter, want %d once: %v: %.200s", code, err, line)
		}
		out[d.Record] = true
	}
	return out
}

// rejects ships lines of which bad ones are to be refused by Kafka with code,
// and checks that they are in the dead letter and all others in the topic.
func (s *kafkaSuite) rejects(t *testing.T, topic string, good, bad []string, code int, args ...string) {
	t.Helper()
	_, url := s.gateway(t, "127.0.0.1:0", "--max-block", "300ms")
	var lines strings.Builder
	for i := range max(len(good), len(bad)) { // spread the bad ones
		for n := len(good) / len(bad); i < len(bad) && n > 0; n-- {
			lines.WriteString(good[i*(len(good)/len(bad))+n-1] + "\n")
		}
		if i < len(bad) {
			lines.WriteString(bad[i] + "\n")
		}
	}
	dead := filepath.Join(t.TempDir(), "dead")
	r := begin(t, nil, strings.NewReader(lines.String()), append([]string{"ship", "-o", "json", "--progress", "never", "-t", topic,
		"--rest-endpoint", url, "--dead-letter", dead}, args...)...).ran()
	r.want(t, exitRejected, int64(len(good)+len(bad)), int64(len(good)), int64(len(bad)), 0)
	kept := deadLetters(t, dead, code)
	for _, line := range bad {
		if !kept[line] {
			t.Errorf("not in the dead letter: %.80s", line)
		}
	}
	v := verdict{made: len(good) + len(bad), accepted: len(good)}
	stored := map[string]int{}
	for _, line := range good {
		stored[line] = 0
	}
	s.read(topic, func(k *kgo.Record) {
		line := string(k.Value)
		for _, h := range k.Headers { // a record object is known by its header
			line = string(h.Value)
		}
		if _, made := stored[line]; !made {
			v.wrong++
		}
		stored[line]++
	})
	for _, n := range stored {
		if n == 0 {
			v.lost++
		} else {
			v.stored++
			v.dup += n - 1
		}
	}
	s.row(t, v, 0, fmt.Sprintf("%d × %d in the dead letter, as they were", len(bad), code))
}

// A topic with a small max.message.bytes refuses what is too large, and that
// only.
func (s *kafkaSuite) tooLarge(t *testing.T) {
	s.create("small", 3, 3, "max.message.bytes=20000")
	var good, bad []string
	for i := range 5000 {
		good = append(good, fmt.Sprintf("%06d %s", i, strings.Repeat("g", i%400)))
	}
	for i := range 50 {
		bad = append(bad, fmt.Sprintf("%06d %s", i, strings.Repeat("b", 20_000+i*10_000)))
	}
	s.rejects(t, "small", good, bad, 413)
}
