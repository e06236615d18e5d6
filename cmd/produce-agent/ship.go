package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"

	"github.com/goccy/go-json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/produce-agent/produce-agent/internal/observe"
	"github.com/produce-agent/produce-agent/internal/sandbox"
	"github.com/produce-agent/produce-agent/internal/ship"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// shipFlags are ship's flags that are not the pipeline's.
type shipFlags struct {
	conn     connection
	sandbox  bool
	output   string
	progress string
	metrics  string
	verbose  bool
	config   string
	follow   bool
	dataDir  string
}

func newShip(signals *signals) *cobra.Command {
	cfg := ship.DefaultConfig()
	var more shipFlags
	cmd := &cobra.Command{
		Use:   "ship [FILE...]",
		Short: "Read records from stdin or files and produce them to a topic",
		Long: `ship reads records from stdin or files and produces them to a topic over pooled
streams. It acts on every delivery report: each record ends delivered, rejected
(kept in the dead-letter file with its reason) or pending, and the books are
printed at the end.

With --follow it goes on with files that grow and are rotated, until a signal
comes; with --config it is a service that does what a configuration file says,
and takes a changed one at SIGHUP.

Exit status: 0 all delivered; 1 failure, or records pending; 2 wrong usage; 3
the configuration has errors; 4 finished, some records rejected; 5 not
authorised; 130 or 143 ended by a signal after draining.`,
		Example: `  tail -F app.log | produce-agent ship -t logs --rest-endpoint https://pkc-xxxxx.region.provider.confluent.cloud:443 --cluster-id lkc-xxxxx
  produce-agent ship -t logs --value-type json --key-field user_id events.ndjson
  produce-agent ship -t logs --follow --data-dir /var/lib/produce-agent /var/log/app/app.log
  produce-agent ship --config /etc/produce-agent/agent.yaml
  produce-agent ship --sandbox -t logs FILE`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Files = args
			cfg.Changed(cmd.Flags())
			switch {
			case more.config != "":
				return runConfigured(cmd, args, signals, cfg.Grace, &more)
			case more.follow:
				return runFollowing(cmd, signals, cfg, &more)
			}
			return runShip(cmd, signals, cfg, &more)
		},
	}
	cfg.Flags(cmd.Flags())
	f := cmd.Flags()
	more.conn.flags(f)
	f.BoolVar(&more.sandbox, "sandbox", false, "ship into a sandbox in this process: a REST endpoint and a Kafka broker, gone at the end")
	f.StringVarP(&more.output, "output", "o", "text", "text: summary on stderr; json: also one JSON object on stdout")
	f.StringVar(&more.progress, "progress", "auto", "progress bar on stderr: auto (on a terminal), always or never")
	f.StringVar(&more.metrics, "metrics-listen", "", "serve Prometheus metrics at this address under /metrics, as 127.0.0.1:9890")
	f.StringVar(&more.config, "config", "", "run what this configuration file says, as a service; flags given beside it override it everywhere. See check")
	f.BoolVar(&more.follow, "follow", false, "follow the files through every kind of rotation until a signal comes; with --config =false makes one pass and ends")
	f.StringVar(&more.dataDir, "data-dir", "", "folder for checkpoints, disk buffers and dead letters: what --follow has read is not read again after a restart")
	f.BoolVarP(&more.verbose, "verbose", "v", false, "log what is otherwise too fine to be told")
	return cmd
}

func (m *shipFlags) validate() error {
	switch {
	case m.output != "text" && m.output != "json":
		return fmt.Errorf("--output=%s: must be text or json", m.output)
	case m.progress != "auto" && m.progress != "always" && m.progress != "never":
		return fmt.Errorf("--progress=%s: must be auto, always or never", m.progress)
	case m.progress == "always" && (m.config != "" || m.follow):
		return errors.New("--progress=always: what follows its files has no end to progress to; see --metrics-listen")
	case m.sandbox && m.config != "":
		return errors.New("--sandbox and --config exclude each other: start a sandbox, and name its address in the file")
	case m.dataDir != "" && m.config == "" && !m.follow:
		return errors.New("--data-dir is for --follow and --config: what is read once needs no checkpoints")
	case m.sandbox && m.conn.endpoint != "":
		return errors.New("--sandbox and --rest-endpoint exclude each other")
	}
	return nil
}

func runShip(cmd *cobra.Command, signals *signals, cfg ship.Config, more *shipFlags) error {
	if err := errors.Join(more.validate(), cfg.Validate()); err != nil {
		return err
	}
	stderr := cmd.ErrOrStderr()
	bar := newProgress(more.progress, stderr)
	log := newLogger(bar, more.verbose)
	env := ship.Env{Stdin: os.Stdin, Stdout: cmd.OutOrStdout(), Log: log, Hard: signals.hard}
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
	if err := resolve(cmd.Context(), &env, &cfg, &more.conn, log); err != nil {
		if status := signals.status(); status != 0 {
			err = &statusError{status, nil}
		}
		return unread(cmd, more.output, err)
	}
	registry := prometheus.NewRegistry()
	build := ship.BuildInfo{Version: version, Revision: revision(), GoVersion: runtime.Version()}
	metrics := ship.NewMetrics(registry, build)
	env.Latency = metrics.Latency(env.Target.ClusterID)
	if more.metrics != "" {
		server, err := observe.Serve(observe.Config{Listen: more.metrics, Setting: "--metrics-listen", Metrics: registry, Log: log})
		if err != nil {
			return unread(cmd, more.output, &statusError{exitFailure, err})
		}
		defer server.Close()
	}
	env.Started = func(r *ship.Run) {
		metrics.Watch(r.Figures)
		bar.start(r)
	}
	res, err := ship.Start(cmd.Context(), cfg, env)
	bar.stop()
	if err != nil {
		return unread(cmd, more.output, &statusError{exitFailure, err})
	}
	return report(cmd.OutOrStdout(), stderr, res, more.output, signals)
}

