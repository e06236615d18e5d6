package stream

import (
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"
)

// idleLink is how long a connection is kept for the next request: shorter than
// any server keeps one, so that it is rarely found closed.
const idleLink = 5 * time.Second

// link is a connection that carries one request after another, of any topic,
// and the buffers of its answers.
//
// Ownership: the request's that has it, or the Pool's list.
type link struct {
	net.Conn
	to      string // scheme and address
	born    time.Time
	jitter  float64 // 0.8..1.2, times age and records at which it is replaced
	records int64   // sent over it
	used    bool    // an answer has come over it
	idle    time.Time

	ans     *answer
	parse   parser
	body    []byte
	entries []v2Entry
}

// links are the connections that no request has at present. mu is a leaf.
type links struct {
	mu     sync.Mutex
	idle   []*link
	closed bool
}

func linkKey(u *url.URL) string { return u.Scheme + "://" + hostPort(u) }

// link returns a connection to u: one that is there, else a new one.
func (p *Pool) link(u *url.URL) (*link, error) {
	to := linkKey(u)
	for {
		l := p.links.take(to)
		if l == nil {
			break
		}
		if time.Since(l.idle) < idleLink && quietConn(l.Conn) {
			return l, nil
		}
		l.Close()
	}
	conn, err := p.dial(p.ctx, u)
	if err != nil {
		return nil, err
	}
	return &link{Conn: conn, to: to, born: time.Now(), jitter: 0.8 + 0.4*rand.Float64(), ans: newAnswer(conn)}, nil
}

// keep gives a connection whose answer has ended back, unless it is old.
func (p *Pool) keep(l *link) {
	cfg := p.cfg
	old := cfg.RotateAfter > 0 && time.Since(l.born) > jittered(cfg.RotateAfter, l.jitter) ||
		cfg.RotateRecords > 0 && float64(l.records) > float64(cfg.RotateRecords)*l.jitter
	if old || l.SetDeadline(time.Time{}) != nil {
		l.Close()
		return
	}
	l.used, l.idle = true, time.Now()
	l.ans.again()
	p.links.put(l)
}

// take returns the connection to that was used last, nil without any.
func (s *links) take(to string) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.idle) - 1; i >= 0; i-- {
		if l := s.idle[i]; l.to == to {
			s.idle = append(s.idle[:i], s.idle[i+1:]...)
			return l
		}
	}
	return nil
}

func (s *links) put(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		l.Close()
		return
	}
	s.idle = append(s.idle, l)
}

// sweep closes what has been idle for too long.
func (s *links) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.idle[:0]
	for _, l := range s.idle {
		if now.Sub(l.idle) >= idleLink {
			l.Close()
			continue
		}
		kept = append(kept, l)
	}
	clear(s.idle[len(kept):])
	s.idle = kept
}

// drop closes all that is idle: one was found broken, and the others are of the
// same age. With last nothing is kept any more.
func (s *links) drop(last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.idle {
		l.Close()
	}
	s.idle, s.closed = nil, s.closed || last
}
