package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// newSandbox is the sandbox command: it serves until its context ends.
func newSandbox() *cobra.Command {
	cfg := sandbox.DefaultConfig()
	verbose := false
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Serve the Kafka REST v3 API over a Kafka in the same process, with scripted faults",
		Long: `Serve the Kafka REST v3 API, streaming and not, as a Confluent server does, and
the v2 API as that one, Redpanda's HTTP Proxy, Karapace or Strimzi's Bridge do,
over a Kafka-protocol broker in the same process, so that a producer can be
tried without a cluster and what it sent can be read back by any Kafka client.
With --brokers it is a REST gateway to a real Kafka.`,
		Example: `  produce-agent sandbox --topic logs:3
  produce-agent sandbox --topic logs --limits standard --fault report=429,share=0.1
  produce-agent sandbox --topic logs --fault v2=pandaproxy
  produce-agent sandbox --fault help`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if verbose {
				cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
			}
			return runSandbox(cmd.Context(), cfg, cmd.ErrOrStderr())
		},
	}
	cfg.Flags(cmd.Flags())
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log refused requests to stderr")
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if errors.Is(err, sandbox.ErrFaultHelp) {
			sandbox.FaultHelp(cmd.OutOrStdout())
			return nil
		}
		return err
	})
	return cmd
}

// runSandbox serves until ctx ends, telling w what to do next and, at the
// end, what was seen.
func runSandbox(ctx context.Context, cfg sandbox.Config, w io.Writer) error {
	s, err := startSandbox(ctx, cfg, w)
	if err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	printNextSteps(w, s, &cfg)
	<-ctx.Done()
	stats := s.Stats()
	err = s.Close()
	printStats(w, stats)
	return err
}

// startSandbox starts it. A Kafka that is not there is waited for; then it
// says so, and a signal ends the waiting.
func startSandbox(ctx context.Context, cfg sandbox.Config, w io.Writer) (*sandbox.Sandbox, error) {
	if len(cfg.Brokers) == 0 {
		return sandbox.Start(cfg)
	}
	var s *sandbox.Sandbox
	var err error
	started := make(chan struct{})
	go func() {
		defer close(started)
		s, err = sandbox.Start(cfg)
	}()
	late := time.NewTimer(time.Second)
	defer late.Stop()
	for {
		select {
		case <-started:
			return s, err
		case <-late.C:
			fmt.Fprintf(w, "Waiting for Kafka at %s, %s at most.\n", strings.Join(cfg.Brokers, ","), sandbox.ReachKafka)
		case <-ctx.Done():
			return nil, errors.New("ended while it waited for Kafka at " + strings.Join(cfg.Brokers, ","))
		}
	}
}

// printNextSteps tells how to produce a record with curl and read it with kcat.
func printNextSteps(w io.Writer, s *sandbox.Sandbox, cfg *sandbox.Config) {
	topic := "TOPIC"
	if len(cfg.Topics) > 0 {
		topic = cfg.Topics[0].Name
	}
	speaks := "v3"
	if s.Server() != sandbox.V2Confluent {
		speaks = "v2 as " + s.Server()
	}
	fmt.Fprintf(w, "Kafka REST %s on %s, cluster %s; Kafka on %s\n\n", speaks, s.URL(), s.ClusterID(), s.KafkaAddr())
	if topic == "TOPIC" && !cfg.AutoCreate {
		fmt.Fprintf(w, "No --topic was given: a record for a topic that is not there blocks its stream for %s.\n\n", cfg.MaxBlock)
	}
	opts := ""
	if cfg.TLS {
		opts += " --cacert CA.pem"
		if cfg.CAFile != "" {
			opts = " --cacert " + cfg.CAFile
		}
	}
	switch bearer := slices.ContainsFunc(cfg.AuthFiles, func(a string) bool { return strings.HasPrefix(a, "bearer:") }); {
	case bearer || len(cfg.OAuth) > 0:
		opts += " -H 'Authorization: Bearer TOKEN'"
	case len(cfg.AuthFiles) > 0:
		opts += " -u KEY:SECRET"
	}
	if speaks == "v3" {
		fmt.Fprintf(w, "Produce:\n  curl%s -H 'Content-Type: application/json' %s/kafka/v3/clusters/%s/topics/%s/records \\\n    -d '{\"value\":{\"type\":\"STRING\",\"data\":\"hello\"}}'\n", opts, s.URL(), s.ClusterID(), topic)
	} else {
		fmt.Fprintf(w, "Produce:\n  curl%s -H 'Content-Type: application/vnd.kafka.json.v2+json' %s/topics/%s \\\n    -d '{\"records\":[{\"value\":\"hello\"}]}'\n", opts, s.URL(), topic)
	}
	fmt.Fprintf(w, "Ship a file:\n  produce-agent ship --rest-endpoint %s -t %s FILE\n", s.URL(), topic)
	fmt.Fprintf(w, "Read back:\n  kcat -b %s -t %s -C -e\n\nCtrl-C ends it.\n", s.KafkaAddr(), topic)
}

// printStats sums up on one line what the sandbox has seen.
func printStats(w io.Writer, st sandbox.Stats) {
	var codes []string
	for code, n := range st.Reports {
		codes = append(codes, fmt.Sprintf("%d: %d", code, n))
	}
	slices.Sort(codes)
	if len(codes) == 0 {
		codes = []string{"none"}
	}
	fmt.Fprintf(w, "sandbox: %d produce requests (%d refused), %d records read, %d stored; reports by error_code: %s\n",
		st.Posts, st.PostsRejected, st.RecordsRead, st.RecordsStored, strings.Join(codes, ", "))
}
