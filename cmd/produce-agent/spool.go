package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-json"
	"github.com/spf13/cobra"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/spool"
)

// newSpool is the commands that look into a disk buffer. None changes it.
func newSpool(signals *signals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spool",
		Short: "Look into a route's disk buffer: inspect, verify, export",
		Long: `Look into a route's disk buffer, a directory below data_dir. Nothing is changed
by any of these commands. verify and export want the agent that uses the buffer
to be stopped; inspect works beside it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSpoolInspect(signals), newSpoolVerify(signals), newSpoolExport(signals))
	return cmd
}

func newSpoolInspect(signals *signals) *cobra.Command {
	output := "text"
	cmd := &cobra.Command{
		Use:   "inspect DIR",
		Short: "Show what is in a disk buffer: segments, pending records by topic, damage",
		Long: `Show what is in a disk buffer: its segments, the records that are not delivered
yet by topic, since when they wait, and damage that can be seen without reading
all of it. It works while an agent uses the buffer; the figures move then.

Exit status: 0 shown; 1 it cannot be read; 2 wrong usage.`,
		Example: `  produce-agent spool inspect /var/lib/produce-agent/spool/app-events
  produce-agent spool inspect -o json DIR | jq .pending`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output=%s: must be text or json", output)
			}
			rep, err := spool.Inspect(cmd.Context(), args[0])
			if err != nil {
				return spoolFailed(signals, err)
			}
			return spoolFailed(signals, printSpool(cmd.OutOrStdout(), rep, output))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "text: for people; json: one JSON object on stdout")
	return cmd
}

func newSpoolVerify(signals *signals) *cobra.Command {
	output := "text"
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Read all of a disk buffer and name every place that is damaged",
		Long: `Read all of a disk buffer, check every checksum, and name every place that is
damaged and how many records are lost with it. An end that was being written
when the agent was killed is told of, but is no damage: nothing that was
accepted is missing.

Exit status: 0 all is well; 1 damage, in use by an agent, or not readable; 2
wrong usage.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output=%s: must be text or json", output)
			}
			rep, err := spool.Verify(cmd.Context(), args[0])
			if err != nil {
				return spoolFailed(signals, err)
			}
			if err := printSpool(cmd.OutOrStdout(), rep, output); err != nil {
				return spoolFailed(signals, err)
			}
			if n := len(rep.Damage); n > 0 {
				return &statusError{exitFailure, fmt.Errorf("%s: %d damaged places, %d records lost; the others can be delivered or exported", rep.Dir, n, rep.LostRecords)}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", output, "text: for people; json: one JSON object on stdout")
	return cmd
}

func newSpoolExport(signals *signals) *cobra.Command {
	return &cobra.Command{
		Use:   "export DIR",
		Short: "Write a disk buffer's pending records to stdout as dead-letter lines",
		Long: `Write the records of a disk buffer that are not delivered yet to stdout, oldest
first, as lines of a dead-letter file: 'ship --from-dead-letter FILE' sends
them. The buffer is not changed: remove its directory once the records are
where they belong, or they are delivered twice.

Exit status: 0 all pending records are written; 1 some are damaged and lost,
the buffer is in use by an agent, or it cannot be read; 2 wrong usage; 130 or
143 ended by a signal.`,
		Example: `  produce-agent spool export /var/lib/produce-agent/spool/app-events > pending.ndjson
  produce-agent ship --from-dead-letter pending.ndjson`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, rep, err := exportSpool(cmd.Context(), args[0], cmd.OutOrStdout())
			if err != nil {
				return spoolFailed(signals, err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d pending records written\n", rep.Dir, n)
			for _, d := range rep.Damage {
				fmt.Fprintln(cmd.ErrOrStderr(), "damaged:", d)
			}
			if rep.LostRecords > 0 {
				return &statusError{exitFailure, fmt.Errorf("%s: %d records are damaged and could not be exported", rep.Dir, rep.LostRecords)}
			}
			return nil
		},
	}
}

// exportSpool writes the pending records of dir to w.
func exportSpool(ctx context.Context, dir string, w io.Writer) (n int, rep *spool.Report, err error) {
	out := bufio.NewWriterSize(w, 64<<10)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	rep, err = spool.Export(ctx, dir, func(x spool.Exported) error {
		d := ingest.NewDeadLetter(x.Record)
		d.Time = x.Appended.UTC().Format(time.RFC3339Nano)
		d.Source, d.Position, d.Topic = x.Source, x.Offset, x.Topic
		d.Reason, d.Message = "exported", "pending in a disk buffer, exported from it"
		n++
		return lines.Encode(&d)
	})
	if err == nil {
		err = out.Flush()
	}
	return n, rep, err
}

// spoolFailed gives an error its exit status.
func spoolFailed(signals *signals, err error) error {
	if err == nil {
		return nil
	}
	if status := signals.status(); status != 0 && errors.Is(err, context.Canceled) {
		return &statusError{status, nil}
	}
	return &statusError{exitFailure, err}
}

// printSpool shows a report.
func printSpool(w io.Writer, rep *spool.Report, output string) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(rep)
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "buffer\t%s\n", rep.Dir)
	fmt.Fprintf(out, "route\t%s\n", rep.Route)
	if rep.InUse {
		who := ""
		if rep.PID > 0 {
			who = fmt.Sprintf(", process %d", rep.PID)
		}
		fmt.Fprintf(out, "in use\tyes%s: the figures may be moving\n", who)
	}
	fmt.Fprintf(out, "bytes\t%d in %d segments\n", rep.Bytes, len(rep.Segments))
	fmt.Fprintf(out, "pending\t%d records\n", rep.Pending)
	if rep.Oldest != nil {
		fmt.Fprintf(out, "oldest\t%s\n", rep.Oldest.Format(time.RFC3339))
	}
	fmt.Fprintf(out, "ack state\t%s, %s\n", rep.AckSlots[0], rep.AckSlots[1])
	if rep.TornBytes > 0 {
		fmt.Fprintf(out, "end\t%d bytes were being written when the agent ended: nothing that was accepted\n", rep.TornBytes)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	var topics []string
	for name := range rep.Topics {
		topics = append(topics, name)
	}
	slices.Sort(topics)
	fmt.Fprintf(out, "\nTOPIC\tPENDING\n")
	for _, name := range topics {
		fmt.Fprintf(out, "%s\t%d\n", name, rep.Topics[name])
	}
	fmt.Fprintf(out, "\nSEGMENT\tRECORDS\tPENDING\tBYTES\tCREATED\tNOTE\n")
	for i := range rep.Segments {
		g := &rep.Segments[i]
		fmt.Fprintf(out, "%s\t%d\t%d\t%d\t%s\t%s\n", g.File, g.Records, g.Pending, g.Bytes, g.Created.Format(time.RFC3339), g.Note)
	}
	for _, d := range rep.Damage {
		fmt.Fprintf(out, "\ndamaged: %s", d)
	}
	if len(rep.Damage) > 0 {
		fmt.Fprintln(out)
	}
	return out.Flush()
}
