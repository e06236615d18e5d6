package line

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestMakerSizes(t *testing.T) {
	f := func(size, wantQuotes int) {
		t.Helper()
		m, err := NewMaker(size)
		if err != nil {
			t.Fatalf("NewMaker(%d): %v", size, err)
		}
		for _, seq := range []uint64{0, 1, 999_999, 3_999_999, Max} {
			l := m.Append(nil, seq, 0)
			if len(l) != size {
				t.Fatalf("line %d has %d bytes, want %d", seq, len(l), size)
			}
			if !json.Valid(l) || bytes.IndexByte(l, '\n') >= 0 {
				t.Fatalf("line %d is not one line of JSON: %s", seq, l)
			}
			if n := bytes.Count(l, []byte{'"'}); wantQuotes > 0 && n != wantQuotes {
				t.Fatalf("line %d has %d quotes, want %d: %s", seq, n, wantQuotes, l)
			}
		}
	}
	f(MinSize, 8)
	f(100, 16)
	f(200, 28)
	f(201, 28)
	f(1000, 0)
	if _, err := NewMaker(MinSize - 1); err == nil {
		t.Fatal("a line without room for its number was promised")
	}
}

func TestMakerLinesDiffer(t *testing.T) {
	m, err := NewMaker(200)
	if err != nil {
		t.Fatal(err)
	}
	a, b := m.Append(nil, 7, 0), m.Append(nil, 8, 0)
	if bytes.Equal(a[m.trace:], b[m.trace:]) {
		t.Fatalf("the traces of two lines are the same: %s", a)
	}
	if again := m.Append(nil, 7, 0); !bytes.Equal(a, again) {
		t.Fatal("the same number made two different lines")
	}
}

func TestFind(t *testing.T) {
	for _, size := range []int{MinSize, 100, 200, 1000} {
		m, err := NewMaker(size)
		if err != nil {
			t.Fatal(err)
		}
		for _, typ := range []string{"JSON", "STRING", "BINARY"} {
			for _, seq := range []uint64{0, 42, 3_999_999, Max} {
				const due = 1_795_377_600_123_456_789
				rec, err := Wrap(nil, m.Append(nil, seq, due), typ)
				if err != nil {
					t.Fatal(err)
				}
				if !json.Valid(rec) {
					t.Fatalf("%s record is not JSON: %s", typ, rec)
				}
				gotSeq, gotDue, ok := Find(rec)
				if !ok || gotSeq != seq || gotDue != due {
					t.Fatalf("Find(%s) = %d, %d, %v, want %d, %d", rec, gotSeq, gotDue, ok, seq, due)
				}
			}
		}
	}
	if _, err := Wrap(nil, nil, "AVRO"); err == nil {
		t.Fatal("a type without an encoding was wrapped")
	}
}

func TestFindForeign(t *testing.T) {
	f := func(rec string) {
		t.Helper()
		if seq, _, ok := Find([]byte(rec)); ok {
			t.Fatalf("Find(%s) found line %d", rec, seq)
		}
	}
	f(``)
	f(`{}`)
	f(`{"value":{"type":"JSON","data":null}}`)
	f(`{"value":{"type":"JSON","data":{"seq":1000000001,"due":17}}}`)
	f(`{"value":{"type":"JSON","data":{"seq":0000000001,"due":1795377600123456789}}}`)
	f(`{"value":{"type":"JSON","data":{"abc":1000000001,"due":1795377600123456789}}}`)
	f(`{"value":{"type":"JSON","data":{"seq":100000000x,"due":1795377600123456789}}}`)
	f(`{"value":{"type":"STRING","data":"hello"}}`)
	f(`{"value":{"type":"BINARY","data":"****************************************************************"}}`)
}
