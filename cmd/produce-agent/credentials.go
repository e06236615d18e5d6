package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/stream"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// credentials are the flags that say as whom to speak to a cluster, beside API
// key and secret, and by which way.
type credentials struct {
	kind              string
	tokenFile         string
	poolID            string
	tokenURL          string
	clientID          string
	clientSecretFile  string
	scopes            []string
	audience          string
	stsURL            string
	subjectFile       string
	certFile, keyFile string
	proxy             string
	proxyPasswordFile string

	clientSecret string // from the environment
}

func (c *credentials) flags(f *pflag.FlagSet) {
	f.StringVar(&c.kind, "auth-type", "", "none, basic, bearer, oauth2, sts, redpanda or mtls; default is what the other flags are for (PRODUCE_AGENT_AUTH_TYPE, as all of these)")
	f.StringVar(&c.tokenFile, "bearer-token-file", "", "file that holds a bearer token; it may be written anew at any time")
	f.StringVar(&c.poolID, "identity-pool-id", "", "identity pool of Confluent Cloud to act for, as pool-xxxx; with a bearer token, oauth2 and sts")
	f.StringVar(&c.tokenURL, "oauth2-token-url", "", "token endpoint of oauth2; with redpanda the default is Redpanda Cloud's (REDPANDA_CLOUD_TOKEN_URL)")
	f.StringVar(&c.clientID, "oauth2-client-id", "", "client that asks for tokens (with redpanda REDPANDA_CLOUD_CLIENT_ID too)")
	f.StringVar(&c.clientSecretFile, "oauth2-client-secret-file", "", "file that holds the client's secret; the environment may hold it instead (PRODUCE_AGENT_OAUTH2_CLIENT_SECRET, with redpanda REDPANDA_CLOUD_CLIENT_SECRET too)")
	f.StringArrayVar(&c.scopes, "oauth2-scope", nil, "scope to ask for; repeatable. The variable separates them by spaces")
	f.StringVar(&c.audience, "oauth2-audience", "", "audience to ask for; with redpanda the default is Redpanda Cloud's")
	f.StringVar(&c.subjectFile, "sts-subject-token-file", "", "file that holds the token to exchange at Confluent's STS; without it a token of the oauth2 client is exchanged")
	f.StringVar(&c.stsURL, "sts-token-url", "", "where tokens are exchanged, instead of "+auth.STSURL)
	f.StringVar(&c.certFile, "cert-file", "", "PEM file with a certificate to show to the endpoint; read again when it changes. See also --key-file")
	f.StringVar(&c.keyFile, "key-file", "", "PEM file with the key of --cert-file")
	f.StringVar(&c.proxy, "proxy", "", "how to go out: env (HTTPS_PROXY, HTTP_PROXY and NO_PROXY, the default), none, or http://USER@HOST:PORT; a password goes into --proxy-password-file, or into the URL in PRODUCE_AGENT_PROXY")
	f.StringVar(&c.proxyPasswordFile, "proxy-password-file", "", "file that holds the password of the user in --proxy")
}

// credentialNames are the variables of the flags above, and the one of a secret.
var credentialNames = []string{
	"PRODUCE_AGENT_AUTH_TYPE", "PRODUCE_AGENT_BEARER_TOKEN_FILE", "PRODUCE_AGENT_IDENTITY_POOL_ID", "PRODUCE_AGENT_OAUTH2_TOKEN_URL",
	"PRODUCE_AGENT_OAUTH2_CLIENT_ID", "PRODUCE_AGENT_OAUTH2_CLIENT_SECRET_FILE", "PRODUCE_AGENT_OAUTH2_SCOPE", "PRODUCE_AGENT_OAUTH2_AUDIENCE",
	"PRODUCE_AGENT_STS_SUBJECT_TOKEN_FILE", "PRODUCE_AGENT_STS_TOKEN_URL", "PRODUCE_AGENT_CERT_FILE", "PRODUCE_AGENT_KEY_FILE",
	"PRODUCE_AGENT_PROXY", "PRODUCE_AGENT_PROXY_PASSWORD_FILE", "PRODUCE_AGENT_OAUTH2_CLIENT_SECRET",
}

// errProxyPassword refuses what everybody on the machine could read.
var errProxyPassword = errors.New("--proxy holds a password, which everybody on this machine can read on a command line: give it with --proxy-password-file, or the whole URL in PRODUCE_AGENT_PROXY")

// given returns the kinds of credentials that the settings so far are for.
func (c *connection) given() (kinds []string) {
	note := func(kind string, is bool) {
		if is {
			kinds = append(kinds, kind)
		}
	}
	x := &c.creds
	sts := x.subjectFile != "" || x.stsURL != ""
	note("basic", c.apiKey != "" || c.secretFile != "" || c.secret != "")
	note("bearer", x.tokenFile != "")
	note("sts", sts)
	note("oauth2", !sts && (x.tokenURL != "" || x.clientID != "" || x.clientSecretFile != "" || x.clientSecret != "" || len(x.scopes) > 0 || x.audience != ""))
	return kinds
}

