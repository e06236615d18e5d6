package ship

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// reportLog writes every delivery report as one NDJSON line: source, position
// and topic of its record, then the report's own members.
//
// Concurrency: safe.
type reportLog struct {
	mu      sync.Mutex
	w       *bufio.Writer
	c       io.Closer
	line    []byte
	compact bytes.Buffer
	timer   *time.Timer // flushes what has waited long enough
	closed  bool
	err     error
}

// openReports opens the log; "-" is stdout.
func openReports(path string, stdout io.Writer) (*reportLog, error) {
	if path == "-" {
		return &reportLog{w: bufio.NewWriterSize(stdout, 64<<10)}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--reports: %w", err)
	}
	return &reportLog{w: bufio.NewWriterSize(f, 64<<10), c: f}, nil
}

// add writes one report. The first error stays and is returned by close.
func (l *reportLog) add(source string, offset int64, topic string, r *stream.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.line, _ = record.AppendPayloadJSON(append(l.line[:0], `{"source":`...), []byte(source))
	l.line = append(l.line, `,"position":`...)
	l.line = strconv.AppendInt(l.line, offset, 10)
	l.line = append(l.line, `,"topic":"`...)
	l.line = append(l.line, topic...)
	l.line = append(l.line, '"')
	l.line = append(l.line, l.members(r)...)
	if l.w.Buffered() == 0 {
		if l.timer == nil {
			l.timer = time.AfterFunc(flushAfter, l.flush)
		} else {
			l.timer.Reset(flushAfter)
		}
	}
	_, l.err = l.w.Write(append(l.line, '\n'))
}

// members returns the report's members with a comma in front and the closing
// brace behind; of an unreadable report what was made of it.
func (l *reportLog) members(r *stream.Report) []byte {
	raw := bytes.TrimSpace(r.Raw)
	if len(raw) == 0 || raw[0] != '{' || !json.Valid(raw) {
		text, _ := record.AppendPayloadJSON([]byte(`,"error_code":0,"message":`), bytes.ToValidUTF8(r.Message, []byte("\uFFFD")))
		return append(text, '}')
	}
	if bytes.ContainsAny(raw, "\r\n") {
		l.compact.Reset()
		if err := json.Compact(&l.compact, raw); err != nil {
			panic("BUG: compact valid JSON: " + err.Error())
		}
		raw = l.compact.Bytes()
	}
	raw = bytes.TrimSpace(raw[1:])
	if len(raw) == 1 {
		return raw
	}
	return append([]byte{','}, raw...)
}

// flushAfter is how long a report waits for others before it is written out.
const flushAfter = 200 * time.Millisecond

// flush writes out what is buffered.
func (l *reportLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if err := l.w.Flush(); l.err == nil {
		l.err = err
	}
}

func (l *reportLog) close() error {
	l.flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.c != nil {
		if err := l.c.Close(); l.err == nil {
			l.err = err
		}
	}
	if l.err != nil {
		return fmt.Errorf("--reports: %w", l.err)
	}
	return nil
}
