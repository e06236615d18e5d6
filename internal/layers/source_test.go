package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// use is one mention of another package's name: path "os", name "Exit".
type use struct {
	path, name string
	file       string // base name
	fn         string // the function it stands in; "" outside of any
	at         token.Position
}

// look calls see for every use in the package's sources, whatever system they
// are built for, and returns where go statements stand.
func look(t *testing.T, p pkg, see func(use)) (goes []token.Position) {
	t.Helper()
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		imports := map[string]string{}
		for _, spec := range file.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			as := path[strings.LastIndex(path, "/")+1:]
			if spec.Name != nil {
				as = spec.Name.Name
			}
			imports[as] = path
			see(use{path: path, file: name, at: set.Position(spec.Pos())})
		}
		for _, decl := range file.Decls {
			fn := ""
			if d, ok := decl.(*ast.FuncDecl); ok {
				fn = d.Name.Name
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					goes = append(goes, set.Position(n.Pos()))
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && imports[x.Name] != "" {
						see(use{imports[x.Name], n.Sel.Name, name, fn, set.Position(n.Pos())})
					}
				}
				return true
			})
		}
	}
	return goes
}

// The process belongs to the commands: arguments, environment, signals, the
// exit and what is global in libraries.
var process = map[string]bool{
	"os.Args": true, "os.Getenv": true, "os.LookupEnv": true, "os.Environ": true, "os.ExpandEnv": true,
	"os.Setenv": true, "os.Exit": true, "os.Stdin": true, "os.Stdout": true, "os.Stderr": true,
	"log.Fatal": true, "log.Fatalf": true, "log.Fatalln": true, "slog.SetDefault": true, "slog.Default": true,
	"runtime.Goexit": true, "syscall.Exit": true, "syscall.Kill": true,
	"prometheus.DefaultRegisterer": true, "prometheus.DefaultGatherer": true,
	"prometheus.MustRegister": true, "prometheus.Register": true,
}

func TestProcessIsTheCommands(t *testing.T) {
	for name, p := range list(t) {
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "bench/") {
			continue
		}
		look(t, p, func(u use) {
			base := u.path[strings.LastIndex(u.path, "/")+1:]
			if process[base+"."+u.name] || u.path == "os/signal" || u.path == "flag" {
				t.Errorf("%s: %s %s: only commands may", u.at, u.path, u.name)
			}
		})
	}
}

// Only main exits; everything below returns an error, so that a test can run
// every command.
func TestOnlyMainExits(t *testing.T) {
	exits := 0
	look(t, list(t)["cmd/produce-agent"], func(u use) {
		switch {
		case u.path == "os" && u.name == "Exit":
			exits++
			if u.file != "main.go" || u.fn != "main" {
				t.Errorf("%s: os.Exit outside of main", u.at)
			}
		case u.path == "log":
			t.Errorf("%s: package log: it can exit and has no levels; use log/slog", u.at)
		}
	})
	if exits != 1 {
		t.Errorf("main exits in %d places, want 1", exits)
	}
}

// The ground floor: whoever calls it has the clock and the goroutines.
func TestGroundFloor(t *testing.T) {
	clock := map[string]bool{
		"Now": true, "Since": true, "Until": true, "Sleep": true, "After": true, "AfterFunc": true,
		"Tick": true, "NewTimer": true, "NewTicker": true,
	}
	all := list(t)
	for _, name := range []string{"internal/record", "internal/stream/limit"} {
		goes := look(t, all[name], func(u use) {
			if u.path == "time" && clock[u.name] {
				t.Errorf("%s: time.%s", u.at, u.name)
			}
		})
		for _, at := range goes {
			t.Errorf("%s: go statement", at)
		}
	}
}

// wallClock is where the time of day is meant, with what for. Everything that
// waits, ages or paces goes by the clock that nobody sets: one that jumps, by a
// day in either direction, must not send, end or forget anything.
var wallClock = map[string]string{
	"internal/auth/bearer.go ModTime":          "a file written a moment ago is read once more; a time out of that moment's bounds only costs or saves a read",
	"internal/auth/bearer.go Unix":             "when a token says that it ends; it is shown to people, the server decides",
	"internal/auth/proxy.go Unix":              "a deadline that is over",
	"internal/auth/store.go Unix":              "when a kept token ends, by the calendar; one that is refused is asked for anew",
	"internal/auth/tls.go ModTime":             "tells whether a file is the same, by equality",
	"internal/ingest/checkpoint/store.go Unix": "Seen is kept over restarts: a file that is gone is forgotten after a week by the calendar, never one that is there",
	"internal/ingest/listener/conn.go Unix":    "a deadline that is over",
	"internal/ingest/listener/stream.go Unix":  "a deadline that is over",
	"internal/ship/apply.go UnixNano":          "tells whether a file is the same, by equality",
	"internal/ingest/tail/scan.go ModTime":     "a packed file that is not touched for a moment is whole; a time out of that moment's bounds counts as whole, too",
	"internal/ingest/tail/keeper.go ModTime":   "tells whether a file is the same, by equality",
	"internal/ship/apply.go ModTime":           "tells whether a file is the same, by equality",
	"internal/spool/inspect.go UnixMilli":      "shown to people",
	"internal/spool/spool.go UnixMilli":        "the age that a metric shows of what may be older than the process; not below 0",
	"internal/spool/format.go UnixMilli":       "written for the two above",
	"internal/spool/write.go UnixMilli":        "written for the two above",
}

// Waits are monotonic: times that were made numbers, or read from a disk, are
// compared nowhere but where it says why.
func TestWaitsAreMonotonic(t *testing.T) {
	found := map[string]bool{}
	for name, p := range list(t) {
		if name == "internal/sandbox" || strings.HasPrefix(name, "bench") { // tools, that nobody runs for days
			continue
		}
		set := token.NewFileSet()
		entries, err := os.ReadDir(p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, e.Name()), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				x, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				switch x.Sel.Name {
				case "Unix", "UnixNano", "UnixMilli", "UnixMicro", "ModTime":
					key := name + "/" + e.Name() + " " + x.Sel.Name
					found[key] = true
					if wallClock[key] == "" {
						t.Errorf("%s: %s: a wait by the wall clock? Say in wallClock what it is for, or count from a time.Time of this process", set.Position(x.Pos()), x.Sel.Name)
					}
				}
				return true
			})
		}
	}
	for key := range wallClock {
		if !found[key] {
			t.Errorf("%s is in wallClock and not in the sources", key)
		}
	}
}
