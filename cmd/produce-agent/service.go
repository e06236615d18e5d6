package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/observe"
	"github.com/produce-agent/produce-agent/internal/ship"
	"github.com/produce-agent/produce-agent/internal/stream"
)

// overrides are the flags of ship that mean a key of the configuration file,
// and where they do.
var overrides = map[string]config.Override{
	"rest-endpoint":        {Path: "clusters.*.rest_endpoint"},
	"cluster-id":           {Path: "clusters.*.cluster_id"},
	"dialect":              {Path: "clusters.*.dialect"},
	"api-key":              {Path: "clusters.*.auth.username"},
	"api-secret-file":      {Path: "clusters.*.auth.password"},
	"ca-file":              {Path: "clusters.*.tls.ca_file"},
	"cert-file":            {Path: "clusters.*.tls.cert_file"},
	"key-file":             {Path: "clusters.*.tls.key_file"},
	"proxy":                {Path: "clusters.*.proxy"},
	"auth-type":            {Path: "clusters.*.auth.type"},
	"auth-patience":        {Path: "clusters.*.auth.patience"},
	"bearer-token-file":    {Path: "clusters.*.auth.token_file"},
	"limits":               {Path: "clusters.*.limits"},
	"fleet-agents":         {Path: "clusters.*.limits.fleet.agents"},
	"fleet-headroom":       {Path: "clusters.*.limits.fleet.headroom"},
	"allow-plaintext-auth": {Path: "clusters.*.allow_plaintext_auth"},
	"streams":              {Path: "clusters.*.streams.max"},
	"linger":               {Path: "clusters.*.streams.linger"},
	"batch-bytes":          {Path: "clusters.*.streams.batch_bytes"},
	"in-flight":            {Path: "clusters.*.streams.in_flight"},
	"in-flight-bytes":      {Path: "clusters.*.streams.in_flight_bytes"},
	"rotate-after":         {Path: "clusters.*.streams.rotate_after"},
	"rotate-records":       {Path: "clusters.*.streams.rotate_records"},
	"report-timeout":       {Path: "clusters.*.streams.report_timeout"},
	"topic":                {Path: "routes.*.topic"},
	"value-type":           {Path: "routes.*.value.type"},
	"validate":             {Path: "routes.*.validate"},
	"max-record-bytes":     {Path: "routes.*.max_record_bytes"},
	"record-id-header":     {Path: "routes.*.record_id_header"},
	"ordering":             {Path: "routes.*.ordering"},
	"max-attempts":         {Path: "routes.*.retry.max_attempts"},
	"dead-letter":          {Path: "routes.*.dead_letter.path"},
	"follow":               {Path: "inputs.*.follow", Only: "file"},
	"strip-cr":             {Path: "inputs.*.strip_cr", Only: "file,stdin"},
	"skip-empty":           {Path: "inputs.*.skip_empty", Only: "file,stdin"},
	"data-dir":             {Path: "data_dir"},
	"metrics-listen":       {Path: "observe.listen"},
}

// beside are flags that go with a configuration file and mean no key of it.
var beside = []string{"config", "proxy-password-file", "output", "progress", "verbose", "grace", "reports", "help"}

// flagOverrides translates the flags given beside --config.
//
// Errors: those that have no place there.
func flagOverrides(f *pflag.FlagSet) (all []config.Override, err error) {
	var errs []error
	f.Visit(func(flag *pflag.Flag) {
		o, ok := overrides[flag.Name]
		switch {
		case slices.Contains(beside, flag.Name):
			return
		case !ok:
			errs = append(errs, fmt.Errorf("--%s has no place beside --config: say it in the file", flag.Name))
			return
		}
		o.Name, o.Value = "--"+flag.Name, flag.Value.String()
		if flag.Name == "api-secret-file" {
			secret, err := auth.ReadSecret(o.Value)
			if err != nil {
				errs = append(errs, err)
			}
			o.Value = secret
		}
		if flag.Name == "proxy" {
			if u, err := auth.ParseProxy(o.Value); err == nil {
				if _, has := u.User.Password(); has {
					errs = append(errs, errProxyPassword)
				}
			}
			via, err := proxyURL(o.Value, f.Lookup("proxy-password-file").Value.String())
			if err != nil {
				errs = append(errs, err)
			}
			o.Value = via
		}
		all = append(all, o)
	})
	if reports := f.Lookup("reports"); reports.Changed {
		to := config.Override{Name: "--reports", Path: "reports.to", Value: "file"}
		if reports.Value.String() == "-" {
			to.Value = "stdout"
		} else {
			all = append(all, config.Override{Name: "--reports", Path: "reports.path", Value: reports.Value.String()})
		}
		all = append(all, to)
	}
	slices.SortFunc(all, func(a, b config.Override) int { return strings.Compare(a.Name+a.Path, b.Name+b.Path) })
	return all, errors.Join(errs...)
}

