package ship

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/sandbox"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// agent is a running Service.
type agent struct {
	*Service
	t    testing.TB
	log  *lockedBuffer
	stop context.CancelFunc // asks for the end
	over chan Result
}

// load reads a configuration; DIR is a folder of the test's own.
func load(t testing.TB, dir, endpoint, yaml string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	yaml = strings.NewReplacer("DIR", dir, "ENDPOINT", endpoint).Replace(yaml)
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Load(path, config.Options{})
	if err := problems.Err(); err != nil {
		t.Fatalf("%v: %v", err, problems)
	}
	return cfg
}

// testEnv is what a Service gets in tests.
func testEnv(t testing.TB, log io.Writer) ServiceEnv {
	hard, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("the test's time is up"))
	t.Cleanup(cancel)
	return ServiceEnv{
		Stdout: io.Discard, Log: slog.New(slog.NewTextHandler(log, nil)), Hard: hard, Grace: 2 * time.Second,
		Address: func(c *config.Cluster) (stream.Address, error) {
			return stream.Address{URL: c.RESTEndpoint, Auth: auth.None{}, DialTimeout: time.Second}, nil
		},
		Latency: func(string) func(float64) { return nil },
	}
}

// startAgent runs cfg until the test ends.
func startAgent(t testing.TB, cfg *config.Config, set func(*ServiceEnv)) *agent {
	t.Helper()
	a := &agent{t: t, log: &lockedBuffer{}, over: make(chan Result, 1)}
	env := testEnv(t, a.log)
	if set != nil {
		set(&env)
	}
	var err error
	if a.Service, err = NewService(cfg, env); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	done := make(chan struct{})
	go func() { defer close(done); a.over <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return a
}

// end stops the agent and checks its books.
func (a *agent) end() Result {
	a.t.Helper()
	a.stop()
	res := <-a.over
	if res.Read != res.Delivered+res.Rejected+res.Pending || res.Pending < 0 {
		a.t.Errorf("the books do not balance: %+v\n%s", res.Summary, a.log)
	}
	return res
}

// soon waits until ok.
func soon(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// post sends lines to an http input and returns the status.
func post(t testing.TB, at, body string) int {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}
	resp, err := client.Post("http://"+at+"/", "text/plain", strings.NewReader(body)) //nolint:noctx // bounded
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// freeAddr is an address that nothing listens at.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

const edgeYAML = `
data_dir: DIR/data
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 1}}
inputs:
  edge: {type: http, listen: "LISTEN", respond: after_delivery}
routes:
  - {name: r, inputs: [edge], cluster: main, topic: t}
`

// Whoever asks during a reload gets an answer, whatever is on its way then.
func TestServiceAskedWhileReloading(t *testing.T) {
	s := startBox(t, func(c *sandbox.Config) { c.Faults = sandbox.Faults{{Kind: sandbox.FaultStall}} })
	dir, yaml := t.TempDir(), strings.Replace(edgeYAML, "LISTEN", freeAddr(t), 1)
	a := startAgent(t, load(t, dir, s.URL(), yaml), func(e *ServiceEnv) { e.Grace = 20 * time.Millisecond })
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				a.Figures()
				a.Ready()
				a.Summary()
			}
		}
	}()
	at := a.cfg.Inputs[0].HTTP.Listen
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 5 {
			post(t, at, "a\nb\n")
		}
	}()
	for i := range 5 {
		time.Sleep(20 * time.Millisecond)
		if err := a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "max: 1", fmt.Sprint("max: ", i+2), 1))); err != nil {
			t.Error(err)
		}
	}
	<-sent
	close(stop)
	<-done
	a.end()
	// What came too late changes nothing.
	if err := a.Reload(load(t, dir, s.URL(), yaml)); !errors.Is(err, errEnding) {
		t.Errorf("reload after the end: %v", err)
	}
}

