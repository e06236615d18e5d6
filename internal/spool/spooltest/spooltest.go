// Package spooltest is the contract of a spool.Buffer as tests: what any place
// that keeps batches must do, files or not.
package spooltest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/produce-agent/produce-agent/internal/record"
	"github.com/produce-agent/produce-agent/internal/spool"
)

// Options are what a test asks of a Buffer.
type Options struct {
	MaxBytes int64
	WhenFull spool.Policy
	Dropped  func(int64)
}

// Open returns the Buffer at a place, a new one where there is none yet. The
// one before at the same place was closed.
type Open func(t testing.TB, place string, o Options) spool.Buffer

// Source is the number that the tests register their Buffers under.
const Source = 11

const patience = 10 * time.Second

type suite struct {
	open Open
}

// Run runs all tests of the contract.
func Run(t *testing.T, open Open) {
	s := suite{open}
	for name, test := range map[string]func(*testing.T){
		"order":                s.order,
		"positions":            s.positions,
		"settled records go":   s.settled,
		"restart":              s.restart,
		"refused come back":    s.refused,
		"cursors share":        s.share,
		"topics":               s.topics,
		"waits and wakes":      s.wakes,
		"ends":                 s.ends,
		"block":                s.block,
		"drop oldest":          s.dropOldest,
		"drop newest":          s.dropNewest,
		"too large":            s.tooLarge,
		"many at once":         s.manyAtOnce,
		"any bytes":            s.anyBytes,
		"settled twice or not": s.twice,
	} {
		t.Run(name, test)
	}
}

// box is a Buffer under test.
type box struct {
	spool.Buffer
	t testing.TB
}

func (s *suite) at(t testing.TB, place string, o Options) *box {
	t.Helper()
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 20
	}
	b := s.open(t, place, o)
	b.SetSource(Source)
	return &box{b, t}
}

func (s *suite) fresh(t testing.TB, o Options) *box {
	t.Helper()
	b := s.at(t, t.TempDir(), o)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func text(i int) string {
	return fmt.Sprintf(`{"value":{"type":"STRING","data":"%d-%s"}}`+"\n", i, strings.Repeat("y", i%50))
}

func batch(topic string, from, to int) *record.Batch {
	b := record.NewBatch(topic)
	for i := from; i < to; i++ {
		b.Commit(append(b.Tail(), text(i)...), record.Position{Offset: int64(i), Len: 1, Source: 3})
	}
	return b
}

func where(pos record.Position) (string, int64) {
	return fmt.Sprintf("file%d", pos.Offset%3), pos.Offset
}

// put appends and waits for durable.
func (b *box) put(topic string, from, to int) error {
	b.t.Helper()
	return b.putBatch(batch(topic, from, to))
}

func (b *box) putBatch(x *record.Batch) error {
	b.t.Helper()
	done := make(chan error, 2)
	if err := b.Append(b.t.Context(), x, where, func(_ *record.Batch, err error) { done <- err }); err != nil {
		x.Discard()
		return err
	}
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		return errors.New("durable was never called")
	}
}

func (b *box) must(topic string, from, to int) {
	b.t.Helper()
	if err := b.put(topic, from, to); err != nil {
		b.t.Fatalf("append %d to %d: %v", from, to, err)
	}
}

// next returns the next batch within patience.
func (b *box) next(c spool.Cursor) *record.Batch {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	x, _, err := c.Next(ctx)
	if err != nil {
		b.t.Fatalf("next: %v", err)
	}
	return x
}

// none checks that there is nothing to read.
func (b *box) none(c spool.Cursor) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Millisecond)
	defer cancel()
	if x, _, err := c.Next(ctx); err == nil {
		b.t.Errorf("a batch of %d records for %q came, and none is left", x.Len(), x.Topic)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		b.t.Errorf("next: %v", err)
	}
}

