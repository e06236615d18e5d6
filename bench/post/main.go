// Command post sends the lines of a file as NDJSON requests to an agent's
// listener, over a few connections that stay open, and counts what was
// accepted: the client of `make bench` for http inputs.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
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
	url      *url.URL
	accepted atomic.Int64
	again    atomic.Int64 // requests sent again after a 503
}

func run(args []string, out io.Writer) error {
	f := flag.NewFlagSet("post", flag.ContinueOnError)
	to := f.String("url", "", "where to POST")
	file := f.String("file", "", "file of lines")
	batch := f.Int("batch", 100, "lines a request")
	conns := f.Int("conns", 16, "connections")
	rate := f.Int("rate", 0, "lines a second; 0: as fast as answers come")
	most := f.Int64("n", 0, "lines at most; 0: all")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *to == "" || *file == "" || *batch < 1 || *conns < 1 {
		return errors.New("usage: post -url URL -file FILE [-batch N] [-conns N] [-rate N] [-n N]")
	}
	u, err := url.Parse(*to)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	s := &sender{url: u}
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
			if err := s.serve(bodies); err != nil {
				errs <- err
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

// serve sends bodies over one connection, each until it is accepted.
func (s *sender) serve(bodies <-chan []byte) error {
	conn, err := net.Dial("tcp", s.url.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	var request []byte
	for body := range bodies {
		// In one write, as clients of some care do.
		request = fmt.Appendf(request[:0], "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n",
			s.url.RequestURI(), s.url.Host, len(body))
		request = append(request, body...)
		for again := true; again; {
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			if _, err := conn.Write(request); err != nil {
				return err
			}
			if again, err = s.answer(in); err != nil {
				return err
			}
		}
	}
	return nil
}

// answer reads one; again says that the body has to be sent again.
func (s *sender) answer(in *bufio.Reader) (again bool, err error) {
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		var a struct{ Accepted int64 }
		if err := json.Unmarshal(text, &a); err != nil {
			return false, fmt.Errorf("answer %.100q: %w", text, err)
		}
		s.accepted.Add(a.Accepted)
		return false, nil
	case http.StatusServiceUnavailable:
		s.again.Add(1)
		time.Sleep(10 * time.Millisecond)
		return true, nil
	}
	return false, fmt.Errorf("status %d: %.200s", resp.StatusCode, text)
}
