package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A cluster that asks for a certificate gets the one of tls.cert_file; without
// it the words say what is missing.
func TestClientCertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	dir := t.TempDir()
	for name, b := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(certPEM)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 {
			t.Errorf("%d certificates", len(r.TLS.PeerCertificates))
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"data":[{"cluster_id":"lkc-1"}],"cluster_id":"lkc-1"}`)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted}
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	f := func(more string, status int, word string) {
		t.Helper()
		file := write(t, "agent.yaml", agentYAML(fmt.Sprintf("{rest_endpoint: %q, tls: {ca_file: %q%s}}", server.URL, filepath.Join(dir, "cert.pem"), more)))
		r := begin(t, nil, nil, "check", "--connect", file).ran()
		if r.status != status || !strings.Contains(r.out+r.err, word) {
			t.Errorf("status %d, no %q in\n%s%s", r.status, word, r.out, r.err)
		}
	}
	f(fmt.Sprintf(", cert_file: %q, key_file: %q", filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")), exitOK, "reached")
	f("", exitFailure, "give tls.cert_file")
	file := write(t, "agent.yaml", agentYAML(fmt.Sprintf("{rest_endpoint: %q, auth: {type: mtls}, tls: {ca_file: %q, cert_file: %q, key_file: %q}}",
		server.URL, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))))
	if r := begin(t, nil, nil, "check", "--connect", file).ran(); r.status != exitOK || !strings.Contains(r.out, "credentials accepted: client certificate") {
		t.Errorf("status %d\n%s%s", r.status, r.out, r.err)
	}
	f(fmt.Sprintf(", cert_file: %q", filepath.Join(dir, "cert.pem")), exitConfig, "key_file")
}
