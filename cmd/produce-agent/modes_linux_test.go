package main

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// heedModes begins this program again, with the same arguments, as a process
// that a file's mode holds for even when it is root's.
func heedModes() error {
	runtime.LockOSThread() // capabilities are a thread's, and exec takes those of its own
	for _, c := range []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && os.Getuid() == 0 {
			return err
		}
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, asAnybody+"=") })
	return syscall.Exec(os.Args[0], os.Args, env)
}
