// Package tail reads files that grow, are rotated, truncated, replaced and
// compressed, each line once.
//
// A file is known by the hash of its first KiB, its device and inode, and the
// last bytes that were read, never by one of these alone. What is truncated and
// written anew is another file from then on.
//
// One goroutine reads all files of an input, in turns of 256 KiB, into one
// buffer. Nothing is held between turns: a line without its end is read again
// when it has grown. What is delivered is told to the checkpoint by the file's
// Origin, so that records on their way survive whatever becomes of the file.
package tail

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
)

// Tail reads the files of one input.
//
// Concurrency: Run once; Stats at any time.
type Tail struct {
	cfg    Config
	router *ingest.Router
	reg    ingest.Registry
	in     *checkpoint.Input
	store  *checkpoint.Store
	log    *slog.Logger

	patterns []pattern
	roots    map[string]*root
	fromEnd  bool // what is there at first is not read

	quiet   time.Duration // as the constant; tests are not that patient
	noWatch bool          // for tests: as if the system gave none

	bytes, lag, errors, refused atomic.Int64
	openNow, knownNow           atomic.Int64

	heldUp atomic.Int64 // since when the reader may wait in the Router, nanoseconds since began; 0: it does not
	began  time.Time    // when it was made

	// mu is Run's but while it may wait in the Router: then the keeper's. It
	// guards all below.
	mu        sync.Mutex
	keeping   map[key]*kept
	files     []*file
	byKey     map[key]*file
	byPath    map[string]*file
	entries   []*checkpoint.Entry
	dirs      map[string]bool // that globs lead through
	names     map[string][]string
	looked    map[key]looked
	copies    map[key]*file // what an unchanged file was a copy of at the last look
	early     map[key]bool  // compressed, there at the first look and being written still
	problems  map[string]string
	watch     *watch
	unwatched bool
	unpacking *file
	opened    int
	limit     int   // of opened: max_open, or fewer where the system gives no more
	given     int64 // records of this turn

	now     time.Time
	scanned time.Time
	scans   int
	gen     int // rises whenever a file is lost, for others may be its rest then
	first   bool
	rescan  bool
	save    bool // new files are to be in the checkpoint before records of them go
	busy    bool // bytes come so often that waiting for events costs more than looking
	wakes   int  // since second
	second  time.Time
	next    int // whose turn it is
	peeked  time.Time
	armed   int           // the look whose directories are watched
	lasted  time.Duration // the last look

	buf     []byte
	headBuf [headLen]byte
	tailBuf [tailLen]byte
	id      []byte
	joint   []byte
}

// New returns a Tail that gives the records of its files to router, and numbers
// of reg to the files. Make the Tails of all inputs before any of them runs, or
// one takes over files of another.
//
// Errors: what is wrong with cfg, all of it.
func New(cfg Config, router *ingest.Router, reg ingest.Registry, store *checkpoint.Store, log *slog.Logger) (*Tail, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	t := &Tail{
		began: time.Now(),
		cfg:   cfg, router: router, reg: reg, store: store, in: store.Input(cfg.Name), log: log,
		roots: map[string]*root{}, byKey: map[key]*file{}, byPath: map[string]*file{}, keeping: map[key]*kept{},
		dirs: map[string]bool{}, names: map[string][]string{}, looked: map[key]looked{}, copies: map[key]*file{}, early: map[key]bool{}, problems: map[string]string{},
		first: true, rescan: true, buf: make([]byte, readBuffer), quiet: quiet, limit: cfg.MaxOpen,
	}
	for _, text := range cfg.Include {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		t.patterns = append(t.patterns, p)
		if t.roots[p.dir] == nil {
			t.roots[p.dir] = &root{dir: p.dir}
		}
	}
	t.fromEnd = cfg.ReadFrom == FromEnd && !t.in.Known()
	if t.fromEnd && store.Damaged() {
		t.fromEnd = false
		log.Warn("read_from: end is left out, for the checkpoints are damaged and nobody knows what was delivered", "input", cfg.Name)
	}
	return t, nil
}

// Stats are figures of an input's files.
type Stats struct {
	Bytes  int64 // read, decompressed, since the start
	Lag    int64 // bytes there and not read yet, of compressed files as they are
	Open   int   // files held open
	Known  int   // files that are there
	Errors int64 // things told of that are wrong
}

