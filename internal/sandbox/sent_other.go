//go:build !linux

package sandbox

import (
	"net"
	"time"
)

// waitSent gives what was written a moment to leave: this system has no
// portable way to ask whether it has.
func waitSent(net.Conn, time.Duration) { time.Sleep(50 * time.Millisecond) }
