package ship

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

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
func (l *reportLog) add(source string, pos record.Position, topic string, r *stream.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.line, _ = record.AppendPayloadJSON(append(l.line[:0], `{"source":`...), []byte(source))
	l.line = append(l.line, `,"position":`...)
	l.line = strconv.AppendInt(l.line, pos.Offset, 10)
	l.line = append(l.line, `,"topic":"`...)
	l.line = append(l.line, topic...)
	l.line = append(l.line, '"')
	l.line = append(l.line, l.members(r)...)
	_, l.err = l.w.Write(append(l.line, '\n'))
}

// members returns the report's members with a comma in front and the closing
// brace behind; of an unreadable report what was made of it.
func (l *reportLog) members(r *stream.Report) []byte {
	l.compact.Reset()
	raw := r.Raw
	if bytes.ContainsAny(raw, "\r\n") || !json.Valid(raw) {
		if json.Compact(&l.compact, raw) != nil {
			text, _ := record.AppendPayloadJSON([]byte(`,"error_code":0,"message":`), r.Message)
			return append(text, '}')
		}
		raw = l.compact.Bytes()
	}
	raw = bytes.TrimSpace(raw[1:])
	if len(raw) == 1 {
		return raw
	}
	return append([]byte{','}, raw...)
}

// flush writes out what is buffered.
func (l *reportLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.w.Flush(); l.err == nil {
		l.err = err
	}
}

func (l *reportLog) close() error {
	l.flush()
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
