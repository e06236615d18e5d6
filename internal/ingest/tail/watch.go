package tail

import (
	"errors"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// watch tells of changes in directories. It only saves waiting: everything it
// tells is found by the poll too, for it may overflow, run into the system's
// limits, or not see what is written on another machine.
type watch struct {
	t    *Tail
	w    *fsnotify.Watcher // nil: not to be had
	dirs map[string]bool   // true: watched, false: could not be
}

func (t *Tail) newWatch() *watch {
	w := &watch{t: t, dirs: map[string]bool{}}
	if !t.cfg.Follow {
		return w
	}
	var err error
	if w.w, err = fsnotify.NewWatcher(); err == nil && t.noWatch {
		err = errors.Join(unix.EMFILE, w.w.Close())
	}
	if err != nil {
		w.w = nil
		w.failed(err)
	}
	return w
}

// failed says once that changes are only seen by the poll.
func (w *watch) failed(err error) {
	if w.t.unwatched {
		return
	}
	w.t.unwatched = true
	w.t.log.Warn("the system gives no more watches; files are looked at by the poll alone, so lines may go out later: "+
		"raise fs.inotify.max_user_watches or max_user_instances", "input", w.t.cfg.Name, "poll", w.t.cfg.Poll, "error", err)
}

// set watches these directories and no others.
func (w *watch) set(dirs map[string]bool) {
	if w.w == nil {
		return
	}
	for dir := range w.dirs {
		if !dirs[dir] {
			w.drop(dir)
		}
	}
	for dir := range dirs {
		if w.dirs[dir] {
			continue
		}
		err := w.w.Add(dir)
		w.dirs[dir] = err == nil
		if err != nil && w.t.exists(dir) {
			w.failed(err)
		}
	}
}

// none ends all watches for the time being.
func (w *watch) none() {
	if w.w == nil {
		return
	}
	for dir := range w.dirs {
		w.drop(dir)
	}
	for { // what is on its way
		select {
		case _, ok := <-w.w.Events:
			if !ok {
				return
			}
		case _, ok := <-w.w.Errors:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

func (w *watch) drop(dir string) {
	if w.dirs[dir] {
		_ = w.w.Remove(dir) // a directory that is gone is not watched any more
	}
	delete(w.dirs, dir)
}

// events and errs never give anything without a watcher.
func (w *watch) events() <-chan fsnotify.Event {
	if w.w == nil {
		return nil
	}
	return w.w.Events
}

func (w *watch) errs() <-chan error {
	if w.w == nil {
		return nil
	}
	return w.w.Errors
}

// take notes what an event tells.
func (w *watch) take(e fsnotify.Event) {
	if e.Has(fsnotify.Write) {
		if f := w.t.byPath[e.Name]; f != nil && f.attached {
			f.ready = f.ready || !f.done && !f.stuck
			if !f.packed {
				return
			}
		}
	}
	if e.Has(fsnotify.Create | fsnotify.Rename | fsnotify.Remove | fsnotify.Chmod) {
		delete(w.dirs, e.Name) // if it was a directory it must be watched anew
		w.t.rescan = true
	}
}

// fault notes that events were lost.
func (w *watch) fault(err error) {
	w.t.rescan = true
	if !errors.Is(err, fsnotify.ErrEventOverflow) {
		w.failed(err)
	}
}

func (w *watch) close() {
	if w.w != nil {
		_ = w.w.Close()
	}
}
