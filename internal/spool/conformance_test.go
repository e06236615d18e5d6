package spool_test

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/spool"
	"github.com/produce-agent/produce-agent/internal/spool/spooltest"
)

func TestConformance(t *testing.T) {
	f := func(name string, change func(*spool.Config)) {
		t.Run(name, func(t *testing.T) {
			spooltest.Run(t, func(t testing.TB, place string, o spooltest.Options) spool.Buffer {
				t.Helper()
				cfg := spool.DefaultConfig()
				cfg.Dir, cfg.Route, cfg.MaxBytes, cfg.WhenFull, cfg.Dropped = place, "r", o.MaxBytes, o.WhenFull, o.Dropped
				cfg.SetGather(0)
				change(&cfg)
				s, err := spool.Open(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
	f("always", func(*spool.Config) {})
	f("always, gathered", func(c *spool.Config) { c.SetGather(200 * time.Microsecond) })
	f("always, disk", func(c *spool.Config) { c.RAMBytes = 0 })
	f("every second, little memory", func(c *spool.Config) { c.Fsync, c.RAMBytes = spool.EverySecond, 200<<10 })
}
