package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/produce-agent/produce-agent/internal/record"
)

func TestLines(t *testing.T) {
	f := func(in, want string, set ...func(*lineSet)) {
		t.Helper()
		for _, sizes := range [][]byte{nil, {0}, {1, 2}} {
			cfg := lineConfig()
			for _, s := range set {
				s(&cfg)
			}
			if got := show(read(t, cfg, &cutter{data: []byte(in), sizes: sizes})); got != want {
				t.Errorf("%q in pieces of %v:\n got %s\nwant %s", in, sizes, got, want)
			}
		}
	}
	stripCR := func(c *lineSet) { c.StripCR = true }
	skipEmpty := func(c *lineSet) { c.SkipEmpty = true }
	count := func(n int64) func(*lineSet) { return func(c *lineSet) { c.Count = n } }

	f("", "")
	f("a\nb\n", `[0+2 "a"][2+2 "b"]`)
	f("a\nb", `[0+2 "a"][2+1 "b"]`)
	f("a\r\nb\r\n", `[0+3 "a\r"][3+3 "b\r"]`)
	f("a\r\nb\r", `[0+3 "a"][3+2 "b"]`, stripCR)
	f("a\r\r\n", `[0+4 "a\r"]`, stripCR)
	f("a\rb\n", `[0+4 "a\rb"]`, stripCR)
	f("\n", `[0+1 ""]`)
	f("\n\na\n\n", `[0+1 ""][1+1 ""][2+2 "a"][4+1 ""]`)
	f("\n\na\n\n", `[2+2 "a"]`, skipEmpty)
	f("\r\na\n", `[0+2 "\r"][2+2 "a"]`, skipEmpty)
	f("\r\na\n", `[2+2 "a"]`, skipEmpty, stripCR)
	f("\n", "", skipEmpty)
	f("a\x00b\n\x00\n", `[0+4 "a\x00b"][4+2 "\x00"]`)
	f("\xff\xfe\n", `[0+3 "\xff\xfe"]`)
	f("é\u2028\n", `[0+6 "é\u2028"]`)
	f("\xef\xbb\xbfa\n", `[0+5 "\ufeffa"]`)
	f("a\nb\nc\n", `[0+2 "a"][2+2 "b"]`, count(2))
	f("a\nb", `[0+2 "a"][2+1 "b"]`, count(2))
	f("a\n\nb\nc\n", `[0+2 "a"][3+2 "b"]`, count(2), skipEmpty)
	f("a\n", `[0+2 "a"]`, count(5))
	f("NULL\nNULLx\n", `[0+5 null][5+6 "NULLx"]`, func(c *lineSet) {
		null := "NULL"
		c.Encoder.NullValue = &null
	})
	f(`{"a":1}`+"\n{\n\n", `[0+8 "{\"a\":1}"][8+2 !invalid_json "{"][10+1 !invalid_json ""]`, func(c *lineSet) { c.Encoder.ValueType = record.JSON })
}

