package sandbox

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// faultSpec says what one kind of fault takes and means, for the parser and
// for --fault help.
type faultSpec struct {
	kind    FaultKind
	value   string // the parameter that the value behind '=' sets; "" for none
	other   string // a second one, tried when the value does not parse as the first
	params  string // names of all it takes, space-separated
	help    string
	example string
}

func (k *faultSpec) takes(name string) bool {
	for p := range strings.FieldsSeq(k.params) {
		if p == name {
			return true
		}
	}
	return false
}

var faultKinds = []faultSpec{
	{FaultRefuse, "times", "", "times", "connections are closed as soon as they are accepted: the first N, or all", "refuse=3"},
	{FaultHTTP, "code", "", "code topic times every share body message location retry-after read", "this HTTP answer in place of the stream; body is json, html, jetty (Jetty's JSON error page) or empty; read=BYTES takes that much of the body first", "http=429,body=html,times=3"},
	{FaultReport, "code", "", "code topic times after every share contains count message stored", "records draw a report of this error_code; with stored=true they are in Kafka all the same", "report=429,share=0.5"},
	{FaultExpire, "after", "age", "topic times after age grace stored", "behind N records or at an age, records draw 408 (stored=false: and are not in Kafka), and after grace the response ends", "expire=1000,grace=500ms"},
	{FaultTerminal, "after", "age", "topic times after age message", "behind N records: the terminal 400, the last chunk, close, nothing more read", "terminal=1000"},
	{FaultReset, "after", "age", "topic times after age lost", "behind N records (or at an age): connection reset; lost=K keeps the last K reports back, lost=all those not yet written", "reset=500,lost=all,times=2"},
	{FaultCut, "after", "age", "topic times after age lost mid", "behind N records or at an age: connection closed without a last chunk; mid=true inside a chunk", "cut=5s"},
	{FaultEnd, "after", "age", "topic times after age", "behind N records or at an age: the response ends properly, the request is not read on", "end=100"},
	{FaultStall, "after", "", "topic times after for", "behind N reports none is written for a while (for=0: until faults change), the connection stays open", "stall=100,for=10s"},
	{FaultSlow, "for", "", "topic times for partition every share contains", "reports come so much later, those of one partition or of chosen records only", "slow=200ms,partition=0"},
	{FaultUnknown, "topic", "", "topic times", "the topic is not there: each record blocks its stream for --max-block, then draws 40401", "unknown-topic=logs"},
	{FaultFraming, "chunks", "", "chunks topic times pretty extra", "how reports are cut into HTTP chunks: two, joined, merged, byte or odd; pretty=true writes them over several lines, extra=true adds unknown members", "framing=odd,pretty=true"},
	{FaultGarbage, "after", "", "topic times after message", "the report behind the N-th is not JSON", "garbage=10"},
	{FaultAuth, "code", "", "code times after age for share", "right credentials draw 401 or 403 all the same: the first N requests, for a while, or a share of them (a fresh key, not yet known everywhere); behind N requests or from an age on (a revoked one). Open streams go on", "auth=401,for=10s,share=0.5"},
	{FaultToken, "code", "", "code times retry-after", "the token endpoints answer with this HTTP status", "token=503,times=2"},
	{FaultTokenQuota, "retry-after", "", "retry-after times", "the token endpoints answer 429: the organization's quota is used up; retry-after is 60 when not given", "token-quota=5,times=1"},
	{FaultRateHeaders, "retry-after", "", "retry-after", "answers with HTTP 429 carry Retry-After (1 when not given), and they and those with 2xx X-RateLimit-Limit, -Remaining and -Reset; the real data plane sends none of them", "rate-headers=2"},
	{FaultShared, "rate", "", "rate age for", "other clients of the cluster take so many records per second of the limit, from an age on and for a while", "shared=667,age=10s"},
	{FaultBuffering, "times", "", "times topic", "a proxy in front reads a stream's body to its end before any of it is handled, and gives the answer in one piece; the first N streams, or all", "buffering"},
	{FaultV2, "flavour", "", "flavour", "the v2 API in the manner of this server: confluent (the default; v3 as well), pandaproxy (Redpanda), karapace (Aiven, Instaclustr) or strimzi; not undone by later faults", "v2=pandaproxy"},
	{FaultSlowRead, "rate", "", "rate topic times", "bodies are read at so many bytes per second", "slow-read=2000"},
}

