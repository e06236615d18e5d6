// Command produce-agent gets records into Kafka where only HTTP gets through.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses. Where several apply the first of wrong usage, denied,
// failure, rejected records wins.
const (
	exitOK       = 0
	exitFailure  = 1
	exitUsage    = 2
	exitConfig   = 3
	exitRejected = 4
	exitDenied   = 5
)

// statusError ends the program with a status of its own; err may be nil when
// all was said already.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

func main() { os.Exit(run(os.Args[1:])) }

// run is main with its status returned.
func run(args []string) int {
	signals := watchSignals()
	defer signals.stop()
	root := newRoot(signals)
	root.SetArgs(args)
	err := root.ExecuteContext(signals.soft)
	var s *statusError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &s):
		if s.err != nil {
			complain(s.err)
		}
		return s.status
	}
	// What cobra says is about flags, arguments and commands.
	complain(err)
	fmt.Fprintln(os.Stderr, "see 'produce-agent --help', or --help behind a command")
	return exitUsage
}

// complain prints each of the joined errors on a line of its own.
func complain(err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, "produce-agent:", strings.TrimSuffix(line, "\n"))
	}
}

func newRoot(signals *signals) *cobra.Command {
	root := &cobra.Command{
		Use:   "produce-agent",
		Short: "Get records into Kafka where only HTTP gets through",
		Long: `produce-agent reads lines and records and produces them to Kafka REST endpoints
over pooled, long-lived streams, acting on every single delivery report.`,
		SilenceErrors: true, SilenceUsage: true, Version: version,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(newShip(signals), newSandbox(), newCheck(), newSpool(signals), newVersion())
	return root
}

// signals turn SIGINT and SIGTERM into contexts: the first ends soft, the
// second hard. A third does what it does to any program.
type signals struct {
	soft, hard context.Context
	got        chan os.Signal
	done       chan struct{}
	first      chan os.Signal // the signal that ended soft
}

func watchSignals() *signals {
	soft, endSoft := context.WithCancel(context.Background())
	hard, endHard := context.WithCancelCause(context.Background())
	s := &signals{soft: soft, hard: hard, got: make(chan os.Signal, 2), done: make(chan struct{}), first: make(chan os.Signal, 1)}
	signal.Notify(s.got, os.Interrupt, syscall.SIGTERM)
	// Whoever reads our reports or log may go; the records stay to be delivered.
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		defer endSoft()
		defer endHard(nil)
		leave := func() { endHard(errors.New("a second signal: delivery reports were not waited for")) }
		for _, end := range []context.CancelFunc{endSoft, leave} {
			select {
			case sig := <-s.got:
				select {
				case s.first <- sig:
				default:
				}
				end()
			case <-s.done:
				return
			}
		}
		signal.Stop(s.got)
		<-s.done
	}()
	return s
}

func (s *signals) stop() {
	signal.Stop(s.got)
	close(s.done)
}

// status returns 130 or 143 when a signal ended the run, else 0.
func (s *signals) status() int {
	select {
	case sig := <-s.first:
		s.first <- sig
		if n, ok := sig.(syscall.Signal); ok {
			return 128 + int(n)
		}
	default:
	}
	return 0
}
