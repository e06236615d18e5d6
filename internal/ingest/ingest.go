// Package ingest reads records from stdin and files, cuts them apart, encodes
// them and gathers them in batches.
//
// A source reads into one buffer and encodes each record straight from it into
// the batch being built: a payload's bytes are copied once.
package ingest

import (
	"errors"

	"github.com/produce-agent/produce-agent/internal/record"
)

// Sink takes what an input makes. Each input has a Sink of its own.
//
// Concurrency: called by one goroutine at a time, possibly the linger timer's.
type Sink interface {
	// Submit takes a batch over and waits while it cannot be taken. An error
	// ends the input.
	Submit(b *record.Batch) error
	// Reject takes a record of a route that can never be sent. payload is nil
	// where the record was too long to be held, and is only valid until Reject
	// returns.
	Reject(route int32, topic string, pos record.Position, payload []byte, why *record.InvalidError) error
}

// Origin is where records come from, as those see it who settle them: a file,
// an HTTP request, a spool. Each record is settled once: Delivered, Rejected,
// Buffered or Refused.
//
// Concurrency: called from any goroutine, several at once, streams' readers
// among them: no call may wait. pos is only valid during the call; all of it
// is this origin's.
type Origin interface {
	// Where names the source of a record and its place there, for dead letters
	// and reports.
	Where(pos record.Position) (source string, offset int64)
	// Delivered says that reports said 200.
	Delivered(pos []record.Position)
	// Rejected says that a record is kept as a dead letter, synced.
	Rejected(pos record.Position, code int, message string)
	// Buffered says that records are durable in a spool, which answers for them
	// from here on.
	Buffered(pos []record.Position)
	// Refused says that records could not be taken now and were given up: their
	// source must give them again. Only an origin whose batches say so by
	// Sink's contract gets it; a file's Sink waits instead.
	Refused(pos []record.Position, why error)
}

// Reporter is an Origin that wants the delivery reports of batches marked Raw.
type Reporter interface {
	Origin
	// Report gives the report of a record as the server wrote it, right before
	// Delivered or Rejected. raw is only valid during the call.
	Report(pos record.Position, raw []byte)
}

// Registry numbers origins: a Position's Source is an Origin's number.
//
// Concurrency: any goroutine.
type Registry interface {
	Register(o Origin) int32
	// Release gives a number back once every record of it is settled.
	Release(src int32)
}

// ErrCount says that as many records were read as were asked for.
var ErrCount = errors.New("record count reached")

// errStopped is how a reader says that ctx ended while it waited.
var errStopped = errors.New("stopped")
