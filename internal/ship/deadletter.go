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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

// The dead letter's queue and patience: rejections in one group share one
// sync; a disk that takes nothing for this long ends a one-shot run.
const (
	deadLetterQueue    = 1024
	deadLetterBytes    = 8 << 20  // of records waiting for the disk, or one that is longer
	deadLetterOver     = 64 << 20 // while a reload stops those that reject
	deadLetterPatience = 30 * time.Second
	deadLetterGroup    = 128 << 10 // about what is written and synced at a time
	deadLetterAgain    = 500 * time.Millisecond
)

// deadLetter appends rejected records to a file. A record counts as rejected
// only once its line is synced; while the file cannot be written, whoever
// rejects waits.
//
// Concurrency: put is safe; one goroutine writes.
type deadLetter struct {
	path     string       // "" until the first rejection, when none was named
	maxBytes atomic.Int64 // of the file and those it was rotated to; 0: no bound, and no rotation
	log      *slog.Logger
	kept     func(*rejected)
	hard     context.Context // done: do not wait for the disk any more
	failed   context.CancelCauseFunc
	patience time.Duration // 0: as long as it takes
	again    time.Duration // between two tries
	queue    chan rejected
	done     chan struct{}
	trouble  atomic.Pointer[error] // why nothing can be written at present

	mu      sync.Mutex // guards path, wrote and waiting; the rest is the writer's
	room    *sync.Cond // waiting has fallen
	waiting int        // bytes put and not written
	letGo   int        // reloads that want nobody to wait
	over    []rejected // put while they did
	// stopping is closed while letGo is above 0.
	stopping chan struct{}
	more     chan struct{} // one token: something is in over
	wrote    bool          // something of this run is in the file
	f        *os.File
	lines    bytes.Buffer
	regular  bool // a file on a disk: it can be synced, cut and removed
	created  bool
}

// rejected is a record on its way to the dead letter.
type rejected struct {
	ingest.DeadLetter
	route int32
	pos   record.Position
}

// newDeadLetter opens path, when one is given, so that a wrong one is told
// before anything is read. kept is called for each record once its line is
// synced; fail when the file cannot be written for as long as patience, or
// until hard ends.
func newDeadLetter(hard context.Context, path string, maxBytes int64, patience time.Duration, kept func(*rejected), log *slog.Logger, fail context.CancelCauseFunc) (*deadLetter, error) {
	d := &deadLetter{
		path: path, log: log, kept: kept, hard: hard, failed: fail,
		patience: patience, again: deadLetterAgain,
		queue: make(chan rejected, deadLetterQueue), done: make(chan struct{}),
	}
	d.maxBytes.Store(maxBytes)
	if patience > 0 {
		d.again = min(d.again, patience)
	}
	d.room, d.stopping, d.more = sync.NewCond(&d.mu), make(chan struct{}), make(chan struct{}, 1)
	if path != "" {
		if err := d.open(path); err != nil {
			return nil, err
		}
	}
	go d.run()
	return d, nil
}

// put queues one rejected record. It waits while the queue is full, by number
// or by bytes; but not while whoever rejects is being stopped.
func (d *deadLetter) put(l rejected) {
	d.mu.Lock()
	for d.waiting > deadLetterBytes && !(d.letGo > 0 && d.waiting < deadLetterOver) {
		d.room.Wait()
	}
	d.waiting += weight(&l)
	stopping := d.stopping
	d.mu.Unlock()
	select {
	case d.queue <- l:
	case <-stopping:
		d.mu.Lock()
		d.over = append(d.over, l)
		d.mu.Unlock()
		select {
		case d.more <- struct{}{}:
		default:
		}
	}
}

// free lets everybody go who waits for the file, until done is called: what they
// reject is held in memory meanwhile, up to a bound. It is for a reload, which
// may be what brings the room.
func (d *deadLetter) free() (done func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.letGo++; d.letGo == 1 {
		close(d.stopping)
		d.room.Broadcast()
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.letGo--; d.letGo == 0 {
			d.stopping = make(chan struct{})
		}
	}
}

// takeOver takes out what was put while free let everybody go.
func (d *deadLetter) takeOver() (all []rejected) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, d.over = d.over, nil
	return all
}

