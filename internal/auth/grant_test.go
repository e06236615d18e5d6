package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	clientCanary  = "canary secret+/&="
	subjectCanary = "canary.subject.token"
)

// idp is a token endpoint: answer is what it says, posts the forms it got.
type idp struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request)
	posts  []url.Values
	basics []string // of Authorization headers
}

func newIDP(t *testing.T) *idp {
	p := &idp{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Method != http.MethodPost {
			t.Errorf("%s: %v", r.Method, err)
		}
		p.posts = append(p.posts, r.PostForm)
		id, secret, _ := r.BasicAuth()
		p.basics = append(p.basics, id+" "+secret)
		w.Header().Set("Content-Type", "application/json")
		p.answer(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func says(status int, body string, headers ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func (p *idp) settings(kind string) Settings {
	return Settings{
		Type: kind, Log: silent, Timeout: time.Second,
		OAuth2: OAuth2{TokenURL: p.URL + "/token", ClientID: "client", ClientSecret: clientCanary},
		STS:    STS{TokenURL: p.URL + "/sts", IdentityPoolID: "pool-1"},
	}
}

func mustNew(t *testing.T, s Settings) Authorizer {
	t.Helper()
	a, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(a) })
	return a
}

const oneHour = `{"access_token":"canary-token","token_type":"bearer","expires_in":3600}`

func TestClientCredentials(t *testing.T) {
	p := newIDP(t)
	p.answer = says(200, oneHour)
	s := p.settings("oauth2")
	s.OAuth2.Scopes, s.OAuth2.Audience, s.OAuth2.IdentityPoolID = []string{"a", "b"}, "x", "pool-1"
	a := mustNew(t, s)
	h, err := a.Authorization(t.Context())
	if err != nil || h != "Bearer canary-token" {
		t.Errorf("%q, %v", h, err)
	}
	want := url.Values{"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {clientCanary}, "scope": {"a b"}, "audience": {"x"}}
	if len(p.posts) != 1 || p.posts[0].Encode() != want.Encode() {
		t.Errorf("%v", p.posts)
	}
	if got := Headers(a); len(got) != 1 || got[0] != (Header{"Confluent-Identity-Pool-Id", "pool-1"}) {
		t.Errorf("%v", got)
	}
	if d := Describe(a); !strings.HasPrefix(d, "OAuth2 client, token good for another 59m") && !strings.HasPrefix(d, "OAuth2 client, token good for another 1h") {
		t.Error(d)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", a, a, a), fmt.Sprintf("%v %+v %#v", s, s, s), Remedy(a), Describe(a)} {
		if strings.Contains(text, "canary") {
			t.Errorf("a secret shows: %s", text)
		}
	}
}

// A server that wants the secret in a Basic header gets it so, at once and from
// then on.
func TestClientSecretInTheHeader(t *testing.T) {
	p := newIDP(t)
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		if id, secret, _ := r.BasicAuth(); id != "client" || secret != url.QueryEscape(clientCanary) {
			says(401, `{"error":"invalid_client"}`)(w, r)
			return
		}
		says(200, oneHour)(w, r)
	}
	a := mustNew(t, p.settings("oauth2"))
	for i, posts := range []int{2, 3} {
		if i > 0 {
			Refused(a, "Bearer canary-token", true)
		}
		if _, err := a.Authorization(t.Context()); err != nil || len(p.posts) != posts {
			t.Errorf("%v, %d posts", err, len(p.posts))
		}
	}
	if p.posts[1].Has("client_secret") {
		t.Error("the secret goes twice")
	}
}

func TestExchange(t *testing.T) {
	p := newIDP(t)
	p.answer = says(200, `{"access_token":"sts-token","token_type":"Bearer","expires_in":900}`)
	s := p.settings("sts")
	s.OAuth2 = OAuth2{}
	s.STS.SubjectTokenFile, s.STS.ExpiresIn = filepath.Join(t.TempDir(), "jwt"), 10*time.Minute
	if err := os.WriteFile(s.STS.SubjectTokenFile, []byte(subjectCanary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := mustNew(t, s)
	if h, err := a.Authorization(t.Context()); err != nil || h != "Bearer sts-token" {
		t.Errorf("%q, %v", h, err)
	}
	want := "expires_in=600&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&identity_pool_id=pool-1" +
		"&requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&subject_token=" + subjectCanary +
		"&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt"
	if len(p.posts) != 1 || p.posts[0].Encode() != want {
		t.Errorf("%s", p.posts[0].Encode())
	}
	if len(Headers(a)) != 0 {
		t.Error("the exchanged token names the pool already")
	}

	// From a client: first its token, then the exchange.
	p.posts = nil
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			says(200, `{"access_token":"external","expires_in":3600}`)(w, r)
			return
		}
		says(200, `{"access_token":"sts-token","expires_in":900}`)(w, r)
	}
	b := mustNew(t, p.settings("sts"))
	if h, err := b.Authorization(t.Context()); err != nil || h != "Bearer sts-token" || len(p.posts) != 2 || p.posts[1].Get("subject_token") != "external" {
		t.Errorf("%q, %v, %v", h, err, p.posts)
	}
}

// A subject token that the exchange refuses is replaced, once; not where the
// exchange cannot be asked.
func TestExchangeRefusesTheSubjectToken(t *testing.T) {
	p := newIDP(t)
	subjects, good, status := 0, "external-2", 401
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			subjects++
			says(200, fmt.Sprintf(`{"access_token":"external-%d","expires_in":3600}`, subjects))(w, r)
		case r.PostForm.Get("subject_token") == good:
			says(200, `{"access_token":"sts-token","expires_in":900}`)(w, r)
		default:
			says(status, `{"error":"invalid_grant"}`)(w, r)
		}
	}
	f := func(want string, posts int) {
		t.Helper()
		p.posts, subjects = nil, 0
		h, err := mustNew(t, p.settings("sts")).Authorization(t.Context())
		if h != want || (err == nil) != (want != "") || len(p.posts) != posts {
			t.Errorf("%q, %v, %d posts, want %d", h, err, len(p.posts), posts)
		}
	}
	f("Bearer sts-token", 4)
	good = "none"
	f("", 4)
	status = 503
	f("", 2)
}

