package stream

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/produce-agent/produce-agent/internal/stream/limit"
)

// firstOf is when the first record of each topic was stored.
func (w *world) firstOf() map[string]time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]time.Duration{}
	for _, s := range w.stamps {
		if _, ok := out[s.topic]; !ok && s.good {
			out[s.topic] = s.at
		}
	}
	return out
}

// Three thousand topics on four streams and 25 POSTs a second: each is served
// as soon as the POSTs allow, over short paths and long ones, and the streams
// end with the work.
func TestThousandsOfTopics(t *testing.T) {
	f := func(rtt time.Duration, topics int, slack float64) {
		t.Run(rtt.String(), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.rtt = rtt
				posts := &sliding{most: 25, all: true}
				w.post = func(now time.Duration, _ string) (int, string) {
					if posts.take(now) {
						return 0, ""
					}
					return 429, ""
				}
				p, k := w.pool(worldConfig(), mustProfile(t, "basic"))
				for i := range topics {
					submit(t, p, batchOf(fmt.Sprint("t", i), 0, "a", "b"))
				}
				bound := time.Duration(float64(topics)/25*slack*float64(time.Second)) + slice
				drain(t, p, bound)
				if d, _ := k.counts(); d != 2*topics || w.refused > 0 || len(w.twice()) > 0 {
					t.Errorf("%d of %d delivered, %d POSTs refused", d, 2*topics, w.refused)
				}
				w.mu.Lock()
				n, most := len(w.posts), w.most
				w.mu.Unlock()
				if n > topics+topics/50 || most > 6 {
					t.Errorf("%d POSTs for %d topics, %d streams at once", n, topics, most)
				}
				w.stop(p)
			})
		})
	}
	f(time.Millisecond, 1000, 1.3)
	f(20*time.Millisecond, 3000, 1.3)
	f(60*time.Millisecond, 500, 1.5)
}

// A topic that always has something to send, beside a thousand that have a
// little, keeps a fair part, and those are all served.
func TestHotTopicAmongCold(t *testing.T) {
	f := func(hot int, least float64) {
		t.Run(fmt.Sprint(hot), func(t *testing.T) {
			inWorld(t, func(w *world) {
				recs := &bucket{rate: 1000, level: 20}
				w.judge = func(now time.Duration, _ string, _ int) int {
					if recs.take(now, 1) {
						return 200
					}
					return 429
				}
				p, _ := w.pool(worldConfig(), mustProfile(t, "basic"))
				for i := range hot {
					w.feed(p, fmt.Sprint("hot", i), 10, always(200))
				}
				time.Sleep(5 * time.Second)
				const cold = 1000
				begin := w.now()
				for i := range cold {
					submit(t, p, batchOf(fmt.Sprint("cold", i), 0, "a"))
				}
				bound := cold*time.Second/25*13/10 + time.Duration(hot)*slice
				time.Sleep(bound)
				took := w.now() - begin
				first := w.firstOf()
				served, sent := 0, 0
				for i := range cold {
					if _, ok := first[fmt.Sprint("cold", i)]; ok {
						served++
					}
				}
				w.mu.Lock()
				for _, s := range w.stamps {
					if s.good && s.at > begin && strings.HasPrefix(s.topic, "hot") {
						sent++
					}
				}
				w.mu.Unlock()
				if served < cold || float64(sent)/took.Seconds() < least {
					t.Errorf("%d of %d cold topics served within %s, the hot ones had %.0f records/s", served, cold, took, float64(sent)/took.Seconds())
				}
				for i := range hot {
					if _, ok := first[fmt.Sprint("hot", i)]; !ok {
						t.Errorf("hot topic %d was never served", i)
					}
				}
				w.stop(p)
			})
		})
	}
	f(1, 900)
	f(20, 400)
}