// settle reads the environment for the kind of credentials that flags are of;
// where they are of none, that of the environment counts. What is set for
// another kind there is for another program.
// Errors: two kinds at once.
func (c *connection) settle() error {
	x := &c.creds
	if u, err := auth.ParseProxy(x.proxy); err == nil {
		if _, has := u.User.Password(); has {
			return errProxyPassword
		}
	}
	fromFlags := c.given()
	x.kind = c.env(x.kind, "PRODUCE_AGENT_AUTH_TYPE")
	want := func(kinds ...string) bool {
		return x.kind == "" && len(fromFlags) == 0 || slices.Contains(kinds, x.kind) || x.kind == "" && slices.Contains(kinds, fromFlags[0])
	}
	if want("basic") {
		c.basicFromEnvironment()
	}
	if want("bearer") {
		x.tokenFile = c.env(x.tokenFile, "PRODUCE_AGENT_BEARER_TOKEN_FILE")
	}
	if want("sts") {
		x.subjectFile = c.env(x.subjectFile, "PRODUCE_AGENT_STS_SUBJECT_TOKEN_FILE")
		x.stsURL = c.env(x.stsURL, "PRODUCE_AGENT_STS_TOKEN_URL")
	}
	if want("oauth2", "sts", "redpanda") && x.subjectFile == "" {
		c.clientFromEnvironment()
	}
	x.poolID = c.env(x.poolID, "PRODUCE_AGENT_IDENTITY_POOL_ID")
	x.certFile = c.env(x.certFile, "PRODUCE_AGENT_CERT_FILE")
	x.keyFile = c.env(x.keyFile, "PRODUCE_AGENT_KEY_FILE")
	x.proxy = c.env(x.proxy, "PRODUCE_AGENT_PROXY")
	x.proxyPasswordFile = c.env(x.proxyPasswordFile, "PRODUCE_AGENT_PROXY_PASSWORD_FILE")
	return c.decide()
}

func (c *connection) clientFromEnvironment() {
	x := &c.creds
	names := func(own, redpanda string) []string {
		// They are Redpanda Cloud's: its tokens go to nobody else unless told.
		if x.kind == "redpanda" || x.kind == "" && isRedpandaCloud(c.endpoint) {
			return []string{own, redpanda}
		}
		return []string{own}
	}
	x.tokenURL = c.env(x.tokenURL, names("PRODUCE_AGENT_OAUTH2_TOKEN_URL", "REDPANDA_CLOUD_TOKEN_URL")...)
	x.clientID = c.env(x.clientID, names("PRODUCE_AGENT_OAUTH2_CLIENT_ID", "REDPANDA_CLOUD_CLIENT_ID")...)
	x.clientSecretFile = c.env(x.clientSecretFile, "PRODUCE_AGENT_OAUTH2_CLIENT_SECRET_FILE")
	if x.clientSecretFile == "" {
		x.clientSecret = c.env("", names("PRODUCE_AGENT_OAUTH2_CLIENT_SECRET", "REDPANDA_CLOUD_CLIENT_SECRET")...)
	}
	x.audience = c.env(x.audience, "PRODUCE_AGENT_OAUTH2_AUDIENCE")
	if len(x.scopes) == 0 {
		x.scopes = strings.Fields(c.env("", "PRODUCE_AGENT_OAUTH2_SCOPE"))
	}
}

// isRedpandaCloud says whether an endpoint is of Redpanda Cloud.
func isRedpandaCloud(endpoint string) bool {
	u, err := url.Parse(endpoint)
	return err == nil && strings.HasSuffix(strings.ToLower(u.Hostname()), ".cloud.redpanda.com")
}

// decide settles the kind where no flag named it, and refuses what is of another.
func (c *connection) decide() error {
	x := &c.creds
	kinds := c.given()
	if i := slices.Index(kinds, "oauth2"); i >= 0 && (x.kind == "redpanda" || x.kind == "sts" || x.kind == "" && isRedpandaCloud(c.endpoint) && x.poolID == "") {
		if kinds[i] = x.kind; x.kind == "" {
			kinds[i] = "redpanda"
		}
	}
	switch {
	case len(kinds) > 1:
		return fmt.Errorf("credentials of more than one kind are given: %s: leave out all but one", strings.Join(kinds, ", "))
	case x.kind != "" && !slices.Contains(auth.Types, x.kind):
		return fmt.Errorf("--auth-type=%s: must be %s", x.kind, strings.Join(auth.Types, ", "))
	case x.kind != "" && len(kinds) == 1 && kinds[0] != x.kind:
		return fmt.Errorf("--auth-type=%s, but what is given is for %s: leave one out", x.kind, kinds[0])
	case x.kind == "" && len(kinds) == 1:
		x.kind = kinds[0]
	case x.kind == "" && x.certFile != "":
		x.kind = "mtls"
	case x.kind == "":
		x.kind = "none"
	}
	if x.poolID != "" && !slices.Contains([]string{"bearer", "oauth2", "sts"}, x.kind) {
		return fmt.Errorf("--identity-pool-id is given, but credentials are of type %s: it goes with a bearer token, oauth2 or sts", x.kind)
	}
	return nil
}

