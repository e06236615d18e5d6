package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ends returns the end offset of every partition of topic: what has to be read
// to have read all of it.
func ends(ctx context.Context, cl *kgo.Client, topic string) (map[int32]int64, error) {
	mreq := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = kmsg.StringPtr(topic)
	mreq.Topics = append(mreq.Topics, mt)
	meta, err := mreq.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("topic %q: ask for its partitions: %w", topic, err)
	}
	if len(meta.Topics) != 1 {
		return nil, fmt.Errorf("topic %q: metadata of %d topics came back", topic, len(meta.Topics))
	}
	if err := kerr.ErrorForCode(meta.Topics[0].ErrorCode); err != nil {
		return nil, fmt.Errorf("topic %q: %w", topic, err)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, p := range meta.Topics[0].Partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p.Partition, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	out := map[int32]int64{}
	for _, shard := range cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, fmt.Errorf("topic %q: ask for its end: %w", topic, shard.Err)
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("topic %q partition %d: %w", topic, p.Partition, err)
				}
				out[p.Partition] = p.Offset
			}
		}
	}
	return out, nil
}

// readBack reads all of topic from a Kafka broker and counts each value down
// in m. A null value is a difference: a line may be empty, it is never null.
func readBack(ctx context.Context, broker, topic string, m *multiset) (records, nulls int64, err error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(broker), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(4<<20), kgo.FetchMaxPartitionBytes(1<<20), kgo.MaxConcurrentFetches(1),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	left, err := ends(ctx, cl, topic)
	if err != nil {
		return 0, 0, err
	}
	for p, end := range left {
		if end == 0 {
			delete(left, p)
		}
	}
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return records, nulls, fmt.Errorf("topic %q: %d records read, %d partitions not at their end: %w",
				topic, records, len(left), context.Cause(ctx))
		}
		var errs []error
		fetches.EachError(func(t string, p int32, err error) {
			errs = append(errs, fmt.Errorf("topic %q partition %d: %w", t, p, err))
		})
		if len(errs) > 0 {
			return records, nulls, errors.Join(errs...)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			records++
			if r.Value == nil {
				nulls++
			}
			m.take(r.Value)
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	return records, nulls, nil
}
