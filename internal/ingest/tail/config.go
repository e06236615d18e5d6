package tail

import (
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Where a file starts that was there when its input first ran.
const (
	FromBeginning = "beginning"
	FromEnd       = "end"
)

// Config says which files an input reads, and how.
type Config struct {
	Name           string   // of the input; checkpoints have it
	Include        []string // globs; * and ? stay within one directory's name
	Exclude        []string // globs; one without a / is for the last part of the path
	FollowSymlinks bool
	ReadFrom       string // FromBeginning, FromEnd
	Follow         bool   // go on when all is read, until told to stop

	Multiline      Multiline
	StripCR        bool // drop one CR in front of an LF
	SkipEmpty      bool // an empty line is no record
	MaxRecordBytes int  // a longer line is rejected, its bytes streamed past
	RecordIDs      bool // records carry an id

	MaxOpen   int           // files held open
	IdleClose time.Duration // a file that did not grow for so long is closed
	Poll      time.Duration // how often all files are looked at
	Grace     time.Duration // a rotated file is read on until it did not grow for so long
}

// Multiline joins lines to records. Without Start each line is one.
type Multiline struct {
	Start   *regexp.Regexp // a line it matches begins a record, the others continue it
	Timeout time.Duration  // a record that did not grow for so long is whole; 0: only the next one's start ends it
}

// DefaultConfig: 256 open files are a quarter of the usual limit of 1024
// descriptors. Looking at 100 files once a second costs some 0.3 ms. Writers
// reopen their log within moments of a rotation, most at the signal itself:
// five seconds without a byte are plenty, and the file is looked at for as long
// as it is there anyway.
func DefaultConfig() Config {
	return Config{
		ReadFrom: FromBeginning, Follow: true, Multiline: Multiline{Timeout: 2 * time.Second}, MaxRecordBytes: 8e6,
		MaxOpen: 256, IdleClose: 5 * time.Minute, Poll: time.Second, Grace: 5 * time.Second,
	}
}

// Validate names every setting that is wrong, and its bounds.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Include) == 0 {
		bad("include: name at least one file or glob")
	}
	for _, text := range c.Include {
		if _, err := parsePattern(text); err != nil {
			bad("include: %q: %w", text, err)
		}
	}
	for _, text := range c.Exclude {
		if err := checkGlob(text); err != nil {
			bad("exclude: %q: %w", text, err)
		}
	}
	if c.ReadFrom != FromBeginning && c.ReadFrom != FromEnd {
		bad("read_from: %q: must be beginning or end", c.ReadFrom)
	}
	if c.Multiline.Timeout < 0 || c.Multiline.Timeout > time.Hour {
		bad("multiline.timeout: %s: must be 0..1h", c.Multiline.Timeout)
	}
	if c.MaxRecordBytes < 1 || c.MaxRecordBytes > 1e9 {
		bad("max_record_bytes: %d: must be 1..1000000000", c.MaxRecordBytes)
	}
	if c.MaxOpen < 1 || c.MaxOpen > 1<<20 {
		bad("max_open: %d: must be 1..1048576", c.MaxOpen)
	}
	if c.IdleClose < time.Second {
		bad("idle_close: %s: must be 1s or more", c.IdleClose)
	}
	if c.Poll < 10*time.Millisecond || c.Poll > time.Hour {
		bad("poll: %s: must be 10ms..1h", c.Poll)
	}
	if c.Grace < 0 || c.Grace > time.Hour {
		bad("grace: %s: must be 0..1h", c.Grace)
	}
	return errors.Join(errs...)
}