func faultKind(kind FaultKind) *faultSpec {
	for i := range faultKinds {
		if faultKinds[i].kind == kind {
			return &faultKinds[i]
		}
	}
	return nil
}

func faultNames() string {
	var names []string
	for _, k := range faultKinds {
		names = append(names, string(k.kind))
	}
	return strings.Join(names, ", ")
}

// faultParam reads one parameter into a Fault, says whether it is set, and
// what it means.
type faultParam struct {
	name  string
	parse func(f *Fault, v string) error
	set   func(f *Fault) bool
	help  string
}

func intParam(name, help string, at func(*Fault) *int) faultParam {
	return faultParam{name, func(f *Fault, v string) (err error) {
		*at(f), err = strconv.Atoi(v)
		return err
	}, func(f *Fault) bool { return *at(f) != 0 }, help}
}

func textParam(name, help string, at func(*Fault) *string) faultParam {
	return faultParam{name, func(f *Fault, v string) error {
		*at(f) = v
		return nil
	}, func(f *Fault) bool { return *at(f) != "" }, help}
}

func timeParam(name, help string, at func(*Fault) *time.Duration) faultParam {
	return faultParam{name, func(f *Fault, v string) (err error) {
		*at(f), err = time.ParseDuration(v)
		return err
	}, func(f *Fault) bool { return *at(f) != 0 }, help}
}

func boolParam(name, help string, at func(*Fault) *bool) faultParam {
	return faultParam{name, func(f *Fault, v string) (err error) {
		*at(f), err = strconv.ParseBool(v)
		return err
	}, func(f *Fault) bool { return *at(f) }, help}
}

var faultParams = []faultParam{
	textParam("topic", "only streams to this topic", func(f *Fault) *string { return &f.Topic }),
	intParam("times", "only the first N streams it applies to (0 = all)", func(f *Fault) *int { return &f.Times }),
	intParam("after", "behind the N-th record of the stream", func(f *Fault) *int { return &f.After }),
	timeParam("age", "at this age of the stream (auth, shared: so long after the fault was set)", func(f *Fault) *time.Duration { return &f.Age }),
	intParam("every", "every N-th record (http: stream)", func(f *Fault) *int { return &f.Every }),
	{"share", func(f *Fault, v string) (err error) {
		f.Share, err = strconv.ParseFloat(v, 64)
		return err
	}, func(f *Fault) bool { return f.Share != 0 }, "this share of the records (http: streams), 0..1"},
	textParam("contains", "only records whose JSON source holds this text", func(f *Fault) *string { return &f.Contains }),
	intParam("count", "at most N records in all (0 = no bound)", func(f *Fault) *int { return &f.Count }),
	{"partition", func(f *Fault, v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		f.Partition, f.HasPartition = int32(n), true
		return err
	}, func(f *Fault) bool { return f.HasPartition }, "only records of this partition"},
	intParam("code", "HTTP status or error_code", func(f *Fault) *int { return &f.Code }),
	textParam("message", "text in place of the usual one", func(f *Fault) *string { return &f.Message }),
	textParam("body", "json, html, jetty or empty", func(f *Fault) *string { return &f.Body }),
	textParam("location", "Location header", func(f *Fault) *string { return &f.Location }),
	textParam("retry-after", "Retry-After header", func(f *Fault) *string { return &f.RetryAfter }),
	intParam("read", "bytes of the body to read before the answer", func(f *Fault) *int { return &f.ReadBytes }),
	boolParam("stored", "whether the record is in Kafka all the same", func(f *Fault) *bool { return &f.Stored }),
	{"lost", func(f *Fault, v string) (err error) {
		if v == "all" {
			f.Lost = -1
			return nil
		}
		f.Lost, err = strconv.Atoi(v)
		return err
	}, func(f *Fault) bool { return f.Lost != 0 }, "how many of the last reports are not written, or all not yet written"},
	boolParam("mid", "end inside a chunk", func(f *Fault) *bool { return &f.Mid }),
	timeParam("for", "how long", func(f *Fault) *time.Duration { return &f.For }),
	timeParam("grace", "from the first 408 to the end of the response", func(f *Fault) *time.Duration { return &f.Grace }),
	textParam("chunks", "two, joined, merged, byte or odd", func(f *Fault) *string { return &f.Chunks }),
	boolParam("pretty", "reports over several lines", func(f *Fault) *bool { return &f.Pretty }),
	boolParam("extra", "reports with unknown members", func(f *Fault) *bool { return &f.Extra }),
	textParam("flavour", "confluent, pandaproxy, karapace or strimzi", func(f *Fault) *string { return &f.Flavour }),
	intParam("rate", "bytes or records per second", func(f *Fault) *int { return &f.Rate }),
}

