package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// fsys is the one directory a spool lives in: all that is done to a disk, so
// that a test can lose power at any point of it.
//
// Concurrency: any goroutine.
type fsys interface {
	// list returns the regular files.
	list() ([]fileInfo, error)
	// create makes a new file, readable and writable by its owner alone.
	create(name string) (file, error)
	// open opens a file to be read.
	open(name string) (file, error)
	// update opens a file to be read and written, and makes it when it is not there.
	update(name string) (file, error)
	remove(name string) error
	// syncDir makes creates and removes durable.
	syncDir() error
	// lock keeps others out until unlock.
	lock() error
	unlock()
}

type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
}

// file is an open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Truncate(size int64) error
}

// LockedError says that a spool belongs to another process.
type LockedError struct {
	Dir string
	PID int // 0: not known
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID > 0 {
		who = "process " + strconv.Itoa(e.PID)
	}
	return fmt.Sprintf("disk buffer %s is in use by %s: stop that one first, or give this one a data_dir of its own", e.Dir, who)
}

// disk is a directory of the operating system's. Files are reached through
// os.Root: a symbolic link in it leads nowhere else.
type disk struct {
	dir  string
	root *os.Root
	held *os.File
}

// openDisk opens dir; with create it is made, and nobody else may enter it.
func openDisk(dir string, create bool) (*disk, error) {
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		info, err := os.Stat(dir)
		if err != nil {
			return nil, err
		}
		if info.IsDir() && info.Mode().Perm() != 0o700 { // whatever the umask made of it
			if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // G302 is about files
				return nil, fmt.Errorf("others may enter it and that cannot be changed: %w", err)
			}
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &disk{dir: dir, root: root}, nil
}

func (d *disk) list() ([]fileInfo, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var all []fileInfo
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			all = append(all, fileInfo{name: e.Name(), size: info.Size(), mode: info.Mode().Perm()})
		}
	}
	return all, nil
}

// private is a file of the owner's alone.
func (d *disk) private(name string, flags int) (*diskFile, error) {
	f, err := d.root.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o600); err != nil { // the umask may have taken more, an older file may have more
		f.Close()
		return nil, err
	}
	return &diskFile{f}, nil
}

func (d *disk) create(name string) (file, error) {
	f, err := d.private(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *disk) update(name string) (file, error) {
	f, err := d.private(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *disk) open(name string) (file, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	return &diskFile{f}, nil
}

func (d *disk) remove(name string) error { return d.root.Remove(name) }

func (d *disk) syncDir() error {
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (d *disk) lock() error {
	f, err := d.private(lockName, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	if err := flock(f.File, true); err != nil {
		defer f.Close()
		if errors.Is(err, errHeld) {
			return &LockedError{Dir: d.dir, PID: readPID(f)}
		}
		return fmt.Errorf("lock: %w", err)
	}
	d.held = f.File
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if err := f.Truncate(0); err != nil {
		return nil // what is in it is for people
	}
	_, _ = f.WriteAt([]byte(pid), 0)
	return nil
}

// share keeps an agent from starting while the spool is looked at. A directory
// without a lock file is a copy, and one that cannot be written is as good.
func (d *disk) share() error {
	f, err := d.root.Open(lockName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := flock(f, false); err != nil {
		defer f.Close()
		if errors.Is(err, errHeld) {
			return &LockedError{Dir: d.dir, PID: readPID(f)}
		}
		return fmt.Errorf("lock: %w", err)
	}
	d.held = f
	return nil
}

// readPID returns the process that a lock file names, 0 for none.
func readPID(f io.ReaderAt) int {
	var p [20]byte
	n, _ := f.ReadAt(p[:], 0)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(p[:n])))
	return pid
}

func (d *disk) unlock() {
	if d.held != nil {
		d.held.Close() // the lock goes with it
		d.held = nil
	}
	_ = d.root.Close() // nothing was written through it
}

type diskFile struct{ *os.File }

// Sync makes the file's bytes and its length durable.
func (f *diskFile) Sync() error { return datasync(f.File) }
