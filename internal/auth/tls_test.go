package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair returns a self-signed certificate of that name and its key.
func pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// A token endpoint is trusted by the authorities that are there when it is asked,
// and spoken to in no older TLS than the cluster.
func TestTokenEndpointTrust(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, oneHour) }))
	server.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca")
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(ca, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other, _ := pair(t, "another authority")
	for _, min := range []uint16{0, tls.VersionTLS13} {
		write(other)
		x, err := NewTLS(TLSFiles{CA: ca, MinVersion: min}, silent)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Settings{TLS: x, Timeout: time.Second}.endpoint(server.URL, "--oauth2-token-url")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.post(t.Context(), nil, "", ""); err == nil || !strings.Contains(err.Error(), "certificate trusted here") {
			t.Errorf("another authority's: %v", err)
		}
		write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
		if _, err := c.post(t.Context(), nil, "", ""); (err == nil) != (min == 0) || err != nil && !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("at least %#x: %v", min, err)
		}
	}
}

// New certificate files are in force for the next connection, a resumed session
// included; files that will not do leave the old ones.
func TestTLSFollowsItsFiles(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	files := TLSFiles{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	write := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	oneCert, oneKey := pair(t, "one")
	twoCert, twoKey := pair(t, "two")
	write(files.CA, ca)
	write(files.Cert, oneCert)
	write(files.Key, oneKey)
	l := &logged{}
	x, err := NewTLS(files, l.log())
	if err != nil {
		t.Fatal(err)
	}
	soon := func() { x.mu.Lock(); x.looked = time.Time{}; x.mu.Unlock() }
	f := func(want string) {
		t.Helper()
		soon()
		c := http.Client{Transport: &http.Transport{TLSClientConfig: x.Config(), DisableKeepAlives: true}}
		resp, err := c.Get(server.URL)
		if err != nil {
			if want != "" {
				t.Error(err)
			}
			return
		}
		defer resp.Body.Close()
		if got, _ := io.ReadAll(resp.Body); string(got) != want {
			t.Errorf("spoke as %q, want %q", got, want)
		}
	}
	f("one")
	f("one")
	write(files.Cert, twoCert) // not the key's
	f("one")
	f("one")
	if n := strings.Count(l.String(), "will not do"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, l)
	}
	write(files.Key, twoKey)
	f("two")
	write(files.CA, []byte("nothing"))
	f("two")
	other, _ := pair(t, "another authority")
	write(files.CA, other)
	f("") // the server is not trusted any more
	os.Remove(files.CA)
	f("")
	write(files.CA, ca)
	f("two")
	if strings.Contains(l.String(), "PRIVATE") {
		t.Error("the key is logged")
	}
	for _, bad := range []TLSFiles{{Cert: files.Cert}, {Key: files.Key}, {Cert: files.Key, Key: files.Key}} {
		if _, err := NewTLS(bad, silent); err == nil || !strings.Contains(err.Error(), "--") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if x.Others().Certificates != nil {
		t.Error("others are shown the certificate")
	}
}
