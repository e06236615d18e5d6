package tail

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// Files that come, are rotated to names no glob finds, packed or deleted while
// the cluster takes nothing are read all the same, each line once.
func TestRotatedWhileHeldUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.gate = make(chan struct{})
	r.append("a.log", 20_000)
	r.start()
	keeping := func() int {
		r.tail.mu.Lock() // the reader's, but while it waits for the sink
		defer r.tail.mu.Unlock()
		return len(r.tail.keeping)
	}
	r.until("the reader is held up", func() bool {
		return r.tail.heldUp.Load() != 0 && time.Since(r.tail.began)-time.Duration(r.tail.heldUp.Load()) > 50*time.Millisecond
	})
	for i := range 5 {
		for n := i; n >= 1; n-- { // as logrotate does
			if _, err := os.Stat(r.path(fmt.Sprintf("a.log.%d", n))); err == nil {
				r.rename(fmt.Sprintf("a.log.%d", n), fmt.Sprintf("a.log.%d", n+1))
			}
		}
		r.rename("a.log", "a.log.1")
		r.append("a.log", 100)
		r.until("the new file is kept", func() bool { return keeping() == i+1 })
	}
	r.remove("a.log.2")
	packed, err := os.ReadFile(r.path("a.log.3"))
	r.must(err)
	r.write("a.log.3.gz", string(gz(string(packed))))
	r.remove("a.log.3")
	close(r.gate)
	r.delivered()
	time.Sleep(200 * time.Millisecond) // for what may come twice
	if n := keeping; r.tail.heldUp.Load() != 0 && n() != 0 {
		t.Errorf("%d files are kept open", n())
	}
	r.gate = nil
	r.stop()
	r.start()
	r.append("a.log", 10)
	r.delivered()
	r.stop()
	r.judge()
}
