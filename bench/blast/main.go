//go:build linux

// Command blast is the floor every sender is compared with: it sends a file of
// finished produce records over a few connections and does nothing with the
// answers but count their closing braces.
//
// It cuts no lines, encodes nothing and reads no report, so what it costs is
// the kernel's share of the job: reading the file, writing the socket, reading
// the socket.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "blast:", err)
		os.Exit(1)
	}
}

// result is the JSON object printed at the end; its names are those of the
// summary of `produce-agent ship`.
type result struct {
	Delivered  int64   `json:"delivered"`
	BytesSent  int64   `json:"bytes_sent"`
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
}

func run() error {
	addr := flag.String("addr", "", "host:port of the server")
	path := flag.String("path", "/v3/clusters/c/topics/bench/records", "path to post to")
	streams := flag.Int("streams", 4, "connections")
	chunk := flag.Int("chunk", 64<<10, "bytes of an HTTP chunk")
	window := flag.Int("window", 16, "chunks sent and not yet reported, per connection")
	flag.Parse()
	if *addr == "" || flag.NArg() != 1 || *streams < 1 || *chunk < 1 || *window < 1 {
		return errors.New("usage: blast -addr HOST:PORT FILE")
	}
	f, err := os.Open(flag.Arg(0))
	if err != nil {
		return err
	}
	defer f.Close()
	cuts, err := sections(f, *streams)
	if err != nil {
		return err
	}
	start := time.Now()
	errs := make([]error, *streams)
	sent := make([]int64, *streams)
	var wg sync.WaitGroup
	for i := range *streams {
		wg.Go(func() {
			s := stream{path: *path, chunk: *chunk, window: make(chan int64, *window)}
			errs[i] = s.run(*addr, f, cuts[i], cuts[i+1])
			sent[i] = s.records
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r := result{Seconds: time.Since(start).Seconds(), BytesSent: cuts[*streams]}
	for _, n := range sent {
		r.Delivered += n
	}
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return err
	}
	r.CPUSeconds = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	return json.NewEncoder(os.Stdout).Encode(r)
}

// sections cuts f into n parts at ends of lines and returns the n+1 borders.
func sections(f *os.File, n int) ([]int64, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	cuts := make([]int64, n+1)
	cuts[n] = st.Size()
	buf := make([]byte, 64<<10)
	for i := 1; i < n; i++ {
		at := max(st.Size()*int64(i)/int64(n), cuts[i-1])
		for {
			m, err := f.ReadAt(buf, at)
			if j := bytes.IndexByte(buf[:m], '\n'); j >= 0 {
				at += int64(j) + 1
				break
			}
			at += int64(m)
			if err != nil {
				break
			}
		}
		cuts[i] = at
	}
	return cuts, nil
}

// stream sends one section over one connection.
type stream struct {
	path    string
	chunk   int
	window  chan int64 // records sent up to the end of each chunk on its way
	records int64
}

func (s *stream) run(addr string, f io.ReaderAt, from, to int64) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", s.path, addr); err != nil {
		return err
	}
	read := make(chan error, 1)
	go func() { read <- s.count(c) }()
	werr := s.write(c, f, from, to)
	close(s.window)
	return errors.Join(werr, <-read)
}

// write sends the section in chunks, each behind its size in one write.
func (s *stream) write(c net.Conn, f io.ReaderAt, from, to int64) error {
	const room = 10
	buf := make([]byte, room+s.chunk+2)
	for from < to {
		n, err := f.ReadAt(buf[room:room+min(int64(s.chunk), to-from)], from)
		if n == 0 {
			return err
		}
		from += int64(n)
		body := buf[room : room+n]
		s.records += int64(bytes.Count(body, []byte{'\n'}))
		var size [room]byte
		h := append(strconv.AppendInt(size[:0], int64(n), 16), '\r', '\n')
		at := room - len(h)
		copy(buf[at:], h)
		s.window <- s.records
		if _, err := c.Write(append(buf[at:room+n], '\r', '\n')); err != nil {
			return err
		}
	}
	_, err := io.WriteString(c, "0\r\n\r\n")
	return err
}

// count counts reports, two closing braces each, takes a chunk out of the
// window when its records are all reported, and waits for the answer's end.
func (s *stream) count(c net.Conn) error {
	var got counter
	buf := make([]byte, 64<<10)
	for want := range s.window {
		for got.reports() < want {
			if err := got.read(c, buf); err != nil {
				for range s.window { // let the writer see its own error
				}
				return fmt.Errorf("after %d reports: %w", got.reports(), err)
			}
		}
	}
	for !got.ended() {
		if err := got.read(c, buf); err != nil {
			return fmt.Errorf("after the last report: %w", err)
		}
	}
	return nil
}

// counter counts what comes in an answer.
type counter struct {
	braces int64
	tail   [5]byte // the last bytes read
}

func (k *counter) read(c io.Reader, buf []byte) error {
	n, err := c.Read(buf)
	k.add(buf[:n])
	if n > 0 {
		return nil
	}
	return err
}

func (k *counter) add(p []byte) {
	k.braces += int64(bytes.Count(p, []byte{'}'}))
	t := append(k.tail[:len(k.tail):len(k.tail)], p[max(0, len(p)-len(k.tail)):]...)
	copy(k.tail[:], t[len(t)-len(k.tail):])
}

// reports is how many whole success reports came: each closes its value and
// itself.
func (k *counter) reports() int64 { return k.braces / 2 }

// ended says that the last chunk came.
func (k *counter) ended() bool { return string(k.tail[:]) == "0\r\n\r\n" }
