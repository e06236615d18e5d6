package ship

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/ingest"
)

// The dead letter's queue and patience: rejections in one group share one
// sync; a disk that takes nothing for this long ends a one-shot run.
const (
	deadLetterQueue    = 1024
	deadLetterPatience = 30 * time.Second
	deadLetterAgain    = 500 * time.Millisecond
)

// deadLetter appends rejected records to a file. A record counts as rejected
// only once its line is synced; while the file cannot be written, whoever
// rejects waits.
//
// Concurrency: put is safe; one goroutine writes.
type deadLetter struct {
	path   string // "" until the first rejection, when none was named
	log    *slog.Logger
	books  *books
	queue  chan ingest.DeadLetter
	done   chan struct{}
	failed context.CancelCauseFunc

	mu      sync.Mutex // guards path and size; the rest is the writer's
	f       *os.File
	size    int64 // of what is known to be whole in f
	created bool
}

// newDeadLetter opens path, when one is given, so that a wrong one is told
// before anything is read. fail is called when the file cannot be written for
// too long.
func newDeadLetter(path string, b *books, log *slog.Logger, fail context.CancelCauseFunc) (*deadLetter, error) {
	d := &deadLetter{
		path: path, log: log, books: b, failed: fail,
		queue: make(chan ingest.DeadLetter, deadLetterQueue), done: make(chan struct{}),
	}
	if path != "" {
		if err := d.open(path); err != nil {
			return nil, err
		}
	}
	go d.run()
	return d, nil
}

// put queues one rejected record. It waits while the queue is full.
func (d *deadLetter) put(l ingest.DeadLetter) { d.queue <- l }

// close writes what is queued and closes the file; an empty one that was made
// for nothing goes again.
func (d *deadLetter) close() {
	close(d.queue)
	<-d.done
	if d.f == nil {
		return
	}
	d.f.Close()
	if d.created && d.size == 0 {
		os.Remove(d.path)
	}
}

// name returns the file's path, "" when nothing was rejected into one.
func (d *deadLetter) name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.size == 0 {
		return ""
	}
	return d.path
}

func (d *deadLetter) open(path string) error {
	_, err := os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("dead letter: %w", err)
	}
	if missing {
		if dir, err := os.Open(filepath.Dir(path)); err == nil {
			_ = dir.Sync()
			dir.Close()
		}
	}
	d.mu.Lock()
	d.f, d.path, d.created, d.size = f, path, missing, info.Size()
	d.mu.Unlock()
	return nil
}

func (d *deadLetter) run() {
	defer close(d.done)
	var group []ingest.DeadLetter
	var lines bytes.Buffer
	for l := range d.queue {
		group = append(group[:0], l)
		for more := true; more && len(group) < deadLetterQueue; {
			select {
			case l, ok := <-d.queue:
				if more = ok; ok {
					group = append(group, l)
				}
			default:
				more = false
			}
		}
		lines.Reset()
		enc := json.NewEncoder(&lines)
		enc.SetEscapeHTML(false)
		for i := range group {
			if err := enc.Encode(&group[i]); err != nil {
				panic("BUG: dead-letter line: " + err.Error())
			}
		}
		if !d.write(lines.Bytes()) {
			return
		}
		for i := range group {
			d.books.reject(group[i].Topic, group[i].Reason)
		}
	}
}

// write appends and syncs lines, trying again until it works. It returns false
// when patience is over; the records of lines stay pending then.
func (d *deadLetter) write(lines []byte) bool {
	began := time.Now()
	for {
		err := d.append(lines)
		if err == nil {
			return true
		}
		if time.Since(began) > deadLetterPatience {
			d.failed(fmt.Errorf("rejected records cannot be kept: %w", err))
			for range d.queue { // let those that wait go; their records stay pending
			}
			return false
		}
		d.log.Error("cannot write the dead letter; rejected records wait", "file", d.path, "error", err)
		time.Sleep(deadLetterAgain)
	}
}

func (d *deadLetter) append(lines []byte) error {
	if d.f == nil {
		path := d.path
		if path == "" {
			path = "dead-letter-" + time.Now().UTC().Format("20060102T150405Z") + ".ndjson"
		}
		if err := d.open(path); err != nil {
			return err
		}
		d.log.Warn("records are rejected; they are kept in a dead-letter file", "file", path, "send_again_with", "ship --from-dead-letter "+path)
	}
	n, err := d.f.Write(lines)
	if err == nil {
		err = d.f.Sync()
	}
	if err != nil {
		// A torn line would hide the next one: cut it off before trying again.
		_ = d.f.Truncate(d.size)
		return fmt.Errorf("write %d of %d bytes: %w", n, len(lines), err)
	}
	d.mu.Lock()
	d.size += int64(len(lines))
	d.mu.Unlock()
	return nil
}
