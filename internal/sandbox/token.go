package sandbox

import (
	"errors"
	"io"
	"net/url"
	"strconv"
	"time"
)

// maxForm bounds the body of a token request.
const maxForm = 64 << 10

// form reads the body as application/x-www-form-urlencoded.
func (x *exchange) form() (url.Values, bool) {
	if mediaType(x.req.get("Content-Type")) != "application/x-www-form-urlencoded" {
		return nil, false
	}
	if x.req.expect {
		_ = x.c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
		x.req.expect = false
	}
	b := newBody(x.c.br, x.req)
	var raw []byte
	for {
		var err error
		if raw, err = b.appendNext(raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil || len(raw) > maxForm {
			x.req.close = true
			return nil, false
		}
	}
	x.req.chunked, x.req.contentLength = false, -1 // it has been read
	v, err := url.ParseQuery(string(raw))
	return v, err == nil
}

// oauthError is RFC 6749's error answer, in Auth0's words.
func oauthError(status int, code, text string) *answer {
	return jsonAnswer(status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{code, text}).with("Cache-Control", "no-store")
}

// postToken hands out a token for client credentials.
// Source: RFC 6749 4.4 and 5.2; Redpanda Cloud's endpoint, which is Auth0's.
func postToken(x *exchange) bool {
	a := x.token()
	if a.status != 429 {
		a.with("Auth0-Organization-Quota-Limit", x.sb.keeper.quotaHeader())
	}
	return x.c.answer(x.req, a)
}

func (x *exchange) token() *answer {
	s := x.sb
	if f := s.faults.Load().token(); f != nil {
		if f.Kind == FaultTokenQuota {
			return oauthError(429, "too_many_requests", "Organization quota exceeded").
				with("Auth0-Organization-Quota-Limit", "b=per_day;q=100;r=0;t=43200").with("Retry-After", f.retryAfter())
		}
		a := oauthError(f.Code, "server_error", "HTTP "+strconv.Itoa(f.Code)+" "+statusText(f.Code))
		if f.RetryAfter != "" {
			a.with("Retry-After", f.RetryAfter)
		}
		return a
	}
	form, ok := x.form()
	if !ok {
		return oauthError(400, "invalid_request", "the body must be application/x-www-form-urlencoded")
	}
	if g := form.Get("grant_type"); g != "client_credentials" {
		return oauthError(400, "unsupported_grant_type", "Grant type '"+g+"' is not allowed")
	}
	id, secret := form.Get("client_id"), form.Get("client_secret")
	if scheme, rest, _ := cutSpace(x.req.get("Authorization")); scheme == "basic" {
		if id, secret, ok = basicPair(rest); ok { // RFC 6749 2.3.1: each half is form-encoded
			id, _ = url.QueryUnescape(id)
			secret, _ = url.QueryUnescape(secret)
		}
	}
	client, known := s.keeper.clients[id]
	if !same(secret, client.Secret) || !known {
		return oauthError(401, "access_denied", "Unauthorized")
	}
	if want := s.cfg.Audience; want != "" && form.Get("audience") != want {
		if form.Get("audience") == "" {
			return oauthError(403, "access_denied", "No audience parameter was provided, and no default audience has been configured")
		}
		return oauthError(403, "access_denied", "Service not enabled within domain: "+form.Get("audience"))
	}
	s.stats.tokens.Add(1)
	return jsonAnswer(200, struct {
		Token   string `json:"access_token"`
		Scope   string `json:"scope,omitempty"`
		Type    string `json:"token_type"`
		Expires int    `json:"expires_in"`
	}{s.keeper.issue(id, client.Pool, s.cfg.clock(), client.ttl()), form.Get("scope"), "Bearer", int(client.ttl() / time.Second)}).
		with("Cache-Control", "no-store")
}

// cutSpace splits an Authorization header, its scheme in lower case.
func cutSpace(h string) (scheme, rest string, ok bool) {
	for i := range len(h) {
		if h[i] == ' ' {
			return mediaType(h[:i]), h[i+1:], true
		}
	}
	return "", "", false
}

// The words of a token exchange.
const (
	stsGrant  = "urn:ietf:params:oauth:grant-type:token-exchange"
	stsJWT    = "urn:ietf:params:oauth:token-type:jwt"
	stsAccess = "urn:ietf:params:oauth:token-type:access_token"
	stsMost   = 900 // seconds a token may live
)

// stsError is the control plane's error answer.
func stsError(status int, code, parameter, text string) *answer {
	type source struct {
		Parameter string `json:"parameter,omitempty"`
	}
	type entry struct {
		ID     string `json:"id"`
		Status string `json:"status"`
		Code   string `json:"code"`
		Detail string `json:"detail"`
		Source source `json:"source"`
	}
	return jsonAnswer(status, struct {
		Errors []entry `json:"errors"`
	}{[]entry{{"sandbox", strconv.Itoa(status), code, text, source{parameter}}}}).with("X-Request-Id", "sandbox")
}

// postSTS exchanges a token of postToken for one of Confluent's. The new one
// stands for the identity pool: no header is needed with it.
// Source: Confluent sts/v1 OpenAPI.
func postSTS(x *exchange) bool { return x.c.answer(x.req, x.sts()) }

func (x *exchange) sts() *answer {
	s := x.sb
	if f := s.faults.Load().token(); f != nil {
		code := f.Code
		if f.Kind == FaultTokenQuota {
			code = 429
		}
		a := stsError(code, "token_exchange_failed", "", statusText(code))
		if code == 429 {
			a.with("Retry-After", f.retryAfter()).with("X-RateLimit-Limit", "100").
				with("X-RateLimit-Remaining", "0").with("X-RateLimit-Reset", f.retryAfter())
		}
		return a
	}
	form, ok := x.form()
	if !ok {
		return stsError(400, "bad_request", "", "the body must be application/x-www-form-urlencoded")
	}
	for _, p := range []struct{ name, want string }{
		{"grant_type", stsGrant},
		{"subject_token", ""},
		{"subject_token_type", stsJWT},
		{"requested_token_type", stsAccess},
		{"identity_pool_id", ""},
	} {
		v := form.Get(p.name)
		if v == "" {
			return stsError(400, "bad_request", p.name, p.name+" is required")
		}
		if p.want != "" && v != p.want {
			return stsError(400, "bad_request", p.name, p.name+" must be "+p.want)
		}
	}
	life := stsMost
	if v := form.Get("expires_in"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > stsMost {
			return stsError(400, "bad_request", "expires_in", "expires_in must be 1..900")
		}
		life = n
	}
	client, ok := s.keeper.subject(form.Get("subject_token"), s.cfg.clock())
	if !ok {
		return stsError(400, "invalid_token", "subject_token", "subject_token is not valid")
	}
	if client.Pool != "" && client.Pool != form.Get("identity_pool_id") {
		return stsError(400, "invalid_identity_pool", "identity_pool_id", "the token does not match the identity pool")
	}
	life = min(life, int(client.ttl()/time.Second))
	s.stats.tokens.Add(1)
	return jsonAnswer(200, struct {
		Token   string `json:"access_token"`
		Issued  string `json:"issued_token_type"`
		Type    string `json:"token_type"`
		Expires int    `json:"expires_in"`
	}{s.keeper.issue(client.ID, "", s.cfg.clock(), time.Duration(life)*time.Second), stsAccess, "Bearer", life})
}

// subject returns whose token that is, while it is good.
func (k *keeper) subject(value string, now time.Time) (OAuthClient, bool) {
	k.mu.Lock()
	t, ok := k.tokens[value]
	k.mu.Unlock()
	if !ok || !now.Before(t.expires) {
		return OAuthClient{}, false
	}
	return k.clients[t.client], true
}

// token returns the fault that a token request draws.
func (s *faultSet) token() *activeFault {
	for _, f := range s.all {
		if (f.Kind == FaultToken || f.Kind == FaultTokenQuota) && f.claim() {
			return f
		}
	}
	return nil
}

// retryAfter is the fault's own, else what a daily quota may well say.
func (f *activeFault) retryAfter() string {
	if f.RetryAfter == "" {
		return "60"
	}
	return f.RetryAfter
}

// tokenRoutes are there where clients are configured.
func tokenRoutes() []route {
	return []route{
		kafkaRoute("POST", "/oauth/token", postToken)[0],
		kafkaRoute("POST", "/sts/v1/oauth2/token", postSTS)[0],
	}
}
