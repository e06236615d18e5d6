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

// Sink takes what sources make.
//
// Concurrency: called by one source at a time, possibly from its linger timer.
type Sink interface {
	// Submit takes a batch over and waits while it cannot be taken. An error
	// ends the source.
	Submit(b *record.Batch) error
	// Reject takes a record that can never be sent. payload is nil where the
	// record was too long to be held, and is only valid until Reject returns.
	Reject(topic string, pos record.Position, payload []byte, why *record.InvalidError) error
}

// ErrCount says that as many records were read as were asked for.
var ErrCount = errors.New("record count reached")

// errStopped is how a reader says that ctx ended while it waited.
var errStopped = errors.New("stopped")