// read takes records until it has n of them.
func (b *box) read(c spool.Cursor, n int) (texts []string, pos []record.Position) {
	b.t.Helper()
	for len(texts) < n {
		x := b.next(c)
		for i := range x.Len() {
			texts, pos = append(texts, string(x.Bytes(i, i+1))), append(pos, x.Pos[i])
		}
		x.Discard()
	}
	return texts, pos
}

func (b *box) want(texts []string, from, to int) {
	b.t.Helper()
	if len(texts) != to-from {
		b.t.Fatalf("%d records, want %d", len(texts), to-from)
	}
	for i, got := range texts {
		if got != text(from+i) {
			b.t.Fatalf("record %d is %q, want %q", from+i, got, text(from+i))
		}
	}
}

func (b *box) pending(n int64) {
	b.t.Helper()
	if got := b.Pending(); got != n {
		b.t.Errorf("%d records pending, want %d", got, n)
	}
	st := b.Stats()
	if in, out := st.Opened+st.Appended, st.Delivered+st.Rejected+st.DroppedOldest+st.CorruptRecords+st.Pending; in != out {
		b.t.Errorf("%d records in, %d out and pending: %+v", in, out, st)
	}
}

func (s *suite) order(t *testing.T) {
	b := s.fresh(t, Options{})
	for i := 0; i < 2000; i += 20 {
		b.must("t", i, i+20)
	}
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	texts, pos := b.read(c, 2000)
	b.want(texts, 0, 2000)
	for i := 1; i < len(pos); i++ {
		if pos[i].Offset <= pos[i-1].Offset {
			t.Fatalf("position %d behind %d", pos[i].Offset, pos[i-1].Offset)
		}
	}
	b.none(c)
	b.pending(2000)
}

func (s *suite) positions(t *testing.T) {
	place := t.TempDir()
	b := s.at(t, place, Options{})
	b.must("t", 0, 30)
	check := func() []record.Position {
		t.Helper()
		c := b.Cursor(spool.Ref{}, "")
		defer c.Close()
		_, pos := b.read(c, 30)
		for i, p := range pos {
			if p.Source != Source {
				t.Fatalf("source %d, want %d", p.Source, Source)
			}
			wantName, wantOff := where(record.Position{Offset: int64(i)})
			if name, off := b.Where(p); name != wantName || off != wantOff {
				t.Fatalf("record %d is from %s:%d, want %s:%d", i, name, off, wantName, wantOff)
			}
		}
		return pos
	}
	check()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = s.at(t, place, Options{})
	defer b.Close()
	b.Delivered(check())
	b.pending(0)
}

func (s *suite) settled(t *testing.T) {
	place := t.TempDir()
	b := s.at(t, place, Options{})
	b.must("t", 0, 100)
	c := b.Cursor(spool.Ref{}, "")
	_, pos := b.read(c, 100)
	b.Delivered(pos[10:20])
	b.Rejected(pos[50], 413, "too large")
	b.Delivered(pos[97:])
	b.pending(86)
	if st := b.Stats(); st.Delivered != 13 || st.Rejected != 1 {
		t.Errorf("%+v", st)
	}
	c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = s.at(t, place, Options{})
	defer b.Close()
	b.pending(86)
	c = b.Cursor(spool.Ref{}, "")
	defer c.Close()
	texts, _ := b.read(c, 86)
	b.none(c)
	b.want(texts[:10], 0, 10)
	b.want(texts[10:40], 20, 50)
	b.want(texts[40:], 51, 97)
}

