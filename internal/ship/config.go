package ship

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// Config says what a run reads, how it is encoded and where rejects go. Start
// from DefaultConfig.
type Config struct {
	Topic string
	Files []string // empty or "-": stdin
	Input string   // lines or records

	Key            string
	HasKey         bool
	KeyField       string
	KeyDelim       string
	KeyType        string
	ValueType      string
	CheckJSON      bool
	NullValue      string
	HasNull        bool
	Partition      int32
	Headers        []string
	TimestampField string
	RecordIDHeader string
	StripCR        bool
	SkipEmpty      bool
	MaxRecordBytes Size
	Count          int64

	Batch    ingest.BatchConfig
	Stream   stream.Config
	Ordering string

	DeadLetter     string
	FromDeadLetter string
	Reports        string
	DryRun         bool
	Grace          time.Duration

	fixedMax  bool          // --max-record-bytes was given
	fixedType bool          // --value-type was given
	patience  time.Duration // how long a dead letter that cannot be written is tried
}

// DefaultConfig: 8 MB is the message limit of every Confluent Cloud cluster
// but a dedicated one. 30 s of grace are more than the time a healthy cluster
// needs for a window, and as long as most supervisors wait at all.
func DefaultConfig() Config {
	s := stream.DefaultConfig()
	s.OneShot = true
	return Config{
		Input: "lines", KeyType: "string", ValueType: "auto", CheckJSON: true, Partition: -1,
		MaxRecordBytes: 8e6, Batch: ingest.DefaultBatchConfig(), Stream: s, Ordering: "none",
		Grace: 30 * time.Second, patience: deadLetterPatience,
	}
}

// Flags binds every setting to its flag.
func (c *Config) Flags(f *pflag.FlagSet) {
	f.StringVarP(&c.Topic, "topic", "t", c.Topic, "topic to produce to; with --from-dead-letter instead of the one each line names")
	f.StringVar(&c.Input, "input", c.Input, "what the input holds: lines (LF separates, each line is a value) or records (REST v3 record objects, one after another, sent as they are)")
	f.StringVarP(&c.Key, "key", "k", c.Key, "one key for all records")
	f.StringVar(&c.KeyField, "key-field", c.KeyField, "take the key from this field of each JSON line; dots lead into objects. Missing or null gives no key")
	f.StringVarP(&c.KeyDelim, "key-delimiter", "K", c.KeyDelim, "each line is KEY, this delimiter, VALUE; a line without it has no key. \\t, \\n, \\0, \\xNN and \\\\ stand for what they do elsewhere")
	f.StringVar(&c.KeyType, "key-type", c.KeyType, "type of keys: string, json, binary or auto. See also --value-type")
	f.StringVar(&c.ValueType, "value-type", c.ValueType, "type of values: auto (string where a line is UTF-8, else binary: consumers get the bytes as they were), string, binary, or json (the server writes it anew: 1.10 becomes 1.1)")
	f.BoolVar(&c.CheckJSON, "validate", c.CheckJSON, "check JSON values before they are sent; a syntax error would end the stream. =false to trust the input")
	f.StringVar(&c.NullValue, "null-value", c.NullValue, "a line that is exactly this becomes a null value (tombstone); may be empty")
	f.Int32VarP(&c.Partition, "partition", "p", c.Partition, "partition to produce to; -1 = as the server chooses")
	f.StringArrayVarP(&c.Headers, "header", "H", nil, "record header NAME=VALUE, for every record; repeatable. NAME alone is a null header")
	f.StringVar(&c.TimestampField, "timestamp-field", c.TimestampField, "take the record's time from this field of each JSON line: RFC 3339, or seconds, ms, µs or ns since 1970. Missing or null: the server's clock")
	f.StringVar(&c.RecordIDHeader, "record-id-header", c.RecordIDHeader, "add a header of this name that holds source and position, for consumers to drop duplicates by")
	f.BoolVar(&c.StripCR, "strip-cr", c.StripCR, "drop a CR in front of each LF")
	f.BoolVar(&c.SkipEmpty, "skip-empty", c.SkipEmpty, "an empty line is no record")
	f.Var(&c.MaxRecordBytes, "max-record-bytes", "longest record, as read and as encoded; a longer one goes to the dead letter. 1KB..1GB; default is 8MB, or what --limits allows")
	f.Int64VarP(&c.Count, "count", "c", c.Count, "stop after so many records; 0 = read all")
	c.Batch.Flags(f)
	c.Stream.Flags(f)
	f.StringVar(&c.Ordering, "ordering", c.Ordering, "none (fastest); key: no record is sent while an earlier one of its key and topic is not final; or strict: a topic's records one at a time, each sent when the one before is final")
	f.StringVar(&c.DeadLetter, "dead-letter", c.DeadLetter, "file that keeps rejected records; default is dead-letter-TIME.ndjson in the current folder, made at the first rejection")
	f.StringVar(&c.FromDeadLetter, "from-dead-letter", c.FromDeadLetter, "send the records of this dead-letter file again, as they were")
	f.StringVar(&c.Reports, "reports", c.Reports, "write every delivery report, with its record's source and position, as NDJSON to this file; - = stdout")
	f.BoolVar(&c.DryRun, "dry-run", c.DryRun, "read, check and encode everything, send nothing")
	f.DurationVar(&c.Grace, "grace", c.Grace, "after a signal, how long to wait for delivery reports, 0..1h; a second signal ends at once")
}

