package ingest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
)

// RouterConfig says where one input's records go.
type RouterConfig struct {
	Batch          BatchConfig
	Routes         []Route     // the first that matches takes a record
	Vars           record.Vars // what templates and matches know of the input
	MaxRecordBytes int         // a longer payload or record is rejected; 0: no bound
	RawReports     bool        // origins want the delivery reports of what AddRecord takes as they are
}

// Bounds on what a Router keeps of many topics. A batch being built has a
// buffer of 66 KiB: 256 of them are 17 MB an input, and as many topics can
// gather records at a time; one more and the batch that has waited longest
// goes early. Of larger batches there are fewer. A topic without a batch is
// 400 bytes at most, 4096 of them 1.6 MB: they are kept so that their names
// need not be checked and allocated anew.
const (
	maxHeld      = 256
	maxHeldBytes = 16 << 20
	maxIdle      = 4096
)

// patience is how long a record at least may wait in a batch while others are
// sent: an input that is read at full speed never pauses, and a topic that few
// of its records go to would wait for its end. Ten batches a second of such a
// topic cost nothing.
const patience = 100 * time.Millisecond

// Router gives each record of one input to its route, encodes it and gathers
// it in the batch of its topic. Batches go to the Sink when they are full, or
// have waited for a linger.
//
// Concurrency: hold Lock around Add and AddRecord, for as many records as are
// at hand, so that the lock costs once a read; the linger timer takes it to
// close batches nothing was added to. The Sink is called with it held: while
// the Sink waits, the input waits.
type Router struct {
	cfg    RouterConfig
	sink   Sink
	routes []*route
	only   *out   // the topic of all records, where the first route takes them all to one
	most   int    // batches held at a time
	tried  string // what a record is told that no route takes

	mu       sync.Mutex    // guards all below it, and the routes' batches
	scope    *record.Scope // of all routes
	name     []byte        // scratch of topics' names
	held     outs          // with a batch, the one that has waited longest first
	idle     outs          // without a batch, the one not used for longest first
	lastSent time.Time
	armed    bool
	timer    *time.Timer
	err      error // of a Submit from the timer; the input gets it
}

// route is a Route and the batches being built by it.
type route struct {
	Route
	enc  *record.Encoder
	text *record.Text    // of the topic
	when *record.Matcher // nil: always
	outs map[string]*out
	one  *out // the topic of all of them; nil: it differs
	last *out // the topic of the record before
}

// constant is the route's topic where it is the same for all records, else "".
func (t *route) constant() string {
	if t.one == nil {
		return ""
	}
	return t.one.topic
}

// out is one topic of one route and the batch being built for it. It is in
// Router.held with a batch, else in Router.idle, where it can be forgotten; a
// route's only topic never is.
type out struct {
	topic string
	to    *route
	cur   *record.Batch // nil: none
	began time.Time     // when cur was

	prev, next *out
}

// outs is a queue that things can leave anywhere.
type outs struct {
	first, last *out
	n           int
}

func (q *outs) push(o *out) {
	o.prev, o.next = q.last, nil
	if q.last == nil {
		q.first = o
	} else {
		q.last.next = o
	}
	q.last = o
	q.n++
}

func (q *outs) remove(o *out) {
	if o.prev == nil {
		q.first = o.next
	} else {
		o.prev.next = o.next
	}
	if o.next == nil {
		q.last = o.prev
	} else {
		o.next.prev = o.prev
	}
	o.prev, o.next = nil, nil
	q.n--
}

