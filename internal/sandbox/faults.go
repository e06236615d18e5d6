package sandbox

import (
	"fmt"
	"time"
)

// FaultKind names what a Fault does.
type FaultKind string

// The kinds of fault. FaultHelp says more about each.
const (
	FaultRefuse      FaultKind = "refuse"        // connections are closed on accept
	FaultHTTP        FaultKind = "http"          // an HTTP answer in place of the stream
	FaultReport      FaultKind = "report"        // records get a report of the given code
	FaultExpire      FaultKind = "expire"        // the stream is too old: 408s, then it is closed
	FaultTerminal    FaultKind = "terminal"      // terminal 400, last chunk, close
	FaultReset       FaultKind = "reset"         // RST
	FaultCut         FaultKind = "cut"           // FIN without a last chunk
	FaultEnd         FaultKind = "end"           // proper end of the response, too early
	FaultStall       FaultKind = "stall"         // no more reports; the connection stays open
	FaultSlow        FaultKind = "slow"          // reports come later
	FaultUnknown     FaultKind = "unknown-topic" // the topic is not there
	FaultFraming     FaultKind = "framing"       // how reports are cut into chunks, and what they look like
	FaultGarbage     FaultKind = "garbage"       // a report that is not JSON
	FaultSlowRead    FaultKind = "slow-read"     // the body is read slowly
	FaultAuth        FaultKind = "auth"          // 401 or 403 although the credentials are right
	FaultToken       FaultKind = "token"         // the token endpoints answer with an error
	FaultTokenQuota  FaultKind = "token-quota"   // the token endpoints answer 429
	FaultRateHeaders FaultKind = "rate-headers"  // answers say what is left of the limit of produce requests
	FaultShared      FaultKind = "shared"        // other clients take part of the limit of records
	FaultBuffering   FaultKind = "buffering"     // a proxy in front reads requests whole and answers whole
	FaultV2          FaultKind = "v2"            // in which server's manner the v2 API is spoken
)

// How FaultFraming cuts reports into chunks.
const (
	ChunksTwo    = "two"    // a report and its CRLF are two chunks (what the real server does)
	ChunksJoined = "joined" // a report and its CRLF are one chunk
	ChunksMerged = "merged" // all reports that are ready are one chunk
	ChunksByte   = "byte"   // every byte is a chunk and a write of its own
	ChunksOdd    = "odd"    // chunks of 1, 2, 3, 5, 7, 11 … bytes, whatever they cut
)

// Fault is one scripted fault. Kind decides which of the other fields count;
// Validate refuses those that do not.
type Fault struct {
	Kind FaultKind

	// Which streams (or connections, for FaultRefuse) it hits.
	Topic string // only streams to this topic; "" is any
	Times int    // the first so many streams it applies to; 0 is all of them

	// When, in a stream: behind the record numbered After, or at an age.
	// FaultAuth: behind so many requests, or with FaultShared so long after it was set.
	After int
	Age   time.Duration

	// Which records (FaultReport, FaultSlow) or streams (FaultHTTP: Every, Share).
	Every    int     // every n-th
	Share    float64 // this share of them, chosen by a fixed pseudo-random sequence
	Contains string  // those whose JSON source holds this text
	Count    int     // at most so many records in all; 0 is no bound

	// Partition restricts FaultSlow to records of one partition, when HasPartition.
	Partition    int32
	HasPartition bool

	Code       int           // FaultHTTP: status; FaultReport: error_code; FaultAuth: 401 or 403; FaultToken: status
	Message    string        // text of the report or body; "" takes the code's usual one
	Body       string        // FaultHTTP: "json", "html", "jetty" or "empty"
	Location   string        // FaultHTTP: Location header
	RetryAfter string        // FaultHTTP, FaultToken, FaultTokenQuota, FaultRateHeaders: Retry-After header
	ReadBytes  int           // FaultHTTP: answer only after so many bytes of the body
	Stored     bool          // FaultReport, FaultExpire: the record is in Kafka all the same
	Lost       int           // FaultReset, FaultCut: the last so many reports are not written; -1 is all not yet written
	Mid        bool          // FaultCut: end inside a chunk
	For        time.Duration // FaultStall: how long; 0 is for ever. FaultSlow: the delay. FaultAuth, FaultShared: how long; 0 is for ever
	Grace      time.Duration // FaultExpire: from the first 408 to the end; 0 takes Config.MaxAgeGrace
	Chunks     string        // FaultFraming: ChunksTwo … ChunksOdd; "" is ChunksTwo
	Pretty     bool          // FaultFraming: reports over several lines, as documents show them
	Extra      bool          // FaultFraming: reports carry members no document names
	Rate       int           // FaultSlowRead: bytes per second; FaultShared: records per second
	Flavour    string        // FaultV2: V2Confluent …
}

