package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// bad notes an error at a key.
func (l *loader) bad(path, format string, args ...any) {
	l.problem(Error, l.cfg.Place(path), path, format, args...)
}

// warn notes a warning at a key.
func (l *loader) warn(path, format string, args ...any) {
	l.problem(Warning, l.cfg.Place(path), path, format, args...)
}

// has says that a key is written.
func (l *loader) has(path string) bool {
	_, ok := l.cfg.places[path]
	return ok
}

// failed says that something was noted about a key already.
func (l *loader) failed(path string) bool {
	return slices.ContainsFunc(l.problems, func(p Problem) bool { return p.Severity == Error && p.Key == path })
}

// value names a setting in a problem's text: as it was written where it comes
// from elsewhere.
func (l *loader) value(path, text string) string {
	if ref := l.cfg.written[path]; ref != "" {
		return "what " + clip(ref) + " gives"
	}
	return strconv.Quote(clip(text))
}

// because notes err at a key; of a value that is not to be shown only that it
// will not do.
func (l *loader) because(path string, err error) {
	if ref := l.cfg.written[path]; ref != "" {
		l.bad(path, "what %s gives will not do here", clip(ref))
		return
	}
	l.bad(path, "%v", err)
}

// check looks at all that is more than one key's business, and fills in the
// defaults that depend on others.
func (l *loader) check() {
	c := &l.cfg
	for _, one := range []struct {
		key  string
		none bool
		what string
	}{
		{"clusters", len(c.Clusters) == 0, "name the Kafka REST endpoint to produce to, as clusters: {main: {rest_endpoint: …}}"},
		{"inputs", len(c.Inputs) == 0, "say where records come from, as inputs: {app: {type: file, include: […]}}"},
		{"routes", len(c.Routes) == 0, "say which records go to which topic, as routes: [{name: app, inputs: [app], topic: logs}]"},
	} {
		if one.none && !l.failed(one.key) {
			l.bad(one.key, "there are no %s: %s", one.key, one.what)
		}
	}
	c.DataDir = l.absolute(c.DataDir)
	for i := range c.Clusters {
		l.cluster(&c.Clusters[i])
	}
	for i := range c.Inputs {
		l.input(&c.Inputs[i])
	}
	l.oneStdin()
	for i := range c.Routes {
		l.route(&c.Routes[i], index("routes", i))
	}
	l.sameClusters()
	l.routesTogether()
	l.reports()
	l.observe()
	l.listeners()
}

func (l *loader) cluster(c *Cluster) {
	at := "clusters." + c.Name
	host := l.endpoint(c, at)
	if c.ClusterID == "." || c.ClusterID == ".." || strings.ContainsAny(c.ClusterID, "/?#% \t\r\n") {
		l.bad(at+".cluster_id", "%s: holds characters no cluster id has", l.value(at+".cluster_id", c.ClusterID))
	}
	l.clusterAuth(c, at, host)
	l.limits(&c.Limits, at+".limits", host)
	l.clusterTLS(&c.TLS, at+".tls")
	l.proxy(c, at+".proxy")
	if !slices.ContainsFunc(l.cfg.Routes, func(r Route) bool {
		return r.Cluster == c.Name || r.Cluster == "" && len(l.cfg.Clusters) == 1
	}) && len(l.cfg.Routes) > 0 {
		l.warn(at, "no route goes to this cluster")
	}
}

// endpoint checks a REST endpoint and returns its host.
func (l *loader) endpoint(c *Cluster, at string) (host string) {
	key := at + ".rest_endpoint"
	raw := c.RESTEndpoint
	switch {
	case !l.has(key) || l.failed(key):
		return ""
	case raw == "":
		l.bad(key, "is empty: give the cluster's REST endpoint, as https://HOST:443")
		return ""
	case strings.Contains(raw, "@"): // before anything that repeats it
		l.bad(key, "holds a user name or password: give them by auth.username and auth.password")
		return ""
	case !strings.Contains(raw, "://"):
		l.bad(key, "%s has no scheme: write https:// in front of it", l.value(key, raw))
		return ""
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		l.bad(key, "%s: want http:// or https://, a host, and a path only where the endpoint has one", l.value(key, raw))
		return ""
	}
	if u.Scheme == "http" && !loopback(u.Hostname()) && !c.AllowPlaintextAuth && (c.Auth.Type != "" && c.Auth.Type != "none" || l.authKind(at+".auth") != "none") {
		l.bad(key, "credentials would go to another machine in plain text for all on the way to read: use https, or say allow_plaintext_auth: true")
	}
	return u.Hostname()
}

