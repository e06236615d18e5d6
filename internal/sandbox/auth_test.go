package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// opens tries a produce request with these headers.
func opens(t testing.TB, s *Sandbox, headers ...string) int {
	t.Helper()
	resp, _ := ask(t, s, "POST", fmt.Sprintf(path3, "t"), rec, append(headers, "Content-Type: application/json")...)
	return resp.StatusCode
}

// answerJSON decodes an answer's members.
func answerJSON(t testing.TB, b string) map[string]any {
	t.Helper()
	out := map[string]any{}
	if err := json.Unmarshal([]byte(b), &out); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return out
}

const formType = "Content-Type: application/x-www-form-urlencoded"

// fetchToken asks for a token and returns it with its life.
func fetchToken(t testing.TB, s *Sandbox, form url.Values, headers ...string) (string, float64) {
	t.Helper()
	resp, b := ask(t, s, "POST", "/oauth/token", form.Encode(), append(headers, formType)...)
	m := answerJSON(t, b)
	if resp.StatusCode != 200 || m["token_type"] != "Bearer" || !strings.HasPrefix(resp.Header.Get("Auth0-Organization-Quota-Limit"), "b=per_day;q=100;r=") {
		t.Fatalf("%d %s %v", resp.StatusCode, b, resp.Header)
	}
	return m["access_token"].(string), m["expires_in"].(float64)
}

func credentials(id, secret string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
}

// A bearer token's file is read anew for each request; an open stream goes on.
func TestBearerFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one\n")
	s := start(t, func(c *Config) { c.AuthFiles = []string{"bearer:" + file} })
	if got := opens(t, s, "Authorization: Bearer one"); got != 200 {
		t.Errorf("%d", got)
	}
	c := open(t, s, "t", "Authorization: Bearer one")
	c.send(rec)
	c.next()
	write("two")
	for auth, want := range map[string]int{"Bearer one": 401, "Bearer two": 200, "bearer two": 200, "Bearer ": 401, "Basic dHdvOg==": 401, "": 401} {
		if got := opens(t, s, "Authorization: "+auth); got != want {
			t.Errorf("%q: %d", auth, got)
		}
	}
	c.send(rec)
	if r := c.next(); r.Code != 200 {
		t.Errorf("the open stream: %+v", r)
	}
	s.SetBearerTokens("three")
	if got := opens(t, s, "Authorization: Bearer three"); got != 200 {
		t.Errorf("SetBearerTokens: %d", got)
	}
	write("") // an empty file lets nobody in
	if got := opens(t, s, "Authorization: Bearer "); got != 401 {
		t.Errorf("empty file: %d", got)
	}
}

// A token lets in until it ends; after that new requests draw 401 and the open
// stream goes on.
func TestOAuth(t *testing.T) {
	begin := time.Now()
	var later atomic.Int64
	s := start(t, func(c *Config) {
		c.OAuth = []OAuthClient{{ID: "id", Secret: "s:c", TTL: time.Minute, Pool: "pool-1"}, {ID: "plain", Secret: "x"}}
		c.Audience = "aud"
		c.clock = func() time.Time { return begin.Add(time.Duration(later.Load())) }
	})
	form := credentials("id", "s:c")
	f := func(form url.Values, status int, code string, headers ...string) {
		t.Helper()
		resp, b := ask(t, s, "POST", "/oauth/token", form.Encode(), append(headers, formType)...)
		if resp.StatusCode != status || answerJSON(t, b)["error"] != code {
			t.Errorf("%v: %d %s", form, resp.StatusCode, b)
		}
	}
	f(form, 403, "access_denied") // no audience
	form.Set("audience", "other")
	f(form, 403, "access_denied")
	form.Set("audience", "aud")
	bad := credentials("id", "wrong")
	bad.Set("audience", "aud")
	f(bad, 401, "access_denied")
	f(credentials("nobody", ""), 401, "access_denied")
	f(url.Values{"grant_type": {"password"}}, 400, "unsupported_grant_type")
	if resp, b := ask(t, s, "POST", "/oauth/token", `{}`, "Content-Type: application/json"); resp.StatusCode != 400 {
		t.Errorf("JSON: %d %s", resp.StatusCode, b)
	}

	token, life := fetchToken(t, s, form)
	if life != 60 {
		t.Errorf("expires_in %v", life)
	}
	auth, pool := "Authorization: Bearer "+token, "confluent-identity-pool-id: pool-1"
	if got := opens(t, s, auth, pool); got != 200 {
		t.Errorf("%d", got)
	}
	if got := opens(t, s, auth); got != 401 {
		t.Errorf("without the pool: %d", got)
	}
	if got := opens(t, s, auth, "Confluent-Identity-Pool-Id: pool-2"); got != 401 {
		t.Errorf("with another pool: %d", got)
	}
	// By Basic, each half form-encoded.
	form = url.Values{"grant_type": {"client_credentials"}, "audience": {"aud"}, "scope": {"a b"}}
	second, _ := fetchToken(t, s, form, "Authorization: Basic aWQ6cyUzQWM=")
	if second == token {
		t.Error("the same token twice")
	}
	c := open(t, s, "t", auth, pool)
	c.send(rec)
	c.next()
	later.Store(int64(61 * time.Second))
	if got := opens(t, s, auth, pool); got != 401 {
		t.Errorf("after its end: %d", got)
	}
	c.send(rec)
	if r := c.next(); r.Code != 200 {
		t.Errorf("the open stream: %+v", r)
	}
	if st := s.Stats(); st.Tokens != 2 || st.Unauthorized != 3 {
		t.Errorf("%+v", st)
	}
}

