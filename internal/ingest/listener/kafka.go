package listener

import (
	"encoding/json"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"github.com/produce-agent/produce-agent/internal/ingest"
)

// routeKafka finds out what a request for REST v3 is for. base is its path up to
// /v3, rest what is behind that.
// Source: Confluent REST v3 OpenAPI; specs of listKafkaClusters,
// getKafkaCluster, getKafkaTopic, produceRecord.
func (l *Listener) routeKafka(ctx *fasthttp.RequestCtx, base, rest string) (target, *refusal) {
	if !l.accepts(AcceptKafka) {
		return target{}, refuse(fasthttp.StatusNotFound, "this input takes no Kafka REST v3: its accept does not name kafka_rest_v3")
	}
	scheme := "http://"
	if l.cfg.TLS != nil {
		scheme = "https://"
	}
	t := target{base: scheme + string(ctx.Host()) + base}
	part, ok := segments(rest)
	if !ok {
		return t, refuse(fasthttp.StatusBadRequest, "Ambiguous URI path separator")
	}
	unknown := refuse(fasthttp.StatusNotFound, "HTTP 404 Not Found")
	if len(part) == 0 || part[0] != "clusters" || len(part) > 2 && part[2] != "topics" {
		return t, unknown
	}
	if len(part) > 1 {
		t.cluster = part[1]
	}
	if len(part) == 5 && part[4] == "records" {
		return l.routeProduce(ctx, t, part[3])
	}
	switch len(part) {
	case 1:
		t.serve = getClusters
	case 2:
		t.serve = getCluster
	case 4:
		t.serve, t.topic = getTopic, part[3]
	default:
		return t, unknown
	}
	if !ctx.IsGet() && !ctx.IsHead() {
		return t, &refusal{status: fasthttp.StatusMethodNotAllowed, message: "HTTP 405 Method Not Allowed", allow: "GET, HEAD"}
	}
	if l.clusterID() == "" {
		return t, full("this agent does not know the id of its cluster yet")
	}
	if len(part) > 1 {
		return t, l.checkCluster(t.cluster)
	}
	return t, nil
}

// segments cuts a path apart and decodes what is in it. A slash or a dot segment
// that is encoded has no place there.
func segments(path string) ([]string, bool) {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil, true
	}
	part := strings.Split(path, "/")
	for i, p := range part {
		plain, err := url.PathUnescape(p)
		if err != nil || plain == "" || plain == "." || plain == ".." || strings.ContainsAny(plain, "/\\\x00") {
			return nil, false
		}
		part[i] = plain
	}
	return part, true
}

