package sandbox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
)

func tlsClient(t testing.TB, s *Sandbox) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(s.CAPEM()) {
		t.Fatal("the CA cannot be read")
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h2", "http/1.1"}}
}

// Reports come while the request is open, in order, and the stored records are
// those sent.
func TestStreamInOrder(t *testing.T) {
	s := start(t, nil)
	c := open(t, s, "t")
	const n = 2000
	for i := range n {
		c.send(fmt.Sprintf(`{"partition_id":%d,"value":{"type":"STRING","data":"v%d"}}`, i%2, i))
		if i == 0 {
			if r := c.next(); r.Code != 200 || r.Cluster != "lkc-sandbox" || r.Topic != "t" {
				t.Fatalf("first report %+v", r)
			}
		}
	}
	c.last()
	rs, err := c.rest()
	if err != nil || len(rs) != n-1 {
		t.Fatalf("%d reports, %v", len(rs), err)
	}
	stored, err := s.Records(context.Background(), "t")
	if err != nil || len(stored) != n {
		t.Fatalf("%d stored, %v", len(stored), err)
	}
	at := map[string]string{}
	for _, r := range stored {
		at[fmt.Sprintf("%d/%d", r.Partition, r.Offset)] = string(r.Value)
	}
	for i, r := range rs {
		if got := at[fmt.Sprintf("%d/%d", r.Partition, r.Offset)]; got != fmt.Sprintf("v%d", i+1) {
			t.Fatalf("report %d points to %q", i+1, got)
		}
	}
	if st := s.Stats(); st.RecordsRead != n || st.RecordsStored != n || st.Reports[200] != n || st.OpenStreams > 1 {
		t.Errorf("stats %+v", st)
	}
}

// A syntax error in record k gives k+1 reports, and the end.
func TestSyntaxErrorEndsStream(t *testing.T) {
	s := start(t, nil)
	f := func(body, want, text string) {
		t.Helper()
		rs := post(t, s, "t", body)
		if got := codes(rs); got != want {
			t.Errorf("%q: reports %s, want %s", body, got, want)
		}
		if last := rs[len(rs)-1]; text != "" && !strings.Contains(last.Message, text) {
			t.Errorf("%q: last report %q, want %q in it", body, last.Message, text)
		}
	}
	const terminal = "Bad Request: Error processing message: "
	f(rec+"\n"+rec, "200 200", "")
	f(rec+rec+" \t\r\n", "200 200", "")
	f("\xef\xbb\xbf"+rec, "200", "")
	f("["+rec+","+rec+"]"+rec, "400 200", "")
	f("null 1 \"x\" true"+rec, "400 400 400 400 200", "")
	f(rec+`{"value":]}`+rec, "200 400 400", terminal+"Unexpected close marker")
	f(rec+`}`+rec, "200 400", terminal+"Unexpected close marker")
	f(rec+`,`+rec, "200 400", terminal+"Unexpected character (',' (code 44))")
	f(rec+"\x1e"+rec, "200 400", terminal)
	f(rec+"\x00", "200 400", terminal)
	f(rec+`{"value":{"type":"STRING","data":"x"`, "200 400 400", terminal+"Unexpected end-of-input")
	f(rec+`{"value":{"type":"JSON","data":NaN}}`+rec, "200 400 200", "")
	f(`{"value":{"type":"STRING","data":"`+"\xff"+`"}}`+rec, "400 400", terminal+"Invalid UTF-8 start byte 0xff")
	f(`{}`, "200", "")
}
