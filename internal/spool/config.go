// Package spool keeps batches on disk while no stream can take them: a queue of
// records that survives kill -9, power cuts, torn files, flipped bits and full
// disks, at the cost of the records that were hit and no others.
//
// FORMAT.md has the files. A Spool is one route's; whoever takes its batches to
// a cluster settles each record with it, as with any other origin.
package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Policy is what becomes of records that a full spool has no room for.
type Policy uint8

// The policies.
const (
	// Block refuses batches with ErrFull until there is room.
	Block Policy = iota
	// DropOldest gives the oldest segments up: their records that are pending
	// and not handed out are counted as dropped.
	DropOldest
	// DropNewest takes the batch, counts it as dropped and tells durable so
	// with ErrDropped.
	DropNewest
)

var policyNames = []string{"block", "drop_oldest", "drop_newest"}

// String returns the name that a configuration has for it.
func (p Policy) String() string { return policyNames[p] }

// UnmarshalText reads a name.
func (p *Policy) UnmarshalText(text []byte) error {
	for i, name := range policyNames {
		if name == string(text) {
			*p = Policy(i)
			return nil
		}
	}
	return fmt.Errorf("when_full: %q: must be block, drop_oldest or drop_newest", text)
}

// Fsync is when a batch counts as durable.
type Fsync uint8

// The fsync policies.
const (
	// Always: once it is synced. Batches that come within gather share a sync.
	Always Fsync = iota
	// EverySecond: once it is written. A process that is killed loses nothing,
	// a power cut at most what came in the last second.
	EverySecond
)

var fsyncNames = []string{"always", "every_second"}

// String returns the name that a configuration has for it.
func (f Fsync) String() string { return fsyncNames[f] }

// UnmarshalText reads a name.
func (f *Fsync) UnmarshalText(text []byte) error {
	for i, name := range fsyncNames {
		if name == string(text) {
			*f = Fsync(i)
			return nil
		}
	}
	return fmt.Errorf("fsync: %q: must be always or every_second", text)
}

// Config sets up a Spool. Start from DefaultConfig; Dir and Route are wanted.
type Config struct {
	Dir      string // a directory of its own, made when it is not there
	Route    string // the route whose records it keeps; written into every segment
	RouteID  int32  // the same as a number, in the batches handed out
	MaxBytes int64  // of its files; one segment more may be on the disk for a moment
	WhenFull Policy
	Fsync    Fsync
	RAMBytes int64 // of the newest batches kept in memory too; 0: every batch is read back
	// Dropped, when not nil, is told of records that a policy dropped, as they
	// are. Concurrency: any goroutine; it must not call the Spool.
	Dropped func(records int64)

	segment int64         // bytes after which a segment is closed; 0: by MaxBytes
	gather  time.Duration // least time between two syncs of Always
	now     func() time.Time
	fs      fsys // nil: Dir
	id      uint64
}

// Sizes that are not a matter of configuration.
const (
	segmentBytes  = 8 << 20  // bounds what one unlink frees, and what one scan at start reads
	leastSegment  = 64 << 10 // of a spool with a small quota
	maxQueued     = 4 << 20  // bytes of batches not yet written; Append waits above it
	maxUnsynced   = 4 << 20  // bytes written and not synced; EverySecond syncs early then
	syncEvery     = time.Second
	saveEvery     = 100 * time.Millisecond // of the ack state, at most
	saveRate      = 10 << 20               // bytes a second of ack state, at most
	idleAfter     = 10 * time.Second       // then a segment whose records are final goes, though it is not full
	retryFirst    = 100 * time.Millisecond // after a failed write; doubles up to retryMax
	retryMax      = 2 * time.Second
	unreadyAfter  = 3        // failed writes in a row
	mergeBytes    = 64 << 10 // small batches are handed out together up to this
	leastMaxBytes = 1 << 20
)

// DefaultConfig: 1 GB is three hours of 500 records/s of 200 bytes; syncing
// always, for a source that was told 2xx forgets the record. 8 MiB of newest
// batches are a hundred full ones, more than four streams have queued, so a
// cluster that keeps up never makes us read the disk. Syncs 5 ms apart are 200
// a second at most, of some 40 µs of CPU each: below a hundredth of a core.
func DefaultConfig() Config {
	return Config{MaxBytes: 1e9, WhenFull: Block, Fsync: Always, RAMBytes: 8 << 20, gather: 5 * time.Millisecond}
}

