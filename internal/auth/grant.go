package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// client asks a token endpoint.
type client struct {
	url  *url.URL
	http *http.Client
}

// maxTokenAnswer bounds an answer of a token endpoint.
const maxTokenAnswer = 256 << 10

// post sends a form and returns the token of the answer.
//
// Errors: *TokenError, with no value of the form in it that is secret.
// Source: RFC 6749 §4.4 and §5, RFC 8693 §2; expires_in is read as a number or
// a text, for there are servers of both kinds.
func (c *client) post(ctx context.Context, form url.Values, id, secret string) (token, error) {
	where := c.url.Redacted()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return token{}, &TokenError{Text: "ask " + where + " for a token", Err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "produce-agent")
	req.Close = true
	if id != "" {
		req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return token{}, unreached(where, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return token{}, unreached(where, err)
	}
	hide := func(said string) string {
		for _, s := range []string{form.Get("client_secret"), form.Get("subject_token"), secret} {
			said = mask(said, s)
		}
		return Scrub(said, req.Header.Get("Authorization"))
	}
	tok, fail := readAnswer(where, resp, body, hide)
	if fail != nil {
		return token{}, fail
	}
	return tok, nil
}

// unreached says what a request without an answer means. net/http's own words
// hold the URL, which may hold what is not to be told.
func unreached(where string, err error) *TokenError {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	text := "token endpoint " + where + " cannot be reached: is the token URL right, and is there a way to it?"
	var proxy *ProxyError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &proxy):
		text = "token endpoint " + where + " cannot be reached"
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout():
		text = "token endpoint " + where + " gave no answer in time"
	case strings.Contains(err.Error(), "tls:") || strings.Contains(err.Error(), "x509:"):
		text = "TLS with token endpoint " + where + ": is its certificate trusted here (--ca-file), and the token URL right?"
	}
	return &TokenError{Text: text, Err: err, Denied: proxy != nil && proxy.Denied}
}

// answered is what token endpoints say, good or bad.
type answered struct {
	AccessToken string          `json:"access_token"`
	TokenType   string          `json:"token_type"`
	ExpiresIn   json.RawMessage `json:"expires_in"`

	Error       json.RawMessage `json:"error"`
	Description string          `json:"error_description"`
	Message     string          `json:"message"`
	Errors      []struct {
		Detail string `json:"detail"`
		Title  string `json:"title"`
	} `json:"errors"` // of Confluent's control plane
}

// readAnswer reads an answer; hide masks secrets in what the server said, which
// is done before it is cut to length.
func readAnswer(where string, resp *http.Response, body []byte, hide func(string) string) (token, *TokenError) {
	clip := func(s string) string { return clip(hide(s)) }
	fail := func(text string) (token, *TokenError) {
		return token{}, &TokenError{Text: "token endpoint " + where + " " + text}
	}
	var a answered
	isJSON := json.Unmarshal(body, &a) == nil
	status := resp.StatusCode
	switch {
	case status >= 300 && status < 400:
		return fail(fmt.Sprintf("redirects to %q: a secret does not follow; give that as the token URL if it is right", clip(resp.Header.Get("Location"))))
	case status != http.StatusOK && status != http.StatusCreated:
		return token{}, refusedToken(where, resp, a, isJSON, body, hide)
	case !isJSON:
		return fail(fmt.Sprintf("answers %d, but with %s in place of a token: is the token URL right?", status, looks(body)))
	case a.AccessToken == "":
		return fail(fmt.Sprintf("answers %d without an access_token: is the token URL right?", status))
	case !headerSafe(a.AccessToken) || len(a.AccessToken) > maxToken:
		return fail("gave a token that cannot be in a header")
	case a.TokenType != "" && !strings.EqualFold(a.TokenType, "bearer"):
		return fail(fmt.Sprintf("gave a token of type %q; a bearer token is wanted", clip(a.TokenType)))
	}
	tok := token{value: &a.AccessToken}
	text := strings.Trim(string(a.ExpiresIn), `"`)
	if text == "" || text == "null" {
		if end, ok := jwtEnd(a.AccessToken); ok {
			tok.ends = time.Now().Add(time.Until(end))
		}
		return tok, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds > 0) {
		return fail(fmt.Sprintf("says expires_in %q, which is no time a token could live", clip(text)))
	}
	tok.ends = time.Now().Add(time.Duration(math.Min(seconds, 366*24*3600) * float64(time.Second)))
	return tok, nil
}

// looks names what came in place of JSON.
func looks(body []byte) string {
	b := bytes.ToLower(bytes.TrimSpace(body[:min(len(body), 100)]))
	switch {
	case len(b) == 0:
		return "nothing"
	case bytes.HasPrefix(b, []byte("<!doctype html")) || bytes.HasPrefix(b, []byte("<html")):
		return "an HTML page"
	}
	return "what is no JSON"
}

