// Package checkpoint remembers across restarts how far files were read, and
// what of them is final.
//
// The state of all files is in two files of data_dir, checkpoint.0 and
// checkpoint.1, called slots. They are written in turn, so that one of them is
// whole whenever the agent or the machine dies; the newer whole one counts.
// Numbers are little endian; uvarint, varint are those of encoding/binary, text
// is its length as uvarint and its bytes. A slot is
//
//	"pagentck"       8 bytes
//	version          uint32, 1
//	sequence         uint64, one more with each write
//	length           uint32, of the payload
//	checksum         uint32, CRC32C of all of the slot but itself
//	payload
//
// and what is behind that was left by a longer one. The payload is the number
// of inputs (uvarint), the name of each (text), the number of files (uvarint),
// and of each file
//
//	id               uint64, drawn when the file was first seen; record ids have it
//	flags            1 byte: 1 compressed, offsets are in what is in it; 2 read to its end, for good
//	input            text, the input that reads it
//	name             text, the path it was included by
//	path             text, where it was seen last
//	device, inode    uint64 each
//	born             varint, time of birth in nanoseconds since 1970; 0 unknown
//	size             varint, in bytes, when it was seen last
//	seen             varint, when that was, in seconds since 1970
//	head, tail       marks
//	frontier         uvarint, the lowest offset that is not final
//	ranges           uvarint, how many are final above it
//	each             uvarint from, counted from the end of the one before or the frontier; uvarint length
//
// A mark is end (uvarint), length (uvarint) and the first 16 bytes of the
// SHA-256 of the so many bytes of the file before end.
package checkpoint

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Mark tells by a hash what some bytes of a file were.
type Mark struct {
	End int64 // offset behind the last of them
	Len int
	Sum [16]byte
}

// MarkOf returns the Mark of b, which ends at offset end.
func MarkOf(end int64, b []byte) Mark {
	m := Mark{End: end, Len: len(b)}
	full := sha256.Sum256(b)
	copy(m.Sum[:], full[:])
	return m
}

// Is tells whether b is what was marked.
func (m Mark) Is(b []byte) bool {
	return len(b) == m.Len && m.Sum == MarkOf(m.End, b).Sum
}

// File is what is remembered of one file. What was truncated and written anew
// is another file.
type File struct {
	ID         uint64
	Input      string
	Name       string // the path it was included by
	Path       string // where it was seen last
	Dev, Inode uint64
	Born       int64 // nanoseconds since 1970, 0 where the file system does not tell
	Size       int64 // bytes when it was seen last
	Seen       int64 // when that was, seconds since 1970
	Head, Tail Mark
	Packed     bool // compressed: offsets count what is in it
	Done       bool // read to its end, nothing more is to come

	Frontier int64   // of a Tracker
	Final    []Range // above it
}

// Bounds on what is kept. A file gone for a week will hardly come back; 20,000
// entries of 200 bytes are 4 MB. Of one file 4096 ranges are written, the
// lowest: what they leave out is sent again after a restart.
const (
	keepFor   = 7 * 24 * time.Hour
	maxFiles  = 20_000
	maxInputs = 1000
	maxRanges = 4096
)

// Every is how often the state is written at most. While it is large, it is
// written less often: so many bytes a second.
const (
	Every        = 100 * time.Millisecond
	bytesASecond = 4 << 20
	retryEvery   = time.Second
	settleIn     = time.Hour // after a start nothing is dropped for so long: inputs may not have looked yet
)

// disk is where the slots are.
type disk interface {
	// Read returns a slot; fs.ErrNotExist when it was never written.
	Read(slot int) ([]byte, error)
	// Write replaces a slot and returns when it is durable. After an error the
	// slot may hold anything.
	Write(slot int, b []byte) error
	Close() error
}

// Store keeps the state of all files of all inputs.
//
// Concurrency: any goroutine.
type Store struct {
	disk    disk
	log     *slog.Logger
	opened  time.Time
	damaged bool

	changed atomic.Bool
	since   atomic.Int64  // nanoseconds since opened of the first change not written; 0: none
	wake    chan struct{} // one place
	quit    chan struct{}
	done    chan struct{}

	saving   sync.Mutex // held while a slot is written; before mu
	sequence uint64
	slot     int // to be written next
	buf      []byte
	ranges   []Range
	last     time.Time
	failed   error

	mu      sync.Mutex // guards what follows; Entry.mu and Tracker.mu may be taken under it
	inputs  []string   // that ever ran
	open    map[string]int
	entries []*Entry
	err     error
	closed  bool
}

