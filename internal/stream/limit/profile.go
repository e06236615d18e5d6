// Package limit is the arithmetic of a cluster's limits: budgets for POSTs,
// records and bytes a second, and the search for what is really there when a
// server answers 429.
//
// Nothing here sleeps or reads a clock: every call is told the time, which is
// monotonic wherever the caller has it from time.Now.
package limit

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
)

// Profile holds what a cluster of one type takes. Zero means no limit.
//
// Source: Confluent Cloud documentation, "Kafka cluster types", Kafka REST
// Produce v3 rows. Megabytes are 10^6 bytes.
type Profile struct {
	Name         string
	Connections  float64 // POSTs a second
	Records      float64 // records a second
	Bytes        float64 // bytes of records a second
	MessageBytes int     // one message
	Agents       int     // that share the cluster's limits; 0: this one has them alone
}

var profiles = map[string]Profile{
	"none":       {Name: "none"},
	"basic":      {Name: "basic", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
	"standard":   {Name: "standard", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
	"enterprise": {Name: "enterprise", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
	"freight":    {Name: "freight", Connections: 25, Records: 1000, Bytes: 10e6, MessageBytes: 8e6},
}

// What one CKU of a dedicated cluster takes, and the most CKUs there are.
const (
	ckuConnections = 300
	ckuRecords     = 3000
	ckuBytes       = 50e6
	maxCKU         = 152
)

// ParseProfile returns the profile of that name: none, basic, standard,
// enterprise, freight, or dedicated:N for N CKUs.
func ParseProfile(name string) (Profile, error) {
	if p, ok := profiles[strings.ToLower(name)]; ok {
		return p, nil
	}
	if n, ok := strings.CutPrefix(strings.ToLower(name), "dedicated:"); ok {
		cku, err := strconv.Atoi(n)
		if err != nil || cku < 1 || cku > maxCKU {
			return Profile{}, fmt.Errorf("limits %q: dedicated:N wants N CKUs, 1..%d", name, maxCKU)
		}
		c := float64(cku)
		return Profile{
			Name: "dedicated:" + n, Connections: ckuConnections * c, Records: ckuRecords * c,
			Bytes: ckuBytes * c, MessageBytes: 20e6,
		}, nil
	}
	names := make([]string, 0, len(profiles)+1)
	for n := range profiles {
		names = append(names, n)
	}
	sort.Strings(names)
	return Profile{}, fmt.Errorf("limits %q: no such profile; there are %s and dedicated:CKU", name, strings.Join(names, ", "))
}

// ForHost names the profile a host gets that was given none: basic for
// Confluent Cloud, whose every cluster type allows at least that, else none.
func ForHost(host string) string {
	if IsConfluentCloud(host) {
		return "basic"
	}
	return "none"
}

// IsConfluentCloud says whether host is one of Confluent Cloud's.
func IsConfluentCloud(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return strings.HasSuffix(host, ".confluent.cloud") || strings.HasSuffix(host, ".confluent-cloud.com")
}

// Share returns what one of so many agents may use of p when the share
// headroom of it, 0..1, is left unused by all of them. The size of a message is
// nothing to divide.
func (p Profile) Share(agents int, headroom float64) Profile {
	if agents < 2 && headroom == 0 {
		return p
	}
	part := (1 - headroom) / float64(max(1, agents))
	p.Connections, p.Records, p.Bytes = p.Connections*part, p.Records*part, p.Bytes*part
	p.Agents = agents
	return p
}

// String says what the profile allows, in an operator's words.
func (p Profile) String() string {
	name := p.Name
	if p.Agents > 1 {
		name = fmt.Sprintf("%s, one of %d agents", name, p.Agents)
	}
	if p.Connections == 0 && p.Records == 0 && p.Bytes == 0 {
		return name
	}
	message := "any message"
	if p.MessageBytes > 0 {
		message = "messages up to " + digits(float64(p.MessageBytes)/1e6) + " MB"
	}
	return fmt.Sprintf("%s (%s, %s, %s, %s)", name,
		orNone(p.Connections, "POSTs/s"), orNone(p.Records, "records/s"), orNone(p.Bytes/1e6, "MB/s"), message)
}

func orNone(v float64, unit string) string {
	if v == 0 {
		return "any " + unit
	}
	return digits(v) + " " + unit
}

// digits writes v with no more digits than anybody reads.
func digits(v float64) string {
	if v < 100 {
		v = math.Round(v*1000) / 1000
	} else {
		v = math.Round(v)
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}
