//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
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
	eventually(t, "another broker leads", func() bool { return s.metadata("leader").Topics[0].Partitions[0].Leader != node.id })
	time.Sleep(3 * time.Second)
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

// kafkaDead returns how many lines of a dead letter have this code, and the
// records in them. Any other code is an error.
func kafkaDead(t testing.TB, path string, code int) map[string]bool {
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

// objectWith is a record object with this value and more members.
func objectWith(value, members string) string {
	return `{"value":{"type":"STRING","data":"` + value + `"},` + members + `}`
}

// valueOf is the value of a line that objectWith made, else the line.
func valueOf(line string) string {
	if rest, ok := strings.CutPrefix(line, `{"value":{"type":"STRING","data":"`); ok {
		line, _, _ = strings.Cut(rest, `"`)
	}
	return line
}

// rejects ships lines of which bad ones are to be refused by Kafka with code,
// and checks that they are in the dead letter and all others in the topic.
// There are so many good ones for each bad one, without a rest.
func (s *kafkaSuite) rejects(t *testing.T, topic string, good, bad []string, code int, args ...string) {
	t.Helper()
	_, url := s.gateway(t, "127.0.0.1:0", "--max-block", "300ms")
	var lines strings.Builder
	for i, k := 0, len(good)/len(bad); i < len(bad); i++ { // the bad ones in between
		for _, line := range append(good[i*k:(i+1)*k:(i+1)*k], bad[i]) {
			lines.WriteString(line + "\n")
		}
	}
	dead := filepath.Join(t.TempDir(), "dead")
	r := begin(t, nil, strings.NewReader(lines.String()), append([]string{
		"ship", "-o", "json", "--progress", "never", "-t", topic,
		"--rest-endpoint", url, "--dead-letter", dead,
	}, args...)...).ran()
	r.want(t, exitRejected, int64(len(good)+len(bad)), int64(len(good)), int64(len(bad)), 0)
	kept := kafkaDead(t, dead, code)
	for _, line := range bad {
		if !kept[line] {
			t.Errorf("not in the dead letter: %.80s", line)
		}
	}
	v := verdict{made: len(good) + len(bad), accepted: len(good)}
	stored := map[string]int{}
	for _, line := range good {
		stored[valueOf(line)] = 0
	}
	s.read(topic, func(k *kgo.Record) {
		if _, made := stored[string(k.Value)]; !made {
			v.wrong++
			return
		}
		stored[string(k.Value)]++
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

// Records with a time that the broker does not take.
func (s *kafkaSuite) badTime(t *testing.T) {
	s.create("time", 1, 3)
	var good, bad []string
	for i := range 400 {
		good = append(good, objectWith(fmt.Sprint(i), `"timestamp":"2020-02-29T12:00:00Z"`))
	}
	for i := range 20 {
		bad = append(bad, objectWith(fmt.Sprint("bad", i), `"timestamp":"2100-01-01T00:00:00Z"`))
	}
	s.rejects(t, "time", good, bad, 50002, "--input", "records")
}

// Partitions that a topic does not have.
func (s *kafkaSuite) badPartition(t *testing.T) {
	s.create("partition", 3, 3)
	var good, bad []string
	for i := range 3000 {
		good = append(good, objectWith(fmt.Sprint(i), fmt.Sprintf(`"partition_id":%d`, i%3)))
	}
	for i := range 3 {
		bad = append(bad, objectWith(fmt.Sprint("bad", i), fmt.Sprintf(`"partition_id":%d`, 3+i)))
	}
	s.rejects(t, "partition", good, bad, 40401, "--input", "records", "--max-attempts", "2")
	s.read("partition", func(r *kgo.Record) {
		if n, err := strconv.Atoi(string(r.Value)); err != nil || n%3 != int(r.Partition) {
			t.Errorf("record %s is in partition %d", r.Value, r.Partition)
		}
	})
}

// The broker's clock in place of the record's.
func (s *kafkaSuite) logAppendTime(t *testing.T) {
	const n = 20_000
	s.create("append", 3, 3, "message.timestamp.type=LogAppendTime")
	_, url := s.gateway(t, "127.0.0.1:0")
	began := time.Now().Truncate(time.Millisecond)
	r := begin(t, nil, nil, "ship", "-o", "json", "--progress", "never", "-t", "append", "--rest-endpoint", url,
		"--input", "records", madeFile(t, n)).ran()
	r.want(t, 0, n, n, 0, 0)
	s.read("append", func(r *kgo.Record) {
		if r.Timestamp.Before(began) || r.Timestamp.After(time.Now()) {
			t.Errorf("%s-%d: %s is not of this run", r.Topic, r.Offset, r.Timestamp)
		}
	})
	s.row(t, s.judgeMade("append", n, false), 0, "all of the broker's time")
}

// Fifty partitions: each has some, and a key has one.
func (s *kafkaSuite) fifty(t *testing.T) {
	const n = 50_000
	s.create("fifty", 50, 3, "min.insync.replicas=2")
	_, url := s.gateway(t, "127.0.0.1:0")
	r := begin(t, nil, nil, "ship", "-o", "json", "--progress", "never", "-t", "fifty", "--rest-endpoint", url,
		"--input", "records", madeFile(t, n)).ran()
	r.want(t, 0, n, n, 0, 0)
	used, of := map[int32]int{}, map[string]int32{}
	s.read("fifty", func(r *kgo.Record) {
		used[r.Partition]++
		if p, known := of[string(r.Key)]; r.Key != nil && known && p != r.Partition {
			t.Errorf("key %q is in partitions %d and %d", r.Key, p, r.Partition)
		} else if r.Key != nil {
			of[string(r.Key)] = r.Partition
		}
	})
	if len(used) != 50 {
		t.Errorf("%d partitions have records, want 50", len(used))
	}
	s.row(t, s.judgeMade("fifty", n, true), 0, fmt.Sprintf("%d partitions, %d keys, one each", len(used), len(of)))
}

// A topic that is not there ends a run; nothing is made up.
func (s *kafkaSuite) missing(t *testing.T) {
	_, url := s.gateway(t, "127.0.0.1:0", "--max-block", "500ms")
	r := begin(t, nil, strings.NewReader(numbered(100, 10)), "ship", "-o", "json", "--progress", "never", "-t", "missing", "--rest-endpoint", url).ran()
	r.want(t, exitFailure, 100, 0, 0, 100)
	if !strings.Contains(r.err, "missing") {
		t.Errorf("the topic is not named:\n%s", r.err)
	}
	if s.metadata("missing").Topics[0].ErrorCode == 0 {
		t.Error("the topic was made")
	}
	s.note(t, 100, "exit 1, all pending; no topic was made")
}

// A topic that may not be written to, and one that may not even be seen.
func (s *kafkaSuite) denied(t *testing.T) {
	_, url := s.gateway(t, "127.0.0.1:0")
	for topic, operation := range map[string]kmsg.ACLOperation{"readonly": kmsg.ACLOperationWrite, "hidden": kmsg.ACLOperationDescribe} {
		s.create(topic, 1, 3)
		s.deny(topic, operation)
		began := time.Now()
		r := begin(t, nil, strings.NewReader(numbered(100, 10)), "ship", "-o", "json", "--progress", "never", "-t", topic, "--rest-endpoint", url).ran()
		r.want(t, exitDenied, 100, 0, 0, 100)
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("%s: told after %s", topic, took)
		}
		if topic == "readonly" && s.read(topic, func(*kgo.Record) {}) != 0 {
			t.Error("records were written all the same")
		}
	}
	s.note(t, 200, "exit 5, all pending, without WRITE and without DESCRIBE")
}

const kafkaYAML = `
data_dir: DATA
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2, in_flight: 500, report_timeout: 20s}}
inputs:
  files: {type: file, include: ["LOGS/*.log"], poll: 50ms}
routes:
  - {name: files, inputs: [files], topic: TOPIC, spill: never, retry: {max: 500ms}}
`

// delivered is how many records an agent has had reported as stored.
func delivered(t testing.TB, at string) float64 {
	t.Helper()
	return metric(t, at, `delivery_reports_total{cluster="main",error_code="200",route="files"}`)
}

// idle waits until an agent has read and delivered all there is.
func idle(t testing.TB, at string) {
	t.Helper()
	eventually(t, "all is read and delivered", func() bool {
		return metric(t, at, `input_lag_bytes{input="files"}`) == 0 && metric(t, at, `records_in_flight{cluster="main"}`) <= 0
	})
}

// The service that follows a file is killed under load, again and again.
func (s *kafkaSuite) agentKill(t *testing.T) {
	s.create("agentkill", 3, 3, "min.insync.replicas=2")
	_, url := s.gateway(t, "127.0.0.1:0")
	o := newTally()
	x := newSiteAt(t, url, strings.ReplaceAll(kafkaYAML, "TOPIC", "agentkill"))
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 100, 10*time.Millisecond)
	bar := 0
	const kills = 5
	for range kills {
		p, at := x.start()
		eventually(t, "records are delivered", func() bool { return delivered(t, at) > 1000 })
		time.Sleep(500 * time.Millisecond)
		before := delivered(t, at)
		time.Sleep(500 * time.Millisecond)
		bar += streams*window + int(delivered(t, at)-before) // on their way, and final since the last checkpoint
		p.kill()
	}
	p, at := x.start()
	time.Sleep(500 * time.Millisecond)
	l.end()
	idle(t, at)
	p.terminate()
	s.row(t, s.tally(o, "agentkill"), bar, fmt.Sprintf("%d kills", kills))
}

// The gateway is killed under load, and is away for a second.
func (s *kafkaSuite) gatewayKill(t *testing.T) {
	s.create("gatewaykill", 3, 3, "min.insync.replicas=2")
	listen := freeAddr(t)
	gateway, url := s.gateway(t, listen)
	o := newTally()
	x := newSiteAt(t, url, strings.ReplaceAll(kafkaYAML, "TOPIC", "gatewaykill"))
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 100, 10*time.Millisecond)
	p, at := x.start()
	const kills = 3
	for range kills {
		time.Sleep(1500 * time.Millisecond)
		gateway.kill()
		time.Sleep(time.Second)
		gateway, _ = s.gateway(t, listen)
	}
	time.Sleep(time.Second)
	l.end()
	idle(t, at)
	r := p.terminate()
	v := s.tally(o, "gatewaykill")
	r.want(t, 128+int(syscall.SIGTERM), int64(v.made), int64(v.made), 0, 0)
	s.row(t, v, kills*streams*window, fmt.Sprintf("%d kills; %s", kills, codes(r)))
}

// A topic is deleted under the service, and made anew: what came in between
// waits for it. What was in the old one is gone with it.
func (s *kafkaSuite) recreated(t *testing.T) {
	s.create("anew", 3, 3)
	_, url := s.gateway(t, "127.0.0.1:0", "--max-block", "1s")
	x := newSiteAt(t, url, strings.ReplaceAll(kafkaYAML, "TOPIC", "anew"))
	p, at := x.start()
	o := newTally()
	l := newLoad(t)
	l.appendTo(t, o, x.log("a.log"), 100, 10*time.Millisecond)
	time.Sleep(time.Second)
	l.end()
	idle(t, at)
	old := s.tally(o, "anew")
	if old.lost > 0 || old.dup > 0 || old.wrong > 0 {
		t.Errorf("before: %v", old)
	}
	s.remove("anew")
	o = newTally()
	l = newLoad(t)
	l.appendTo(t, o, x.log("b.log"), 100, 10*time.Millisecond)
	time.Sleep(3 * time.Second)
	s.create("anew", 5, 3)
	time.Sleep(2 * time.Second)
	l.end()
	idle(t, at)
	r := p.terminate()
	v := s.tally(o, "anew")
	r.want(t, 128+int(syscall.SIGTERM), int64(old.made+v.made), int64(old.made+v.made), 0, 0)
	s.row(t, v, streams*window, fmt.Sprintf("and %d before; %s", old.made, codes(r)))
}

// A line of the table for what stores nothing, as it should.
func (s *kafkaSuite) note(t *testing.T, made int, notes string) {
	s.rows = append(s.rows, kafkaCase{name: t.Name(), v: verdict{made: made}, notes: notes})
}

// A gateway to brokers that are not there waits, and says for whom.
func (s *kafkaSuite) gatewayFirst(t *testing.T) {
	addr := freeAddr(t)
	p := begin(t, nil, nil, "sandbox", "--listen", "127.0.0.1:0", "--brokers", addr)
	p.until("Waiting for Kafka at " + addr)
	p.signal(syscall.SIGTERM)
	if status := p.end(); status == 0 {
		t.Errorf("status %d\n%s", status, p.err.String())
	}
	s.note(t, 0, "says that it waits, ends at a signal")
}
