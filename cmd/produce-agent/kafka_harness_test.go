//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaPom names the broker and what it needs; dependencyPlugin copies it.
const (
	kafkaPom         = "../../bench/kafka/pom.xml"
	dependencyPlugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
	kafkaClusterID   = "4L6g3nShT-eMCtK--X86sw"
)

// kafkaJars returns the class path of a Kafka, from KAFKA_HOME, from the
// user's cache, or by way of Maven. The test is skipped where there is none.
func kafkaJars(t testing.TB) string {
	t.Helper()
	if err := exec.Command("java", "-version").Run(); err != nil {
		t.Skipf("SKIP: no Java to run Kafka with (java -version: %v); Kafka 4 wants Java 17 or later", err)
	}
	if home := os.Getenv("KAFKA_HOME"); home != "" {
		return filepath.Join(home, "libs", "*")
	}
	pom, err := os.ReadFile(kafkaPom)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("SKIP: no folder to keep Kafka in: %v", err)
	}
	cache = filepath.Join(cache, "produce-agent")
	libs := filepath.Join(cache, fmt.Sprintf("kafka-%x", sha256.Sum256(pom))[:22])
	if _, err := os.Stat(libs); err == nil {
		return filepath.Join(libs, "*")
	}
	if _, err := exec.LookPath("mvn"); err != nil {
		t.Skip("SKIP: no mvn to get Kafka with from Maven Central; install Maven, or unpack a Kafka and set KAFKA_HOME to its folder")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	half, err := os.MkdirTemp(cache, "kafka-half-") // a download that is cut leaves no half a Kafka
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(half)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	mvn := exec.CommandContext(ctx, "mvn", "-q", "-B", "-Dstyle.color=never", "--strict-checksums", "-f", kafkaPom, dependencyPlugin,
		"-DincludeScope=runtime", "-DoutputDirectory="+half)
	if out, err := mvn.CombinedOutput(); err != nil {
		t.Skipf("SKIP: Kafka is not to be had from Maven Central (mvn: %v): %.300s", err, out[max(0, bytes.Index(out, []byte("[ERROR]"))):])
	}
	if err := os.Rename(half, libs); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return filepath.Join(libs, "*")
}

// kafka is brokers, each a Java process of its own with its own folder, and a
// client that asks them directly.
type kafka struct {
	t      testing.TB
	jars   string
	nodes  []*kafkaNode
	seeds  []string
	client *kgo.Client
	epochs map[int32]int32 // of steady
}

// kafkaNode is one broker, a controller as well.
type kafkaNode struct {
	id        int32
	addr, dir string
	cmd       *exec.Cmd
	exited    chan struct{}
}

