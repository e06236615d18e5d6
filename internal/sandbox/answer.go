package sandbox

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"strconv"
	"time"
)

// answer is a whole response that is not a stream.
type answer struct {
	status  int
	headers []header
	body    []byte
	dressed bool // the server's own headers are on it
}

// encode writes the response out for the wire.
func (a *answer) encode(req *request, closing bool) []byte {
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nDate: ", a.status, http.StatusText(a.status))
	out = time.Now().UTC().AppendFormat(out, httpDate)
	out = append(out, "\r\n"...)
	for _, h := range a.headers {
		out = append(out, h.name+": "+h.value+"\r\n"...)
	}
	if a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, int64(len(a.body)), 10)
		out = append(out, "\r\n"...)
	}
	if closing {
		out = append(out, "Connection: close\r\n"...)
	} else if req.minor == 0 {
		out = append(out, "Connection: keep-alive\r\n"...)
	}
	out = append(out, "\r\n"...)
	if req.method != "HEAD" {
		out = append(out, a.body...)
	}
	return out
}

// with adds a header.
func (a *answer) with(name, value string) *answer {
	a.headers = append(a.headers, header{name, value})
	return a
}

// jsonAnswer answers with v as JSON.
func jsonAnswer(status int, v any) *answer {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: answer cannot be written as JSON: " + err.Error())
	}
	return &answer{status: status, headers: []header{{"Content-Type", "application/json"}}, body: b}
}

// restError answers as kafka-rest's exception mappers do.
func restError(status, code int, format string, args ...any) *answer {
	return jsonAnswer(status, struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}{code, fmt.Sprintf(format, args...)})
}

// statusError answers with a plain HTTP status in kafka-rest's shape.
func statusError(status int) *answer {
	return restError(status, status, "HTTP %d %s", status, http.StatusText(status))
}

// jettyPage answers as Jetty's own error handler does: HTML, or JSON without
// an error_code for clients that ask for JSON, or when forced.
// Source: Jetty ErrorHandler.
func jettyPage(req *request, status int, message string, forceJSON bool) *answer {
	if forceJSON || req.hasToken("Accept", "application/json") {
		return jsonAnswer(status, struct {
			URL     string `json:"url"`
			Status  string `json:"status"`
			Message string `json:"message"`
		}{req.path, strconv.Itoa(status), message})
	}
	return htmlPage(req, status, message)
}

func htmlPage(req *request, status int, message string) *answer {
	m, uri := html.EscapeString(message), html.EscapeString(req.path)
	body := fmt.Sprintf(`<html>
<head>
<meta http-equiv="Content-Type" content="text/html;charset=ISO-8859-1"/>
<title>Error %d %s</title>
</head>
<body>
<h2>HTTP ERROR %d %s</h2>
<table>
<tr><th>URI:</th><td>%s</td></tr>
<tr><th>STATUS:</th><td>%d</td></tr>
<tr><th>MESSAGE:</th><td>%s</td></tr>
</table>

</body>
</html>
`, status, m, status, m, uri, status, m)
	return &answer{
		status:  status,
		headers: []header{{"Cache-Control", "must-revalidate,no-cache,no-store"}, {"Content-Type", "text/html;charset=iso-8859-1"}},
		body:    []byte(body),
	}
}

func statusText(status int) string {
	if t := http.StatusText(status); t != "" {
		return t
	}
	return "Status"
}
