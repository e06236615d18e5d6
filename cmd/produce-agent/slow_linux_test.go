package main

import (
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// slowArgs are settings that a link of a megabit strains: the windows of two
// streams take it many seconds, and a report has three to come.
var slowArgs = []string{"--streams", "2", "--report-timeout", "3s", "--rotate-after", "0"}

// A link of 1 Mbit/s and 200 ms there and back, and the same where one packet
// in twenty is lost: slow and steady. No stream is given up, nothing is sent
// twice. ORACLE_SLOW says how many records; 400 take a second.
func TestOracleSlowLink(t *testing.T) {
	t.Parallel()
	n := times(t, "ORACLE_SLOW", 1200)
	var all sync.WaitGroup
	defer all.Wait()
	// f ships over what begin starts the agent behind of.
	f := func(name string, l func(t *testing.T) (net.Listener, []string), x trouble) {
		aside(t, &all, name, func(t *testing.T) {
			listener, by := l(t)
			s := startBox(t)
			w := newWire(t, s.URL(), listener, func([]byte) trouble { return x })
			in := numbered(n, 100)
			began := time.Now()
			r := beginBehind(t, by, nil, strings.NewReader(in), nil, append([]string{
				"ship", "-o", "json", "--progress", "never", "-t", "t", "--rest-endpoint", w.url(), "--cluster-id", s.ClusterID(),
			}, slowArgs...)...).ran()
			r.want(t, exitOK, int64(n), int64(n), 0, 0)
			onceEach(t, s, in, "t")
			took := time.Since(began)
			t.Logf("%d records in %s over %d streams, %d bytes up, %d down", n, took.Round(time.Millisecond), r.Streams, w.carry[up].Load(), w.carry[down].Load())
			if r.Streams > 2+int64(took/time.Minute) || r.Retried > 0 || r.PossiblyDuplicated > 0 {
				t.Errorf("%d streams, %d sent again: %+v\n%s", r.Streams, r.Retried, r.Summary, r.err)
			}
			// Far slower than this machine, or the link was not.
			if took < time.Duration(n)*time.Second/1000 {
				t.Errorf("%d records in %s: the link was not slow", n, took)
			}
		})
	}
	delay := 100 * time.Millisecond
	f("slow and far", func(*testing.T) (net.Listener, []string) { return nil, nil }, trouble{delay: delay, rate: 62_500})
	f("and loses packets", func(t *testing.T) (net.Listener, []string) {
		ns := newNetns(t, "tc", "nft")
		ns.do("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst", "4kb", "latency", "400ms")
		ns.do("nft", "add table inet lossy; add chain inet lossy in { type filter hook input priority 0; }; add rule inet lossy in numgen random mod 100 < 5 drop")
		return ns.listen(), ns.by()
	}, trouble{delay: delay})
}

// The network is cut off and comes back: packets are dropped and nobody is told,
// first when a connection is to be made, then in the middle of streams.
func TestOraclePacketsDropped(t *testing.T) {
	t.Parallel()
	ns := newNetns(t, "nft")
	s := startBox(t)
	w := newWire(t, s.URL(), ns.listen(), nil)
	_, port, _ := strings.Cut(w.l.Addr().String(), ":")
	drop := func() {
		ns.do("nft", "add table inet hole; add chain inet hole in { type filter hook input priority 0; }; add rule inet hole in tcp dport "+port+" drop; add rule inet hole in tcp sport "+port+" drop")
	}
	mend := func() { ns.do("nft", "delete table inet hole") }
	drop()
	hold, feed := io.Pipe()
	p := beginBehind(t, ns.by(), nil, hold, nil, "ship", "-o", "json", "--progress", "never", "-t", "t", "--rest-endpoint", w.url(), "--cluster-id", s.ClusterID(),
		"--streams", "2", "--in-flight", strconv.Itoa(window), "--report-timeout", "1s", "--max-attempts", "1000")
	holes := times(t, "ORACLE_HOLES", 1) // of two seconds, longer than a report may take
	n := 10_000 * (holes + 1)
	in := numbered(n, 20)
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for len(in) > 0 {
			k := min(len(in), 21*100)
			if _, err := io.WriteString(feed, in[:k]); err != nil {
				return
			}
			in = in[k:]
			time.Sleep(10 * time.Millisecond)
		}
		feed.Close()
	}()
	time.Sleep(500 * time.Millisecond)
	if w.opened.Load() != 0 {
		t.Error("connected through a hole")
	}
	mend()
	eventually(t, "records come through", func() bool { return w.carry[down].Load() > 0 })
	for range holes {
		time.Sleep(400 * time.Millisecond)
		drop()
		time.Sleep(2 * time.Second)
		mend()
	}
	<-fed
	r := p.ran()
	r.want(t, exitOK, int64(n), int64(n), 0, 0)
	got, twice := counts(stored(t, s, "t")), 0
	for _, k := range got {
		twice += k - 1
	}
	t.Logf("%d twice, %d told, %d streams: %v", twice, r.PossiblyDuplicated, r.Streams, r.Summary)
	if len(got) != n || twice > int(r.Streams)*window || int64(twice) > r.PossiblyDuplicated {
		t.Errorf("%d of %d there, %d twice, %d told\n%s", len(got), n, twice, r.PossiblyDuplicated, r.err)
	}
	if r.Streams < 2+1 {
		t.Errorf("%d streams: no hole was felt\n%s", r.Streams, r.err)
	}
}
