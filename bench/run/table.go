//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// bar is what a sender's ratio to blast is held against, for reports in batch
// and in record chunks. good is what is expected, must what may not be missed;
// proto is what a bare prototype without retry, limits or metrics reached.
type bar struct{ must, good, proto [2]float64 }

// bars are for lines of 200 bytes over 4 streams.
var bars = map[string]bar{
	nJSON:   {[2]float64{6.0, 7.5}, [2]float64{4.5, 5.5}, [2]float64{3.4, 4.5}},
	nRaw:    {[2]float64{3.5, 4.5}, [2]float64{2.2, 3.0}, [2]float64{1.5, 2.2}},
	nString: {[2]float64{6.0, 7.5}, [2]float64{4.5, 5.5}, [2]float64{3.5, 4.4}},
	nBinary: {[2]float64{5.5, 7.0}, [2]float64{3.2, 3.8}, [2]float64{2.5, 2.9}},
}

// verdict says where v stands.
func verdict(v, must, good float64) string {
	switch {
	case v <= good:
		return "good"
	case v <= must:
		return "meets"
	}
	return "**misses**"
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// results holds all samples of a session by case.
type results struct {
	records int64
	samples map[string][]sample // by name and mode
	errs    map[string]error
	lost    int64
	doubled int64
	other   int64 // unexpected records and wrong counts of the sender's own
	runs    int
}

func newResults(records int64) *results {
	return &results{records: records, samples: map[string][]sample{}, errs: map[string]error{}}
}

func key(name, mode string) string { return name + "/" + mode }

// add books one run; a run that failed is not among the figures, but named.
func (r *results) add(name, mode string, s sample) {
	if s.err != nil {
		r.errs[key(name, mode)] = s.err
		return
	}
	r.runs++
	r.lost += s.Missing
	r.doubled += s.Duplicates
	r.other += s.off() - s.Missing - s.Duplicates
	r.samples[key(name, mode)] = append(r.samples[key(name, mode)], s)
}

// cpu is the median of CPU-seconds per million records; 0 without a run.
func (r *results) cpu(name, mode string) float64 {
	var v []float64
	for _, s := range r.samples[key(name, mode)] {
		v = append(v, s.cpu*1e6/float64(s.sent))
	}
	return median(v)
}

func (r *results) wall(name, mode string) float64 {
	var v []float64
	for _, s := range r.samples[key(name, mode)] {
		v = append(v, s.wall*1e6/float64(s.sent))
	}
	return median(v)
}

// rss is the highest peak of all runs of a name, in MiB.
func (r *results) rss(name string) (peak float64) {
	for _, mode := range []string{"batch", "record"} {
		for _, s := range r.samples[key(name, mode)] {
			peak = max(peak, s.rss)
		}
	}
	return peak
}

// spread is the largest relative difference in CPU among numbers of streams.
func (r *results) spread() (float64, bool) {
	var v []float64
	for _, n := range []int{1, 4, 16, 32} {
		c := r.cpu(streamsName(n), "batch")
		if c == 0 {
			return 0, false
		}
		v = append(v, c)
	}
	return slices.Max(v)/slices.Min(v) - 1, true
}

// pair formats two figures as "a / b"; a zero is a dash.
func pair(f string, v [2]float64) string {
	s := [2]string{"-", "-"}
	for i := range v {
		if v[i] != 0 {
			s[i] = fmt.Sprintf(f, v[i])
		}
	}
	return s[0] + " / " + s[1]
}

// writeCPU prints the table of CPU cost.
func (r *results) writeCPU(w io.Writer, names []string, withBars bool) {
	fmt.Fprintln(w, "| sender | CPU-s/M | x blast | above blast | peak RSS MiB | must | good | prototype | verdict |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	floor := [2]float64{r.cpu(nBlast, "batch"), r.cpu(nBlast, "record")}
	for _, name := range names {
		c := [2]float64{r.cpu(name, "batch"), r.cpu(name, "record")}
		if c == [2]float64{} {
			continue
		}
		var x, above [2]float64
		for i := range x {
			if floor[i] > 0 && c[i] > 0 {
				x[i], above[i] = c[i]/floor[i], c[i]-floor[i]
			}
		}
		cells := []string{name, pair("%.3f", c), pair("%.1f", x), pair("%.2f", above), fmt.Sprintf("%.1f", r.rss(name)), "", "", "", ""}
		if b, ok := bars[name]; ok && withBars {
			worst := max(position(x[0], b, 0), position(x[1], b, 1))
			cells = append(cells[:5], pair("%.1f", b.must), pair("%.1f", b.good), pair("%.1f", b.proto),
				[]string{"good", "meets", "**misses**"}[worst])
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
}

// position is 0 for good, 1 for must, 2 for neither; an unmeasured figure is
// held against nothing.
func position(x float64, b bar, mode int) int {
	switch {
	case x <= b.good[mode]:
		return 0
	case x <= b.must[mode]:
		return 1
	}
	return 2
}

// measure is a row of the table of single figures.
type measure struct {
	name, value, must, good, proto, verdict string
}

func (r *results) writeMeasures(w io.Writer, ms []measure) {
	fmt.Fprintln(w, "| measure | value | must | good | prototype | verdict |")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- | --- |")
	for _, m := range ms {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", m.name, m.value, m.must, m.good, m.proto, m.verdict)
	}
}

// limit makes a measure whose value may be at most must, better good.
func limit(name, format string, v, must, good float64, proto string) measure {
	return measure{
		name: name, value: fmt.Sprintf(format, v), must: "<= " + fmt.Sprintf(format, must),
		good: "<= " + fmt.Sprintf(format, good), proto: proto, verdict: verdict(v, must, good),
	}
}

// measures makes the rows that have a bar of their own.
func (r *results) measures(long *steady, slows []slow, service *served) []measure {
	var ms []measure
	if c := r.cpu(nJSON, "batch"); c > 0 {
		ms = append(ms, limit("JSON validated, CPU-s/M", "%.2f", c, 0.98, 0.65, "0.49"))
		per := 1 / c
		v := "**misses**"
		if per >= 1.7 {
			v = "good"
		} else if per >= 1 {
			v = "meets"
		}
		ms = append(ms, measure{
			"JSON validated, M records per CPU-second (per second of the run)",
			fmt.Sprintf("%.2f (%.2f)", per, 1/r.wall(nJSON, "batch")), ">= 1.0", ">= 1.7", "~2.0", v,
		})
	}
	if plain, tls := r.cpu(nRaw, "batch"), r.cpu(nTLS, "batch"); plain > 0 && tls > 0 {
		ms = append(ms, limit("TLS on top, CPU-s/M", "%.2f", tls-plain, 0.40, 0.30, "0.28"))
	}
	if none, order := r.cpu(nKeys, "batch"), r.cpu(nOrder, "batch"); none > 0 && order > 0 {
		ms = append(ms, limit("ordering: key, many keys: CPU against none", "%.2f", order/none, 1.10, 1.03, ""))
	}
	if s, ok := r.spread(); ok {
		ms = append(ms, limit("1, 4, 16, 32 streams: spread of CPU/M, %", "%.0f", 100*s, 25, 15, "18"))
	}
	if v := r.rss(nJSON); v > 0 {
		ms = append(ms, limit("peak RSS at defaults, MiB", "%.1f", v, 40, 24, "14.4"))
	}
	if v := r.rss(streamsName(32)); v > 0 {
		ms = append(ms, limit("peak RSS at 32 streams, MiB", "%.1f", v, 96, 64, "49"))
	}
	ms = append(ms, longMeasures(long)...)
	for _, s := range slows {
		ms = append(ms, slowMeasures(s)...)
	}
	ms = append(ms, service.measures()...)
	bad := r.lost + r.doubled + r.other
	v := "good"
	if bad > 0 {
		v = "**misses**"
	}
	return append(ms, measure{
		fmt.Sprintf("loss, duplicates, wrong counts over %d runs", r.runs),
		fmt.Sprintf("%d, %d, %d", r.lost, r.doubled, r.other), "0, 0, 0", "0, 0, 0", "0, 0", v,
	})
}

func longMeasures(l *steady) []measure {
	if l == nil || l.err != nil {
		return nil
	}
	ms := []measure{limit("RSS growth from a quarter to the end of the long run, MiB", "%.1f", max(0, l.late-l.early), 4, 1, "0.8")}
	if l.haveCounters {
		ms = append(ms, limit("allocations per record, whole process", "%.4f", l.allocs, 0.05, 0.01, "0.001"))
	}
	return ms
}

func slowMeasures(s slow) []measure {
	if s.err != nil {
		return nil
	}
	at := fmt.Sprintf("%d/s, %s: ", perSecond, s.name)
	late := s.linger.Seconds() * 1000
	cpu := measure{name: at + "CPU of a core, %", value: fmt.Sprintf("%.1f", 100*s.share)}
	p99 := measure{name: at + "p99 line-to-server, ms", value: fmt.Sprintf("%.2f", s.checked.P99)}
	if s.bars {
		p99 = limit(p99.name, "%.2f", s.checked.P99, late+5, late+2, fmt.Sprintf("%.1f", late+1.3))
		cpu.proto = "9"
		if s.linger >= 5*time.Millisecond {
			cpu = limit(cpu.name, "%.1f", 100*s.share, 8, 4, "3.5")
		}
	}
	ms := []measure{cpu, p99}
	if s.hasAck {
		ms = append(ms, limit(at+"p99 write-to-ack, ms (from histogram buckets)", "%.2f", s.ack99, 5, 1, "0.3"))
	}
	return append(ms, measure{
		name:  at + "p50 line-to-server, p50 write-to-ack, ms; chunks",
		value: fmt.Sprintf("%.2f, %s; %d", s.checked.P50, dash(s.ack50), s.Chunks),
	})
}

func dash(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}
