package sandbox

import (
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// strimziV2 is Strimzi's Kafka Bridge.
//
// Source: strimzi-kafka-bridge HttpSourceBridgeEndpoint and its converters.
// Not verified: that an unknown member of a record is refused.
var strimziV2 = &flavour{
	name: V2Strimzi, paths: true, most: maxWhole,
	routes: func() []route {
		empty := func(*exchange) *answer { return &answer{status: 204} }
		return []route{
			getRoute("/", func(*exchange) *answer { return jsonAnswer(200, map[string]string{"bridge_version": "0.33.0"}) }),
			getRoute("/healthy", empty),
			getRoute("/ready", empty),
		}
	},
	status: func(_ *request, status int) *answer { return refuseV2(status, status, statusText(status)) },
	refuse: refuseV2,
	busy:   func(*request) *answer { return refuseV2(503, 503, "The bridge is overloaded") },
	head:   (*v2).strimziHead,
	decode: (*v2).strimziDecode,
	send:   (*v2).sendEach,
	code:   strimziCode,
	result: (*v2).strimziResult,
}

func (v *v2) strimziHead() *answer {
	req := v.x.req
	v.format = formatBinary
	if media := mediaType(req.get("Content-Type")); media != "" {
		var ok bool
		if v.format, ok = embedded(media); !ok || v.format > formatString {
			return v.f.status(req, 415)
		}
	}
	v.mute = req.query.Get("async") == "true"
	if !v.pathPartition() {
		return unprocessable("Specified partition is not a valid number")
	}
	return nil
}

func unprocessable(format string, args ...any) *answer {
	return refuseV2(422, 422, fmt.Sprintf(format, args...))
}

func (v *v2) strimziDecode() *answer {
	c, _, err := oneValue(v.st.buf)
	if err != nil {
		return unprocessable("%s", err)
	}
	if c.peek() != '{' {
		return unprocessable("the body is not an object")
	}
	var records []byte
	for ok := c.open(); ok; ok = c.more() {
		switch name := string(c.name()); name {
		case "records":
			records = c.value()
		default:
			return unprocessable("unknown member %q", name)
		}
	}
	if records == nil || records[0] != '[' {
		return unprocessable("records must be an array")
	}
	rc := cursor{b: records}
	for ok := rc.open(); ok; ok = rc.more() {
		src := rc.value()
		rec, err := v.strimziRecord(src)
		if err != nil {
			return unprocessable("%s", err)
		}
		v.add(src, rec)
	}
	return nil
}

func (v *v2) strimziRecord(src []byte) (rec kgo.Record, err error) {
	rec.Partition = -1
	if src[0] != '{' {
		return rec, textError("a record must be an object")
	}
	c := cursor{b: src}
	for ok := c.open(); ok; ok = c.more() {
		switch name := string(c.name()); name {
		case "key":
			rec.Key, err = v.strimziData(&c, name)
		case "value":
			rec.Value, err = v.strimziData(&c, name)
		case "headers":
			rec.Headers, err = strimziHeaders(&c)
		case "partition":
			var n int64
			var has bool
			if n, has, err = strimziInt(&c, name); has {
				rec.Partition = int32(min(n, noPartition))
			}
		case "timestamp":
			var ms int64
			var has bool
			if ms, has, err = strimziInt(&c, name); has {
				rec.Timestamp = time.UnixMilli(ms)
			}
		default:
			err = fmt.Errorf("unknown member %q", name)
		}
		if err != nil {
			return rec, err
		}
	}
	if v.hasPath {
		if rec.Partition >= 0 {
			return rec, textError("Partition specified in body and in request path")
		}
		rec.Partition = v.partition
	}
	if v.hasPath && v.partition < 0 {
		return rec, fmt.Errorf("Invalid partition: %d. Partition number should always be non-negative or null.", v.partition) //nolint:staticcheck,revive // the server's text
	}
	return rec, nil
}

// strimziInt takes a whole number, 0 or above; null is none.
func strimziInt(c *cursor, name string) (int64, bool, error) {
	raw := string(c.value())
	if raw == "null" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(raw, 10, 64)
	if err != nil || n < 0 || n >= maxInstant {
		return 0, false, fmt.Errorf("Invalid %s: %s. It should always be non-negative or null.", name, clip([]byte(raw))) //nolint:staticcheck,revive // the server's text
	}
	return n, true, nil
}

// strimziData serialises a key or value. An explicit null is the four bytes of
// it as JSON, and refused otherwise.
func (v *v2) strimziData(c *cursor, name string) ([]byte, error) {
	if v.format == formatJSON {
		return appendJackson([]byte{}, c.value()), nil
	}
	if c.peek() != '"' {
		return nil, fmt.Errorf("Because the embedded format is '%s', the %s must be a string", map[bool]string{true: "text", false: "binary"}[v.format == formatString], name) //nolint:staticcheck // the server's text
	}
	raw, escaped := c.str()
	if v.format == formatString {
		if escaped {
			raw, _ = appendUnescaped(nil, raw)
		}
		return append([]byte{}, raw...), nil
	}
	out, ok := appendBase64([]byte{}, raw)
	if !ok {
		return nil, fmt.Errorf("the %s is not a valid base64 string", name)
	}
	return out, nil
}

// strimziHeaders takes [{"key","value"}], values in base64.
func strimziHeaders(c *cursor) (hs []kgo.RecordHeader, err error) {
	bad := textError(`headers must be an array of {"key","value"}, the value in base64`)
	if c.peek() != '[' {
		return nil, bad
	}
	for ok := c.open(); ok; ok = c.more() {
		if c.peek() != '{' {
			return nil, bad
		}
		var h kgo.RecordHeader
		key, value := false, false
		for ok := c.open(); ok; ok = c.more() {
			name := string(c.name())
			if c.peek() != '"' {
				return nil, bad
			}
			raw, escaped := c.str()
			switch name {
			case "key":
				if escaped {
					raw, _ = appendUnescaped(nil, raw)
				}
				h.Key, key = string(raw), true
			case "value":
				h.Value, value = appendBase64([]byte{}, raw)
			default:
				return nil, bad
			}
		}
		if !key || !value {
			return nil, bad
		}
		hs = append(hs, h)
	}
	return hs, nil
}

// strimziCode is 404 for a topic or partition that is not there, else 500.
func strimziCode(code int) int {
	if code == 40401 || code == 40403 {
		return 404
	}
	return 500
}

// strimziResult has one entry a record, in order, and is 200 whatever they say.
func (v *v2) strimziResult() *answer {
	if v.mute {
		return &answer{status: 204}
	}
	type entry struct {
		Partition *int32  `json:"partition,omitempty"`
		Offset    *int64  `json:"offset,omitempty"`
		Code      *int    `json:"error_code,omitempty"`
		Message   *string `json:"message,omitempty"`
	}
	out := struct {
		Offsets []entry `json:"offsets"`
	}{[]entry{}}
	for _, p := range v.items {
		if p.code == 200 {
			out.Offsets = append(out.Offsets, entry{Partition: &p.rec.Partition, Offset: &p.rec.Offset})
			continue
		}
		code := p.code
		if !p.fixed {
			code = strimziCode(code)
		}
		out.Offsets = append(out.Offsets, entry{Code: &code, Message: &p.text})
	}
	return v2Answer(200, out)
}
