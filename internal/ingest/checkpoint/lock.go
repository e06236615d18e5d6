//go:build unix

package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dirMode and fileMode hold whatever the umask is: a checkpoint tells which
// files there are, and a spool beside it holds their lines.
const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Lock makes dir, where it is missing, and keeps every other process out of it
// until the Closer is closed, or this process ends in any way.
//
// Errors: dir cannot be made or written to, or another process has it, which
// is named.
func Lock(dir string) (io.Closer, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "lock")
	f, err := openPrivate(name)
	if err != nil {
		return nil, fmt.Errorf("data_dir %s: %w: it must be writable for this user", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data_dir %s: lock: %w: it must be on a file system with locks", dir, err)
		}
		who := "another process"
		var b [32]byte
		if n, _ := f.ReadAt(b[:], 0); n > 0 {
			who = "process " + strings.TrimSpace(string(b[:n]))
		}
		return nil, fmt.Errorf("data_dir %s is in use by %s: stop that one, or give this one a data_dir of its own", dir, who)
	}
	// The number is for people; that the lock is held is what counts.
	_ = f.Truncate(0)
	_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	return f, nil
}

// makeDir makes dir for this user alone. One that is there stays as it is: its
// mode is the operator's.
func makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("data_dir %s is no directory", dir)
		}
		return nil
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	if err := os.Chmod(dir, dirMode); err != nil {
		return fmt.Errorf("make data_dir: %w", err)
	}
	return nil
}

// openPrivate opens or makes a file that nobody else may read. It follows no
// symbolic link.
func openPrivate(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	if err := f.Chmod(fileMode); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
