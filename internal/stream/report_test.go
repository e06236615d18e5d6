package stream

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// parsed is what the tests compare of a report.
type parsed struct {
	code      int
	partition int32
	offset    int64
	message   string
}

// feed runs pieces through one parser, as reading.reports does.
func feed(fast bool, pieces ...[]byte) (out []parsed, err error) {
	var p parser
	for _, data := range pieces {
		for len(data) > 0 {
			if fast {
				n, rest := p.successes(data)
				for range n { // their numbers are not told
					out = append(out, parsed{code: 200})
				}
				data = rest
			}
			rest, ok, err := p.next(data)
			if err != nil {
				return out, err
			}
			if !ok {
				break
			}
			out = append(out, parsed{p.report.ErrorCode, p.report.Partition, p.report.Offset, string(p.report.Message)})
			data = rest
		}
	}
	if p.pending() {
		return out, errCut
	}
	return out, nil
}

// split cuts data at the given places.
func split(data []byte, at ...int) (pieces [][]byte) {
	from := 0
	for _, to := range at {
		pieces = append(pieces, bytes.Clone(data[from:to]))
		from = to
	}
	return append(pieces, bytes.Clone(data[from:]))
}

const (
	reportBoth  = `{"error_code":200,"cluster_id":"lkc-x","topic_name":"t","partition_id":3,"offset":67217,"timestamp":"2021-12-13T16:29:10.951Z","key":{"type":"BINARY","size":10},"value":{"type":"JSON","size":26}}`
	reportWhole = `{"error_code":200,"cluster_id":"lkc-x","topic_name":"t","partition_id":0,"offset":67218,"timestamp":"2021-12-13T16:29:10Z","value":{"type":"STRING","size":26}}`
	reportNulls = `{"error_code":200,"cluster_id":"lkc-x","topic_name":"t","partition_id":2,"offset":5,"timestamp":"2021-12-13T16:29:10.000Z","key":{"type":"STRING","size":-1},"value":{"type":"JSON","size":-1}}`
	reportBare  = `{"error_code":200,"cluster_id":"lkc-x","topic_name":"t","partition_id":1,"offset":0}`
)

func TestReports(t *testing.T) {
	f := func(name, in string, want ...parsed) {
		t.Helper()
		whole, err := feed(false, []byte(in))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if fmt.Sprint(whole) != fmt.Sprint(want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, whole, want)
		}
		for i := 1; i < len(in); i++ { // cut at every byte
			if got, err := feed(false, split([]byte(in), i)...); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s, cut at %d: %+v, %v", name, i, got, err)
			}
			if got, err := feed(true, split([]byte(in), i)...); err != nil || len(got) != len(want) {
				t.Errorf("%s, fast, cut at %d: %+v, %v", name, i, got, err)
			}
		}
		single := make([]int, len(in)-1)
		for i := range single {
			single[i] = i + 1
		}
		if got, err := feed(true, split([]byte(in), single...)...); err != nil || len(got) != len(want) {
			t.Errorf("%s, byte by byte: %+v, %v", name, got, err)
		}
	}
	both, whole := parsed{200, 3, 67217, ""}, parsed{200, 0, 67218, ""}
	nulls, bare := parsed{200, 2, 5, ""}, parsed{200, 1, 0, ""}
	f("one", reportBoth+"\r\n", both)
	f("the same twice", reportBoth+"\r\n"+reportBoth+"\r\n", both, both)
	f("two shapes in turn", strings.Repeat(reportBoth+"\r\n"+reportWhole+"\r\n", 3), both, whole, both, whole, both, whole)
	f("three shapes in turn", strings.Repeat(reportBoth+"\r\n"+reportWhole+"\r\n"+reportBare+"\r\n", 2), both, whole, bare, both, whole, bare)
	f("fraction of 0 and 3 digits", strings.Replace(reportBoth, ".951Z", "Z", 1)+reportBoth+strings.Replace(reportBoth, ".951Z", "Z", 1), both, both, both)
	f("null key and value", reportNulls+"\r\n"+reportNulls+"\r\n", nulls, nulls)
	f("no time", reportBare+"\r\n"+reportBare, bare, bare)
	f("merged without a separator", reportBoth+reportBoth+reportWhole, both, both, whole)
	f("space in front", " \t\r\n"+reportBare+"\n\n\n", bare)
	f("sizes grow", reportBoth+strings.Replace(reportBoth, `"size":26`, `"size":26000`, 1), both, both)
	f("numbers grow", reportBoth+strings.Replace(reportBoth, "67217", "9223372036854775807", 1), both, parsed{200, 3, 9223372036854775807, ""})
	f("minus one", reportBoth+strings.Replace(strings.Replace(reportBoth, "67217", "-1", 1), `"partition_id":3`, `"partition_id":-1`, 1), both, parsed{200, -1, -1, ""})
	f("pretty", "{\n  \"error_code\" : 200,\n  \"cluster_id\" : \"lkc-x\",\n  \"topic_name\" : \"t\",\n  \"partition_id\" : 3,\n  \"offset\" : 67217,\n  \"value\" : {\n    \"type\" : \"JSON\",\n    \"size\" : 26\n  }\n}\r\n", both)
	f("unknown members", `{"error_code":200,"new":{"a":[1,{"b":"]}"}]},"partition_id":3,"offset":67217}`, both)
	f("unknown member behind", strings.TrimSuffix(reportBoth, "}")+`,"x":{"y":[]}}`+reportBoth, both, both)
	f("error", `{"error_code":413,"message":"too large"}`+"\r\n", parsed{413, -1, -1, "too large"})
	f("error between", reportBoth+"\r\n"+`{"error_code":429,"message":"slow"}`+"\r\n"+reportBoth, both, parsed{429, -1, -1, "slow"}, both)
	f("escapes and braces", `{"error_code":400,"message":"a \"}{\\\" \\ [ \u007d é \n"}`+reportBare, parsed{400, -1, -1, "a \"}{\\\" \\ [ } é \n"}, bare)
	f("marks in a string", `{"error_code":200,"x":",\"offset\":1","cluster_id":"a,\"partition_id\":7","partition_id":1,"offset":0}`, bare)
	f("another topic", reportBoth+strings.Replace(reportBoth, `"t"`, `"u"`, 1), both, both)
	f("no code", `{"message":"x"}`+reportBare, parsed{0, -1, -1, "delivery report has no error_code"}, bare)
	f("nulls", `{"error_code":200,"partition_id":null,"offset":null,"message":null}`, parsed{200, -1, -1, ""})
	f("empty", `{}`, parsed{0, -1, -1, "delivery report has no error_code"})
}

