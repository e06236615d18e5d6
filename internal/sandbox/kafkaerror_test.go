package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Every error that Kafka has gets the error_code that the real server gives
// it. What is not in the table is 50002, and the table was made from the
// exception classes of Kafka 4.4 by the rules of kafka-rest's mapper.
func TestKafkaErrors(t *testing.T) {
	want := map[int16]int{10: 413, 3: 40403, 89: 42901, 8: 50302}
	for _, code := range []int16{-1, 17, 35, 36, 37, 38, 40, 42, 44, 54, 73} {
		want[code] = 40002
	}
	for _, code := range []int16{33, 34, 58} {
		want[code] = 40101
	}
	for _, code := range []int16{29, 30, 31, 53, 65} {
		want[code] = 40301
	}
	for _, code := range []int16{ // RetriableException
		2, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 56, 70, 71, 72, 74, 75, 78, 80, 83, 84, 88, 100, 103, 106,
	} {
		want[code] = 50003
	}
	// Neither can come to a producer without transactions, and the Kafka client
	// here knows them otherwise than Java's.
	skip := map[int16]bool{51: true, 133: true}
	seen := 0
	for code := int16(-1); code < 150; code++ {
		ke, ok := kerr.ErrorForCode(code).(*kerr.Error) //nolint:errorlint // it is just that
		if code == 0 || !ok || ke == kerr.UnknownServerError && code != -1 || skip[code] {
			continue
		}
		seen++
		w := want[code]
		if w == 0 {
			w = 50002
		}
		got := kafkaError(fmt.Errorf("produce: %w", ke), "t", 0, time.Second)
		if got.code != w || got.text == "" {
			t.Errorf("%d %s: %d %q, want %d", code, ke.Message, got.code, got.text, w)
		}
	}
	if seen < 130 {
		t.Errorf("only %d errors of Kafka are known", seen)
	}
}

// What the Kafka client says itself.
func TestKafkaClientErrors(t *testing.T) {
	f := func(err error, code int) {
		t.Helper()
		if got := kafkaError(err, "t", 2, time.Second); got.code != code {
			t.Errorf("%v: %d %q, want %d", err, got.code, got.text, code)
		}
	}
	f(kgo.ErrRecordRetries, 50003)
	f(kgo.ErrRecordTimeout, 50003)
	f(io.EOF, 50003)
	f(&net.OpError{Op: "dial", Err: errors.New("connection refused")}, 50003)
	f(kgo.ErrClientClosed, 50003)
	if got := kafkaError(kerr.TopicAuthorizationFailed, "t", 0, time.Second).text; got != "Not authorized to access topics: [t]" {
		t.Error(got)
	}
}
