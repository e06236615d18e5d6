package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// writeBatch writes records to one partition as one batch, which Kafka takes
// or refuses whole. It returns the first one's offset, or Kafka's error code.
//
// Errors: the connection's, or that the topic's leader is not known.
func (b *broker) writeBatch(ctx context.Context, topic string, partition int32, items []*pending) (int64, int16, error) {
	meta, err := b.metadata(ctx, []string{topic})
	if err != nil {
		return -1, 0, err
	}
	var id [16]byte
	leader := int32(-1)
	for _, t := range meta.Topics {
		if t.Topic == nil || *t.Topic != topic {
			continue
		}
		id = t.TopicID
		for _, p := range t.Partitions {
			if p.Partition == partition {
				leader = p.Leader
			}
		}
	}
	if leader < 0 {
		return -1, kerr.LeaderNotAvailable.Code, nil
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, encodeBatch(items)
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	raw, err := b.client.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return -1, 0, err
	}
	for _, t := range raw.(*kmsg.ProduceResponse).Topics {
		for _, p := range t.Partitions {
			return p.BaseOffset, p.ErrorCode, nil
		}
	}
	return -1, 0, errors.New("the broker's answer names no partition")
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeBatch writes records as a batch of magic 2.
// Source: Kafka protocol guide, record batch.
func encodeBatch(items []*pending) []byte {
	first := items[0].rec.Timestamp.UnixMilli()
	batch := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(items) - 1),
		FirstTimestamp: first, MaxTimestamp: first,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(len(items)),
	}
	for i, p := range items {
		ms := p.rec.Timestamp.UnixMilli()
		batch.MaxTimestamp = max(batch.MaxTimestamp, ms)
		r := kmsg.Record{TimestampDelta64: ms - first, OffsetDelta: int32(i), Key: p.rec.Key, Value: p.rec.Value}
		body := r.AppendTo(nil)[1:] // behind the one byte of a length of 0
		batch.Records = binary.AppendVarint(batch.Records, int64(len(body)))
		batch.Records = append(batch.Records, body...)
	}
	out := batch.AppendTo(nil)
	const lengthEnd, crcAt, crcEnd = 12, 17, 21
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-lengthEnd))
	binary.BigEndian.PutUint32(out[crcAt:], crc32.Checksum(out[crcEnd:], castagnoli))
	return out
}
