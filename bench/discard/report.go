package main

import (
	"fmt"
	"strconv"
	"time"
)

// mode says how reports are framed in the answer.
type mode byte

const (
	perBatch  mode = iota // one HTTP chunk for the reports of one read
	perRecord             // one HTTP chunk for each report
	split                 // two: the object, then its CRLF, as kafka-rest sends them
)

func parseMode(s string) (mode, error) {
	switch s {
	case "batch":
		return perBatch, nil
	case "record":
		return perRecord, nil
	case "split":
		return split, nil
	}
	return 0, fmt.Errorf("-report=%s: must be batch, record or split", s)
}

// chunkRoom is kept free before a batch of reports for the chunk's size line.
const chunkRoom = 10

// partitions is how many partitions the reports pretend the topic has.
const partitions = 6

// reporter writes the success reports of one stream.
//
// Shape: the compact object kafka-rest writes, with cluster, topic, partition,
// offset, timestamp and value, and CRLF; about 180 bytes.
// Source: confluentinc/kafka-rest StreamingResponse and ProduceResponse.
type reporter struct {
	mode    mode
	prefix  []byte // up to and with "partition_id":
	middle  []byte // from "timestamp" to "size":, the time filled in once a read
	scratch []byte
	offsets [partitions]int64
	count   int
}

func newReporter(m mode, cluster, topic string, first int64) *reporter {
	r := &reporter{mode: m}
	r.prefix = append(r.prefix, `{"error_code":200,"cluster_id":`...)
	r.prefix = strconv.AppendQuote(r.prefix, cluster)
	r.prefix = append(r.prefix, `,"topic_name":`...)
	r.prefix = strconv.AppendQuote(r.prefix, topic)
	r.prefix = append(r.prefix, `,"partition_id":`...)
	for i := range r.offsets {
		r.offsets[i] = first
	}
	return r
}

// begin sets the time of the reports that follow.
func (r *reporter) begin(now time.Time) {
	r.middle = append(r.middle[:0], `,"timestamp":"`...)
	r.middle = now.UTC().AppendFormat(r.middle, "2006-01-02T15:04:05.000Z")
	r.middle = append(r.middle, `","value":{"type":"JSON","size":`...)
}

// object appends the report of one record of size bytes, without its CRLF. The
// partition changes every 64 records, as it does with a sticky partitioner.
func (r *reporter) object(dst []byte, size int) []byte {
	p := r.count / 64 % partitions
	r.count++
	dst = append(dst, r.prefix...)
	dst = append(dst, byte('0'+p))
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, r.offsets[p], 10)
	r.offsets[p]++
	dst = append(dst, r.middle...)
	dst = strconv.AppendInt(dst, int64(size), 10)
	return append(dst, "}}"...)
}

// add appends the report of one record, framed as the mode says.
func (r *reporter) add(dst []byte, size int) []byte {
	if r.mode == perBatch {
		return append(r.object(dst, size), '\r', '\n')
	}
	r.scratch = r.object(r.scratch[:0], size)
	n := len(r.scratch)
	if r.mode == perRecord {
		n += 2
	}
	dst = strconv.AppendInt(dst, int64(n), 16)
	dst = append(dst, '\r', '\n')
	dst = append(dst, r.scratch...)
	if r.mode == perRecord {
		return append(dst, "\r\n\r\n"...)
	}
	return append(dst, "\r\n2\r\n\r\n\r\n"...)
}

// seal makes one HTTP chunk of the reports in buf[chunkRoom:] and returns it;
// in the other modes they are chunks already.
func (r *reporter) seal(buf []byte) []byte {
	if r.mode != perBatch {
		return buf[chunkRoom:]
	}
	var head [chunkRoom]byte
	h := strconv.AppendInt(head[:0], int64(len(buf)-chunkRoom), 16)
	h = append(h, '\r', '\n')
	copy(buf[chunkRoom-len(h):], h)
	return append(buf, '\r', '\n')[chunkRoom-len(h):]
}
