// Command discard is the server the load programs are measured against: as
// cheap as a server can be that still answers every record, so that what is
// measured is the sender.
//
// It takes Kafka REST v3 produce requests on a raw listener, cuts them at
// newlines (one record a line, as every sender here writes them), and answers
// one success report per record, in order. It looks the number up that each
// record carries, so that a lost or doubled record shows. Everything is printed
// as one JSON object when it ends.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/produce-agent/produce-agent/bench/line"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "discard:", err)
		os.Exit(1)
	}
}

func run() error {
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on; port 0 picks a free one, printed on stdout")
	report := flag.String("report", "batch", "reports in HTTP chunks: batch (one a read), record (one a report) or split (two a report, as kafka-rest)")
	cluster := flag.String("cluster-id", "lkc-bench1", "cluster id in reports and in GET /v3/clusters")
	expect := flag.Uint64("expect", 0, "records expected, numbered from 0; 0 takes the highest number seen for the last")
	capacity := flag.Uint64("capacity", 16<<20, "highest number that can be checked, plus one")
	latency := flag.Bool("latency", false, "measure the delay from each line's due time to its arrival")
	delay := flag.Duration("delay", 0, "hold every report back this long")
	useTLS := flag.Bool("tls", false, "serve TLS with a certificate made at start")
	caOut := flag.String("ca-out", "", "write that certificate to this file")
	stdin := flag.Bool("stdin", false, "end when stdin is closed, not only on SIGTERM")
	flag.Parse()

	m, err := parseMode(*report)
	if err != nil {
		return err
	}
	if *expect > line.Max || *capacity > line.Max {
		return fmt.Errorf("-expect, -capacity: at most %d", uint64(line.Max))
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	s := &server{mode: m, cluster: *cluster, delay: *delay, tally: newTally(*expect, *capacity, *latency)}
	addr := l.Addr()
	if *useTLS {
		conf, err := selfSigned(*caOut)
		if err != nil {
			return err
		}
		l = tls.NewListener(l, conf)
	}
	fmt.Printf("{\"listening\":%q}\n", addr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if *stdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	go func() { _ = s.serve(l) }()
	<-ctx.Done()
	s.settleDown(2 * time.Second)
	_ = l.Close()
	return json.NewEncoder(os.Stdout).Encode(s.tally.result())
}

// settleDown waits until no record has come for a tenth of a second: a sender
// that was killed has bytes left in the socket. It waits limit at most.
func (s *server) settleDown(limit time.Duration) {
	last := int64(-1)
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		n := s.tally.records.Load()
		if n == last {
			return
		}
		last = n
	}
}
