package listener

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBudget(t *testing.T) {
	b := budget{most: 100}
	f := func(got, want bool, used int64) {
		t.Helper()
		if got != want || b.inUse() != used {
			t.Errorf("%v with %d in use, want %v with %d", got, b.inUse(), want, used)
		}
	}
	f(b.take(60, 0), true, 60)
	f(b.take(41, 0), false, 60)
	f(b.take(40, 0), true, 100)
	f(b.take(1, 60), false, 100)
	b.give(40)
	f(b.take(500, 60), true, 560) // who holds all there is gets what it needs
	b.give(560)
	f(b.take(101, 0), true, 101)
}

func TestBudgetWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := budget{most: 100}
		b.take(100, 0)
		began := time.Now()
		if b.wait(10, 0, time.Second, nil) || time.Since(began) != time.Second {
			t.Error("waited", time.Since(began))
		}
		over := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(over) })
		if b.wait(10, 0, time.Minute, over) {
			t.Error("took what is not there")
		}
		go func() {
			time.Sleep(time.Second)
			b.give(5)
			time.Sleep(time.Second)
			b.give(5)
		}()
		began = time.Now()
		if !b.wait(10, 0, time.Minute, nil) || time.Since(began) != 2*time.Second || b.inUse() != 100 {
			t.Error("waited", time.Since(began), b.inUse())
		}
	})
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &syncBuffer{}
		q := newThrottle(slog.New(slog.NewTextHandler(log, nil)))
		for range 25 { // one a second
			q.Warn("a", "one")
			time.Sleep(time.Second)
		}
		q.Warn("b", "other")
		text := log.String()
		if strings.Count(text, "msg=one") != 3 || strings.Count(text, "hidden=9") != 2 || strings.Count(text, "msg=other") != 1 {
			t.Error(text)
		}
	})
}

// Cutting a body apart costs no allocation, whatever it is made of.
func TestNoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the detector allocates")
	}
	l, s := timed(t)
	f := func(kind format, body string) {
		t.Helper()
		r := &request{l: l, format: kind, body: []byte(body)}
		r.setID(nil)
		s.origin = nothing{}
		if got := testing.AllocsPerRun(100, func() {
			l.router.Lock()
			defer l.router.Unlock()
			if n, err := r.records(l.router); err != nil || n != 100 {
				t.Fatal(n, err)
			}
		}); got > 0 {
			t.Errorf("format %d: %g allocations for 100 records", kind, got)
		}
	}
	lines := string(ndjson(100))
	f(formatText, lines)
	f(formatNDJSON, lines)
	f(formatJSON, "["+strings.TrimSuffix(strings.ReplaceAll(lines, "\n", ","), ",")+"]")
}
