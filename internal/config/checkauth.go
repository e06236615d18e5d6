package config

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// authKeys are the keys of auth that each type has beside type and patience.
var authKeys = map[string][]string{
	"none":     {},
	"basic":    {"username", "password"},
	"bearer":   {"token_file", "identity_pool_id"},
	"oauth2":   {"oauth2.token_url", "oauth2.client_id", "oauth2.client_secret", "oauth2.scopes", "oauth2.audience", "oauth2.identity_pool_id"},
	"sts":      {"sts.token_url", "sts.identity_pool_id", "sts.subject_token_file", "sts.expires_in", "oauth2.token_url", "oauth2.client_id", "oauth2.client_secret", "oauth2.scopes", "oauth2.audience"},
	"redpanda": {"oauth2.token_url", "oauth2.client_id", "oauth2.client_secret", "oauth2.audience", "oauth2.scopes"},
	"mtls":     {},
}

// allAuthKeys are those of all types, in the order of the struct.
var allAuthKeys = []string{
	"username", "password", "token_file", "identity_pool_id",
	"oauth2.token_url", "oauth2.client_id", "oauth2.client_secret", "oauth2.scopes", "oauth2.audience", "oauth2.identity_pool_id",
	"sts.token_url", "sts.identity_pool_id", "sts.subject_token_file", "sts.expires_in",
}

// authKind says what the keys that are written below at are for.
func (l *loader) authKind(at string) string {
	written := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return l.has(at + "." + k) })
	}
	switch {
	case written("username", "password"):
		return "basic"
	case written("token_file", "identity_pool_id"):
		return "bearer"
	case l.has(at + ".sts"):
		return "sts"
	case l.has(at + ".oauth2"):
		return "oauth2"
	}
	return "none"
}

func (l *loader) clusterAuth(c *Cluster, at, host string) {
	at += ".auth"
	a := &c.Auth
	if l.failed(at + ".type") {
		return
	}
	if a.Type == "" {
		a.Type = l.authKind(at)
	}
	a.TokenFile, a.STS.SubjectTokenFile = l.absolute(a.TokenFile), l.absolute(a.STS.SubjectTokenFile)
	if a.Type == "none" && l.has(at+".type") && (l.has(at+".username") || l.has(at+".password")) {
		l.bad(at+".type", "is none, but a username or password is given: write basic, or leave them out")
		return
	}
	strange := false
	for _, key := range allAuthKeys {
		if key == "sts.expires_in" && a.STS.ExpiresIn == 0 && a.Type != "sts" {
			continue // as check --print writes it
		}
		if l.has(at+"."+key) && !slices.Contains(authKeys[a.Type], key) {
			strange = true
			l.bad(at+"."+key, "is not for auth of type %s: leave it out, or say type: %s", a.Type, list(typesWith(key)))
		}
	}
	if strange {
		return
	}
	switch a.Type {
	case "none":
		if limit.IsConfluentCloud(host) {
			l.warn(at, "Confluent Cloud takes no records without credentials: give auth: {type: basic, username: API key, password: its secret}")
		}
	case "basic":
		l.basic(a, at)
	case "bearer":
		l.tokenFile(at+".token_file", a.TokenFile, at, "bearer needs token_file: the file that holds the token")
	case "oauth2", "redpanda":
		l.oauth2(c, at)
	case "sts":
		l.sts(c, at)
	case "mtls":
		if c.TLS.CertFile == "" {
			l.bad(at, "mtls needs tls: {cert_file, key_file}: the certificate to show")
		} else if strings.HasPrefix(c.RESTEndpoint, "http:") {
			l.bad(at, "a certificate is shown over https only, and rest_endpoint is http")
		}
	}
}

// typesWith are the types that have a key.
func typesWith(key string) (types []string) {
	for kind, keys := range authKeys {
		if slices.Contains(keys, key) {
			types = append(types, kind)
		}
	}
	slices.Sort(types)
	return types
}

func (l *loader) basic(a *Auth, at string) {
	secret := a.Password.Reveal()
	switch {
	case !l.has(at + ".username"):
		l.bad(at, "username is missing: give the API key of the Kafka cluster, or the user's name")
	case !l.has(at + ".password"):
		l.bad(at, "password is missing: give the API key's secret, as ${file:/run/secrets/kafka} or ${env:KAFKA_API_SECRET}")
	case l.failed(at+".username") || l.failed(at+".password"):
	case a.Username == "" && l.cfg.written[at+".username"] == "":
		l.bad(at+".username", "is empty: give the API key of the Kafka cluster, or the user's name")
	case strings.ContainsAny(a.Username, ":\r\n"):
		l.bad(at+".username", "holds a colon or a line break: key and secret go into two settings")
	case secret == "" && l.cfg.written[at+".password"] == "":
		l.bad(at+".password", "is empty: give the API key's secret, as ${file:/run/secrets/kafka} or ${env:KAFKA_API_SECRET}")
	case strings.ContainsAny(secret, "\r\n"):
		l.bad(at+".password", "holds a line break")
	}
}