// routeProduce decides on a produce request before anything of it is read.
func (l *Listener) routeProduce(ctx *fasthttp.RequestCtx, t target, topic string) (target, *refusal) {
	if !ctx.IsPost() {
		return t, &refusal{status: fasthttp.StatusMethodNotAllowed, message: "HTTP 405 Method Not Allowed", allow: "POST"}
	}
	if no := l.checkCluster(t.cluster); no != nil {
		return t, no
	}
	h := &ctx.Request.Header
	kind, params, _ := strings.Cut(strings.ToLower(string(h.ContentType())), ";")
	if kind = strings.TrimSpace(kind); kind != "" && kind != "application/json" {
		return t, refuse(fasthttp.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type: records are application/json, not %q", clip(kind, 60))
	}
	if charset := paramOf(params, "charset"); charset != "" && charset != "utf-8" && charset != "iso-8859-1" {
		return t, refuse(fasthttp.StatusBadRequest, "Bad Request: charset %q", clip(charset, 40))
	}
	if encoding, no := encodingOf(h); no != nil || encoding != "" {
		return t, refuse(fasthttp.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type: records of Kafka REST v3 cannot be compressed")
	}
	if err := ingest.CheckTopic(topic); err != nil {
		return t, &refusal{status: fasthttp.StatusBadRequest, code: 40002, message: "Topic name is invalid: " + err.Error()}
	}
	if !ingest.Allows(l.cfg.AllowTopics, topic) {
		return t, &refusal{
			status: fasthttp.StatusForbidden, code: 40301,
			message: "Not authorized to access topics: [" + topic + "] (the agent's allow_topics does not name it)",
		}
	}
	t.topic = topic
	return t, nil
}

// clusterID returns the id clients must use, "" while it is not known.
func (l *Listener) clusterID() string {
	if l.cfg.ClusterID == nil {
		return ""
	}
	return l.cfg.ClusterID()
}

// checkCluster refuses an id that is not the cluster's. While that is not known
// all are taken: records can wait for the cluster.
func (l *Listener) checkCluster(id string) *refusal {
	if known := l.clusterID(); known != "" && known != id {
		return refuse(fasthttp.StatusNotFound, "Cluster %s cannot be found.", clip(id, 100))
	}
	return nil
}

// link is a reference to another resource.
type link struct {
	Related string `json:"related"`
}

// meta is a resource's own address.
type meta struct {
	Self         string  `json:"self"`
	ResourceName *string `json:"resource_name"`
}

type listMeta struct {
	Self string  `json:"self"`
	Next *string `json:"next"`
}

// clusterData is the KafkaCluster of the OpenAPI document.
type clusterData struct {
	Kind                   string `json:"kind"`
	Metadata               meta   `json:"metadata"`
	ClusterID              string `json:"cluster_id"`
	Controller             link   `json:"controller"`
	ACLs                   link   `json:"acls"`
	Brokers                link   `json:"brokers"`
	BrokerConfigs          link   `json:"broker_configs"`
	ConsumerGroups         link   `json:"consumer_groups"`
	Topics                 link   `json:"topics"`
	PartitionReassignments link   `json:"partition_reassignments"`
}

// clusterList is the KafkaClusterList of the OpenAPI document.
type clusterList struct {
	Kind     string        `json:"kind"`
	Metadata listMeta      `json:"metadata"`
	Data     []clusterData `json:"data"`
}

// topicData is the KafkaTopic of the OpenAPI document. How many partitions there
// are only the cluster knows: 0 is said.
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

func (l *Listener) cluster(t *target) clusterData {
	id := l.clusterID()
	u, crn := t.base+"/clusters/"+id, "crn:///kafka="+id
	return clusterData{
		Kind: "KafkaCluster", Metadata: meta{u, &crn}, ClusterID: id,
		Controller: link{u + "/brokers/0"}, ACLs: link{u + "/acls"}, Brokers: link{u + "/brokers"},
		BrokerConfigs: link{u + "/broker-configs"}, ConsumerGroups: link{u + "/consumer-groups"}, Topics: link{u + "/topics"},
		PartitionReassignments: link{u + "/topics/-/partitions/-/reassignment"},
	}
}

func getClusters(l *Listener, ctx *fasthttp.RequestCtx, t *target) {
	l.sayJSON(ctx, clusterList{"KafkaClusterList", listMeta{Self: t.base + "/clusters"}, []clusterData{l.cluster(t)}})
}

func getCluster(l *Listener, ctx *fasthttp.RequestCtx, t *target) { l.sayJSON(ctx, l.cluster(t)) }

// getTopic says that a topic is there when records for it are taken.
func getTopic(l *Listener, ctx *fasthttp.RequestCtx, t *target) {
	if ingest.CheckTopic(t.topic) != nil || !ingest.Allows(l.cfg.AllowTopics, t.topic) {
		l.answer(ctx, &refusal{status: fasthttp.StatusNotFound, code: 40403, message: "This server does not host this topic-partition."})
		return
	}
	id := l.clusterID()
	u, crn := t.base+"/clusters/"+id+"/topics/"+t.topic, "crn:///kafka="+id+"/topic="+t.topic
	l.sayJSON(ctx, topicData{
		Kind: "KafkaTopic", Metadata: meta{u, &crn}, ClusterID: id, TopicName: t.topic, Partitions: link{u + "/partitions"},
		Configs: link{u + "/configs"}, PartitionReassignments: link{u + "/partitions/-/reassignment"}, AuthorizedOperations: []string{},
	})
}

func (l *Listener) sayJSON(ctx *fasthttp.RequestCtx, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic("BUG: an answer that is no JSON: " + err.Error())
	}
	l.say(ctx, fasthttp.StatusOK, body)
}
