package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever a file holds: no panic, every problem has a place and no secret in
// it, and what has no errors prints as what loads again to the same.
func FuzzLoad(f *testing.F) {
	names, _ := filepath.Glob("../../configs/*.yaml")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(everything)
	f.Add(clusters + inputs + routes)
	f.Add("a: &a [*a]\n? b\n: c\n<<: *a\n")
	f.Add("clusters: {main: !!str {}}\nx: |\n  y\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 20_000 {
			return // the parser takes its time with those, and has nothing new for them
		}
		c, problems := load(text, "PRODUCE_AGENT_CLUSTERS_MAIN_LIMITS=none", "PRODUCE_AGENT_ROUTES_0_TOPIC=t", "PRODUCE_AGENT_INPUTS_F_INCLUDE_0=/x")
		lines := strings.Count(text, "\n") + strings.Count(text, "\r") + 1
		for _, p := range problems {
			if p.Place.File == "" || p.Text == "" || p.Place.Line > lines || (p.Place.Line > 0) != (p.Place.Column > 0) {
				t.Errorf("%+v, of %d lines", p, lines)
			}
			if strings.Contains(p.String(), "-canary") && !strings.Contains(text, "canary") {
				t.Errorf("a secret in %s", p)
			}
		}
		if problems.Err() != nil {
			return
		}
		var first, second bytes.Buffer
		if err := c.Print(&first); err != nil {
			t.Fatal(err)
		}
		again, problems := load(first.String())
		if problems.Err() != nil {
			t.Fatalf("%v\nin what was printed:\n%s", problems.Err(), &first)
		}
		if err := again.Print(&second); err != nil || first.String() != second.String() {
			t.Fatalf("%v\nprinted\n%s\nand then\n%s", err, &first, &second)
		}
	})
}
