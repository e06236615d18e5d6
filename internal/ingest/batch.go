package ingest

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"
)

// BatchConfig says when a batch is full. Start from DefaultBatchConfig.
type BatchConfig struct {
	Bytes  int           // encoded bytes at which a batch closes
	Linger time.Duration // how long a record waits for others when input is slow
}

// DefaultBatchConfig: 64 KiB is the largest chunk that is not slower on a
// socket (16 to 64 KiB measured alike). 5 ms at 1,000 records/s makes 200
// writes a second instead of 1,000, and nobody sees 5 ms in a log pipeline.
func DefaultBatchConfig() BatchConfig {
	return BatchConfig{Bytes: 64 << 10, Linger: 5 * time.Millisecond}
}

// Flags binds the settings that users turn.
func (c *BatchConfig) Flags(f *pflag.FlagSet) {
	f.IntVar(&c.Bytes, "batch-bytes", c.Bytes, "close a batch at this many encoded bytes, 1024..4194304; 16 to 64 KiB are equally fast. See also --linger")
	f.DurationVar(&c.Linger, "linger", c.Linger, "how long a record of a slow input waits for others, 0..10s; 0 = send at once. The first record after a pause never waits")
}

// Validate names the flag, the value and the bounds of what is wrong.
func (c *BatchConfig) Validate() error {
	switch {
	case c.Bytes < 1024 || c.Bytes > 4<<20:
		return fmt.Errorf("--batch-bytes=%d: must be 1024..4194304", c.Bytes)
	case c.Linger < 0 || c.Linger > 10*time.Second:
		return fmt.Errorf("--linger=%s: must be 0..10s", c.Linger)
	}
	return nil
}