// limits fills in what a profile says and is not replaced.
func (l *loader) limits(m *Limits, at, host string) {
	profile := at + ".profile"
	if m.Profile == "" && !l.failed(profile) {
		m.Profile = limit.ForHost(host)
	}
	p, err := limit.ParseProfile(m.Profile)
	if err != nil {
		if !l.failed(profile) {
			names := []string{"none", "basic", "standard", "enterprise", "freight", "dedicated:CKU"}
			text := fmt.Errorf("no profile is called %q; there are %s", clip(m.Profile), list(names))
			if strings.HasPrefix(strings.ToLower(m.Profile), "dedicated") {
				text = errors.New("dedicated:N wants N CKUs, 1..152")
			}
			l.because(profile, text)
		}
		return
	}
	m.Profile = p.Name
	if m.Fleet.Agents > 1 && !l.has(at+".fleet.headroom") {
		m.Fleet.Headroom = DefaultHeadroom
	}
	if !l.has(at + ".connections_per_second") {
		m.ConnectionsPerSecond = p.Connections
	}
	if !l.has(at + ".records_per_second") {
		m.RecordsPerSecond = p.Records
	}
	if !l.has(at + ".bytes_per_second") {
		m.BytesPerSecond = Size(p.Bytes)
	}
	if !l.has(at + ".message_bytes") {
		m.MessageBytes = Size(p.MessageBytes)
	}
}

func (l *loader) clusterTLS(t *TLS, at string) {
	t.CAFile, t.CertFile, t.KeyFile = l.absolute(t.CAFile), l.absolute(t.CertFile), l.absolute(t.KeyFile)
	l.authorities(at+".ca_file", t.CAFile)
	l.certificate(at, t.CertFile, t.KeyFile)
}

// authorities checks that a file holds certificates.
func (l *loader) authorities(key, path string) {
	if path == "" || l.failed(key) {
		return
	}
	if pem, ok := l.named(key, path); ok && !x509.NewCertPool().AppendCertsFromPEM(pem) {
		l.bad(key, "%s holds no certificate in PEM form", l.value(key, path))
	}
}

// certificate checks that two files are a certificate and its key.
func (l *loader) certificate(at, cert, key string) {
	switch {
	case cert == "" && key == "":
		return
	case cert == "":
		l.bad(at+".key_file", "is given without cert_file: a key needs its certificate")
		return
	case key == "":
		l.bad(at+".cert_file", "is given without key_file: a certificate needs its key")
		return
	}
	certPEM, ok := l.named(at+".cert_file", cert)
	keyPEM, ok2 := l.named(at+".key_file", key)
	if !ok || !ok2 {
		return
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		l.bad(at+".cert_file", "is no certificate in PEM form that key_file is the key of: %s", strings.TrimPrefix(err.Error(), "tls: "))
	}
}

// named reads a file that a key names.
func (l *loader) named(key, path string) ([]byte, bool) {
	raw, err := l.ReadFile(path)
	if err != nil {
		l.bad(key, "%s cannot be read: %s", l.value(key, path), reason(err))
	}
	return raw, err == nil
}

func (l *loader) input(in *Input) {
	at := "inputs." + in.Name
	switch {
	case in.File != nil:
		l.fileInput(in.File, at)
	case in.HTTP != nil:
		l.httpInput(in.HTTP, at)
	}
}

func (l *loader) fileInput(f *FileInput, at string) {
	if l.has(at+".include") && len(f.Include) == 0 && !l.failed(at+".include") {
		l.bad(at+".include", "is empty: name the files, as [\"/var/log/app/*.log\"]")
	}
	for i := range f.Include {
		f.Include[i] = l.glob(index(at+".include", i), f.Include[i], true)
	}
	for i := range f.Exclude {
		// Without a separator it is a file's name, wherever that is.
		f.Exclude[i] = l.glob(index(at+".exclude", i), f.Exclude[i], strings.ContainsRune(f.Exclude[i], filepath.Separator))
	}
	if m, key := f.Multiline, at+".multiline.start"; m != nil && l.has(key) && !l.failed(key) {
		if m.Start == "" {
			l.bad(key, "is empty: give the regular expression that a record's first line matches")
		}
		l.regexp(key, m.Start)
	}
	if f.Follow && l.cfg.DataDir == "" && !l.failed("data_dir") {
		text := "there is no data_dir to keep checkpoints in: after a restart all is read and sent again"
		if f.ReadFrom == "end" {
			text = "there is no data_dir to keep checkpoints in: what is written while the agent is down is not sent"
		}
		l.warn(at, "%s; give data_dir", text)
	}
}

