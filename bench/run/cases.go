//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// lab is the place of a session: binaries, files, cores, and how much is run.
type lab struct {
	dir     string
	bin     string // produce-agent
	cores   cores
	nice    int
	records int64
	size    int
	rounds  int
	paced   time.Duration // of a run at a fixed rate
	long    int64         // records of the long run
	timeout time.Duration // of one sender
	filter  string        // -only and -skip as given
	before  string        // load average of the last minute before the first run
	log     io.Writer
}

func (l *lab) tool(name string) string { return filepath.Join(l.dir, name) }

// kase is one sender in one set-up against the server in one mode.
type kase struct {
	name   string
	mode   string // of the server's reports: batch or record
	tls    bool
	sender string // blast, curl or ship
	args   []string
}

// shipCase is a ship with the given flags.
func shipCase(name, mode string, args ...string) kase {
	return kase{name: name, mode: mode, sender: "ship", args: args}
}

// names of the rows that others are compared with
const (
	nBlast  = "blast"
	nCurl   = "curl -T -"
	nJSON   = "JSON, validated"
	nRaw    = "JSON, validation off"
	nString = "STRING"
	nBinary = "BINARY"
	nTLS    = "JSON, validation off, TLS"
	nKeys   = "JSON, validated, a key each"
	nOrder  = "JSON, validated, a key each, ordering: key"
)

// cases lists what is run in every round, in this order.
func cases() []kase {
	var all []kase
	for _, mode := range []string{"batch", "record"} {
		all = append(all,
			kase{name: nBlast, mode: mode, sender: "blast"},
			kase{name: nCurl, mode: mode, sender: "curl"},
			shipCase(nJSON, mode, "--value-type", "json"),
			shipCase(nRaw, mode, "--value-type", "json", "--validate=false"),
			shipCase(nString, mode, "--value-type", "string"),
			shipCase(nBinary, mode, "--value-type", "binary"),
		)
		tls := shipCase(nTLS, mode, "--value-type", "json", "--validate=false")
		tls.tls = true
		all = append(all, tls)
	}
	keyed := []string{"--value-type", "json", "--key-field", "trace"} // which is another in every line
	all = append(all, shipCase(nKeys, "batch", keyed...), shipCase(nOrder, "batch", append(keyed, "--ordering", "key")...))
	for _, n := range []int{1, 16, 32} {
		all = append(all, shipCase(streamsName(n), "batch",
			"--value-type", "json", "--validate=false", "--streams", strconv.Itoa(n)))
	}
	return all
}

func streamsName(n int) string {
	if n == 4 {
		return nRaw
	}
	return fmt.Sprintf("JSON, validation off, %d streams", n)
}

// sample is the outcome of one run.
type sample struct {
	usage
	checked
	sent int64 // records the run was to send
	own  int64 // records the sender says are delivered
	err  error
}

// off is how far the run was from right: records missing, doubled or unknown,
// and what the sender's own count is off by.
func (s sample) off() int64 {
	return s.Missing + s.Duplicates + s.Unexpected + max(s.own-s.sent, s.sent-s.own)
}

// run runs one case once.
func (l *lab) run(ctx context.Context, k kase) sample {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	s := sample{sent: l.records}
	var more []string
	if k.tls {
		more = []string{"-tls", "-ca-out", l.tool("ca.pem")}
	}
	srv, err := l.startServer(ctx, k.mode, l.records, more...)
	if err != nil {
		s.err = err
		return s
	}
	s.usage, s.own, s.err = l.send(ctx, k, srv.addr)
	books, err := srv.stop()
	s.checked, s.err = books, errors.Join(s.err, err)
	return s
}

// send runs the sender of a case and returns what it took and how many records
// it says it delivered.
func (l *lab) send(ctx context.Context, k kase, addr string) (usage, int64, error) {
	cmd, err := l.command(ctx, k, addr)
	if err != nil {
		return usage{}, 0, err
	}
	w, err := l.watch(cmd, l.cores.sender)
	if err != nil {
		return usage{}, 0, err
	}
	u, err := w.finish()
	if f, ok := cmd.Stdin.(*os.File); ok {
		_ = f.Close()
	}
	if err != nil {
		return u, 0, err
	}
	if k.sender == "curl" { // counts nothing itself
		return u, l.records, nil
	}
	n, err := delivered(w.stdout.String())
	return u, n, err
}

// delivered reads the count from the JSON summary, the last line of out.
func delivered(out string) (int64, error) {
	var sum struct {
		Delivered *int64 `json:"delivered"`
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &sum); err != nil {
		return 0, fmt.Errorf("read the sender's summary: %w", err)
	}
	if sum.Delivered == nil {
		return 0, fmt.Errorf("read the sender's summary: no delivered in %.80q", lastLine(out))
	}
	return *sum.Delivered, nil
}

// command makes the sender of a case.
func (l *lab) command(ctx context.Context, k kase, addr string) (*exec.Cmd, error) {
	switch k.sender {
	case "blast":
		return exec.CommandContext(ctx, l.tool("blast"), "-addr", addr, l.tool("wrapped")), nil
	case "curl":
		cmd := curl(ctx, addr)
		in, err := os.Open(l.tool("wrapped"))
		cmd.Stdin = in
		return cmd, err
	}
	cmd := l.ship(ctx, k, addr)
	cmd.Args = append(cmd.Args, l.tool("lines.txt"))
	return cmd, nil
}

// curl makes a curl that posts its stdin as it comes and reads no report.
func curl(ctx context.Context, addr string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "curl", "-sS", "--fail", "-T", "-", "-X", "POST", "-o", os.DevNull,
		"-H", "Content-Type: application/json", "-H", "Expect:", "http://"+addr+"/v3/clusters/c/topics/bench/records")
	cmd.Env = cleanEnv(os.Environ())
	return cmd
}

// ship makes the ship of a case without its input.
func (l *lab) ship(ctx context.Context, k kase, addr string) *exec.Cmd {
	scheme := "http"
	if k.tls {
		scheme = "https"
	}
	args := []string{
		"ship", "-t", "bench", "--rest-endpoint", scheme + "://" + addr + "/v3",
		"--cluster-id", "c", "--limits", "none", "-o", "json", "--progress", "never",
	}
	if k.tls {
		args = append(args, "--ca-file", l.tool("ca.pem"))
	}
	cmd := exec.CommandContext(ctx, l.bin, append(args, k.args...)...)
	cmd.Dir = l.tool("work")
	cmd.Env = cleanEnv(os.Environ())
	return cmd
}

// cleanEnv drops what would change where or how ship sends.
func cleanEnv(env []string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		drop := strings.HasSuffix(strings.ToUpper(name), "_PROXY")
		for _, p := range []string{"PRODUCE_AGENT_", "KAFKA_", "CONFLUENT_", "GODEBUG", "GOGC", "GOMEMLIMIT", "GOMAXPROCS"} {
			drop = drop || strings.HasPrefix(name, p)
		}
		if !drop {
			out = append(out, e)
		}
	}
	return out
}