func TestRedpanda(t *testing.T) {
	p := newIDP(t)
	p.answer = says(200, oneHour)
	s := p.settings("redpanda")
	s.Dir = t.TempDir()
	for range 3 { // three starts
		a := mustNew(t, s)
		if h, err := a.Authorization(t.Context()); err != nil || h != "Bearer canary-token" {
			t.Errorf("%q, %v", h, err)
		}
	}
	if len(p.posts) != 1 || p.posts[0].Get("audience") != RedpandaAudience {
		t.Errorf("%v", p.posts)
	}
	filepath.WalkDir(s.Dir, func(path string, d os.DirEntry, _ error) error {
		if raw, err := os.ReadFile(path); err == nil && (strings.Contains(string(raw), clientCanary) || strings.Contains(string(raw), url.QueryEscape(clientCanary))) {
			t.Errorf("%s holds the client's secret", path)
		}
		return nil
	})
	// A refusal is not tried in another way: each try counts.
	p.posts, p.answer, s.Dir = nil, says(401, `{"error":"invalid_client"}`), ""
	if _, err := mustNew(t, s).Authorization(t.Context()); err == nil || len(p.posts) != 1 {
		t.Errorf("%v, %d posts", err, len(p.posts))
	}
}

// What token endpoints say instead of a token.
func TestTokenEndpointFails(t *testing.T) {
	p := newIDP(t)
	f := func(answer func(http.ResponseWriter, *http.Request), denied bool, after time.Duration, want ...string) {
		t.Helper()
		p.answer = answer
		s := p.settings("redpanda")
		a := mustNew(t, s)
		_, err := a.Authorization(t.Context())
		e := new(TokenError)
		if !errors.As(err, &e) || e.Denied != denied {
			t.Errorf("%#v: %v, denied should be %v", e, err, denied)
			return
		}
		if after > 0 && (e.After > after || e.After < after-5*time.Second) {
			t.Errorf("after %s, want %s: %v", e.After, after, err)
		}
		for _, w := range append(want, "token endpoint http://127.0.0.1") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("no %q in: %v", w, err)
			}
		}
		if strings.Contains(err.Error(), "canary") || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("tells too much: %q", err)
		}
	}
	f(says(401, `{"error":"invalid_client","error_description":"secret `+"canary secret+/\\u0026="+` is wrong\u001b[31m\n"}`), true, 0, "invalid_client", "is wrong", "client id or the client secret is wrong")
	f(says(400, `{"error":"invalid_scope"}`), true, 0, "check the scopes")
	f(says(403, `{"error":"access_denied"}`), true, 0, "and the audience")
	f(says(400, `{"error":"unsupported_grant_type"}`), true, 0, "check the token URL")
	f(says(400, `{"error":"invalid_grant"}`), true, 0, "may have ended")
	f(says(400, `{"errors":[{"status":"400","detail":"pool unknown"}]}`), true, 0, "pool unknown", "identity pool")
	f(says(403, ``), true, 0, "403 Forbidden: nothing")
	f(says(404, "<html>Not here</html>"), false, 0, "404", "an HTML page", "check the token URL")
	f(says(500, "\x00\xff"), false, 0, "500")
	f(says(503, "", "Retry-After", "600"), false, 10*time.Minute, "503", "not asked again for")
	f(says(429, `{"error":"too_many_requests","error_description":"Organization quota exceeded"}`, "Auth0-Organization-Quota-Limit", "b=per_day;q=100;r=0;t=43200"),
		false, 12*time.Hour, "Organization quota exceeded", "not asked again for")
	f(says(429, "", "Retry-After", "30", "Auth0-Organization-Quota-Limit", "b=per_day;q=100;r=0;t=43200"), false, 30*time.Second)
	f(says(429, "", "Retry-After", "99999999999999999999"), false, time.Minute)
	f(says(302, "", "Location", "https://elsewhere/token"), false, 0, "https://elsewhere/token", "a secret does not follow")
	f(says(200, "<!DOCTYPE html><title>Login</title>"), false, 0, "an HTML page in place of a token")
	f(says(200, ""), false, 0, "nothing in place of a token")
	f(says(200, strings.Repeat("x", 1<<20)), false, 0, "what is no JSON")
	f(says(200, `{"token":"canary"}`), false, 0, "without an access_token")
	f(says(200, `{"access_token":"can\r\nary","expires_in":1}`), false, 0, "cannot be in a header")
	f(says(200, `{"access_token":"canary","token_type":"mac"}`), false, 0, `of type "mac"`)
	f(says(200, `{"access_token":"canary","expires_in":-5}`), false, 0, `expires_in "-5"`)
	f(says(200, `{"access_token":"canary","expires_in":"soon"}`), false, 0, `expires_in "soon"`)
	f(func(w http.ResponseWriter, _ *http.Request) {
		c, _, _ := http.NewResponseController(w).Hijack()
		c.Close()
	}, false, 0, "cannot be reached")
}

