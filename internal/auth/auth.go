// Package auth says who we are to an endpoint, and decides whom to trust: one
// Authorizer and one TLS set-up for everything that talks to a cluster.
package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
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

// String masks the credentials wherever they would be printed.
func (Basic) String() string { return "basic ***" }

// GoString masks likewise.
func (Basic) GoString() string { return "auth.Basic{***}" }

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

// TLSConfig returns the client's TLS set-up: at least TLS 1.2, HTTP/1.1 only
// (a server that offers h2 would else answer in it), the system's roots or
// those of caFile.
func TLSConfig(caFile string) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(16),
		// Our writes are 64 KiB: starting each stream with records of one
		// segment would only cost CPU.
		DynamicRecordSizingDisabled: true,
	}
	if caFile == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file: %s holds no certificate in PEM form", caFile)
	}
	cfg.RootCAs = roots
	return cfg, nil
}

// IsLoopback says whether host, without a port, can only be this machine.
func IsLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}
