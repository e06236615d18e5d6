package sandbox

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// waitSent waits until the peer's kernel has taken all that was written, or
// for d: a reset throws away what was not sent.
func waitSent(c net.Conn, d time.Duration) {
	tc, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	rc, err := tc.SyscallConn()
	if err != nil {
		return
	}
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		unsent := 0
		if rc.Control(func(fd uintptr) { unsent, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) != nil || err != nil || unsent == 0 {
			return
		}
	}
}