// Open reads the state in dir and keeps it written from then on. Hold Lock of
// the dir.
//
// Errors: dir cannot be made or read, *VersionError. Damage is no error: the
// log tells of it, and what is not known is read again.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	return open(slots{dir: dir, files: new([2]slotFile)}, log)
}

func open(d disk, log *slog.Logger) (*Store, error) {
	s, err := loaded(d, log)
	if err != nil {
		_ = d.Close()
		return nil, err
	}
	go s.run()
	return s, nil
}

// loaded returns a Store that is only written by Save.
func loaded(d disk, log *slog.Logger) (*Store, error) {
	s := &Store{
		disk: d, log: log, opened: time.Now(), open: map[string]int{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	return s, s.load()
}

// load takes the newest whole slot.
func (s *Store) load() error {
	var best state
	found, bad := false, 0
	for slot := range 2 {
		b, err := s.disk.Read(slot)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("read checkpoints: %w: run as the user they belong to", err)
		}
		var sequence uint64
		var st state
		if err == nil {
			sequence, st, err = read(b)
		}
		var v *VersionError
		if errors.As(err, &v) {
			v.File = slotName(slot)
			return v
		}
		if err != nil {
			bad++
			s.log.Warn("a checkpoint file is damaged", "file", slotName(slot), "error", err)
			continue
		}
		if !found || sequence > s.sequence {
			found, best, s.sequence, s.slot = true, st, sequence, 1-slot
		}
	}
	if !found && bad > 0 {
		s.damaged = true
		s.log.Error("no checkpoint is whole: all files are read again from their beginning, so records will be sent twice")
	}
	s.inputs = best.inputs
	for i := range best.files {
		s.entries = append(s.entries, s.entry(best.files[i]))
	}
	return nil
}

func read(b []byte) (uint64, state, error) {
	sequence, payload, err := openSlot(b)
	if err != nil {
		return 0, state{}, err
	}
	st, err := decode(payload)
	return sequence, st, err
}

func (s *Store) entry(f File) *Entry {
	e := &Entry{Tracker: NewTracker(f.Frontier, f.Final), store: s, file: f}
	e.file.Frontier, e.file.Final = 0, nil
	e.changed = s.touch
	return e
}

// Damaged says that there was a state and none of it could be read: nobody
// knows what was delivered, so nothing may be skipped.
func (s *Store) Damaged() bool { return s.damaged }

// Age is how long the oldest change waits to be written, 0 when there is none.
func (s *Store) Age() time.Duration {
	since := s.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(s.opened) - time.Duration(since)
}

// Err returns why the last write did not succeed, nil when it did.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// touch says that there is something to write.
func (s *Store) touch() {
	if s.changed.Load() || s.changed.Swap(true) {
		return
	}
	s.since.CompareAndSwap(0, max(1, int64(time.Since(s.opened))))
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes what changed, not too often.
func (s *Store) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		select {
		case <-s.wake:
		case <-s.quit:
			return
		}
		timer.Reset(s.pause())
		select {
		case <-timer.C:
		case <-s.quit:
			return
		}
		if s.Save() != nil { // to be tried again
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	}
}

// pause is how long to wait before the next write.
func (s *Store) pause() time.Duration {
	s.saving.Lock()
	defer s.saving.Unlock()
	every := max(Every, time.Duration(len(s.buf))*time.Second/bytesASecond)
	if s.failed != nil {
		every = max(every, retryEvery)
	}
	return max(every-time.Since(s.last), 0)
}

// Save writes the state now, when something changed. An error is in the log
// already, and the write is tried again.
func (s *Store) Save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	if !s.changed.Swap(false) {
		return s.failed
	}
	since := s.since.Swap(0)
	s.encode()
	err := s.disk.Write(s.slot, s.buf)
	s.last = time.Now()
	s.tell(err)
	s.failed = err
	if err != nil { // the other slot is whole: leave it alone and try this one again
		s.changed.Store(true)
		s.since.Store(since)
		return err
	}
	s.slot = 1 - s.slot
	return nil
}

// tell logs the first failure and the end of failing.
func (s *Store) tell(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && s.err == nil:
		s.log.Error("cannot write the checkpoints; shipping goes on, but after a restart all since the last good ones "+
			"is sent again: make room in data_dir, or mend its disk", "error", err)
	case err == nil && s.err != nil:
		s.log.Info("checkpoints are written again")
	}
	s.err = err
}

