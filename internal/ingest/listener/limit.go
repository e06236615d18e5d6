package listener

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"sync"
	"time"
)

// budget is a number of bytes that many share. Who holds all that is taken may
// take what it needs beyond: one body always gets through.
//
// Concurrency: any goroutine.
type budget struct {
	most int64

	mu    sync.Mutex // guards all below
	used  int64
	freed chan struct{} // closed when bytes come back; nil: nobody waits
}

// take takes n bytes for one that has own, if there are as many.
func (b *budget) take(n, own int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.most && b.used > own {
		return false
	}
	b.used += n
	return true
}

// wait is take that waits until there are as many. It returns false when over
// was closed first, or the time was up.
func (b *budget) wait(n, own int64, patience time.Duration, over <-chan struct{}) bool {
	if b.take(n, own) {
		return true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		b.mu.Lock()
		if b.used+n <= b.most || b.used <= own {
			b.used += n
			b.mu.Unlock()
			return true
		}
		if b.freed == nil {
			b.freed = make(chan struct{})
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-timer.C:
			return false
		case <-over:
			return false
		}
	}
}

// give gives n bytes back.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.used < 0 {
		panic("BUG: more bytes given back than were taken")
	}
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// sayAgain is how often a line of one kind is logged at most.
const sayAgain = 10 * time.Second

// throttle logs lines that can repeat, and says how many it hid.
//
// Concurrency: any goroutine.
type throttle struct {
	log *slog.Logger

	mu    sync.Mutex // guards said
	said  map[string]time.Time
	count map[string]int
}

func newThrottle(log *slog.Logger) *throttle {
	return &throttle{log: log, said: map[string]time.Time{}, count: map[string]int{}}
}

// Warn logs unless a line of this kind was logged a moment ago.
func (t *throttle) Warn(kind, text string, args ...any) {
	now := time.Now()
	t.mu.Lock()
	last, seen := t.said[kind]
	if seen && now.Sub(last) < sayAgain {
		t.count[kind]++
		t.mu.Unlock()
		return
	}
	hidden := t.count[kind]
	t.said[kind], t.count[kind] = now, 0
	t.mu.Unlock()
	if hidden > 0 {
		args = append(args, "hidden", hidden)
	}
	t.log.Warn(text, args...)
}

// newBoot returns what tells the record ids of one run from those of another.
func newBoot() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
