// Package dialect names the manners of producing over HTTP that the agent
// knows, and what each can carry. It is arithmetic on names: how a dialect
// goes on the wire is package stream's business.
package dialect

import (
	"fmt"
	"slices"
	"strings"
)

// Dialect is one manner of producing. The zero value lets the endpoint decide.
type Dialect uint8

// The dialects. V2 is a v2 server whose kind is still to be found out; V2Other
// is one whose kind could not be.
const (
	Auto         Dialect = iota
	V3Stream             // REST v3, one endless request a connection
	V3Records            // REST v3, the same records in requests with an end
	V3Batch              // REST v3, records:batch
	V2                   // the older API, of whichever server
	V2Confluent          // Confluent's REST Proxy
	V2Pandaproxy         // Redpanda's HTTP Proxy
	V2Karapace           // Karapace, as Aiven and Instaclustr run it
	V2Strimzi            // Strimzi's Bridge
	V2Other
)

var names = [...]string{
	"auto", "v3-stream", "v3-records", "v3-batch",
	"v2", "v2:confluent", "v2:pandaproxy", "v2:karapace", "v2:strimzi", "v2:unknown",
}

// Names are the words a user may say, in the order they are explained in.
func Names() []string { return slices.Clone(names[:V2Other]) }

// String returns the dialect's name.
func (d Dialect) String() string {
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("dialect(%d)", d)
}

// Parse returns the dialect of that name; "" is Auto.
func Parse(name string) (Dialect, error) {
	if name == "" {
		return Auto, nil
	}
	if i := slices.Index(names[:V2Other], name); i >= 0 {
		return Dialect(i), nil
	}
	return Auto, fmt.Errorf("%q: no such dialect; there are %s", name, strings.Join(names[:V2Other], ", "))
}

// IsV2 says whether d is the older API, of whichever server.
func (d Dialect) IsV2() bool { return d >= V2 && d <= V2Other }

// Server names the server behind a v2 dialect, as in "Karapace".
func (d Dialect) Server() string {
	switch d {
	case V2Confluent:
		return "Confluent's REST Proxy"
	case V2Pandaproxy:
		return "Redpanda's HTTP Proxy"
	case V2Karapace:
		return "Karapace"
	case V2Strimzi:
		return "Strimzi's Bridge"
	case V2, V2Other:
		return "a v2 server of unknown kind"
	}
	return "REST v3"
}

// Feature is something of a record that not every dialect can carry.
type Feature uint8

// The features. A value and a key of bytes, and a partition, every dialect has.
const (
	Headers     Feature = iota
	Timestamps          // a time of the record's own
	Tombstones          // a null value
	NullHeaders         // a header without a value
	NullKeys            // no key at all; without it a missing key becomes an empty one
	Schemas             // AVRO and the like, in the registry's form
)

var features = [...]string{
	"record headers", "a record's own timestamp", "null values (tombstones)", "headers with a null value", "records without a key", "schema formats",
}

// String names the feature in an operator's words.
func (f Feature) String() string { return features[f] }

// Carries says whether records sent in d may have f. Of a v2 server whose kind
// is not known only what all of them carry is believed.
//
// Source: confluentinc/kafka-rest v2 ProduceRecord; redpanda pandaproxy
// produce_request_handler; Karapace kafka_rest_apis; Strimzi
// HttpBinaryMessageConverter.
func (d Dialect) Carries(f Feature) bool {
	switch {
	case !d.IsV2():
		return true
	case f == Schemas || f == NullHeaders:
		return false
	case f == NullKeys:
		return d != V2Pandaproxy && d != V2Other && d != V2
	case f == Tombstones:
		return d == V2Confluent || d == V2Strimzi
	}
	return d == V2Strimzi // headers, timestamps
}

// Lacks lists what d does not carry.
func (d Dialect) Lacks() []string {
	var out []string
	for f := range features {
		if !d.Carries(Feature(f)) {
			out = append(out, features[f])
		}
	}
	return out
}