// runConfigured runs what a configuration file says.
func runConfigured(cmd *cobra.Command, args []string, signals *signals, grace time.Duration, more *shipFlags) error {
	over, err := flagOverrides(cmd.Flags())
	if len(args) > 0 {
		err = errors.Join(err, errors.New("FILE has no place beside --config: name it in the include of an input"))
	}
	if err = errors.Join(err, more.validate(), ship.ValidateGrace(grace)); err != nil {
		return err
	}
	load := func() (*config.Config, config.Problems) {
		o := configOptions()
		o.Overrides = over
		return config.Load(more.config, o)
	}
	cfg, problems := load()
	if problems.Err() != nil {
		for _, p := range problems {
			fmt.Fprintln(cmd.ErrOrStderr(), p)
		}
		return &statusError{exitConfig, fmt.Errorf("%s: the configuration has errors (check lists them, too)", more.config)}
	}
	log := configLogger(cmd.ErrOrStderr(), cfg.Observe.Log, more.verbose)
	for _, p := range problems {
		log.Warn(p.Text, "at", p.Place.String())
	}
	return serve(cmd, signals, cfg, grace, log, more, load, func(c *config.Cluster) (stream.Address, error) {
		return clusterAddress(c, tokenDir(cfg.DataDir), log.With("cluster", c.Name))
	})
}

// configLogger is the log as the configuration wants it.
func configLogger(w io.Writer, c config.Log, verbose bool) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		panic("BUG: a level that config let pass: " + err.Error())
	}
	if verbose {
		level = slog.LevelDebug
	}
	f, file := w.(*os.File)
	if c.Format == "json" || c.Format == "auto" && !(file && term.IsTerminal(int(f.Fd()))) {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: durations}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// durations writes a duration as text, 400ms, where JSON would have its
// nanoseconds.
func durations(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// serve runs a service until it is told to end, or its inputs have.
func serve(cmd *cobra.Command, signals *signals, cfg *config.Config, grace time.Duration, log *slog.Logger, more *shipFlags,
	load func() (*config.Config, config.Problems), address func(*config.Cluster) (stream.Address, error),
) error {
	stream.UserAgent = "produce-agent/" + version
	keepMemory(cfg)
	hup := make(chan os.Signal, 1)
	if load != nil { // from here on: one that comes while large buffers are opened must not end the agent
		signal.Notify(hup, syscall.SIGHUP)
		defer signal.Stop(hup)
	}
	registry := prometheus.NewRegistry()
	metrics := ship.NewMetrics(registry, ship.BuildInfo{Version: version, Revision: revision(), GoVersion: runtime.Version()})
	service, err := ship.NewService(cfg, ship.ServiceEnv{
		Stdin: os.Stdin, Stdout: cmd.OutOrStdout(), Log: log, Hard: signals.hard, Grace: grace, Address: address, Latency: metrics.Latency,
	})
	if err != nil {
		return unread(cmd, more.output, &statusError{exitFailure, err})
	}
	metrics.Watch(service.Figures)
	if cfg.Observe.Listen != "" {
		setting := "observe.listen"
		if more.metrics != "" {
			setting = "--metrics-listen"
		}
		server, err := observe.Serve(observe.Config{
			Listen: cfg.Observe.Listen, Setting: setting, Metrics: registry, Ready: service.Ready, Pprof: cfg.Observe.Pprof, Log: log,
		})
		if err != nil {
			log.Error("nobody can ask how it goes; records are shipped all the same", "error", err)
		} else {
			defer server.Close()
		}
	}
	if load != nil {
		defer watchReload(hup, service, load, log)()
	}
	res := service.Run(cmd.Context())
	return report(cmd.OutOrStdout(), cmd.ErrOrStderr(), res, more.output, signals)
}

// keepMemory makes the garbage collector work harder above what the
// configuration lets an agent hold: its requests, buffers and records, and 32
// MiB, which is twice what it needs with none of them. Without that the
// collector would wait until what is held has doubled: 180 MB with a cluster
// that stalls and 64 MiB of requests. GOMEMLIMIT in the environment rules.
func keepMemory(cfg *config.Config) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	goal, longest, buffers := int64(32<<20), int64(0), int64(0)
	for _, in := range cfg.Inputs {
		if in.HTTP != nil {
			goal += int64(in.HTTP.MaxInFlight)
		}
	}
	for _, c := range cfg.Clusters {
		goal += max(0, int64(c.Streams.Max)*int64(c.Streams.InFlightBytes)-8<<20)
	}
	for _, r := range cfg.Routes {
		longest = max(longest, int64(r.MaxRecordBytes))
		if r.Buffer.Type == "disk" {
			buffers++
		}
	}
	goal += max(0, buffers-1) * 12 << 20 // the newest batches, and those on their way to the disk
	goal += max(0, longest-8e6) * 4
	debug.SetMemoryLimit(goal)
}

// watchReload takes the configuration anew at each signal of hup, until the
// function it returns is called.
func watchReload(hup <-chan os.Signal, service *ship.Service, load func() (*config.Config, config.Problems), log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-hup:
				reload(service, load, log)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func reload(service *ship.Service, load func() (*config.Config, config.Problems), log *slog.Logger) {
	cfg, problems := load()
	for _, p := range problems {
		level := slog.LevelWarn
		if p.Severity == config.Error {
			level = slog.LevelError
		}
		log.Log(context.Background(), level, p.Text, "at", p.Place.String())
	}
	err := problems.Err()
	if err != nil {
		service.ReloadFailed()
	} else if err = service.Reload(cfg); err == nil {
		keepMemory(cfg)
		log.Info("the changed configuration is in force", "file", cfg.Path())
		return
	}
	log.Error("the changed configuration is refused; the old one stays in force", "error", err)
}