// taken makes room for others: l is written, or given up.
func (d *deadLetter) taken(l *rejected) {
	d.mu.Lock()
	d.waiting -= weight(l)
	d.mu.Unlock()
	d.room.Broadcast()
}

// settle waits until nothing waits for the disk, or ctx ends.
func (d *deadLetter) settle(ctx context.Context) {
	for {
		d.mu.Lock()
		left := d.waiting
		d.mu.Unlock()
		if left == 0 || pause(ctx, 5*time.Millisecond) != nil {
			return
		}
	}
}

// weight is about what l holds in memory, in bytes.
func weight(l *rejected) int {
	n := 512 + len(l.Message) + len(l.Envelope)
	if l.Record != nil {
		n += len(*l.Record)
	}
	return n
}

// close writes what is queued and closes the file; an empty one that was made
// for nothing goes again.
func (d *deadLetter) close() {
	close(d.queue)
	<-d.done
	if d.f == nil {
		return
	}
	info, err := d.f.Stat()
	d.f.Close()
	if d.created && d.regular && err == nil && info.Size() == 0 {
		os.Remove(d.path)
	}
}

// name returns the file's path, "" when nothing was rejected into one.
func (d *deadLetter) name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.wrote {
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
	if err == nil && info.Mode().IsRegular() && info.Size() > 0 && !endsLine(path, info.Size()) {
		_, err = f.WriteString("\n") // a crash cut the last line: it must not swallow the next
	}
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
	d.f, d.path, d.created, d.regular = f, path, missing, info.Mode().IsRegular()
	d.mu.Unlock()
	return nil
}

// endsLine says whether the last byte of a file of size bytes is known to be an LF.
func endsLine(path string, size int64) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var last [1]byte
	_, err = f.ReadAt(last[:], size-1)
	return err == nil && last[0] == '\n'
}

func (d *deadLetter) run() {
	defer close(d.done)
	var group []rejected
	giveUp := func() {
		for l := range d.queue { // let those that wait go; their records stay pending
			d.taken(&l)
		}
	}
	for {
		var l rejected
		var ok bool
		select {
		case <-d.more:
			if !d.writeOver() {
				giveUp()
				return
			}
			continue
		case l, ok = <-d.queue:
		}
		if !ok {
			break
		}
		group = append(group[:0], l)
		size := weight(&l)
		for more := true; more && len(group) < deadLetterQueue && size < deadLetterGroup; {
			select {
			case l, ok := <-d.queue:
				if more = ok; ok {
					group = append(group, l)
					size += weight(&l)
				}
			default:
				more = false
			}
		}
		if !d.writeGroup(group) {
			giveUp()
			return
		}
	}
	d.writeOver()
}

// writeOver writes what was put while free let everybody go.
func (d *deadLetter) writeOver() bool {
	for all := d.takeOver(); len(all) > 0; {
		n, size := 0, 0
		for n < len(all) && size < deadLetterGroup {
			size += weight(&all[n])
			n++
		}
		if !d.writeGroup(all[:n]) {
			return false
		}
		all = all[n:]
	}
	return true
}

// writeGroup writes records as one, and tells of each.
func (d *deadLetter) writeGroup(group []rejected) bool {
	d.lines.Reset()
	enc := json.NewEncoder(&d.lines)
	enc.SetEscapeHTML(false)
	for i := range group {
		if err := enc.Encode(&group[i].DeadLetter); err != nil {
			panic("BUG: dead-letter line: " + err.Error())
		}
	}
	written := d.write(d.lines.Bytes())
	for i := range group {
		if written {
			d.kept(&group[i])
		}
		d.taken(&group[i])
	}
	return written
}

// write appends and syncs lines, trying again until it works. It returns false
// when patience is over; the records of lines stay pending then.
func (d *deadLetter) write(lines []byte) bool {
	began, told := time.Now(), false
	for {
		err := d.append(lines)
		if err == nil {
			if told {
				d.trouble.Store(nil)
				d.log.Info("the dead letter can be written again", "file", d.path)
			}
			return true
		}
		d.trouble.Store(&err)
		if !told {
			told = true
			args := []any{"file", d.path, "error", err}
			if d.patience > 0 {
				args = append(args, "for_at_most", d.patience)
			}
			d.log.Error("cannot write the dead letter; rejected records wait", args...)
		}
		if d.patience > 0 && time.Since(began) >= d.patience || !d.wait() {
			d.failed(fmt.Errorf("rejected records cannot be kept: %w (free or name another place for them with --dead-letter; what was not kept is pending)", err))
			return false
		}
	}
}

