package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/ship"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// runFollowing follows the files named by arguments: a configuration of one
// cluster, one input and one route, made of flags.
func runFollowing(cmd *cobra.Command, signals *signals, cfg ship.Config, more *shipFlags) error {
	err := errors.Join(more.validate(), cfg.Validate(), cfg.Overwrites())
	note := func(bad bool, text string) {
		if bad {
			err = errors.Join(err, errors.New("--follow: "+text))
		}
	}
	note(len(cfg.Files) == 0, "which files? name them, as in --follow /var/log/app.log")
	for _, f := range cfg.Files {
		note(f == "-", "stdin is read to its end anyway; leave - out, or leave --follow out")
	}
	note(cfg.Input == "records", "files are followed line by line: leave --input records out")
	note(cfg.FromDeadLetter != "", "a dead-letter file is read once: leave --from-dead-letter out")
	note(cfg.DryRun, "a dry run is of what is there: leave --dry-run out")
	note(cfg.Count > 0, "there is no end to count to: leave --count out")
	if err != nil {
		return err
	}
	bar := newProgress("never", cmd.ErrOrStderr())
	log := newLogger(bar, more.verbose)
	if more.sandbox {
		box, err := startSandboxFor(&cfg, more, log)
		if err != nil {
			return unread(cmd, more.output, &statusError{exitFailure, err})
		}
		defer box.Close()
	} else if err := more.conn.fromEnvironment(); err != nil {
		return err
	}
	more.conn.tokens = tokenDir(more.dataDir)
	profile, err := more.conn.profile()
	if err != nil {
		return err
	}
	cfg.Stream.OneShot = false
	address, err := more.conn.address(cfg.Stream, log)
	switch {
	case err != nil:
		return &statusError{exitUsage, err}
	case address.URL == "":
		return stream.ErrNoEndpoint
	}
	if err := cfg.Uncarried(address.Dialect); err != nil {
		return &statusError{exitUsage, err}
	}
	plan, err := followPlan(&cfg, more)
	if err != nil {
		return err
	}
	plan.Clusters[0].Limits = config.Limits{
		Profile: profile.Name, ConnectionsPerSecond: profile.Connections, RecordsPerSecond: profile.Records,
		BytesPerSecond: config.Size(profile.Bytes), MessageBytes: config.Size(profile.MessageBytes), Fleet: more.conn.fleet(),
	}
	if profile.MessageBytes > 0 && !cmd.Flags().Changed("max-record-bytes") {
		plan.Routes[0].MaxRecordBytes = config.Size(profile.MessageBytes)
	}
	return serve(cmd, signals, plan, cfg.Grace, log, more, nil, func(*config.Cluster) (stream.Address, error) { return address, nil })
}

// followPlan is the configuration that the flags describe.
func followPlan(cfg *ship.Config, more *shipFlags) (*config.Config, error) {
	plan := config.DefaultConfig()
	plan.Observe.Listen = more.metrics
	if more.dataDir != "" {
		dir, err := filepath.Abs(more.dataDir)
		if err != nil {
			return nil, fmt.Errorf("--data-dir: %w", err)
		}
		plan.DataDir = dir
	}
	switch cfg.Reports {
	case "":
	case "-":
		plan.Reports.To = "stdout"
	default:
		plan.Reports = config.Reports{To: "file", Path: cfg.Reports}
	}
	c := config.DefaultCluster()
	c.Name = "main"
	s := &cfg.Stream
	c.Streams.Max, c.Streams.InFlight, c.Streams.InFlightBytes = s.Streams, s.InFlight, config.Size(s.InFlightBytes)
	c.Auth.Patience = s.AuthPatience
	c.Streams.RotateAfter, c.Streams.RotateRecords, c.Streams.ReportTimeout = s.RotateAfter, s.RotateRecords, s.ReportTimeout
	c.Streams.Linger, c.Streams.BatchBytes = cfg.Batch.Linger, config.Size(cfg.Batch.Bytes)
	plan.Clusters = []config.Cluster{c}

	in := config.DefaultFileInput()
	in.StripCR, in.SkipEmpty = cfg.StripCR, cfg.SkipEmpty
	for _, name := range cfg.Files {
		path, err := filepath.Abs(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		in.Include = append(in.Include, literal(path))
	}
	plan.Inputs = []config.Input{{Name: "args", Type: "file", File: &in}}

	r, err := followRoute(cfg, more)
	plan.Routes = []config.Route{r}
	return &plan, err
}

func followRoute(cfg *ship.Config, more *shipFlags) (config.Route, error) {
	r := config.DefaultRoute()
	r.Name, r.Inputs, r.Cluster = "args", []string{"args"}, "main"
	r.Topic, r.Decode, r.Spill = cfg.Topic, "any", "never"
	r.Value.Type, r.Validate = cfg.ValueType, cfg.CheckJSON
	r.MaxRecordBytes, r.RecordIDHeader, r.Ordering = config.Size(cfg.MaxRecordBytes), cfg.RecordIDHeader, cfg.Ordering
	r.Partition.Number = cfg.Partition
	if cfg.HasNull {
		r.NullValue = &cfg.NullValue
	}
	delim, err := cfg.Delimiter()
	if err != nil {
		return r, err
	}
	if cfg.HasKey || cfg.KeyField != "" || len(delim) > 0 {
		r.Key = &config.Key{Field: cfg.KeyField, Delimiter: string(delim), Type: cfg.KeyType}
		if cfg.HasKey {
			r.Key.Value = &cfg.Key
		}
	}
	for _, h := range cfg.Headers {
		name, value, ok := strings.Cut(h, "=")
		one := config.Header{Name: name}
		if ok {
			if strings.Contains(value, "{{") || strings.Contains(value, "}}") {
				return r, fmt.Errorf("--header=%s: with --follow a value must not hold {{ or }}", h)
			}
			one.Value = &value
		}
		r.Headers = append(r.Headers, one)
	}
	if cfg.TimestampField != "" {
		r.Timestamp = &config.Timestamp{Field: cfg.TimestampField, Format: "auto"}
	}
	r.Retry.Initial, r.Retry.Max, r.Retry.MaxAttempts = cfg.Stream.RetryInitial, cfg.Stream.RetryMax, cfg.Stream.MaxAttempts
	r.DeadLetter = config.DeadLetter{Path: cfg.DeadLetter}
	if cfg.DeadLetter == "" && more.dataDir != "" {
		r.DeadLetter.Path = filepath.Join(more.dataDir, "dead", "args.ndjson")
	}
	return r, nil
}

// literal keeps a file's name from being taken for a pattern.
func literal(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