// Secrets that a token endpoint quotes are masked, also where its text is cut
// off in the middle of one.
func TestTokenEndpointQuotes(t *testing.T) {
	p := newIDP(t)
	file := filepath.Join(t.TempDir(), "jwt")
	if err := os.WriteFile(file, []byte(subjectCanary), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"oauth2", "sts"} {
		for pad := 200; pad < 320; pad++ {
			p.answer = func(w http.ResponseWriter, r *http.Request) {
				said := r.PostForm.Encode() + " " + r.PostForm.Get("client_secret") + r.PostForm.Get("subject_token") + " " + r.Header.Get("Authorization")
				raw, _ := json.Marshal(map[string]string{"error": "invalid_client", "error_description": strings.Repeat("x", pad) + said})
				says(401, string(raw))(w, r)
			}
			s := p.settings(kind)
			s.STS.SubjectTokenFile = file
			_, err := mustNew(t, s).Authorization(t.Context())
			if err == nil || strings.Contains(err.Error(), "cana") {
				t.Fatalf("%s, %d: %v", kind, pad, err)
			}
		}
	}
}

func TestTokenEndpointAway(t *testing.T) {
	p := newIDP(t)
	p.Close()
	_, err := mustNew(t, p.settings("oauth2")).Authorization(t.Context())
	if err == nil || !strings.Contains(err.Error(), "cannot be reached") || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mustNew(t, p.settings("redpanda")).Authorization(ctx); err == nil {
		t.Error("no error with a context that is over")
	}
}