// NewRouter returns a Router that hands its batches to sink.
//
// Errors: what is wrong with a route, by name.
func NewRouter(cfg RouterConfig, sink Sink) (*Router, error) {
	if len(cfg.Routes) == 0 {
		return nil, errors.New("an input without a route: name it in the inputs of one")
	}
	r := &Router{cfg: cfg, sink: sink, scope: record.NewScope(cfg.Vars)}
	for _, c := range cfg.Routes {
		if own := c.Encoder.MaxRecordBytes; own == 0 || cfg.MaxRecordBytes > 0 && own > cfg.MaxRecordBytes {
			c.Encoder.MaxRecordBytes = cfg.MaxRecordBytes
		}
		text, enc, err := compile(c, r.scope)
		if err != nil {
			if c.Name != "" {
				err = fmt.Errorf("route %q: %w", c.Name, err)
			}
			return nil, err
		}
		to := &route{Route: c, enc: enc, text: text, outs: map[string]*out{}}
		if c.Match != nil {
			to.when = r.scope.Matcher(c.Match)
		}
		if name, ok := text.Constant(); ok && name != "" {
			if err := to.allowed(name); err != nil { // a host's name may be in it
				return nil, fmt.Errorf("route %q: %w", c.Name, err)
			}
			to.one = &out{topic: name, to: to}
			to.outs[name] = to.one
		}
		r.routes = append(r.routes, to)
	}
	if first := r.routes[0]; first.one != nil && first.when == nil {
		r.only = first.one
	}
	r.tried = r.noRoute()
	r.most = min(max(maxHeldBytes/max(cfg.Batch.Bytes, 1), 4), maxHeld)
	return r, nil
}

// allowed returns why name, made by the route's template, is no topic for it.
func (t *route) allowed(name string) error {
	if err := CheckTopic(name); err != nil {
		return err
	}
	if name == t.Topic || len(t.AllowTopics) == 0 || Allows(t.AllowTopics, name) {
		return nil
	}
	return fmt.Errorf("topic %q: allow_topics has %s only", name, strings.Join(t.AllowTopics, ", "))
}

// noRoute says what was tried when no route takes a record.
func (r *Router) noRoute() string {
	var tried []string
	for i, to := range r.routes {
		name := to.Name
		if name == "" {
			name = strconv.Itoa(i + 1)
		}
		if to.when != nil {
			tried = append(tried, strconv.Quote(name)+" ("+to.Match.String()+")")
		}
	}
	return "no route takes this record; tried " + strings.Join(tried, ", ") +
		": add a route without a match behind them to take the rest"
}

// Lock is held around File, Add, AddRecord, Reject, Pause and Flush.
func (r *Router) Lock() { r.mu.Lock() }

// Unlock ends Lock.
func (r *Router) Unlock() { r.mu.Unlock() }

// File says which file the next records are from, for templates and matches;
// "" for none. It costs nothing while that stays the same.
func (r *Router) File(path string) { r.scope.SetFile(path) }

// Add gives one payload to the first route that matches. id is what its record
// id is made from. A record that no route takes, that no topic can be made of
// or that cannot be encoded is rejected.
// An error ends the input.
func (r *Router) Add(payload, id []byte, pos record.Position) error {
	o := r.only
	if o == nil {
		return r.route(payload, id, pos)
	}
	if o.cur == nil {
		if err := r.begin(o); err != nil {
			return err
		}
	}
	buf, err := o.to.enc.Append(o.cur.Tail(), payload, id)
	if err != nil {
		return r.undone(o, err, payload, pos)
	}
	return r.commit(o, buf, pos)
}

// route is Add where routes differ by record, or topics do.
func (r *Router) route(payload, id []byte, pos record.Position) error {
	r.scope.Set(payload)
	set := len(payload) // values are tails of payload, so their length tells them apart
	for _, to := range r.routes {
		if value := to.enc.Value(payload); len(value) != set {
			r.scope.Set(value)
			set = len(value)
		}
		if to.when != nil && !to.when.Holds() {
			continue
		}
		o := to.one
		if o == nil {
			var err error
			if o, err = r.render(to); err != nil {
				return r.reject(to, "", err, payload, pos)
			}
		}
		tail, err := r.tail(o)
		if err != nil {
			return err
		}
		buf, err := to.enc.AppendSeen(tail, payload, id)
		if err != nil {
			return r.undone(o, err, payload, pos)
		}
		return r.commit(o, buf, pos)
	}
	to := r.routes[0]
	return r.sink.Reject(to.ID, "", pos, payload, &record.InvalidError{Code: 400, Reason: ReasonNoRoute, Message: r.tried})
}

