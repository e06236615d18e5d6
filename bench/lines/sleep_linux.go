package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// sleepUntil sleeps until t, to within the kernel's timer slack (some 50 us).
// The Go runtime's own timers may round a wait up to the next millisecond, which
// would be counted as the sender's delay.
func sleepUntil(t time.Time) {
	for d := time.Until(t); d > 0; d = time.Until(t) {
		ts := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&ts, nil)
	}
}
