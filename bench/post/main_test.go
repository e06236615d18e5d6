package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestPost(t *testing.T) {
	var mu sync.Mutex
	var got strings.Builder
	requests := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if requests++; requests == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		got.Write(body)
		fmt.Fprintf(w, `{"accepted":%d,"rejected":[]}`, strings.Count(string(body), "\n"))
	}))
	defer srv.Close()
	in := strings.Repeat("{}\n", 250)
	file := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(file, []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(want, lines, reqs int, args ...string) {
		t.Helper()
		requests = 0
		got.Reset()
		var out strings.Builder
		if err := run(append([]string{"-url", srv.URL, "-file", file}, args...), &out); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(got.String(), "\n"); n != lines || requests != reqs || !strings.Contains(out.String(), fmt.Sprintf(`"accepted":%d,"sent_again":1`, want)) {
			t.Errorf("%d lines in %d requests, %s", n, requests, out.String())
		}
	}
	f(250, 250, 4)
	f(250, 250, 26, "-batch", "10", "-conns", "2", "-rate", "10000")
	f(15, 15, 3, "-batch", "10", "-n", "15")
	var none strings.Builder
	if err := run([]string{"-url", srv.URL + "/%", "-file", file}, &none); err == nil {
		t.Error("a bad address is taken")
	}
	if err := run([]string{"-file", file}, &none); err == nil {
		t.Error("no address is taken")
	}
}
