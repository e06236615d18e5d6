package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Topic is a topic to have from the start.
type Topic struct {
	Name       string
	Partitions int
}

// Config sets up a Sandbox. Start from DefaultConfig.
type Config struct {
	Listen      string   // host:port of the REST side; port 0 takes a free one
	KafkaListen string   // host:port of the Kafka side; unused with Brokers
	KafkaHost   string   // host that Kafka clients are told to connect to; "" is KafkaListen's
	Brokers     []string // a real Kafka in place of the one in the process
	DataDir     string   // where the Kafka in the process keeps its records; "" is a temporary one, removed by Close
	ClusterID   string   // "" is DefaultClusterID, or with Brokers what they say

	Topics               []Topic // created when missing
	AutoCreate           bool    // a topic produced to is created when missing
	AutoCreatePartitions int     // with how many partitions

	Credentials   map[string]string // API key to secret; empty: no authentication
	AuthFiles     []string          // "key:FILE", the file holding the secret, or "bearer:FILE", the file holding a token; read by Start, a token's file at each request
	BearerTokens  []string          // tokens let in; see also SetBearerTokens
	OAuth         []OAuthClient     // clients that may fetch tokens
	Audience      string            // what a token must be asked for; "" is not looked at
	ClientCA      []byte            // with TLS: PEM; only clients with a certificate of it are let in
	ClientCAFile  string            // the same from a file
	TLS           bool              // serve https with a certificate made at start
	CAFile        string            // with TLS: write the certificate to trust there (PEM)
	AllowRemote   bool              // allow addresses other than loopback
	AnyClusterID  bool              // produce to any cluster id, as a self-managed REST Proxy does
	NoGzip        bool              // ignore Accept-Encoding: gzip
	HideTerminal  bool              // on idle time-out just cut the connection, without the terminal 400
	LimitsProfile string            // what --limits said; Start reads Limits

	Limits Limits
	Faults Faults

	MaxBlock    time.Duration // how long a record for an unknown topic or partition blocks its stream
	IdleTimeout time.Duration // a connection without a byte either way ends; 0 = never
	MaxAge      time.Duration // a stream older than this draws 408s
	MaxAgeGrace time.Duration // from the first 408 to the end of the response
	MaxAgeDrop  bool          // records reported 408 are not in Kafka (the real server has produced them)
	MaxRun      time.Duration // a produce request older than this is cut, or answered 503 before its first report; 0 = never
	MaxInFlight int           // records of one stream read and not yet reported; its reading waits above it
	Linger      time.Duration // how long the Kafka producer gathers records

	// OnStored is called for every record that Kafka has acknowledged, once
	// per acknowledgement, also when a fault keeps that from the client.
	//
	// Ownership: key and value must not be changed. Concurrency: it is called
	// by the Kafka client's goroutine and holds up all reports; of a record that
	// was refused with its batch and sent again by itself, by another.
	OnStored func(topic string, partition int32, offset int64, key, value []byte)

	Logger *slog.Logger // nil: nothing is logged

	clock    func() time.Time // nil: time.Now; what limits and ages go by
	reachFor time.Duration    // how long to look for Kafka at start; 0: ReachKafka
}

// DefaultClusterID is the cluster id without Config.ClusterID.
const DefaultClusterID = "lkc-sandbox"

// ReachKafka is how long Start looks for a Kafka that does not answer.
const ReachKafka = 30 * time.Second

// ErrFaultHelp is what --fault help ends flag parsing with: the caller prints
// FaultHelp and stops.
var ErrFaultHelp = errors.New("help on faults asked for")

// DefaultConfig is a self-managed REST Proxy's defaults on loopback: max.block.ms
// of 60 s, idle.timeout.ms of 30 s, streaming.connection.max.duration.ms of
// 24 h and its grace of 500 ms, no limits. In flight are at most 8192 records a
// stream: about a second's work of one core, and 8192 x 200 bytes = 1.6 MB. The
// producer lingers 1 ms: reports of a lone record stay quick, a busy stream
// fills batches anyway.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:8082", KafkaListen: "127.0.0.1:9092",
		AutoCreatePartitions: 3, LimitsProfile: "none",
		MaxBlock: 60 * time.Second, IdleTimeout: 30 * time.Second,
		MaxAge: 24 * time.Hour, MaxAgeGrace: 500 * time.Millisecond,
		MaxInFlight: 8192, Linger: time.Millisecond,
	}
}