// Validate names what is wrong with the numbers.
func (c *Config) Validate() error {
	var errs []error
	if c.MaxBytes < leastMaxBytes {
		errs = append(errs, fmt.Errorf("buffer max_bytes %d: must be at least %d (1 MiB)", c.MaxBytes, leastMaxBytes))
	}
	if c.RAMBytes < 0 {
		errs = append(errs, fmt.Errorf("buffer memory %d bytes: must not be negative", c.RAMBytes))
	}
	if len(c.Route) > 1<<16-1 {
		errs = append(errs, fmt.Errorf("route name of %d bytes: must be at most 65535", len(c.Route)))
	}
	return errors.Join(errs...)
}

// segmentSize keeps eight segments or more within the quota, so that giving one
// up or freeing one does not mean all of it.
func (c *Config) segmentSize() int64 {
	if c.segment > 0 {
		return c.segment
	}
	return min(segmentBytes, max(leastSegment, c.MaxBytes/8))
}

// What Append, Room and Next return besides the disk's errors.
var (
	// ErrFull says that the quota is reached. The batch is still the caller's:
	// wait with Room, or refuse.
	ErrFull = errors.New("disk buffer is full")
	// ErrDropped is told to durable by DropNewest: the batch is counted as
	// dropped, and its source must not give it again.
	ErrDropped = errors.New("disk buffer is full: dropped, as when_full says")
	// ErrTooLarge says that a batch is larger than the whole spool may be.
	ErrTooLarge = errors.New("batch is larger than max_bytes of the disk buffer")
	// ErrClosed says that the spool is closed.
	ErrClosed = errors.New("disk buffer is closed")
)

// Ref is a place in a spool: all records before it were seen. The zero Ref is
// the oldest record that is not final.
type Ref struct{ Seq int64 }

// Cursor reads batches in the order they were appended.
//
// Concurrency: one goroutine, Close by any.
type Cursor interface {
	// Next waits for the next batch, which becomes the caller's. Records that
	// are final, or handed out and not settled, are left out; batches may have
	// been joined. The Ref is the place behind the batch. Positions are the
	// spool's: Source is what SetSource said, Offset the record's number.
	// Errors: ctx's; ErrClosed.
	Next(ctx context.Context) (*record.Batch, Ref, error)
	// Skip sets which topics are passed over from here on; nil for none. What
	// was passed over is for another Cursor to read.
	Skip(topic func(string) bool)
	Close()
}

// Buffer is what is wanted of any place that keeps batches until a cluster has
// taken them; spooltest has its contract as tests. A Buffer is an
// ingest.Origin: each record that a Cursor handed out is settled there.
//
// Concurrency: any goroutine.
type Buffer interface {
	// Append takes b over once it returns nil. where names each record's source
	// and is called before durable. durable is called exactly once, by a
	// goroutine of the Buffer's, which it must not hold up nor call Append
	// from: with nil when b is durable by the fsync policy, ErrDropped when it
	// was dropped, and else why it was not taken. b's positions are still the
	// caller's in it. Behind nil and ErrDropped b is the Buffer's again; behind
	// another error it is the caller's for good.
	//
	// It waits, up to ctx, while too much is not yet written.
	// Errors: b is still the caller's, and durable is not called: ErrFull;
	// ErrTooLarge; ErrClosed; ctx's; while the disk takes nothing, its error.
	Append(ctx context.Context, b *record.Batch, where func(record.Position) (string, int64), durable func(b *record.Batch, err error)) error
	// Room waits until Append may be tried again.
	Room(ctx context.Context) error
	// Cursor reads from a place on: all topics, or only one.
	Cursor(from Ref, only string) Cursor
	// SetSource says under which number positions name the Buffer.
	SetSource(src int32)

	Where(pos record.Position) (source string, offset int64)
	Delivered(pos []record.Position)
	Rejected(pos record.Position, code int, message string)
	Buffered(pos []record.Position)
	Refused(pos []record.Position, why error)

	Stats() Stats
	Pending() int64
	// Close makes durable what was taken, keeps what is final, and ends
	// Appends, Rooms and Nexts with ErrClosed.
	Close() error
}

// Stats are a spool's figures. Records:
// Opened + Appended = Delivered + Rejected + DroppedOldest + CorruptRecords + Pending.
type Stats struct {
	Bytes    int64 // of segment files
	Capacity int64
	Segments int
	// Full says that the last Append found no room, and none was made since.
	Full bool

	Pending   int64
	OldestAge time.Duration // of the oldest pending record, at most; 0 without one

	Opened         int64 // pending when the spool was opened, or found missing then
	Appended       int64
	Delivered      int64
	Rejected       int64
	DroppedOldest  int64
	DroppedNewest  int64 // never appended
	CorruptRecords int64 // that were accepted and cannot be read
	CorruptPlaces  int64
	TornBytes      int64 // cut at start: what was being written when the agent ended
	SyncErrors     int64 // failed writes and syncs

	Unready string // why it takes nothing, after three failures in a row; else ""
}
