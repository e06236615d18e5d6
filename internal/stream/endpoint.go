package stream

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// Address is an endpoint as a user names it.
type Address struct {
	URL            string // scheme://host[:port], with or without /kafka and /v3
	ClusterID      string // "" where the endpoint is to tell it
	Dialect        dialect.Dialect
	Auth           auth.Authorizer
	HasAuth        bool
	TLS            *auth.TLS
	Proxy          *auth.Proxy
	AllowPlaintext bool // credentials over http to another machine
	DialTimeout    time.Duration
	Attempts       int           // how often to ask before giving up
	Patience       time.Duration // how long a 401 is asked again: a new key is not known everywhere at once
	// Waiting is told of an attempt that failed and how long it is to the next.
	Waiting func(err error, attempt int, wait time.Duration)
}

// Resolve turns an address into a Target: it settles the prefix of the path
// and the cluster id, asking the endpoint only for what was left out.
//
// A path ending in /v3 is taken off; what is in front of it is the prefix. Without
// a path a Confluent Cloud host has /kafka; any other is asked, GET
// /kafka/v3/clusters and then GET /v3/clusters. Where neither is there a v2
// server is looked for, unless a dialect was given.
// Errors: *EndpointError.
func Resolve(ctx context.Context, a Address) (Target, error) {
	base, asked, err := parseBase(a.URL)
	if err != nil {
		return Target{}, &EndpointError{Malformed: true, Err: err}
	}
	if a.HasAuth && base.Scheme == "http" && !auth.IsLoopback(base.Hostname()) && !a.AllowPlaintext {
		return Target{}, &EndpointError{Err: fmt.Errorf(
			"credentials would go to %s in plain text for all on the way to read: use https, or say --allow-plaintext-auth", base.Host)}
	}
	t := Target{Base: base, ClusterID: a.ClusterID, Auth: a.Auth, TLS: a.TLS, Proxy: a.Proxy, Dialect: a.Dialect}
	if a.Dialect == dialect.Auto {
		t.Dialect = dialect.V3Stream
	}
	r := resolver{a: a, client: Client(base.Scheme, a.TLS, a.Proxy, a.DialTimeout)}
	defer r.client.CloseIdleConnections()
	if a.Dialect.IsV2() {
		if err := checkClusterID(t.ClusterID); err != nil {
			return Target{}, err
		}
		return r.v2Target(ctx, t)
	}
	if !asked && limit.IsConfluentCloud(base.Hostname()) {
		base.Path, asked = "/kafka", true
	}
	if asked && t.ClusterID != "" {
		return t, checkClusterID(t.ClusterID)
	}
	if asked {
		found, err := r.ask(ctx, base)
		if err != nil {
			return Target{}, err
		}
		if !found.ok {
			return r.orV2(ctx, t, found.status, found.err)
		}
		t.ClusterID, err = oneCluster(base, found.ids)
		return t, err
	}
	return r.probe(ctx, t)
}

// ErrNoEndpoint says that no endpoint was given.
var ErrNoEndpoint = errors.New("no endpoint: give --rest-endpoint or set KAFKA_REST_ENDPOINT, as in https://pkc-xxxxx.region.provider.confluent.cloud:443 (or try --sandbox)")

// parseBase reads the endpoint; asked says that it named a path.
func parseBase(raw string) (base *url.URL, pathGiven bool, err error) {
	if raw == "" {
		return nil, false, ErrNoEndpoint
	}
	if strings.Contains(raw, "@") { // before any error that repeats it
		return nil, false, errors.New("--rest-endpoint holds a user name or password: give them by KAFKA_API_KEY and KAFKA_API_SECRET, or --api-key and --api-secret-file")
	}
	if !strings.Contains(raw, "://") {
		return nil, false, fmt.Errorf("--rest-endpoint %q: has no scheme: write https://%s", raw, raw)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, false, fmt.Errorf("--rest-endpoint %q: want http:// or https://, a host, and a path only where the endpoint has one", raw)
	}
	u.RawQuery, u.Fragment = "", ""
	p := strings.TrimSuffix(u.Path, "/")
	if i := strings.Index(p+"/", "/v3/"); i >= 0 {
		pathGiven = true
		p = p[:i]
	}
	if p == "/" || p == "." {
		p = ""
	}
	u.Path, u.RawPath = p, ""
	return u, pathGiven || p != "", nil
}