// A balanced object that is not JSON is one report, of unknown meaning: what
// comes behind it still belongs to the next record.
func TestReportsUnreadable(t *testing.T) {
	f := func(in string) {
		t.Helper()
		got, err := feed(false, []byte(in+reportBare))
		if err != nil || len(got) != 2 || got[0].code != 0 || got[0].message == "" || got[1].code != 200 {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	f(`{"error_code":200,,}`)
	f(`{error_code:200}`)
	f(`{"error_code":"200"}`)
	f(`{"error_code":200.5}`)
	f(`{"error_code":[200]}`)
	f(`{"error_code":200 "x":1}`)
	f(`{]`)
	f(`{"a":tru}`)
	f(`{"error_code":99999999999999999999}`)
}

func TestReportsRefused(t *testing.T) {
	f := func(name, in string, want error) {
		t.Helper()
		if _, err := feed(false, []byte(in)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	f("HTML", "<html>", errNotReport)
	f("text", "OK", errNotReport)
	f("array", "[{}]", errNotReport)
	f("number", "200", errNotReport)
	f("rubbish between", reportBare+","+reportBare, errNotReport)
	f("closing brace", reportBare+"}", errNotReport)
	f("half", reportBare+`{"error`, errCut)
	f("half string", `{"error}`, errCut)

	huge := []byte(`{"message":"` + strings.Repeat("x", maxReport))
	f("without an end", string(huge), errLongReport)
	if _, err := feed(false, split(huge, 100, 5000, maxReport/2)...); !errors.Is(err, errLongReport) {
		t.Errorf("in pieces: %v", err)
	}
	if _, err := feed(false, append(huge, `"}`...)); !errors.Is(err, errLongReport) {
		t.Errorf("too long though whole: %v", err)
	}
}

// A healthy stream's reports cost no allocation, batched or cut by reads.
func TestReportsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	f := func(name string, pieces ...[]byte) {
		t.Helper()
		var p parser
		run := func() {
			for _, data := range pieces {
				for len(data) > 0 {
					_, rest := p.successes(data)
					data = rest
					rest, ok, err := p.next(data)
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						break
					}
					data = rest
				}
			}
		}
		run()
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s: %g allocations", name, n)
		}
	}
	f("one shape", []byte(strings.Repeat(reportBoth+"\r\n", 100)))
	f("two shapes", []byte(strings.Repeat(reportBoth+"\r\n"+reportWhole+"\r\n", 50)))
	f("object and line end apart", []byte(reportBoth), []byte("\r\n"), []byte(reportBoth), []byte("\r\n"))
}
