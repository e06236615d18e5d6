package stream

// v3Records is REST v3 with an end to each request: the same records and
// reports as a stream's, for endpoints behind something that hands a request
// on only when it has all of it.
type v3Records struct{ v3Stream }

// No server bounds such a request. What is unknown when one breaks is bounded
// by the window: InFlight and InFlightBytes.
func (v3Records) bounds() (records, bytes int) { return 1_000_000, 64 << 20 }
