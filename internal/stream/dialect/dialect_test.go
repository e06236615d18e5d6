package dialect

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, name := range Names() {
		d, err := Parse(name)
		if err != nil || d.String() != name {
			t.Errorf("Parse(%q) = %s, %v", name, d, err)
		}
	}
	if d, err := Parse(""); d != Auto || err != nil {
		t.Errorf(`Parse("") = %s, %v`, d, err)
	}
	for _, bad := range []string{"v4", "v2:", "v2:unknown", "V3-STREAM", "v3"} {
		if _, err := Parse(bad); err == nil || !strings.Contains(err.Error(), "v3-stream") {
			t.Errorf("Parse(%q): %v, want an error that names the words", bad, err)
		}
	}
}

func TestCarries(t *testing.T) {
	f := func(d Dialect, want ...Feature) {
		t.Helper()
		for i := range features {
			if got := d.Carries(Feature(i)); got != slices.Contains(want, Feature(i)) {
				t.Errorf("%s carries %s: %v", d, Feature(i), got)
			}
		}
	}
	f(V3Stream, Headers, Timestamps, Tombstones, NullHeaders, NullKeys, Schemas)
	f(V3Batch, Headers, Timestamps, Tombstones, NullHeaders, NullKeys, Schemas)
	f(V2Confluent, Tombstones, NullKeys)
	f(V2Pandaproxy)
	f(V2Karapace, NullKeys)
	f(V2Strimzi, Headers, Timestamps, Tombstones, NullKeys)
	f(V2Other)
	f(V2)
	if l := V2Karapace.Lacks(); len(l) != 5 || l[0] != "record headers" {
		t.Errorf("Karapace lacks %q", l)
	}
}
