package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite docs/flags.md and the help texts in testdata")

// documented are the commands we wrote, in the order they are shown; what
// cobra adds (help, completion) is its own to explain.
func documented() []*cobra.Command {
	root := newRoot(&signals{soft: context.Background(), hard: context.Background()})
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.Name() != "help" && c.Name() != "completion" {
			all = append(append(all, c), c.Commands()...)
		}
	}
	return all
}

// golden compares got with a file, or writes it there.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: run make docs", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is stale: run make docs and read the diff; it should be:\n%s", path, got)
	}
}

// helpName is a command's name, with its parent's where that is not the root.
func helpName(cmd *cobra.Command) string {
	if cmd.HasParent() && cmd.Parent().HasParent() {
		return cmd.Parent().Name() + "-" + cmd.Name()
	}
	return cmd.Name()
}

func TestDocsHelp(t *testing.T) {
	for _, cmd := range documented() {
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.InitDefaultHelpFlag()
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", "help-"+helpName(cmd)+".golden"), out.Bytes())
	}
}

func TestDocsFlags(t *testing.T) {
	var out bytes.Buffer
	out.WriteString("# Flags\n\nOne section per command, made from the flags themselves by `make docs`; a test fails when this page is stale.\n" +
		"What they are for, with examples: [ship](ship.md), [sandbox](sandbox.md), [check](config.md), [spool](spool.md).\n")
	for _, cmd := range documented() {
		cmd.InitDefaultHelpFlag()
		if cmd.HasParent() {
			writeFlags(&out, cmd)
		}
	}
	golden(t, filepath.Join("..", "..", "docs", "flags.md"), out.Bytes())
}

// writeFlags writes the section of one command.
func writeFlags(out *bytes.Buffer, cmd *cobra.Command) {
	fmt.Fprintf(out, "\n## %s\n\n%s.\n\n    %s\n", cmd.CommandPath(), cmd.Short, cmd.UseLine())
	rows := 0
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if rows++; rows == 1 {
			out.WriteString("\n| flag | value | default | meaning |\n| --- | --- | --- | --- |\n")
		}
		value, meaning := pflag.UnquoteUsage(f)
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", name, cell(value), code(defaultOf(f)), cell(meaning))
	})
	if rows == 0 {
		out.WriteString("\nIt has no flags.\n")
	}
}

// defaultOf returns a flag's default, "" where that is nothing.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "[]", `""`:
		return ""
	}
	return f.DefValue
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// A flag whose help says nothing of bounds or meaning is not worth having;
// this finds those that were forgotten, not those that are unclear.
func TestDocsEveryFlagSaysSomething(t *testing.T) {
	for _, cmd := range documented() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && len(strings.Fields(f.Usage)) < 3 {
				t.Errorf("%s --%s: its help is %q", cmd.CommandPath(), f.Name, f.Usage)
			}
		})
	}
}