// startKafka starts n brokers and waits until all are there. They are killed
// when the test ends, however it does.
func startKafka(t testing.TB, n int) *kafka {
	t.Helper()
	k := &kafka{t: t, jars: kafkaJars(t)}
	var voters, controllers []string
	for i := range n {
		node := &kafkaNode{id: int32(i + 1), addr: freeAddr(t), dir: t.TempDir()}
		controller := freeAddr(t)
		k.nodes, k.seeds = append(k.nodes, node), append(k.seeds, node.addr)
		controllers = append(controllers, controller)
		voters = append(voters, fmt.Sprintf("%d@%s", node.id, controller))
	}
	for i, node := range k.nodes {
		k.format(node, controllers[i], strings.Join(voters, ","))
		k.start(node)
	}
	t.Cleanup(func() {
		for _, node := range k.nodes {
			k.kill(node)
			if t.Failed() {
				log, _ := os.ReadFile(filepath.Join(node.dir, "log"))
				t.Logf("broker %d, the end of its log:\n%s", node.id, log[max(0, len(log)-3000):])
			}
		}
	})
	var err error
	if k.client, err = kgo.NewClient(kgo.SeedBrokers(k.seeds...), kgo.MetadataMinAge(50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.client.Close)
	k.whole()
	return k
}

// format writes a broker's configuration and makes its log folder.
func (k *kafka) format(node *kafkaNode, controller, voters string) {
	k.t.Helper()
	// Records made with a time of years ago would be gone at the first look at
	// retention. Among themselves the brokers have a name, or the authorizer would not let them begin.
	const jaas = `org.apache.kafka.common.security.plain.PlainLoginModule required username="brokers" password="brokers" user_brokers="brokers";`
	properties := fmt.Sprintf(`process.roles=broker,controller
node.id=%d
controller.quorum.voters=%s
listeners=CLIENTS://%s,CONTROLLER://%s,BROKERS://%s
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKERS
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:SASL_PLAINTEXT,BROKERS:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.controller.protocol=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.controller.plain.sasl.jaas.config=%[6]s
listener.name.brokers.plain.sasl.jaas.config=%[6]s
super.users=User:brokers
log.dirs=%[7]s
auto.create.topics.enable=false
controlled.shutdown.enable=false
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=9000
controller.quorum.fetch.timeout.ms=5000
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
log.retention.ms=-1
log.cleaner.dedupe.buffer.size=8388608
log.segment.delete.delay.ms=1000
num.network.threads=2
num.io.threads=4
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
`, node.id, voters, node.addr, controller, freeAddr(k.t), jaas, filepath.Join(node.dir, "data"))
	path := filepath.Join(node.dir, "server.properties")
	if err := os.WriteFile(path, []byte(properties), 0o600); err != nil {
		k.t.Fatal(err)
	}
	if out, err := k.java("kafka.tools.StorageTool", "format", "-t", kafkaClusterID, "-c", path).CombinedOutput(); bytes.Contains(out, []byte("UnsupportedClassVersionError")) {
		k.t.Skip("SKIP: this Java is too old for Kafka, which wants 17 or later")
	} else if err != nil {
		k.t.Fatalf("format the storage of broker %d: %v\n%s", node.id, err, out)
	}
}

// java is a Java program of the Kafka, small and quick to start.
func (k *kafka) java(class string, args ...string) *exec.Cmd {
	return exec.Command("java", append([]string{
		"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", k.jars, class,
	}, args...)...)
}

// start starts a broker, anew behind kill.
func (k *kafka) start(node *kafkaNode) {
	k.t.Helper()
	log, err := os.OpenFile(filepath.Join(node.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		k.t.Fatal(err)
	}
	defer log.Close()
	node.cmd = k.java("kafka.Kafka", filepath.Join(node.dir, "server.properties"))
	node.cmd.Stdout, node.cmd.Stderr = log, log
	dieWithParent(node.cmd)
	begun, exited := make(chan error), make(chan struct{})
	node.exited = exited
	cmd := node.cmd
	go func() {
		// The system ends the broker with the thread that began it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-begun; err != nil {
		k.t.Fatal(err)
	}
}

// kill ends a broker as a crash would.
func (k *kafka) kill(node *kafkaNode) {
	_ = node.cmd.Process.Kill()
	<-node.exited
}

// request sends one request to the brokers.
func request[R kmsg.Response](k *kafka, req interface {
	RequestWith(context.Context, kmsg.Requestor) (R, error)
},
) R {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := req.RequestWith(ctx, k.client)
	if err != nil {
		k.t.Fatalf("ask Kafka: %v", err)
	}
	return resp
}

// metadata returns what Kafka says of a topic, of none with "".
func (k *kafka) metadata(topic string) *kmsg.MetadataResponse {
	k.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	if topic != "" {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(topic)
		req.Topics = append(req.Topics, rt)
	}
	return request(k, req)
}

// whole waits until all brokers are there.
func (k *kafka) whole() {
	k.t.Helper()
	// Three of Java's starts take half a minute where others have the processors.
	for limit := time.Now().Add(2 * patience); !k.there(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			k.t.Fatal("never: all brokers are there")
		}
	}
}

// there says whether all brokers are there.
func (k *kafka) there() bool {
	k.t.Helper()
	for _, node := range k.nodes {
		select {
		case <-node.exited:
			k.t.Fatalf("broker %d ended", node.id)
		default:
		}
		c, err := net.DialTimeout("tcp", node.addr, time.Second)
		if err != nil {
			return false
		}
		c.Close()
	}
	return len(k.metadata("").Brokers) == len(k.nodes)
}

// create makes a topic and waits until every partition has a leader.
func (k *kafka) create(topic string, partitions int, replicas int, configs ...string) {
	k.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 30_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = topic, int32(partitions), int16(replicas)
	for _, text := range configs {
		name, value, _ := strings.Cut(text, "=")
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, &value
		rt.Configs = append(rt.Configs, c)
	}
	req.Topics = append(req.Topics, rt)
	if err := kerr.ErrorForCode(request(k, req).Topics[0].ErrorCode); err != nil {
		k.t.Fatalf("create topic %s: %v", topic, err)
	}
	eventually(k.t, "topic "+topic+" has leaders", func() bool {
		got := k.metadata(topic).Topics[0]
		for _, p := range got.Partitions {
			if p.ErrorCode != 0 {
				return false
			}
		}
		return got.ErrorCode == 0 && len(got.Partitions) == partitions
	})
}

// remove deletes a topic and waits until no broker has it.
func (k *kafka) remove(topic string) {
	k.t.Helper()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = 30_000
	req.TopicNames = []string{topic}
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	if err := kerr.ErrorForCode(request(k, req).Topics[0].ErrorCode); err != nil {
		k.t.Fatalf("delete topic %s: %v", topic, err)
	}
	eventually(k.t, "topic "+topic+" is gone", func() bool { return k.metadata(topic).Topics[0].ErrorCode != 0 })
}

// leader is the broker that leads partition 0 of a topic.
func (k *kafka) leader(topic string) *kafkaNode {
	k.t.Helper()
	return k.nodes[k.metadata(topic).Topics[0].Partitions[0].Leader-1]
}

// deny forbids everybody an operation on a topic, and allows the others.
func (k *kafka) deny(topic string, operation kmsg.ACLOperation) {
	k.t.Helper()
	req := kmsg.NewPtrCreateACLsRequest()
	for _, rule := range []struct {
		operation  kmsg.ACLOperation
		permission kmsg.ACLPermissionType
	}{{operation, kmsg.ACLPermissionTypeDeny}, {kmsg.ACLOperationAll, kmsg.ACLPermissionTypeAllow}} {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = kmsg.ACLResourceTypeTopic, topic, kmsg.ACLResourcePatternTypeLiteral
		c.Principal, c.Host, c.Operation, c.PermissionType = "User:*", "*", rule.operation, rule.permission
		req.Creations = append(req.Creations, c)
	}
	for _, r := range request(k, req).Results {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			k.t.Fatalf("ACL on %s: %v", topic, err)
		}
	}
}

