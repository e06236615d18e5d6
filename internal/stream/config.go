package stream

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// Config sets up a Pool. The zero value is not usable; start from DefaultConfig.
type Config struct {
	Streams       int           // streams held open at most, 1..64
	InFlight      int           // records sent on a stream and not reported
	InFlightBytes int           // likewise in bytes; 0: see WindowBytes
	RotateAfter   time.Duration // a stream older than this is replaced; ±20 % jitter
	RotateRecords int64         // likewise for records sent; 0: no such bound
	ReportTimeout time.Duration // a stream without any report for this long is given up
	Heartbeat     time.Duration // a stream with nothing to write sends a newline this often
	IdleEnd       time.Duration // an idle stream that is not its topic's last one ends
	Silence       time.Duration // a new stream without a report for this long is looked into
	DialTimeout   time.Duration // TCP connect and TLS handshake together
	MaxAttempts   int           // reports that judge a record before it is rejected; dials before the first success
	RetryInitial  time.Duration // first back-off; it doubles, with jitter
	RetryMax      time.Duration // longest back-off
	AuthPatience  time.Duration // how long a 401 may last; 0: two minutes once a record was delivered, not at all before
	ByKey         bool          // no record goes while an earlier one of its key and topic is not final
	Strict        bool          // likewise of its topic: one record at a time

	// OneShot: a run that ends. A topic that stays impossible ends it instead
	// of being probed for ever.
	OneShot bool
	// Reports: call Handler.Report for every single delivery report.
	Reports bool
}

// maxStreams bounds Config.Streams: past a few dozen nothing is gained, and each
// holds a thread of the server for as long as it lives.
const maxStreams = 64

// DefaultConfig: 4 streams fill a core (one alone does on loopback; more hide
// a slow partition). 8,192 records in flight of 200 bytes are 1.6 MB, so the
// byte bound of 1 MiB (WindowBytes) rules there: at 100 ms for a report that is 10 MB/s a
// stream, a whole cluster's limit. 5 minutes spread reconnects far below any
// connection limit and still re-balance within a deploy. 75 s for a report is
// more than the 60 s a server may block on an unknown topic. A server cuts
// what is idle for 30 s: 10 s leaves room for two lost heartbeats. 10 attempts
// doubling from 200 ms to 30 s are a minute and a half of a bad broker.
func DefaultConfig() Config {
	return Config{
		Streams: 4, InFlight: 8192,
		RotateAfter: 5 * time.Minute, ReportTimeout: 75 * time.Second,
		Heartbeat: 10 * time.Second, IdleEnd: 20 * time.Second, Silence: 5 * time.Second, DialTimeout: 10 * time.Second,
		MaxAttempts: 10, RetryInitial: 200 * time.Millisecond, RetryMax: 30 * time.Second,
	}
}

// Flags binds the settings that users turn.
func (c *Config) Flags(f *pflag.FlagSet) {
	f.IntVar(&c.Streams, "streams", c.Streams, "streams held open at most, 1..64; one fills a core on a short path, more hide slow partitions")
	f.IntVar(&c.InFlight, "in-flight", c.InFlight, "records sent on a stream and not yet reported, 1..1000000; bounds memory and the duplicates of a broken stream. See also --in-flight-bytes")
	f.IntVar(&c.InFlightBytes, "in-flight-bytes", c.InFlightBytes, "bytes sent on a stream and not yet reported, from 1024; 0 = 1 MiB, or 8 MiB shared out among more than 8 streams. A single larger record still goes, alone")
	f.DurationVar(&c.RotateAfter, "rotate-after", c.RotateAfter, "replace a stream after this time, jittered by a fifth; 0 = never. Cures connection bias")
	f.Int64Var(&c.RotateRecords, "rotate-records", c.RotateRecords, "replace a stream after this many records, jittered by a fifth; 0 = never")
	f.DurationVar(&c.ReportTimeout, "report-timeout", c.ReportTimeout, "give a stream up that brings no delivery report for this long, from 1s; its records are sent again")
	f.DurationVar(&c.AuthPatience, "auth-patience", c.AuthPatience, "how long credentials that are refused (401) are tried again, up to 1h: a new key is not known everywhere at once. 0 = two minutes once a record was delivered with them, not at all before")
	f.IntVar(&c.MaxAttempts, "max-attempts", c.MaxAttempts, "reports against one record before it goes to the dead letter, and dials before a one-shot run gives up that never connected, 1..1000; 429, broken streams and outages never use them up")
}

// Validate names the flag, the value and the bounds of what is wrong.
func (c *Config) Validate() error {
	switch {
	case c.Streams < 1 || c.Streams > maxStreams:
		return fmt.Errorf("--streams=%d: must be 1..%d", c.Streams, maxStreams)
	case c.InFlight < 1 || c.InFlight > 1_000_000:
		return fmt.Errorf("--in-flight=%d: must be 1..1000000", c.InFlight)
	case c.InFlightBytes != 0 && c.InFlightBytes < 1024:
		return fmt.Errorf("--in-flight-bytes=%d: must be 0 (automatic) or at least 1024", c.InFlightBytes)
	case c.RotateAfter != 0 && c.RotateAfter < time.Second:
		return fmt.Errorf("--rotate-after=%s: must be 0 (never) or at least 1s", c.RotateAfter)
	case c.RotateRecords < 0:
		return fmt.Errorf("--rotate-records=%d: must be 0 (never) or more", c.RotateRecords)
	case c.ReportTimeout < time.Second:
		return fmt.Errorf("--report-timeout=%s: must be at least 1s", c.ReportTimeout)
	case c.AuthPatience < 0 || c.AuthPatience > time.Hour:
		return fmt.Errorf("--auth-patience=%s: must be 0..1h", c.AuthPatience)
	case c.MaxAttempts < 1 || c.MaxAttempts > 1000:
		return fmt.Errorf("--max-attempts=%d: must be 1..1000", c.MaxAttempts)
	}
	return nil
}

// The windows of all streams together, unless a stream's is set: what lies in
// them should stay in a processor's cache, or many streams cost more than few.
const (
	oneWindow  = 1 << 20
	allWindows = 8 << 20
)

// WindowBytes is how many bytes a stream may have in flight: InFlightBytes, or
// where that is 0 a mebibyte, and an equal share of eight for more than eight
// streams.
func (c *Config) WindowBytes() int {
	if c.InFlightBytes != 0 {
		return c.InFlightBytes
	}
	return min(oneWindow, allWindows/max(1, c.Streams))
}
