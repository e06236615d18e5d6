package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// sandbox is a running `produce-agent sandbox`.
type sandbox struct {
	cmd     *exec.Cmd
	rest    string // base of its REST port
	kafka   string // host:port of its Kafka port
	cluster string
	stderr  bytes.Buffer
	exited  chan struct{}
}

// startSandbox starts a sandbox that keeps its data below dir and waits until
// it answers.
func startSandbox(ctx context.Context, bin, dir string) (*sandbox, error) {
	rest, kafka, err := twoPorts()
	if err != nil {
		return nil, err
	}
	s := &sandbox{rest: "http://" + rest, kafka: kafka, exited: make(chan struct{})}
	s.cmd = exec.CommandContext(ctx, bin, "sandbox", "--listen", rest, "--kafka-listen", kafka,
		"--auto-create", "--limits", "none,message=8000000", "--data-dir", filepath.Join(dir, "sandbox"))
	s.cmd.Dir, s.cmd.Stderr = dir, &s.stderr
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 10 * time.Second
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the sandbox: %w", err)
	}
	go func() { _ = s.cmd.Wait(); close(s.exited) }()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if s.cluster, err = askCluster(ctx, s.rest); err == nil {
			return s, nil
		}
		select {
		case <-s.exited:
			return nil, fmt.Errorf("sandbox ended at once (%v): %s", s.cmd.ProcessState, s.stderr.String())
		case <-ctx.Done():
			s.stop()
			return nil, fmt.Errorf("sandbox does not answer: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop asks the sandbox to end and waits.
func (s *sandbox) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
}

// twoPorts finds two addresses nobody listens on now.
func twoPorts() (a, b string, err error) {
	l1, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer l1.Close()
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer l2.Close()
	return l1.Addr().String(), l2.Addr().String(), nil
}

// askCluster returns the id of the one cluster a REST endpoint serves.
func askCluster(ctx context.Context, base string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v3/clusters", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var list struct {
		Data []struct {
			ClusterID string `json:"cluster_id"`
		} `json:"data"`
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s/v3/clusters: %s", base, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return "", fmt.Errorf("GET %s/v3/clusters: %w", base, err)
	}
	if len(list.Data) != 1 {
		return "", fmt.Errorf("GET %s/v3/clusters: %d clusters, want one", base, len(list.Data))
	}
	return list.Data[0].ClusterID, nil
}

// summary is what ship prints with -o json, as far as it is used here.
type summary struct {
	Read               int64            `json:"read"`
	Delivered          int64            `json:"delivered"`
	Rejected           int64            `json:"rejected"`
	Pending            int64            `json:"pending"`
	Retried            int64            `json:"retried"`
	PossiblyDuplicated int64            `json:"possibly_duplicated"`
	BytesRead          int64            `json:"bytes_read"`
	BytesSent          int64            `json:"bytes_sent"`
	ErrorCodes         map[string]int64 `json:"error_codes"`

	wall, cpu float64 // seconds; of the process, not its own word
}

// add sums up two runs.
func (s *summary) add(o summary) {
	s.Read += o.Read
	s.Delivered += o.Delivered
	s.Rejected += o.Rejected
	s.Pending += o.Pending
	s.Retried += o.Retried
	s.PossiblyDuplicated += o.PossiblyDuplicated
	s.BytesRead += o.BytesRead
	s.BytesSent += o.BytesSent
	s.wall += o.wall
	s.cpu += o.cpu
	for code, n := range o.ErrorCodes {
		if s.ErrorCodes == nil {
			s.ErrorCodes = map[string]int64{}
		}
		s.ErrorCodes[code] += n
	}
}

// ship runs `produce-agent ship` in dir over files (names relative to dir).
func (s *sandbox) ship(ctx context.Context, bin, dir, work, topic string, files []string) (summary, error) {
	args := append([]string{
		"ship", "-t", topic, "--rest-endpoint", s.rest, "--cluster-id", s.cluster, "--limits", "none",
		"--dead-letter", filepath.Join(work, "dead-"+topic+".ndjson"), "-o", "json", "--progress", "never", "--",
	}, files...)
	cmd := exec.CommandContext(ctx, bin, args...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	begun := time.Now()
	err := cmd.Run()
	sum := summary{}
	if jerr := json.Unmarshal(lastLine(stdout.Bytes()), &sum); jerr != nil && err == nil {
		err = fmt.Errorf("read its summary: %w", jerr)
	}
	sum.wall = time.Since(begun).Seconds()
	if st := cmd.ProcessState; st != nil {
		sum.cpu = (st.UserTime() + st.SystemTime()).Seconds()
	}
	if err != nil {
		return sum, fmt.Errorf("ship into %q: %w: %s", topic, err, stderr.String())
	}
	return sum, nil
}

func lastLine(b []byte) []byte {
	b = bytes.TrimSpace(b)
	return b[bytes.LastIndexByte(b, '\n')+1:]
}
