package auth

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestBearerFileChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "token")
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("one\n")
		l := &logged{}
		b, err := NewBearer(path, "pool-1", l.log())
		if err != nil {
			t.Fatal(err)
		}
		f := func(want string) {
			t.Helper()
			if got, err := b.Authorization(t.Context()); err != nil || got != "Bearer "+want {
				t.Errorf("%q, %v; want %s", got, err, want)
			}
		}
		f("one")
		write("two, and longer")
		f("one") // looked at a moment ago
		time.Sleep(2 * time.Second)
		f("one") // holds a space
		f("one")
		write("two")
		time.Sleep(2 * time.Second)
		f("two")
		write("")
		for range 5 {
			time.Sleep(2 * time.Second)
			f("two")
		}
		os.Remove(path)
		time.Sleep(2 * time.Second)
		f("two")
		if n := strings.Count(l.String(), "stays in use"); n != 2 {
			t.Errorf("%d warnings:\n%s", n, l)
		}
		write("six")
		if !Refused(b, "Bearer two", false) { // looks at once
			t.Error("the new token is not seen")
		}
		f("six")
		if Refused(b, "Bearer six", true) {
			t.Error("there is no other")
		}
		if h := Headers(b); len(h) != 1 || h[0].Value != "pool-1" {
			t.Error(h)
		}
		if strings.Contains(l.String()+fmt.Sprintf("%v %+v %#v", b, b, b), "six") {
			t.Error("the token shows")
		}
	})
}

func TestBearerFileThatWillNotDo(t *testing.T) {
	dir := t.TempDir()
	f := func(name string, content []byte, want string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if content != nil {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := NewBearer(path, "", silent); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	f("gone", nil, "no such file")
	f("empty", []byte{}, "is empty")
	f("blank", []byte(" \n"), "is empty")
	f("header", []byte("Bearer canary"), "without the word Bearer")
	f("two", []byte("canary\ncanary"), "want the token alone")
	f("binary", []byte("canary\x00\xff"), "want the token alone")
	f("huge", []byte(strings.Repeat("x", maxToken+1)), "it is no token")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err == nil {
		f("pipe", nil, "no regular file")
	}
	f(".", nil, "no regular file")
}

// jwt is an unsigned token that ends then.
func jwt(end time.Time) string {
	b := base64.RawURLEncoding
	return b.EncodeToString([]byte(`{"alg":"none"}`)) + "." + b.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, end.Unix())) + ".c2ln"
}

func TestJWTEnd(t *testing.T) {
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	if got, ok := jwtEnd(jwt(end)); !ok || !got.Equal(end) {
		t.Errorf("%v, %v", got, ok)
	}
	for _, token := range []string{"", "a.b", "a.b.c", "a." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":"x"}`)) + ".c", "a.e30.c", jwt(time.Unix(-1, 0))} {
		if got, ok := jwtEnd(token); ok {
			t.Errorf("%q: %v", token, got)
		}
	}
	path := filepath.Join(t.TempDir(), "t")
	if err := os.WriteFile(path, []byte(jwt(time.Now().Add(-time.Hour))), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := NewBearer(path, "", silent)
	if err != nil || !strings.Contains(Remedy(b), "it ended at") || !strings.Contains(Describe(b), "ended 1h0m") {
		t.Errorf("%v: %s; %s", err, Remedy(b), Describe(b))
	}
}