// wait lets some time pass. It returns false when there is none left.
func (d *deadLetter) wait() bool {
	timer := time.NewTimer(d.again)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.hard.Done():
		return false
	}
}

func (d *deadLetter) append(lines []byte) error {
	if d.f != nil && d.regular && d.away() {
		d.f.Close()
		d.f = nil
	}
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
	if err := d.rotate(int64(len(lines))); err != nil {
		return err
	}
	if err := d.addLines(lines); err != nil {
		return fmt.Errorf("write %s: %w", d.path, err)
	}
	d.mu.Lock()
	d.wrote = true
	d.mu.Unlock()
	return nil
}

// away says whether the open file is not the one of that name any more: the
// operator has moved or deleted it, as a full one asks for, and what is written
// to it now nobody would find.
func (d *deadLetter) away() bool {
	have, err := d.f.Stat()
	if err != nil { // it could not be opened again when it was put aside
		return true
	}
	there, err := os.Stat(d.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(have, there)
}

// The largest dead-letter file before it is put aside: one that opens in an
// editor.
const deadLetterFile = 100 << 20

// rotate puts the file aside when n more bytes would make it too large, under
// a name with the time in it. The files together may not pass maxBytes: nobody
// but the operator may throw rejected records away, so the route waits.
func (d *deadLetter) rotate(n int64) error {
	most := d.maxBytes.Load()
	if most == 0 || !d.regular {
		return nil
	}
	aside, total, err := d.aside()
	if err != nil {
		return err
	}
	info, err := d.f.Stat()
	if err != nil {
		return err
	}
	if total += info.Size(); total+n > most {
		return fmt.Errorf("dead letter is full: %s and %d more beside it hold %s of max_bytes %s (send them again with ship --from-dead-letter, move or delete them)",
			d.path, aside, sizeText(total), sizeText(most))
	}
	if info.Size() == 0 || info.Size()+n <= min(deadLetterFile, most/4) {
		return nil
	}
	ext := filepath.Ext(d.path)
	to := ""
	for at := time.Now().UTC(); to == "" || exists(to); at = at.Add(time.Microsecond) { // a clock that was set back must not put one over another
		to = strings.TrimSuffix(d.path, ext) + "-" + at.Format("20060102T150405.000000Z") + ext
	}
	if err := os.Rename(d.path, to); err != nil {
		return fmt.Errorf("put the dead letter aside: %w", err)
	}
	d.f.Close()
	d.log.Warn("dead letter put aside", "file", to, "bytes", info.Size())
	return d.open(d.path)
}

// exists says whether there is anything at path.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// aside counts the files that were put aside, and their bytes.
func (d *deadLetter) aside() (files int, bytes int64, err error) {
	ext := filepath.Ext(d.path)
	stem := strings.TrimSuffix(filepath.Base(d.path), ext) + "-"
	entries, err := os.ReadDir(filepath.Dir(d.path))
	if err != nil {
		return 0, 0, fmt.Errorf("dead letter: %w", err)
	}
	for _, e := range entries {
		middle, ok := strings.CutPrefix(e.Name(), stem)
		middle, is := strings.CutSuffix(middle, ext)
		if _, err := time.Parse("20060102T150405.000000Z", middle); !ok || !is || err != nil {
			continue
		}
		if info, err := e.Info(); err == nil {
			files++
			bytes += info.Size()
		}
	}
	return files, bytes, nil
}

// addLines appends lines to the open file, all or none of them, and syncs it.
func (d *deadLetter) addLines(lines []byte) error {
	if !d.regular {
		_, err := d.f.Write(lines)
		return err
	}
	before, err := d.f.Stat()
	if err != nil {
		return err
	}
	n, err := d.f.Write(lines)
	if err == nil {
		err = d.f.Sync()
	}
	if err == nil || n == 0 {
		return err
	}
	// A torn line would hide the next one: cut it off before trying again. What
	// somebody else has appended meanwhile is not ours to cut.
	if after, statErr := d.f.Stat(); statErr == nil && after.Size() == before.Size()+int64(n) {
		_ = d.f.Truncate(before.Size())
	} else {
		_, _ = d.f.WriteString("\n")
	}
	return err
}
