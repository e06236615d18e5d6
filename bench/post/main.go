// Command post sends the lines of a file as NDJSON requests to an agent's
// listener, over a few connections that stay open, and counts what was
// accepted: the client of `make bench` for http inputs.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "post:", err)
		os.Exit(1)
	}
}

type sender struct {
	client   *http.Client
	url      string
	accepted atomic.Int64
	again    atomic.Int64 // requests sent again after a 503
}

func run(args []string, out io.Writer) error {
	f := flag.NewFlagSet("post", flag.ContinueOnError)
	url := f.String("url", "", "where to POST")
	file := f.String("file", "", "file of lines")
	batch := f.Int("batch", 100, "lines a request")
	conns := f.Int("conns", 4, "connections")
	rate := f.Int("rate", 0, "lines a second; 0: as fast as answers come")
	most := f.Int64("n", 0, "lines at most; 0: all")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *url == "" || *file == "" || *batch < 1 || *conns < 1 {
		return errors.New("usage: post -url URL -file FILE [-batch N] [-conns N] [-rate N] [-n N]")
	}
	data, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	s := &sender{url: *url, client: &http.Client{
		Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: *conns, DisableCompression: true},
	}}
	if err := s.all(data, *batch, *conns, *rate, *most); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, `{"accepted":%d,"sent_again":%d}`+"\n", s.accepted.Load(), s.again.Load())
	return err
}

// all cuts data into bodies and sends them, evenly spaced with a rate.
func (s *sender) all(data []byte, batch, conns, rate int, most int64) error {
	bodies := make(chan []byte)
	errs := make(chan error, conns)
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			for b := range bodies {
				if err := s.send(b); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var sent int64
	var err error
	for began := time.Now(); len(data) > 0 && err == nil && (most == 0 || sent < most); {
		size, lines := 0, 0
		for lines < batch && size < len(data) && (most == 0 || sent+int64(lines) < most) {
			n := bytes.IndexByte(data[size:], '\n')
			if n < 0 {
				n = len(data) - size - 1
			}
			size += n + 1
			lines++
		}
		if rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(sent) * time.Second / time.Duration(rate))))
		}
		select {
		case bodies <- data[:size]:
		case err = <-errs:
		}
		data, sent = data[size:], sent+int64(lines)
	}
	close(bodies)
	wg.Wait()
	select {
	case e := <-errs:
		err = errors.Join(err, e)
	default:
	}
	return err
}

// send posts one body until it is accepted.
func (s *sender) send(body []byte) error {
	for {
		resp, err := s.client.Post(s.url, "application/x-ndjson", bytes.NewReader(body))
		if err != nil {
			return err
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		switch resp.StatusCode {
		case http.StatusOK:
			var a struct{ Accepted int64 }
			if err := json.Unmarshal(answer, &a); err != nil {
				return fmt.Errorf("answer %.100q: %w", answer, err)
			}
			s.accepted.Add(a.Accepted)
			return nil
		case http.StatusServiceUnavailable:
			s.again.Add(1)
			time.Sleep(10 * time.Millisecond)
		default:
			return fmt.Errorf("status %d: %.200s", resp.StatusCode, answer)
		}
	}
}