// A part that cannot be opened is refused, and what ran before runs again. Where
// that cannot be opened any more either, the agent says so until it can.
func TestServiceReloadGoesBack(t *testing.T) {
	s := startBox(t, nil)
	dir, at := t.TempDir(), freeAddr(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	yaml := strings.Replace(edgeYAML, "LISTEN", at, 1)
	yaml = strings.Replace(yaml, "topic: t", "topic: t, buffer: {type: disk, max_bytes: 64MB}", 1)
	good := load(t, dir, s.URL(), yaml)
	if _, err := NewService(load(t, t.TempDir(), s.URL(), strings.Replace(yaml, at, taken.Addr().String(), 1)), testEnv(t, io.Discard)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("start at a port that is taken: %v", err)
	}
	a := startAgent(t, good, nil)
	soon(t, "ready", func() bool { return len(a.Ready()) == 0 })
	if err := a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, at, taken.Addr().String(), 1))); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("reload to a port that is taken: %v", err)
	}
	if post(t, at, "a\n") != 200 || len(a.Ready()) > 0 {
		t.Errorf("the old one is not back: %v", a.Ready())
	}
	buffer := filepath.Join(dir, "data", "buffer", "r")
	if err := errors.Join(os.Rename(buffer, buffer+"-away"), os.WriteFile(buffer, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "64MB", "32MB", 1))); err == nil || !strings.Contains(err.Error(), "could not be started again") {
		t.Errorf("neither can be opened: %v", err)
	}
	if why := strings.Join(a.Ready(), " "); !strings.Contains(why, "reload") || !strings.Contains(why, buffer) {
		t.Errorf("ready: %v", why)
	}
	if err := errors.Join(os.Remove(buffer), os.Rename(buffer+"-away", buffer)); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(good); err != nil {
		t.Fatal(err)
	}
	soon(t, "ready again", func() bool { return len(a.Ready()) == 0 })
	if post(t, at, "b\n") != 200 {
		t.Errorf("not back: %v", a.Ready())
	}
	if res := a.end(); res.Err != nil || res.Delivered != 2 || res.Pending != 0 {
		t.Errorf("%+v", res)
	}
}

// A dead letter that is full holds everything up, the reload that gives it more
// room not.
func TestServiceReloadMakesRoom(t *testing.T) {
	s := startBox(t, nil)
	dir := t.TempDir()
	log := filepath.Join(dir, "a.log")
	if err := os.WriteFile(log, []byte(strings.Repeat("{bad "+strings.Repeat("x", 500)+"\n", 6000)), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml := `
data_dir: DIR/data
clusters:
  main: {rest_endpoint: "ENDPOINT"}
inputs:
  app: {type: file, include: ["DIR/*.log"]}
routes:
  - {name: r, inputs: [app], cluster: main, topic: t, value: {type: JSON}, dead_letter: {max_bytes: 1MB}}
`
	a := startAgent(t, load(t, dir, s.URL(), yaml), nil)
	soon(t, "full", func() bool { return strings.Contains(strings.Join(a.Ready(), " "), "dead letter is full") })
	done := make(chan error, 1)
	go func() { done <- a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "1MB", "100MB", 1))) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the reload waits for the room that it brings")
	}
	soon(t, "all are rejected", func() bool { return a.Summary().Rejected >= 6000 })
	if res := a.end(); res.Rejected != 6000 || res.Pending != 0 || res.Err != nil {
		t.Errorf("%+v", res)
	}
}