// glob checks one pattern and makes it absolute.
func (l *loader) glob(key, pattern string, absolute bool) string {
	switch _, err := filepath.Match(pattern, "x"); {
	case l.failed(key):
	case pattern == "":
		l.bad(key, "is empty: name a file, as /var/log/app/*.log")
	case err != nil:
		l.bad(key, "%s is no pattern: a [ needs its ], and \\ something behind it", l.value(key, pattern))
	case strings.ContainsRune(pattern, 0):
		l.bad(key, "%s: no file's name holds a zero byte", l.value(key, pattern))
	case absolute:
		return filepath.Clean(l.absolute(pattern))
	}
	return pattern
}

func (l *loader) regexp(key, text string) {
	if _, err := compile(text); err != nil && !l.failed(key) {
		l.because(key, fmt.Errorf("%q is no regular expression: %w; see golang.org/s/re2syntax", clip(text), err))
	}
}

func (l *loader) httpInput(h *HTTPInput, at string) {
	host := l.listen(at+".listen", h.Listen, false)
	l.patterns(at+".allow_topics", h.AllowTopics)
	if l.has(at+".accept") && len(h.Accept) == 0 && !l.failed(at+".accept") {
		l.bad(at+".accept", "is empty: nothing would be taken; leave it out to take everything")
	}
	if h.MaxBody > h.MaxInFlight {
		l.bad(cmp.Or(l.first(at+".max_body", at+".max_in_flight"), at), "max_body is %s and max_in_flight %s: one body must fit", h.MaxBody, h.MaxInFlight)
	}
	t := &h.TLS
	t.CertFile, t.KeyFile, t.ClientCAFile = l.absolute(t.CertFile), l.absolute(t.KeyFile), l.absolute(t.ClientCAFile)
	h.Auth.TokenFile = l.absolute(h.Auth.TokenFile)
	l.certificate(at+".tls", t.CertFile, t.KeyFile)
	l.authorities(at+".tls.client_ca_file", t.ClientCAFile)
	if t.ClientCAFile != "" && t.CertFile == "" {
		l.bad(at+".tls.client_ca_file", "is given without cert_file and key_file: clients show certificates over https only")
	}
	l.listenAuth(h, at, host)
	if h.Respond == "after_buffer" && l.cfg.DataDir == "" {
		l.bad(at+".respond", "after_buffer promises what is on disk: give data_dir, and buffer: {type: disk} to the routes of this input")
	}
}

// first returns the first of paths that is written.
func (l *loader) first(paths ...string) string {
	for _, p := range paths {
		if l.has(p) {
			return p
		}
	}
	return ""
}

func (l *loader) listenAuth(h *HTTPInput, at, host string) {
	a, key := &h.Auth, at+".auth"
	token := l.has(key+".token") || a.TokenFile != ""
	switch {
	case l.failed(key + ".type"):
		return
	case a.Type != "bearer" && token:
		l.bad(cmp.Or(l.first(key+".type", key+".token", key+".token_file"), key), "a token is given, but type is %s: write type: bearer", a.Type)
	case a.Type == "bearer" && !token:
		l.bad(key, "bearer needs a token: give token_file, or token: ${env:NAME}")
	case a.Type == "bearer" && l.has(key+".token") && a.TokenFile != "":
		l.bad(key, "token and token_file are both given: leave one out")
	case a.Type == "bearer" && a.TokenFile != "":
		if raw, ok := l.named(key+".token_file", a.TokenFile); ok && strings.TrimSpace(string(raw)) == "" {
			l.bad(key+".token_file", "the file is empty: write the token into it")
		}
	case a.Type == "bearer" && !l.failed(key+".token") && (a.Token.Reveal() == "" || strings.ContainsFunc(a.Token.Reveal(), func(r rune) bool { return r <= ' ' || r >= 0x7f })):
		l.bad(key+".token", "is empty, or holds what cannot be in a header: a token is letters, digits and punctuation")
	case a.Type == "mtls" && h.TLS.ClientCAFile == "":
		l.bad(key, "mtls needs tls: {cert_file, key_file, client_ca_file}: the authority that signs its clients' certificates")
	}
	if host == "" || loopback(host) {
		return
	}
	switch {
	case a.Type == "none" && !h.InsecureListen:
		l.bad(cmp.Or(l.first(at+".listen"), at),
			"everybody who reaches this address could write to your topics: listen on 127.0.0.1, ask for auth: {type: bearer, …} or mtls, or say insecure_listen: true")
	case a.Type == "bearer" && h.TLS.CertFile == "":
		l.warn(cmp.Or(l.first(key), at), "clients send their token in plain text for all on the way to read: give tls: {cert_file, key_file}")
	}
}

