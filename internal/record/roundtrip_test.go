package record

import "testing"

func TestSmoke2(t *testing.T) {
	for _, r := range []string{
		`{"partition_id":3,"key":{"type":"STRING","data":"a\"b"},"value":{"type":"STRING","data":"{\"k\"}"}}`,
		`{"value":{"type":"BINARY","data":"gA=="}}`,
		`{"value":{"type":"JSON","data":  1 }}`,
		`{"value":{"type":"JSON","data":  1} }}`,
		`{"value":{"type":"JSON","data":null}}`,
		`{"value":{"type":"AVRO","data":null}}`,
		`{}`,
		` []`,
	} {
		p, err := Decode([]byte(r + "\n"))
		t.Logf("%s: %q %v %v %s raw=%v %v", r, p.Payload, p.Type, p.Null, p.Envelope, p.Raw, err)
		if err == nil && !p.Raw {
			out, err := AppendEnvelope(nil, p.Envelope, p.Type, p.Payload, p.Null)
			t.Logf("  %s %v", out, err)
		}
	}
	s := ScanState{}
	b := []byte(" {\"a\":\"}\"}{\"b\":[{}]}\nx {}\n{\"c\":\"\n{} {")
	for len(b) > 0 {
		st, en, ok, err := NextValue(b, &s)
		t.Logf("%q %v %v", b[st:en], ok, err)
		if !ok && err == nil {
			break
		}
		b = b[en:]
	}
}