// The token exchange wants every field, and its token needs no pool header.
func TestSTS(t *testing.T) {
	s := start(t, func(c *Config) {
		c.OAuth = []OAuthClient{{ID: "id", Secret: "s", Pool: "pool-1"}}
	})
	subject, _ := fetchToken(t, s, credentials("id", "s"))
	good := url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {subject}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "identity_pool_id": {"pool-1"},
	}
	f := func(name, value, parameter string) {
		t.Helper()
		form := url.Values{}
		for k, v := range good {
			form[k] = v
		}
		if form.Set(name, value); value == "" {
			form.Del(name)
		}
		resp, b := ask(t, s, "POST", "/sts/v1/oauth2/token", form.Encode(), formType)
		if resp.StatusCode != 400 || !strings.Contains(b, `"source":{"parameter":"`+parameter+`"}`) || !strings.Contains(b, `"status":"400"`) {
			t.Errorf("%s=%s: %d %s", name, value, resp.StatusCode, b)
		}
	}
	for name := range good {
		f(name, "", name)
		f(name, "x", name)
	}
	f("expires_in", "901", "expires_in")
	f("expires_in", "0", "expires_in")
	f("expires_in", "x", "expires_in")
	if resp, _ := ask(t, s, "POST", "/sts/v1/oauth2/token", "{}", "Content-Type: application/json"); resp.StatusCode != 400 {
		t.Errorf("JSON: %d", resp.StatusCode)
	}

	for asked, want := range map[string]float64{"": 900, "120": 120} {
		form := good
		if asked != "" {
			form.Set("expires_in", asked)
		}
		resp, b := ask(t, s, "POST", "/sts/v1/oauth2/token", form.Encode(), formType)
		m := answerJSON(t, b)
		if resp.StatusCode != 200 || m["expires_in"] != want || m["token_type"] != "Bearer" || m["issued_token_type"] != "urn:ietf:params:oauth:token-type:access_token" {
			t.Fatalf("%d %s", resp.StatusCode, b)
		}
		if got := opens(t, s, "Authorization: Bearer "+m["access_token"].(string)); got != 200 {
			t.Errorf("%d", got)
		}
		form.Del("expires_in")
	}
}

// Right credentials can draw 401 and 403: for the first requests, for a while,
// from some point on.
func TestFaultAuth(t *testing.T) {
	begin := time.Now()
	f := func(fault string, every time.Duration, want ...int) {
		t.Helper()
		var later atomic.Int64
		s := start(t, func(c *Config) {
			withFaults(t, fault)(c)
			c.Credentials = map[string]string{"KEY": "s3cret"}
			c.clock = func() time.Time { return begin.Add(time.Duration(later.Load())) }
		})
		var got []int
		for range want {
			got = append(got, opens(t, s, "Authorization: Basic S0VZOnMzY3JldA=="))
			later.Add(int64(every))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", fault, got, want)
		}
	}
	f("auth=401,times=2", 0, 401, 401, 200, 200)
	f("auth=401,for=10s", 5*time.Second, 401, 401, 200, 200)
	f("auth=401,after=2", 0, 200, 200, 401, 401)
	f("auth=403,age=10s", 5*time.Second, 200, 200, 403, 403)
	f("auth=403,age=5s,for=5s", 5*time.Second, 200, 403, 200)

	s := start(t, withFaults(t, "auth=401,share=0.5"))
	n := 0
	for range 100 {
		if resp, _ := ask(t, s, "GET", "/v3/clusters", ""); resp.StatusCode == 401 {
			n++
		}
	}
	if n < 30 || n > 70 {
		t.Errorf("%d of 100 refused", n)
	}
	// An open stream goes on, and each server refuses in its own shape.
	if err := s.SetFaults(nil); err != nil {
		t.Fatal(err)
	}
	c := open(t, s, "t")
	c.send(rec)
	c.next()
	if err := s.SetFaults(parse(t, "auth=403", "v2=pandaproxy")); err != nil {
		t.Fatal(err)
	}
	c.send(rec)
	if r := c.next(); r.Code != 200 {
		t.Errorf("%+v", r)
	}
	if status, b := v2Post(t, s, "/topics/t", binaryV2, "{}"); status != 403 || b != `{"error_code":40301,"message":"Forbidden"}` {
		t.Errorf("%d %s", status, b)
	}
}

