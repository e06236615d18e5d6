package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// runCommand runs the sandbox command with args until ctx ends.
func runCommand(ctx context.Context, stdout, stderr io.Writer, args ...string) error {
	cmd := newSandbox()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}

// The command serves what its start message says to do, and sums up at the end.
func TestSandboxCommand(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := runCommand(ctx, io.Discard, w, "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0",
			"--topic", "logs:3", "--auth", "KEY:"+secret, "--fault", "report=429,every=2", "--limits", "standard")
		_ = w.Close()
		done <- err
	}()
	var text strings.Builder
	lines := make(chan string)
	go func() {
		defer close(lines)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				lines <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	for !strings.Contains(text.String(), "Ctrl-C") {
		select {
		case s, ok := <-lines:
			if !ok {
				t.Fatalf("ended early: %v\n%s", <-done, text.String())
			}
			text.WriteString(s)
		case <-time.After(20 * time.Second):
			t.Fatalf("no start message, only %q", text.String())
		}
	}
	if strings.Contains(text.String(), "s3cret") {
		t.Errorf("the secret is printed:\n%s", text.String())
	}
	url := regexp.MustCompile(`http://\S+/records`).FindString(text.String())
	req, err := http.NewRequest("POST", url, strings.NewReader(`{"value":{"type":"STRING","data":"a"}}{}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("KEY", "s3cret")
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if strings.Count(string(b), `"error_code":200,`) != 1 || strings.Count(string(b), `"error_code":429,`) != 1 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	stop()
	var end strings.Builder
	for s := range lines {
		end.WriteString(s)
	}
	if err := <-done; err != nil || end.String() != "sandbox: 1 produce requests (0 refused), 2 records read, 1 stored; reports by error_code: 200: 1, 429: 1\n" {
		t.Errorf("%q, %v", end.String(), err)
	}
}

// What to do next is what the server that it plays understands.
func TestSandboxNextSteps(t *testing.T) {
	f := func(fault string, want ...string) {
		t.Helper()
		cfg := sandbox.DefaultConfig()
		cfg.Listen, cfg.KafkaListen = "127.0.0.1:0", "127.0.0.1:0"
		parsed, err := sandbox.ParseFault(fault)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Faults = sandbox.Faults{parsed}
		cfg.BearerTokens, cfg.OAuth = []string{"t0ken"}, []sandbox.OAuthClient{{ID: "id", Secret: "s3cret"}}
		s, err := sandbox.Start(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		var out strings.Builder
		printNextSteps(&out, s, &cfg)
		for _, w := range append(want, "Bearer TOKEN") {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: want %q\n%s", fault, w, out.String())
			}
		}
		if strings.Contains(out.String(), "t0ken") || strings.Contains(out.String(), "s3cret") {
			t.Errorf("%s: a secret is printed\n%s", fault, out.String())
		}
	}
	f("v2=confluent", "Kafka REST v3 on", "/kafka/v3/clusters/lkc-sandbox/topics/TOPIC/records")
	f("v2=strimzi", "Kafka REST v2 as strimzi on", "vnd.kafka.json.v2+json' http://", "/topics/TOPIC \\")
}

func TestSandboxUsage(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		if err := runCommand(context.Background(), &out, io.Discard, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	f("--listen=0.0.0.0:0: not a loopback address; --allow-remote", "--listen", "0.0.0.0:0")
	f("--kafka-host", "--kafka-listen", ":0", "--allow-remote")
	f("--kafka-listen=nowhere", "--kafka-listen", "nowhere")
	f("--topic=..", "--topic", "..:1")
	f("--topic=a:0", "--topic", "a:0")
	f("--limits=premium", "--limits", "premium")
	f(`fault "nothing": unknown`, "--fault", "nothing")
	f("--audience=x: needs --oauth", "--audience", "x")
	f("want ID:FILE", "--oauth", "justanid")
	f("needs --tls", "--tls-client-ca", "x")
	f("--auth: want key:FILE", "--auth", "justakey")
	f("--max-block=0s", "--max-block", "0")
	f("needs --tls", "--ca-out", "x")
	f("--max-in-flight=0", "--max-in-flight", "0")
	f("no Kafka in the process", "--brokers", "127.0.0.1:1", "--data-dir", "x")
	f("unknown command", "extra")

	var out bytes.Buffer
	if err := runCommand(context.Background(), &out, io.Discard, "--fault", "help"); err != nil || !strings.Contains(out.String(), "--fault reset=500,lost=all,times=2") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