// refusedToken says what an answer that is no token means.
func refusedToken(where string, resp *http.Response, a answered, isJSON bool, body []byte, hide func(string) string) *TokenError {
	status := resp.StatusCode
	e := &TokenError{}
	var code string
	_ = json.Unmarshal(a.Error, &code) // some have an object there
	said := a.Description
	for _, s := range append([]string{a.Message}, details(a)...) {
		if said == "" {
			said = s
		}
	}
	if !isJSON {
		said = looks(body)
	}
	text := fmt.Sprintf("token endpoint %s answered %d %s", where, status, http.StatusText(status))
	if s := strings.TrimSpace(code + " " + said); s != "" {
		text += ": " + clip(hide(s))
	}
	remedy := ""
	e.Denied = status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden
	switch code {
	case "invalid_client":
		remedy = "the client id or the client secret is wrong, or the client is not known there"
	case "unauthorized_client", "unsupported_grant_type":
		remedy = "this client may not ask for tokens in this way: allow it the grant, or check the token URL"
	case "invalid_scope":
		remedy = "check the scopes"
	case "invalid_target", "access_denied":
		remedy = "check the client secret and the audience, and whether the client may have tokens for it"
	case "invalid_grant":
		remedy = "the subject token is not accepted: it may have ended, or come from an issuer that is not set up there"
	case "invalid_request":
		remedy = "check the audience, the scopes and the identity pool"
	}
	switch {
	case status == http.StatusTooManyRequests:
		e.Denied, e.After = false, afterQuota(resp.Header)
		remedy = "tokens are given only so often: let fewer agents ask, or share one"
	case status >= 500:
		e.Denied, e.After = false, retryAfter(resp.Header)
		remedy = ""
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		remedy = "check the token URL"
	case remedy == "" && e.Denied:
		remedy = "check the client id, the client secret, the audience and the identity pool"
	}
	if e.Text = text; remedy != "" {
		e.Text += " (" + remedy + ")"
	}
	return e
}

func details(a answered) (all []string) {
	for _, x := range a.Errors {
		all = append(all, x.Detail, x.Title)
	}
	return all
}

// retryAfter reads Retry-After in seconds, at most a day.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(h.Get("Retry-After")))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(min(n, 86400))*time.Second, 24*time.Hour)
}

// afterQuota is how long a 429 wants us to wait: what Retry-After says, else
// what a used-up quota does, else a minute.
// Source: Redpanda Cloud, "Auth0-Organization-Quota-Limit:
// b=per_day;q=100;r=0;t=43200"; t is seconds.
func afterQuota(h http.Header) time.Duration {
	if d := retryAfter(h); d > 0 {
		return d
	}
	for _, part := range strings.FieldsFunc(h.Get("Auth0-Organization-Quota-Limit"), func(r rune) bool { return r == ';' || r == ',' }) {
		if n, err := strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(part), "t=")); err == nil && n > 0 {
			return time.Duration(min(n, 86400)) * time.Second
		}
	}
	return time.Minute
}

// clip makes a server's text one printable line of bounded length.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return strings.ToValidUTF8(strings.Join(strings.Fields(s), " "), "?")
}

// clientCredentials returns the grant of a client by its own secret.
//
// The secret goes into the form, as most servers have it; where the client is
// not accepted so, once into a Basic header, and what worked stays.
// Source: RFC 6749 §2.3.1 and §4.4.
func (c *client) clientCredentials(o OAuth2) func(context.Context) (token, error) {
	var basic atomic.Bool
	return func(ctx context.Context) (token, error) {
		form := url.Values{"grant_type": {"client_credentials"}}
		if len(o.Scopes) > 0 {
			form.Set("scope", strings.Join(o.Scopes, " "))
		}
		if o.Audience != "" {
			form.Set("audience", o.Audience)
		}
		inHeader := func() (token, error) {
			form.Del("client_id")
			form.Del("client_secret")
			return c.post(ctx, form, o.ClientID, o.ClientSecret)
		}
		if basic.Load() {
			return inHeader()
		}
		form.Set("client_id", o.ClientID)
		form.Set("client_secret", o.ClientSecret)
		tok, err := c.post(ctx, form, "", "")
		if e := new(TokenError); errors.As(err, &e) && e.Denied && strings.Contains(e.Text, "invalid_client") && !o.formOnly {
			if other, again := inHeader(); again == nil {
				basic.Store(true)
				return other, nil
			}
		}
		return tok, err
	}
}

// exchange returns the grant that turns a subject token into one of Confluent's
// own. Source: Confluent Cloud STS v1 OpenAPI, exchangeToken.
func (c *client) exchange(s STS, subject func(context.Context) (string, error)) func(context.Context) (token, error) {
	return func(ctx context.Context) (token, error) {
		from, err := subject(ctx)
		if err != nil {
			return token{}, err
		}
		form := url.Values{
			"grant_type":           {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token":        {from},
			"subject_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
			"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
			"identity_pool_id":     {s.IdentityPoolID},
		}
		if s.ExpiresIn > 0 {
			form.Set("expires_in", strconv.Itoa(int(s.ExpiresIn/time.Second)))
		}
		return c.post(ctx, form, "", "")
	}
}

// exchangeOf is exchange for subject tokens of inner: one that is refused may
// have been taken back, and another is tried, once.
func (c *client) exchangeOf(s STS, inner *Tokens) func(context.Context) (token, error) {
	return func(ctx context.Context) (token, error) {
		for again := false; ; again = true {
			header, err := inner.Authorization(ctx)
			if err != nil {
				return token{}, err
			}
			subject := func(context.Context) (string, error) { return strings.TrimPrefix(header, "Bearer "), nil }
			tok, err := c.exchange(s, subject)(ctx)
			if err == nil {
				inner.Accepted(header)
				return tok, nil
			}
			e, proxy := new(TokenError), new(ProxyError)
			if again || !errors.As(err, &e) || !e.Denied || errors.As(err, &proxy) || !inner.Refused(header, true) {
				return token{}, err
			}
		}
	}
}