// The token endpoints fail on demand.
func TestFaultToken(t *testing.T) {
	s := start(t, func(c *Config) {
		withFaults(t, "token-quota=5,times=2", "token=503,times=1")(c)
		c.OAuth = []OAuthClient{{ID: "id", Secret: "s"}}
	})
	fetch := func(path string) (*http.Response, string) {
		return ask(t, s, "POST", path, credentials("id", "s").Encode(), formType)
	}
	resp, b := fetch("/oauth/token")
	if resp.StatusCode != 429 || b != `{"error":"too_many_requests","error_description":"Organization quota exceeded"}` ||
		resp.Header.Get("Retry-After") != "5" || resp.Header.Get("Auth0-Organization-Quota-Limit") != "b=per_day;q=100;r=0;t=43200" {
		t.Errorf("%d %s %v", resp.StatusCode, b, resp.Header)
	}
	resp, b = fetch("/sts/v1/oauth2/token")
	if resp.StatusCode != 429 || !strings.Contains(b, `"status":"429"`) || resp.Header.Get("Retry-After") != "5" || resp.Header.Get("X-RateLimit-Reset") != "5" {
		t.Errorf("%d %s %v", resp.StatusCode, b, resp.Header)
	}
	if resp, b = fetch("/oauth/token"); resp.StatusCode != 503 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	if resp, b = fetch("/oauth/token"); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

// --oauth's words, and what they must not be.
func TestParseOAuthClient(t *testing.T) {
	got, err := ParseOAuthClient("id:/run/secret,ttl=2m,pool=pool-1")
	if want := (OAuthClient{ID: "id", SecretFile: "/run/secret", TTL: 2 * time.Minute, Pool: "pool-1"}); got != want || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	for _, s := range []string{"", "id", "id:", ":f", "id:f,ttl=x", "id:f,ttl=1ms", "id:f,pool=", "id:f,scope=a"} {
		if got, err := ParseOAuthClient(s); err == nil {
			t.Errorf("%q: taken as %+v", s, got)
		}
	}
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *Config) { c.OAuth = []OAuthClient{{ID: "id", SecretFile: file}} })
	fetchToken(t, s, credentials("id", "s"))
	cfg := DefaultConfig()
	cfg.Listen, cfg.KafkaListen, cfg.OAuth = "127.0.0.1:0", "127.0.0.1:0", []OAuthClient{{ID: "id", SecretFile: file + "x"}}
	if _, err := Start(cfg); err == nil || !strings.Contains(err.Error(), `OAuth client "id"`) {
		t.Errorf("%v", err)
	}
}

// Only a client with a certificate of the named authority gets in.
func TestClientCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(c *Config) { c.TLS, c.ClientCAFile = true, file })
	get := func(certs ...tls.Certificate) error {
		conf := tlsClient(t, s)
		conf.Certificates = certs
		conf.NextProtos = []string{"http/1.1"}
		tr := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}
		req, err := http.NewRequest("GET", s.URL()+"/v3/clusters", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	if err := get(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}); err != nil {
		t.Error(err)
	}
	if err := get(); err == nil {
		t.Error("let in without a certificate")
	}
	cfg := DefaultConfig()
	cfg.ClientCAFile = file
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "needs --tls") {
		t.Errorf("%v", err)
	}
	cfg.TLS, cfg.Listen, cfg.KafkaListen, cfg.ClientCAFile, cfg.ClientCA = true, "127.0.0.1:0", "127.0.0.1:0", "", []byte("x")
	if _, err := Start(cfg); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("%v", err)
	}
}
