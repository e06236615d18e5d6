package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/record"
)

// compile makes a regular expression. Go's take time in proportion to their
// input, whatever they are.
func compile(text string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return re, nil
}

// bufferedBatch is the longest batch that a buffer takes, however large it is.
const bufferedBatch = 128 << 20

func (l *loader) route(r *Route, at string) {
	if l.failed(at) && r.Topic == "" && len(r.AllowTopics) == 0 && r.Name == "" { // it is none at all
		l.routeInputs(r, at)
		return
	}
	l.routeName(r, at)
	l.routeInputs(r, at)
	l.routeCluster(r, at)
	l.decoding(r, at)
	l.topic(r, at)
	l.test(r.Match, at+".match")
	if r.Null != nil {
		l.fieldName(at+".null.field", r.Null.Field)
	}
	if r.Timestamp != nil {
		l.fieldName(at+".timestamp.field", r.Timestamp.Field)
	}
	l.fieldName(at+".partition.field", r.Partition.Field)
	l.key(r.Key, at+".key")
	r.Value.Type = l.recordType(at+".value.type", r.Value.Type)
	l.headerRules(r, at)
	l.carries(r, at)
	if r.Partition.Field != "" && l.has(at+".partition.number") {
		l.bad(at+".partition", "number and field are both given: leave one out")
	}
	l.disk(r, at)
	if r.Retry.Initial > r.Retry.Max {
		l.bad(cmp.Or(l.first(at+".retry.initial", at+".retry.max"), at), "initial is %s and max %s: the first wait cannot be longer than the longest",
			duration(r.Retry.Initial), duration(r.Retry.Max))
	}
	if !l.has(at + ".max_record_bytes") {
		r.MaxRecordBytes = 8e6
		if c := l.cfg.Cluster(r.Cluster); c != nil && c.Limits.MessageBytes > 0 {
			r.MaxRecordBytes = c.Limits.MessageBytes
		}
	}
	if r.Buffer.Type == "disk" {
		room := min(r.Buffer.MaxBytes, bufferedBatch) - 64<<10
		if c := l.cfg.Cluster(r.Cluster); c != nil {
			room -= 4 * c.Streams.BatchBytes // what one batch may have besides, with its positions
		}
		if r.MaxRecordBytes > room && !l.failed(at+".buffer.max_bytes") && !l.failed(at+".max_record_bytes") {
			l.bad(cmp.Or(l.first(at+".max_record_bytes", at+".buffer.max_bytes", at+".buffer.type"), at),
				"records of up to %d bytes do not fit the route's buffer, which takes %d at a time: lower max_record_bytes, or raise buffer.max_bytes", r.MaxRecordBytes, max(room, 0))
		}
	}
}

func (l *loader) routeName(r *Route, at string) {
	key := at + ".name"
	switch {
	case !l.has(key) || l.failed(key):
	case l.cfg.written[key] != "":
		l.bad(key, "write the name out: metrics and files are called after it, and a value from elsewhere is kept secret")
	case !nameRule.MatchString(r.Name):
		l.bad(key, "%q: %s", clip(r.Name), nameHint)
	}
}

func (l *loader) routeInputs(r *Route, at string) {
	key := at + ".inputs"
	names := make([]string, 0, len(l.cfg.Inputs))
	for _, in := range l.cfg.Inputs {
		names = append(names, in.Name)
	}
	if !l.has(key) {
		r.Inputs = names
		return
	}
	if len(r.Inputs) == 0 && !l.failed(key) {
		l.bad(key, "is empty: name inputs, or leave it out to take all")
	}
	for i, name := range r.Inputs {
		l.reference(index(key, i), "input", name, names)
	}
}

func (l *loader) routeCluster(r *Route, at string) {
	key := at + ".cluster"
	names := make([]string, 0, len(l.cfg.Clusters))
	for _, c := range l.cfg.Clusters {
		names = append(names, c.Name)
	}
	switch {
	case l.has(key):
		l.reference(key, "cluster", r.Cluster, names)
	case len(names) == 1:
		r.Cluster = names[0]
	case len(names) > 1:
		l.bad(at, "cluster is missing: say which, %s", list(names))
	}
}

