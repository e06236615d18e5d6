package main

import (
	"encoding/base64"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/sandbox"
)

// The sandbox's token endpoints, by the rules of the real ones: OAuth2 with an
// identity pool, the exchange of such a token, and Redpanda Cloud's audience, by
// every way of sending.
func TestShipOAuthToTheSandbox(t *testing.T) {
	secret := write(t, "secret", "canary-secret")
	client := []string{"--oauth2-client-id", "c", "--oauth2-client-secret-file", secret}
	box := func(set func(*sandbox.Config)) *sandbox.Sandbox {
		return startBoxWith(t, func(c *sandbox.Config) {
			c.OAuth = []sandbox.OAuthClient{{ID: "c", Secret: "canary-secret", Pool: "pool-1"}}
			set(c)
		})
	}
	s := box(func(*sandbox.Config) {})
	cloud := startBoxWith(t, func(c *sandbox.Config) {
		c.OAuth, c.Audience = []sandbox.OAuthClient{{ID: "c", Secret: "canary-secret"}}, "cloudv2-production.redpanda.cloud"
	})
	f := func(s *sandbox.Sandbox, status int, want string, args ...string) {
		t.Helper()
		args = append(append([]string{"ship", "-o", "json", "-t", "t", "--rest-endpoint", s.URL()}, client...), args...)
		r := begin(t, []string{"XDG_CACHE_HOME=" + t.TempDir()}, strings.NewReader("a\nb\nc\n"), args...).ran()
		if r.status != status || !strings.Contains(r.err, want) || strings.Contains(r.out+r.err, "canary") || status == exitOK && r.Delivered != 3 {
			t.Errorf("%q: status %d, want %d and %q\n%s", args, r.status, status, want, r.err)
		}
	}
	oauth := []string{"--oauth2-token-url", s.URL() + "/oauth/token"}
	for _, dialect := range []string{"v3-stream", "v3-records", "v3-batch", "v2"} {
		f(s, exitOK, "", append(oauth, "--identity-pool-id", "pool-1", "--dialect", dialect)...)
	}
	f(s, exitDenied, "identity pool pool-2", append(oauth, "--identity-pool-id", "pool-2")...)
	f(s, exitDenied, "401", oauth...)
	f(s, exitOK, "", append(oauth, "--identity-pool-id", "pool-1", "--auth-type", "sts", "--sts-token-url", s.URL()+"/sts/v1/oauth2/token")...)
	f(cloud, exitOK, "", "--auth-type", "redpanda", "--oauth2-token-url", cloud.URL()+"/oauth/token")
	f(cloud, exitDenied, "check the", "--oauth2-token-url", cloud.URL()+"/oauth/token", "--oauth2-audience", "other")
}

// A key that is not known everywhere yet is waited for where that was asked for;
// one that worked and is taken back ends the run, its records pending.
func TestFreshAndRevokedKeys(t *testing.T) {
	withKey := func(c *sandbox.Config) { c.Credentials = map[string]string{"KEY": "s3cret"} }
	args := func(s *sandbox.Sandbox, more ...string) []string {
		return append([]string{"ship", "-o", "json", "-t", "t", "--rest-endpoint", s.URL() + "/kafka", "--cluster-id", s.ClusterID(), "--api-key", "KEY"}, more...)
	}
	env := []string{"KAFKA_API_SECRET=s3cret"}
	fresh := func() *sandbox.Sandbox { return startBoxWith(t, withKey, "auth=401,times=3") }
	r := begin(t, env, strings.NewReader("a\nb\n"), args(fresh())...).ran()
	r.want(t, exitDenied, 2, 0, 0, 2)
	r = begin(t, env, strings.NewReader("a\nb\n"), args(fresh(), "--auth-patience", "30s")...).ran()
	r.want(t, exitOK, 2, 2, 0, 0)
	if !strings.Contains(r.err, "a new key takes up to some minutes to be known: waiting") {
		t.Errorf("does not say what it waits for:\n%s", r.err)
	}

	s := startBox(t)
	g := newGate(t, s, "Basic "+base64.StdEncoding.EncodeToString([]byte("KEY:s3cret")), "")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	p := begin(t, env, in, "ship", "-o", "json", "-t", "t", "--rest-endpoint", g.url(), "--cluster-id", s.ClusterID(), "--api-key", "KEY",
		"--auth-patience", "1s", "--reports", "-")
	io.WriteString(out, "a\n")
	for limit := time.After(patience); !strings.Contains(p.out.String(), `"error_code":200`); {
		select {
		case <-p.out.grown:
		case <-limit:
			t.Fatalf("no report:\n%s", p.err.String())
		}
	}
	g.wants("another key's")
	g.cut()
	io.WriteString(out, "b\n")
	out.Close()
	r = p.ran()
	r.want(t, exitDenied, 2, 1, 0, 1)
	if !strings.Contains(r.err, "credentials that worked have been refused for 1s: they may have been revoked") {
		t.Errorf("does not say why:\n%s", r.err)
	}
}
