package ship

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/sandbox"
	"github.com/produce-agent/produce-agent/internal/stream"
)

func TestReportLine(t *testing.T) {
	f := func(raw, message, want string) {
		t.Helper()
		var out bytes.Buffer
		l, err := openReports("-", &out)
		if err != nil {
			t.Fatal(err)
		}
		l.add("a \"b\"\n.log", 7, "t", &stream.Report{Raw: []byte(raw), Message: []byte(message)})
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != `{"source":"a \"b\"\n.log","position":7,"topic":"t"`+want+"}\n" || !json.Valid(out.Bytes()) {
			t.Errorf("%q: %s", raw, got)
		}
	}
	f(`{"error_code":200,"offset":1}`, "", `,"error_code":200,"offset":1`)
	f("{\r\n  \"error_code\" : 200,\n\t\"x\": {\n\"y\": [ ]}}\r\n", "", `,"error_code":200,"x":{"y":[]}`)
	f(" \n{\"error_code\":429,\"message\":\"a b\"}", "", `,"error_code":429,"message":"a b"`)
	f(`{}`, "", ``)
	f(`{ }`, "", ``)
	f(`{"error_code":`, "unreadable", `,"error_code":0,"message":"unreadable"`)
	f(`[1]`, "odd", `,"error_code":0,"message":"odd"`)
	f(`7`, "", `,"error_code":0,"message":""`)
	f(``, "\xffx", `,"error_code":0,"message":"`+"\ufffd"+`x"`)
}

// A report shows soon, not when 64 KiB have gathered.
func TestReportsFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		l, err := openReports("-", &out)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			l.add("s", 0, "t", &stream.Report{Raw: []byte(`{"error_code":200}`)})
			time.Sleep(flushAfter)
			synctest.Wait()
			if got := strings.Count(out.String(), "\n"); got != i+1 {
				t.Errorf("%d lines, want %d", got, i+1)
			}
		}
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
}

// Every report has its line, whatever it looks like on the wire, and what went
// wrong with the file is told.
func TestReports(t *testing.T) {
	for _, chunks := range []string{sandbox.ChunksTwo, sandbox.ChunksOdd, sandbox.ChunksByte} {
		s := startBox(t, func(c *sandbox.Config) {
			c.Faults = sandbox.Faults{
				{Kind: sandbox.FaultFraming, Chunks: chunks, Pretty: true, Extra: true},
				{Kind: sandbox.FaultReport, Code: 50002, Contains: "bad"},
			}
		})
		cfg := testConfig(t)
		cfg.Reports = filepath.Join(t.TempDir(), "reports")
		if res, _ := run(t, s, cfg, "a\nbad\nc\n"); res.Delivered != 2 || res.Rejected != 1 || res.Err != nil {
			t.Errorf("%+v, %v", res.Summary, res.Err)
		}
		raw, err := os.ReadFile(cfg.Reports)
		if err != nil {
			t.Fatal(err)
		}
		codes := map[float64]float64{}
		for line := range strings.Lines(string(raw)) {
			var m struct {
				Source, Topic string
				Position      float64
				Code          float64 `json:"error_code"`
			}
			if err := json.Unmarshal([]byte(line), &m); err != nil || m.Source != "stdin" || m.Topic != "t" {
				t.Errorf("%s: %v", line, err)
			}
			codes[m.Position] = m.Code
		}
		if len(codes) != 3 || codes[0] != 200 || codes[2] != 50002 || codes[6] != 200 {
			t.Errorf("chunks %s: codes by position %v", chunks, codes)
		}
	}
}

func TestReportsFull(t *testing.T) {
	l, err := openReports("/dev/full", nil)
	if err != nil {
		t.Skip(err)
	}
	l.add("s", 0, "t", &stream.Report{Raw: []byte(`{}`)})
	if err := l.close(); err == nil || !strings.HasPrefix(err.Error(), "--reports: ") || !errors.Is(err, os.ErrInvalid) && !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v", err)
	}
}
