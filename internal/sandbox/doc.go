// Package sandbox is a Confluent Kafka REST v3 server for trying, testing and
// measuring producers without a cluster.
//
// It serves …/v3/clusters/{id}/topics/{topic}/records (streaming and not: one
// handler, as in the real server), records:batch, the v2 API in the manner of
// four servers, the endpoints that hand out tokens, and the few admin routes a producer needs,
// in front of a Kafka-protocol broker: kfake in the same process, or any real
// Kafka named by Config.Brokers, and then it is a small REST gateway. Whatever
// a producer can meet (rate limits of both kinds, 408, terminal 400, cut and
// reset connections, stalls, slow partitions, odd framing) can be scripted
// with Faults.
//
// The HTTP side is written on the bare connection, because net/http neither
// streams both ways by default nor can end, cut or reset a response in the
// places where the real server does.
//
// It shares no code with the rest of the program: records are decoded by the
// real server's rules, so that a mistake of the client cannot be hidden by the
// same mistake here.
//
// Source: the behaviour of confluentinc/kafka-rest (StreamingResponse,
// ProduceAction, RecordSerializer, EmbeddedFormat) and rest-utils, of
// Jackson's MappingIterator and UTF8StreamJsonParser, Jetty's DoSFilter and
// GzipHandler; names and shapes from the Confluent REST v3 OpenAPI document.
package sandbox
