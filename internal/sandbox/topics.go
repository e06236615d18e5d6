package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicData is the KafkaTopic of the OpenAPI document.
type topicData struct {
	Kind                   string   `json:"kind"`
	Metadata               meta     `json:"metadata"`
	ClusterID              string   `json:"cluster_id"`
	TopicName              string   `json:"topic_name"`
	IsInternal             bool     `json:"is_internal"`
	ReplicationFactor      int      `json:"replication_factor"`
	PartitionsCount        int      `json:"partitions_count"`
	Partitions             link     `json:"partitions"`
	Configs                link     `json:"configs"`
	PartitionReassignments link     `json:"partition_reassignments"`
	AuthorizedOperations   []string `json:"authorized_operations"`
}

// partitionData is the KafkaPartition of the OpenAPI document.
type partitionData struct {
	Kind         string `json:"kind"`
	Metadata     meta   `json:"metadata"`
	ClusterID    string `json:"cluster_id"`
	TopicName    string `json:"topic_name"`
	PartitionID  int32  `json:"partition_id"`
	Leader       *link  `json:"leader,omitempty"`
	Replicas     link   `json:"replicas"`
	Reassignment link   `json:"reassignment"`
}

// adminError maps what Kafka says to an admin request.
// Source: kafka-rest KafkaExceptionMapper, for requests other than produce.
func adminError(err error) *answer {
	var ke *kerr.Error
	text := err.Error()
	if errors.As(err, &ke) {
		text = ke.Description
	}
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists), errors.Is(err, kerr.InvalidReplicationFactor),
		errors.Is(err, kerr.InvalidPartitions), errors.Is(err, kerr.InvalidRequest),
		errors.Is(err, kerr.InvalidConfig), errors.Is(err, kerr.PolicyViolation),
		errors.Is(err, kerr.InvalidReplicaAssignment), errors.Is(err, kerr.InvalidTopicException):
		return restError(400, 40002, "%s", text)
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return restError(404, 40403, "%s", usualText(40403, "", 0))
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return restError(403, 40301, "%s", text)
	case ke != nil && !ke.Retriable:
		return restError(500, 50002, "%s", text)
	}
	return restError(500, 50003, "%s", text)
}

func (x *exchange) topicData(t *kmsg.MetadataResponseTopic) topicData {
	u := x.clusterURL() + "/topics/" + *t.Topic
	out := topicData{
		Kind: "KafkaTopic", Metadata: x.resource(u, "/topic="+*t.Topic),
		ClusterID: x.sb.ClusterID(), TopicName: *t.Topic, IsInternal: t.IsInternal,
		PartitionsCount: len(t.Partitions), Partitions: link{u + "/partitions"}, Configs: link{u + "/configs"},
		PartitionReassignments: link{u + "/partitions/-/reassignment"}, AuthorizedOperations: []string{},
	}
	if len(t.Partitions) > 0 {
		out.ReplicationFactor = len(t.Partitions[0].Replicas)
	}
	return out
}

func getTopics(x *exchange) *answer {
	ctx, cancel := x.ctx()
	defer cancel()
	m, err := x.sb.broker.metadata(ctx, nil)
	if err != nil {
		return adminError(err)
	}
	out := list[topicData]{"KafkaTopicList", listMeta{Self: x.clusterURL() + "/topics"}, []topicData{}}
	for i := range m.Topics {
		if t := &m.Topics[i]; t.Topic != nil && t.ErrorCode == 0 {
			out.Data = append(out.Data, x.topicData(t))
		}
	}
	sort.Slice(out.Data, func(i, j int) bool { return out.Data[i].TopicName < out.Data[j].TopicName })
	return jsonAnswer(200, out)
}

// topic looks up the topic in the path.
func (x *exchange) topic() (*kmsg.MetadataResponseTopic, *answer) {
	name := x.params["topic"]
	ctx, cancel := x.ctx()
	defer cancel()
	m, err := x.sb.broker.metadata(ctx, []string{name})
	if err != nil {
		return nil, adminError(err)
	}
	for i := range m.Topics {
		t := &m.Topics[i]
		if t.Topic == nil || *t.Topic != name {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return nil, adminError(err)
		}
		return t, nil
	}
	return nil, adminError(kerr.UnknownTopicOrPartition)
}

func getTopic(x *exchange) *answer {
	t, a := x.topic()
	if a != nil {
		return a
	}
	return jsonAnswer(200, x.topicData(t))
}

