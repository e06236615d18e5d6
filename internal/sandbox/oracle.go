package sandbox

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Record is a record as Kafka holds it.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       []byte // nil: Kafka null; empty is not nil
	Value     []byte // nil: Kafka null; empty is not nil
	Headers   []Header
}

// Header is one header of a Record; a nil Value is a null.
type Header struct {
	Name  string
	Value []byte
}

// Records reads back what topic holds at the time of the call, by partition
// and offset: the truth to hold a producer's claims against.
//
// Ownership: the caller's. Errors: an unknown topic, Kafka's, or ctx's.
func (s *Sandbox) Records(ctx context.Context, topic string) ([]Record, error) {
	ends, err := s.broker.endOffsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("topic %q: find its end: %w", topic, err)
	}
	start := map[int32]kgo.Offset{}
	missing := int64(0)
	for p, end := range ends {
		if end > 0 {
			start[p] = kgo.NewOffset().AtStart()
			missing++
		}
	}
	var out []Record
	if missing == 0 {
		return out, nil
	}
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(s.broker.seeds...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: start}),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		return nil, fmt.Errorf("topic %q: make a consumer: %w", topic, err)
	}
	defer cl.Close()
	for missing > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return nil, fmt.Errorf("topic %q: read: %w", topic, err)
		}
		for _, fe := range fetches.Errors() {
			return nil, fmt.Errorf("topic %q partition %d: read: %w", topic, fe.Partition, fe.Err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset >= ends[r.Partition] {
				return
			}
			out = append(out, toRecord(r))
			if r.Offset == ends[r.Partition]-1 {
				missing--
			}
		})
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Partition != out[j].Partition {
			return out[i].Partition < out[j].Partition
		}
		return out[i].Offset < out[j].Offset
	})
	return out, nil
}

func toRecord(r *kgo.Record) Record {
	out := Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp,
		Key: notPinned(r.Key), Value: notPinned(r.Value),
	}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, Header{h.Key, notPinned(h.Value)})
	}
	return out
}

// notPinned copies b out of its fetch, nil staying nil and empty empty.
func notPinned(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// endOffsets returns the offset behind the last record, per partition.
func (b *broker) endOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	n, err := b.partitions(ctx, topic, true)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, kerr.UnknownTopicOrPartition
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for p := range n {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p, -1 // latest
		t.Partitions = append(t.Partitions, rp)
	}
	req.Topics = append(req.Topics, t)
	ends := map[int32]int64{}
	for _, shard := range b.client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, shard.Err
		}
		for _, rt := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, rp := range rt.Partitions {
				if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
					return nil, err
				}
				ends[rp.Partition] = rp.Offset
			}
		}
	}
	return ends, nil
}
