// Command summary turns the events of `go test -json` on stdin into what `go
// test` prints without -v: a line per package, and of failed tests all they
// said. It ends with the number of tests, subtests included.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// event is one line of go test -json. Source: go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

func main() {
	var passed, failed, skipped, packages int
	said := map[string][]string{} // by package and test, until that test ends
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadString('\n')
		var e event
		switch {
		case err != nil && line == "":
			fmt.Printf("%d passed, %d failed, %d skipped", passed, failed, skipped)
			if packages > 0 {
				fmt.Printf("; %d packages failed", packages)
			}
			fmt.Println()
			return
		case json.Unmarshal([]byte(line), &e) != nil:
			fmt.Print(line) // the go command itself
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			switch {
			case e.Test != "":
				if !strings.HasPrefix(e.Output, "=== ") {
					said[key] = append(said[key], e.Output)
				}
			case e.Output != "PASS\n":
				fmt.Print(e.Output)
			}
		case "pass", "fail", "skip":
			if e.Test == "" {
				if e.Action == "fail" {
					packages++
				}
				// What never ended, because the package panicked or ran out of time.
				for key, lines := range said {
					if e.Action == "fail" && strings.HasPrefix(key, e.Package+" ") {
						fmt.Print(strings.Join(lines, ""))
						delete(said, key)
					}
				}
				continue
			}
			switch e.Action {
			case "pass":
				passed++
			case "skip":
				skipped++
			case "fail":
				failed++
				fmt.Print(strings.Join(said[key], ""))
			}
			delete(said, key)
		}
	}
}