// steady waits until all brokers say the same of a topic and every replica is in
// sync: a broker that has not heard that it leads no more would tell of less
// than there is.
func (k *kafka) steady(topic string) (epochs map[int32]int32) {
	k.t.Helper()
	eventually(k.t, "all replicas of "+topic+" are in sync, and all brokers say so", func() bool {
		said := ""
		for _, node := range k.nodes {
			req := kmsg.NewPtrMetadataRequest()
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = &topic
			req.Topics = append(req.Topics, rt)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			resp, err := req.RequestWith(ctx, k.client.Broker(int(node.id)))
			cancel()
			if err != nil || len(resp.Topics) != 1 || resp.Topics[0].ErrorCode != 0 {
				return false
			}
			parts := resp.Topics[0].Partitions
			slices.SortFunc(parts, func(a, b kmsg.MetadataResponseTopicPartition) int { return int(a.Partition - b.Partition) })
			epochs, text := map[int32]int32{}, ""
			for _, p := range parts {
				if len(p.ISR) != len(p.Replicas) || p.Leader < 0 {
					return false
				}
				epochs[p.Partition] = p.LeaderEpoch
				text += fmt.Sprintf("%d %d %d;", p.Partition, p.Leader, p.LeaderEpoch)
			}
			if said != "" && text != said {
				return false
			}
			said, k.epochs = text, epochs
		}
		return true
	})
	return k.epochs
}

// noise counts the lines of the brokers' logs that tell of brokers out of touch
// with one another: a machine with no time for them does that, too.
func (k *kafka) noise() (n int) {
	for _, node := range k.nodes {
		log, err := os.ReadFile(filepath.Join(node.dir, "log"))
		if err != nil {
			k.t.Fatal(err)
		}
		for _, words := range []string{"NotEnoughReplicas", "disconnected", "timed out", "could not be established", "fenced"} {
			n += bytes.Count(log, []byte(words))
		}
	}
	return n
}

// ends returns the offset behind the last record of each partition.
func (k *kafka) ends(topic string) map[int32]int64 {
	k.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for p, epoch := range k.steady(topic) {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.CurrentLeaderEpoch, rp.Timestamp = p, epoch, -1 // latest
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	out := map[int32]int64{}
	for _, rt := range request(k, req).Topics {
		for _, rp := range rt.Partitions {
			if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
				k.t.Fatalf("end of %s-%d: %v", topic, rp.Partition, err)
			}
			out[rp.Partition] = rp.Offset
		}
	}
	return out
}

// read calls each with every record that a topic holds now, and returns how
// many there are.
func (k *kafka) read(topic string, each func(*kgo.Record)) (n int) {
	k.t.Helper()
	left, from := map[int32]int64{}, map[int32]kgo.Offset{}
	for p, end := range k.ends(topic) {
		if end > 0 {
			left[p], from[p] = end, kgo.NewOffset().AtStart()
		}
	}
	if len(left) == 0 {
		return 0
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.seeds...), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	if err != nil {
		k.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		for _, fe := range fetches.Errors() {
			k.t.Fatalf("read %s-%d: %v", fe.Topic, fe.Partition, fe.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, missing := left[r.Partition]
			if !missing || r.Offset >= end {
				return
			}
			n++
			each(r)
			if r.Offset == end-1 {
				delete(left, r.Partition)
			}
		})
	}
	return n
}

// gateway starts the sandbox command in front of the brokers and returns it
// and where it listens.
func (k *kafka) gateway(t testing.TB, listen string, args ...string) (p *program, url string) {
	t.Helper()
	p = begin(t, nil, nil, append([]string{"sandbox", "-v", "--listen", listen, "--brokers", strings.Join(k.seeds, ",")}, args...)...)
	p.until("Ctrl-C ends it.")
	_, rest, _ := strings.Cut(p.err.String(), " on http://")
	addr, _, _ := strings.Cut(rest, ",")
	return p, "http://" + addr
}