// reference checks a name against those that are there.
func (l *loader) reference(key, what, name string, names []string) {
	if slices.Contains(names, name) || l.failed(key) {
		return
	}
	text := fmt.Sprintf("there is no %s %s", what, l.value(key, name))
	switch s := suggest(name, names); {
	case s != "" && l.cfg.written[key] == "":
		text += fmt.Sprintf(": did you mean %q?", s)
	case len(names) > 0:
		text += "; there are " + list(names)
	}
	l.bad(key, "%s", text)
}

// looking returns the keys of r that take fields from its records. A match is
// none of them: it only looks, and a record without fields goes on.
func looking(r *Route, at string) []string {
	var all []string
	note := func(is bool, key string) {
		if is {
			all = append(all, at+key)
		}
	}
	foreign := func(text string) bool {
		t, err := record.ParseTemplate(text)
		return err == nil && len(t.Fields()) > 0
	}
	note(r.Null != nil, ".null")
	note(r.Key != nil && (r.Key.Field != "" || foreign(r.Key.Template)), ".key")
	note(r.Timestamp != nil, ".timestamp")
	note(r.Partition.Field != "", ".partition")
	note(foreign(r.Topic), ".topic")
	for _, h := range r.Headers {
		note(h.Value != nil && foreign(*h.Value), ".headers."+h.Name)
	}
	return all
}

// decoding refuses to look for fields in what is said to have none.
func (l *loader) decoding(r *Route, at string) {
	if r.Decode == "json" || r.Decode == "any" {
		return
	}
	for _, key := range looking(r, at) {
		l.bad(key, "looks at a field of the record, which needs decode: json, not %s", r.Decode)
	}
}

func (l *loader) topic(r *Route, at string) {
	key := at + ".topic"
	l.patterns(at+".allow_topics", r.AllowTopics)
	switch {
	case l.failed(key):
		return
	case r.Topic == "" && len(r.AllowTopics) > 0: // records bring their own
		return
	case r.Topic == "":
		l.bad(cmp.Or(l.first(key), at), "topic is missing: name it, or a template as \"logs-{{ .tenant }}\", or allow_topics for records that bring their own")
		return
	}
	t, err := record.ParseTemplate(r.Topic)
	if err == nil {
		err = ingest.CheckTopicTemplate(t, r.AllowTopics)
	}
	if err != nil {
		l.because(key, err)
	}
}

// test checks one look at a field.
func (l *loader) test(t *Test, at string) {
	if t == nil || l.failed(at) {
		return
	}
	var given []string
	for _, name := range []string{"equals", "in", "regex", "exists"} {
		if l.has(at + "." + name) {
			given = append(given, name)
		}
	}
	switch {
	case len(given) == 0:
		l.bad(at, "say what the field must be: equals, in, regex or exists")
	case len(given) > 1:
		l.bad(at, "%s are all given: leave one of them", strings.Join(given, " and "))
	case given[0] == "in" && len(t.In) == 0 && !l.failed(at+".in"):
		l.bad(at+".in", "is empty: no record could match")
	case given[0] == "regex" && t.Regex == "" && !l.failed(at+".regex"):
		l.bad(at+".regex", "is empty: every record would match; leave match out for that")
	case given[0] == "regex":
		l.regexp(at+".regex", t.Regex)
	}
	l.fieldName(at+".field", t.Field)
}

// fieldName wants the name of a field that is given not to be empty.
func (l *loader) fieldName(key, name string) {
	if l.has(key) && name == "" && !l.failed(key) {
		l.bad(key, "is empty: name a JSON field")
	}
}

