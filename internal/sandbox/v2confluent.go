package sandbox

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
)

// confluentV2 is kafka-rest with api.v2.enable, its default.
// Source: kafka-rest resources/v2/AbstractProduceAction, entities/v2,
// rest-utils exceptions.
var confluentV2 = &flavour{
	name: V2Confluent, paths: true, most: maxWhole,
	status: func(_ *request, status int) *answer { return statusError(status) },
	refuse: func(status, code int, text string) *answer { return restError(status, code, "%s", text) },
	busy: func(*request) *answer {
		return restError(429, 429, "%s", usualText(429, "", 0))
	},
	head:   (*v2).confluentHead,
	decode: (*v2).confluentDecode,
	send:   (*v2).sendEach,
	code:   confluentCode,
	result: (*v2).confluentResult,
	routes: func() []route {
		return []route{getRoute("/", func(*exchange) *answer { return v2Answer(200, struct{}{}) })}
	},
}

func (v *v2) confluentHead() *answer {
	req := v.x.req
	var ok bool
	if v.format, ok = embedded(mediaType(req.get("Content-Type"))); !ok || v.format == formatString {
		return statusError(415)
	}
	if v.format > formatString {
		// The list of embedded has text where the formats have STRING.
		return restError(422, 42206, "Error: 42206 : Payload error. Schema Registry must be configured when using schemas.")
	}
	if req.get("Accept") != "" && !slices.ContainsFunc([]string{kafkaV2, "application/*", "*/*"}, func(t string) bool { return req.hasToken("Accept", t) }) {
		return statusError(406)
	}
	if !v.pathPartition() {
		return statusError(404)
	}
	return nil
}

// confluentError is a body that kafka-rest refuses as a whole.
func confluentError(status int, format string, args ...any) *answer {
	return restError(status, status, format, args...)
}

func (v *v2) confluentDecode() *answer {
	c, _, err := oneValue(v.st.buf)
	if err != nil {
		return confluentError(400, "%s", err)
	}
	if c.peek() != '{' {
		return confluentError(400, "%s", wrongToken("io.confluent.kafkarest.entities.v2.ProduceRequest", c))
	}
	named := false
	for ok := c.open(); ok; ok = c.more() {
		switch name := string(c.name()); name {
		case "records":
			v.items, v.sources = nil, nil
			if c.peek() == 'n' {
				c.value()
				named = false
				continue
			}
			if c.peek() != '[' {
				return confluentError(400, "%s", wrongToken("java.util.ArrayList<io.confluent.kafkarest.entities.v2.ProduceRequest$ProduceRecord>", c))
			}
			named = true
			if a := v.confluentRecords(c); a != nil {
				return a
			}
		case "key_schema", "value_schema":
			_, _, err = bindString(c)
		case "key_schema_id", "value_schema_id":
			_, _, err = bindInt(c)
		default:
			return confluentError(422, "Unrecognized field: %s", name)
		}
		if err != nil {
			return confluentError(400, "%s", err)
		}
	}
	if !named || len(v.items) == 0 {
		return confluentError(422, "records may not be empty")
	}
	return nil
}

func (v *v2) confluentRecords(c *cursor) *answer {
	for ok := c.open(); ok; ok = c.more() {
		c.peek()
		start := c.i
		if c.peek() != '{' {
			return confluentError(400, "%s", wrongToken("io.confluent.kafkarest.entities.v2.ProduceRequest$ProduceRecord", c))
		}
		var key, value produceData
		partition, has := int32(0), false
		for ok := c.open(); ok; ok = c.more() {
			var err error
			switch name := string(c.name()); name {
			case "key":
				key.set(v.format, c.value())
			case "value":
				value.set(v.format, c.value())
			case "partition":
				partition, has, err = bindInt(c)
			default:
				return confluentError(422, "Unrecognized field: %s", name)
			}
			if err != nil {
				return confluentError(400, "%s", err)
			}
		}
		if has && partition < 0 {
			return confluentError(422, "records[%d].partition must be greater than or equal to 0", len(v.items))
		}
		if a := v.confluentRecord(c.b[start:c.i], &key, &value, partition, has); a != nil {
			return a
		}
	}
	return nil
}

