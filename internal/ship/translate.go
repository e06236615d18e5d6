package ship

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/listener"
	"github.com/produce-agent/produce-agent/internal/ingest/tail"
	"github.com/produce-agent/produce-agent/internal/record"
)

// ingestRoute translates a route's rules.
func ingestRoute(r *config.Route, id int32) (ingest.Route, error) {
	e := record.DefaultEncoderConfig()
	var err error
	if e.ValueType, err = record.ParseType(r.Value.Type); err != nil {
		return ingest.Route{}, err
	}
	if e.Decode, err = record.ParseDecoding(r.Decode); err != nil {
		return ingest.Route{}, err
	}
	e.Validate, e.MaxRecordBytes = r.Validate, int(r.MaxRecordBytes)
	e.NullValue = r.NullValue
	if r.Null != nil {
		e.NullField, e.NullEquals = r.Null.Field, r.Null.Equals
	}
	e.Partition, e.PartitionField = r.Partition.Number, r.Partition.Field
	e.RecordIDHeader = r.RecordIDHeader
	if k := r.Key; k != nil {
		if e.KeyType, err = record.ParseType(k.Type); err != nil {
			return ingest.Route{}, err
		}
		e.KeyField, e.KeyDelim = k.Field, []byte(k.Delimiter)
		if k.Template != "" {
			if e.KeyTemplate, err = record.ParseTemplate(k.Template); err != nil {
				return ingest.Route{}, fmt.Errorf("key.template: %w", err)
			}
		}
		if k.Value != nil {
			e.Key, e.HasKey = []byte(*k.Value), true
		}
	}
	for _, h := range r.Headers {
		one := record.Header{Name: h.Name}
		if h.Value != nil {
			t, err := record.ParseTemplate(*h.Value)
			if err != nil {
				return ingest.Route{}, fmt.Errorf("headers.%s: %w", h.Name, err)
			}
			if t.Constant() {
				one.Value = []byte(t.Prefix())
			} else {
				one.Template = t
			}
		}
		e.Headers = append(e.Headers, one)
	}
	if r.Timestamp != nil {
		e.TimestampField = r.Timestamp.Field
		if e.TimeFormat, err = record.ParseTimeFormat(r.Timestamp.Format); err != nil {
			return ingest.Route{}, err
		}
	}
	out := ingest.Route{ID: id, Name: r.Name, Topic: r.Topic, AllowTopics: r.AllowTopics, Encoder: e}
	if r.Match != nil {
		out.Match, err = match(r.Match)
	}
	return out, err
}

func match(t *config.Test) (*ingest.Match, error) {
	m := &ingest.Match{Field: t.Field, Equals: t.Equals, In: t.In, Exists: t.Exists}
	if t.Regex != "" {
		re, err := regexp.Compile(t.Regex)
		if err != nil {
			return nil, err
		}
		m.Regex = re
	}
	return m, nil
}

// recordRules returns what an input has to know of its routes' records: the
// longest that one of them takes, and whether one of them wants ids.
func recordRules(routes []config.Route) (maxBytes int, ids bool) {
	for _, r := range routes {
		maxBytes = max(maxBytes, int(r.MaxRecordBytes))
		ids = ids || r.RecordIDHeader != ""
	}
	return maxBytes, ids
}

// never is an idle_close of 0.
const never = 100 * 365 * 24 * time.Hour

// tailConfig translates a file input.
func tailConfig(in config.Input, routes []config.Route) (tail.Config, error) {
	f, c := in.File, tail.DefaultConfig()
	c.Name, c.Include, c.Exclude, c.FollowSymlinks, c.Follow = in.Name, f.Include, f.Exclude, f.FollowSymlinks, f.Follow
	c.ReadFrom, c.StripCR, c.SkipEmpty = f.ReadFrom, f.StripCR, f.SkipEmpty
	c.MaxOpen, c.IdleClose, c.Poll = f.MaxOpenFiles, f.IdleClose, f.Poll
	if c.IdleClose == 0 {
		c.IdleClose = never
	}
	c.MaxRecordBytes, c.RecordIDs = recordRules(routes)
	if m := f.Multiline; m != nil {
		re, err := regexp.Compile(m.Start)
		if err != nil {
			return c, fmt.Errorf("multiline.start: %w", err)
		}
		c.Multiline = tail.Multiline{Start: re, Timeout: m.Timeout}
	}
	return c, nil
}

// listenConfig translates an http input.
func listenConfig(in config.Input, k *cluster, routes []config.Route) (listener.Config, error) {
	h := in.HTTP
	c := listener.Config{
		Name: in.Name, Listen: h.Listen, Accept: h.Accept, AfterBuffer: h.Respond == "after_buffer", RespondTimeout: h.RespondTimeout,
		MaxBody: int64(h.MaxBody), MaxInFlight: int64(h.MaxInFlight), MaxConnections: h.MaxConnections,
		HeaderTimeout: h.HeaderTimeout, IdleTimeout: h.IdleTimeout,
		StripCR: h.StripCR, SkipEmpty: h.SkipEmpty,
		AllowTopics: h.AllowTopics, ClusterID: k.id, InsecureListen: h.InsecureListen,
	}
	if len(c.AllowTopics) == 0 { // what the route that takes them may produce to
		c.AllowTopics = slices.Clone(routes[0].AllowTopics)
		if t, err := record.ParseTemplate(routes[0].Topic); err == nil && t.Constant() && t.Prefix() != "" {
			c.AllowTopics = append(c.AllowTopics, t.Prefix())
		}
	}
	longest, ids := recordRules(routes)
	c.MaxRecordBytes, c.RecordIDs = int64(longest), ids
	if h.Auth.Type == "bearer" {
		c.Token = func() (string, error) { return h.Auth.Token.Reveal(), nil }
		if h.Auth.TokenFile != "" {
			c.Token = func() (string, error) { return auth.ReadSecret(h.Auth.TokenFile) }
		}
	}
	if h.TLS.CertFile == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(h.TLS.CertFile, h.TLS.KeyFile)
	if err != nil {
		return c, fmt.Errorf("tls: %w", err)
	}
	c.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if h.TLS.ClientCAFile != "" {
		pem, err := os.ReadFile(h.TLS.ClientCAFile)
		if err != nil {
			return c, fmt.Errorf("tls.client_ca_file: %w", err)
		}
		c.TLS.ClientCAs = x509.NewCertPool()
		if !c.TLS.ClientCAs.AppendCertsFromPEM(pem) {
			return c, fmt.Errorf("tls.client_ca_file: %s holds no certificate in PEM form", h.TLS.ClientCAFile)
		}
		c.TLS.ClientAuth = tls.VerifyClientCertIfGiven
		if h.Auth.Type == "mtls" {
			c.TLS.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return c, nil
}
