//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// metrics is one scrape: every series of a name added up, and the buckets of
// histograms added up by bound.
type metrics struct {
	sum     map[string]float64
	buckets map[string][]bucket
}

// bucket is a cumulative count up to a bound.
type bucket struct{ le, count float64 }

// scrape reads http://addr/metrics. It speaks HTTP/1.0 by hand: a client of
// some weight in this program would show in the peak memory of its children.
func scrape(addr string) (metrics, error) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return metrics{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "GET /metrics HTTP/1.0\r\nHost: %s\r\n\r\n", addr); err != nil {
		return metrics{}, err
	}
	b, err := io.ReadAll(c)
	if err != nil {
		return metrics{}, err
	}
	head, body, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if f := strings.Fields(string(head)); !ok || len(f) < 2 || f[1] != "200" {
		return metrics{}, fmt.Errorf("scrape: answer %.80q", b)
	}
	return parseMetrics(bytes.NewReader(body)), nil
}

// parseMetrics reads the Prometheus text format; lines that are none of it are
// passed over.
func parseMetrics(r io.Reader) metrics {
	m := metrics{sum: map[string]float64{}, buckets: map[string][]bucket{}}
	in := bufio.NewScanner(r)
	for in.Scan() {
		l := in.Text()
		i := strings.LastIndexByte(l, ' ')
		if i < 0 || l[0] == '#' {
			continue
		}
		v, err := strconv.ParseFloat(l[i+1:], 64)
		if err != nil {
			continue
		}
		name, labels, _ := strings.Cut(l[:i], "{")
		if base, is := strings.CutSuffix(name, "_bucket"); is {
			_, le, _ := strings.Cut(labels, `le="`)
			le, _, _ = strings.Cut(le, `"`)
			if b, err := strconv.ParseFloat(le, 64); err == nil {
				m.addBucket(base, b, v)
			}
			continue
		}
		m.sum[name] += v
	}
	return m
}

func (m metrics) addBucket(name string, le, count float64) {
	bs := m.buckets[name]
	for i := range bs {
		if bs[i].le == le {
			bs[i].count += count
			return
		}
	}
	m.buckets[name] = append(bs, bucket{le, count})
}

// quantile estimates a quantile of a histogram as Prometheus does: linear
// within the bucket it falls in. ok is false for a histogram without samples.
func (m metrics) quantile(name string, q float64) (v float64, ok bool) {
	bs := m.buckets[name]
	if len(bs) == 0 || bs[len(bs)-1].count == 0 {
		return 0, false
	}
	want := q * bs[len(bs)-1].count
	var low, below float64
	for i, b := range bs {
		if b.count >= want {
			if i == len(bs)-1 { // +Inf: no upper bound to go by
				return low, true
			}
			if b.count == below {
				return b.le, true
			}
			return low + (b.le-low)*(want-below)/(b.count-below), true
		}
		low, below = b.le, b.count
	}
	return low, true
}
