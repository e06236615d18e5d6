// Package config reads the YAML file that says what a produce-agent does:
// clusters, inputs, and the routes between them.
//
// Every problem is found at once and has its place. What comes out is plain
// data with every default filled in: nothing is opened here but the file
// itself and the files it names.
package config

import (
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// Config is a whole configuration. Clusters, inputs and routes are in the
// order in which they are written. Paths are absolute where the file's own
// path is.
//
// The tags are the schema: key is a member's name in the file; enum the words
// it may be; range its bounds, zero what 0 means where 0 is outside of them;
// required what to do where it is missing; scalar the member that a plain value
// stands for; def a default that depends on other settings, for documents.
type Config struct {
	DataDir  string    `key:"data_dir"` // "": nothing is kept on disk
	Clusters []Cluster `key:"clusters" named:"NAME"`
	Inputs   []Input   `key:"inputs" named:"NAME"`
	Routes   []Route   `key:"routes"`
	Reports  Reports   `key:"reports"`
	Observe  Observe   `key:"observe"`

	file    string
	places  map[string]Place  // where each key is written, by its path
	written map[string]string // values that hold references, as written
}

// Cluster is a Kafka REST endpoint and how to talk to it.
type Cluster struct {
	Name               string
	RESTEndpoint       string   `key:"rest_endpoint" required:"give the cluster's REST endpoint, as https://pkc-xxxxx.region.provider.confluent.cloud:443"`
	ClusterID          string   `key:"cluster_id" def:"what the endpoint says"`
	Dialect            string   `key:"dialect" enum:"auto,v3-stream,v3-records,v3-batch,v2,v2:confluent,v2:pandaproxy,v2:karapace,v2:strimzi"`
	Auth               Auth     `key:"auth"`
	AllowPlaintextAuth bool     `key:"allow_plaintext_auth"`
	Limits             Limits   `key:"limits" scalar:"profile"`
	Streams            Streams  `key:"streams"`
	TLS                TLS      `key:"tls"`
	Proxy              ProxyURL `key:"proxy"`
}

// Auth is as whom a cluster is spoken to.
type Auth struct {
	Type           string        `key:"type" enum:"none,basic,bearer,oauth2,sts,redpanda,mtls" def:"what the keys beside it are for, else none"`
	Username       string        `key:"username"`
	Password       Secret        `key:"password"`
	TokenFile      string        `key:"token_file"`
	IdentityPoolID string        `key:"identity_pool_id"`
	OAuth2         OAuth2        `key:"oauth2"`
	STS            STS           `key:"sts"`
	Patience       time.Duration `key:"patience" range:"1s..1h" zero:"two minutes once a record was delivered, none before"`
}

// OAuth2 is a client at a token endpoint.
type OAuth2 struct {
	TokenURL       string   `key:"token_url" def:"with redpanda, Redpanda Cloud's"`
	ClientID       string   `key:"client_id"`
	ClientSecret   Secret   `key:"client_secret"`
	Scopes         []string `key:"scopes"`
	Audience       string   `key:"audience" def:"with redpanda, Redpanda Cloud's"`
	IdentityPoolID string   `key:"identity_pool_id"`
}

// STS is Confluent's token exchange.
type STS struct {
	TokenURL         string        `key:"token_url" def:"https://api.confluent.cloud/sts/v1/oauth2/token"`
	IdentityPoolID   string        `key:"identity_pool_id"`
	SubjectTokenFile string        `key:"subject_token_file" def:"a token of auth.oauth2"`
	ExpiresIn        time.Duration `key:"expires_in" range:"1m..15m" zero:"the server's choice"`
}

// Limits is what a whole cluster takes; 0 is no limit.
type Limits struct {
	Profile              string  `key:"profile" def:"basic for Confluent Cloud, else none"`
	ConnectionsPerSecond float64 `key:"connections_per_second" range:"0..1000000" def:"the profile's"`
	RecordsPerSecond     float64 `key:"records_per_second" range:"0..1000000000" def:"the profile's"`
	BytesPerSecond       Size    `key:"bytes_per_second" range:"0.." def:"the profile's"`
	MessageBytes         Size    `key:"message_bytes" range:"1KB..1GB" zero:"no limit" def:"the profile's"`
	Fleet                Fleet   `key:"fleet"`
}

// Fleet divides a cluster's limits among the agents that produce to it.
type Fleet struct {
	Agents   int     `key:"agents" range:"1..100000"`
	Headroom Percent `key:"headroom" range:"0%..90%" def:"5% with two agents or more, else 0%"`
}

// DefaultHeadroom is what agents that share a cluster's limits leave of them:
// their clocks are not one, and a thing or two beside them uses the cluster.
const DefaultHeadroom Percent = 5

// Limit returns this agent's part of the limits, in the form the streams take.
func (l Limits) Limit() limit.Profile {
	p := limit.Profile{
		Name: l.Profile, Connections: l.ConnectionsPerSecond, Records: l.RecordsPerSecond,
		Bytes: float64(l.BytesPerSecond), MessageBytes: int(l.MessageBytes),
	}
	return p.Share(l.Fleet.Agents, float64(l.Fleet.Headroom)/100)
}

// Streams is how records travel to a cluster; see stream.Config and
// ingest.BatchConfig.
type Streams struct {
	Max           int           `key:"max" range:"1..64"`
	Linger        time.Duration `key:"linger" range:"0..10s"`
	BatchBytes    Size          `key:"batch_bytes" range:"1024..4MiB"`
	InFlight      int           `key:"in_flight" range:"1..1000000"`
	InFlightBytes Size          `key:"in_flight_bytes" range:"1024.." zero:"automatic"`
	RotateAfter   time.Duration `key:"rotate_after" range:"1s.." zero:"never"`
	RotateRecords int64         `key:"rotate_records" range:"0.."`
	ReportTimeout time.Duration `key:"report_timeout" range:"1s.."`
	DialTimeout   time.Duration `key:"dial_timeout" range:"100ms..10m"`
	Heartbeat     time.Duration `key:"heartbeat" range:"1s..10m"`
	IdleEnd       time.Duration `key:"idle_end" range:"1s..1h"`
}

// TLS is whom to trust, and which certificate to show.
type TLS struct {
	CAFile     string `key:"ca_file" def:"the system's authorities"`
	CertFile   string `key:"cert_file"`
	KeyFile    string `key:"key_file"`
	MinVersion string `key:"min_version" enum:"1.2,1.3"`
}

// Input is where records come from. One of File, HTTP and Stdin is set, as
// Type says.
type Input struct {
	Name  string
	Type  string      `key:"type" enum:"file,http,stdin" required:"say what it is: file, http or stdin"`
	File  *FileInput  `union:"file"`
	HTTP  *HTTPInput  `union:"http"`
	Stdin *StdinInput `union:"stdin"`
}

// FileInput reads files, and follows them.
type FileInput struct {
	Include        []string      `key:"include" required:"name the files, as [\"/var/log/app/*.log\"]"`
	Exclude        []string      `key:"exclude"`
	ReadFrom       string        `key:"read_from" enum:"beginning,end"`
	Follow         bool          `key:"follow"`
	FollowSymlinks bool          `key:"follow_symlinks"`
	Multiline      *Multiline    `key:"multiline"`
	StripCR        bool          `key:"strip_cr"`
	SkipEmpty      bool          `key:"skip_empty"`
	MaxOpenFiles   int           `key:"max_open_files" range:"1..100000"`
	IdleClose      time.Duration `key:"idle_close" range:"1s.." zero:"never"`
	Poll           time.Duration `key:"poll" range:"10ms..1h"`
}

// Multiline joins lines: a record begins with each line that Start matches.
type Multiline struct {
	Start   string        `key:"start" required:"give the regular expression that a record's first line matches"`
	Timeout time.Duration `key:"timeout" range:"10ms..10m"`
}

// HTTPInput listens for records.
type HTTPInput struct {
	Listen         string        `key:"listen"`
	Accept         []string      `key:"accept" enum:"text,ndjson,json,kafka_rest_v3"`
	Respond        string        `key:"respond" enum:"after_delivery,after_buffer"`
	RespondTimeout time.Duration `key:"respond_timeout" range:"1s..24h"`
	AllowTopics    []string      `key:"allow_topics"`
	MaxBody        Size          `key:"max_body" range:"1KB..10GB"`
	MaxInFlight    Size          `key:"max_in_flight" range:"64KB..64GB"`
	StripCR        bool          `key:"strip_cr"`
	SkipEmpty      bool          `key:"skip_empty"`
	MaxConnections int           `key:"max_connections" range:"1..1000000"`
	HeaderTimeout  time.Duration `key:"header_timeout" range:"100ms..10m"`
	IdleTimeout    time.Duration `key:"idle_timeout" range:"1s..24h"`
	Auth           ListenAuth    `key:"auth"`
	TLS            ListenTLS     `key:"tls"`
	InsecureListen bool          `key:"insecure_listen"`
}

// ListenAuth is what clients of an http input must show.
type ListenAuth struct {
	Type      string `key:"type" enum:"none,bearer,mtls"`
	Token     Secret `key:"token"`
	TokenFile string `key:"token_file"`
}

// ListenTLS makes an http input speak https.
type ListenTLS struct {
	CertFile     string `key:"cert_file"`
	KeyFile      string `key:"key_file"`
	ClientCAFile string `key:"client_ca_file"`
}

// StdinInput reads the standard input, line by line.
type StdinInput struct {
	StripCR   bool `key:"strip_cr"`
	SkipEmpty bool `key:"skip_empty"`
}

// Route says which records go to which topic of which cluster, and in what
// form. A record goes to the first route of its input that matches it.
type Route struct {
	Name           string     `key:"name" required:"give the route a name: metrics and files are called after it"`
	Inputs         []string   `key:"inputs" def:"all inputs"`
	Cluster        string     `key:"cluster" def:"the only cluster"`
	Match          *Test      `key:"match"`
	Decode         string     `key:"decode" enum:"any,json,text,bytes"`
	Topic          string     `key:"topic"` // "": records bring their own, out of AllowTopics
	AllowTopics    []string   `key:"allow_topics"`
	Key            *Key       `key:"key"`
	Value          Value      `key:"value"`
	Validate       bool       `key:"validate"`
	Null           *Null      `key:"null"`
	NullValue      *string    `key:"null_value"`
	Partition      Partition  `key:"partition" scalar:"number"`
	Headers        []Header   `key:"headers" named:"NAME"`
	Timestamp      *Timestamp `key:"timestamp"`
	RecordIDHeader string     `key:"record_id_header"`
	MaxRecordBytes Size       `key:"max_record_bytes" range:"1KB..1GB" def:"8MB, or the cluster's limits.message_bytes"`
	Buffer         Buffer     `key:"buffer"`
	Spill          string     `key:"spill" enum:"parked,never,always" def:"parked with a disk buffer and a file input, else never"`
	Ordering       string     `key:"ordering" enum:"none,key,strict"`
	Retry          Retry      `key:"retry"`
	DeadLetter     DeadLetter `key:"dead_letter"`
}

// Test looks at one field of a JSON record, or at one of the agent's own:
// @host, @input, @file and @file_name. One of Equals, In, Regex and Exists is
// set.
type Test struct {
	Field  string   `key:"field" required:"name the JSON field to look at, or @host, @input, @file or @file_name"`
	Equals *string  `key:"equals"`
	In     []string `key:"in"`
	Regex  string   `key:"regex"`
	Exists *bool    `key:"exists"`
}

// Null says which records are tombstones: those whose field is what Equals
// says, or is null where that is nil.
type Null struct {
	Field  string  `key:"field" required:"name the JSON field to look at"`
	Equals *string `key:"equals" def:"null"`
}

// Key is where a record's key comes from. One of Field, Template, Value and
// Delimiter is set.
type Key struct {
	Field     string  `key:"field"`
	Template  string  `key:"template"`
	Value     *string `key:"value"`
	Delimiter string  `key:"delimiter"`
	Type      string  `key:"type"`
}

// Value is how a record's payload is sent.
type Value struct {
	Type string `key:"type"`
}

// Partition is a number, or the field that holds it.
type Partition struct {
	Number int32  `key:"number" range:"-1.."` // -1: the server's choice
	Field  string `key:"field"`
}

// Header is a record header.
type Header struct {
	Name  string
	Value *string // a template; nil: a null header
}

// Timestamp is where a record's time comes from.
type Timestamp struct {
	Field  string `key:"field" required:"name the JSON field that holds the time"`
	Format string `key:"format" enum:"auto,rfc3339,unix,unix_ms,unix_us,unix_ns"`
}

// Buffer holds a route's records while they cannot be delivered.
type Buffer struct {
	Type     string `key:"type" enum:"none,disk" def:"disk where a file's records go to several topics and there is a data_dir, else none"`
	MaxBytes Size   `key:"max_bytes" range:"16MB..1TB"`
	WhenFull string `key:"when_full" enum:"block,drop_oldest,drop_newest"`
	Fsync    string `key:"fsync" enum:"always,1s" def:"always with an input that responds after_buffer, else 1s"`
}

// Retry is how often a record is tried.
type Retry struct {
	Initial     time.Duration `key:"initial" range:"1ms..1h"`
	Max         time.Duration `key:"max" range:"1ms..24h"`
	MaxAttempts int           `key:"max_attempts" range:"1..1000"`
}

// DeadLetter is the file that keeps a route's rejected records.
type DeadLetter struct {
	Path     string `key:"path" def:"dead/ROUTE.ndjson in the data_dir"` // "": no data_dir either
	MaxBytes Size   `key:"max_bytes" range:"1MB..1TB"`
}

// Reports is where delivery reports are written.
type Reports struct {
	To   string `key:"to" enum:"none,stdout,file"`
	Path string `key:"path"`
}

// Observe is how the agent is watched.
type Observe struct {
	Listen string `key:"listen"` // "": nowhere
	Pprof  bool   `key:"pprof"`
	Log    Log    `key:"log"`
}

// Log is what is logged, and how.
type Log struct {
	Level  string `key:"level" enum:"debug,info,warn,error"`
	Format string `key:"format" enum:"auto,text,json"`
}

// DefaultConfig: metrics and health at 127.0.0.1:9890, where only this machine
// asks, because an agent that nobody can ask is the one that fails unseen.
func DefaultConfig() Config {
	return Config{
		Reports: Reports{To: "none"},
		Observe: Observe{Listen: "127.0.0.1:9890", Log: Log{Level: "info", Format: "auto"}},
	}
}

// DefaultCluster has the defaults of the flags of the same meaning: see
// stream.DefaultConfig and ingest.DefaultBatchConfig for the reasons.
func DefaultCluster() Cluster {
	return Cluster{
		Dialect: "auto", Proxy: "env", TLS: TLS{MinVersion: "1.2"}, Limits: Limits{Fleet: Fleet{Agents: 1}},
		Streams: Streams{
			Max: 4, Linger: 5 * time.Millisecond, BatchBytes: 64 << 10, InFlight: 8192,
			RotateAfter: 5 * time.Minute, ReportTimeout: 75 * time.Second, DialTimeout: 10 * time.Second,
			Heartbeat: 10 * time.Second, IdleEnd: 20 * time.Second,
		},
	}
}

// DefaultFileInput follows from the beginning. 256 open files are a quarter of what a process may have
// where nobody raised it. A file that was silent for five minutes is rotated
// or rare: opening it again costs nothing then. The poll beneath the events
// finds what they miss within a second, for a stat of each file.
func DefaultFileInput() FileInput {
	return FileInput{
		ReadFrom: "beginning", Follow: true,
		MaxOpenFiles: 256, IdleClose: 5 * time.Minute, Poll: time.Second,
	}
}

// DefaultMultiline waits 2 s: a stack trace is written within milliseconds, and
// a process that is swapped out in the middle of one is back by then.
func DefaultMultiline() Multiline { return Multiline{Timeout: 2 * time.Second} }

// DefaultHTTPInput takes 20 MiB, what collectors send at most by default. 64 MiB
// of requests at a time are three of those, or 640 of 100 KiB. 8,192
// connections leave room for good clients beside some thousand that hang; a
// head that takes 5 s is no client's. A client waits a minute for its answer
// before it must ask again, which is what most clients' own patience is.
func DefaultHTTPInput() HTTPInput {
	return HTTPInput{
		Listen: "127.0.0.1:9880", Accept: []string{"text", "ndjson", "json", "kafka_rest_v3"},
		Respond: "after_delivery", RespondTimeout: time.Minute,
		MaxBody: 20 << 20, MaxInFlight: 64 << 20, MaxConnections: 8192,
		HeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		Auth: ListenAuth{Type: "none"},
	}
}

// DefaultRoute sends records as they are, checked where they are JSON. 1 GB of buffer is a day of 60 records a second of 200 bytes, and fits any disk.
func DefaultRoute() Route {
	return Route{
		Decode: "any", Value: Value{Type: "AUTO"}, Validate: true, Partition: Partition{Number: -1},
		Buffer:     Buffer{Type: "none", MaxBytes: 1e9, WhenFull: "block"},
		Ordering:   "none",
		Retry:      Retry{Initial: 200 * time.Millisecond, Max: 30 * time.Second, MaxAttempts: 10},
		DeadLetter: DeadLetter{MaxBytes: 1e9},
	}
}

// Path returns the file the configuration was read from.
func (c *Config) Path() string { return c.file }

// Place returns where the key of that path is written, as
// clusters.main.rest_endpoint or routes[0].topic, or where what is around it
// is: for errors that come up only when a setting is used.
func (c *Config) Place(path string) Place {
	for {
		if at, ok := c.places[path]; ok {
			return at
		}
		up := lastStep(path)
		if up == "" {
			return Place{c.file, 1, 1}
		}
		path = up
	}
}

// lastStep returns path without its last step.
func lastStep(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			return path[:i]
		}
	}
	return ""
}

// Cluster returns the cluster called name, nil where there is none.
func (c *Config) Cluster(name string) *Cluster {
	for i := range c.Clusters {
		if c.Clusters[i].Name == name {
			return &c.Clusters[i]
		}
	}
	return nil
}

// Input returns the input called name, nil where there is none.
func (c *Config) Input(name string) *Input {
	for i := range c.Inputs {
		if c.Inputs[i].Name == name {
			return &c.Inputs[i]
		}
	}
	return nil
}