// Stats returns the figures as they stand.
func (t *Tail) Stats() Stats {
	return Stats{
		Bytes: t.bytes.Load(), Lag: t.lag.Load(), Open: int(t.openNow.Load()), Known: int(t.knownNow.Load()),
		Errors: t.errors.Load(),
	}
}

// Run reads until ctx ends; without Follow until all that is there is read, a
// last line without its LF included. It leaves the last batches in the Router.
//
// Errors: the Router's. What is wrong with a file is told of, and the others go
// on.
func (t *Tail) Run(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begin()
	defer t.end()
	if t.cfg.Follow {
		keeping, stop := context.WithCancel(ctx)
		var keeper sync.WaitGroup
		keeper.Go(func() { t.keep(keeping) })
		defer keeper.Wait()
		defer stop()
	}
	t.watch = t.newWatch()
	defer t.watch.close()
	for {
		if since := time.Since(t.scanned); since >= t.cfg.Poll || t.rescan && since >= max(scanEvery, 4*t.lasted) {
			t.scan()
		}
		if t.save { // so that record ids stay the same whatever happens next
			t.save = false
			_ = t.store.Save() // it tells
		}
		got, err := t.round(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a Router that was told to stop too
		}
		if err != nil {
			return err
		}
		t.publish()
		if got > 0 && t.waiting() {
			continue
		}
		if err := t.pause(); err != nil {
			return err
		}
		if !t.cfg.Follow && !t.rescan && !t.waiting() {
			t.allRead()
			return nil
		}
		t.wait(ctx, got > 0)
	}
}

// begin takes the files over that the checkpoint knows.
func (t *Tail) begin() {
	t.now = time.Now()
	t.entries = t.in.Begin(func(f checkpoint.File) bool { return t.includes(f.Name) })
	for _, e := range t.entries {
		c := e.File()
		f := &file{
			e: e, name: c.Name, at: place{path: c.Path, key: key{c.Dev, c.Inode}},
			offset: e.Frontier(), size: c.Size, packed: c.Packed, since: t.now,
		}
		// What was read to its end may have records that were not delivered then.
		f.done = c.Done && f.offset >= c.Tail.End && e.Top() == f.offset
		if top := e.Top(); top > f.offset {
			f.top = top
		}
		t.files = append(t.files, f)
		t.byKey[f.at.key] = f
	}
}

func (t *Tail) end() {
	for k, c := range t.keeping { // read at the next start, where it still has a name
		c.h.Close()
		delete(t.keeping, k)
	}
	for _, f := range t.files {
		t.closeFile(f)
		f.retire()
		if f.e != nil {
			f.remember()
		}
	}
	for _, r := range t.roots {
		r.close()
	}
	t.publish()
	t.in.Close(t.entries)
}

// round gives every file that may have bytes its turn. It ends early after a
// while, for there may be new files.
func (t *Tail) round(ctx context.Context) (got int, err error) {
	began := time.Now()
	for range t.files {
		if t.next >= len(t.files) {
			t.next = 0
		}
		f := t.files[t.next]
		t.next++
		if !f.ready {
			continue
		}
		if !f.attached {
			f.ready = false
			continue
		}
		n, err := t.turn(f)
		got += n
		if err != nil || ctx.Err() != nil || time.Since(began) > t.cfg.Poll {
			return got, err
		}
		if t.save {
			t.save = false
			_ = t.store.Save()
		}
	}
	return got, nil
}

// pause tells the Router that there is no more for the moment.
func (t *Tail) pause() error {
	defer t.letIn()()
	t.router.Lock()
	defer t.router.Unlock()
	return t.router.Pause()
}

// waiting tells whether a file may have bytes.
func (t *Tail) waiting() bool {
	return slices.ContainsFunc(t.files, func(f *file) bool { return f.ready && f.attached })
}

// allRead tells of what was not found, at the end of a run that does not follow.
func (t *Tail) allRead() {
	t.now = time.Now()
	for _, f := range t.files {
		t.lost(f, 0)
	}
}

