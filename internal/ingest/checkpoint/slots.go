package checkpoint

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// slotFile is what a slot needs of a file.
type slotFile interface {
	io.WriterAt
	Sync() error
	Close() error
}

// slots are the two slots in a directory.
type slots struct {
	dir   string
	files *[2]slotFile // nil: to be opened
}

func slotName(slot int) string { return "checkpoint." + strconv.Itoa(slot) }

func (s slots) Read(slot int) ([]byte, error) {
	return os.ReadFile(filepath.Join(s.dir, slotName(slot)))
}

// Write opens the slot anew after an error: what the kernel holds of it then is
// not to be trusted.
func (s slots) Write(slot int, b []byte) error {
	f := s.files[slot]
	if f == nil {
		var err error
		if f, err = s.open(slot); err != nil {
			return err
		}
		s.files[slot] = f
	}
	_, err := f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		s.files[slot] = nil
		_ = f.Close() // the error before it is what counts
		return fmt.Errorf("%s: %w", filepath.Join(s.dir, slotName(slot)), err)
	}
	return nil
}

// open makes the slot where it is missing, durably.
func (s slots) open(slot int) (slotFile, error) {
	f, err := openPrivate(filepath.Join(s.dir, slotName(slot)))
	if err != nil {
		return nil, err
	}
	d, err := os.Open(s.dir)
	if err == nil {
		err = d.Sync()
		d.Close()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("sync %s: %w", s.dir, err)
	}
	return f, nil
}

func (s slots) Close() error {
	var first error
	for i, f := range s.files {
		if f == nil {
			continue
		}
		s.files[i] = nil
		if err := f.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