// patterns checks an allow list.
func (l *loader) patterns(at string, all []string) {
	for i, p := range all {
		key := index(at, i)
		if err := ingest.CheckPattern(p); err != nil && !l.failed(key) {
			l.because(key, err)
		}
	}
}

// everywhere stands for the host of an address without one: all there are.
const everywhere = "0.0.0.0"

// listen checks an address to listen at and returns its host; "" and noted
// where it is none.
func (l *loader) listen(key, address string, mayBeEmpty bool) (host string) {
	if address == "" && mayBeEmpty || l.failed(key) {
		return ""
	}
	host, port, err := net.SplitHostPort(address)
	n, bad := strconv.Atoi(port)
	if err != nil || bad != nil || n < 0 || n > 65535 || strings.ContainsAny(host, " \t/@") {
		l.bad(key, "%s is no address to listen at: write HOST:PORT, as 127.0.0.1:9880 or [::1]:9880", l.value(key, address))
		return ""
	}
	return cmp.Or(host, everywhere)
}

// loopback says whether host can only be this machine.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

func (l *loader) oneStdin() {
	first := ""
	for _, in := range l.cfg.Inputs {
		if in.Stdin == nil {
			continue
		}
		if first != "" {
			l.bad("inputs."+in.Name, "inputs %s and %s both read stdin, of which there is one", first, in.Name)
		}
		first = in.Name
	}
}

func (l *loader) reports() {
	r := &l.cfg.Reports
	r.Path = l.absolute(r.Path)
	switch {
	case r.To == "file" && r.Path == "" && !l.failed("reports.path"):
		l.bad(cmp.Or(l.first("reports.path", "reports.to"), "reports"), "to: file needs a path")
	case r.To != "file" && r.Path != "" && !l.failed("reports.to"):
		l.bad("reports.path", "is given, but to is %s: write to: file, or leave it out", r.To)
	}
	l.feedsItself("reports.path", r.Path)
}

// feedsItself refuses a file to be written that some input would read.
func (l *loader) feedsItself(key, path string) {
	if path == "" {
		return
	}
	for _, in := range l.cfg.Inputs {
		if in.File == nil {
			continue
		}
		fits := func(p string) bool {
			if !strings.ContainsRune(p, filepath.Separator) {
				ok, _ := filepath.Match(p, filepath.Base(path))
				return ok
			}
			ok, _ := filepath.Match(p, path)
			return ok
		}
		if slices.ContainsFunc(in.File.Include, fits) && !slices.ContainsFunc(in.File.Exclude, fits) {
			l.bad(cmp.Or(l.first(key), lastStep(key)), "this file would be read by input %s: put it elsewhere, or exclude it there", in.Name)
		}
	}
}

func (l *loader) observe() {
	o := &l.cfg.Observe
	host := l.listen("observe.listen", o.Listen, true)
	if o.Pprof && host != "" && !loopback(host) {
		l.warn("observe.pprof", "others can reach observe.listen, and a profile shows what is in memory")
	}
	if o.Pprof && o.Listen == "" {
		l.bad("observe.pprof", "needs observe.listen")
	}
}

// listeners refuses two that want one address.
func (l *loader) listeners() {
	seen := map[string]string{}
	note := func(key, address string) {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "0" {
			return
		}
		if other := seen[address]; other != "" {
			l.bad(cmp.Or(l.first(key), key), "the address is the same as %s: each needs a port of its own", other)
		}
		seen[address] = key
	}
	for _, in := range l.cfg.Inputs {
		if in.HTTP != nil {
			note("inputs."+in.Name+".listen", in.HTTP.Listen)
		}
	}
	note("observe.listen", l.cfg.Observe.Listen)
}