// Faults are the faults at work. Where several of one kind apply to a stream
// and only one can, the first counts.
type Faults []Fault

// Validate names the first field that cannot be.
func (fs Faults) Validate() error {
	for i, f := range fs {
		if err := f.validate(); err != nil {
			return fmt.Errorf("fault %d (%s): %w", i+1, f.Kind, err)
		}
	}
	return nil
}

func (f *Fault) validate() error {
	k := faultKind(f.Kind)
	if k == nil {
		return fmt.Errorf("unknown kind; known are %s", faultNames())
	}
	for _, p := range faultParams {
		if p.set(f) && !k.takes(p.name) {
			return fmt.Errorf("%s does not belong to it", p.name)
		}
	}
	switch {
	case f.Times < 0 || f.After < 0 || f.Every < 0 || f.Count < 0 || f.ReadBytes < 0:
		return fmt.Errorf("times, after, every, count and read must not be negative")
	case f.Age < 0 || f.For < 0 || f.Grace < 0:
		return fmt.Errorf("a duration must not be negative")
	case f.Share < 0 || f.Share > 1:
		return fmt.Errorf("share must be 0..1")
	case f.Lost < -1:
		return fmt.Errorf("lost must be a number of reports, or all")
	}
	return f.validateKind()
}

// validateKind looks at the fields that one kind alone restricts.
func (f *Fault) validateKind() error {
	switch f.Kind {
	case FaultHTTP:
		if f.Code < 200 || f.Code > 599 {
			return fmt.Errorf("want an HTTP status, 200..599")
		}
		switch f.Body {
		case "", "json", "html", "jetty", "empty":
		default:
			return fmt.Errorf("body must be json, html, jetty or empty")
		}
	case FaultReport:
		if f.Code < 1 || f.Code > 59999 {
			return fmt.Errorf("want an error_code, 1..59999")
		}
	case FaultFraming:
		switch f.Chunks {
		case "", ChunksTwo, ChunksJoined, ChunksMerged, ChunksByte, ChunksOdd:
		default:
			return fmt.Errorf("want two, joined, merged, byte or odd")
		}
	case FaultSlow:
		if f.For <= 0 {
			return fmt.Errorf("want a delay, such as 200ms")
		}
	case FaultAuth:
		if f.Code != 401 && f.Code != 403 {
			return fmt.Errorf("want 401 or 403")
		}
	case FaultToken:
		if f.Code < 400 || f.Code > 599 {
			return fmt.Errorf("want an HTTP status, 400..599")
		}
	case FaultV2:
		if findFlavour(f.Flavour) == nil {
			return fmt.Errorf("want confluent, pandaproxy, karapace or strimzi")
		}
	case FaultSlowRead, FaultShared:
		if f.Rate <= 0 {
			return fmt.Errorf("want bytes per second, or records for shared, above 0")
		}
	}
	return nil
}

// usualText is what the real server says with an error_code.
func usualText(code int, topic string, maxBlock time.Duration) string {
	switch code {
	case 400:
		return "Bad Request: data=\"?\" is not a valid base64 string."
	case 408:
		return "Streaming connection open for longer than allowed: Connection will be closed."
	case 413:
		return "The request included a message larger than the max message size the server will accept."
	case 422:
		return "Error: 42206 : Payload error. Schema Registry must be configured when using schemas."
	case 429:
		return "Request rate limit exceeded: The rate limit of requests per second has been exceeded."
	case 500:
		return "Internal Server Error"
	case 40002:
		return "The request attempted to perform an operation on an invalid topic."
	case 40101:
		return "Authentication failed."
	case 40301:
		return "Not authorized to access topics: [" + topic + "]"
	case 40401:
		return fmt.Sprintf("Topic %s not present in metadata after %d ms.", topic, maxBlock.Milliseconds())
	case 40402:
		return "Partition not found."
	case 40403:
		return "This server does not host this topic-partition."
	case 42901:
		return "The throttling quota has been exceeded."
	case 50002:
		return "The server experienced an unexpected error when processing the request."
	case 50003:
		return "Expiring 1 record(s) for " + topic + "-0:120000 ms has passed since batch creation"
	case 50302:
		return "The broker is not available."
	}
	return fmt.Sprintf("Error %d", code)
}
