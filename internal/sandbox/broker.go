package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// kafkaMaxRequest is the Kafka producer's max.request.size.
	kafkaMaxRequest = 1 << 20
	// gatewayBatch fits the default message.max.bytes of any Kafka.
	gatewayBatch = 1_000_000
	// recordOverhead is what Kafka counts for a record besides key, value and
	// headers: the batch header and the record's own numbers.
	recordOverhead = 128
	// bufferBytes bounds the records inside the Kafka producer
	// (buffer.memory is 32 MiB; room for two of the longest is needed).
	bufferBytes = 64 << 20
)

// broker is the Kafka side: kfake in the process or a real one, and one client.
type broker struct {
	fake     *kfake.Cluster // nil with Config.Brokers
	conns    *connTracker
	tempDir  string
	client   *kgo.Client
	opts     []kgo.Opt // of client, and of lone's
	lone     lone
	seeds    []string
	addr     string
	cluster  string
	maxBytes int // longest record, serialised

	mu     sync.Mutex // guards topics and ids
	topics map[string]int32
	ids    map[string][16]byte // of every topic that was ever looked at
}

// startBroker starts or reaches the Kafka and creates cfg.Topics.
func startBroker(ctx context.Context, cfg *Config, limits Limits) (_ *broker, err error) {
	b := &broker{topics: map[string]int32{}, ids: map[string][16]byte{}, maxBytes: limits.MessageBytes, seeds: cfg.Brokers, cluster: cfg.ClusterID}
	if b.maxBytes == 0 {
		b.maxBytes = kafkaMaxRequest
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	batch := int32(gatewayBatch)
	if len(cfg.Brokers) == 0 {
		batch = int32(max(b.maxBytes, gatewayBatch) + recordOverhead)
		if err := b.startFake(cfg, int(batch)+recordOverhead); err != nil {
			return nil, err
		}
	}
	b.addr = strings.Join(b.seeds, ",")
	b.opts = []kgo.Opt{
		kgo.SeedBrokers(b.seeds...),
		kgo.ClientID("produce-agent-sandbox"),
		kgo.DisableIdempotentWrite(), // as the real server's producer
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.MaxProduceRequestsInflightPerBroker(1), // or a retry could reorder a partition
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(cfg.Linger),
		kgo.ProducerBatchMaxBytes(batch),
		kgo.MaxBufferedRecords(1 << 20), // streams are bounded one by one
		kgo.MaxBufferedBytes(max(bufferBytes, 2*b.maxBytes)),
		// kgo's delivery time-out counts from the record's own timestamp, which
		// may be years ago; so many tries take about delivery.timeout.ms, 2 min.
		kgo.RecordRetries(48),
		kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil)}),
		kgo.MetadataMinAge(100 * time.Millisecond),
	}
	if b.client, err = kgo.NewClient(b.opts...); err != nil {
		return nil, fmt.Errorf("make the Kafka client: %w", err)
	}
	meta, err := b.reach(ctx)
	if err != nil {
		return nil, err
	}
	if b.cluster == "" && meta.ClusterID != nil {
		b.cluster = *meta.ClusterID
	}
	for _, t := range cfg.Topics {
		err := b.createTopic(ctx, t.Name, int32(t.Partitions), -1, nil, false)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return nil, fmt.Errorf("create topic %q: %w", t.Name, err)
		}
	}
	return b, nil
}

// reach asks Kafka what it has, again and again until ctx ends: it may be
// starting as well.
func (b *broker) reach(ctx context.Context) (*kmsg.MetadataResponse, error) {
	for began := time.Now(); ; {
		meta, err := b.metadata(ctx, nil)
		if err == nil {
			return meta, nil
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("no broker at %s answers, asked for %s: %w; check --brokers, and that Kafka is up", b.addr, time.Since(began).Round(time.Second), err)
		}
	}
}

// startFake starts the Kafka in the process, on disk: in memory it would keep
// every record for ever.
func (b *broker) startFake(cfg *Config, maxBatch int) error {
	dir := cfg.DataDir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "produce-agent-sandbox-"); err != nil {
			return fmt.Errorf("make a folder for records: %w", err)
		}
		b.tempDir = dir
	}
	if b.cluster == "" {
		b.cluster = DefaultClusterID
	}
	b.conns = &connTracker{}
	fake, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ClusterID(b.cluster),
		kfake.DefaultNumPartitions(cfg.AutoCreatePartitions),
		kfake.DataDir(dir),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": fmt.Sprint(maxBatch)}),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			l, err := net.Listen(network, cfg.KafkaListen)
			if err != nil {
				return nil, err
			}
			return &trackedListener{l, b.conns, cfg.KafkaHost}, nil
		}),
	)
	if err != nil {
		return fmt.Errorf("start Kafka on %s: %w", cfg.KafkaListen, err)
	}
	b.fake = fake
	b.seeds = fake.ListenAddrs()
	return nil
}

// close ends the client and the Kafka in the process. Records not yet
// acknowledged fail.
func (b *broker) close() {
	if b.client != nil {
		b.client.Close()
		b.lone.close()
	}
	if b.fake != nil {
		b.fake.Close()
		b.conns.closeAll()
	}
	if b.tempDir != "" {
		_ = os.RemoveAll(b.tempDir)
	}
}