// Topics that take nothing, whatever they answer, have one place of the four
// between them, and the others get on as without them.
func TestParkedTopics(t *testing.T) {
	f := func(name string, parked int, least float64, set func(w *world)) {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				bad := func(topic string) bool { return strings.HasPrefix(topic, "bad") }
				w.judge = func(_ time.Duration, topic string, _ int) int { return 200 }
				set(w)
				p, _ := w.pool(worldConfig(), limit.Profile{Connections: 25, Records: 200})
				for i := range 3 {
					w.feed(p, fmt.Sprint("good", i), 10, always(200))
				}
				time.Sleep(5 * time.Second)
				for i := range parked {
					w.feed(p, fmt.Sprint("bad", i), 10, always(200))
				}
				time.Sleep(2 * time.Minute) // each of them is met for the first time
				begin, most := w.now(), 0
				for range 1200 {
					time.Sleep(100 * time.Millisecond)
					held := 0
					p.eachStream(func(s *stream) {
						if bad(s.t.name) && !s.broken.Load() {
							held++
						}
					})
					most = max(most, held)
				}
				good := 0
				w.mu.Lock()
				for _, s := range w.stamps {
					if s.at > begin && s.good && !bad(s.topic) {
						good++
					}
				}
				w.mu.Unlock()
				if rate := float64(good) / 120; rate < least || most > 1 {
					t.Errorf("%.0f records/s of the others' 200; topics that take none had up to %d streams", rate, most)
				}
				p.mu.Lock()
				for name, topic := range p.topics {
					if bad(name) {
						if n := topic.outstanding.Load(); n > 10*(queueBatches+2)+10 {
							t.Errorf("%s has %d records pending", name, n)
						}
					}
				}
				p.mu.Unlock()
				w.stop(p)
			})
		})
	}
	answer := func(code int) func(w *world) {
		return func(w *world) {
			w.judge = func(_ time.Duration, topic string, _ int) int {
				if strings.HasPrefix(topic, "bad") {
					return code
				}
				return 200
			}
		}
	}
	status := func(code int) func(w *world) {
		return func(w *world) {
			w.post = func(_ time.Duration, topic string) (int, string) {
				if strings.HasPrefix(topic, "bad") {
					return code, ""
				}
				return 0, ""
			}
		}
	}
	blocks := func(told bool) func(w *world) {
		return func(w *world) {
			answer(40401)(w)
			w.gone = func(topic string) bool { return told && strings.HasPrefix(topic, "bad") }
			w.block = func(topic string) time.Duration {
				if strings.HasPrefix(topic, "bad") {
					return time.Minute
				}
				return 0
			}
		}
	}
	f("40301", 10, 190, answer(40301))
	f("403", 10, 190, status(403))
	f("40401 at once", 10, 190, answer(40401))
	f("40401 after a minute", 10, 190, blocks(true))
	f("40401 after a minute, and GET does not say", 10, 190, blocks(false))
}

// A topic that was parked is found again once it takes records.
func TestParkedTopicsComeBack(t *testing.T) {
	inWorld(t, func(w *world) {
		var there atomic.Bool
		w.judge = func(_ time.Duration, topic string, _ int) int {
			if !there.Load() && topic != "good" {
				return 40401
			}
			return 200
		}
		w.block = func(topic string) time.Duration {
			if !there.Load() && topic != "good" {
				return time.Minute
			}
			return 0
		}
		p, k := w.pool(worldConfig(), mustProfile(t, "basic"))
		w.steady(p, "good", 100*time.Millisecond, 10*time.Minute)
		const parked = 20
		for i := range parked {
			submit(t, p, batchOf(fmt.Sprint("bad", i), 0, ids("x", 30)...))
		}
		time.Sleep(5 * time.Minute)
		there.Store(true)
		time.Sleep(3 * time.Minute)
		k.mu.Lock()
		n := 0
		for id := range k.delivered {
			if strings.HasPrefix(id, "bad") {
				n++
			}
		}
		twice := len(k.twice)
		k.mu.Unlock()
		if n != parked*30 || twice > 0 || p.Trouble() != nil {
			t.Errorf("%d of %d records delivered three minutes after the topics are there, trouble %v", n, parked*30, p.Trouble())
		}
		w.stop(p)
	})
}

// An idle topic costs little, and is forgotten after a while.
func TestIdleTopicsAreForgotten(t *testing.T) {
	inWorld(t, func(w *world) {
		w.rtt = time.Millisecond
		p, _ := w.pool(worldConfig(), limit.Profile{})
		const topics = 5000
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range topics {
			p.topic(fmt.Sprint("topic-", i))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / topics; each > 2048 {
			t.Errorf("%d bytes an idle topic", each)
		} else {
			t.Logf("%d bytes an idle topic", each)
		}
		for i := range topics / 10 {
			submit(t, p, batchOf(fmt.Sprint("topic-", i), 0, "a"))
		}
		drain(t, p, time.Minute)
		time.Sleep(forgetAfter + forgetAfter/2)
		synctest.Wait()
		p.mu.Lock()
		left := len(p.topics)
		p.mu.Unlock()
		if left > p.cfg.Streams { // those whose streams are open
			t.Errorf("%d of %d topics remembered", left, topics)
		}
		w.stop(p)
	})
}
