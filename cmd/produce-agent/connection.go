package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/stream"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// connection holds the flags that say which cluster, and as whom: the same for
// every command that talks to one.
type connection struct {
	endpoint       string
	clusterID      string
	apiKey         string
	secretFile     string
	caFile         string
	limits         string
	dialect        string
	agents         int
	headroom       config.Percent
	allowPlaintext bool
	creds          credentials
	tokens         string // where tokens are kept

	secret string // from the environment
	used   []string
}

func (c *connection) flags(f *pflag.FlagSet) {
	f.StringVar(&c.endpoint, "rest-endpoint", "", "Kafka REST endpoint, with or without /kafka and /v3 (PRODUCE_AGENT_REST_ENDPOINT, KAFKA_REST_ENDPOINT, CONFLUENT_REST_URL)")
	f.StringVar(&c.clusterID, "cluster-id", "", "cluster id, as lkc-xxxxx; may be left out where the endpoint has one cluster and says so (PRODUCE_AGENT_CLUSTER_ID, KAFKA_ID)")
	f.StringVar(&c.apiKey, "api-key", "", "API key of the Kafka cluster, or user name (PRODUCE_AGENT_API_KEY, KAFKA_API_KEY)")
	f.StringVar(&c.secretFile, "api-secret-file", "", "file that holds the API secret or password; the environment may hold it instead (PRODUCE_AGENT_API_SECRET, KAFKA_API_SECRET)")
	f.StringVar(&c.caFile, "ca-file", "", "PEM file with the authorities to trust instead of the system's")
	f.StringVar(&c.limits, "limits", "", "the cluster's limits to stay inside: none, basic, standard, enterprise, freight or dedicated:CKU; default is basic for Confluent Cloud and none elsewhere")
	f.StringVar(&c.dialect, "dialect", "", "how records are sent: "+strings.Join(dialect.Names(), ", ")+"; default is auto: v3-stream, or v2 where the endpoint has no REST v3. See docs/dialects.md (PRODUCE_AGENT_DIALECT)")
	f.IntVar(&c.agents, "fleet-agents", 1, "how many agents produce to the cluster, 1..100000: this one takes its part of --limits. See also --fleet-headroom")
	c.headroom = config.DefaultHeadroom
	f.Var(&c.headroom, "fleet-headroom", "with --fleet-agents of 2 and more: the share of the cluster's limits that all of them leave unused, 0%..90%")
	f.BoolVar(&c.allowPlaintext, "allow-plaintext-auth", false, "let credentials go over plain http to another machine")
	c.creds.flags(f)
}

// connectionNames are the variables of our own that fromEnvironment reads;
// they name no key of a configuration file.
var connectionNames = []string{
	"PRODUCE_AGENT_REST_ENDPOINT", "PRODUCE_AGENT_CLUSTER_ID", "PRODUCE_AGENT_API_KEY", "PRODUCE_AGENT_API_SECRET",
	"PRODUCE_AGENT_API_SECRET_FILE", "PRODUCE_AGENT_CA_FILE", "PRODUCE_AGENT_LIMITS", "PRODUCE_AGENT_DIALECT",
}

// ownNames are all variables that are the flags'.
func ownNames() []string { return slices.Concat(connectionNames, credentialNames) }

// configOptions give a configuration file the environment.
func configOptions() config.Options {
	return config.Options{Env: os.LookupEnv, Environ: os.Environ(), Own: ownNames()}
}

// flagKeys are the keys of a configuration file that mean what flags and
// variables mean, as errors of the endpoint name them.
var flagKeys = strings.NewReplacer(
	"KAFKA_API_KEY and KAFKA_API_SECRET, or --api-key and --api-secret-file", "auth.username and auth.password",
	"set --api-key or KAFKA_API_KEY", "set auth.username", "set --api-secret-file or KAFKA_API_SECRET", "set auth.password",
	"--rest-endpoint", "rest_endpoint", "--cluster-id", "cluster_id", "--api-key", "auth.username", "--api-secret-file", "auth.password",
	"--bearer-token-file", "auth.token_file", "--identity-pool-id", "identity_pool_id", "--oauth2-token-url", "auth.oauth2.token_url",
	"--oauth2-client-id", "auth.oauth2.client_id", "--oauth2-client-secret-file", "auth.oauth2.client_secret",
	"--sts-subject-token-file", "auth.sts.subject_token_file", "--sts-token-url", "auth.sts.token_url",
	"--cert-file", "tls.cert_file", "--key-file", "tls.key_file",
	"http://USER@HOST:PORT with --proxy-password-file, or http://USER:PASSWORD@HOST:PORT in a configuration file or PRODUCE_AGENT_PROXY", "http://USER:PASSWORD@HOST:PORT",
	"--proxy", "proxy", "--auth-type", "auth.type",
	"--ca-file", "tls.ca_file", "--allow-plaintext-auth", "allow_plaintext_auth: true", "--limits", "limits", "--dialect", "dialect:",
)