// ParseFault reads one fault: NAME[=VALUE][,PARAMETER=VALUE]…, as in
// "reset=500,lost=all,times=2". What the first value sets depends on the kind;
// a comma inside a value is written "\,".
func ParseFault(s string) (Fault, error) {
	parts := splitParams(s)
	name, value, hasValue := strings.Cut(parts[0], "=")
	k := faultKind(FaultKind(name))
	if k == nil {
		return Fault{}, fmt.Errorf("fault %q: unknown; known are %s", name, faultNames())
	}
	f := Fault{Kind: k.kind, Stored: k.kind == FaultExpire}
	if hasValue {
		if k.value == "" {
			return f, fmt.Errorf("fault %q takes no value", name)
		}
		err := setParam(&f, k, k.value, value)
		if err != nil && k.other != "" {
			err = setParam(&f, k, k.other, value)
		}
		if err != nil {
			return f, fmt.Errorf("fault %q: %w", s, err)
		}
	}
	for _, part := range parts[1:] {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return f, fmt.Errorf("fault %q: %q is not PARAMETER=VALUE", s, part)
		}
		if err := setParam(&f, k, name, value); err != nil {
			return f, fmt.Errorf("fault %q: %w", s, err)
		}
	}
	if err := f.validate(); err != nil {
		return f, fmt.Errorf("fault %q: %w", s, err)
	}
	return f, nil
}

func setParam(f *Fault, k *faultSpec, name, value string) error {
	if !k.takes(name) {
		return fmt.Errorf("%s takes no %q; it takes %s", k.kind, name, strings.Join(strings.Fields(k.params), ", "))
	}
	for _, p := range faultParams {
		if p.name == name {
			if err := p.parse(f, value); err != nil {
				return fmt.Errorf("%s=%s: %w", name, value, err)
			}
			return nil
		}
	}
	panic("BUG: fault parameter " + name + " has no parser")
}

// splitParams cuts at commas that no backslash precedes.
func splitParams(s string) []string {
	var parts []string
	var cur strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == ',' || s[i+1] == '\\'):
			i++
			cur.WriteByte(s[i])
		case s[i] == ',':
			parts = append(parts, cur.String())
			cur.Reset()
		default:
			cur.WriteByte(s[i])
		}
	}
	return append(parts, cur.String())
}

// FaultHelp writes what every fault means, with an example of each.
func FaultHelp(w io.Writer) {
	fmt.Fprintln(w, "--fault NAME[=VALUE][,PARAMETER=VALUE]...   (may be given several times)")
	fmt.Fprintln(w)
	for _, k := range faultKinds {
		fmt.Fprintf(w, "%s\n    %s.\n    parameters: %s\n    example:    --fault %s\n", k.kind, k.help, strings.Join(strings.Fields(k.params), ", "), k.example)
	}
	fmt.Fprintln(w, "\nParameters:")
	for _, p := range faultParams {
		fmt.Fprintf(w, "    %-12s %s\n", p.name, p.help)
	}
}

// faultFlag is Faults as a repeatable command-line flag.
type faultFlag struct{ fs *Faults }

func (v faultFlag) String() string { return "" }
func (v faultFlag) Type() string   { return "name=value" }

func (v faultFlag) Set(s string) error {
	if s == "help" {
		return ErrFaultHelp
	}
	f, err := ParseFault(s)
	if err != nil {
		return err
	}
	*v.fs = append(*v.fs, f)
	return nil
}
