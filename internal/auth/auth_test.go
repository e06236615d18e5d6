package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBasic(t *testing.T) {
	f := func(key, secret, want string) {
		t.Helper()
		b, err := NewBasic(key, secret)
		if err != nil {
			t.Errorf("%q %q: %v", key, secret, err)
			return
		}
		got, err := b.Authorization(context.Background())
		if err != nil || got != want {
			t.Errorf("%q %q: %q, %v; want %q", key, secret, got, err, want)
		}
	}
	f("key", "secret", "Basic a2V5OnNlY3JldA==")
	f("Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==") // RFC 7617 §2
	f("key", "with:colon", "Basic a2V5OndpdGg6Y29sb24=")
	f("clé", "£", "Basic Y2zDqTrCow==") // UTF-8

	bad := func(key, secret, want string) {
		t.Helper()
		_, err := NewBasic(key, secret)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", key, err, want)
		}
		if err != nil && len(secret) > 3 && strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
	bad("", "hunter2", "without an API key")
	bad("key", "", "without a secret")
	bad("", "", "API key")
	bad("ke:y", "hunter2", "colon")
	bad("key\n", "hunter2", "line break")
	bad("key", "hunter2\n", "line break")
	bad("key", "hunter2\rX-Evil: 1", "line break")
}

// What a server quotes of our credentials is not told on, cut off or not.
func TestScrub(t *testing.T) {
	f := func(text, authorization, want string) {
		t.Helper()
		if got := Scrub(text, authorization); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	const token, basic = "Bearer eyJh.canary/+x=", "Basic a2V5OmNhbmFyeSAmIHNv" // key:canary & so
	f("bad header Bearer eyJh.canary/+x=!", token, "bad header ***!")
	f(`bad "eyJh.canary/+x=", "eyJh.canary\/+x="`, token, `bad "***", "***"`)
	f(`bad token eyJh.canary/+x\u003d`, token, "bad token ***")
	f("bad eyJh.canary%2F%2Bx%3D", token, "bad ***")
	f("bad header Bearer eyJh.can…", token, "bad header Bearer ***…")
	f("Basic a2V5OmNhbmFyeSAmIHNv, key:canary & so, canary &amp; so", basic, "***, ***, ***")
	f("user key with canary\\u0026 so or canary \\u0026 so", basic, "user key with canary\\u0026 so or ***")
	f("password can…", basic, "password can…")
	f("password canar…", basic, "password ***…")
	f("Unauthorized", basic, "Unauthorized")
	f("Unauthorized", "", "Unauthorized")
	f("a b c", "Basic YTpi", "a b c") // a:b is too short to be a secret
}

func TestNone(t *testing.T) {
	if got, err := (None{}).Authorization(context.Background()); got != "" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := (Basic{}).Authorization(context.Background()); got != "" || err != nil {
		t.Errorf("the zero Basic: %q, %v", got, err)
	}
}

// However credentials get printed, alone or deep inside something else, they
// do not show.
func TestNothingPrintsTheSecret(t *testing.T) {
	b, err := NewBasic("thekey", "hunter2")
	if err != nil {
		t.Fatal(err)
	}
	header, _ := b.Authorization(context.Background())
	_, encoded, _ := strings.Cut(header, " ")
	type open struct{ Auth Authorizer }
	type closed struct{ auth Authorizer }
	type deep struct{ b []Basic }
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "auth", b, "in", closed{b}, "open", open{b})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "auth", b, "in", closed{b}, "open", open{b})
	asJSON, _ := json.Marshal(open{b})
	texts := []string{log.String(), string(asJSON), fmt.Sprint(b), fmt.Sprintln(&b), b.String(), b.GoString()}
	for _, v := range []any{b, &b, open{b}, closed{b}, &closed{b}, deep{[]Basic{b}}, []any{b}, map[string]any{"a": b}, fmt.Errorf("with %v", b)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X"} {
			texts = append(texts, fmt.Sprintf(verb, v))
		}
	}
	hexed := fmt.Sprintf("%x", header)
	for _, text := range texts {
		for _, s := range []string{"hunter2", encoded, hexed, strings.ToUpper(hexed)} {
			if strings.Contains(text, s) {
				t.Errorf("the secret shows: %s", text)
			}
		}
	}
}

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	f := func(content, want string) {
		t.Helper()
		path := filepath.Join(dir, "secret")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(path)
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %q, %v; want an error that names the file", content, got, err)
			}
			return
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", content, got, err, want)
		}
	}
	f("s3cret", "s3cret")
	f("s3cret\n", "s3cret")
	f("s3cret\r\n", "s3cret")
	f(" s3 cret \n", " s3 cret ")
	f("two\nlines\n", "two\nlines") // NewBasic refuses it
	f("", "")
	f("\n", "")
	if _, err := ReadSecret(filepath.Join(dir, "none")); err == nil || !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := ReadSecret(dir); err == nil {
		t.Error("a directory is no secret")
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok || u.Unwrap() == nil {
			return err
		}
		if os.IsNotExist(err) {
			return err
		}
		err = u.Unwrap()
	}
}

func TestTLSConfig(t *testing.T) {
	plain, err := NewTLS(TLSFiles{}, nil)
	cfg := plain.Config()
	if err != nil || cfg.RootCAs != nil || cfg.MinVersion != tls.VersionTLS12 || !slices.Equal(cfg.NextProtos, []string{"http/1.1"}) || cfg.InsecureSkipVerify {
		t.Errorf("%+v, %v", cfg, err)
	}
	dir := t.TempDir()
	good := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(good, certificate(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err := NewTLS(TLSFiles{CA: good}, nil); err != nil || cfg.Config().RootCAs == nil {
		t.Errorf("%+v, %v", cfg, err)
	}
	bad := func(name, content, want string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if content != "" {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := NewTLS(TLSFiles{CA: path}, nil); err == nil || !strings.Contains(err.Error(), "--ca-file") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", name, err, want)
		}
	}
	bad("missing", "", "no such file")
	bad("text", "hello", "no certificate")
	bad("key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no certificate")
	bad("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate")
}

// certificate returns a self-signed one in PEM form.
func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestIsLoopback(t *testing.T) {
	f := func(host string, want bool) {
		t.Helper()
		if got := IsLoopback(host); got != want {
			t.Errorf("IsLoopback(%q) = %v", host, got)
		}
	}
	f("localhost", true)
	f("LocalHost", true)
	f("127.0.0.1", true)
	f("127.8.9.10", true)
	f("::1", true)
	f("[::1]", true)
	f("::ffff:127.0.0.1", true)
	f("0.0.0.0", false)
	f("10.0.0.1", false)
	f("localhost.example.com", false)
	f("127.0.0.1.example.com", false)
	f("", false)
}