// publish makes the figures for Stats.
func (t *Tail) publish() {
	var lag, known int64
	for _, f := range t.files {
		if !f.attached {
			continue
		}
		known++
		switch {
		case f.done:
		case f.u != nil:
			lag += max(f.size-f.u.raw.at, 0)
		case f.packed:
			lag += f.size
		default:
			lag += max(f.size-f.offset, 0)
		}
	}
	t.lag.Store(lag)
	t.knownNow.Store(known)
	t.openNow.Store(int64(t.opened))
}

// An input with more than busyWakes changes a second is looked at every lookEvery
// instead of being told of each: an event costs some 10 µs, a look at an open
// file 0.3 µs. Files that did not grow for a second are looked at less often.
const (
	busyWakes = 50
	lookEvery = 10 * time.Millisecond
	restEvery = 100 * time.Millisecond
	scanEvery = 20 * time.Millisecond // at most, whatever is told of
)

// wait waits until something may have changed.
func (t *Tail) wait(ctx context.Context, got bool) {
	now := time.Now()
	if now.Sub(t.second) > time.Second {
		t.busy = t.wakes > busyWakes
		t.wakes, t.second = 0, now
		if t.busy {
			t.watch.none()
			t.armed = 0
		}
	}
	if got {
		t.wakes++
	}
	if !t.cfg.Follow { // a file that waits for its turn
		sleep(ctx, time.Millisecond)
		return
	}
	if t.busy {
		sleep(ctx, lookEvery)
		t.peek()
		return
	}
	t.watched()
	timer := time.NewTimer(t.tick(now))
	defer timer.Stop()
	if t.waiting() || t.rescan {
		timer.Reset(lookEvery)
	}
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	case e, ok := <-t.watch.events():
		if ok {
			t.watch.take(e)
		}
	case err, ok := <-t.watch.errs():
		if ok {
			t.watch.fault(err)
		}
	}
	t.drain()
	t.tick(time.Now())
}

// drain takes the events that are there.
func (t *Tail) drain() {
	for range 10_000 {
		select {
		case e, ok := <-t.watch.events():
			if !ok {
				return
			}
			t.watch.take(e)
		default:
			return
		}
	}
}

// watched makes sure that the directories are watched. After a time without
// watches, or in a new directory, something may have happened before.
func (t *Tail) watched() {
	if t.armed == t.scans {
		return
	}
	t.armed = t.scans
	dirs := make(map[string]bool, len(t.dirs))
	for dir := range t.dirs {
		dirs[dir] = true
	}
	for _, f := range t.files {
		if f.attached {
			dirs[filepath.Dir(f.at.path)] = true
		}
	}
	before := len(t.watch.dirs)
	t.watch.set(dirs)
	if len(t.watch.dirs) > before {
		t.rescan = true
	}
}

// peek looks at open files: often at those that grew lately, less often at the
// rest.
func (t *Tail) peek() {
	now := time.Now()
	rest := now.Sub(t.peeked) >= restEvery
	if rest {
		t.peeked = now
	}
	for _, f := range t.files {
		if f.f == nil || f.ready || f.packed || !rest && now.Sub(f.grew) > time.Second {
			continue
		}
		if info, err := f.f.Stat(); err == nil && info.Size() != f.offset+int64(f.looked) {
			f.ready = true
		}
	}
	t.tick(now)
}

// tick makes files ready whose time has come, and returns when the next one's
// will.
func (t *Tail) tick(now time.Time) time.Duration {
	next := max(t.cfg.Poll-now.Sub(t.scanned), 0)
	due := func(f *file, after time.Duration) {
		left := after - now.Sub(f.grew)
		if left <= 0 {
			f.ready = true
		} else {
			next = min(next, left)
		}
	}
	for _, f := range t.files {
		if f.f == nil || f.ready || f.packed {
			continue
		}
		switch {
		case f.vanished || f.rotated:
			due(f, t.cfg.Grace)
		case f.seen > 0 && t.cfg.Multiline.Start != nil && t.cfg.Multiline.Timeout > 0 && !f.mid:
			due(f, t.cfg.Multiline.Timeout)
		default:
			due(f, t.cfg.IdleClose)
		}
	}
	return next
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (t *Tail) exists(dir string) bool {
	_, err := os.Stat(dir)
	return err == nil
}
