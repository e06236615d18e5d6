package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// OAuth2 is a client at a token endpoint.
type OAuth2 struct {
	TokenURL, ClientID, ClientSecret, Audience, IdentityPoolID string
	Scopes                                                     []string

	formOnly bool // never try the secret in a Basic header
}

// STS is Confluent's token exchange. The subject token is in a file, or comes
// from an OAuth2 client.
type STS struct {
	TokenURL, IdentityPoolID, SubjectTokenFile string
	ExpiresIn                                  time.Duration // 0: the server's choice
}

// Settings are as whom a cluster is spoken to, and how token endpoints are.
type Settings struct {
	Type               string // see Types
	Username, Password string
	TokenFile          string
	IdentityPoolID     string // of a bearer token
	OAuth2             OAuth2
	STS                STS

	Dir            string // where tokens that have a quota are kept; "": nowhere
	Timeout        time.Duration
	AllowPlaintext bool
	TLS            *TLS
	Proxy          *Proxy
	Log            *slog.Logger
}

// Types are the ways to authenticate.
var Types = []string{"none", "basic", "bearer", "oauth2", "sts", "redpanda", "mtls"}

// Where tokens come from unless something else is said.
// Source: Confluent Cloud STS v1 OpenAPI; Redpanda Cloud, cloud authentication.
const (
	STSURL           = "https://api.confluent.cloud/sts/v1/oauth2/token"
	RedpandaURL      = "https://auth.prd.cloud.redpanda.com/oauth/token"
	RedpandaAudience = "cloudv2-production.redpanda.cloud"
)

// String masks the secrets.
func (Settings) String() string { return "auth settings ***" }

// GoString masks likewise.
func (Settings) GoString() string { return "auth.Settings{***}" }

// New returns the Authorizer that the settings describe. It is to be closed.
// Errors: what is missing, in words of the flags.
func New(s Settings) (Authorizer, error) {
	switch s.Type {
	case "none", "":
		return None{}, nil
	case "mtls":
		if s.TLS == nil || s.TLS.files.Cert == "" {
			return nil, errors.New("mtls needs a certificate to show: set --cert-file and --key-file")
		}
		return Certificate{}, nil
	case "basic":
		return NewBasic(s.Username, s.Password)
	case "bearer":
		return NewBearer(s.TokenFile, s.IdentityPoolID, s.Log)
	case "oauth2":
		t, err := s.oauth2(s.OAuth2)
		if err != nil {
			return nil, err
		}
		t.pool = s.OAuth2.IdentityPoolID
		t.remedy = "the token that " + s.OAuth2.TokenURL + " gave is not accepted: check its audience and scopes, and that the cluster trusts its issuer" + poolHint(t.pool)
		return newTokens(t), nil
	case "redpanda":
		o := s.OAuth2
		o.formOnly = true // each try counts
		if o.TokenURL == "" {
			o.TokenURL = RedpandaURL
		}
		if o.Audience == "" {
			o.Audience = RedpandaAudience
		}
		t, err := s.oauth2(o)
		if err != nil {
			return nil, err
		}
		t.what = "Redpanda Cloud client"
		t.store = newStore(s.Dir, o.TokenURL, o.ClientID, o.Audience)
		t.remedy = "the Redpanda Cloud token is not accepted: check that the client belongs to the cluster's organization and may write, and the audience"
		return newTokens(t), nil
	case "sts":
		return s.sts()
	}
	return nil, fmt.Errorf("--auth-type=%s: must be %s", s.Type, strings.Join(Types, ", "))
}

// oauth2 checks a client and returns what gets its tokens.
func (s Settings) oauth2(o OAuth2) (grant, error) {
	o.Scopes = slices.Clone(o.Scopes)
	switch {
	case o.TokenURL == "":
		return grant{}, errors.New("where do tokens come from? set --oauth2-token-url")
	case o.ClientID == "":
		return grant{}, errors.New("which client asks for tokens? set --oauth2-client-id")
	case o.ClientSecret == "":
		return grant{}, errors.New("the client's secret is missing: set --oauth2-client-secret-file")
	}
	c, err := s.endpoint(o.TokenURL, "--oauth2-token-url")
	return grant{fetch: c.clientCredentials(o), what: "OAuth2 client", lead: 3 * time.Minute, log: s.Log}, err
}

func (s Settings) sts() (Authorizer, error) {
	x := s.STS
	if x.TokenURL == "" {
		x.TokenURL = STSURL
	}
	if x.IdentityPoolID == "" {
		return nil, errors.New("the token exchange wants an identity pool: set --identity-pool-id")
	}
	c, err := s.endpoint(x.TokenURL, "--sts-token-url")
	if err != nil {
		return nil, err
	}
	var fetch func(context.Context) (token, error)
	var inner *Tokens
	if x.SubjectTokenFile != "" {
		file, err := openTokenFile(x.SubjectTokenFile, s.Log)
		if err != nil {
			return nil, fmt.Errorf("--sts-subject-token-file: %w", err)
		}
		fetch = c.exchange(x, func(context.Context) (string, error) { return file.get(true), nil })
	} else {
		if s.OAuth2.TokenURL == "" && s.OAuth2.ClientID == "" {
			return nil, errors.New("the token exchange wants a token to exchange: set --sts-subject-token-file, or --oauth2-token-url and a client")
		}
		first, err := s.oauth2(s.OAuth2)
		if err != nil {
			return nil, err
		}
		inner = newTokens(first)
		fetch = c.exchangeOf(x, inner)
	}
	t := newTokens(grant{
		fetch: fetch, what: "STS token for identity pool " + x.IdentityPoolID, lead: time.Minute, log: s.Log,
		remedy: "the token that Confluent's token exchange gave for identity pool " + x.IdentityPoolID + " is not accepted: check the pool's role bindings" + poolHint(x.IdentityPoolID),
	})
	if inner == nil {
		return t, nil
	}
	return &chained{t, inner}, nil
}

// chained closes the source of subject tokens too.
type chained struct {
	*Tokens
	subject *Tokens
}

func (c *chained) Close() {
	c.subject.Close()
	c.Tokens.Close()
}

// endpoint returns what asks the token endpoint at raw. Its secrets go nowhere
// else: no redirect is followed, and nothing goes in plain text but to this
// machine.
func (s Settings) endpoint(raw, flag string) (*client, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return &client{}, fmt.Errorf("%s: want https://HOST/PATH", flag)
	case u.User != nil:
		return &client{}, fmt.Errorf("%s holds a user name or password: give the client's id and secret by their own settings", flag)
	case u.Scheme == "http" && !IsLoopback(u.Hostname()) && !s.AllowPlaintext:
		return &client{}, fmt.Errorf("%s: the client's secret would go to %s in plain text for all on the way to read: use https, or say --allow-plaintext-auth", flag, u.Host)
	}
	dial := max(s.Timeout, time.Second)
	return &client{url: u, http: &http.Client{
		Timeout: dial + 10*time.Second,
		Transport: &http.Transport{
			DialContext: s.Proxy.Dialer(u.Scheme, dial), DialTLSContext: s.dialTLS(u, dial), DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// dialTLS returns how to connect to u by TLS, within timeout. Whom to trust is
// looked up for each connection: authorities change while an agent runs.
func (s Settings) dialTLS(u *url.URL, timeout time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	dial := s.Proxy.Dialer(u.Scheme, timeout)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		cfg := s.TLS.Others()
		cfg.ServerName = u.Hostname()
		secure := tls.Client(conn, cfg)
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secure, nil
	}
}
