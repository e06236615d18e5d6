package tail

import (
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	f := func(change func(c *Config), want ...string) {
		t.Helper()
		c := DefaultConfig()
		c.Include = []string{"/var/log/*.log"}
		change(&c)
		err := c.Validate()
		if len(want) == 0 && err != nil {
			t.Errorf("%v", err)
		}
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%v, want %q", err, w)
			}
		}
	}
	f(func(*Config) {})
	f(func(c *Config) { c.Exclude = []string{"*.gz", "/var/log/[a-c]*"} })
	f(func(c *Config) { c.ReadFrom = FromEnd })
	f(func(c *Config) { c.Include = nil }, "include: name at least one")
	f(func(c *Config) { c.Include = []string{"/a/**/b"} }, `"/a/**/b"`, "**")
	f(func(c *Config) { c.Include = []string{"/a/["} }, "include", "[")
	f(func(c *Config) { c.Include = []string{""} }, "empty")
	f(func(c *Config) { c.Include = []string{"/var/log/"} }, "a directory")
	f(func(c *Config) { c.Include = []string{"/"} }, "a directory")
	f(func(c *Config) { c.Exclude = []string{"["} }, "exclude")
	f(func(c *Config) { c.ReadFrom = "middle" }, `"middle"`, "beginning or end")
	f(func(c *Config) { c.Multiline.Timeout = -1 }, "multiline.timeout")
	f(func(c *Config) { c.MaxRecordBytes = 0; c.MaxOpen = 0 }, "max_record_bytes: 0", "max_open: 0")
	f(func(c *Config) { c.IdleClose = 0; c.Poll = time.Millisecond; c.Grace = -1 }, "idle_close", "poll: 1ms", "grace")
}

func TestPattern(t *testing.T) {
	f := func(text, dir string, parts ...string) {
		t.Helper()
		p, err := parsePattern(text)
		if err != nil || p.dir != dir || strings.Join(p.parts, "|") != strings.Join(parts, "|") {
			t.Errorf("%s: %q %q, %v", text, p.dir, p.parts, err)
		}
	}
	f("/var/log/a.log", "/var/log", "a.log")
	f("/var/log/*.log", "/var/log", "*.log")
	f("/var/*/x/a.log", "/var", "*", "x", "a.log")
	f("/*", "/", "*")
	f("/a.log", "/", "a.log")
	f("/var//log/./a[0-9].log", "/var/log", "a[0-9].log")
}

func TestKin(t *testing.T) {
	f := func(name, of string, want kinship) {
		t.Helper()
		if got := kin("/d/"+name, "/d/"+of); got != want {
			t.Errorf("%s of %s: %d, want %d", name, of, got, want)
		}
	}
	f("a.log", "a.log", same)
	f("a.log.1", "a.log", brother)
	f("a.log.1.gz", "a.log", brother)
	f("a.log.gz", "a.log", brother)
	f("a.log-20260101", "a.log", brother)
	f("a.log~", "a.log", brother)
	f("a-20260101.log", "a.log", cousin)
	f("a-2026-01-01T10:00:00Z.log.zst", "a.log", cousin)
	f("a.1.log", "a.log", cousin)
	f("a-b.log", "a.log", stranger)
	f("a.logs", "a.log", stranger)
	f("ab.log", "a.log", stranger)
	f("a-.log", "a.log", stranger)
	f("a1.log", "a.log", stranger)
	f("b.log", "a.log", stranger)
	f("a.1", "a", brother)
	if kin("/e/a.log.1", "/d/a.log") != stranger {
		t.Error("kin in another directory")
	}
}
