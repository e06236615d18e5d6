package stream

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/goccy/go-json"

	"github.com/produce-agent/produce-agent/internal/stream/dialect"
)

// v2Target settles what there is to settle of a v2 endpoint: which server it
// is, where nobody said it. It has no cluster id of its own; what stands for
// one in reports and metrics is its host.
func (r *resolver) v2Target(ctx context.Context, t Target) (Target, error) {
	t.ClusterID = cmp.Or(t.ClusterID, t.Base.Host)
	t.Dialect = r.a.Dialect
	if r.a.Dialect != dialect.V2 {
		return t, nil
	}
	d, err := r.findV2(ctx, t.Base)
	if err != nil {
		return Target{}, err
	}
	if d == dialect.Auto {
		return Target{}, &EndpointError{Err: fmt.Errorf(
			"%s does not look like a v2 server, it lists no topics at %s: check --rest-endpoint, or say which server it is, as --dialect v2:karapace",
			t.Base.Redacted(), below(t.Base, "topics").Redacted())}
	}
	t.Dialect = d
	return t, nil
}

// orV2 looks for a v2 server where there was no REST v3; refused is what told
// that there is none.
func (r *resolver) orV2(ctx context.Context, t Target, status int, refused error) (Target, error) {
	if r.a.Dialect != dialect.Auto || t.ClusterID != "" || !absent(status) {
		return Target{}, refused
	}
	d, err := r.findV2(ctx, t.Base)
	if err != nil || d == dialect.Auto {
		return Target{}, cmp.Or(err, refused)
	}
	t.ClusterID, t.Dialect = t.Base.Host, d
	return t, nil
}

// absent says whether a status means that a path is not there.
func absent(status int) bool {
	return status == http.StatusNotFound || status == http.StatusMethodNotAllowed || status == http.StatusNotImplemented
}

// findV2 asks below base which v2 server is there, Auto for none: the names
// they give themselves, and else what only one of them has.
//
// Source: Karapace rapu.py and Seastar's httpd put their name into every
// answer; Strimzi's Bridge tells bridge_version at its root; pandaproxy alone
// has /status/ready; kafka-rest answers {} at its root.
func (r *resolver) findV2(ctx context.Context, base *url.URL) (dialect.Dialect, error) {
	root, rootBody, anonymous, err := r.ask2(ctx, below(base), "*/*")
	if err != nil {
		return dialect.Auto, err
	}
	switch {
	case strings.HasPrefix(root.server, "Karapace"):
		return dialect.V2Karapace, nil
	case strings.HasPrefix(root.server, "Seastar"):
		return dialect.V2Pandaproxy, nil
	case root.status == http.StatusOK && member(valid(rootBody), "bridge_version") != nil:
		return dialect.V2Strimzi, nil
	}
	topics, body, _, err := r.ask2(ctx, below(base, "topics"), v2Accept)
	if err != nil {
		return dialect.Auto, err
	}
	var names []string
	switch {
	case strings.HasPrefix(topics.server, "Karapace"):
		return dialect.V2Karapace, nil
	case strings.HasPrefix(topics.server, "Seastar"):
		return dialect.V2Pandaproxy, nil
	case topics.status == http.StatusUnauthorized || topics.status == http.StatusForbidden:
		ref := judgeStatus(topics, body)
		if anonymous && topics.status == http.StatusUnauthorized {
			ref.remedy = noCredentials
		}
		return dialect.Auto, &EndpointError{Denied: true, Err: fmt.Errorf("GET %s answered %w", below(base, "topics").Redacted(), ref)}
	case topics.status != http.StatusOK || json.Unmarshal(body, &names) != nil:
		return dialect.Auto, nil
	}
	ready, _, _, err := r.ask2(ctx, below(base, "status", "ready"), "*/*")
	switch {
	case err != nil:
		return dialect.Auto, err
	case ready.status == http.StatusOK || ready.status == http.StatusServiceUnavailable:
		return dialect.V2Pandaproxy, nil
	case root.status == http.StatusOK && strings.TrimSpace(string(rootBody)) == "{}":
		return dialect.V2Confluent, nil
	}
	return dialect.V2Other, nil
}

func (r *resolver) ask2(ctx context.Context, u *url.URL, accept string) (head, []byte, bool, error) {
	h, body, anonymous, err := get(ctx, r.client, r.a.Auth, u, accept)
	if err != nil {
		return h, nil, false, &EndpointError{Err: err}
	}
	return h, body, anonymous, nil
}

// valid returns body where it is valid JSON.
func valid(body []byte) []byte {
	if json.Valid(body) {
		return body
	}
	return nil
}

// missingV2 is MissingTopic for a v2 endpoint.
// Source: kafka-rest, Karapace and Strimzi, GET /topics/{topic}; pandaproxy
// has the list alone.
func (t *Target) missingV2(ctx context.Context, c *http.Client, topic string) bool {
	switch t.Dialect {
	case dialect.V2Pandaproxy:
		h, body, _, err := get(ctx, c, t.Auth, below(t.Base, "topics"), v2Accept)
		var names []string
		if err != nil || h.status != http.StatusOK || json.Unmarshal(body, &names) != nil || len(names) == 0 {
			return false // none at all may mean that none may be seen
		}
		for _, name := range names {
			if name == topic {
				return false
			}
		}
		return true
	case dialect.V2Other, dialect.V2:
		return false
	}
	h, body, _, err := get(ctx, c, t.Auth, below(t.Base, "topics", url.PathEscape(topic)), v2Accept)
	if err != nil || h.status != http.StatusNotFound {
		return false
	}
	code, _ := errorBody(body)
	return code == 40401 || code == 40403 || code == 404 && t.Dialect == dialect.V2Strimzi
}
