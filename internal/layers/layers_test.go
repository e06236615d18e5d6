package layers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/produce-agent/produce-agent/"

// arrows are all the imports of our own packages that may be: what is not here
// may not, and a package that is not here fails the test. Skipping a step is
// drawn too: ship may name a record.
var arrows = map[string][]string{
	"internal/record":            {},
	"internal/stream/limit":      {},
	"internal/stream/dialect":    {},
	"internal/auth":              {},
	"internal/observe":           {},
	"internal/sandbox":           {},
	"internal/layers":            {},
	"internal/ingest":            {"internal/record"},
	"internal/ingest/checkpoint": {"internal/record"},
	"internal/ingest/tail":       {"internal/ingest", "internal/ingest/checkpoint", "internal/record"},
	"internal/ingest/listener":   {"internal/ingest", "internal/record"},
	"internal/spool":             {"internal/record"},
	"internal/spool/spooltest":   {"internal/spool", "internal/record"},
	"internal/config":            {"internal/ingest", "internal/record", "internal/stream/limit", "internal/stream/dialect"},
	"internal/stream":            {"internal/stream/limit", "internal/stream/dialect", "internal/auth", "internal/record"},
	"internal/ship": {
		"internal/ingest", "internal/ingest/tail", "internal/ingest/listener", "internal/ingest/checkpoint",
		"internal/spool", "internal/config", "internal/stream", "internal/stream/limit", "internal/stream/dialect", "internal/auth", "internal/record",
	},
	"cmd/produce-agent": {
		"internal/ship", "internal/stream", "internal/stream/limit", "internal/stream/dialect", "internal/auth", "internal/observe", "internal/sandbox",
		"internal/ingest", "internal/spool",
		"internal/config",
	},
	"bench/blast":   {},
	"bench/demo":    {},
	"bench/line":    {},
	"bench/discard": {"bench/line"},
	"bench/lines":   {"bench/line"},
	"bench/post":    {},
	"bench/run":     {},
}

// pkg is what go list tells of one package of this module.
type pkg struct {
	ImportPath, Dir string
	Imports, Deps   []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// list returns all packages of the module; go list is asked once.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	all, err := asked()
	if err != nil {
		t.Fatal("go list:", err)
	}
	if len(all) < 10 {
		t.Fatalf("go list names %d packages of the module only", len(all))
	}
	return all
}

var asked = sync.OnceValues(func() (map[string]pkg, error) {
	// go test keeps a result until a file the test itself has looked at changes:
	// what go list looks at does not count, so look at all of it.
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && len(d.Name()) > 2 && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,Deps", module+"...").Output()
	var e *exec.ExitError
	if errors.As(err, &e) {
		return nil, fmt.Errorf("%w\n%s", err, e.Stderr)
	}
	if err != nil {
		return nil, err
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all[p.name()] = p
	}
})

func TestArrows(t *testing.T) {
	for name, p := range list(t) {
		allowed, known := arrows[name]
		if !known {
			t.Errorf("%s is in no arrow: draw what it may import, here and in .golangci.yml", name)
			continue
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, module); ok && !slices.Contains(allowed, own) {
				t.Errorf("%s imports %s", name, own)
			}
		}
	}
}

// What must not be reached. Of our own packages and of modules any way counts;
// of the standard library only the direct one, for nearly everything reaches
// os somehow.
func TestMustNotReach(t *testing.T) {
	all := list(t)
	f := func(name string, not ...string) {
		t.Helper()
		p, ok := all[name]
		if !ok {
			t.Errorf("no package %s", name)
			return
		}
		for _, n := range not {
			if slices.Contains(p.Imports, n) {
				t.Errorf("%s imports %s", name, n)
			}
			path, own := strings.CutPrefix(n, "@")
			if path = module + path; own && slices.ContainsFunc(p.Deps, func(d string) bool {
				return d == path || strings.HasPrefix(d, path+"/")
			}) {
				t.Errorf("%s reaches %s", name, path)
			}
			if strings.Contains(n, ".") && slices.ContainsFunc(p.Deps, func(d string) bool { return strings.HasPrefix(d, n) }) {
				t.Errorf("%s reaches %s", name, n)
			}
		}
	}
	ground := []string{
		"net", "net/http", "os", "io", "io/fs", "bufio", "context", "log", "log/slog", "syscall",
		"github.com/prometheus/", "github.com/spf13/",
	}
	f("internal/record", append(ground, "time", "@internal/stream", "@internal/ingest")...)
	f("internal/stream/limit", append(ground, "@internal/record")...)
	f("internal/ingest", "net", "net/http", "@internal/stream", "@internal/auth", "github.com/prometheus/")
	f("internal/spool", "net", "net/http", "@internal/stream", "@internal/ingest", "@internal/ship", "github.com/prometheus/")
	f("internal/stream", "os", "@internal/ingest", "@internal/ship", "github.com/prometheus/")
	f("internal/sandbox",
		"@internal/record", "@internal/ingest", "@internal/stream", "@internal/auth", "@internal/ship", "github.com/goccy/")
	f("internal/auth", "@internal/stream", "@internal/config", "github.com/prometheus/", "github.com/spf13/")
	f("internal/config", "net/http", "@internal/ship", "@internal/auth", "@internal/sandbox", "github.com/prometheus/", "github.com/spf13/cobra")
	f("internal/ship", "net", "net/http", "@internal/sandbox", "@internal/observe", "github.com/spf13/cobra")
	for _, name := range []string{"internal/record", "internal/ingest", "internal/spool", "internal/stream", "internal/ship", "internal/sandbox", "internal/config", "cmd/produce-agent"} {
		f(name, "@bench", "@internal/layers")
	}
}

// Later versions of fasthttp need a module that the public proxy refuses.
func TestFasthttpPinned(t *testing.T) {
	list(t)
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/valyala/fasthttp").Output()
	if err != nil {
		t.Fatal("go list -m:", err)
	}
	if got := strings.TrimSpace(string(out)); got != "v1.73.0" {
		t.Errorf("fasthttp is %s, must stay at v1.73.0", got)
	}
}
