package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSFiles name what a TLS set-up is made of.
type TLSFiles struct {
	CA         string // authorities to trust instead of the system's; "": the system's
	Cert, Key  string // certificate to show, and its key; "": none
	MinVersion uint16 // 0: TLS 1.2
}

// TLS is a client's TLS set-up that follows its files: it looks at them when it
// is asked, at most once a second. Files that will not do leave in force what
// was, and that is logged once.
//
// Concurrency: safe.
type TLS struct {
	files TLSFiles
	log   *slog.Logger

	mu      sync.Mutex // guards what follows
	cfg     *tls.Config
	state   state
	looked  time.Time
	refused state // the files that would not do
}

// NewTLS reads the files. log is told of later changes.
// Errors: what is wrong with a file, and the flag that names it.
func NewTLS(files TLSFiles, log *slog.Logger) (*TLS, error) {
	t := &TLS{files: files, log: log, looked: time.Now()}
	t.state = stateOf(files.CA, files.Cert, files.Key)
	var err error
	t.cfg, err = files.load()
	return t, err
}

// FixedTLS returns a TLS that is always cfg.
func FixedTLS(cfg *tls.Config) *TLS { return &TLS{cfg: cfg, looked: time.Now()} }

// Config returns the set-up as the files are now. It is the caller's to change.
// A nil TLS trusts what the system trusts.
func (t *TLS) Config() *tls.Config {
	if t == nil {
		return baseTLS()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh(time.Now())
	return t.cfg.Clone()
}

// refresh reads the files again where they have changed. What is made of them
// has a session cache of its own: a resumed session would go on as whom the
// old certificate named.
func (t *TLS) refresh(now time.Time) {
	if t.files.CA == "" && t.files.Cert == "" || now.Sub(t.looked) < lookAgain {
		return
	}
	t.looked = now
	state := stateOf(t.files.CA, t.files.Cert, t.files.Key)
	if state.same(t.state) || state.same(t.refused) {
		return
	}
	cfg, err := t.files.load()
	if err != nil {
		t.refused = state
		t.log.Warn("a changed certificate file will not do; the one before stays in force", "error", err)
		return
	}
	t.cfg, t.state, t.refused = cfg, state, nil
	t.log.Info("certificate files have changed and are in force for new connections")
}

// Others returns the set-up for those who are spoken to on the cluster's behalf,
// proxies and token endpoints: they may have a certificate that the system
// trusts or one of the cluster's authorities, and are shown none.
func (t *TLS) Others() *tls.Config {
	cfg := baseTLS()
	if t == nil {
		return cfg
	}
	if cfg.MinVersion = max(cfg.MinVersion, t.files.MinVersion); t.files.CA == "" {
		return cfg
	}
	pem, err := os.ReadFile(t.files.CA)
	if err != nil { // the system's will have to do
		return cfg
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	roots.AppendCertsFromPEM(pem)
	cfg.RootCAs = roots
	return cfg
}

// baseTLS is at least TLS 1.2, HTTP/1.1 only (a server that offers h2 would
// else answer in it), and the system's roots.
func baseTLS() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(16),
		// Our writes are 64 KiB: starting each stream with records of one
		// segment would only cost CPU.
		DynamicRecordSizingDisabled: true,
	}
}

func (f TLSFiles) load() (*tls.Config, error) {
	cfg := baseTLS()
	cfg.MinVersion = max(cfg.MinVersion, f.MinVersion)
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca-file: %s holds no certificate in PEM form", f.CA)
		}
	}
	switch {
	case f.Cert == "" && f.Key == "":
		return cfg, nil
	case f.Cert == "":
		return nil, errors.New("--key-file is given without --cert-file: a key needs its certificate")
	case f.Key == "":
		return nil, errors.New("--cert-file is given without --key-file: a certificate needs its key")
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("--cert-file: %w", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// lookAgain is how long a file is taken to be what it was.
const lookAgain = time.Second

// state tells files from what they were before they were written again.
type state []fs.FileInfo

func stateOf(paths ...string) state {
	all := make(state, len(paths))
	for i, path := range paths {
		if info, err := os.Stat(path); path != "" && err == nil {
			all[i] = info
		}
	}
	return all
}

func (s state) same(as state) bool {
	if len(s) != len(as) {
		return false
	}
	for i, a := range s {
		b := as[i]
		if (a == nil) != (b == nil) {
			return false
		}
		if a != nil && (a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()) || !os.SameFile(a, b)) {
			return false
		}
	}
	return true
}
