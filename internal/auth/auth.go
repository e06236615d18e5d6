// Package auth says who we are to an endpoint, and decides whom to trust: one
// Authorizer and one TLS set-up for everything that talks to a cluster.
package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"net"
	"net/url"
	"os"
	"strings"
)

// Authorizer makes the value of an Authorization header.
//
// Concurrency: safe. Errors: what kept it from having credentials.
type Authorizer interface {
	// Authorization returns the header's value, "" for none.
	Authorization(ctx context.Context) (string, error)
}

// Renewable is an Authorizer whose credentials change while it lives.
type Renewable interface {
	Authorizer
	// Refused is told that a server did not accept value. It returns true where
	// asking again at once is worth it: there is another value by now, or drop
	// made way for one.
	Refused(value string, drop bool) bool
	// Close ends renewal. The last value stays.
	Close()
}

// Refused asks a for another value in place of one that was not accepted; see
// Renewable.
func Refused(a Authorizer, value string, drop bool) bool {
	r, ok := a.(Renewable)
	return ok && r.Refused(value, drop)
}

// Accepted tells a that a server accepted value.
func Accepted(a Authorizer, value string) {
	if x, ok := a.(interface{ Accepted(value string) }); ok {
		x.Accepted(value)
	}
}

// Close ends what a does in the background, if it does.
func Close(a Authorizer) {
	if r, ok := a.(Renewable); ok {
		r.Close()
	}
}

// Scrub masks in a server's text what was sent to it as that Authorization
// header: there are servers and proxies that quote it. The text may be cut off.
func Scrub(text, authorization string) string {
	scheme, bare, ok := strings.Cut(authorization, " ")
	if !ok || text == "" {
		return text
	}
	secrets := []string{bare}
	if pair, err := base64.StdEncoding.DecodeString(bare); err == nil && scheme == "Basic" {
		_, secret, _ := strings.Cut(string(pair), ":")
		secrets = append(secrets, string(pair), secret)
	}
	return mask(strings.ReplaceAll(text, authorization, "***"), secrets...)
}

// shortSecret is the length below which something is no secret, and masked it
// would make texts unreadable.
const shortSecret = 4

// mask puts *** in place of secrets, as they are and as JSON and forms have them,
// and of the start of one at the text's end.
func mask(text string, secrets ...string) string {
	for _, secret := range secrets {
		for _, s := range []string{
			secret, url.QueryEscape(secret), url.PathEscape(secret), strings.ReplaceAll(secret, "/", `\/`),
			inJSON.Replace(secret), html.EscapeString(secret),
		} {
			if len(s) < shortSecret {
				continue
			}
			text = strings.ReplaceAll(text, s, "***")
			t := strings.TrimRight(text, `…". `)
			for n := min(len(s)-1, len(t)); n >= shortSecret; n-- {
				if strings.HasSuffix(t, s[:n]) {
					text = t[:len(t)-n] + "***" + text[len(t):]
					break
				}
			}
		}
	}
	return text
}

// inJSON escapes as servers do that think of HTML.
var inJSON = strings.NewReplacer(`"`, `\"`, `\`, `\\`, "&", `\u0026`, "<", `\u003c`, ">", `\u003e`, "=", `\u003d`, "'", `\u0027`)

// Header is a request header's name and value.
type Header struct{ Name, Value string }

// Headers returns what a wants sent beside the Authorization header.
func Headers(a Authorizer) []Header {
	if x, ok := a.(interface{ Headers() []Header }); ok {
		return x.Headers()
	}
	return nil
}

// Describe says as whom a speaks, without anything secret: "bearer token of
// FILE, good for 12m".
func Describe(a Authorizer) string {
	if x, ok := a.(interface{ Describe() string }); ok {
		return x.Describe()
	}
	return ""
}

// Remedy says what to look at when a server does not accept a's credentials;
// "" where there is nothing special about them.
func Remedy(a Authorizer) string {
	if x, ok := a.(interface{ Remedy() string }); ok {
		return x.Remedy()
	}
	return ""
}

// None sends no credentials.
type None struct{}

// Authorization returns "".
func (None) Authorization(context.Context) (string, error) { return "", nil }

// Basic sends an API key and its secret.
// Source: RFC 7617; Confluent's Kafka REST API takes a cluster's API key so.
//
// The header lies behind a pointer: fmt calls no String method of what sits in
// an unexported field, and would print a string that is held there.
type Basic struct{ header *string }

// NewBasic returns an Authorizer for key and secret.
// Errors: an empty part, a colon in the key, or a line break in either.
func NewBasic(key, secret string) (Basic, error) {
	switch {
	case key == "":
		return Basic{}, errors.New("an API secret without an API key: set --api-key or KAFKA_API_KEY")
	case secret == "":
		return Basic{}, errors.New("an API key without a secret: set --api-secret-file or KAFKA_API_SECRET")
	case strings.ContainsAny(key, ":\r\n"):
		return Basic{}, errors.New("the API key holds a colon or a line break: key and secret go into two settings")
	case strings.ContainsAny(secret, "\r\n"):
		return Basic{}, errors.New("the API secret holds a line break")
	}
	header := "Basic " + base64.StdEncoding.EncodeToString([]byte(key+":"+secret))
	return Basic{&header}, nil
}

// Authorization returns the Basic header; "" for the zero Basic.
func (b Basic) Authorization(context.Context) (string, error) {
	if b.header == nil {
		return "", nil
	}
	return *b.header, nil
}

// Describe says what kind of credentials these are.
func (Basic) Describe() string { return "API key" }

// String masks the credentials wherever they would be printed.
func (Basic) String() string { return "basic ***" }

// GoString masks likewise.
func (Basic) GoString() string { return "auth.Basic{***}" }

// Certificate says that the client's TLS certificate is all there is to show.
type Certificate struct{}

// Authorization returns "".
func (Certificate) Authorization(context.Context) (string, error) { return "", nil }

// Describe says what kind of credentials these are.
func (Certificate) Describe() string { return "client certificate" }

// Remedy says what to look at.
func (Certificate) Remedy() string {
	return "the client certificate is not taken for a user of the cluster: check that the server maps its subject to a principal, and that it is the right one"
}

// ReadSecret reads a secret from a file; one line break at its end is not part
// of it.
func ReadSecret(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if secret == "" {
		return "", fmt.Errorf("read secret: %s is empty", path)
	}
	return secret, nil
}

// IsLoopback says whether host, without a port, can only be this machine.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
