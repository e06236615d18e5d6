package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaCodes has the error_code of each Kafka error that has one of its own:
// the exact classes of the server's table, then authentication, authorization
// and the invalid topic. All others go by whether they are retriable.
//
// Source: kafka-rest KafkaExceptionMapper; which class a Kafka error is of:
// org.apache.kafka.common.protocol.Errors.
var kafkaCodes = map[*kerr.Error]int{
	kerr.MessageTooLarge:         413,
	kerr.UnknownTopicOrPartition: 40403,
	kerr.ThrottlingQuotaExceeded: 42901,
	kerr.BrokerNotAvailable:      50302,

	kerr.UnknownServerError:       40002,
	kerr.UnsupportedVersion:       40002,
	kerr.TopicAlreadyExists:       40002,
	kerr.InvalidPartitions:        40002,
	kerr.InvalidReplicationFactor: 40002,
	kerr.InvalidConfig:            40002,
	kerr.InvalidRequest:           40002,
	kerr.PolicyViolation:          40002,
	kerr.SecurityDisabled:         40002,
	kerr.TopicDeletionDisabled:    40002,
	kerr.InvalidTopicException:    40002,

	kerr.UnsupportedSaslMechanism: 40101,
	kerr.IllegalSaslState:         40101,
	kerr.SaslAuthenticationFailed: 40101,

	kerr.TopicAuthorizationFailed:           40301,
	kerr.GroupAuthorizationFailed:           40301,
	kerr.ClusterAuthorizationFailed:         40301,
	kerr.TransactionalIDAuthorizationFailed: 40301,
	kerr.DelegationTokenAuthorizationFailed: 40301,
}

// kafkaError maps what the Kafka client says about a record to the report's
// code and text.
func kafkaError(err error, topic string, partition int32, maxBlock time.Duration) *codeError {
	var ke *kerr.Error
	if errors.As(err, &ke) {
		code := kafkaCodes[ke]
		switch {
		case ke == kerr.TopicAuthorizationFailed, code == 413:
			return &codeError{code, usualText(code, topic, maxBlock)}
		case code != 0:
			return &codeError{code, ke.Description}
		case ke.Retriable:
			return &codeError{50003, ke.Description}
		}
		return &codeError{50002, ke.Description}
	}
	if errors.Is(err, kgo.ErrRecordRetries) || errors.Is(err, kgo.ErrRecordTimeout) || errors.As(err, new(net.Error)) || errors.Is(err, io.EOF) {
		return &codeError{50003, fmt.Sprintf("Expiring 1 record(s) for %s-%d:120000 ms has passed since batch creation", topic, partition)}
	}
	// What the client says itself, as of a topic that went while a record waited.
	return &codeError{50003, err.Error()}
}