// Changed tells Config which flags were given, for the settings where given
// and not given differ.
func (c *Config) Changed(f *pflag.FlagSet) {
	c.HasKey = c.HasKey || f.Changed("key")
	c.HasNull = c.HasNull || f.Changed("null-value")
	c.fixedMax = f.Changed("max-record-bytes")
	c.fixedType = f.Changed("value-type")
}

// Validate names the flag, the value and the bounds of what is wrong.
func (c *Config) Validate() error {
	var all []error
	note := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, fmt.Errorf(format, args...))
		}
	}
	note(c.Input != "lines" && c.Input != "records", "--input=%s: must be lines or records", c.Input)
	note(c.Ordering != "none" && c.Ordering != "key" && c.Ordering != "strict", "--ordering=%s: must be none, key or strict", c.Ordering)
	note(c.MaxRecordBytes < 1e3 || c.MaxRecordBytes > 1e9, "--max-record-bytes=%s: must be 1KB..1GB", c.MaxRecordBytes.String())
	note(c.Count < 0, "--count=%d: must be 0 (all) or more", c.Count)
	note(c.Partition < -1, "--partition=%d: must be 0 or more, or -1 for none", c.Partition)
	all = append(all, ValidateGrace(c.Grace))
	note(c.FromDeadLetter != "" && len(c.Files) > 0, "--from-dead-letter takes no further files")
	note(c.FromDeadLetter != "" && c.Input == "records", "--from-dead-letter and --input=records exclude each other")
	if c.FromDeadLetter == "" {
		if c.Topic == "" {
			note(true, "which topic? give it with -t")
		} else if err := ingest.CheckTopic(c.Topic); err != nil {
			all = append(all, fmt.Errorf("--topic: %w", err))
		}
	}
	if c.Input == "records" {
		note(c.HasKey || c.KeyField != "" || c.KeyDelim != "" || len(c.Headers) > 0 || c.TimestampField != "" ||
			c.RecordIDHeader != "" || c.Partition >= 0 || c.HasNull,
			"with --input=records every record is sent as it is: key, header, partition, timestamp, null and id flags have no place")
	}
	c.Stream.ByKey, c.Stream.Strict = c.Ordering == "key", c.Ordering == "strict"
	all = append(all, c.Batch.Validate(), c.Stream.Validate())
	if _, err := c.encoder(); err != nil {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// ValidateGrace is Validate for --grace alone, which goes with a configuration
// file too.
func ValidateGrace(d time.Duration) error {
	if d < 0 || d > time.Hour {
		return fmt.Errorf("--grace=%s: must be 0..1h", d)
	}
	return nil
}

// Overwrites returns an error where a file to be written is one to be read, or
// two files to be written are one: it would be destroyed, or fed to itself.
func (c *Config) Overwrites() error {
	type named struct{ flag, path string }
	inputs := []named{{"--from-dead-letter", c.FromDeadLetter}}
	for _, f := range c.Files {
		inputs = append(inputs, named{"an input", f})
	}
	same := func(a named, all ...named) error {
		for _, b := range all {
			if sameFile(a.path, b.path) {
				return fmt.Errorf("%s and %s are one file: %s", a.flag, b.flag, a.path)
			}
		}
		return nil
	}
	dead, reports := named{"--dead-letter", c.DeadLetter}, named{"--reports", c.Reports}
	return errors.Join(same(dead, inputs...), same(reports, append(inputs, dead)...))
}

// sameFile says whether a and b are one regular file; devices may be shared.
func sameFile(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	ia, errA := os.Stat(a)
	ib, errB := os.Stat(b)
	return errA == nil && errB == nil && ia.Mode().IsRegular() && os.SameFile(ia, ib) ||
		errA != nil && errB != nil && filepath.Clean(a) == filepath.Clean(b)
}

// encoder translates the flags; the Encoder checks what it means.
func (c *Config) encoder() (record.EncoderConfig, error) {
	e := record.DefaultEncoderConfig()
	var err error
	if e.ValueType, err = record.ParseType(c.ValueType); err != nil {
		return e, fmt.Errorf("--value-type: %w", err)
	}
	if e.KeyType, err = record.ParseType(c.KeyType); err != nil {
		return e, fmt.Errorf("--key-type: %w", err)
	}
	e.Validate = c.CheckJSON
	if c.HasNull {
		e.NullValue = &c.NullValue
	}
	e.Key, e.HasKey = []byte(c.Key), c.HasKey
	e.KeyField = c.KeyField
	if e.KeyDelim, err = c.Delimiter(); err != nil {
		return e, err
	}
	e.Partition = c.Partition
	e.TimestampField, e.RecordIDHeader = c.TimestampField, c.RecordIDHeader
	e.MaxRecordBytes = int(c.MaxRecordBytes)
	for _, h := range c.Headers {
		name, value, ok := strings.Cut(h, "=")
		if name == "" {
			return e, fmt.Errorf("--header=%s: a header needs a name: NAME=VALUE", h)
		}
		header := record.Header{Name: name}
		if ok {
			header.Value = []byte(value)
		}
		e.Headers = append(e.Headers, header)
	}
	_, err = record.NewEncoder(e)
	return e, err
}

// Delimiter returns KeyDelim with its escapes read.
func (c *Config) Delimiter() ([]byte, error) {
	d, err := unescape(c.KeyDelim)
	if err != nil {
		return nil, fmt.Errorf("--key-delimiter=%s: %w", c.KeyDelim, err)
	}
	return d, nil
}

// unescape reads the escapes kcat's users know in a delimiter.
func unescape(s string) ([]byte, error) {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		if i++; i == len(s) {
			return nil, errors.New("ends in a lone backslash; write \\\\ for one")
		}
		switch s[i] {
		case 't':
			out = append(out, '\t')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case '0':
			out = append(out, 0)
		case '\\':
			out = append(out, '\\')
		case 'x':
			if i+3 > len(s) {
				return nil, errors.New("\\x wants two hexadecimal digits")
			}
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return nil, errors.New("\\x wants two hexadecimal digits")
			}
			out = append(out, byte(n))
			i += 2
		default:
			return nil, fmt.Errorf("\\%c is no escape; write \\\\ for a backslash", s[i])
		}
	}
	return out, nil
}
