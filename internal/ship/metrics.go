package ship

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// Metrics turns a run's books and its pool's figures into Prometheus metrics.
// They are read when somebody scrapes; shipping pays for none but the latency
// histogram, which is observed once a batch.
type Metrics struct {
	run     atomic.Pointer[Run]
	cluster string
	route   string
	input   string
	latency prometheus.Histogram
	desc    map[string]*prometheus.Desc
}

// BuildInfo is what produce_agent_build_info says.
type BuildInfo struct{ Version, Revision, GoVersion string }

// latencyBuckets reach from loopback (100 µs) to the longest a server may
// block (75 s), four to a decade.
var latencyBuckets = prometheus.ExponentialBucketsRange(100e-6, 75, 24)

// NewMetrics registers the metrics of one run. cluster, route and input are
// the values of those labels.
func NewMetrics(reg prometheus.Registerer, build BuildInfo, cluster, route, input string) *Metrics {
	m := &Metrics{
		cluster: cluster, route: route, input: input, desc: map[string]*prometheus.Desc{},
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:        "produce_agent_delivery_latency_seconds",
			Help:        "Time from writing a batch to its last delivery report.",
			ConstLabels: prometheus.Labels{"cluster": cluster}, Buckets: latencyBuckets,
		}),
	}
	for _, d := range []struct {
		name, help string
		labels     []string
	}{
		{"input_records_total", "Records read from the input.", []string{"input"}},
		{"input_bytes_total", "Bytes read from the input.", []string{"input"}},
		{"records_sent_total", "Records written to streams, those sent again among them.", []string{"cluster", "route"}},
		{"sent_bytes_total", "Encoded bytes of records written to streams.", []string{"cluster", "route"}},
		{"delivery_reports_total", "Delivery reports by error code; 200 is delivered.", []string{"cluster", "route", "error_code"}},
		{"records_in_flight", "Records sent and not yet reported.", []string{"cluster"}},
		{"retries_total", "Records to be sent again, by reason.", []string{"cluster", "reason"}},
		{"possibly_duplicated_records_total", "Records sent again whose fate was unknown.", []string{"cluster"}},
		{"rejected_records_total", "Records kept in the dead letter, by reason.", []string{"route", "reason"}},
		{"streams_open", "Streams open now.", []string{"cluster"}},
		{"streams_opened_total", "Streams opened.", []string{"cluster"}},
		{"streams_closed_total", "Streams ended, by reason.", []string{"cluster", "reason"}},
		{"limiter_wait_seconds_total", "Time spent waiting for a limit.", []string{"cluster", "limit"}},
		{"limit_configured", "Limits in force a second (message_bytes: of one message); 0 is none.", []string{"cluster", "limit"}},
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

// Latency observes the time from sending to report, in seconds.
func (m *Metrics) Latency(seconds float64) { m.latency.Observe(seconds) }

// Watch makes r the run the metrics tell of.
func (m *Metrics) Watch(r *Run) { m.run.Store(r) }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.desc {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	r := m.run.Load()
	if r == nil {
		return
	}
	s, st := r.Now()
	counter := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc[name], prometheus.CounterValue, v, labels...)
	}
	gauge := func(name string, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc[name], prometheus.GaugeValue, v, labels...)
	}
	counter("input_records_total", float64(s.Read), m.input)
	counter("input_bytes_total", float64(s.BytesRead), m.input)
	counter("records_sent_total", float64(st.Sent), m.cluster, m.route)
	counter("sent_bytes_total", float64(st.SentBytes), m.cluster, m.route)
	for code, n := range st.Codes {
		counter("delivery_reports_total", float64(n), m.cluster, m.route, strconv.Itoa(code))
	}
	gauge("records_in_flight", float64(st.InFlight), m.cluster)
	for reason, n := range st.Retried {
		counter("retries_total", float64(n), m.cluster, reason)
	}
	counter("possibly_duplicated_records_total", float64(st.Unknown), m.cluster)
	for reason, n := range s.Reasons {
		counter("rejected_records_total", float64(n), m.route, reason)
	}
	gauge("streams_open", float64(st.Open), m.cluster)
	counter("streams_opened_total", float64(st.Opened), m.cluster)
	for reason, n := range st.Closed {
		counter("streams_closed_total", float64(n), m.cluster, reason)
	}
	for limit, d := range st.Waited {
		counter("limiter_wait_seconds_total", d.Seconds(), m.cluster, limit)
	}
	m.limits(r.env.Profile, gauge)
	gauge("limit_records_per_second", st.PerSecond, m.cluster)
}

func (m *Metrics) limits(p limit.Profile, gauge func(string, float64, ...string)) {
	gauge("limit_configured", p.Connections, m.cluster, "connections")
	gauge("limit_configured", p.Records, m.cluster, "records")
	gauge("limit_configured", p.Bytes, m.cluster, "bytes")
	gauge("limit_configured", float64(p.MessageBytes), m.cluster, "message_bytes")
}