func (s *suite) restart(t *testing.T) {
	place := t.TempDir()
	for i := range 5 {
		b := s.at(t, place, Options{})
		b.pending(int64(i * 10))
		b.must("t", i*10, i*10+10)
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b := s.at(t, place, Options{})
	defer b.Close()
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	texts, pos := b.read(c, 50)
	b.want(texts, 0, 50)
	b.Delivered(pos)
	b.must("t", 50, 60)
	texts, _ = b.read(c, 10)
	b.want(texts, 50, 60)
}

func (s *suite) refused(t *testing.T) {
	b := s.fresh(t, Options{})
	b.must("t", 0, 40)
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	_, pos := b.read(c, 40)
	b.none(c)
	b.Refused(pos[5:15], errors.New("no"))
	texts, again := b.read(c, 10)
	b.want(texts, 5, 15)
	if name, off := b.Where(again[3]); name != "file2" || off != 8 {
		t.Errorf("a record that came again is from %s:%d", name, off)
	}
	b.none(c)
	b.Delivered(again)
	b.Buffered(pos[20:21])
	texts, again = b.read(c, 1)
	b.want(texts, 20, 21)
	b.Delivered(again)
	b.Delivered(pos[:5])
	b.Delivered(pos[15:20])
	b.Delivered(pos[21:])
	b.pending(0)
}

// A record is in one hand at a time, however many cursors there are.
func (s *suite) share(t *testing.T) {
	b := s.fresh(t, Options{})
	for i := 0; i < 1000; i += 10 {
		b.must([]string{"a", "b"}[i/10%2], i, i+10)
	}
	seen := map[string]int{}
	var all []record.Position
	cursors := []spool.Cursor{b.Cursor(spool.Ref{}, ""), b.Cursor(spool.Ref{}, "a"), b.Cursor(spool.Ref{}, "")}
	for n, i := 0, 0; n < 1000; i++ {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		x, _, err := cursors[i%3].Next(ctx)
		cancel()
		if err != nil {
			continue
		}
		for j := range x.Len() {
			seen[string(x.Bytes(j, j+1))]++
		}
		n += x.Len()
		all = append(all, x.Pos...)
		x.Discard()
	}
	for _, c := range cursors {
		b.none(c)
		c.Close()
	}
	if len(seen) != 1000 {
		t.Errorf("%d different records, want 1000", len(seen))
	}
	b.Delivered(all)
	b.pending(0)
}

func (s *suite) topics(t *testing.T) {
	place := t.TempDir()
	b := s.at(t, place, Options{})
	for i := 0; i < 300; i += 10 {
		b.must([]string{"a", "b", "c"}[i/10%3], i, i+10)
	}
	check := func(c spool.Cursor, want string, n int) {
		t.Helper()
		for n > 0 {
			x := b.next(c)
			if !strings.Contains(want, x.Topic) {
				t.Fatalf("a batch for %q, want one of %q", x.Topic, want)
			}
			n -= x.Len()
			b.Delivered(x.Pos)
			x.Discard()
		}
		b.none(c)
	}
	c := b.Cursor(spool.Ref{}, "")
	c.Skip(func(topic string) bool { return topic == "b" })
	check(c, "ac", 200)
	b.must("b", 300, 310)
	b.must("c", 310, 320)
	check(c, "c", 10)
	c.Close()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = s.at(t, place, Options{})
	defer b.Close()
	b.must("a", 320, 330)
	c = b.Cursor(spool.Ref{}, "b")
	check(c, "b", 110)
	c.Close()
	c = b.Cursor(spool.Ref{}, "")
	c.Skip(func(string) bool { return true })
	b.none(c)
	c.Close()
	c = b.Cursor(spool.Ref{}, "")
	check(c, "a", 10)
	c.Close()
	b.pending(0)
}

func (s *suite) wakes(t *testing.T) {
	b := s.fresh(t, Options{})
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	got := make(chan *record.Batch)
	go func() {
		for range 3 {
			x, _, err := c.Next(t.Context())
			if err != nil {
				break
			}
			got <- x
		}
		close(got)
	}()
	for i := range 3 {
		b.must("t", i, i+1)
		select {
		case x := <-got:
			if x == nil || string(x.Body()) != text(i) {
				t.Fatalf("batch %d is %v", i, x)
			}
			b.Delivered(x.Pos)
			x.Discard()
		case <-time.After(patience):
			t.Fatal("a waiting cursor was not woken")
		}
	}
}

func (s *suite) ends(t *testing.T) {
	b := s.fresh(t, Options{})
	c, other := b.Cursor(spool.Ref{}, ""), b.Cursor(spool.Ref{}, "")
	ended := make(chan error, 2)
	for _, c := range []spool.Cursor{c, other} {
		go func() {
			_, _, err := c.Next(t.Context())
			ended <- err
		}()
	}
	other.Close()
	if err := <-ended; !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Next of a closed cursor: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Next of a closed buffer: %v", err)
	}
	c.Close()
	if err := b.put("t", 0, 1); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Append to a closed buffer: %v", err)
	}
	if err := b.Room(t.Context()); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Room of a closed buffer: %v", err)
	}
}