func (v *v2) confluentRecord(src []byte, key, value *produceData, partition int32, has bool) *answer {
	rec := kgo.Record{Partition: -1}
	var err *codeError
	if _, rec.Key, err = appendData(nil, key); err == nil {
		_, rec.Value, err = appendData(nil, value)
	}
	if err != nil {
		return restError(err.code, err.code, "%s", err.text)
	}
	switch {
	case has:
		rec.Partition = partition
	case v.hasPath:
		rec.Partition = v.partition
	}
	v.add(src, rec)
	return nil
}

// set makes d hold the JSON value raw.
func (d *produceData) set(format dataFormat, raw []byte) {
	*d = produceData{present: true, format: format, hasData: true, raw: raw, null: raw[0] == 'n'}
}

// confluentResult has one entry a record, in order, all four members always
// there. One record that may not be written makes the whole answer 401 or 403.
func (v *v2) confluentResult() *answer {
	type entry struct {
		Partition *int32  `json:"partition"`
		Offset    *int64  `json:"offset"`
		Code      *int    `json:"error_code"`
		Error     *string `json:"error"`
	}
	out := struct {
		Offsets       []entry `json:"offsets"`
		KeySchemaID   *int    `json:"key_schema_id"`
		ValueSchemaID *int    `json:"value_schema_id"`
	}{Offsets: []entry{}}
	status := 200
	for _, p := range v.items {
		if p.code == 200 {
			out.Offsets = append(out.Offsets, entry{Partition: &p.rec.Partition, Offset: &p.rec.Offset})
			continue
		}
		code := p.code
		if !p.fixed {
			code = confluentCode(code)
		}
		switch {
		case code == 40101:
			status = 401
		case code == 40301 && status == 200:
			status = 403
		}
		out.Offsets = append(out.Offsets, entry{Code: &code, Error: &p.text})
	}
	return v2Answer(status, out)
}

// confluentCode is what v2 makes of v3's codes: retriable or not.
func confluentCode(code int) int {
	switch {
	case code == 40101, code == 40301:
		return code
	case retriable(code):
		return 50003
	}
	return 50002
}

// v2Routes are the routes that kafka-rest serves beside v3.
func v2Routes(f *flavour, extra ...route) []route {
	plain := func(method, pattern string, serve func(x *exchange) bool) route {
		return kafkaRoute(method, pattern, serve)[0]
	}
	out := []route{
		plain("GET", "/topics", getV2(v2Topics)),
		plain("GET", "/brokers", getV2(v2Brokers)),
		plain("POST", "/topics/{topic}", postV2),
	}
	if f.paths {
		out = append(out, plain("POST", "/topics/{topic}/partitions/{partition}", postV2))
	}
	return append(out, extra...)
}

// getRoute is a GET that needs no credentials.
func getRoute(pattern string, fn func(x *exchange) *answer) route {
	return kafkaRoute("GET", pattern, func(x *exchange) bool { return x.answer(fn(x)) })[0]
}

func getV2(fn func(x *exchange) *answer) func(x *exchange) bool {
	return func(x *exchange) bool {
		if a := x.unauthorized(); a != nil {
			return x.answer(a)
		}
		return x.answer(fn(x))
	}
}

// v2Topics lists the topics' names.
func v2Topics(x *exchange) *answer {
	ctx, cancel := x.ctx()
	defer cancel()
	m, err := x.sb.broker.metadata(ctx, nil)
	if err != nil {
		return x.flavour.refuse(500, 50003, fmt.Sprint(err))
	}
	names := []string{}
	for _, t := range m.Topics {
		if t.Topic != nil && t.ErrorCode == 0 {
			names = append(names, *t.Topic)
		}
	}
	slices.Sort(names)
	return v2Answer(200, names)
}

// v2Brokers lists the brokers' ids.
func v2Brokers(x *exchange) *answer {
	ctx, cancel := x.ctx()
	defer cancel()
	m, err := x.sb.broker.metadata(ctx, []string{})
	if err != nil {
		return x.flavour.refuse(500, 50003, fmt.Sprint(err))
	}
	ids := []int32{}
	for _, b := range m.Brokers {
		ids = append(ids, b.NodeID)
	}
	slices.Sort(ids)
	return v2Answer(200, map[string][]int32{"brokers": ids})
}
