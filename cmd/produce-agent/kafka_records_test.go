//go:build unix

package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// numberHeader is the header that says which record one is.
const numberHeader = "n"

// madeRecord returns record n of those that have everything a record may have,
// and the same as a REST v3 record object. It follows from n alone.
func madeRecord(n int) (r *kgo.Record, object []byte) {
	rnd := rand.New(rand.NewPCG(uint64(n), 4))
	noise := func(size int) []byte {
		b := make([]byte, 0, size+8)
		for len(b) < size {
			b = binary.LittleEndian.AppendUint64(b, rnd.Uint64())
		}
		return b[:size]
	}
	words := []string{"plain", "grüße", "日本語", "\U0001F600 \u2028", "tab\tnew\nline \"quoted\" \\", "\u0000\u001f\u007f"}
	text := func() string { return words[rnd.IntN(len(words))] + strconv.Itoa(rnd.IntN(1000)) }
	size := rnd.IntN(300)
	if n%40_000 == 20_001 {
		size = 900_000
	}
	r = &kgo.Record{Timestamp: time.UnixMilli(1_600_000_000_000 + int64(n)*977)}
	var key, value string
	switch n % 5 {
	case 0: // no key
	case 1:
		r.Key, key = asText(text())
	case 2:
		r.Key, key = asBinary(noise(1 + size%40))
	case 3:
		r.Key, key = asText("")
	case 4:
		r.Key, key = []byte(strconv.Itoa(n%97)), `{"type":"JSON","data":`+strconv.Itoa(n%97)+`}`
	}
	switch n % 7 {
	case 0:
		r.Value, value = asText(strings.Repeat(text(), 1+size/30))
	case 1, 2:
		r.Value, value = asBinary(noise(size))
	case 3: // null
		value = `{"type":"BINARY","data":null}`
	case 4:
		r.Value, value = asText("")
	case 5:
		r.Value = fmt.Appendf(nil, `{"id":%d,"tags":["a",%q],"deep":{"x":null,"y":true}}`, n, strings.Repeat("x", size))
		value = `{"type":"JSON","data":` + string(r.Value) + `}`
	case 6:
		r.Value, value = asBinary([]byte{})
	}
	headers := []kgo.RecordHeader{{Key: numberHeader, Value: []byte(strconv.Itoa(n))}}
	if n%3 == 0 {
		headers = append(headers, kgo.RecordHeader{Key: "ünï", Value: noise(9)}, kgo.RecordHeader{Key: "empty", Value: []byte{}})
	}
	if n%4 == 0 {
		headers = append(headers, kgo.RecordHeader{Key: "null"}, kgo.RecordHeader{Key: "null"})
	}
	r.Headers = headers
	object = append(object, `{"timestamp":"`+r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z")+`","headers":[`...)
	for i, h := range headers {
		if i > 0 {
			object = append(object, ',')
		}
		object = append(append(object, `{"name":`...), quoted(h.Key)...)
		if object = append(object, `,"value":`...); h.Value == nil {
			object = append(object, "null}"...)
		} else {
			object = fmt.Appendf(object, `"%s"}`, base64.StdEncoding.EncodeToString(h.Value))
		}
	}
	object = append(object, ']')
	if key != "" {
		object = append(append(object, `,"key":`...), key...)
	}
	return r, append(append(append(object, `,"value":`...), value...), "}\n"...)
}

func asText(s string) (data []byte, object string) {
	return []byte(s), `{"type":"STRING","data":` + string(quoted(s)) + `}`
}

func asBinary(b []byte) (data []byte, object string) {
	return b, `{"type":"BINARY","data":"` + base64.StdEncoding.EncodeToString(b) + `"}`
}

func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

// madeFile writes the first n made records to a file.
func madeFile(t testing.TB, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "records.json")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	for i := range n {
		_, object := madeRecord(i)
		if _, err := w.Write(object); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// judgeMade compares what topic holds with the first n made records, byte for
// byte. withTime says whether the time of a record is its maker's.
func (k *kafka) judgeMade(topic string, n int, withTime bool) (v verdict) {
	k.t.Helper()
	v.made, v.accepted = n, n
	stored := make([]int, n)
	k.read(topic, func(r *kgo.Record) {
		at := -1
		for _, h := range r.Headers {
			if h.Key == numberHeader {
				at, _ = strconv.Atoi(string(h.Value))
			}
		}
		if at < 0 || at >= n {
			v.wrong++
			k.t.Logf("wrong: record %d is of nobody's making", at)
			return
		}
		want, _ := madeRecord(at)
		if why := differ(r, want, withTime); why != "" {
			v.wrong++
			if v.wrong <= 5 {
				k.t.Logf("wrong: record %d: %s", at, why)
			}
		}
		stored[at]++
	})
	for _, times := range stored {
		if times == 0 {
			v.lost++
			continue
		}
		v.stored++
		v.dup += times - 1
	}
	return v
}

// differ says in what a record is not as it was made, "" when it is.
func differ(got, want *kgo.Record, withTime bool) string {
	same := func(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }
	switch {
	case !same(got.Key, want.Key):
		return fmt.Sprintf("key %.60q, want %.60q", got.Key, want.Key)
	case !same(got.Value, want.Value):
		return fmt.Sprintf("value of %d bytes %.60q, want %d bytes %.60q", len(got.Value), got.Value, len(want.Value), want.Value)
	case len(got.Headers) != len(want.Headers):
		return fmt.Sprintf("%d headers, want %d", len(got.Headers), len(want.Headers))
	case withTime && !got.Timestamp.Equal(want.Timestamp):
		return fmt.Sprintf("time %s, want %s", got.Timestamp, want.Timestamp)
	}
	for i, h := range want.Headers {
		if got.Headers[i].Key != h.Key || !same(got.Headers[i].Value, h.Value) {
			return fmt.Sprintf("header %d %q: %q, want %q: %q", i, got.Headers[i].Key, got.Headers[i].Value, h.Key, h.Value)
		}
	}
	return ""
}