// encode builds the next slot in buf.
func (s *Store) encode() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.prune(now)
	s.sequence++
	b := appendHead(s.buf[:0], s.sequence)
	b = appendInputs(b, s.inputs)
	b = binary.AppendUvarint(b, uint64(len(s.entries)))
	for _, e := range s.entries {
		f := e.File()
		if e.live.Load() {
			f.Seen = now.Unix()
		}
		f.Frontier, f.Final = e.Snapshot(s.ranges[:0])
		s.ranges = f.Final
		f.Final = f.Final[:min(len(f.Final), maxRanges)]
		b = appendFile(b, &f)
	}
	seal(b)
	s.buf = b
}

// prune drops files that are gone for long, and the longest gone of too many.
func (s *Store) prune(now time.Time) {
	if len(s.inputs) > maxInputs {
		s.inputs = slices.Delete(s.inputs, 0, len(s.inputs)-maxInputs)
	}
	if now.Sub(s.opened) > settleIn {
		s.drop(func(e *Entry) bool { return now.Sub(time.Unix(e.File().Seen, 0)) > keepFor })
	}
	if over := len(s.entries) - maxFiles; over > 0 {
		var seen []int64
		for _, e := range s.entries {
			if !e.live.Load() {
				seen = append(seen, e.File().Seen)
			}
		}
		if len(seen) == 0 {
			return
		}
		slices.Sort(seen)
		upTo := seen[min(over, len(seen))-1]
		s.drop(func(e *Entry) bool {
			over--
			return over >= 0 && e.File().Seen <= upTo
		})
	}
}

// drop forgets the files gone that which says so of.
func (s *Store) drop(which func(*Entry) bool) {
	s.entries = slices.DeleteFunc(s.entries, func(e *Entry) bool {
		e.dropped = !e.live.Load() && which(e)
		return e.dropped
	})
}

// Close writes what is not written and ends. Files may go on to tell of what is
// final; it is not written any more.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.quit)
	<-s.done
	err := s.Save()
	if cerr := s.disk.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write the last checkpoints: %w", err)
	}
	return nil
}

// Entry is one file in a Store.
//
// Concurrency: any goroutine.
type Entry struct {
	*Tracker
	store   *Store
	live    atomic.Bool // the file is there
	claimed bool        // guarded by Store.mu, as is dropped
	dropped bool

	mu   sync.Mutex // guards file; a leaf
	file File       // without Frontier and Final
}

// File returns what is remembered of the file, Frontier and Final apart.
func (e *Entry) File() File {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.file
}

// Set changes what is remembered.
func (e *Entry) Set(change func(f *File)) {
	e.mu.Lock()
	change(&e.file)
	e.mu.Unlock()
	e.store.touch()
}

// Live says whether the file is there. One that is not is forgotten after a week.
func (e *Entry) Live(live bool) {
	was := e.live.Swap(live)
	if was == live {
		return
	}
	e.Set(func(f *File) { f.Seen = time.Now().Unix() })
	s := e.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if live && e.dropped {
		e.dropped = false
		s.entries = append(s.entries, e)
	}
}

// Input is one input's part of a Store.
type Input struct {
	store *Store
	name  string
	knew  bool
}

// Input returns the part of the input of that name. Ask for all inputs of a run
// before any of them begins: files of an input that is not there any more are
// anyone's.
func (s *Store) Input(name string) *Input {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[name]++
	return &Input{store: s, name: name, knew: slices.Contains(s.inputs, name)}
}

// Known says that this input has run before.
func (i *Input) Known() bool { return i.knew }

// Begin returns the files of this input, and those that it may take over: of an
// input that is gone, where match says that they are this one's now.
func (i *Input) Begin(match func(f File) bool) []*Entry {
	s := i.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.inputs, i.name) {
		s.inputs = append(s.inputs, i.name)
	}
	var mine []*Entry
	for _, e := range s.entries {
		f := e.File()
		if e.claimed || f.Input != i.name && (s.open[f.Input] > 0 || !match(f)) {
			continue
		}
		e.claimed = true
		if f.Input != i.name {
			e.Set(func(f *File) { f.Input = i.name })
		}
		mine = append(mine, e)
	}
	s.touch()
	return mine
}

// Add takes a file in that was not known. It is given its id.
func (i *Input) Add(f File) *Entry {
	f.Input, f.ID, f.Seen = i.name, newID(), time.Now().Unix()
	s := i.store
	e := s.entry(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.claimed = true
	e.live.Store(true)
	s.entries = append(s.entries, e)
	s.touch()
	return e
}

// Close gives the files back: the input is gone, or begins anew. entries are
// those that Begin and Add gave.
func (i *Input) Close(entries []*Entry) {
	for _, e := range entries {
		e.Live(false) // nobody looks any more
	}
	s := i.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[i.name]--
	for _, e := range entries {
		e.claimed = false
	}
}

func newID() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return le.Uint64(b[:])
}