// settings returns the flags as auth takes them.
func (c *connection) settings() (auth.Settings, error) {
	x := &c.creds
	s := auth.Settings{
		Type: x.kind, Username: c.apiKey, Password: c.secret, TokenFile: x.tokenFile, IdentityPoolID: x.poolID,
		OAuth2: auth.OAuth2{
			TokenURL: x.tokenURL, ClientID: x.clientID, ClientSecret: x.clientSecret, Scopes: x.scopes, Audience: x.audience, IdentityPoolID: x.poolID,
		},
		STS: auth.STS{TokenURL: x.stsURL, IdentityPoolID: x.poolID, SubjectTokenFile: x.subjectFile},
	}
	var errs []error
	read := func(to *string, file string) {
		if file != "" {
			var err error
			*to, err = auth.ReadSecret(file)
			errs = append(errs, err)
		}
	}
	read(&s.Password, c.secretFile)
	read(&s.OAuth2.ClientSecret, x.clientSecretFile)
	return s, errors.Join(errs...)
}

// proxyURL returns --proxy with the password of its file in it.
func proxyURL(proxy, passwordFile string) (string, error) {
	if passwordFile == "" {
		return proxy, nil
	}
	password, err := auth.ReadSecret(passwordFile)
	if err != nil {
		return "", fmt.Errorf("--proxy-password-file: %w", err)
	}
	u, err := auth.ParseProxy(proxy)
	switch {
	case proxy == "" || proxy == "env" || proxy == "none":
		return "", errors.New("--proxy-password-file: it goes with a proxy given as --proxy http://USER@HOST:PORT")
	case err != nil:
		return "", err
	case u.User.Username() == "":
		return "", errors.New("--proxy-password-file: --proxy names no user, write it as http://USER@HOST:PORT")
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String(), nil
}

// equip adds to an address what it is reached and spoken to with.
func equip(a *stream.Address, s auth.Settings, files auth.TLSFiles, proxy string, log *slog.Logger) (err error) {
	if a.TLS, err = auth.NewTLS(files, log); err != nil {
		return err
	}
	if a.Proxy, err = auth.NewProxy(proxy, a.TLS.Others); err != nil {
		return err
	}
	s.Timeout, s.AllowPlaintext, s.TLS, s.Proxy, s.Log = a.DialTimeout, a.AllowPlaintext, a.TLS, a.Proxy, log
	if a.Auth, err = auth.New(s); err != nil {
		return err
	}
	a.HasAuth = s.Type != "none" && s.Type != ""
	if u, err := url.Parse(a.URL); err == nil && s.Type == "mtls" && u.Scheme == "http" {
		return errors.New("a certificate is shown over https only, and --rest-endpoint is http")
	}
	return nil
}

// tokenDir is where tokens are kept that have a quota: in the data_dir, else
// where this user's caches are. "" where there is no such place.
func tokenDir(dataDir string) string {
	if dataDir != "" {
		return filepath.Join(dataDir, "tokens")
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "produce-agent")
}

// clusterAddress returns what a configured cluster says, before its endpoint is
// asked.
func clusterAddress(c *config.Cluster, tokens string, log *slog.Logger) (stream.Address, error) {
	a := stream.Address{
		URL: c.RESTEndpoint, ClusterID: c.ClusterID,
		AllowPlaintext: c.AllowPlaintextAuth, DialTimeout: c.Streams.DialTimeout, Attempts: 1,
	}
	var err error
	if a.Dialect, err = dialect.Parse(c.Dialect); err != nil {
		return a, fmt.Errorf("dialect: %w", err)
	}
	o := c.Auth.OAuth2
	s := auth.Settings{
		Type: c.Auth.Type, Username: c.Auth.Username, Password: c.Auth.Password.Reveal(),
		TokenFile: c.Auth.TokenFile, IdentityPoolID: c.Auth.IdentityPoolID, Dir: tokens,
		OAuth2: auth.OAuth2{
			TokenURL: o.TokenURL, ClientID: o.ClientID, ClientSecret: o.ClientSecret.Reveal(), Scopes: o.Scopes, Audience: o.Audience, IdentityPoolID: o.IdentityPoolID,
		},
		STS: auth.STS{
			TokenURL: c.Auth.STS.TokenURL, IdentityPoolID: c.Auth.STS.IdentityPoolID,
			SubjectTokenFile: c.Auth.STS.SubjectTokenFile, ExpiresIn: c.Auth.STS.ExpiresIn,
		},
	}
	files := auth.TLSFiles{CA: c.TLS.CAFile, Cert: c.TLS.CertFile, Key: c.TLS.KeyFile, MinVersion: tls.VersionTLS12}
	if c.TLS.MinVersion == "1.3" {
		files.MinVersion = tls.VersionTLS13
	}
	if err := equip(&a, s, files, string(c.Proxy), log); err != nil {
		return a, inKeys(err)
	}
	return a, nil
}
