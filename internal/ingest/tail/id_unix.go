//go:build unix

package tail

import (
	"io/fs"
	"syscall"
)

// keyOf returns what the file system knows a file by.
func keyOf(info fs.FileInfo) key {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return key{}
	}
	return key{uint64(st.Dev), uint64(st.Ino)} //nolint:unconvert // of other types on other systems
}