// inKeys says an error in the words of the configuration file.
func inKeys(err error) error { return &rephrased{err} }

type rephrased struct{ err error }

func (r *rephrased) Error() string { return flagKeys.Replace(r.err.Error()) }
func (r *rephrased) Unwrap() error { return r.err }

// fromEnvironment fills what no flag gave, and remembers which names were used.
// Errors: credentials that do not go together.
func (c *connection) fromEnvironment() error {
	c.endpoint = c.env(c.endpoint, "PRODUCE_AGENT_REST_ENDPOINT", "KAFKA_REST_ENDPOINT", "CONFLUENT_REST_URL")
	c.clusterID = c.env(c.clusterID, "PRODUCE_AGENT_CLUSTER_ID", "KAFKA_ID")
	c.caFile = c.env(c.caFile, "PRODUCE_AGENT_CA_FILE")
	c.limits = c.env(c.limits, "PRODUCE_AGENT_LIMITS")
	c.dialect = c.env(c.dialect, "PRODUCE_AGENT_DIALECT")
	return c.settle()
}

func (c *connection) basicFromEnvironment() {
	c.apiKey = c.env(c.apiKey, "PRODUCE_AGENT_API_KEY", "KAFKA_API_KEY")
	c.secretFile = c.env(c.secretFile, "PRODUCE_AGENT_API_SECRET_FILE")
	if c.secretFile == "" {
		c.secret = c.env("", "PRODUCE_AGENT_API_SECRET", "KAFKA_API_SECRET")
	}
}

func (c *connection) env(have string, names ...string) string {
	if have != "" {
		return have
	}
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			c.used = append(c.used, name)
			return v
		}
	}
	return ""
}

// address returns what the settings say, before the endpoint is asked.
func (c *connection) address(cfg stream.Config, log *slog.Logger) (stream.Address, error) {
	a := stream.Address{
		URL: c.endpoint, ClusterID: c.clusterID,
		AllowPlaintext: c.allowPlaintext, DialTimeout: cfg.DialTimeout, Attempts: cfg.MaxAttempts, Patience: cfg.AuthPatience,
	}
	var err error
	if a.Dialect, err = c.wanted(); err != nil {
		return a, err
	}
	a.Waiting = func(err error, attempt int, wait time.Duration) {
		log.Warn("cannot ask the endpoint for its clusters, will try again", "error", err, "attempt", attempt, "wait", wait)
	}
	settings, err := c.settings()
	if err != nil {
		return a, err
	}
	settings.Dir = c.tokens
	proxy, err := proxyURL(c.creds.proxy, c.creds.proxyPasswordFile)
	if err != nil {
		return a, err
	}
	if err := equip(&a, settings, auth.TLSFiles{CA: c.caFile, Cert: c.creds.certFile, Key: c.creds.keyFile}, proxy, log); err != nil {
		return a, err
	}
	if len(c.used) > 0 {
		log.Info("settings taken from the environment", "names", strings.Join(c.used, " "))
	}
	return a, nil
}

// wanted returns the dialect that was asked for.
func (c *connection) wanted() (dialect.Dialect, error) {
	d, err := dialect.Parse(c.dialect)
	if err != nil {
		return d, fmt.Errorf("--dialect=%w", err)
	}
	return d, nil
}

// profile returns the limits of the endpoint's cluster.
func (c *connection) profile() (limit.Profile, error) {
	name := c.limits
	if name == "" {
		host := ""
		if u, err := url.Parse(c.endpoint); err == nil {
			host = u.Hostname()
		}
		name = limit.ForHost(host)
	}
	p, err := limit.ParseProfile(name)
	if err != nil {
		return p, errors.New("--" + err.Error())
	}
	if c.agents < 1 || c.agents > 100_000 {
		return p, fmt.Errorf("--fleet-agents=%d: must be 1..100000", c.agents)
	}
	if c.headroom > 90 {
		return p, fmt.Errorf("--fleet-headroom=%s: must be 0%%..90%%", c.headroom)
	}
	return p, nil
}

// fleet says who else has a part of the limits.
func (c *connection) fleet() config.Fleet {
	if c.agents < 2 {
		return config.Fleet{Agents: 1}
	}
	return config.Fleet{Agents: c.agents, Headroom: c.headroom}
}