func (l *loader) key(k *Key, at string) {
	if k == nil || l.failed(at) {
		return
	}
	var given []string
	for _, name := range []string{"field", "template", "value", "delimiter"} {
		if l.has(at + "." + name) {
			given = append(given, name)
		}
	}
	switch {
	case len(given) == 0:
		l.bad(at, "say where keys come from: field, template, value or delimiter")
	case len(given) > 1:
		l.bad(at, "%s are all given: a record has one key", strings.Join(given, " and "))
	case given[0] == "field":
		l.fieldName(at+".field", k.Field)
	case given[0] == "template" && k.Template == "" && !l.failed(at+".template"):
		l.bad(at+".template", "is empty: give what the key is made of, as \"{{ .tenant }}-{{ .user }}\"")
	case given[0] == "template":
		if _, err := record.ParseTemplate(k.Template); err != nil && !l.failed(at+".template") {
			l.because(at+".template", err)
		}
	case given[0] == "delimiter" && k.Delimiter == "" && !l.failed(at+".delimiter"):
		l.bad(at+".delimiter", "is empty: give what stands between key and value, as \"\\t\"")
	}
	k.Type = l.recordType(at+".type", k.Type)
}

// recordType checks a type's name and returns it in capitals.
func (l *loader) recordType(key, name string) string {
	t, err := record.ParseType(name)
	if err != nil {
		if !l.failed(key) {
			l.because(key, fmt.Errorf("%q is no type: must be AUTO, STRING, JSON or BINARY", clip(name)))
		}
		return name
	}
	return t.String()
}

func (l *loader) headerRules(r *Route, at string) {
	for _, h := range r.Headers {
		key := at + ".headers." + h.Name
		l.headerName(key, h.Name)
		if h.Name == r.RecordIDHeader && h.Name != "" {
			l.bad(key, "record_id_header has the same name")
		}
		if h.Value == nil || l.failed(key) {
			continue
		}
		if _, err := record.ParseTemplate(*h.Value); err != nil {
			l.because(key, err)
		}
	}
	if l.has(at + ".record_id_header") {
		l.headerName(at+".record_id_header", r.RecordIDHeader)
	}
}

func (l *loader) headerName(key, name string) {
	if name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		if !l.failed(key) {
			l.because(key, fmt.Errorf("%q is no header's name: up to 255 characters, and no control characters", clip(name)))
		}
	}
}

// disk settles what of a route is kept on disk.
func (l *loader) disk(r *Route, at string) {
	files, promised := false, false
	for _, name := range r.Inputs {
		if in := l.cfg.Input(name); in != nil {
			files = files || in.File != nil
			promised = promised || in.HTTP != nil && in.HTTP.Respond == "after_buffer"
		}
	}
	if !l.has(at+".buffer.type") && files && r.Spill != "never" && l.cfg.DataDir != "" && l.manyTopics(r) {
		r.Buffer.Type = "disk" // else one topic that takes nothing would hold up the others of its files
	}
	if r.Spill == "" && !l.failed(at+".spill") {
		r.Spill = "never"
		if files && r.Buffer.Type == "disk" {
			r.Spill = "parked"
		}
	}
	if r.Buffer.Fsync == "" && !l.failed(at+".buffer.fsync") {
		r.Buffer.Fsync = "1s"
		if promised {
			r.Buffer.Fsync = "always"
		}
	}
	none := l.cfg.DataDir == "" && !l.failed("data_dir")
	if none && r.Buffer.Type == "disk" {
		l.bad(cmp.Or(l.first(at+".buffer.type"), at), "a buffer on disk needs a place: give data_dir")
	}
	if none && r.Spill != "never" && r.Spill != "" {
		l.bad(at+".spill", "%s moves records to the disk: give data_dir, or write never", r.Spill)
	}
	if r.Buffer.Type == "none" && !none && !l.failed(at+".buffer.type") {
		if l.has(at+".spill") && (r.Spill == "parked" || r.Spill == "always") {
			l.bad(at+".spill", "%s moves records to the route's buffer, and it has none: give buffer: {type: disk}, or write never", r.Spill)
		}
		for _, key := range []string{".buffer.max_bytes", ".buffer.when_full", ".buffer.fsync"} {
			if l.has(at+key) && !l.has(at+".buffer.type") {
				l.bad(at+key, "is given, and the route has no buffer: give buffer.type: disk, or leave it out")
			}
		}
	}
	if promised && r.Buffer.Type == "none" && !l.failed(at+".buffer.type") {
		l.bad(cmp.Or(l.first(at+".buffer.type", at+".buffer"), at),
			"an input of this route responds after_buffer, so the route needs buffer: {type: disk}")
	}
	d := &r.DeadLetter
	switch {
	case d.Path == "" && l.cfg.DataDir != "" && r.Name != "":
		d.Path = below(l.cfg.DataDir, "dead/"+r.Name+".ndjson")
	case d.Path != "" && l.cfg.DataDir != "":
		d.Path = below(l.cfg.DataDir, d.Path)
	default:
		d.Path = l.absolute(d.Path)
	}
	l.feedsItself(at+".dead_letter.path", d.Path)
}