func (x *exchange) partitionData(topic string, p *kmsg.MetadataResponseTopicPartition) partitionData {
	u := fmt.Sprintf("%s/topics/%s/partitions/%d", x.clusterURL(), topic, p.Partition)
	out := partitionData{
		Kind: "KafkaPartition", Metadata: x.resource(u, fmt.Sprintf("/topic=%s/partition=%d", topic, p.Partition)),
		ClusterID: x.sb.ClusterID(), TopicName: topic, PartitionID: p.Partition,
		Replicas: link{u + "/replicas"}, Reassignment: link{u + "/reassignment"},
	}
	if p.Leader >= 0 {
		out.Leader = &link{fmt.Sprintf("%s/replicas/%d", u, p.Leader)}
	}
	return out
}

func getPartitions(x *exchange) *answer {
	t, a := x.topic()
	if a != nil {
		return a
	}
	out := list[partitionData]{"KafkaPartitionList", listMeta{Self: x.clusterURL() + "/topics/" + *t.Topic + "/partitions"}, []partitionData{}}
	for i := range t.Partitions {
		out.Data = append(out.Data, x.partitionData(*t.Topic, &t.Partitions[i]))
	}
	sort.Slice(out.Data, func(i, j int) bool { return out.Data[i].PartitionID < out.Data[j].PartitionID })
	return jsonAnswer(200, out)
}

func getPartition(x *exchange) *answer {
	t, a := x.topic()
	if a != nil {
		return a
	}
	n, err := strconv.ParseInt(x.params["partition"], 10, 32)
	if err != nil {
		return statusError(404)
	}
	for i := range t.Partitions {
		if t.Partitions[i].Partition == int32(n) {
			return jsonAnswer(200, x.partitionData(*t.Topic, &t.Partitions[i]))
		}
	}
	return restError(404, 40402, "%s", usualText(40402, "", 0))
}

// createTopic is the CreateTopicRequest of the OpenAPI document.
type createTopic struct {
	TopicName         *string           `json:"topic_name"`
	PartitionsCount   *int32            `json:"partitions_count"`
	ReplicationFactor *int16            `json:"replication_factor"`
	Assignments       map[int32][]int32 `json:"replicas_assignments"`
	Configs           []struct {
		Name  *string `json:"name"`
		Value *string `json:"value"`
	} `json:"configs"`
	ValidateOnly bool `json:"validate_only"`
}

func postTopic(x *exchange) *answer {
	var in createTopic
	if a := x.decode(&in); a != nil {
		return a
	}
	if in.TopicName == nil {
		return restError(422, 422, "topic_name must not be null")
	}
	if err := checkTopicName(*in.TopicName); err != nil {
		return restError(422, 42206, "Topic name is invalid: %s", err)
	}
	if in.Assignments != nil {
		return restError(400, 40002, "Replica assignments cannot be chosen here: this cluster has one broker.")
	}
	partitions, replication := int32(-1), int16(-1)
	if in.PartitionsCount != nil {
		partitions = *in.PartitionsCount
	}
	if in.ReplicationFactor != nil {
		replication = *in.ReplicationFactor
	}
	configs := map[string]*string{}
	for _, c := range in.Configs {
		if c.Name == nil {
			return restError(422, 422, "configs.name must not be null")
		}
		configs[*c.Name] = c.Value
	}
	ctx, cancel := x.ctx()
	defer cancel()
	if err := x.sb.broker.createTopic(ctx, *in.TopicName, partitions, replication, configs, in.ValidateOnly); err != nil {
		if errors.Is(err, kerr.TopicAlreadyExists) {
			return restError(400, 40002, "Topic '%s' already exists.", *in.TopicName)
		}
		return adminError(err)
	}
	if in.ValidateOnly {
		u := x.clusterURL() + "/topics/" + *in.TopicName
		t := x.topicData(&kmsg.MetadataResponseTopic{Topic: in.TopicName})
		t.PartitionsCount, t.ReplicationFactor = int(max(partitions, 0)), int(max(replication, 0))
		return jsonAnswer(200, t).with("Location", u)
	}
	x.params["topic"] = *in.TopicName
	t, a := x.topic()
	if a != nil {
		return a
	}
	out := x.topicData(t)
	return jsonAnswer(201, out).with("Location", out.Metadata.Self)
}

// maxAdminBody bounds the body of an admin request.
const maxAdminBody = 1 << 20

// decode reads the request's body into v, refusing members v does not have.
func (x *exchange) decode(v any) *answer {
	if a := badContentType(x.req); a != nil {
		return a
	}
	if x.req.expect {
		_ = x.c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
		x.req.expect = false
	}
	b := newBody(x.c.br, x.req)
	var raw []byte
	for {
		var err error
		if raw, err = b.appendNext(raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			x.req.close = true
			return restError(400, 400, "Bad Request: the body ended early")
		}
		if len(raw) > maxAdminBody {
			x.req.close = true
			return statusError(413)
		}
	}
	x.req.chunked, x.req.contentLength = false, -1 // it has been read
	if !json.Valid(raw) {
		return restError(400, 400, "Bad Request: Malformed JSON")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return restError(422, 422, "%s", err)
	}
	return nil
}
