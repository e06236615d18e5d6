package sandbox

import (
	"context"
	"fmt"
	"time"
)

// adminWait bounds how long an admin request waits for Kafka.
const adminWait = 30 * time.Second

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

// list is the shape of every collection.
type list[T any] struct {
	Kind     string   `json:"kind"`
	Metadata listMeta `json:"metadata"`
	Data     []T      `json:"data"`
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

// base is the address of the API as the client sees it, up to and with /v3.
func (x *exchange) base() string {
	prefix := ""
	if len(x.req.path) >= 6 && x.req.path[:6] == "/kafka" {
		prefix = "/kafka"
	}
	host := x.req.get("Host")
	if host == "" {
		host = x.sb.ln.Addr().String()
	}
	scheme := "http://"
	if x.sb.tls != nil {
		scheme = "https://"
	}
	return scheme + host + prefix + "/v3"
}

// clusterURL is the address of the cluster's own resource.
func (x *exchange) clusterURL() string { return x.base() + "/clusters/" + x.sb.ClusterID() }

// ctx bounds what a request asks of Kafka.
func (x *exchange) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(x.sb.ctx, adminWait)
}

// resource makes metadata with a resource name of Confluent's kind.
func (x *exchange) resource(self, path string) meta {
	crn := "crn:///kafka=" + x.sb.ClusterID() + path
	return meta{self, &crn}
}

func getClusters(x *exchange) *answer {
	c, a := x.cluster()
	if a != nil {
		return a
	}
	return jsonAnswer(200, list[clusterData]{"KafkaClusterList", listMeta{Self: x.base() + "/clusters"}, []clusterData{c}})
}

func getCluster(x *exchange) *answer {
	c, a := x.cluster()
	if a != nil {
		return a
	}
	return jsonAnswer(200, c)
}

func (x *exchange) cluster() (clusterData, *answer) {
	ctx, cancel := x.ctx()
	defer cancel()
	m, err := x.sb.broker.metadata(ctx, []string{})
	if err != nil {
		return clusterData{}, adminError(err)
	}
	u := x.clusterURL()
	return clusterData{
		Kind: "KafkaCluster", Metadata: x.resource(u, ""), ClusterID: x.sb.ClusterID(),
		Controller: link{fmt.Sprintf("%s/brokers/%d", u, m.ControllerID)},
		ACLs:       link{u + "/acls"}, Brokers: link{u + "/brokers"}, BrokerConfigs: link{u + "/broker-configs"},
		ConsumerGroups: link{u + "/consumer-groups"}, Topics: link{u + "/topics"},
		PartitionReassignments: link{u + "/topics/-/partitions/-/reassignment"},
	}, nil
}
