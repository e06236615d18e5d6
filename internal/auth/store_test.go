package auth

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tokens")
	s := newStore(dir, "https://idp", "client", "audience")
	text, fetched := "canary-token", 0
	fetch := func(context.Context) (token, error) {
		fetched++
		return token{value: &text, ends: time.Now().Add(time.Hour)}, nil
	}
	good := func(t token) bool { return t.good(time.Now()) }
	f := func(s *store, what string, want int) {
		t.Helper()
		tok, err := s.through(t.Context(), silent, good, fetch)
		if err != nil || tok.value == nil || *tok.value != text || fetched != want {
			t.Errorf("%s: %v, %d requests, want %d", what, err, fetched, want)
		}
	}
	f(s, "nothing kept", 1)
	f(s, "kept", 1)
	f(newStore(dir, "https://idp", "client", "audience"), "another process", 1)
	f(newStore(dir, "https://idp", "other", "audience"), "another client", 2)
	f(newStore(dir, "https://idp", "client", "other"), "another audience", 3)
	f(nil, "no store", 4)

	for path, mode := range map[string]os.FileMode{dir: 0o700, s.path: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	n := 4
	damage := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		n++
		f(s, what, n)
		f(s, what+", again", n)
	}
	write := func(text string) func() error {
		return func() error { return os.WriteFile(s.path, []byte(text), 0o600) }
	}
	whole, _ := os.ReadFile(s.path)
	damage("empty", write(""))
	damage("cut", write(string(whole[:len(whole)/2])))
	damage("binary", write("\x00\xff\x00"))
	damage("of another", write(strings.Replace(string(whole), s.key, strings.Repeat("0", 64), 1)))
	damage("ended", write(`{"access_token":"old","expires":1000,"for":"`+s.key+`"}`))
	damage("ends in the year 9999", write(`{"access_token":"old","expires":253400000000,"for":"`+s.key+`"}`))
	damage("no header", write(`{"access_token":"a\r\nb","expires":99999999999,"for":"`+s.key+`"}`))
	damage("readable by others", func() error { return os.Chmod(s.path, 0o644) })
	damage("a symlink", func() error {
		os.Rename(s.path, s.path+".moved")
		return os.Symlink(s.path+".moved", s.path)
	})
	if os.Geteuid() == 0 {
		damage("another user's", func() error { return os.Chown(s.path, 1, -1) })
	}
	damage("gone", func() error { return os.Remove(s.path) })
}

// A directory that cannot be used costs a request and one warning, no more.
func TestStoreWithoutItsPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, l, text := newStore(filepath.Join(file, "tokens"), "u", "c", "a"), &logged{}, "canary"
	for range 3 {
		tok, err := s.through(t.Context(), l.log(), func(token) bool { return true }, func(context.Context) (token, error) {
			return token{value: &text, ends: time.Now().Add(time.Hour)}, nil
		})
		if err != nil || *tok.value != text {
			t.Error(err)
		}
	}
	if n := strings.Count(l.String(), "tokens cannot be kept"); n != 1 || strings.Contains(l.String(), "canary") {
		t.Errorf("%d warnings:\n%s", n, l)
	}
}