// Flags adds the configuration's flags to fs.
func (c *Config) Flags(fs *pflag.FlagSet) {
	fs.StringVar(&c.Listen, "listen", c.Listen, "address of the REST side, `host:port`; port 0 takes a free one")
	fs.StringVar(&c.KafkaListen, "kafka-listen", c.KafkaListen, "address of the Kafka side, `host:port`; unused with --brokers")
	fs.StringVar(&c.KafkaHost, "kafka-host", c.KafkaHost, "`host` that Kafka clients are told to connect to; needed when --kafka-listen takes every address")
	fs.StringSliceVar(&c.Brokers, "brokers", c.Brokers, "be a REST gateway to this Kafka, `host:port,...`, in place of the one in the process")
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "where the Kafka in the process keeps its records, `folder`; empty: a temporary one, removed at exit")
	fs.StringVar(&c.ClusterID, "cluster-id", c.ClusterID, "cluster `id`; empty: "+DefaultClusterID+", or what --brokers say")
	fs.Var(topicFlag{&c.Topics}, "topic", "create this topic when missing, `name[:partitions]` (1 partition); may be repeated")
	fs.BoolVar(&c.AutoCreate, "auto-create", c.AutoCreate, "create a topic when it is first produced to; see also --auto-create-partitions")
	fs.IntVar(&c.AutoCreatePartitions, "auto-create-partitions", c.AutoCreatePartitions, "partitions of a topic made by --auto-create, 1..1000")
	fs.StringArrayVar(&c.AuthFiles, "auth", c.AuthFiles, "ask for this API key, `key:FILE`, the file holding its secret; bearer:FILE asks for the token in the file, which is read anew for each request; may be repeated")
	fs.Var(oauthFlag{&c.OAuth}, "oauth", "ask for a token that this client got from POST /oauth/token, or for one of /sts/v1/oauth2/token, `id:FILE[,ttl=15m][,pool=ID]`, the file holding its secret; with pool= the header Confluent-Identity-Pool-Id is needed; may be repeated")
	fs.StringVar(&c.Audience, "audience", c.Audience, "`audience` that tokens must be asked for; empty: any")
	fs.BoolVar(&c.TLS, "tls", c.TLS, "serve https, with a certificate made at start; see also --ca-out")
	fs.StringVar(&c.ClientCAFile, "tls-client-ca", c.ClientCAFile, "with --tls: let in only clients with a certificate that this `file` (PEM) vouches for")
	fs.StringVar(&c.CAFile, "ca-out", c.CAFile, "with --tls: write the certificate to trust to this `file` (PEM)")
	fs.BoolVar(&c.AllowRemote, "allow-remote", c.AllowRemote, "allow --listen and --kafka-listen on addresses other than loopback")
	fs.BoolVar(&c.AnyClusterID, "any-cluster-id", c.AnyClusterID, "accept any cluster id when producing, as a self-managed REST Proxy does; without it an unknown one is 404, as on Confluent Cloud")
	fs.BoolVar(&c.NoGzip, "no-gzip", c.NoGzip, "ignore Accept-Encoding: gzip; without it such a client gets its reports late and in blocks, as from the real server")
	fs.BoolVar(&c.HideTerminal, "idle-cut", c.HideTerminal, "when a stream is idle too long just close it, without a terminal report")
	fs.StringVar(&c.LimitsProfile, "limits", c.LimitsProfile, "what the cluster allows: none, basic, standard, enterprise, freight, dedicated:CKU, and numbers that replace a profile's: posts=, records=, bytes= (per second), message= (bytes; KB, MB, KiB, MiB may follow), burst= (share of a second), terminal, jetty-json; `profile[,name=n...]`")
	fs.Var(faultFlag{&c.Faults}, "fault", "script a fault, `NAME[=VALUE][,PARAMETER=VALUE...]`; may be repeated; --fault help lists them")
	fs.DurationVar(&c.MaxBlock, "max-block", c.MaxBlock, "how long a record for an unknown topic or partition blocks its stream before it draws 40401 (max.block.ms)")
	fs.DurationVar(&c.IdleTimeout, "idle-timeout", c.IdleTimeout, "close a connection without a byte in either direction for this long (idle.timeout.ms); 0 = never")
	fs.DurationVar(&c.MaxAge, "max-age", c.MaxAge, "records on a stream older than this draw 408 (streaming.connection.max.duration.ms)")
	fs.DurationVar(&c.MaxAgeGrace, "max-age-grace", c.MaxAgeGrace, "from the first 408 to the end of the response")
	fs.BoolVar(&c.MaxAgeDrop, "max-age-drop", c.MaxAgeDrop, "keep records that draw 408 out of Kafka; the real server has produced them all the same")
	fs.DurationVar(&c.MaxRun, "max-run", c.MaxRun, "cut a produce request at this age, 503 when nothing was sent yet (dos.filter.max.requests.ms); 0 = never")
	fs.IntVar(&c.MaxInFlight, "max-in-flight", c.MaxInFlight, "records of one stream read and not yet reported, 1..1000000; reading waits above it")
	fs.DurationVar(&c.Linger, "linger", c.Linger, "how long the Kafka producer gathers records, 0..1s")
}

