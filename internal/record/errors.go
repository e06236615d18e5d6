package record

import "strconv"

// Reasons an InvalidError gives; metrics use them as label values.
const (
	ReasonInvalidJSON   = "invalid_json"   // not JSON where JSON was asked for
	ReasonInvalidUTF8   = "invalid_utf8"   // type STRING or JSON, and the bytes are not UTF-8
	ReasonNullValue     = "null_value"     // a JSON null that was not declared to be a tombstone
	ReasonTooDeep       = "too_deep"       // nested deeper than the server parses
	ReasonTooLarge      = "too_large"      // over MaxRecordBytes
	ReasonNoKeyField    = "no_key_field"   // the key is a field and the line is not a JSON object
	ReasonInvalidKey    = "invalid_key"    // the key does not fit its type
	ReasonBadTimestamp  = "bad_timestamp"  // the timestamp field cannot be read
	ReasonNoFields      = "no_fields"      // a header, partition or null rule looks at fields and the line is not a JSON object
	ReasonBadPartition  = "bad_partition"  // the partition field is no partition
	ReasonNoTopic       = "no_topic"       // the topic cannot be made of this record
	ReasonInvalidRecord = "invalid_record" // a REST v3 record object the server would refuse
)

// InvalidError says that one record can never be sent as it is. It concerns
// that record alone: write it to the dead letter and go on.
type InvalidError struct {
	Code    int    // the error_code the server would have reported: 400 or 413
	Reason  string // one of the Reason constants, for metric labels
	Message string // what is wrong and the remedy
}

// Error returns the message.
func (e *InvalidError) Error() string { return e.Message }

func invalid(reason, message string) *InvalidError {
	return &InvalidError{Code: 400, Reason: reason, Message: message}
}

func tooLarge(what string, size, limit int) *InvalidError {
	return &InvalidError{
		Code: 413, Reason: ReasonTooLarge,
		Message: what + " of " + strconv.Itoa(size) + " bytes is over the limit of " + strconv.Itoa(limit) +
			": split it, or raise --max-record-bytes where the cluster takes more",
	}
}