// tokenFile checks that a key names a file with a token.
func (l *loader) tokenFile(key, path, at, missing string) {
	switch {
	case l.failed(key):
	case path == "":
		l.bad(cmp.Or(l.first(key), at), "%s", missing)
	default:
		if raw, ok := l.named(key, path); ok && strings.TrimSpace(string(raw)) == "" {
			l.bad(key, "the file is empty: write the token into it")
		} else if ok && !inHeader(strings.TrimSpace(string(raw))) {
			l.bad(key, "the file holds spaces, line breaks or what cannot be in a header: want the token alone, without the word Bearer")
		}
	}
}

func inHeader(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// oauth2 checks a client of a token endpoint.
func (l *loader) oauth2(c *Cluster, at string) {
	o, own := &c.Auth.OAuth2, at+".oauth2"
	ask := func(key, have, what string) {
		if have == "" && !l.failed(own+"."+key) {
			l.bad(cmp.Or(l.first(own+"."+key, own), at), "oauth2.%s is missing: give %s", key, what)
		}
	}
	if c.Auth.Type != "redpanda" {
		ask("token_url", o.TokenURL, "the token endpoint's address, as https://login.example.com/oauth2/token")
	}
	ask("client_id", o.ClientID, "the client's id")
	ask("client_secret", o.ClientSecret.Reveal(), "its secret, as ${file:/run/secrets/client} or ${env:NAME}")
	l.tokenURL(c, own+".token_url", o.TokenURL)
}

// tokenURL checks the address of a token endpoint: secrets go there.
func (l *loader) tokenURL(c *Cluster, key, raw string) {
	if raw == "" || l.failed(key) {
		return
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		l.bad(key, "is no address of a token endpoint: want https://HOST/PATH")
	case u.User != nil:
		l.bad(key, "holds a user name or password: give client_id and client_secret")
	case u.Scheme == "http" && !loopback(u.Hostname()) && !c.AllowPlaintextAuth:
		l.bad(key, "secrets would go to another machine in plain text for all on the way to read: use https, or say allow_plaintext_auth: true")
	}
}

func (l *loader) sts(c *Cluster, at string) {
	x := &c.Auth.STS
	l.tokenURL(c, at+".sts.token_url", x.TokenURL)
	if x.IdentityPoolID == "" && !l.failed(at+".sts.identity_pool_id") {
		l.bad(cmp.Or(l.first(at+".sts"), at), "sts.identity_pool_id is missing: give the identity pool to act for, as pool-xxxx")
	}
	switch client := l.has(at + ".oauth2"); {
	case client && x.SubjectTokenFile != "":
		l.bad(at+".sts.subject_token_file", "is given, and auth.oauth2 too: the token to exchange comes from one of them")
	case client:
		l.oauth2(c, at)
	default:
		l.tokenFile(at+".sts.subject_token_file", x.SubjectTokenFile, at,
			"sts needs a token to exchange: give sts.subject_token_file, or a client in auth.oauth2")
	}
}

// proxy checks the way out. What it says never holds the setting: there may be
// a password in it.
func (l *loader) proxy(c *Cluster, key string) {
	if c.Proxy == "env" || c.Proxy == "none" || l.failed(key) {
		return
	}
	scheme, rest, ok := strings.Cut(string(c.Proxy), "://")
	user := ""
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, rest = rest[:i], rest[i+1:]
	}
	u, err := url.Parse("http://" + rest)
	switch {
	case !ok:
		l.bad(key, "want env, none, or http://HOST:PORT")
	case scheme != "http" && scheme != "https":
		l.bad(key, "is of a kind that is not spoken here: want http:// or https://")
	case err != nil || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		l.bad(key, "is no URL of a proxy: want http://HOST:PORT, with USER:PASSWORD@ in front of the host if it asks for them")
	case strings.ContainsAny(user, "\r\n"):
		l.bad(key, "user or password holds a line break")
	}
}

// openPassword says whether a proxy's URL has a password.
func openPassword(proxy string) bool {
	_, rest, _ := strings.Cut(proxy, "://")
	i := strings.LastIndexByte(rest, '@')
	return i >= 0 && strings.Contains(rest[:i], ":")
}

// maskProxy returns a proxy's URL without its password.
func maskProxy(proxy string) string {
	if !openPassword(proxy) {
		return proxy
	}
	scheme, rest, _ := strings.Cut(proxy, "://")
	name, _, _ := strings.Cut(rest, ":")
	return scheme + "://" + name + ":" + masked + rest[strings.LastIndexByte(rest, '@'):]
}

var reference = regexp.MustCompile(`\$\{[^}]*\}`)

// maskWritten is maskProxy for a URL as it is written: a password that is made of
// references stays.
func maskWritten(proxy string) string {
	plain := reference.ReplaceAllStringFunc(proxy, func(r string) string { return strings.Repeat("_", len(r)) })
	from := strings.Index(plain, "://") + len("://")
	at := strings.LastIndexByte(plain, '@')
	if from < len("://") || at < from {
		return proxy
	}
	colon := strings.IndexByte(plain[from:at], ':')
	if colon < 0 || reference.ReplaceAllString(proxy[from+colon+1:at], "") == "" {
		return proxy
	}
	return proxy[:from+colon+1] + masked + proxy[at:]
}
