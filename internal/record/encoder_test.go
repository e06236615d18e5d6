package record

import "testing"

func TestSmoke(t *testing.T) {
	c := DefaultEncoderConfig()
	c.Headers = []Header{{"a", []byte("x")}, {"n", nil}}
	c.RecordIDHeader = "id"
	c.KeyField = "k.v"
	c.TimestampField = "ts"
	c.Partition = 3
	e, err := NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	out, err := e.Append(nil, []byte(`{"k":{"v":"a\"b"},"ts":"2021-12-13T17:29:10.9512+01:00"}`), []byte("s:12"))
	t.Logf("%s %v", out, err)
}
