package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/config.md has a row for each key there is, with its type and default,
// and none besides.
func TestDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("^\\| `([a-z0-9_.]+)` \\| ([^|]*) \\| ([^|]*) \\| (.*) \\|$")
	type about struct{ kind, def, meaning string }
	have := map[string]about{}
	section, reading := "", false
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		if head := strings.TrimLeft(line, "# "); head != line && strings.HasPrefix(line, "##") {
			section, reading = head, reading || head == "Top level"
			if section == "Top level" {
				section = ""
			}
			continue
		}
		if m := row.FindStringSubmatch(line); m != nil && reading {
			key := join(section, m[1])
			if _, twice := have[key]; twice {
				t.Errorf("%s has two rows", key)
			}
			have[key] = about{strings.TrimSpace(m[2]), strings.TrimSpace(m[3]), m[4]}
		}
	}
	for _, k := range Keys() {
		got, ok := have[k.Path]
		switch {
		case !ok:
			t.Errorf("docs/config.md has no row for %s: | `…` | %s | %s | … |", k.Path, k.Type, k.Default)
		case got.kind != k.Type || got.def != k.Default:
			t.Errorf("docs/config.md says of %s: %s, %q; it is %s, %q", k.Path, got.kind, got.def, k.Type, k.Default)
		case len(strings.Fields(got.meaning)) < 2:
			t.Errorf("docs/config.md says of %s: %q", k.Path, got.meaning)
		}
		delete(have, k.Path)
	}
	for key := range have {
		t.Errorf("docs/config.md has a row for %s, which there is not", key)
	}
}

// The example at the page's head is a good configuration.
func TestDocsExample(t *testing.T) {
	page, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	o := world
	o.Env = func(string) (string, bool) { return "x", true }
	o.ReadFile = func(path string) ([]byte, error) {
		if path == "agent.yaml" {
			return []byte(example), nil
		}
		return []byte("x"), nil
	}
	if _, problems := Load("agent.yaml", o); !ok || problems != nil {
		t.Errorf("%v in\n%s", problems, example)
	}
}
