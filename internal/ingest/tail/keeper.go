package tail

import (
	"context"
	"os"
	"time"
)

// maxKept bounds the files held open for a reader that is held up.
const maxKept = 64

// kept is a file that was seen while the reader was held up, held open so that
// it can be read whatever becomes of its name.
type kept struct {
	h *os.File
	p place
}

// letIn lets the keeper look around while the Router may wait: for a cluster
// that is away, perhaps for days, in which files come, are rotated and go. What
// it returns ends that. Nothing of t's files is changed in between.
func (t *Tail) letIn() (end func()) {
	t.heldUp.Store(max(1, int64(time.Since(t.began))))
	t.mu.Unlock()
	return func() {
		t.heldUp.Store(0)
		t.mu.Lock()
	}
}

// keep opens new files while the reader is held up, until ctx ends.
func (t *Tail) keep(ctx context.Context) {
	tick := time.NewTicker(t.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		since := t.heldUp.Load()
		if since == 0 || time.Since(t.began)-time.Duration(since) < t.cfg.Poll || !t.mu.TryLock() {
			continue
		}
		if t.heldUp.Load() != 0 {
			t.keepNew()
		}
		t.mu.Unlock()
	}
}

// keepNew opens the files that the globs find and nobody knows. Called with mu
// held.
func (t *Tail) keepNew() {
	for _, p := range t.find() {
		if l, ok := t.looked[p.key]; ok && l.size == p.info.Size() && l.mod.Equal(p.info.ModTime()) {
			continue
		}
		if t.byKey[p.key] != nil || t.keeping[p.key] != nil || len(t.keeping) >= maxKept {
			continue
		}
		h, err := t.open(&p)
		if err != nil {
			continue // the next scan tells
		}
		t.keeping[p.key] = &kept{h, p}
	}
}

// takeKept takes in the files that were kept and are not where they were any
// more. It is part of a scan that has looked where all files are.
func (t *Tail) takeKept(there map[key]bool) {
	for k, c := range t.keeping {
		delete(t.keeping, k)
		if there[k] || t.byKey[k] != nil {
			c.h.Close() // it is read where it is
			continue
		}
		info, err := c.h.Stat()
		if err != nil || keyOf(info) != k {
			c.h.Close()
			continue
		}
		c.p.info = info
		now := t.byPath[c.p.path] // what has its name now
		f := t.identifyOpen(c.p, c.h, nil)
		if now != nil && now != f {
			t.byPath[c.p.path] = now
		}
		if f == nil || f.f != nil || f.at.key != k {
			c.h.Close()
			continue
		}
		f.f = c.h
		t.opened++
		t.log.Info("a file that was rotated while the cluster took nothing is read", "input", t.cfg.Name, "file", c.p.path)
	}
}
