package checkpoint

import (
	"io/fs"
	"log/slog"
)

// Volatile returns a Store that keeps nothing beyond the process, for files
// that are followed without a place to keep anything.
func Volatile(log *slog.Logger) *Store {
	s, err := open(nowhere{}, log)
	if err != nil {
		panic("BUG: reading nothing failed: " + err.Error())
	}
	return s
}

// nowhere is a disk that has nothing and forgets everything.
type nowhere struct{}

func (nowhere) Read(int) ([]byte, error) { return nil, fs.ErrNotExist }
func (nowhere) Write(int, []byte) error  { return nil }
func (nowhere) Close() error             { return nil }