// Odd forms of expires_in that servers use, and none at all.
func TestExpiresIn(t *testing.T) {
	p := newIDP(t)
	f := func(expires string, want time.Duration) {
		t.Helper()
		p.answer = says(200, `{"access_token":"x"`+expires+`}`)
		a := mustNew(t, p.settings("oauth2")).(*Tokens)
		if _, err := a.Authorization(t.Context()); err != nil {
			t.Fatal(err)
		}
		left := time.Until(a.tok.ends)
		if a.tok.ends.IsZero() {
			left = 0
		}
		if left > want || left < want-20*time.Second {
			t.Errorf("%s: %s, want %s", expires, left, want)
		}
	}
	f(`,"expires_in":900`, 15*time.Minute)
	f(`,"expires_in":"900"`, 15*time.Minute)
	f(`,"expires_in":900.5`, 15*time.Minute+500*time.Millisecond)
	f(`,"expires_in":1e300`, 366*24*time.Hour)
	f(`,"expires_in":null`, 0)
	f(``, 0)
	p.answer = says(200, `{"access_token":"canary","expires_in":1}`)
	if h, err := mustNew(t, p.settings("oauth2")).Authorization(t.Context()); err == nil || !strings.Contains(err.Error(), "ends at once") {
		t.Errorf("a token of one second: %v", err)
	} else if h != "" {
		t.Error("is handed out")
	}
}

func TestSettingsThatWillNotDo(t *testing.T) {
	p := newIDP(t)
	f := func(change func(*Settings), want string) {
		t.Helper()
		s := p.settings("oauth2")
		change(&s)
		if a, err := New(s); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v, %v; want %q", a, err, want)
		}
	}
	f(func(s *Settings) { s.Type = "kerberos" }, "must be none, basic, bearer")
	f(func(s *Settings) { s.OAuth2.TokenURL = "" }, "--oauth2-token-url")
	f(func(s *Settings) { s.OAuth2.ClientID = "" }, "--oauth2-client-id")
	f(func(s *Settings) { s.OAuth2.ClientSecret = "" }, "--oauth2-client-secret-file")
	f(func(s *Settings) { s.OAuth2.TokenURL = "idp" }, "want https://HOST/PATH")
	f(func(s *Settings) { s.OAuth2.TokenURL = "http://u:canary@127.0.0.1/" }, "holds a user name or password")
	f(func(s *Settings) { s.OAuth2.TokenURL = "http://idp.example.com/" }, "in plain text")
	f(func(s *Settings) { s.Type, s.STS.IdentityPoolID = "sts", "" }, "--identity-pool-id")
	f(func(s *Settings) { s.Type, s.OAuth2 = "sts", OAuth2{} }, "--sts-subject-token-file")
	f(func(s *Settings) { s.Type, s.STS.SubjectTokenFile = "sts", "/gone" }, "--sts-subject-token-file")
	f(func(s *Settings) { s.Type = "bearer" }, "--bearer-token-file")
	f(func(s *Settings) { s.Type = "mtls" }, "--cert-file")
	s := p.settings("oauth2")
	s.OAuth2.TokenURL, s.AllowPlaintext = "http://idp.example.com/", true
	mustNew(t, s)
}