// manyTopics says whether the records of a file input of r go to more than one
// topic.
func (l *loader) manyTopics(r *Route) bool {
	if t, err := record.ParseTemplate(r.Topic); err == nil && !t.Constant() {
		return true
	}
	for i := range l.cfg.Routes {
		o := &l.cfg.Routes[i]
		if o.Name == r.Name {
			continue
		}
		all := !l.has(index("routes", i) + ".inputs")
		for _, name := range r.Inputs {
			if in := l.cfg.Input(name); in != nil && in.File != nil && (all || slices.Contains(o.Inputs, name)) {
				return true
			}
		}
	}
	return false
}

// routesTogether looks at what routes have to do with each other.
func (l *loader) routesTogether() {
	names, dead := map[string]string{}, map[string]string{}
	for i := range l.cfg.Routes {
		r, at := &l.cfg.Routes[i], index("routes", i)
		if other := names[r.Name]; other != "" && r.Name != "" {
			l.bad(at+".name", "%s is called %q already: each route needs a name of its own", other, clip(r.Name))
		}
		names[r.Name] = cmp.Or(names[r.Name], at)
		if other := dead[r.DeadLetter.Path]; other != "" && l.has(at+".dead_letter.path") {
			l.bad(at+".dead_letter.path", "%s keeps its dead letters in this file: each route needs one of its own", other)
		}
		if r.DeadLetter.Path != "" {
			dead[r.DeadLetter.Path] = at
		}
	}
	for _, in := range l.cfg.Inputs {
		l.inRoutes(in.Name)
	}
	l.onePool()
}

// inRoutes wants an input to be in some route, and no route behind one that
// takes all.
func (l *loader) inRoutes(name string) {
	used, all := false, -1
	for i := range l.cfg.Routes {
		r := &l.cfg.Routes[i]
		if !slices.Contains(r.Inputs, name) {
			continue
		}
		used = true
		if all >= 0 {
			l.warn(index("routes", i), "records of input %s never come here: %s takes all of them; put the route with a match first", name, index("routes", all))
			continue
		}
		if r.Match == nil && !l.failed(index("routes", i)+".match") {
			all = i
		}
	}
	if !used && len(l.cfg.Routes) > 0 {
		l.bad("inputs."+name, "no route takes this input: add it to a route's inputs, or take it out")
	}
}

// onePool: the routes of a cluster share its streams, so what streams do is
// the same for all of them.
func (l *loader) onePool() {
	first := map[string]int{}
	for i := range l.cfg.Routes {
		r, at := &l.cfg.Routes[i], index("routes", i)
		j, seen := first[r.Cluster]
		if !seen {
			first[r.Cluster] = i
			continue
		}
		if r.Cluster == "" {
			continue
		}
		other := &l.cfg.Routes[j]
		differ := func(key string) {
			l.bad(cmp.Or(l.first(at+key, index("routes", j)+key), at),
				"%s and %s go to cluster %s with different settings, and its streams have one: write the same in both, or a cluster for each",
				index("routes", j), at, r.Cluster)
		}
		if r.Retry != other.Retry {
			differ(".retry")
		}
		if r.Ordering != other.Ordering {
			differ(".ordering")
		}
	}
}

// below makes path absolute below dir.
func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