// partitioner sends a record to the partition it names, else as kgo's sticky
// key partitioner: by murmur2 of the key, without one to a partition a batch.
type partitioner struct{ kgo.Partitioner }

func (p partitioner) ForTopic(t string) kgo.TopicPartitioner {
	inner := p.Partitioner.ForTopic(t)
	onNew, _ := inner.(kgo.TopicPartitionerOnNewBatch)
	return &topicPartitioner{inner, onNew}
}

type topicPartitioner struct {
	kgo.TopicPartitioner
	onNew kgo.TopicPartitionerOnNewBatch
}

func (p *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || p.TopicPartitioner.RequiresConsistency(r)
}

func (p *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.TopicPartitioner.Partition(r, n)
}

func (p *topicPartitioner) OnNewBatch() {
	if p.onNew != nil {
		p.onNew.OnNewBatch()
	}
}

// partitions returns how many partitions topic has, from memory or from Kafka;
// 0 when there is no such topic.
//
// Errors: errors.As finds a *kerr.Error where it is Kafka that says no: the
// topic may not be looked at, or has an impossible name.
func (b *broker) partitions(ctx context.Context, topic string, fresh bool) (int32, error) {
	b.mu.Lock()
	n := b.topics[topic]
	b.mu.Unlock()
	if n > 0 && !fresh {
		return n, nil
	}
	meta, err := b.metadata(ctx, []string{topic})
	if err != nil {
		return 0, err
	}
	n = 0
	var id [16]byte
	for _, t := range meta.Topics {
		if t.Topic == nil || *t.Topic != topic {
			continue
		}
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case err == nil:
			n, id = int32(len(t.Partitions)), t.TopicID
		case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.InvalidTopicException):
			b.forget(topic)
			return 0, err
		}
	}
	b.remember(topic, n, id)
	return n, nil
}

// remember keeps what was found of topic. The Kafka client holds on to a topic
// that was deleted and made anew, so it is told to let go.
func (b *broker) remember(topic string, n int32, id [16]byte) {
	b.mu.Lock()
	if n == 0 {
		delete(b.topics, topic)
		b.mu.Unlock()
		return
	}
	old, known := b.ids[topic]
	b.topics[topic], b.ids[topic] = n, id
	b.mu.Unlock()
	if known && old != id {
		b.client.PurgeTopicsFromProducing(topic)
		b.lone.purge(topic)
	}
}

// knows says whether topic was there when last looked at.
func (b *broker) knows(topic string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.topics[topic] > 0
}

// forget makes the next look at topic ask Kafka.
func (b *broker) forget(topic string) {
	b.mu.Lock()
	delete(b.topics, topic)
	b.mu.Unlock()
}

// metadata asks for topics; nil is all of them.
func (b *broker) metadata(ctx context.Context, topics []string) (*kmsg.MetadataResponse, error) {
	req := kmsg.NewPtrMetadataRequest()
	if topics != nil {
		req.Topics = []kmsg.MetadataRequestTopic{}
	}
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(t)
		req.Topics = append(req.Topics, rt)
	}
	return req.RequestWith(ctx, b.client)
}

// createTopic creates a topic; partitions or replication below 1 take the
// broker's default.
func (b *broker) createTopic(ctx context.Context, name string, partitions int32, replication int16, configs map[string]*string, validateOnly bool) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.ValidateOnly = validateOnly
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, replication
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, v
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, b.client)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			if t.ErrorMessage != nil && *t.ErrorMessage != "" {
				return fmt.Errorf("%w: %s", err, *t.ErrorMessage)
			}
			return err
		}
	}
	return nil
}

// connTracker knows a listener's open connections, so that none outlives it.
type connTracker struct {
	mu   sync.Mutex // guards open and shut
	open map[net.Conn]struct{}
	shut bool
}

func (t *connTracker) closeAll() {
	t.mu.Lock()
	t.shut = true
	conns := make([]net.Conn, 0, len(t.open))
	for c := range t.open {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

type trackedListener struct {
	net.Listener
	t    *connTracker
	host string // to give out in place of the address's own
}

// Addr is what kfake tells Kafka clients to connect to.
func (l *trackedListener) Addr() net.Addr {
	_, port, err := net.SplitHostPort(l.Listener.Addr().String())
	if l.host == "" || err != nil {
		return l.Listener.Addr()
	}
	return hostAddr(net.JoinHostPort(l.host, port))
}

// hostAddr is a TCP address with a name in it.
type hostAddr string

func (a hostAddr) Network() string { return "tcp" }
func (a hostAddr) String() string  { return string(a) }

func (l *trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tc := &trackedConn{Conn: c, t: l.t}
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	if l.t.shut {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	if l.t.open == nil {
		l.t.open = map[net.Conn]struct{}{}
	}
	l.t.open[tc] = struct{}{}
	return tc, nil
}

type trackedConn struct {
	net.Conn
	t *connTracker
}

func (c *trackedConn) Close() error {
	c.t.mu.Lock()
	delete(c.t.open, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}
