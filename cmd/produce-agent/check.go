package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-json"
	"github.com/spf13/cobra"

	"github.com/produce-agent/produce-agent/internal/auth"
	"github.com/produce-agent/produce-agent/internal/config"
	"github.com/produce-agent/produce-agent/internal/stream"
	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// defaultConfigFile is what check reads when it is told of no file.
const defaultConfigFile = "agent.yaml"

func newCheck() *cobra.Command {
	var file string
	var show, connect bool
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file and list every problem at once",
		Long: `check reads a configuration file as ship --config would and lists every problem
with its line and column on stderr. It starts nothing and writes nothing.

Exit status: 0 good, warnings or none; 3 the configuration has errors; with
--connect: 5 credentials were refused, 1 a cluster could not be reached.`,
		Example: `  produce-agent check agent.yaml
  produce-agent check --connect --config /etc/produce-agent/agent.yaml
  produce-agent check --print agent.yaml > in-force.yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 1 && file != "" && file != args[0]:
				return fmt.Errorf("two files to check, %s and --config=%s: give one", args[0], file)
			case len(args) == 1:
				file = args[0]
			case file == "":
				file = defaultConfigFile
			}
			return runCheck(cmd, file, show, connect)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "configuration file to check, as FILE; default is "+defaultConfigFile+" in the current folder")
	f.BoolVar(&show, "print", false, "print what is in force to stdout, all defaults filled in, as YAML that can be used again; secrets are masked")
	f.BoolVar(&connect, "connect", false, "also ask each cluster whether it is there and takes the credentials; no record is written")
	return cmd
}

func runCheck(cmd *cobra.Command, file string, show, connect bool) error {
	stderr := cmd.ErrOrStderr()
	cfg, problems := config.Load(file, configOptions())
	for _, p := range problems {
		fmt.Fprintln(stderr, p)
	}
	if problems.Err() != nil {
		wrong := len(problems) - len(problems.Warnings())
		return &statusError{exitConfig, fmt.Errorf("%s: %s", file, count(wrong, "error"))}
	}
	fmt.Fprintf(stderr, "%s: good: %s, %s, %s\n", file,
		count(len(cfg.Clusters), "cluster"), count(len(cfg.Inputs), "input"), count(len(cfg.Routes), "route"))
	for _, c := range cfg.Clusters {
		if c.Limits.Fleet.Agents > 1 {
			fmt.Fprintf(stderr, "%s: cluster %s: this agent keeps to %s\n", file, c.Name, c.Limits.Limit())
		}
	}
	if show {
		if err := cfg.Print(cmd.OutOrStdout()); err != nil {
			return &statusError{exitFailure, fmt.Errorf("print: %w", err)}
		}
	}
	if !connect {
		return nil
	}
	return connectAll(cmd.Context(), cmd.OutOrStdout(), cfg)
}

// count writes "1 route", "2 routes".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// connectAll asks every cluster and writes a line about each.
func connectAll(ctx context.Context, w io.Writer, cfg *config.Config) error {
	stream.UserAgent = "produce-agent/" + version
	status := exitOK
	for i := range cfg.Clusters {
		c := &cfg.Clusters[i]
		line, err := connectTo(ctx, cfg, c, checkTokens(cfg.DataDir))
		if err != nil {
			line = err.Error()
			var s *statusError
			if errors.As(err, &s) && (status == exitOK || s.status == exitDenied) {
				status = s.status
			}
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", c.Name, line); err != nil {
			return &statusError{exitFailure, err}
		}
	}
	if status != exitOK {
		return &statusError{status, nil}
	}
	return nil
}

// connectTo asks one cluster and returns what there is to say.
//
// Errors: always a *statusError.
func connectTo(ctx context.Context, cfg *config.Config, c *config.Cluster, tokens string) (string, error) {
	address, err := clusterAddress(c, tokens, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", &statusError{exitFailure, err}
	}
	defer auth.Close(address.Auth)
	target, err := stream.Resolve(ctx, address)
	if err != nil {
		var e *stream.EndpointError
		if errors.As(err, &e) && e.Denied {
			return "", &statusError{exitDenied, fmt.Errorf("refused: %w", inKeys(err))}
		}
		return "", &statusError{exitFailure, fmt.Errorf("not reached: %w", inKeys(err))}
	}
	line, err := askCluster(ctx, target, address)
	if err != nil {
		return "", err
	}
	return line + lacking(target.Dialect), uncarried(cfg, c, target.Dialect)
}

// lacking tells what a dialect cannot carry; "" where that is nothing.
func lacking(d dialect.Dialect) string {
	if lacks := d.Lacks(); len(lacks) > 0 {
		return "; it is " + d.Server() + ", which cannot carry: " + strings.Join(lacks, ", ")
	}
	return ""
}

// uncarried refuses routes that ask for what their cluster turned out not to
// carry.
//
// Errors: a *statusError.
func uncarried(cfg *config.Config, c *config.Cluster, d dialect.Dialect) error {
	var all []string
	for i := range cfg.Routes {
		r := &cfg.Routes[i]
		if r.Cluster != c.Name {
			continue
		}
		for _, u := range r.Uncarried(d) {
			path := fmt.Sprintf("routes[%d].%s", i, u.Key)
			all = append(all, fmt.Sprintf("%s: %s: %s", cfg.Place(path), path, u.Refusal(d)))
		}
	}
	if len(all) == 0 {
		return nil
	}
	return &statusError{exitConfig, errors.New("reached, but " + strings.Join(all, "; "))}
}

// question returns what to GET of an endpoint, in which media type, and what it
// means when it is answered.
// Source: Confluent REST v3 OpenAPI, getKafkaCluster; of a v2 endpoint its
// topics, which all of them list.
func question(t *stream.Target) (u *url.URL, accept, reached string) {
	if t.Dialect.IsV2() {
		return t.Base.JoinPath("topics"), "application/vnd.kafka.v2+json", fmt.Sprintf("reached %s, dialect %s, ", t, t.Dialect)
	}
	return t.Base.JoinPath("v3", "clusters", t.ClusterID), "application/json", fmt.Sprintf("reached %s, cluster %s, dialect %s, ", t, t.ClusterID, t.Dialect)
}

// askCluster asks for the cluster itself: an endpoint whose path and cluster id
// are written in the file was not spoken to yet.
func askCluster(ctx context.Context, t stream.Target, a stream.Address) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, a.DialTimeout+10*time.Second)
	defer cancel()
	u, accept, reached := question(&t)
	where := u.Redacted()
	fail := func(status int, format string, args ...any) (string, error) {
		return "", &statusError{status, fmt.Errorf(format, args...)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fail(exitFailure, "not reached: %w", err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", stream.UserAgent)
	authorization, err := stream.Authorize(ctx, req, t.Auth)
	if err != nil {
		return fail(credentialStatus(err), "not asked: %w", inKeys(err))
	}
	client := stream.Client(u.Scheme, t.TLS, t.Proxy, a.DialTimeout)
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return fail(credentialStatus(err), "not reached: %w", inKeys(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized && auth.Refused(t.Auth, authorization, true) {
		return askCluster(ctx, t, a) // a token that was kept may have been taken back: with another, once
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	said := strings.TrimSpace(strconv.Itoa(resp.StatusCode)+" "+http.StatusText(resp.StatusCode)) + saidBy(body, authorization)
	switch code := resp.StatusCode; {
	case code == http.StatusOK && a.HasAuth:
		return reached + "credentials accepted: " + auth.Describe(t.Auth), nil
	case code == http.StatusOK:
		return reached + "no credentials asked for", nil
	case code == http.StatusUnauthorized && !a.HasAuth:
		return fail(exitDenied, "refused: %s answered %s: it wants credentials: give auth.username and auth.password", where, said)
	case code == http.StatusUnauthorized && auth.Remedy(t.Auth) != "":
		return fail(exitDenied, "refused: %s answered %s: %s", where, said, auth.Remedy(t.Auth))
	case code == http.StatusUnauthorized:
		return fail(exitDenied, "refused: %s answered %s: check auth.username and auth.password; it must be a key of this Kafka cluster, a cloud key is another thing", where, said)
	case code == http.StatusForbidden && a.HasAuth:
		return reached + "credentials accepted, though they may not look at the cluster (" + said + "): whether they may write shows when records are sent: " + auth.Describe(t.Auth), nil
	case code == http.StatusForbidden:
		return fail(exitDenied, "refused: %s answered %s: give auth.username and auth.password", where, said)
	case code == http.StatusMethodNotAllowed || code == http.StatusNotImplemented:
		return reached + "which does not tell about itself (" + said + "): whether the credentials are good shows when records are sent", nil
	case code == http.StatusNotFound && t.Dialect.IsV2():
		return fail(exitFailure, "reached, but %s answered %s: check the path of rest_endpoint", where, said)
	case code == http.StatusNotFound:
		return fail(exitFailure, "reached, but %s answered %s: check cluster_id, and the path of rest_endpoint", where, said)
	case code >= 300 && code < 400:
		return fail(exitFailure, "reached, but %s redirects to %q: give that as rest_endpoint if it is right", where, auth.Scrub(resp.Header.Get("Location"), authorization))
	case code == http.StatusTooManyRequests || code >= 500:
		return fail(exitFailure, "reached, but %s answered %s: try again later", where, said)
	}
	return fail(exitFailure, "reached, but %s answered %s: is this a Kafka REST endpoint?", where, said)
}

// credentialStatus is exitDenied where credentials were refused on the way.
func credentialStatus(err error) int {
	var token *auth.TokenError
	var proxy *auth.ProxyError
	if errors.As(err, &token) && token.Denied || errors.As(err, &proxy) && proxy.Denied {
		return exitDenied
	}
	return exitFailure
}

// checkTokens is tokenDir, but makes nothing in a data_dir: who checks may be
// another user than the agent's.
func checkTokens(dataDir string) string {
	if _, err := os.Stat(tokenDir(dataDir)); err != nil {
		dataDir = ""
	}
	return tokenDir(dataDir)
}

// saidBy returns an error answer's message in one line, in front of which ": "
// stands. What a terminal would act on is left out, and what was sent as
// authorization.
func saidBy(body []byte, authorization string) string {
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Message == "" {
		return ""
	}
	printable := func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}
	text := strings.Join(strings.Fields(strings.Map(printable, auth.Scrub(answer.Message, authorization))), " ")
	if r := []rune(text); len(r) > 200 {
		text = string(r[:200]) + "…"
	}
	return ": " + text
}
