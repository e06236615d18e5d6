package sandbox

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// FuzzV2Body checks that no server's decoder panics, that what it takes is
// JSON with a record for each that stands there, and that what it does not
// take has an error status and a body that says so.
func FuzzV2Body(f *testing.F) {
	for _, s := range []string{
		`{"records":[{"key":"a2V5","value":"AAH/","partition":0}]}`,
		`{"records":[{"value":{"a":[1.10,"\ud83d"]},"partition":"1"},{"key":null}],"key_schema_id":1}`,
		`{"records":[{"headers":[{"key":"k","value":"dg=="}],"timestamp":1}]}`,
		`{"records":{"value":1e999}}`, `[]`, ``, `{"records":[]} x`, "\xef\xbb\xbf{}", `{"records":[{"records":"x"}],"records":null}`,
	} {
		f.Add([]byte(s), uint8(1), "")
		f.Add([]byte(s), uint8(2), "1")
	}
	sb := start(f, func(c *Config) { c.Limits = Limits{MessageBytes: 1 << 20} })
	f.Fuzz(func(t *testing.T, body []byte, format uint8, path string) {
		for _, fl := range flavours() {
			req := &request{method: "POST", contentLength: -1}
			st := &stream{c: &conn{sb: sb}, req: req, topic: "t", faults: &streamFaults{}, ctx: t.Context(), buf: body, now: time.Now()}
			v := &v2{x: &exchange{sb: sb, req: req, flavour: fl}, st: st, f: fl, path: path, waited: map[int32]*codeError{}}
			if v.pathPartition(); fl == karapaceV2 {
				v.hasPath = false // it reads the path itself
			}
			v.format = formatBinary + dataFormat(format%3)
			a := fl.decode(v)
			if a == nil && !json.Valid(body) && !strings.Contains(string(body), `\u`) && !strings.HasPrefix(string(body), "\xef\xbb\xbf") {
				t.Errorf("%s takes %q", fl.name, body)
			}
			if a != nil && (a.status < 400 || len(a.body) == 0) {
				t.Errorf("%s answers %q with %d %q", fl.name, body, a.status, a.body)
			}
			if len(v.items) != len(v.sources) {
				t.Errorf("%s: %d records of %d sources", fl.name, len(v.items), len(v.sources))
			}
			for _, p := range v.items {
				if p.rec.Partition < -1 {
					t.Errorf("%s: partition %d", fl.name, p.rec.Partition)
				}
			}
		}
	})
}
