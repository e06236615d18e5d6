package ingest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/record"
)

// DeadLetter is one line of a dead-letter file: a rejected record with the
// reason, and all that is needed to send it again as it was.
//
// Shape: NDJSON. The members up to Record are always there and a contract.
type DeadLetter struct {
	Time      string  `json:"time"` // RFC 3339, UTC
	Source    string  `json:"source"`
	Position  int64   `json:"position"` // byte offset in the source
	Topic     string  `json:"topic"`
	ErrorCode int     `json:"error_code"`
	Message   string  `json:"message"`
	Attempts  int     `json:"attempts"`
	Record    *string `json:"record"` // the payload unchanged; null where it was not kept or is a tombstone

	Encoding  string          `json:"encoding,omitempty"`   // "base64": Record is not UTF-8
	Reason    string          `json:"reason,omitempty"`     // short, as in metrics
	ValueType string          `json:"value_type,omitempty"` // STRING, JSON or BINARY: as it was sent
	Tombstone bool            `json:"tombstone,omitempty"`  // the value is a Kafka null
	Envelope  json.RawMessage `json:"envelope,omitempty"`   // key, headers, partition_id, timestamp as sent
	Raw       bool            `json:"raw,omitempty"`        // Record is a whole v3 record object, or was to be one
	Unsent    bool            `json:"unsent,omitempty"`     // Record is the line as it was read: key and all, never encoded
	Length    int64           `json:"length,omitempty"`     // of a record that was too long to be kept
}

// NewDeadLetter describes a record that was encoded: encoded is its wire form.
func NewDeadLetter(encoded []byte) DeadLetter {
	parts, err := record.Decode(encoded)
	if err != nil { // never lose it: keep the wire form itself
		parts = record.Parts{Raw: true, Payload: bytes.TrimSuffix(encoded, []byte("\n"))}
	}
	var d DeadLetter
	d.SetPayload(parts.Payload)
	d.Raw, d.Tombstone, d.Envelope = parts.Raw, parts.Null, parts.Envelope
	if parts.Type != record.Auto {
		d.ValueType = parts.Type.String()
	}
	if d.Tombstone {
		d.Record = nil
	}
	return d
}

// ParseDeadLetter reads one line of a dead-letter file.
// Errors: the line is no JSON object, or tells of no record.
func ParseDeadLetter(line []byte) (DeadLetter, error) {
	var d DeadLetter
	if !json.Valid(line) || bytes.TrimSpace(line)[0] != '{' {
		return d, errors.New("not a dead-letter line: it is no JSON object; the last line may have been cut by a crash")
	}
	if err := json.Unmarshal(line, &d); err != nil {
		return DeadLetter{}, fmt.Errorf("not a dead-letter line: %w", err)
	}
	if d.Record == nil && !d.Tombstone && d.Length == 0 {
		return DeadLetter{}, errors.New(`not a dead-letter line: it has no member "record"`)
	}
	return d, nil
}

// SetPayload stores payload, in base64 where it is not UTF-8.
func (d *DeadLetter) SetPayload(payload []byte) {
	quoted, encoding := record.AppendPayloadJSON(nil, payload)
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		encoding, text = "base64", base64.StdEncoding.EncodeToString(payload)
	}
	d.Record, d.Encoding = &text, encoding
}

// payload returns what SetPayload was given.
func (d *DeadLetter) payload() ([]byte, error) {
	if d.Record == nil {
		return nil, nil
	}
	switch d.Encoding {
	case "":
		return []byte(*d.Record), nil
	case "base64":
		return base64.StdEncoding.DecodeString(*d.Record)
	}
	return nil, fmt.Errorf("encoding %q is not known", d.Encoding)
}

// append puts the record together as it was sent, or as type over asks; a line
// that never was is encoded by enc.
func (d *DeadLetter) append(dst []byte, enc *record.Encoder, over *record.Type) ([]byte, error) {
	payload, err := d.payload()
	if err != nil {
		return dst, err
	}
	if d.Unsent && d.Record != nil {
		return enc.Append(dst, payload, []byte(d.Source+":"+strconv.FormatInt(d.Position, 10)))
	}
	if d.Raw {
		if err := record.CheckRecord(payload); err != nil {
			return dst, err
		}
		return record.AppendRaw(dst, payload), nil
	}
	if d.Record == nil && !d.Tombstone {
		return dst, errors.New("its record was too long to be kept: send it from its source")
	}
	t := record.Auto
	if d.ValueType != "" {
		if t, err = record.ParseType(d.ValueType); err != nil {
			return dst, err
		}
	}
	if over != nil {
		t = *over
	}
	return record.AppendEnvelope(dst, d.Envelope, t, payload, d.Tombstone)
}

// ReasonDeadLetter is why a Sink gets a whole dead-letter line to reject.
const ReasonDeadLetter = "dead_letter"

// DeadLetterReader sends the records of a dead-letter file again.
type DeadLetterReader struct {
	Count int64 // stop after so many lines; 0: read all

	count int64
	out   *Router
	topic string       // instead of each line's own; "" for those
	over  *record.Type // instead of each line's own
}

// NewDeadLetterReader returns a reader whose records go to the topic each line
// names, or to topic when that is not empty; over replaces their value type.
// Lines that were never encoded are, by the settings of out's first route.
func NewDeadLetterReader(out *Router, topic string, over *record.Type) *DeadLetterReader {
	return &DeadLetterReader{out: out, topic: topic, over: over}
}

// Read takes the lines of in, as source number src. A line that is no
// dead-letter line, or whose record cannot be sent, is rejected as it stands,
// under ReasonDeadLetter.
// Errors: ErrCount as soon as enough was read; the Sink's; in's own.
func (r *DeadLetterReader) Read(in io.Reader, src int32) error {
	lines := bufio.NewReaderSize(in, readBuffer)
	var offset int64
	for {
		line, err := lines.ReadBytes('\n')
		whole := err == nil || errors.Is(err, io.EOF)
		if whole && len(bytes.TrimSpace(line)) > 0 {
			r.count++
			pos := record.Position{Offset: offset, Len: int32(len(line)), Source: src}
			if err := r.line(bytes.TrimSuffix(line, []byte("\n")), pos); err != nil {
				return err
			}
			if r.Count > 0 && r.count >= r.Count {
				return ErrCount
			}
		}
		offset += int64(len(line))
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errStopped):
			return nil
		case err != nil:
			return err
		}
	}
}

func (r *DeadLetterReader) line(line []byte, pos record.Position) error {
	d, err := ParseDeadLetter(line)
	if err != nil {
		return r.refuse(r.topic, line, pos, err)
	}
	topic := r.topic
	if topic == "" {
		topic = d.Topic
	}
	if err := CheckTopic(topic); err != nil {
		return r.refuse(topic, line, pos, err)
	}
	r.out.Lock()
	defer r.out.Unlock()
	to := r.out.routes[0]
	o := r.out.topic(to, topic)
	tail, err := r.out.tail(o)
	if err != nil {
		return err
	}
	buf, err := d.append(tail, to.enc, r.over)
	if err != nil {
		r.out.undo(o)
		return r.refuse(topic, line, pos, err)
	}
	return r.out.commit(o, buf, pos)
}

func (r *DeadLetterReader) refuse(topic string, line []byte, pos record.Position, err error) error {
	return r.out.sink.Reject(r.out.routes[0].ID, topic, pos, line, &record.InvalidError{
		Code: 400, Reason: ReasonDeadLetter, Message: "this dead-letter line cannot be sent: " + err.Error(),
	})
}