func checkClusterID(id string) error {
	if id == "." || id == ".." || strings.ContainsAny(id, "/?#% \t\r\n") {
		return &EndpointError{Err: fmt.Errorf("--cluster-id %q: holds characters no cluster id has", id)}
	}
	return nil
}

// Client returns a plain HTTP client for the few questions asked beside streams,
// of URLs of that scheme. It follows no redirect: credentials must not go
// elsewhere.
func Client(scheme string, trust *auth.TLS, proxy *auth.Proxy, dialTimeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: dialTimeout + 10*time.Second,
		Transport: &http.Transport{
			DialContext: proxy.Dialer(scheme, dialTimeout), TLSClientConfig: trust.Config(), TLSHandshakeTimeout: dialTimeout,
			TLSNextProto:      map[string]func(string, *tls.Conn) http.RoundTripper{},
			DisableKeepAlives: true, // says Connection: close
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type resolver struct {
	a      Address
	client *http.Client
}

// found is what GET clusters brought: ok with the ids, or the answer's error.
type found struct {
	ok     bool
	status int
	ids    []string
	err    error
}

// askAgain is how often an answer that may pass, 429 or 5xx, is asked for.
const askAgain = 3

// ask GETs the clusters below base, again and again while nothing answers.
// Errors: only when the endpoint cannot be reached.
func (r *resolver) ask(ctx context.Context, base *url.URL) (found, error) {
	wait, began := 200*time.Millisecond, time.Now()
	for attempt := 1; ; attempt++ {
		f, err := r.clusters(ctx, base)
		patient := f.status == http.StatusUnauthorized && time.Since(began) < r.a.Patience
		passing := f.status == http.StatusTooManyRequests || f.status >= 500 && f.status != http.StatusNotImplemented
		if err == nil && !patient && (!passing || attempt >= askAgain) {
			return f, nil
		}
		if err == nil {
			err = f.err
		}
		var cert *tls.CertificateVerificationError
		if denied := deniedAt(err); !patient && (denied || attempt >= r.a.Attempts) || errors.As(err, &cert) || ctx.Err() != nil {
			return found{}, &EndpointError{Denied: denied, Err: err}
		}
		if r.a.Waiting != nil {
			r.a.Waiting(err, attempt, wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return found{}, &EndpointError{Err: context.Cause(ctx)}
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// get GETs u and returns the answer's head and at most a mebibyte of its body.
// anonymous says that no credentials were sent.
func get(ctx context.Context, c *http.Client, who auth.Authorizer, u *url.URL, accept string) (h head, body []byte, anonymous bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return head{}, nil, false, err
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", UserAgent)
	authorization, err := Authorize(ctx, req, who)
	if err != nil {
		return head{}, nil, false, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return head{}, nil, false, explainGet(u, err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return head{}, nil, false, fmt.Errorf("GET %s: read the answer: %w", u.Redacted(), err)
	}
	if resp.StatusCode == http.StatusUnauthorized && auth.Refused(who, authorization, true) {
		return get(ctx, c, who, u, accept) // with another token, once: the next is not dropped so soon
	}
	if resp.StatusCode == http.StatusOK {
		auth.Accepted(who, authorization)
	}
	h = head{status: resp.StatusCode, contentType: resp.Header.Get("Content-Type"), location: resp.Header.Get("Location"), server: resp.Header.Get("Server")}
	h.sent = authorization
	return h, body, isNone(who), nil
}

// Authorize puts who's headers into req and returns the Authorization header.
func Authorize(ctx context.Context, req *http.Request, who auth.Authorizer) (string, error) {
	authorization, err := who.Authorization(ctx)
	if err != nil {
		return "", &credentialsError{err}
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	for _, x := range auth.Headers(who) {
		req.Header.Set(x.Name, x.Value)
	}
	return authorization, nil
}

// explainGet says what a GET without an answer means, in one line.
func explainGet(u *url.URL, err error) error {
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	var cert *tls.CertificateVerificationError
	if via := new(auth.ProxyError); errors.As(err, &via) {
		return explainDial(u, err)
	}
	if errors.As(err, &cert) || strings.Contains(err.Error(), "tls:") || strings.Contains(err.Error(), "server gave HTTP response") {
		return explainTLS(u, err)
	}
	return explainDial(u, err)
}

// clusters does one GET. Source: Confluent REST v3 OpenAPI, listKafkaClusters.
func (r *resolver) clusters(ctx context.Context, base *url.URL) (found, error) {
	u := below(base, "v3", "clusters")
	h, body, anonymous, err := get(ctx, r.client, r.a.Auth, u, "application/json")
	if err != nil {
		return found{}, err
	}
	f := found{status: h.status}
	var list struct {
		Data []struct {
			ClusterID string `json:"cluster_id"`
		} `json:"data"`
	}
	if h.status == http.StatusOK && json.Unmarshal(body, &list) == nil {
		f.ok = true
		for _, c := range list.Data {
			f.ids = append(f.ids, c.ClusterID)
		}
		return f, nil
	}
	ref := judgeStatus(h, body)
	switch {
	case anonymous && h.status == http.StatusUnauthorized:
		ref.remedy = noCredentials
	case h.status == http.StatusUnauthorized:
		ref.remedy = cmp.Or(auth.Remedy(r.a.Auth), ref.remedy)
	case h.status == http.StatusForbidden:
		ref.remedy = "the key may not list clusters: give the cluster's id with --cluster-id, or grant it DESCRIBE"
	case h.location != "":
		ref.remedy = "it redirects to " + ref.location + ": give that as --rest-endpoint if it is right"
	}
	f.err = &EndpointError{
		Denied: h.status == http.StatusUnauthorized || h.status == http.StatusForbidden,
		Err:    fmt.Errorf("GET %s answered %w", u.Redacted(), ref),
	}
	return f, nil
}

// probe finds out whether the endpoint has /kafka in front of /v3.
func (r *resolver) probe(ctx context.Context, t Target) (Target, error) {
	var denied, last error
	here := http.StatusNotFound // where a path was found that is not simply absent, its status
	var there *url.URL          // a path that exists, though not everybody may list clusters
	for _, prefix := range []string{"/kafka", ""} {
		base := *t.Base
		base.Path = path.Join(base.Path, prefix)
		f, err := r.ask(ctx, &base)
		switch {
		case err != nil:
			return Target{}, err
		case f.ok:
			t.Base = &base
			if t.ClusterID == "" {
				if t.ClusterID, err = oneCluster(&base, f.ids); err != nil {
					return Target{}, err
				}
			}
			return t, checkClusterID(t.ClusterID)
		case f.status == http.StatusUnauthorized, f.status == http.StatusForbidden && t.ClusterID == "":
			denied = cmp.Or(denied, f.err)
		case f.status == http.StatusMethodNotAllowed && t.ClusterID != "":
			t.Base = &base // the path exists; reading is what it does not allow
			return t, checkClusterID(t.ClusterID)
		case f.status == http.StatusForbidden && there == nil:
			there = &base
		}
		if last = f.err; !absent(f.status) {
			here = f.status
		}
	}
	switch {
	case denied != nil:
		return Target{}, denied
	case t.ClusterID == "":
		return r.orV2(ctx, t, here, last)
	case there != nil:
		t.Base = there
	}
	// Where nothing lists clusters, as behind some proxies, a self-managed
	// server's path is the likelier one, and produce will tell.
	return t, checkClusterID(t.ClusterID)
}

func oneCluster(base *url.URL, ids []string) (string, error) {
	switch len(ids) {
	case 1:
		return ids[0], checkClusterID(ids[0])
	case 0:
		return "", &EndpointError{Err: fmt.Errorf("%s lists no cluster: give its id with --cluster-id", base.Redacted())}
	}
	return "", &EndpointError{Err: fmt.Errorf("%s lists %d clusters (%s): say which with --cluster-id", base.Redacted(), len(ids), strings.Join(ids, ", "))}
}

// MissingTopic asks the endpoint for topic and returns true only when it says
// that there is none. Whatever else happens, a refusal to tell among it, is
// false: producing will tell.
// Source: Confluent REST v3 OpenAPI, getKafkaTopic; 40403 is an unknown topic.
func (t *Target) MissingTopic(ctx context.Context, topic string) bool {
	c := Client(t.Base.Scheme, t.TLS, t.Proxy, topicTimeout)
	if t.dial != nil {
		c.Transport.(*http.Transport).DialContext = t.dial
	}
	defer c.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	if t.Dialect.IsV2() {
		return t.missingV2(ctx, c, topic)
	}
	u := below(t.Base, "v3", "clusters", url.PathEscape(t.ClusterID), "topics", url.PathEscape(topic))
	h, body, _, err := get(ctx, c, t.Auth, u, "application/json")
	if err != nil || h.status != http.StatusNotFound {
		return false
	}
	code, _ := errorBody(body)
	return code == 40403 || code == 40401
}

// topicTimeout bounds the question for a topic.
const topicTimeout = 5 * time.Second