// small is a quota that tests can fill.
const small = 1 << 20

// fill appends until the buffer does not take more, a million records at most.
func (b *box) fill() (records int, err error) {
	b.t.Helper()
	for records < 1e6 {
		if err := b.put("t", records, records+200); err != nil {
			return records, err
		}
		records += 200
	}
	return records, nil
}

func (s *suite) block(t *testing.T) {
	b := s.fresh(t, Options{MaxBytes: small})
	n, err := b.fill()
	if !errors.Is(err, spool.ErrFull) || n < 1000 {
		t.Fatalf("after %d records: %v", n, err)
	}
	if st := b.Stats(); st.Bytes > small || !st.Full {
		t.Errorf("%+v", st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	if err := b.Room(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Room of a full buffer: %v", err)
	}
	cancel()
	room := make(chan error)
	go func() { room <- b.Room(t.Context()) }()
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	texts, pos := b.read(c, n)
	b.want(texts, 0, n)
	b.Delivered(pos)
	select {
	case err := <-room:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("all is delivered, and there is still no room")
	}
	b.must("t", n, n+200)
	b.pending(200)
}

func (s *suite) dropOldest(t *testing.T) {
	var dropped atomic.Int64
	b := s.fresh(t, Options{MaxBytes: small, WhenFull: spool.DropOldest, Dropped: func(n int64) { dropped.Add(n) }})
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	b.must("t", 0, 200)
	_, out := b.read(c, 200) // in flight when the oldest go: neither lost nor counted as dropped
	const n = 40000
	for i := 200; i < n; i += 200 {
		b.must("t", i, i+200)
		if st := b.Stats(); st.Bytes > small+small/4 {
			t.Fatalf("%d bytes with %d allowed", st.Bytes, small)
		}
	}
	b.Delivered(out)
	left := int(b.Pending())
	if got := dropped.Load(); got != int64(n-200-left) || got != b.Stats().DroppedOldest || got == 0 {
		t.Errorf("told of %d dropped, counted %d, %d of %d left", got, b.Stats().DroppedOldest, left, n)
	}
	texts, pos := b.read(c, left)
	b.want(texts, n-left, n)
	b.Delivered(pos)
	b.pending(0)
}

func (s *suite) dropNewest(t *testing.T) {
	var dropped atomic.Int64
	b := s.fresh(t, Options{MaxBytes: small, WhenFull: spool.DropNewest, Dropped: func(n int64) { dropped.Add(n) }})
	n, err := b.fill()
	if !errors.Is(err, spool.ErrDropped) {
		t.Fatalf("after %d records: %v", n, err)
	}
	if err := b.put("t", n, n+200); !errors.Is(err, spool.ErrDropped) {
		t.Fatal(err)
	}
	if got := dropped.Load(); got != 400 || b.Stats().DroppedNewest != 400 {
		t.Errorf("told of %d dropped, counted %d, want 400", got, b.Stats().DroppedNewest)
	}
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	texts, pos := b.read(c, n)
	b.want(texts, 0, n)
	b.none(c)
	b.Delivered(pos)
	b.pending(0)
}

func (s *suite) tooLarge(t *testing.T) {
	b := s.fresh(t, Options{MaxBytes: small})
	x := record.NewBatch("t")
	x.Commit(append(x.Tail(), make([]byte, small+1)...), record.Position{Source: 3})
	if err := b.putBatch(x); !errors.Is(err, spool.ErrTooLarge) {
		t.Errorf("a batch larger than the buffer: %v", err)
	}
	b.must("t", 0, 1)
}

func (s *suite) manyAtOnce(t *testing.T) {
	b := s.fresh(t, Options{})
	const workers, each = 8, 100
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				n := (w*each + i) * 5
				if err := b.put("t", n, n+5); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	var readers sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		c := b.Cursor(spool.Ref{}, "")
		readers.Go(func() {
			defer c.Close()
			for {
				x, _, err := c.Next(ctx)
				if err != nil {
					return
				}
				mu.Lock()
				for i := range x.Len() {
					seen[string(x.Bytes(i, i+1))] = true
				}
				if len(seen) == workers*each*5 {
					cancel()
				}
				mu.Unlock()
				b.Delivered(x.Pos)
				x.Discard()
			}
		})
	}
	wg.Wait()
	stop := time.AfterFunc(patience, cancel)
	readers.Wait()
	stop.Stop()
	cancel()
	if len(seen) != workers*each*5 {
		t.Errorf("%d different records, want %d", len(seen), workers*each*5)
	}
	b.pending(0)
}

// What is in a record, in a topic and in a source's name is nobody's business.
func (s *suite) anyBytes(t *testing.T) {
	place := t.TempDir()
	b := s.at(t, place, Options{})
	records := [][]byte{{}, []byte("\n"), []byte("\xffPASPOOL\xfe\x00"), []byte("SPF\xfe"), make([]byte, 100_000), []byte("SPF\xfeSPF\xfe")}
	x := record.NewBatch("t.\x00\xff")
	for i, r := range records {
		x.Commit(append(x.Tail(), r...), record.Position{Offset: int64(i), Source: 3})
	}
	x.Raw = true
	done := make(chan error, 1)
	name := func(p record.Position) (string, int64) {
		return strings.Repeat("\xff\n", int(p.Offset)), -p.Offset * 1 << 60
	}
	if err := b.Append(t.Context(), x, name, func(_ *record.Batch, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = s.at(t, place, Options{})
	defer b.Close()
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	x = b.next(c)
	if x.Topic != "t.\x00\xff" || !x.Raw || x.Len() != len(records) {
		t.Fatalf("topic %q, raw %v, %d records", x.Topic, x.Raw, x.Len())
	}
	for i, r := range records {
		if got := x.Bytes(i, i+1); string(got) != string(r) {
			t.Errorf("record %d: %d bytes, want %d", i, len(got), len(r))
		}
		wantName, wantOff := name(record.Position{Offset: int64(i)})
		if got, off := b.Where(x.Pos[i]); got != wantName || off != wantOff {
			t.Errorf("record %d is from %q:%d, want %q:%d", i, got, off, wantName, wantOff)
		}
	}
	x.Discard()
}

// Settling a record again, or one that was never there, changes nothing.
func (s *suite) twice(t *testing.T) {
	b := s.fresh(t, Options{})
	b.must("t", 0, 20)
	c := b.Cursor(spool.Ref{}, "")
	defer c.Close()
	_, pos := b.read(c, 20)
	b.Delivered(pos[:10])
	b.Delivered(pos[:10])
	b.Rejected(pos[3], 400, "")
	b.Refused(pos[:10], nil)
	b.none(c)
	stray := record.Position{Offset: 1 << 40, Source: Source}
	b.Delivered([]record.Position{stray, {Offset: -4}})
	b.Rejected(stray, 400, "")
	b.Refused([]record.Position{stray}, nil)
	if name, _ := b.Where(stray); name == "" {
		t.Error("a stray position has no name at all")
	}
	if st := b.Stats(); st.Delivered != 10 || st.Rejected != 0 {
		t.Errorf("%+v", st)
	}
	b.pending(10)
	b.Delivered(pos[10:])
	b.pending(0)
}