// Validate names the first flag that cannot be, its value and its bounds.
func (c *Config) Validate() error {
	for _, l := range []struct{ flag, addr string }{{"listen", c.Listen}, {"kafka-listen", c.KafkaListen}} {
		if l.flag == "kafka-listen" && len(c.Brokers) > 0 {
			continue
		}
		host, port, err := net.SplitHostPort(l.addr)
		if err != nil {
			return fmt.Errorf("--%s=%s: want host:port: %w", l.flag, l.addr, err)
		}
		if ip := net.ParseIP(host); !c.AllowRemote && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("--%s=%s: not a loopback address; --allow-remote lets others reach the sandbox", l.flag, l.addr)
		}
		if ip := net.ParseIP(host); l.flag == "kafka-listen" && c.KafkaHost == "" && (host == "" || ip != nil && ip.IsUnspecified()) {
			return fmt.Errorf("--kafka-listen=%s: Kafka clients must be told which host to connect to, by --kafka-host (they use port %s)", l.addr, port)
		}
	}
	for _, t := range c.Topics {
		if err := checkTopicName(t.Name); err != nil {
			return fmt.Errorf("--topic=%s: %w", t.Name, err)
		}
		if t.Partitions < 1 || t.Partitions > 1000 {
			return fmt.Errorf("--topic=%s:%d: partitions must be 1..1000", t.Name, t.Partitions)
		}
	}
	for _, d := range []struct {
		flag string
		v    time.Duration
		min  time.Duration
	}{
		{"max-block", c.MaxBlock, time.Millisecond},
		{"idle-timeout", c.IdleTimeout, 0},
		{"max-age", c.MaxAge, time.Millisecond},
		{"max-age-grace", c.MaxAgeGrace, 0},
		{"max-run", c.MaxRun, 0},
		{"linger", c.Linger, 0},
	} {
		if d.v < d.min {
			return fmt.Errorf("--%s=%s: must be at least %s", d.flag, d.v, d.min)
		}
	}
	if err := c.validateAuth(); err != nil {
		return err
	}
	switch {
	case c.Linger > time.Second:
		return fmt.Errorf("--linger=%s: must be 0..1s", c.Linger)
	case c.AutoCreatePartitions < 1 || c.AutoCreatePartitions > 1000:
		return fmt.Errorf("--auto-create-partitions=%d: must be 1..1000", c.AutoCreatePartitions)
	case c.MaxInFlight < 1 || c.MaxInFlight > 1_000_000:
		return fmt.Errorf("--max-in-flight=%d: must be 1..1000000", c.MaxInFlight)
	case len(c.Brokers) > 0 && c.DataDir != "":
		return fmt.Errorf("--data-dir=%s: there is no Kafka in the process with --brokers", c.DataDir)
	case strings.ContainsAny(c.ClusterID, "/?#% "):
		return fmt.Errorf("--cluster-id=%s: must be usable in a path", c.ClusterID)
	}
	if _, err := c.limits(); err != nil {
		return fmt.Errorf("--limits=%s: %w", c.LimitsProfile, err)
	}
	if err := c.Faults.Validate(); err != nil {
		return fmt.Errorf("--fault: %w", err)
	}
	return nil
}

// validateAuth looks at what decides who may come in.
func (c *Config) validateAuth() error {
	for _, a := range c.AuthFiles {
		if key, file, ok := strings.Cut(a, ":"); !ok || key == "" || file == "" {
			return fmt.Errorf("--auth: want key:FILE, the file holding the secret")
		}
	}
	for _, cl := range c.OAuth {
		if cl.TTL < 0 || cl.TTL > 0 && cl.TTL < time.Second {
			return fmt.Errorf("--oauth: client %q: ttl=%s: must be at least 1s", cl.ID, cl.TTL)
		}
	}
	switch {
	case (c.ClientCAFile != "" || c.ClientCA != nil) && !c.TLS:
		return fmt.Errorf("--tls-client-ca=%s: needs --tls", c.ClientCAFile)
	case c.Audience != "" && len(c.OAuth) == 0:
		return fmt.Errorf("--audience=%s: needs --oauth", c.Audience)
	case c.CAFile != "" && !c.TLS:
		return fmt.Errorf("--ca-out=%s: needs --tls", c.CAFile)
	}
	return nil
}

// limits are Limits when set, else what LimitsProfile says.
func (c *Config) limits() (Limits, error) {
	if c.Limits != (Limits{}) {
		return c.Limits, nil
	}
	return ParseLimits(c.LimitsProfile)
}

// topicFlag is []Topic as a repeatable flag.
type topicFlag struct{ ts *[]Topic }

func (v topicFlag) String() string { return "" }
func (v topicFlag) Type() string   { return "name[:partitions]" }

func (v topicFlag) Set(s string) error {
	name, count, ok := strings.Cut(s, ":")
	t := Topic{Name: name, Partitions: 1}
	if ok {
		n, err := strconv.Atoi(count)
		if err != nil {
			return fmt.Errorf("topic %q: %q is not a number of partitions", name, count)
		}
		t.Partitions = n
	}
	*v.ts = append(*v.ts, t)
	return nil
}

var legalTopic = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

// checkTopicName applies Kafka's rule; kfake takes any name.
// Source: Apache Kafka org.apache.kafka.common.internals.Topic.
func checkTopicName(name string) error {
	switch {
	case name == "":
		return errors.New("the empty string is not allowed")
	case name == "." || name == "..":
		return fmt.Errorf("'%s' is not allowed", name)
	case len(name) > 249:
		return fmt.Errorf("the length of '%s' is longer than the max allowed length 249", name)
	case !legalTopic.MatchString(name):
		return fmt.Errorf("'%s' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'", name)
	}
	return nil
}
