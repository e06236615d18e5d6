package ship

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics turns the figures of a run into Prometheus metrics. They are read when
// somebody scrapes; shipping pays for none but the latency histogram, which is
// observed once a batch.
type Metrics struct {
	run     atomic.Pointer[func() Figures]
	latency *prometheus.HistogramVec
	desc    map[string]*prometheus.Desc
}

// BuildInfo is what produce_agent_build_info says.
type BuildInfo struct{ Version, Revision, GoVersion string }

// latencyBuckets reach from loopback (100 µs) to the longest a server may
// block (75 s), four to a decade.
var latencyBuckets = prometheus.ExponentialBucketsRange(100e-6, 75, 24)

// NewMetrics registers the metrics of one run.
func NewMetrics(reg prometheus.Registerer, build BuildInfo) *Metrics {
	m := &Metrics{
		desc: map[string]*prometheus.Desc{},
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "produce_agent_delivery_latency_seconds",
			Help:    "Time from writing a batch to its last delivery report.",
			Buckets: latencyBuckets,
		}, []string{"cluster"}),
	}
	for _, d := range []struct {
		name, help string
		labels     []string
	}{
		{"input_records_total", "Records read from the input.", []string{"input"}},
		{"input_bytes_total", "Bytes read from the input.", []string{"input"}},
		{"input_lag_bytes", "Bytes in the input's files that are not read yet.", []string{"input"}},
		{"checkpoint_age_seconds", "Since the last checkpoint, while there is something to be kept; 0 when all is.", []string{"input"}},
		{"records_sent_total", "Records written to streams, those sent again among them.", []string{"cluster", "route"}},
		{"sent_bytes_total", "Encoded bytes of records written to streams.", []string{"cluster", "route"}},
		{"delivery_reports_total", "Delivery reports by error code; 200 is delivered.", []string{"cluster", "route", "error_code"}},
		{"records_in_flight", "Records sent and not yet reported.", []string{"cluster"}},
		{"records_waiting_for_key", "Records that wait for an earlier one of their key, or with ordering strict of their topic.", []string{"cluster"}},
		{"retries_total", "Records to be sent again, by reason.", []string{"cluster", "reason"}},
		{"possibly_duplicated_records_total", "Records sent again whose fate was unknown.", []string{"cluster"}},
		{"rejected_records_total", "Records kept in the dead letter, by reason.", []string{"route", "reason"}},
		{"streams_open", "Streams open now.", []string{"cluster"}},
		{"streams_opened_total", "Streams opened.", []string{"cluster"}},
		{"streams_closed_total", "Streams ended, by reason.", []string{"cluster", "reason"}},
		{"limiter_wait_seconds_total", "Time spent waiting for a limit.", []string{"cluster", "limit"}},
		{"limit_configured", "This agent's part of the cluster's limits a second (message_bytes: of one message); 0 is none.", []string{"cluster", "limit"}},
		{"limit_found", "What the cluster's 429s have shown to be there, a second; 0 while nothing is searched for.", []string{"cluster", "limit"}},
		{"buffer_bytes", "Bytes of the route's disk buffer.", []string{"route"}},
		{"buffer_capacity_bytes", "Bytes the route's disk buffer may have.", []string{"route"}},
		{"buffer_records", "Records in the route's disk buffer that are not delivered.", []string{"route"}},
		{"buffer_oldest_seconds", "Age of the oldest of them, at most.", []string{"route"}},
		{"buffer_dropped_records_total", "Records that the buffer dropped, as its when_full says.", []string{"route"}},
		{"buffer_damaged_records_total", "Records of the buffer that could not be read back.", []string{"route"}},
		{"buffer_sync_errors_total", "Failed writes and syncs of the buffer.", []string{"route"}},
		{"config_last_reload_successful", "1: the last SIGHUP took the configuration over, or there was none; 0: it was refused and the old one is in force.", nil},
		{"limit_records_per_second", "Records a second allowed at present, below the configured limit while the cluster says 429; 0 is none.", []string{"cluster"}},
	} {
		m.desc[d.name] = prometheus.NewDesc("produce_agent_"+d.name, d.help, d.labels, nil)
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "produce_agent_build_info", Help: "What this binary was built from; always 1.",
		ConstLabels: prometheus.Labels{"version": build.Version, "revision": build.Revision, "goversion": build.GoVersion},
	})
	info.Set(1)
	reg.MustRegister(info, m.latency, m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Latency returns the observer of a cluster's time from sending to report, in
// seconds.
func (m *Metrics) Latency(cluster string) func(seconds float64) {
	return m.latency.WithLabelValues(cluster).Observe
}

// Watch makes figures what the metrics tell.
func (m *Metrics) Watch(figures func() Figures) { m.run.Store(&figures) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.desc {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	run := m.run.Load()
	if run == nil {
		return
	}
	f := (*run)()
	to := emitter{m, ch}
	for _, in := range f.Inputs {
		to.counter("input_records_total", float64(in.Records), in.Name)
		to.counter("input_bytes_total", float64(in.Bytes), in.Name)
		if in.Lag >= 0 {
			to.gauge("input_lag_bytes", float64(in.Lag), in.Name)
		}
		if in.Kept {
			to.gauge("checkpoint_age_seconds", in.Checkpoint.Seconds(), in.Name)
		}
	}
	for i := range f.Clusters {
		to.cluster(&f.Clusters[i])
	}
	for _, r := range f.Routes {
		to.gauge("buffer_bytes", float64(r.Bytes), r.Name)
		to.gauge("buffer_capacity_bytes", float64(r.Capacity), r.Name)
		to.gauge("buffer_records", float64(r.Pending), r.Name)
		to.gauge("buffer_oldest_seconds", r.Oldest.Seconds(), r.Name)
		to.counter("buffer_dropped_records_total", float64(r.Dropped), r.Name)
		to.counter("buffer_damaged_records_total", float64(r.Damaged), r.Name)
		to.counter("buffer_sync_errors_total", float64(r.SyncErrors), r.Name)
	}
	for why, n := range f.Rejected {
		to.counter("rejected_records_total", float64(n), why[0], why[1])
	}
	worked := 1.0
	if f.Reload < 0 {
		worked = 0
	}
	to.gauge("config_last_reload_successful", worked)
}

// emitter sends metrics to one scrape.
type emitter struct {
	m  *Metrics
	ch chan<- prometheus.Metric
}

func (e emitter) counter(name string, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(e.m.desc[name], prometheus.CounterValue, v, labels...)
}

func (e emitter) gauge(name string, v float64, labels ...string) {
	e.ch <- prometheus.MustNewConstMetric(e.m.desc[name], prometheus.GaugeValue, v, labels...)
}

func (e emitter) cluster(c *ClusterFigures) {
	for route, r := range c.Routes {
		e.counter("records_sent_total", float64(r.Sent), c.Name, route)
		e.counter("sent_bytes_total", float64(r.SentBytes), c.Name, route)
		for code, n := range r.Codes {
			e.counter("delivery_reports_total", float64(n), c.Name, route, strconv.Itoa(code))
		}
	}
	e.gauge("records_in_flight", float64(c.InFlight), c.Name)
	e.gauge("records_waiting_for_key", float64(c.Behind), c.Name)
	for reason, n := range c.Retried {
		e.counter("retries_total", float64(n), c.Name, reason)
	}
	e.counter("possibly_duplicated_records_total", float64(c.Unknown), c.Name)
	e.gauge("streams_open", float64(c.Open), c.Name)
	e.counter("streams_opened_total", float64(c.Opened), c.Name)
	for reason, n := range c.Closed {
		e.counter("streams_closed_total", float64(n), c.Name, reason)
	}
	for limit, d := range c.Waited {
		e.counter("limiter_wait_seconds_total", d.Seconds(), c.Name, limit)
	}
	if c.Gone { // its limits would read as none
		return
	}
	e.gauge("limit_configured", c.Limits.Connections, c.Name, "connections")
	e.gauge("limit_configured", c.Limits.Records, c.Name, "records")
	e.gauge("limit_configured", c.Limits.Bytes, c.Name, "bytes")
	e.gauge("limit_configured", float64(c.Limits.MessageBytes), c.Name, "message_bytes")
	e.gauge("limit_found", c.Found.Connections, c.Name, "connections")
	e.gauge("limit_found", c.Found.Records, c.Name, "records")
	e.gauge("limit_found", c.Found.Bytes, c.Name, "bytes")
	e.gauge("limit_records_per_second", c.PerSecond, c.Name)
}
