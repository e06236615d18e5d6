package sandbox

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// route is one path and method. A pattern's {name} matches one segment.
type route struct {
	method  string
	pattern []string
	serve   func(x *exchange) bool // false: the connection must end
}

// exchange is one request on its way through a handler.
type exchange struct {
	sb      *Sandbox
	c       *conn
	req     *request
	params  map[string]string
	flavour *flavour
}

// answer finishes the exchange with a.
func (x *exchange) answer(a *answer) bool { return x.c.answer(x.req, x.dressed(a)) }

// reject answers a produce request that was not served.
func (x *exchange) reject(a *answer) bool {
	x.sb.stats.rejected.Add(1)
	return x.answer(a)
}

// dressed gives a the headers that the server puts on every answer.
func (x *exchange) dressed(a *answer) *answer {
	if a.dressed {
		return a
	}
	a.dressed = true
	if f := x.flavour; f.server != "" {
		a.with("Server", f.server)
		a.headers = append(a.headers, f.headers...)
	}
	for _, h := range x.sb.rateHeaders(a.status) {
		if !slices.ContainsFunc(a.headers, func(o header) bool { return o.name == h.name }) {
			a.headers = append(a.headers, h)
		}
	}
	return a
}

// rateHeaders are what FaultRateHeaders puts on an answer with that status:
// what is left of the limit of produce requests, and when to come again.
// Without a limit there is nothing to say but that.
func (s *Sandbox) rateHeaders(status int) []header {
	f := s.faults.Load().rateHeaders
	if f == nil || status != 429 && status/100 != 2 {
		return nil
	}
	wait := f.RetryAfter
	if wait == "" {
		wait = "1"
	}
	var out []header
	left := 0
	if limit := s.limits.PostsPerSecond; limit > 0 {
		out = append(out, header{"X-RateLimit-Limit", strconv.Itoa(limit)})
		if status != 429 {
			left = s.posts.left(s.cfg.clock())
		}
	} else if status != 429 {
		return nil
	}
	out = append(out, header{"X-RateLimit-Remaining", strconv.Itoa(left)}, header{"X-RateLimit-Reset", wait})
	if status == 429 {
		out = append(out, header{"Retry-After", wait})
	}
	return out
}

// handle answers one request and says whether the connection may be used again.
func (s *Sandbox) handle(c *conn, req *request) bool {
	path, err := splitPath(req.path)
	if err != nil {
		return c.answer(req, jettyPage(req, 400, "Ambiguous URI path separator", false))
	}
	x := &exchange{sb: s, c: c, req: req, flavour: s.faults.Load().flavour}
	var allowed []string
	routes := s.routes[x.flavour]
	for i := range routes {
		r := &routes[i]
		params, ok := r.match(path)
		if !ok {
			continue
		}
		if r.method != req.method && !(r.method == "GET" && req.method == "HEAD") {
			allowed = append(allowed, r.method)
			continue
		}
		x.params = params
		return r.serve(x)
	}
	if len(allowed) > 0 {
		slices.Sort(allowed)
		return x.answer(x.flavour.status(req, 405).with("Allow", strings.Join(slices.Compact(allowed), ",")))
	}
	return x.answer(x.flavour.status(req, 404))
}

// routesOf are the routes of every server that the sandbox can be. Only
// kafka-rest speaks v3.
func routesOf() map[*flavour][]route {
	out := map[*flavour][]route{}
	for _, f := range flavours() {
		out[f] = append(v2Routes(f, f.routes()...), tokenRoutes()...)
	}
	out[confluentV2] = append(kafkaRoutes(), out[confluentV2]...)
	return out
}

func (r *route) match(path []string) (map[string]string, bool) {
	if len(path) != len(r.pattern) {
		return nil, false
	}
	params := map[string]string{}
	for i, p := range r.pattern {
		if strings.HasPrefix(p, "{") {
			params[p[1:len(p)-1]] = path[i]
		} else if p != path[i] {
			return nil, false
		}
	}
	return params, true
}

// splitPath cuts a path into its decoded segments, "." and ".." resolved.
//
// Errors: an encoded slash, backslash or dot segment, which Jetty refuses as
// ambiguous; a bad escape.
func splitPath(path string) ([]string, error) {
	var out []string
	for seg := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		switch seg {
		case ".":
			continue
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			continue
		}
		dec, err := url.PathUnescape(seg)
		if err != nil {
			return nil, err
		}
		if dec == "." || dec == ".." || strings.ContainsAny(dec, "/\\") {
			return nil, url.EscapeError(seg)
		}
		out = append(out, dec)
	}
	return out, nil
}

// kafkaRoutes are the REST v3 routes, served with and without /kafka in front:
// a self-managed REST Proxy has them without, Confluent Server and Cloud with.
func kafkaRoutes() []route {
	var out []route
	add := func(method, pattern string, fn func(x *exchange) *answer) {
		serve := func(x *exchange) bool {
			if a := x.refuse(true); a != nil {
				return x.answer(a)
			}
			return x.answer(fn(x))
		}
		out = append(out, kafkaRoute(method, pattern, serve)...)
	}
	add("GET", "/v3/clusters", getClusters)
	add("GET", "/v3/clusters/{cluster}", getCluster)
	add("GET", "/v3/clusters/{cluster}/topics", getTopics)
	add("POST", "/v3/clusters/{cluster}/topics", postTopic)
	add("GET", "/v3/clusters/{cluster}/topics/{topic}", getTopic)
	add("GET", "/v3/clusters/{cluster}/topics/{topic}/partitions", getPartitions)
	add("GET", "/v3/clusters/{cluster}/topics/{topic}/partitions/{partition}", getPartition)
	out = append(out, kafkaRoute("POST", "/v3/clusters/{cluster}/topics/{topic}/records:batch", postBatch)...)
	return append(out, kafkaRoute("POST", "/v3/clusters/{cluster}/topics/{topic}/records", postRecords)...)
}

func kafkaRoute(method, pattern string, serve func(x *exchange) bool) []route {
	plain := strings.Split(strings.TrimPrefix(pattern, "/"), "/")
	return []route{{method, plain, serve}, {method, append([]string{"kafka"}, plain...), serve}}
}

// refuse is what stands before every Kafka route: credentials, the cluster's
// name where it counts, and the Accept header.
func (x *exchange) refuse(checkCluster bool) *answer {
	if a := x.unauthorized(); a != nil {
		return a
	}
	if id, ok := x.params["cluster"]; ok && checkCluster && id != x.sb.ClusterID() {
		return restError(404, 404, "Cluster %s cannot be found.", id)
	}
	if !acceptsJSON(x.req) {
		return statusError(406)
	}
	return nil
}

// acceptsJSON says whether the client takes application/json.
func acceptsJSON(req *request) bool {
	return req.get("Accept") == "" || req.hasToken("Accept", "application/json") ||
		req.hasToken("Accept", "*/*") || req.hasToken("Accept", "application/*")
}

// badContentType checks a request body's declared type.
func badContentType(req *request) *answer {
	media, params, _ := strings.Cut(req.get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(media), "application/json") {
		return statusError(415)
	}
	for p := range strings.SplitSeq(params, ";") {
		name, value, ok := strings.Cut(strings.TrimSpace(p), "=")
		value = strings.Trim(value, `"`)
		if ok && strings.EqualFold(name, "charset") && !strings.EqualFold(value, "utf-8") && !strings.EqualFold(value, "iso-8859-1") {
			return restError(400, 400, "Unsupported charset: %s", value)
		}
	}
	return nil
}