// A record may take MaxRecordBytes as it is read, and as it is encoded.
func TestLinesAtLimit(t *testing.T) {
	const limit = 1000
	f := func(in, want string) {
		t.Helper()
		cfg := lineConfig()
		cfg.MaxRecordBytes = limit
		var kinds []string
		for _, g := range read(t, cfg, strings.NewReader(in)) {
			kinds = append(kinds, fmt.Sprintf("%d%s", len(g.payload), g.reason))
		}
		if got := strings.Join(kinds, " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	envelope := len(`{"value":{"type":"STRING","data":""}}` + "\n")
	fits := limit - envelope
	f(long(fits)+"\na\n", fmt.Sprintf("%d 1", fits))
	f(long(fits), fmt.Sprint(fits))
	f(long(fits+1)+"\na\n", fmt.Sprintf("%dtoo_large 1", fits+1))
	f(long(limit)+"\na", fmt.Sprintf("%dtoo_large 1", limit))
	f(long(limit+1)+"\na\n", fmt.Sprintf("%dtoo_large 1", limit+1))
	f("\xff"+long(limit*3/4)+"\na\n", fmt.Sprintf("%dtoo_large 1", limit*3/4+1))
}

// A line larger than the reader's buffer and the limit goes by: rejected by
// position and length, what follows is whole.
func TestLinesFarAboveLimit(t *testing.T) {
	const limit = 100_000
	f := func(name, in, want string) {
		t.Helper()
		for _, sizes := range [][]byte{nil, {255, 3}} {
			cfg := lineConfig()
			cfg.MaxRecordBytes = limit
			if got := show(read(t, cfg, &cutter{data: []byte(in), sizes: sizes})); got != want {
				t.Errorf("%s in pieces of %v:\n got %.300s\nwant %s", name, sizes, got, want)
			}
		}
	}
	const huge = 3 << 20
	f("first", long(huge)+"\nnext\n", fmt.Sprintf(`[0+%d !too_large][%d+5 "next"]`, huge+1, huge+1))
	f("middle", "a\n"+long(huge)+"\nnext\n", fmt.Sprintf(`[0+2 "a"][2+%d !too_large][%d+5 "next"]`, huge+1, huge+3))
	f("last, no LF", "a\n"+long(huge), fmt.Sprintf(`[0+2 "a"][2+%d !too_large]`, huge))
	f("two", long(huge)+"\n"+long(huge)+"\nb", fmt.Sprintf(`[0+%d !too_large][%d+%d !too_large][%d+1 "b"]`, huge+1, huge+1, huge+1, 2*huge+2))
	for _, n := range []int{readBuffer - 1, readBuffer, readBuffer + 1, 2*readBuffer - 1, 2 * readBuffer, 2*readBuffer + 1} {
		var m []got
		cfg := lineConfig()
		cfg.MaxRecordBytes = limit
		m = read(t, cfg, strings.NewReader(long(n)+"\nnext"))
		if len(m) != 2 || m[0].reason != record.ReasonTooLarge || m[0].pos.Len != int32(n+1) || m[1].payload != "next" || m[1].pos.Offset != int64(n+1) {
			t.Errorf("line of %d bytes: %.300s", n, show(m))
		}
		if m[0].held && m[0].payload != long(n) {
			t.Errorf("line of %d bytes is kept, but not as it was", n)
		}
	}
}

// Between buffer and limit a line is kept whole, however it comes.
func TestLinesAboveBuffer(t *testing.T) {
	in := "a\n" + long(5*readBuffer) + "\n" + long(readBuffer) + "\nb"
	for _, sizes := range [][]byte{nil, {255}} {
		m := read(t, lineConfig(), &cutter{data: []byte(in), sizes: sizes})
		if len(m) != 4 || m[1].payload != long(5*readBuffer) || m[2].payload != long(readBuffer) || m[3].payload != "b" {
			t.Errorf("pieces of %v: %d records", sizes, len(m))
		}
	}
}

// Records of one input follow each other without a gap.
func TestPositionsMeet(t *testing.T) {
	in := "a\r\n\n\xff\n" + long(3<<20) + "\n{\nlast"
	cfg := lineConfig()
	cfg.MaxRecordBytes = 1 << 20
	at := int64(0)
	for _, g := range read(t, cfg, strings.NewReader(in)) {
		if g.pos.Offset != at || g.pos.Source != 3 {
			t.Errorf("a record at %d of source %d, want %d of 3", g.pos.Offset, g.pos.Source, at)
		}
		at += int64(g.pos.Len)
	}
	if at != int64(len(in)) {
		t.Errorf("records take %d bytes of %d", at, len(in))
	}
}

// One Reader takes several inputs: positions start anew, records share batches,
// the count goes over all.
func TestSeveralInputs(t *testing.T) {
	var m memory
	cfg := lineConfig()
	cfg.Count = 3
	cfg.Encoder.RecordIDHeader = "id"
	r := newReader(t, cfg, &m)
	if err := r.Read(strings.NewReader("a\nb"), 0, "x", false); err != nil {
		t.Fatal(err)
	}
	if err := r.Read(strings.NewReader("c\nd\n"), 1, "y", false); !errors.Is(err, ErrCount) {
		t.Fatalf("%v, want ErrCount", err)
	}
	if err := r.Read(iotestFail{}, 2, "z", false); !errors.Is(err, ErrCount) {
		t.Fatalf("a third input is read though enough was: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if len(m.batches) != 1 || len(m.records) != 3 {
		t.Fatalf("batches of %v", m.batches)
	}
	if g := m.records[2]; g.payload != "c" || g.pos != (record.Position{Offset: 0, Len: 2, Source: 1}) {
		t.Errorf("third record %+v", g)
	}
}

type iotestFail struct{}

func (iotestFail) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

// With as many records as asked for, reading ends: the input may never bring
// another one.
func TestCountDoesNotReadOn(t *testing.T) {
	for _, values := range []bool{false, true} {
		cfg := lineConfig()
		cfg.Count, cfg.Values = 1, values
		var m memory
		r := newReader(t, cfg, &m)
		in := io.MultiReader(strings.NewReader(`{"value":{"data":1}}`+"\n"), iotestFail{})
		if err := r.Read(in, 0, "", true); !errors.Is(err, ErrCount) {
			t.Errorf("values %v: %v, want ErrCount", values, err)
		}
		if err := r.Close(); err != nil || m.sent() != 1 {
			t.Errorf("values %v: %d sent, %v", values, m.sent(), err)
		}
	}
}

// An error of the input leaves the whole lines before it delivered. A file's
// cut line is not sent; a pipe's is, nobody can read it again.
func TestReadError(t *testing.T) {
	f := func(live bool, end error, want string) {
		t.Helper()
		var m memory
		r := newReader(t, lineConfig(), &m)
		in := io.MultiReader(strings.NewReader("a\nhalf a li"), failing{end})
		err := r.Read(in, 0, "", live)
		if wantErr := end; errors.Is(end, errStopped) {
			if err != nil {
				t.Errorf("stop: %v", err)
			}
		} else if !errors.Is(err, wantErr) {
			t.Errorf("%v, want %v", err, wantErr)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if got := show(m.records); got != want {
			t.Errorf("live %v, %v: %s, want %s", live, end, got, want)
		}
	}
	disk := errors.New("disk on fire")
	f(false, disk, `[0+2 "a"]`)
	f(false, errStopped, `[0+2 "a"]`)
	f(true, disk, `[0+2 "a"][2+9 "half a li"]`)
	f(true, errStopped, `[0+2 "a"][2+9 "half a li"]`)
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// An error of the sink ends reading with it.
func TestSubmitError(t *testing.T) {
	full := errors.New("no more")
	m := memory{fail: full}
	cfg := lineConfig()
	cfg.Batch.Bytes = 1024
	r := newReader(t, cfg, &m)
	if err := r.Read(strings.NewReader(strings.Repeat(long(100)+"\n", 100)), 0, "", false); !errors.Is(err, full) {
		t.Errorf("%v, want the sink's error", err)
	}
	if err := r.Close(); !errors.Is(err, full) {
		t.Errorf("Close: %v, want the sink's error", err)
	}
}

// Concatenated records, however they are laid out.
func TestValues(t *testing.T) {
	const a, b = `{"value":{"type":"STRING","data":"a"}}`, `{"value":{"type":"JSON","data":{"x":[1,"}"]}}}`
	pretty := "{\n  \"value\": {\n    \"type\": \"STRING\",\n    \"data\": \"\\\"}\"\n  }\n}"
	f := func(in, want string, set ...func(*lineSet)) {
		t.Helper()
		for _, sizes := range [][]byte{nil, {0}, {4, 0, 9}} {
			cfg := lineConfig()
			cfg.Values = true
			for _, s := range set {
				s(&cfg)
			}
			var parts []string
			for _, g := range read(t, cfg, &cutter{data: []byte(in), sizes: sizes}) {
				switch source := ""; {
				case g.reason != "":
					if g.held {
						source = " " + g.payload
					}
					parts = append(parts, fmt.Sprintf("%d+%d!%s%s", g.pos.Offset, g.pos.Len, g.reason, source))
				default:
					parts = append(parts, fmt.Sprintf("%d+%d", g.pos.Offset, g.pos.Len))
				}
			}
			if got := strings.Join(parts, "; "); got != want {
				t.Errorf("%q in pieces of %v:\n got %s\nwant %s", in, sizes, got, want)
			}
		}
	}
	la, lb, lp := len(a), len(b), len(pretty)
	f("", "")
	f(" \n\t ", "")
	f(a, fmt.Sprintf("0+%d", la))
	f(a+b, fmt.Sprintf("0+%d; %d+%d", la, la, lb))
	f(a+" "+b+"\n", fmt.Sprintf("0+%d; %d+%d", la, la+1, lb))
	f("\xef\xbb\xbf"+a+"\r\n"+pretty+a, fmt.Sprintf("3+%d; %d+%d; %d+%d", la, la+5, lp, la+5+lp, la))
	f("rubbish {}\n"+a, fmt.Sprintf("0+11!invalid_record rubbish {}; 11+%d", la))
	f("rubbish", "0+7!invalid_json rubbish")
	f("["+a+"]"+b+" null "+a, fmt.Sprintf("0+%d!invalid_record [%s]; %d+%d; %d+4!invalid_record null; %d+%d",
		la+2, a, la+2, lb, la+lb+3, la+lb+8, la)) // what is no record takes none with it
	f(`{"value":"x"}`+a, fmt.Sprintf(`0+13!invalid_record {"value":"x"}; 13+%d`, la))
	f(`{"nosuch":1}`+"\n"+a, fmt.Sprintf(`0+12!invalid_record {"nosuch":1}; 13+%d`, la))
	f(`{"value":{"data":01}}`+a, fmt.Sprintf(`0+21!invalid_json {"value":{"data":01}}; 21+%d`, la))
	f(a+`{"value":{"da`, fmt.Sprintf(`0+%d; %d+13!invalid_record {"value":{"da`, la, la))
	f("{\"value\":\"two\nlines\"}\n"+a, fmt.Sprintf("0+14!invalid_record {\"value\":\"two; 14+8!invalid_record lines\"}; 22+%d", la))
	f(a+a+a, fmt.Sprintf("0+%d; %d+%d", la, la, la), func(c *lineSet) { c.Count = 2 })
	big := `{"value":{"type":"STRING","data":"` + long(2000) + `"}}`
	limit := func(c *lineSet) { c.MaxRecordBytes = 1000 }
	f(a+big+b, fmt.Sprintf("0+%d; %d+%d!too_large %s; %d+%d", la, la, len(big), big, la+len(big), lb), limit)
	huge := `{"value":{"type":"JSON","data":["` + long(1<<20) + "\",\n\"{\"]}}"
	f(a+huge+b, fmt.Sprintf("0+%d; %d+%d!too_large; %d+%d", la, la, len(huge), la+len(huge), lb), limit)
	f(a+huge[:len(huge)-1], fmt.Sprintf("0+%d; %d+%d!too_large", la, la, len(huge)-1), limit)
	f(long(1<<20)+a+"\n"+b, fmt.Sprintf("0+%d!too_large; %d+%d", 1<<20+la+1, 1<<20+la+1, lb), limit)
	f("x"+huge, fmt.Sprintf(`0+%d!too_large; %d+6!invalid_record "{"]}}`, len(huge)-5, len(huge)-5), limit)
}

// What is sent of a values input is the record as it was.
func TestValuesBytes(t *testing.T) {
	in := " {\"value\" : {\"data\":1.10 }}\n{\"key\":{\"data\":\"\\u00e9\"},\"value\":{\"data\":null}}"
	cfg := lineConfig()
	cfg.Values = true
	var bodies bytes.Buffer
	r := newReader(t, cfg, sinkFunc(func(b *record.Batch) { bodies.Write(b.Body()) }))
	if err := errors.Join(r.Read(strings.NewReader(in), 0, "", false), r.Close()); err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(in) + "\n"; bodies.String() != want {
		t.Errorf("sent %q, want %q", bodies.String(), want)
	}
}

// sinkFunc looks at batches and takes them.
type sinkFunc func(b *record.Batch)

func (f sinkFunc) Submit(b *record.Batch) error {
	f(b)
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func (sinkFunc) Reject(int32, string, record.Position, []byte, *record.InvalidError) error {
	return nil
}

// Reading, cutting, encoding and gathering allocate nothing a record.
func TestReaderAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := func(name, line string, set func(*lineSet)) {
		t.Helper()
		cfg := lineConfig()
		set(&cfg)
		r := newReader(t, cfg, sinkFunc(func(*record.Batch) {}))
		const lines = 10_000
		input := []byte(strings.Repeat(line+"\n", lines))
		var in bytes.Reader
		run := func() {
			in.Reset(input)
			if err := r.Read(&in, 0, "id", false); err != nil {
				t.Fatal(err)
			}
		}
		run()
		// The id's base and what the batch pool gives back to the collector are
		// per input; a tenth of an allocation per thousand records allows them.
		if per := testing.AllocsPerRun(5, run) / lines; per > 0.0005 {
			t.Errorf("%s: %.4f allocations a record", name, per)
		}
	}
	f("auto", long(200), func(*lineSet) {})
	f("binary", "\xff"+long(200), func(*lineSet) {})
	f("json with key and id", `{"user":"u1","ts":1700000000,"text":"`+long(150)+`"}`, func(c *lineSet) {
		c.Encoder.ValueType, c.Encoder.KeyField, c.Encoder.TimestampField, c.Encoder.RecordIDHeader = record.JSON, "user", "ts", "id"
	})
	f("records", `{"value":{"type":"STRING","data":"`+long(200)+`"}}`, func(c *lineSet) { c.Values = true })
}
