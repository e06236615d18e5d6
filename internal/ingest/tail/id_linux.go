package tail

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// born returns when a file was made, in nanoseconds since 1970, and 0 where the
// file system does not tell. An inode that is used again was born again.
func born(f *os.File) int64 {
	c, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	var st unix.Statx_t
	serr := errors.ErrUnsupported
	if err := c.Control(func(fd uintptr) {
		serr = unix.Statx(int(fd), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st)
	}); err != nil || serr != nil || st.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
}

// holeEnd returns where the hole at the head of a file ends; 0 without one.
func holeEnd(f *os.File) int64 {
	end, err := f.Seek(0, unix.SEEK_DATA)
	if err != nil {
		return 0
	}
	_, _ = f.Seek(0, io.SeekStart)
	return end
}