// render returns the topic that the record in the scope goes to.
// Errors: *record.InvalidError.
func (r *Router) render(to *route) (*out, error) {
	if to.Topic == "" {
		return nil, &record.InvalidError{
			Code: 400, Reason: record.ReasonNoTopic,
			Message: "the route has no topic, for it is for records that bring their own: give it one",
		}
	}
	name, err := to.text.AppendTopic(r.name[:0])
	if err != nil {
		return nil, err
	}
	if r.name = name; cap(name) > 64<<10 {
		r.name = nil // a huge field is over
	}
	if to.last != nil && string(name) == to.last.topic {
		return to.last, nil
	}
	o := to.outs[string(name)]
	if o == nil {
		known := string(name)
		if err := to.allowed(known); err != nil {
			return nil, &record.InvalidError{
				Code: 400, Reason: ReasonTopicNotAllowed,
				Message: err.Error() + ": mend the field the name is made of, or allow it",
			}
		}
		o = r.newOut(to, known)
	}
	to.last = o
	return o, nil
}

// AddRecord gives one REST v3 record object, already checked, to topic, or to
// the first route's own topic when that is empty. What is in the record wins
// over the route's rules. That topic is allowed is the caller's to check.
// An error ends the input.
func (r *Router) AddRecord(topic string, raw []byte, pos record.Position) error {
	to := r.routes[0]
	o := to.one
	switch {
	case topic != "":
		o = r.topic(to, topic)
	case o == nil && to.text.OfPayload():
		return r.sink.Reject(to.ID, "", pos, raw, &record.InvalidError{
			Code: 400, Reason: record.ReasonNoTopic,
			Message: "the topic is made with fields of the payload, and whole records are not looked into: give such an input a route whose topic does without",
		})
	case o == nil:
		var err error
		if o, err = r.render(to); err != nil {
			return r.reject(to, "", err, raw, pos)
		}
	}
	tail, err := r.tail(o)
	if err != nil {
		return err
	}
	if r.cfg.RawReports {
		o.cur.Raw = true
	}
	return r.commit(o, record.AppendRaw(tail, raw), pos)
}

// Reject gives one payload that is no record to the Sink.
func (r *Router) Reject(payload []byte, pos record.Position, why *record.InvalidError) error {
	to := r.routes[0]
	return r.sink.Reject(to.ID, to.constant(), pos, payload, why)
}

// topic returns one topic of a route. topic may be a string that changes later.
func (r *Router) topic(to *route, topic string) *out {
	if o := to.outs[topic]; o != nil {
		return o
	}
	return r.newOut(to, strings.Clone(topic))
}

// newOut adds a topic, and forgets the one that was not used for longest when
// there are too many.
func (r *Router) newOut(to *route, topic string) *out {
	for r.idle.n >= maxIdle {
		old := r.idle.first
		r.idle.remove(old)
		delete(old.to.outs, old.topic)
		if old.to.last == old {
			old.to.last = nil
		}
	}
	o := &out{topic: topic, to: to}
	to.outs[topic] = o
	r.idle.push(o)
	return o
}

// tail lends out the end of o's batch, which it begins where there is none.
// Then comes commit or undo.
// An error ends the input.
func (r *Router) tail(o *out) ([]byte, error) {
	if o.cur == nil {
		if err := r.begin(o); err != nil {
			return nil, err
		}
	}
	return o.cur.Tail(), nil
}

func (r *Router) begin(o *out) error {
	for r.held.n >= r.most {
		if err := r.send(r.held.first); err != nil {
			return err
		}
	}
	if o != o.to.one {
		r.idle.remove(o)
	}
	o.cur = record.NewBatch(o.topic)
	o.cur.Route = o.to.ID
	o.began = time.Now()
	r.held.push(o)
	return nil
}

// undo ends what tail began, without a record.
func (r *Router) undo(o *out) {
	if o.cur.Len() == 0 {
		o.cur.Discard()
		r.rest(o)
	}
}

