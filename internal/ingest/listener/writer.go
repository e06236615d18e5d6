package listener

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// write sends reports as they come, and watches the stream: the reader may be
// waiting for bytes that never come.
func (s *stream) write() {
	l := s.l
	tick := time.NewTicker(l.tick())
	defer tick.Stop()
	var out []byte
	head := false
	stop := l.stop
	for {
		s.mu.Lock()
		out, s.out = s.out, out[:0]
		end, last := s.end, s.last
		owed := s.next - s.base
		s.mu.Unlock()
		over := end != endNone && owed == 0
		switch {
		case end == endLost:
			s.giveUp()
			return
		case over && end == endSaid:
			out = s.frame(out, failed(fasthttp.StatusBadRequest, terminalPrefix+last))
		}
		if over && s.chunked {
			out = append(out, "0\r\n\r\n"...)
		}
		if !head && (over || len(out) > 0) {
			head = true
			l.answered[fasthttp.StatusOK].Add(1)
			out = append(s.head(), out...)
		}
		if len(out) > 0 {
			signal(s.room)
			if !s.send(out) {
				s.giveUp()
				return
			}
		}
		if over {
			return
		}
		if cap(out) > 2*windowOut {
			out = nil
		}
		select {
		case <-s.wake:
		case now := <-tick.C:
			s.watch(now)
		case <-stop:
			stop = nil
			s.interrupt(causeStop)
		case <-l.failed:
			s.giveUp()
			return
		case <-l.over:
			s.giveUp()
			return
		}
	}
}

// send writes to a client that may be slow, as long as it takes something.
func (s *stream) send(out []byte) bool {
	for len(out) > 0 {
		n := min(len(out), 32<<10)
		_ = s.c.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := s.c.Write(out[:n]); err != nil {
			return false
		}
		out = out[n:]
	}
	return true
}

// tick is how often a stream is looked at.
func (l *Listener) tick() time.Duration {
	t := min(l.cfg.IdleTimeout, l.cfg.HeaderTimeout)
	if r := l.cfg.RespondTimeout; r > 0 {
		t = min(t, r)
	}
	return min(max(t/8, 5*time.Millisecond), time.Second)
}

// head begins the answer. It goes out with the first report, as a cluster's does.
func (s *stream) head() []byte {
	b := append([]byte("HTTP/1.1 200 OK\r\nDate: "), fasthttp.AppendHTTPDate(nil, time.Now())...)
	b = append(b, "\r\nContent-Type: application/json\r\n"...)
	if !s.keep {
		b = append(b, "Connection: close\r\n"...)
	}
	if s.chunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return append(b, "\r\n"...)
}

// giveUp ends a stream that cannot be written to, or is not to be any more.
func (s *stream) giveUp() {
	s.mu.Lock()
	s.dead = true
	s.out = nil
	s.mu.Unlock()
	s.c.kill() // the reader notices
	signal(s.room)
}

// watch ends what takes too long: a record without a report, a record that does
// not get whole, a stream on which nothing happens.
func (s *stream) watch(now time.Time) {
	cfg := &s.l.cfg
	s.expire(now)
	s.mu.Lock()
	owed := s.next - s.base
	s.mu.Unlock()
	if began := s.partial.Load(); began != 0 {
		came := s.c.read.Load() - s.partFrom.Load()
		if time.Duration(sinceStart(now)-began) > cfg.HeaderTimeout+time.Duration(came)*(time.Second/bodyRate) {
			s.interrupt("java.util.concurrent.TimeoutException: a record did not come to its end in time")
			return
		}
	}
	if idle := time.Duration(sinceStart(now) - s.c.last.Load()); owed == 0 && idle >= cfg.IdleTimeout {
		s.interrupt("java.util.concurrent.TimeoutException: Idle timeout expired: " + ms(idle) + "/" + ms(cfg.IdleTimeout) + " ms")
	}
}

func ms(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// expire reports records that took too long as what they are: their fate is not
// known. 50003 is what a cluster says of a delivery time-out.
func (s *stream) expire(now time.Time) {
	limit := s.l.cfg.RespondTimeout
	if limit == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var report []byte
	for s.base < s.next && sinceStart(now)-s.at(s.base).since >= int64(limit) {
		if report == nil {
			report = failed(50003, "Expiring 1 record(s) for "+s.topic+": "+ms(limit)+
				" ms has passed: its fate is not known yet. It may still be delivered; sending it again may make a duplicate")
		}
		s.finish(s.base, report)
	}
}