// A reload that brings no room for what is rejected is in force all the same,
// and nothing of it is lost.
func TestServiceReloadsBesideFullDeadLetter(t *testing.T) {
	s := startBox(t, nil)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.log"), []byte(strings.Repeat("{bad "+strings.Repeat("x", 500)+"\n", 6000)), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml := `
data_dir: DIR/data
clusters:
  main: {rest_endpoint: "ENDPOINT", streams: {max: 2}}
inputs:
  app: {type: file, include: ["DIR/*.log"]}
routes:
  - {name: r, inputs: [app], cluster: main, topic: t, value: {type: JSON}, dead_letter: {max_bytes: 1MB}}
`
	// The grace is what a reload waits for what the disk keeps from being settled.
	a := startAgent(t, load(t, dir, s.URL(), yaml), func(e *ServiceEnv) { e.Grace = 200 * time.Millisecond })
	soon(t, "full", func() bool { return strings.Contains(strings.Join(a.Ready(), " "), "dead letter is full") })
	done := make(chan error, 1)
	go func() { done <- a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "max: 2", "max: 3", 1))) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reload waits for room that nobody makes")
	}
	if err := a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "1MB", "100MB", 1))); err != nil {
		t.Error(err)
	}
	soon(t, "all are rejected", func() bool { return a.Summary().Rejected >= 6000 && a.Summary().Pending == 0 })
	if res := a.end(); res.Rejected < 6000 || res.Pending != 0 || res.Err != nil {
		t.Errorf("%+v", res)
	}
}

// Records of stdin that a reload finds on their way go to the cluster that
// their route has then, however many reloads that takes, and before the end.
func TestServiceAdoptsStdin(t *testing.T) {
	stalls := startBox(t, func(c *sandbox.Config) { c.Faults = sandbox.Faults{{Kind: sandbox.FaultStall}} })
	s := startBox(t, nil)
	yaml := `
clusters:
  main: {rest_endpoint: "ENDPOINT"}
inputs:
  in: {type: stdin}
routes:
  - {name: r, inputs: [in], cluster: main, topic: t, dead_letter: {path: DIR/dead.ndjson}, retry: {max: 1s}}
observe: {listen: ""}
`
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a := startAgent(t, load(t, dir, stalls.URL(), yaml), func(e *ServiceEnv) { e.Stdin, e.Grace = in, 50*time.Millisecond })
	for i := range 1000 {
		fmt.Fprintln(out, i)
	}
	soon(t, "all are on their way", func() bool { return a.Summary().Read == 1000 })
	fmt.Fprint(out, "a line that ")
	for i, endpoint := range []string{"http://127.0.0.1:1", "http://127.0.0.1:2", s.URL()} {
		time.Sleep(50 * time.Millisecond) // stdin is read
		if err := a.Reload(load(t, dir, endpoint, yaml)); err != nil {
			t.Error(err)
		}
		fmt.Fprint(out, i, " ")
	}
	fmt.Fprintln(out, "goes on")
	out.Close()
	var res Result
	select {
	case res = <-a.over:
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not end: %+v\n%s", a.Summary(), a.log)
	}
	if got := values(t, s, "t"); len(got) != 1001 || got["a line that 0 1 2 goes on"] != 1 || res.Delivered != 1001 || res.Pending != 0 || res.Err != nil {
		t.Errorf("%d there, %+v\n%s", len(got), res, a.log)
	}
}

// A file that was to be read once and is read leaves the agent ready for what
// else it does.
func TestServiceReadyAfterOnePass(t *testing.T) {
	s := startBox(t, nil)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.log"), []byte("a\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml := strings.Replace(edgeYAML, "LISTEN", freeAddr(t), 1)
	yaml = strings.Replace(yaml, "inputs:\n", "inputs:\n  app: {type: file, include: [\"DIR/*.log\"], follow: false}\n", 1)
	a := startAgent(t, load(t, dir, s.URL(), strings.Replace(yaml, "[edge]", "[edge, app]", 1)), nil)
	soon(t, "the file is delivered", func() bool { return a.Summary().Delivered == 2 })
	<-a.inputs["app"].job.done
	if why := a.Ready(); len(why) > 0 {
		t.Errorf("not ready: %v", why)
	}
	if res := a.end(); res.Err != nil {
		t.Errorf("%+v", res)
	}
}

// Streams of a run that is to end give up sooner than those of a service may.
func TestServiceReloadGoesOn(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	dir := t.TempDir()
	yaml := strings.Replace(edgeYAML, "LISTEN", freeAddr(t), 1)
	yaml = strings.Replace(yaml, "[edge]", "[in]", 1)
	yaml = strings.Replace(yaml, "topic: t", "topic: t, retry: {max_attempts: 1}", 1)
	both := strings.Replace(strings.Replace(yaml, "inputs:\n", "inputs:\n  in: {type: stdin}\n", 1), "[in]", "[in, edge]", 1)
	var only []string
	for line := range strings.Lines(both) {
		if !strings.Contains(line, "type: http") {
			only = append(only, strings.Replace(line, ", edge]", "]", 1))
		}
	}
	a := startAgent(t, load(t, dir, "http://127.0.0.1:1", strings.Join(only, "")), func(e *ServiceEnv) { e.Stdin = in })
	soon(t, "given up", func() bool { return a.clusters["main"].givenUp() != nil })
	if err := a.Reload(load(t, dir, "http://127.0.0.1:1", both)); err != nil {
		t.Fatal(err)
	}
	soon(t, "asked again", func() bool { return strings.Count(a.log.String(), "will try again") >= 2 })
	if err := a.clusters["main"].givenUp(); err != nil {
		t.Errorf("given up: %v", err)
	}
	a.end()
}

// What a buffer has lost to damage is lost in the books, not pending, also when
// a reload closes it before anybody asks.
func TestServiceReloadDamagedBuffer(t *testing.T) {
	dir := t.TempDir()
	yaml := strings.Replace(edgeYAML, "LISTEN", freeAddr(t), 1)
	yaml = strings.Replace(yaml, "after_delivery", "after_buffer", 1)
	yaml = strings.Replace(yaml, "topic: t", "topic: t, buffer: {type: disk, max_bytes: 64MB}", 1)
	cfg := load(t, dir, "http://127.0.0.1:1", yaml)
	a := startAgent(t, cfg, nil)
	if status := post(t, cfg.Inputs[0].HTTP.Listen, strings.Repeat("a\n", 100)); status != 200 {
		t.Fatalf("status %d\n%s", status, a.log)
	}
	a.end()
	files, err := filepath.Glob(filepath.Join(dir, "data", "buffer", "r", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && info.Size() > 100 && !strings.Contains(filepath.Base(f), "ack") {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
	a = startAgent(t, cfg, nil)
	if err := a.Reload(load(t, dir, "http://127.0.0.1:1", strings.Replace(yaml, "64MB", "32MB", 1))); err != nil {
		t.Fatal(err)
	}
	if sum := a.end(); sum.Read != 100 || sum.Rejected != 100 || sum.Pending != 0 {
		t.Errorf("%+v\n%v", sum.Summary, files)
	}
}

// certify writes a key and a certificate of that number for it.
func certify(t testing.TB, cert, key string, serial int64) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A reload takes certificates that were renewed, though the configuration is
// what it was; nothing else is stopped.
func TestServiceReloadTakesCertificates(t *testing.T) {
	s := startBox(t, nil)
	dir, at := t.TempDir(), freeAddr(t)
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certify(t, cert, key, 1)
	yaml := strings.Replace(edgeYAML, `"LISTEN"`, `"`+at+`", tls: {cert_file: DIR/cert.pem, key_file: DIR/key.pem}`, 1)
	cfg := load(t, dir, s.URL(), yaml)
	a := startAgent(t, cfg, nil)
	serial := func() int64 {
		t.Helper()
		c, err := tls.Dial("tcp", at, &tls.Config{InsecureSkipVerify: true}) //nolint:noctx // which one it is, is all there is to see
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	was := a.inputs["edge"]
	if err := a.Reload(cfg); err != nil || serial() != 1 || a.inputs["edge"] != was {
		t.Errorf("nothing has changed: %v, certificate %d", err, serial())
	}
	k := a.clusters["main"]
	certify(t, cert, key, 2)
	if err := a.Reload(cfg); err != nil || serial() != 2 || a.clusters["main"] != k {
		t.Errorf("renewed: %v, certificate %d", err, serial())
	}
	a.end()
}

// Counters never fall: what replaced inputs and buffers counted goes on.
func TestServiceReloadKeepsCounters(t *testing.T) {
	s := startBox(t, nil)
	dir, at := t.TempDir(), freeAddr(t)
	yaml := strings.Replace(edgeYAML, "LISTEN", at, 1)
	yaml = strings.Replace(yaml, "topic: t", "topic: t, buffer: {type: disk, max_bytes: 64MB}", 1)
	a := startAgent(t, load(t, dir, s.URL(), yaml), nil)
	for i, size := range []string{"32MB", "48MB", "64MB"} {
		if post(t, at, "a\nb\n") != 200 {
			t.Fatalf("refused\n%s", a.log)
		}
		if err := a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "64MB", size, 1))); err != nil {
			t.Fatal(err)
		}
		f := a.Figures()
		if in := f.Inputs[0]; in.Records != int64(2*i+2) || in.Bytes < in.Records*2 || f.Clusters[0].Sent != in.Records {
			t.Errorf("after %d: %+v, %d sent", i+1, in, f.Clusters[0].Sent)
		}
	}
	if res := a.end(); res.BytesRead < 12 || res.Delivered != 6 {
		t.Errorf("%+v", res)
	}
}

// A rejected record whose dead letter cannot be written when its buffer is
// closed is the buffer's, and in the books once.
func TestServiceReloadWithRejectionsWaiting(t *testing.T) {
	s := startBox(t, func(c *sandbox.Config) {
		c.Faults = sandbox.Faults{{Kind: sandbox.FaultReport, Code: 50002, Contains: "bad"}}
	})
	dir, at := t.TempDir(), freeAddr(t)
	yaml := strings.Replace(edgeYAML, "LISTEN", at, 1)
	yaml = strings.Replace(yaml, "after_delivery", "after_buffer", 1)
	yaml = strings.Replace(yaml, "topic: t", "topic: t, buffer: {type: disk, max_bytes: 64MB}, retry: {max_attempts: 1}, dead_letter: {path: DIR/d.ndjson, max_bytes: 1MB}", 1)
	a := startAgent(t, load(t, dir, s.URL(), yaml), func(e *ServiceEnv) { e.Grace = 200 * time.Millisecond })
	if status := post(t, at, strings.Repeat("bad "+strings.Repeat("x", 1000)+"\n", 1000)); status != 200 {
		t.Fatalf("status %d", status)
	}
	soon(t, "full", func() bool { return strings.Contains(strings.Join(a.Ready(), " "), "dead letter is full") })
	if err := a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "64MB", "32MB", 1))); err != nil {
		t.Fatal(err)
	}
	makeRoom := func() {
		all, _ := filepath.Glob(filepath.Join(dir, "d*.ndjson"))
		for _, f := range all {
			os.Remove(f)
		}
	}
	makeRoom()
	soon(t, "all are rejected", func() bool {
		sum := a.Summary()
		if sum.Pending < 0 {
			t.Fatalf("%+v", sum)
		}
		if strings.Contains(strings.Join(a.Ready(), " "), "dead letter is full") {
			makeRoom()
		}
		return sum.Rejected == 1000
	})
	if res := a.end(); res.Rejected != 1000 || res.Pending != 0 {
		t.Errorf("%+v", res)
	}
}

// The end may be asked for when the inputs have ended already: it has its bound
// then, too.
func TestServiceEndsWithinGrace(t *testing.T) {
	s := startBox(t, func(c *sandbox.Config) { c.Faults = sandbox.Faults{{Kind: sandbox.FaultStall}} })
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(out, "a")
	out.Close()
	yaml := strings.Replace(edgeYAML, `{type: http, listen: "LISTEN", respond: after_delivery}`, "{type: stdin}", 1)
	a := startAgent(t, load(t, t.TempDir(), s.URL(), yaml), func(e *ServiceEnv) { e.Stdin, e.Grace = in, 100*time.Millisecond })
	soon(t, "the input has ended", a.Service.over)
	a.stop()
	select {
	case res := <-a.over:
		if res.Pending != 1 || res.Err == nil {
			t.Errorf("%+v", res)
		}
	case <-time.After(10 * time.Second):
		t.Error("it does not end")
	}
}

// A route may have moved to another cluster when its buffer is closed: what the
// first one still delivers is in the books once.
func TestServiceReloadMovedBuffer(t *testing.T) {
	slow := startBox(t, func(c *sandbox.Config) { c.Faults = sandbox.Faults{{Kind: sandbox.FaultSlow, For: 2 * time.Second}} })
	s := startBox(t, nil)
	dir, at := t.TempDir(), freeAddr(t)
	yaml := strings.Replace(`
data_dir: DIR/data
clusters:
  slow: {rest_endpoint: "SLOW"}
  main: {rest_endpoint: "ENDPOINT"}
inputs:
  edge: {type: http, listen: "LISTEN", respond: after_buffer}
  app: {type: file, include: ["DIR/*.log"]}
routes:
  - {name: r, inputs: [edge], cluster: slow, topic: t, buffer: {type: disk, max_bytes: 64MB}}
  - {name: other, inputs: [app], cluster: slow, topic: t}
observe: {listen: ""}
`, "SLOW", slow.URL(), 1)
	yaml = strings.Replace(yaml, "LISTEN", at, 1)
	a := startAgent(t, load(t, dir, s.URL(), yaml), nil)
	soon(t, "ready", func() bool { return len(a.Ready()) == 0 })
	if status := post(t, at, "a\n"); status != 200 {
		t.Fatalf("status %d", status)
	}
	soon(t, "sent", func() bool { return a.Figures().Clusters[0].Sent == 1 })
	yaml = strings.Replace(yaml, "cluster: slow", "cluster: main", 1)
	for _, size := range []string{"64MB", "32MB"} {
		if err := a.Reload(load(t, dir, s.URL(), strings.Replace(yaml, "64MB", size, 1))); err != nil {
			t.Fatal(err)
		}
	}
	soon(t, "both have it", func() bool {
		f := a.Figures()
		return len(f.Clusters) == 2 && f.Clusters[0].Delivered == 1 && f.Clusters[1].Delivered == 1
	})
	if res := a.end(); res.Read != 1 || res.Delivered != 1 {
		t.Errorf("%+v", res.Summary)
	}
}

// Of a cluster that a reload took out only the counters go on: a limit of 0
// would read as none.
func TestServiceForgetsLimits(t *testing.T) {
	s := startBox(t, nil)
	dir, at := t.TempDir(), freeAddr(t)
	yaml := strings.Replace(edgeYAML, "LISTEN", at, 1)
	a := startAgent(t, load(t, dir, s.URL(), yaml), nil)
	if status := post(t, at, "a\n"); status != 200 {
		t.Fatalf("status %d", status)
	}
	if err := a.Reload(load(t, dir, s.URL(), strings.ReplaceAll(yaml, "main", "next"))); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	NewMetrics(reg, BuildInfo{"v", "r", "g"}).Watch(a.Figures)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "cluster" {
					got[strings.TrimPrefix(f.GetName(), "produce_agent_")+" "+l.GetValue()] = true
				}
			}
		}
	}
	for name, want := range map[string]bool{
		"streams_opened_total main": true, "limit_configured main": false, "limit_records_per_second main": false,
		"streams_opened_total next": true, "limit_configured next": true,
	} {
		if got[name] != want {
			t.Errorf("%s: there %v, want %v", name, got[name], want)
		}
	}
	a.end()
}