// rest takes the batch out of o.
func (r *Router) rest(o *out) {
	o.cur = nil
	r.held.remove(o)
	if o != o.to.one {
		r.idle.push(o)
	}
}

// undone is undo for a record that could not be encoded: it is rejected.
func (r *Router) undone(o *out, err error, payload []byte, pos record.Position) error {
	r.undo(o)
	return r.reject(o.to, o.topic, err, payload, pos)
}

// commit takes a record into the batch.
func (r *Router) commit(o *out, buf []byte, pos record.Position) error {
	o.cur.Commit(buf, pos)
	if o.cur.Size() >= r.cfg.Batch.Bytes {
		return r.send(o)
	}
	return nil
}

// reject passes a record on that could not be routed or encoded.
func (r *Router) reject(to *route, topic string, err error, payload []byte, pos record.Position) error {
	var invalid *record.InvalidError
	if !errors.As(err, &invalid) {
		return fmt.Errorf("encode record at byte %d: %w", pos.Offset, err)
	}
	return r.sink.Reject(to.ID, topic, pos, payload, invalid)
}

// send hands a batch on, and those that have waited too long.
func (r *Router) send(o *out) error {
	if err := r.submit(o); err != nil {
		return err
	}
	if first := r.held.first; first == nil || r.lastSent.Sub(first.began) < max(patience, r.cfg.Batch.Linger) {
		return nil
	}
	return r.overdue()
}

func (r *Router) overdue() error {
	now := r.lastSent
	for first := r.held.first; first != nil && now.Sub(first.began) >= max(patience, r.cfg.Batch.Linger); first = r.held.first {
		if err := r.submit(first); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) submit(o *out) error {
	if r.err != nil {
		return r.err
	}
	full := o.cur
	r.rest(o)
	if r.err = r.sink.Submit(full); r.err != nil {
		return r.err
	}
	r.lastSent = time.Now()
	return nil
}

// Flush hands all batches on.
func (r *Router) Flush() error {
	for r.held.first != nil && r.err == nil {
		_ = r.submit(r.held.first) // its error stays in r.err
	}
	return r.err
}

// Pause is called when the input has no more for the moment: the batches go at
// once when nothing was sent for a linger, else when that is over.
func (r *Router) Pause() error {
	first := r.held.first
	if r.err != nil || first == nil {
		return r.err
	}
	since := r.lastSent
	if first.began.Before(since) { // it waited while others were sent
		since = first.began
	}
	wait := r.cfg.Batch.Linger - time.Since(since)
	if wait <= 0 {
		return r.Flush()
	}
	if r.armed {
		return nil
	}
	r.armed = true
	if r.timer == nil {
		r.timer = time.AfterFunc(wait, r.lingered)
	} else {
		r.timer.Reset(wait)
	}
	return nil
}

// pacer is an input that can say whether it has more.
type pacer interface {
	// sleep waits, or returns at once when the input is to end.
	sleep(d time.Duration)
	// ready says whether a Read would return without waiting.
	ready() bool
}

// trickle is the size of a read up to which an input counts as slow: one read
// a record costs more than all the rest, so such an input is left alone until
// the linger is over and then read in one go.
const trickle = 8 << 10

// gather does for a live input what Pause does, with fewer wake-ups: what was
// read goes, and after a small read the input is left alone for a linger, to be
// read in one go then. The first record after a pause goes at once. An input
// that fills its reads is not slowed down.
func (r *Router) gather(in pacer, n int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n >= trickle && time.Since(r.lastSent) < 2*r.cfg.Batch.Linger && in.ready() {
		return r.err
	}
	if err := r.Flush(); err != nil {
		return err
	}
	if n < trickle && r.cfg.Batch.Linger > 0 {
		in.sleep(r.cfg.Batch.Linger)
	}
	return nil
}

// lingered closes the batches when they have waited long enough.
func (r *Router) lingered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed = false
	_ = r.Pause() // an error stays in r.err for the input
}

// Close hands the last batches on and ends the timer. It takes the lock.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
	return r.Flush()
}
