package sandbox

import (
	"sync"
	"sync/atomic"
	"time"
)

// Stats is what a Sandbox has seen since it started.
type Stats struct {
	Connections   int64 // connections accepted
	Refused       int64 // connections closed on accept by a fault
	Posts         int64 // produce requests begun, whatever became of them
	PostsRejected int64 // of these: answered with a status other than 200
	Unauthorized  int64 // requests of any kind that drew 401 or 403
	Tokens        int64 // tokens handed out
	Streams       int64 // produce requests served as streams
	OpenStreams   int64 // streams open now

	RecordsRead   int64         // JSON values read from bodies
	RecordsStored int64         // records Kafka has acknowledged
	BytesRead     int64         // body bytes of all produce requests
	Reports       map[int]int64 // reports given to the connection, by error_code; terminal ones count as 400
	ReportsLost   int64         // reports never given to it, because of a fault or a lost connection

	MaxPostsPerSecond   int64 // most produce requests in any second, rejected ones included
	MaxRecordsPerSecond int64 // most records read in any second
	MaxGrantedPerSecond int64 // most records let through by the record limiter in any second
}

// stats gathers Stats.
type stats struct {
	connections, refused, posts, rejected, streams, open atomic.Int64
	unauthorized, tokens                                 atomic.Int64
	read, stored, bytes, lost                            atomic.Int64

	mu      sync.Mutex // guards reports; no other lock is taken while holding it
	reports map[int]int64

	postRate, readRate, grantRate peak
}

func (s *stats) report(code int, n int64) {
	s.mu.Lock()
	if s.reports == nil {
		s.reports = map[int]int64{}
	}
	s.reports[code] += n
	s.mu.Unlock()
}

func (s *stats) snapshot() Stats {
	out := Stats{
		Connections: s.connections.Load(), Refused: s.refused.Load(),
		Posts: s.posts.Load(), PostsRejected: s.rejected.Load(),
		Unauthorized: s.unauthorized.Load(), Tokens: s.tokens.Load(),
		Streams: s.streams.Load(), OpenStreams: s.open.Load(),
		RecordsRead: s.read.Load(), RecordsStored: s.stored.Load(), BytesRead: s.bytes.Load(),
		ReportsLost:         s.lost.Load(),
		MaxPostsPerSecond:   s.postRate.most(),
		MaxRecordsPerSecond: s.readRate.most(),
		MaxGrantedPerSecond: s.grantRate.most(),
		Reports:             map[int]int64{},
	}
	s.mu.Lock()
	for code, n := range s.reports {
		out.Reports[code] = n
	}
	s.mu.Unlock()
	return out
}

// peak keeps the largest count seen in any second, in steps of 1/peakSteps s:
// the window is the step just begun and the peakSteps-1 before it.
type peak struct {
	mu    sync.Mutex // guards the rest
	step  int64      // number of the newest step
	count [peakSteps]int64
	sum   int64
	max   int64
}

const peakSteps = 100

// add counts n events at now.
func (p *peak) add(now time.Time, n int64) {
	step := now.UnixNano() / int64(time.Second/peakSteps)
	p.mu.Lock()
	defer p.mu.Unlock()
	if step-p.step >= peakSteps {
		p.count, p.sum, p.step = [peakSteps]int64{}, 0, step
	}
	for p.step < step {
		p.step++
		p.sum -= p.count[p.step%peakSteps]
		p.count[p.step%peakSteps] = 0
	}
	p.count[p.step%peakSteps] += n
	p.sum += n
	p.max = max(p.max, p.sum)
}

func (p *peak) most() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.max
}
