package sandbox

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka refuses a batch as a whole; each record in it gets its own verdict all
// the same, and those that fit are stored once.
func TestBatchTooLarge(t *testing.T) {
	s := start(t, func(c *Config) { c.Linger = 50 * time.Millisecond })
	limit := "3000"
	if err := s.broker.createTopic(t.Context(), "small", 1, 1, map[string]*string{"max.message.bytes": &limit}, false); err != nil {
		t.Fatal(err)
	}
	c := open(t, s, "small")
	const n = 300
	for i := range n {
		size := 100
		if i%50 == 7 {
			size = 5000
		}
		c.send(fmt.Sprintf(`{"key":{"type":"STRING","data":"%d"},"value":{"type":"STRING","data":"%s"}}`, i, strings.Repeat("x", size)))
	}
	c.last()
	rs, err := c.rest()
	if err != nil || len(rs) != n {
		t.Fatalf("%d reports, %v", len(rs), err)
	}
	want := map[string]bool{}
	for i, r := range rs {
		code := 200
		if i%50 == 7 {
			code = 413
		} else {
			want[fmt.Sprint(i)] = true
		}
		if r.Code != code {
			t.Errorf("report %d: %d %s, want %d", i, r.Code, r.Message, code)
		}
	}
	got, err := s.Records(t.Context(), "small")
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d stored, %v, want %d", len(got), err, len(want))
	}
	for _, r := range got {
		if !want[string(r.Key)] {
			t.Errorf("record %s is stored twice, or was refused", r.Key)
		}
		delete(want, string(r.Key))
	}
}

// A topic that may not even be looked at, or cannot be, is said to be so at
// once: the real server's producer does not wait for it.
func TestMetadataRefused(t *testing.T) {
	f := func(err *kerr.Error, code int) {
		t.Helper()
		s := start(t, func(c *Config) { c.MaxBlock = time.Minute })
		s.broker.fake.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
			s.broker.fake.KeepControl()
			in := req.(*kmsg.MetadataRequest)
			if len(in.Topics) != 1 {
				return nil, nil, false
			}
			resp := in.ResponseKind().(*kmsg.MetadataResponse)
			rt := kmsg.NewMetadataResponseTopic()
			rt.Topic, rt.ErrorCode = in.Topics[0].Topic, err.Code
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		})
		rs := post(t, s, "hidden", `{"value":{"type":"STRING","data":"a"}}`)
		if len(rs) != 1 || rs[0].Code != code {
			t.Errorf("%s: %+v, want %d", err.Message, rs, code)
		}
	}
	f(kerr.TopicAuthorizationFailed, 40301)
	f(kerr.InvalidTopicException, 40002)
}

// A topic that is deleted and made anew takes records again, and the number of
// partitions it has now.
func TestTopicAnew(t *testing.T) {
	s := start(t, nil)
	f := func(partitions int) {
		t.Helper()
		if err := s.broker.createTopic(t.Context(), "anew", int32(partitions), 1, nil, false); err != nil {
			t.Fatal(err)
		}
		// Until the gateway has heard that its topic is gone, it may say so.
		body := fmt.Sprintf(`{"partition_id":%d,"value":{"type":"STRING","data":"a"}}`, partitions-1)
		limit := time.Now().Add(10 * time.Second)
		for got := codes(post(t, s, "anew", body)); got != "200"; got = codes(post(t, s, "anew", body)) {
			if time.Now().After(limit) {
				t.Fatalf("%d partitions: %s", partitions, got)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	f(3)
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TopicNames = []string{"anew"}
	rt := kmsg.NewDeleteTopicsRequestTopic()
	rt.Topic = &req.TopicNames[0]
	req.Topics = append(req.Topics, rt)
	if _, err := req.RequestWith(t.Context(), s.broker.client); err != nil {
		t.Fatal(err)
	}
	if got := codes(post(t, s, "anew", rec)); got == "200" {
		t.Error("stored in a topic that is gone")
	}
	f(5)
	if got, err := s.Records(t.Context(), "anew"); err != nil || len(got) != 1 {
		t.Errorf("%d stored, %v", len(got), err)
	}
}