// unread prints the books of a run that ended before anything was read, unless
// its command line was wrong, and returns err.
func unread(cmd *cobra.Command, output string, err error) error {
	var s *statusError
	if !errors.As(err, &s) || s.status == exitUsage {
		return err
	}
	none := ship.Summary{Topics: map[string]*ship.TopicBooks{}, ErrorCodes: map[string]int64{}}
	return errors.Join(err, printBooks(cmd.OutOrStdout(), cmd.ErrOrStderr(), none, output))
}

// resolve settles endpoint, cluster and limits, and says them.
func resolve(ctx context.Context, env *ship.Env, cfg *ship.Config, conn *connection, log *slog.Logger) error {
	profile, err := conn.profile()
	if err != nil {
		return err
	}
	fleet := conn.fleet()
	profile = profile.Share(fleet.Agents, float64(fleet.Headroom)/100)
	env.Profile = profile
	d, err := conn.wanted()
	if err == nil {
		err = cfg.Uncarried(d)
	}
	if err != nil {
		return &statusError{exitUsage, err}
	}
	if cfg.DryRun {
		return nil
	}
	address, err := conn.address(cfg.Stream, log)
	if err != nil {
		return &statusError{exitUsage, err}
	}
	if address.URL == "" {
		return stream.ErrNoEndpoint
	}
	if env.Target, err = stream.Resolve(ctx, address); err != nil {
		return endpointStatus(err)
	}
	if err := cfg.Uncarried(env.Target.Dialect); err != nil {
		return &statusError{exitUsage, err}
	}
	stream.UserAgent = "produce-agent/" + version
	log.Info("shipping", "endpoint", env.Target.String(), "dialect", env.Target.Dialect.String(), "cluster", env.Target.ClusterID,
		"topic", cfg.Topic, "limits", profile.String(), "streams", cfg.Stream.Streams)
	return nil
}

// endpointStatus gives an error of the endpoint its exit status.
func endpointStatus(err error) error {
	var e *stream.EndpointError
	switch {
	case errors.As(err, &e) && e.Denied:
		return &statusError{exitDenied, err}
	case errors.As(err, &e) && e.Malformed:
		return &statusError{exitUsage, err}
	}
	return &statusError{exitFailure, err}
}

// report prints the books and chooses the exit status.
func report(stdout, stderr io.Writer, res ship.Result, output string, signals *signals) error {
	if err := printBooks(stdout, stderr, res.Summary, output); err != nil {
		return err
	}
	pending := res.Pending > 0 && !res.DryRun && !(res.Kept && signals.status() != 0)
	switch {
	case res.Denied:
		return &statusError{exitDenied, res.Err}
	case res.Err != nil:
		return &statusError{exitFailure, res.Err}
	case pending:
		return &statusError{exitFailure, fmt.Errorf("%d records are pending: they were read and not delivered", res.Pending)}
	case signals.status() != 0:
		return &statusError{signals.status(), nil}
	case res.Rejected > 0:
		return &statusError{exitRejected, nil}
	}
	return nil
}

// startSandboxFor starts a sandbox of the run's own and points the run at it.
func startSandboxFor(cfg *ship.Config, more *shipFlags, log *slog.Logger) (*sandbox.Sandbox, error) {
	box := sandbox.DefaultConfig()
	box.Listen, box.KafkaListen, box.AutoCreate = "127.0.0.1:0", "127.0.0.1:0", true
	box.Limits.MessageBytes = int(cfg.MaxRecordBytes) // as a Cloud cluster, not as a broker out of the box
	box.Logger = log
	s, err := sandbox.Start(box)
	if err != nil {
		return nil, err
	}
	more.conn.endpoint, more.conn.clusterID = s.URL(), s.ClusterID()
	log.Info("sandbox", "rest", s.URL(), "kafka", s.KafkaAddr())
	return s, nil
}

// printBooks writes the summary to stderr, and with -o json to stdout too.
func printBooks(stdout, stderr io.Writer, books ship.Summary, output string) error {
	if output == "json" {
		line, err := json.Marshal(books)
		if err != nil {
			return &statusError{exitFailure, err}
		}
		if _, err := stdout.Write(append(line, '\n')); err != nil {
			return &statusError{exitFailure, fmt.Errorf("write the summary: %w", err)}
		}
	}
	fmt.Fprintln(stderr, books.String())
	return nil
}
