package sandbox

import (
	"strconv"
	"time"
)

// postRecords opens a stream, or refuses to: a fault's answer, the limit of
// produce requests, credentials, media types, the cluster's name.
func postRecords(x *exchange) bool {
	s, topic := x.sb, x.params["topic"]
	now := s.cfg.clock()
	s.stats.posts.Add(1)
	s.stats.postRate.add(now, 1)
	if f := s.faults.Load().http(topic); f != nil {
		s.stats.rejected.Add(1)
		return x.faultAnswer(f)
	}
	if a := x.refuseProduce(now); a != nil {
		s.stats.rejected.Add(1)
		return x.answer(a)
	}
	return serveStream(x.c, x.req, x.clusterName(), topic)
}

// clusterName is the cluster id to repeat in reports.
func (x *exchange) clusterName() string {
	if x.sb.cfg.AnyClusterID {
		return x.params["cluster"]
	}
	return x.sb.ClusterID()
}

func (x *exchange) refuseProduce(now time.Time) *answer {
	if !x.sb.posts.take(now) {
		return jettyPage(x.req, 429, "Too Many Requests", x.sb.limits.JettyJSON).with("DoSFilter", "unavailable")
	}
	if a := x.refuse(!x.sb.cfg.AnyClusterID); a != nil {
		return a
	}
	return badContentType(x.req)
}

// faultAnswer gives the answer that f scripts, after as much of the body as
// it wants read.
func (x *exchange) faultAnswer(f *activeFault) bool {
	if f.ReadBytes > 0 {
		if x.req.expect {
			_ = x.c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
		}
		b := newBody(x.c.br, x.req)
		b.maxRead = f.ReadBytes
		for b.consumed < int64(f.ReadBytes) {
			if _, err := b.appendNext(nil); err != nil {
				break
			}
		}
		x.req.close = true // the body's rest cannot be told from a new request
	}
	a := f.answer(x.req, x.params["topic"])
	return x.answer(a)
}

func (f *activeFault) answer(req *request, topic string) *answer {
	message := f.Message
	var a *answer
	switch f.Body {
	case "empty":
		a = &answer{status: f.Code}
	case "html":
		if message == "" {
			message = statusText(f.Code)
		}
		a = htmlPage(req, f.Code, message)
	case "jetty":
		if message == "" {
			message = statusText(f.Code)
		}
		a = jettyPage(req, f.Code, message, true)
	default:
		a = f.restAnswer(message, topic)
	}
	if f.Code == 429 && f.Body != "" && f.Body != "json" {
		a.with("DoSFilter", "unavailable")
	}
	if f.Code == 401 {
		a.with("WWW-Authenticate", `Basic realm="Kafka REST"`)
	}
	if f.Location != "" {
		a.with("Location", f.Location)
	}
	if f.RetryAfter != "" {
		a.with("Retry-After", f.RetryAfter)
	}
	return a
}

// restAnswer is the JSON body that kafka-rest gives with a status.
func (f *activeFault) restAnswer(message, topic string) *answer {
	code, text := f.Code, "HTTP "+strconv.Itoa(f.Code)+" "+statusText(f.Code)
	switch f.Code {
	case 401:
		code, text = 40101, "Unauthorized"
	case 403:
		code, text = 40301, usualText(40301, topic, 0)
	case 429:
		text = usualText(429, topic, 0)
	}
	if message != "" {
		text = message
	}
	return restError(f.Code, code, "%s", text)
}
