package sandbox

import (
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// karapaceV2 is Karapace, which Aiven and Instaclustr run as their REST Proxy.
//
// Source: karapace kafka_rest_apis/__init__.py, rapu.py, utils.py. There is no
// schema registry behind it here.
var karapaceV2 = &flavour{
	name: V2Karapace, server: "Karapace/5.0.1", paths: true, most: 1 << 20, // http_request_max_size
	headers: []header{{"Access-Control-Allow-Origin", "*"}},
	routes: func() []route {
		return []route{
			getRoute("/", func(*exchange) *answer { return jsonAnswer(200, struct{}{}) }),
			getRoute("/_health", func(*exchange) *answer {
				return jsonAnswer(200, map[string]any{"karapace_version": "5.0.1", "process_uptime_sec": 1})
			}),
		}
	},
	status: func(_ *request, status int) *answer {
		switch status {
		case 404, 405: // aiohttp's own
			return textAnswer(status, fmt.Sprintf("%d: %s", status, statusText(status)))
		case 413:
			return restError(413, 413, "HTTP Request Entity Too Large")
		case 401:
			return jsonAnswer(401, map[string]string{"message": "Unauthorized"})
		}
		return karapaceError(status, status, "HTTP %d %s", status, statusText(status))
	},
	refuse: func(status, code int, text string) *answer { return karapaceError(status, code, "%s", text) },
	busy: func(*request) *answer { // it has no limiter: this is the one before it
		return restError(429, 429, "HTTP 429 Too Many Requests")
	},
	head:   func(*v2) *answer { return nil },
	decode: (*v2).karapaceDecode,
	send:   (*v2).karapaceSend,
	code:   karapaceCode,
	result: (*v2).karapaceResult,
}

const karapaceType = "application/vnd.kafka.json.v2+json"

func karapaceError(status, code int, format string, args ...any) *answer {
	a := restError(status, code, format, args...)
	a.headers[0].value = karapaceType
	return a
}

func textAnswer(status int, text string) *answer {
	return &answer{status: status, headers: []header{{"Content-Type", "text/plain; charset=utf-8"}}, body: []byte(text)}
}

var (
	karapaceContent = regexp.MustCompile(`application/((vnd\.kafka(\.(avro|json|protobuf|binary|jsonschema))?(\.v[12])?\+json)|(json|octet-stream))`)
	karapaceAccept  = regexp.MustCompile(`(application|\*)/((vnd\.kafka(\.(avro|json|protobuf|binary|jsonschema))?(\.v[12])?\+json)|(json|\*))`)
)

// karapaceDecode looks at the body before the media types, and at the topic
// before what the body says.
func (v *v2) karapaceDecode() *answer {
	if len(v.st.buf) == 0 {
		return textAnswer(400, "Missing request JSON body")
	}
	c, _, err := oneValue(v.st.buf)
	if err != nil {
		return textAnswer(400, "Invalid request JSON body")
	}
	content := "application/json"
	if h := v.x.req.get("Content-Type"); h != "" {
		content = mediaType(h)
	}
	m := karapaceContent.FindStringSubmatch(content)
	if m == nil {
		return v.f.status(nil, 415)
	}
	if h := v.x.req.get("Accept"); h != "" && !karapaceAccept.MatchString(mediaType(h)) {
		return v.f.status(nil, 406)
	}
	v.format, _ = embedded(embedPrefix + m[4] + embedSuffix)
	if m[4] == "" {
		v.format = formatBinary
	}
	n := v.count()
	if n == 0 {
		return karapaceError(404, 40401, "Topic %s not found", v.st.topic)
	}
	if !v.pathPartition() {
		return karapaceError(404, 404, "Partition %s not found", v.path)
	}
	if v.hasPath && (v.partition < 0 || v.partition >= n) {
		return karapaceError(404, 40402, "Partition %s not found", v.path)
	}
	return v.karapaceBody(c)
}

func internalError() *answer { return restError(500, 500, "Internal server error") }

func invalidFormat() *answer { return karapaceError(422, 422, "Invalid request format") }

func (v *v2) karapaceBody(c *cursor) *answer {
	if c.peek() != '{' {
		return internalError()
	}
	members := map[string][]byte{}
	for ok := c.open(); ok; ok = c.more() {
		name := string(c.name())
		members[name] = c.value()
	}
	for name, raw := range members {
		switch name {
		case "key_schema_id", "value_schema_id":
			if _, a := karapaceInt(raw, name); a != nil {
				return a
			}
		case "records", "key_schema", "value_schema":
		default:
			return invalidFormat()
		}
	}
	records := members["records"]
	if records == nil || falsy(records) {
		return invalidFormat()
	}
	if records[0] != '[' {
		return karapaceError(400, 400, "'records' must be an array")
	}
	v.keySchemaID, v.valueSchemaID = members["key_schema_id"], members["value_schema_id"]
	rc := cursor{b: records}
	var raws []karapaceRecord
	for ok := rc.open(); ok; ok = rc.more() {
		r, a := readKarapace(rc.value())
		if a != nil {
			return a
		}
		raws = append(raws, r)
	}
	if v.format > formatString {
		if a := v.karapaceSchema(members, raws); a != nil {
			return a
		}
	}
	for i := range raws {
		if a := v.karapaceRecord(&raws[i]); a != nil {
			return a
		}
	}
	return nil
}

// karapaceRecord is one record as written; nil is a member that is missing.
type karapaceRecord struct{ src, key, value, partition []byte }

func readKarapace(src []byte) (r karapaceRecord, a *answer) {
	r.src = src
	if src[0] != '{' {
		return r, karapaceError(400, 400, "Produce record must be an object")
	}
	c := cursor{b: src}
	unknown := false
	for ok := c.open(); ok; ok = c.more() {
		switch name := string(c.name()); name {
		case "key":
			r.key = c.value()
		case "value":
			r.value = c.value()
		case "partition":
			r.partition = c.value()
		default:
			c.value()
			unknown = true
		}
	}
	if _, a := karapaceInt(r.partition, "partition"); a != nil {
		return r, a
	}
	if unknown {
		return r, invalidFormat()
	}
	return r, nil
}

// karapaceSchema is what is left of Avro, JSON Schema and Protobuf without a
// registry: records without keys and values.
func (v *v2) karapaceSchema(members map[string][]byte, rs []karapaceRecord) *answer {
	for _, m := range []struct {
		name string
		code int
		of   func(r *karapaceRecord) []byte
	}{
		{"key", 42201, func(r *karapaceRecord) []byte { return r.key }},
		{"value", 42202, func(r *karapaceRecord) []byte { return r.value }},
	} {
		populated := false
		for i := range rs {
			if raw := m.of(&rs[i]); raw != nil && raw[0] != 'n' {
				populated = true
			}
		}
		if !populated {
			continue
		}
		id, schema := members[m.name+"_schema_id"], members[m.name+"_schema"]
		if (id == nil || falsy(id)) && (schema == nil || schema[0] != '"') {
			return karapaceError(422, m.code, "Request includes %ss and uses a format that requires schemas but does not include the %s_schema or %s_schema_id fields", m.name, m.name, m.name)
		}
		return karapaceError(408, 40801, "Error when registering schema.format = %s, subject = %s-%s", v.format, v.st.topic, m.name)
	}
	return nil
}

func (v *v2) karapaceRecord(r *karapaceRecord) *answer {
	rec := kgo.Record{Partition: -1}
	var a *answer
	if r.key != nil && r.key[0] != 'n' {
		if rec.Key, a = v.karapaceData(r.key); a != nil {
			return a
		}
	}
	if rec.Value, a = v.karapaceData(r.value); a != nil {
		return a
	}
	switch {
	case r.partition != nil && r.partition[0] != 'n':
		n, _ := karapaceInt(r.partition, "partition")
		rec.Partition = int32(max(min(n, noPartition), math.MinInt32))
		if rec.Partition < 0 {
			rec.Partition = noPartition
		}
	case r.partition == nil && v.hasPath: // an explicit null is no partition
		rec.Partition = v.partition
	}
	v.add(r.src, rec)
	return nil
}

// karapaceData serialises a key or value: whatever Python finds false becomes
// no bytes at all.
func (v *v2) karapaceData(raw []byte) ([]byte, *answer) {
	if raw == nil || falsy(raw) {
		return []byte{}, nil
	}
	if v.format == formatJSON {
		out, _ := pythonJSON.append([]byte{}, &cursor{b: raw})
		return out, nil
	}
	bad := func() *answer {
		shown, _ := pythonJSON.append(nil, &cursor{b: raw})
		return karapaceError(400, 400, "data=%s  is not a base64 string.", clip(shown))
	}
	if raw[0] != '"' {
		return nil, bad()
	}
	text, escaped := raw[1:len(raw)-1], strings.Contains(string(raw), `\`)
	if escaped {
		text, _ = appendUnescaped(nil, text)
	}
	out, ok := pythonBase64(text)
	if !ok {
		return nil, bad()
	}
	return out, nil
}

// pythonBase64 decodes as base64.b64decode does: what is not of the alphabet
// is skipped, URL-safe letters too; padding is needed, and ends the data.
func pythonBase64(text []byte) ([]byte, bool) {
	var kept []byte
	pads := 0
	for _, b := range text {
		switch {
		case b >= 0x80:
			return nil, false
		case b == '=':
			if pads++; len(kept)%4 >= 2 && len(kept)%4+pads >= 4 {
				out, err := base64.RawStdEncoding.DecodeString(string(kept))
				return out, err == nil
			}
		case b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || b == '+' || b == '/':
			kept, pads = append(kept, b), 0
		}
	}
	if len(kept)%4 != 0 {
		return nil, false
	}
	out, err := base64.RawStdEncoding.DecodeString(string(kept))
	return out, err == nil
}

// falsy says whether Python takes the JSON value for false.
func falsy(raw []byte) bool {
	switch raw[0] {
	case 'n', 'f':
		return true
	case '"':
		return len(raw) == 2
	case '{', '[':
		return strings.TrimSpace(string(raw[1:len(raw)-1])) == ""
	case 't':
		return false
	}
	f, _ := strconv.ParseFloat(string(raw), 64)
	return f == 0
}

// karapaceInt is Python's int() of a JSON value; null and missing are none.
func karapaceInt(raw []byte, name string) (int64, *answer) {
	if raw == nil || raw[0] == 'n' {
		return 0, nil
	}
	switch raw[0] {
	case '{', '[':
		return 0, internalError()
	case 't':
		return 1, nil
	case 'f':
		return 0, nil
	}
	text := strings.Trim(string(raw), `"`)
	if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil {
		return n, nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && raw[0] != '"' {
		return int64(max(min(f, 1<<53), -1<<53)), nil
	}
	return 0, karapaceError(500, 500, "%s is not a valid int: %s", name, text)
}

// karapaceSend gives each record to Kafka; a partition that is not there fails
// its record at once.
func (v *v2) karapaceSend() {
	n := v.count()
	for _, p := range v.items {
		if p.rec.Partition >= n && n > 0 {
			v.waited[p.rec.Partition] = &codeError{karapaceFinal, "Unrecognized partition"}
		}
	}
	v.sendEach()
}

// Karapace's own codes of a record.
const (
	karapaceFinal     = 1
	karapaceRetriable = 2
)

func karapaceCode(code int) int {
	if retriable(code) {
		return karapaceRetriable
	}
	return karapaceFinal
}

// karapaceResult has one entry a record, in order; members are sorted by name,
// as its encoder does. One failed record makes the whole answer 422, though
// the others are written.
func (v *v2) karapaceResult() *answer {
	type entry struct {
		Error     *string `json:"error,omitempty"`
		Code      *int    `json:"error_code,omitempty"`
		Offset    *int64  `json:"offset,omitempty"`
		Partition *int32  `json:"partition,omitempty"`
	}
	out := struct {
		KeySchemaID   *int64  `json:"key_schema_id"`
		Offsets       []entry `json:"offsets"`
		ValueSchemaID *int64  `json:"value_schema_id"`
	}{Offsets: []entry{}}
	id := func(raw []byte) *int64 {
		if raw == nil || raw[0] == 'n' {
			return nil
		}
		n, _ := karapaceInt(raw, "")
		return &n
	}
	out.KeySchemaID, out.ValueSchemaID = id(v.keySchemaID), id(v.valueSchemaID)
	status := 200
	for _, p := range v.items {
		if p.code == 200 {
			out.Offsets = append(out.Offsets, entry{Offset: &p.rec.Offset, Partition: &p.rec.Partition})
			continue
		}
		code := p.code
		if !p.fixed && code != karapaceFinal {
			code = karapaceCode(code)
		}
		status = 422
		out.Offsets = append(out.Offsets, entry{Code: &code, Error: &p.text})
	}
	a := jsonAnswer(status, out)
	a.headers[0].value = karapaceType
	return a
}
