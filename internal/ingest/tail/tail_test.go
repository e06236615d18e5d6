package tail

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/produce-agent/produce-agent/internal/ingest"
	"github.com/produce-agent/produce-agent/internal/ingest/checkpoint"
	"github.com/produce-agent/produce-agent/internal/record"
)

// once reads what there is and ends.
func (r *rig) once() {
	r.t.Helper()
	r.cfg.Follow = false
	r.start()
	r.wait()
}

// show writes records as tests compare them.
func show(records []got) string {
	var b strings.Builder
	for _, g := range records {
		if g.reason != "" {
			reason, _, _ := strings.Cut(g.reason, ":")
			fmt.Fprintf(&b, "[%d+%d !%s]", g.pos.Offset, g.pos.Len, reason)
			continue
		}
		fmt.Fprintf(&b, "[%d+%d %q]", g.pos.Offset, g.pos.Len, g.payload)
	}
	return b.String()
}

func inOrder(records []got) []got {
	slices.SortStableFunc(records, func(a, b got) int {
		if c := strings.Compare(a.from, b.from); c != 0 {
			return c
		}
		return int(a.pos.Offset - b.pos.Offset)
	})
	return records
}

func TestFraming(t *testing.T) {
	t.Parallel()
	f := func(name, in, want string, change func(c *Config)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, packed := range []bool{false, true} {
				r := newRig(t)
				change(&r.cfg)
				if r.write("a.log", in); packed && in != "" {
					r.must(os.WriteFile(r.path("a.log"), gz(in), 0o600))
				}
				r.once()
				if got := show(inOrder(r.records())); got != want {
					t.Errorf("packed %t: got %.300s\nwant %.300s", packed, got, want)
				}
				if e := checkpointed(t, r, "a.log"); e != int64(len(in)) && in != "" {
					t.Errorf("packed %t: frontier %d of %d", packed, e, len(in))
				}
			}
		})
	}
	plain := func(*Config) {}
	f("empty", "", "", plain)
	f("lines", "a\nb\n", `[0+2 "a"][2+2 "b"]`, plain)
	f("no LF at the end", "a\nb", `[0+2 "a"][2+1 "b"]`, plain)
	f("an LF alone", "\n", `[0+1 ""]`, plain)
	f("empty lines", "\n\na\n", `[0+1 ""][1+1 ""][2+2 "a"]`, plain)
	f("CR stays", "a\r\nb\rc\n", `[0+3 "a\r"][3+4 "b\rc"]`, plain)
	f("NUL", "a\x00b\n\x00\n", `[0+4 "a\x00b"][4+2 "\x00"]`, plain)
	f("not UTF-8", "\xff\xfe\n\xc3\n", `[0+3 "\xff\xfe"][3+2 "\xc3"]`, plain)
	f("CR goes", "a\r\nb\r\r\n\r\nc\r", `[0+3 "a"][3+4 "b\r"][7+2 ""][9+2 "c"]`, func(c *Config) { c.StripCR = true })
	f("skip empty", "\na\n\n\nb\n\n", `[1+2 "a"][5+2 "b"]`, func(c *Config) { c.SkipEmpty = true })
	f("skip empty, CR", "\r\na\r\n", `[2+3 "a"]`, func(c *Config) { c.SkipEmpty, c.StripCR = true, true })
	f("only empty", "\n\n\n", ``, func(c *Config) { c.SkipEmpty = true })

	long := strings.Repeat("0123456789", 30_000) // 300 KB
	f("longer than a read", "a\n"+long+"\nb\n", `[0+2 "a"][2+300001 "`+long+`"][300003+2 "b"]`, plain)
	f("longer than a read, at the end", "a\n"+long, `[0+2 "a"][2+300000 "`+long+`"]`, plain)
	small := func(c *Config) { c.MaxRecordBytes = 200_000 }
	f("too long", "a\n"+long+"\nb\n", `[0+2 "a"][2+300001 !too_large][300003+2 "b"]`, small)
	f("too long, at the end", "a\n"+long, `[0+2 "a"][2+300000 !too_large]`, small)
	f("too long, many reads", strings.Repeat(long, 5)+"\nb\n"+long+"\n", `[0+1500001 !too_large][1500001+2 "b"][1500003+300001 !too_large]`, small)
	f("too long, short", "abcdef\nb\n", `[0+7 !too_large][7+2 "b"]`, func(c *Config) { c.MaxRecordBytes = 40 })

	start := func(c *Config) { c.Multiline.Start = regexp.MustCompile(`^\d`) }
	f("multiline", "1a\n b\n\n2c\n3d\n e", `[0+7 "1a\n b\n"][7+3 "2c"][10+5 "3d\n e"]`, start)
	f("multiline, begins in the middle", " x\n y\n1a\n", `[0+6 " x\n y"][6+3 "1a"]`, start)
	f("multiline, last line begins one", "1a\n2b", `[0+3 "1a"][3+2 "2b"]`, start)
	f("multiline, CR", "1a\r\n b\r\n2\r\n", `[0+8 "1a\n b"][8+3 "2"]`, func(c *Config) { start(c); c.StripCR = true })
	f("multiline, skip empty", "\n1a\n\n", `[1+4 "1a\n"]`, func(c *Config) { start(c); c.SkipEmpty = true })
	x := strings.Repeat("x", 120)
	f("multiline, cut where it gets too long", "1a\n"+strings.Repeat(x+"\n", 5)+"2\n",
		fmt.Sprintf(`[0+366 "1a\n%s\n%s\n%s"][366+242 "%s\n%s"][608+2 "2"]`, x, x, x, x, x),
		func(c *Config) { start(c); c.MaxRecordBytes = 450 })
	lines := "1a\n" + strings.Repeat(" "+strings.Repeat("x", 998)+"\n", 700)
	f("multiline, longer than a read", lines+"2\n", fmt.Sprintf("[0+%d %q][%d+2 \"2\"]", len(lines), lines[:len(lines)-1], len(lines)), start)
	f("multiline, with a line longer than a read", "1a\n b\n"+long+"\n c\n2\n",
		`[0+6 "1a\n b"][6+300004 "`+long+`\n c"][300010+2 "2"]`, start)
	f("multiline, too long a line", "1a\n b\n"+long+"\n c\n2\n", `[0+6 "1a\n b"][6+300001 !too_large][300007+3 " c"][300010+2 "2"]`,
		func(c *Config) { start(c); small(c) })
}

// checkpointed returns the frontier of a file as the next run would find it.
func checkpointed(t *testing.T, r *rig, name string) int64 {
	t.Helper()
	s, err := checkpoint.Open(r.data, slog.New(slog.NewTextHandler(io.Discard, nil)))
	r.must(err)
	defer s.Close()
	for _, e := range s.Input("in").Begin(func(checkpoint.File) bool { return true }) {
		if e.File().Name == r.path(name) {
			if _, above := e.Snapshot(nil); len(above) > 0 {
				t.Errorf("ranges above the frontier: %v", above)
			}
			return e.Frontier()
		}
	}
	return -1
}

// The same records come as ingest.Reader makes of the same bytes.
func TestAsReader(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 40 {
		var in []byte
		for range rnd.IntN(300) {
			n := rnd.IntN(40)
			if rnd.IntN(50) == 0 {
				n = rnd.IntN(1 << 20)
			}
			line := bytes.Repeat([]byte{byte('a' + rnd.IntN(26))}, n)
			if n > 0 {
				line[rnd.IntN(n)] = byte(rnd.IntN(256))
			}
			in = append(in, line...)
			in = append(in, []string{"\n", "\r\n", "\n\n", "\n\x00\n", "\r"}[rnd.IntN(5)]...)
		}
		r := newRig(t)
		r.cfg.StripCR, r.cfg.SkipEmpty = rnd.IntN(2) == 0, rnd.IntN(2) == 0
		if rnd.IntN(2) == 0 {
			r.cfg.MaxRecordBytes = 300_000
		}
		r.must(os.WriteFile(r.path("a.log"), in, 0o600))
		r.once()
		s := newSink(atOnce)
		router, err := ingest.NewRouter(ingest.RouterConfig{
			Batch: ingest.DefaultBatchConfig(), Routes: []ingest.Route{{Topic: "t", Encoder: r.enc}}, MaxRecordBytes: r.cfg.MaxRecordBytes,
		}, s)
		r.must(err)
		src := s.Register(deaf{})
		reader := ingest.NewReader(ingest.LineConfig{
			StripCR: r.cfg.StripCR, SkipEmpty: r.cfg.SkipEmpty, MaxRecordBytes: r.cfg.MaxRecordBytes,
		}, router)
		r.must(reader.Read(bytes.NewReader(in), src, "", false))
		r.must(router.Close())
		for i := range s.out {
			s.out[i].from = "x"
		}
		mine := r.records()
		for i := range mine {
			mine[i].from = "x"
		}
		if got, want := show(inOrder(mine)), show(inOrder(s.out)); got != want {
			t.Fatalf("%d bytes, max %d: %d records, the Reader has %d", len(in), r.cfg.MaxRecordBytes, len(mine), len(s.out))
		}
	}
}

// deaf is an Origin that nobody asks.
type deaf struct{}

func (deaf) Where(record.Position) (string, int64) { return "", 0 }
func (deaf) Delivered([]record.Position)           {}
func (deaf) Rejected(record.Position, int, string) {}
func (deaf) Buffered([]record.Position)            {}
func (deaf) Refused([]record.Position, error)      {}

func TestPacked(t *testing.T) {
	t.Parallel()
	zst := func(text string) []byte {
		w, _ := zstd.NewWriter(nil)
		defer w.Close()
		return w.EncodeAll([]byte(text), nil)
	}
	f := func(name string, packed func(r *rig) []byte, wants ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, follow := range []bool{true, false} {
				r := newRig(t)
				r.cfg.Include = append(r.cfg.Include, r.path("*.gz"))
				r.must(os.WriteFile(r.path("a.gz"), packed(r), 0o600))
				r.append("b.log", 3)
				r.cfg.Follow = follow
				r.start()
				if follow {
					r.delivered()
					r.until("it is told of", func() bool {
						return !slices.ContainsFunc(wants, func(w string) bool { return !strings.Contains(r.logged(), w) })
					})
					time.Sleep(60 * time.Millisecond)
					r.stop()
				} else {
					r.wait()
				}
				r.judge()
				if n := strings.Count(r.logged(), "level=ERROR"); n != min(len(wants), 1) {
					t.Errorf("%d errors told of, want %d:\n%s", n, min(len(wants), 1), r.logged())
				}
				for _, w := range wants {
					if !strings.Contains(r.logged(), w) || !strings.Contains(r.logged(), "a.gz") {
						t.Errorf("no word of %q", w)
					}
				}
				r.seen = map[string]int{} // a second run has nothing to do
				r.wrote = map[string]int{}
				r.once()
				r.judge()
			}
		})
	}
	f("gzip", func(r *rig) []byte { return gz(r.lines(5000)) })
	f("gzip of several members", func(r *rig) []byte { return slices.Concat(gz(r.lines(50)), gz(""), gz(r.lines(50))) })
	f("zstd", func(r *rig) []byte { return zst(r.lines(5000)) })
	f("zstd of several frames", func(r *rig) []byte { return slices.Concat(zst(r.lines(50)), zst(r.lines(5000))) })
	f("gzip of nothing", func(*rig) []byte { return gz("") })
	f("cut in its head", func(*rig) []byte { return gz("abc\n")[:6] }, "ends in the middle")
	f("cut in the middle", func(r *rig) []byte {
		text := r.lines(1)
		return gz(text + "more")[:10+len(text)+3]
	}, "ends in the middle")
	f("checksum flipped", func(r *rig) []byte {
		b := gz(r.lines(10))
		b[len(b)-6] ^= 1
		return b
	}, "damaged near byte")
	f("xz", func(*rig) []byte { return []byte("\xfd7zXZ\x00 and so on") }, "xz", "use gzip or zstd")
	f("a window too large", func(*rig) []byte {
		return binary.LittleEndian.AppendUint32([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1}, 0)
	}, "window")
	f("a bomb", func(r *rig) []byte { return append(gz(strings.Repeat("\x00", 30<<20)), gz("\n"+r.lines(2))...) })
}

// What is no regular file, or must not be read, is named once and stops nothing.
func TestNotRead(t *testing.T) {
	t.Parallel()
	f := func(name string, make func(r *rig), wants ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, follow := range []bool{true, false} {
				r := newRig(t)
				r.append("b.log", 3)
				make(r)
				r.cfg.Follow = follow
				r.start()
				if follow {
					r.delivered()
					time.Sleep(100 * time.Millisecond)
					r.append("b.log", 3)
					r.delivered()
					r.stop()
				} else {
					r.wait()
				}
				r.judge()
				for _, w := range wants {
					if n := strings.Count(r.logged(), w); n != 1 {
						t.Errorf("%q is told %d times:\n%s", w, n, r.logged())
					}
				}
			}
		})
	}
	f("a pipe", func(r *rig) { r.must(syscall.Mkfifo(r.path("a.log"), 0o600)) }, "no regular file")
	f("a directory", func(r *rig) { r.must(os.Mkdir(r.path("a.log"), 0o700)) })
	f("a device", func(r *rig) {
		if err := syscall.Mknod(r.path("a.log"), syscall.S_IFCHR|0o600, 1<<8|5); err != nil {
			r.t.Skip(err)
		}
	}, "no regular file")
	f("a symbolic link", func(r *rig) {
		r.must(os.WriteFile(r.path("secret"), []byte("s\n"), 0o600))
		r.must(os.Symlink("secret", r.path("a.log")))
	}, "symbolic link is not followed")
	f("a link that leads out", func(r *rig) { r.must(os.Symlink("/etc/passwd", r.path("a.log"))) }, "symbolic link is not followed")
	f("a directory by a link", func(r *rig) {
		out := filepath.Join(r.data, "out")
		r.must(os.MkdirAll(out, 0o700))
		r.must(os.WriteFile(filepath.Join(out, "x.log"), []byte("s\n"), 0o600))
		r.must(os.Symlink(out, r.path("sub")))
		r.cfg.Include = append(r.cfg.Include, r.path("*/*.log"))
	}, "sub")
	f("a link to nowhere", func(r *rig) {
		r.must(os.Symlink("nowhere", r.path("a.log")))
		r.cfg.FollowSymlinks = true
	})
	f("a directory that is not there", func(r *rig) {
		r.cfg.Include = append(r.cfg.Include, filepath.Join(r.data, "none", "*.log"))
	}, "no such file")
	f("a file that cannot be read", func(r *rig) {
		if runtime.GOOS != "linux" {
			r.t.Skip("no /proc")
		}
		r.cfg.Include = append(r.cfg.Include, "/proc/self/mem")
	}, "input/output error")
	f("excluded", func(r *rig) {
		r.write("a.log", "no\n")
		r.write("c.log", "no\n")
		r.cfg.Exclude = []string{"a.*", r.path("c.log")}
	})
	if os.Getuid() != 0 {
		f("unreadable", func(r *rig) { r.write("a.log", "no\n"); r.must(os.Chmod(r.path("a.log"), 0)) }, "permission denied")
		f("an unreadable directory", func(r *rig) {
			r.must(os.Mkdir(r.path("sub"), 0))
			r.cfg.Include = append(r.cfg.Include, r.path("sub/*.log"))
		}, "permission denied")
	}
}

// A file that becomes something else between look and opening is not waited for.
func TestSwapped(t *testing.T) {
	r := newRig(t)
	r.append("a.log", 1)
	r.start()
	r.delivered()
	r.stop()
	tl := r.tail
	tl.roots[r.dir].refresh()
	defer tl.roots[r.dir].close()
	tl.problems = map[string]string{}
	found := tl.find()
	if len(found) != 1 {
		t.Fatal(found)
	}
	r.remove("a.log")
	f := func(what string) {
		t.Helper()
		h, err := tl.open(&found[0])
		if err == nil {
			h.Close()
			t.Errorf("%s was opened", what)
		}
		os.Remove(r.path("a.log"))
	}
	r.must(syscall.Mkfifo(r.path("a.log"), 0o600))
	f("a pipe")
	r.must(os.Symlink("/etc/passwd", r.path("a.log")))
	f("a link that leads out")
	r.write("other", "x")
	r.must(os.Symlink("other", r.path("a.log")))
	f("a link")
	f("nothing")
}

func TestFollows(t *testing.T) {
	t.Parallel()
	f := func(name string, run func(r *rig)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			run(r)
			r.stop()
			r.judge()
		})
	}
	f("a hundred files", func(r *rig) {
		r.cfg.Include = []string{r.path("*/*.log")}
		write := func(n int) {
			for i := range 100 {
				dir := fmt.Sprint("d", i%7)
				r.must(os.MkdirAll(r.path(dir), 0o700))
				r.append(fmt.Sprintf("%s/%d.log", dir, i), n)
			}
		}
		write(100)
		r.start()
		for range 5 {
			r.delivered()
			write(20)
		}
		r.delivered()
		r.until("all are known", func() bool { s := r.tail.Stats(); return s.Known == 100 && s.Lag == 0 && s.Bytes > 0 })
	})
	f("fifty files, four open", func(r *rig) {
		r.cfg.MaxOpen = 4
		most := 0
		for round := range 4 {
			for i := range 50 {
				r.append(fmt.Sprintf("%d.log", i), 10+round)
			}
			r.start()
			for len(r.got()) < len(r.wrote) {
				most = max(most, r.tail.Stats().Open)
				time.Sleep(time.Millisecond)
			}
			r.delivered()
		}
		if most > 4 {
			r.t.Errorf("%d files open", most)
		}
	})
	f("without watches", func(r *rig) {
		r.noWatch = true
		r.start()
		for range 5 {
			r.append("a.log", 3)
			r.delivered()
		}
		if n := strings.Count(r.logged(), "max_user_watches"); n != 1 {
			r.t.Errorf("told %d times:\n%s", n, r.logged())
		}
	})
	f("without the poll", func(r *rig) {
		r.cfg.Poll = time.Hour
		r.append("a.log", 1)
		r.start()
		r.delivered()
		for i := range 5 { // growth, and new files
			r.append("a.log", 3)
			r.append(fmt.Sprintf("%d.log", i), 3)
			r.delivered()
		}
		r.rename("a.log", "a.log.1")
		r.append("a.log", 3)
		r.delivered()
	})
	f("a directory that comes, goes and comes again", func(r *rig) {
		r.cfg.Include = []string{r.path("sub/deep/*.log")}
		r.start()
		for range 3 {
			time.Sleep(30 * time.Millisecond)
			r.must(os.MkdirAll(r.path("sub/deep"), 0o700))
			r.append("sub/deep/a.log", 3)
			r.delivered()
			r.must(os.RemoveAll(r.path("sub")))
		}
	})
	f("many small writes", func(r *rig) {
		r.start()
		for range 1500 {
			r.append("a.log", 1)
			r.append("b.log", 1)
			time.Sleep(500 * time.Microsecond)
		}
		r.delivered()
		time.Sleep(1200 * time.Millisecond) // it is quiet again
		r.append("a.log", 1)
		r.append("c.log", 1)
		r.delivered()
	})
	f("idle files are closed", func(r *rig) {
		r.cfg.IdleClose = time.Second
		r.append("a.log", 1)
		r.start()
		r.delivered()
		r.until("it is closed", func() bool { return r.tail.Stats().Open == 0 })
		r.append("a.log", 1)
		r.delivered()
	})
	f("a long line in small pieces", func(r *rig) {
		line := r.lines(1)
		line = strings.TrimSuffix(line, "\n") + strings.Repeat("x", 700_000)
		delete(r.wrote, line[:len(line)-700_000])
		r.wrote[line] = 1
		r.start()
		for i := 0; i < len(line); i += 50_000 {
			r.write("a.log", line[i:min(i+50_000, len(line))])
			time.Sleep(5 * time.Millisecond)
		}
		r.write("a.log", "\n"+r.lines(2))
		r.delivered()
	})
	f("too long a line in small pieces", func(r *rig) {
		r.cfg.MaxRecordBytes = 1000
		r.start()
		r.append("a.log", 1)
		for range 20 {
			r.write("a.log", strings.Repeat("x", 50_000))
			time.Sleep(5 * time.Millisecond)
		}
		r.write("a.log", "\n"+r.lines(2))
		r.delivered()
		all := r.records()
		if !slices.ContainsFunc(all, func(g got) bool { return strings.Contains(g.reason, "a line of 1000000 bytes") }) {
			r.t.Errorf("no rejection by its length: %.300s", show(all))
		}
		r.wrote[""] = r.got()[""]
		delete(r.wrote, "")
	})
	f("a partial line stays for the next start", func(r *rig) {
		text := r.lines(2)
		r.write("a.log", text[:len(text)-5])
		r.start()
		r.until("the first came", func() bool { return len(r.got()) == 1 })
		time.Sleep(50 * time.Millisecond)
		r.stop()
		if len(r.seen) != 1 {
			r.t.Errorf("%d records", len(r.seen))
		}
		r.write("a.log", text[len(text)-5:])
		r.start()
		r.delivered()
	})
	f("multiline by its timeout", func(r *rig) {
		r.cfg.Multiline = Multiline{Start: regexp.MustCompile(`^\d`), Timeout: 700 * time.Millisecond}
		r.write("a.log", "1a\n")
		r.start()
		time.Sleep(20 * time.Millisecond)
		r.write("a.log", " b\n")
		time.Sleep(20 * time.Millisecond)
		r.write("a.log", " c\n par")
		r.wrote["1a\n b\n c"] = 1
		r.delivered()
		r.write("a.log", "tial\n2\n")
		r.wrote[" partial"] = 1
		r.delivered()
		r.wrote["2"] = 1
		r.delivered()
	})
	f("a writer without O_APPEND", func(r *rig) {
		w, err := os.Create(r.path("a.log"))
		r.must(err)
		defer w.Close()
		put := func(n int) { _, err := io.WriteString(w, r.lines(n)); r.must(err) }
		put(1000)
		r.start()
		r.delivered()
		for range 3 {
			r.must(os.Truncate(r.path("a.log"), 0))
			put(10) // behind a hole
			r.delivered()
			put(10)
			r.delivered()
		}
	})
	f("read from the end", func(r *rig) {
		r.cfg.ReadFrom = FromEnd
		r.write("a.log", "old\nolder\n")
		r.must(os.WriteFile(r.path("old.log"), gz("old\n"), 0o600))
		r.start()
		r.until("it is known", func() bool { return r.tail.Stats().Known == 2 })
		r.append("a.log", 2)
		r.append("new.log", 2) // made since: all of it
		r.delivered()
		r.stop()
		r.append("newer.log", 2)
		r.append("a.log", 2)
		r.start()
		r.delivered()
	})
	f("read from the end, the checkpoints damaged", func(r *rig) {
		r.cfg.ReadFrom = FromEnd
		r.append("a.log", 2)
		r.must(os.WriteFile(filepath.Join(r.data, "checkpoint.0"), []byte("rubbish"), 0o600))
		r.start()
		r.delivered()
	})
	f("the config changes", func(r *rig) {
		r.append("a.log", 10)
		r.append("b.log", 10)
		r.start()
		r.delivered()
		r.stop()
		r.cfg.Name = "renamed"
		r.cfg.Include = []string{r.path("a.*"), r.path("b.log")}
		r.append("a.log", 1)
		r.start()
		r.delivered()
		r.stop()
		r.cfg.Include = []string{r.path("b.log")} // nothing more of a
		r.write("a.log", "not read\n")
		r.append("b.log", 1)
		r.start()
		r.delivered()
	})
	f("two names of one file", func(r *rig) {
		r.append("a.log", 10)
		r.must(os.Link(r.path("a.log"), r.path("b.log")))
		r.start()
		r.delivered()
		r.append("b.log", 1)
		r.delivered()
	})
}

// Record ids are those of the first reading, after restarts and rotations too.
func TestRecordIDs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.RecordIDs, r.enc.RecordIDHeader = true, "id"
	r.mode = some
	r.append("a.log", 30)
	r.start()
	r.until("most came", func() bool { return len(r.got()) == 20 })
	r.stop()
	first := r.all
	r.rename("a.log", "a.log.1")
	r.append("a.log", 10)
	r.mode = atOnce
	r.start()
	r.delivered()
	r.stop()
	r.judge()
	ids, base := map[string]string{}, map[string]bool{}
	id := regexp.MustCompile(`"id","value":"([^"]*)"`)
	for _, g := range r.all {
		m := id.FindStringSubmatch(g.raw)
		if m == nil || ids[m[1]] != "" {
			t.Fatalf("no id, or one of two records: %s", g.raw)
		}
		ids[m[1]] = g.payload
		base[strings.SplitN(fromBase64(m[1]), ":", 2)[0]] = true
	}
	if len(first) != 20 || len(base) != 2 {
		t.Errorf("%d records first, of %d files in all: %v", len(first), len(base), slices.Collect(maps.Keys(base)))
	}
}

// A config read anew: the next Tail of the same process goes on where the last
// one ended, with what was settled by then.
func TestReload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := slog.New(slog.NewTextHandler(r, nil))
	store, err := checkpoint.Open(r.data, log)
	r.must(err)
	defer store.Close()
	r.cfg.Follow = false
	s := newSink(atOnce)
	for i := range 4 {
		r.append("a.log", 10)
		if i == 2 {
			r.rename("a.log", "a.log.1")
			r.cfg.Name = "other"
		}
		router, err := ingest.NewRouter(ingest.RouterConfig{
			Batch: ingest.DefaultBatchConfig(), Routes: []ingest.Route{{Topic: "t", Encoder: r.enc}}, MaxRecordBytes: r.cfg.MaxRecordBytes,
		}, s)
		r.must(err)
		tl, err := New(r.cfg, router, s, store, log)
		r.must(err)
		r.must(tl.Run(t.Context()))
		r.must(router.Close())
	}
	r.seen = s.counts
	r.judge()
	if len(s.origins) > 0 {
		t.Errorf("%d sources were not released", len(s.origins))
	}
}

// A Sink's error ends the run; a stop ends it at once while the Sink waits.
func TestEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.gate = make(chan struct{})
	r.append("a.log", 20_000)
	r.start()
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	r.stop()
	if time.Since(began) > 5*time.Second {
		t.Error("it did not stop")
	}
	r.gate = nil
	r.start()
	r.delivered()
	r.stop()
	r.judge()

	bad := errors.New("no more")
	router, err := ingest.NewRouter(ingest.RouterConfig{
		Batch: ingest.DefaultBatchConfig(), Routes: []ingest.Route{{Topic: "t", Encoder: r.enc}}, MaxRecordBytes: 8e6,
	}, failing{bad})
	r.must(err)
	store, err := checkpoint.Open(t.TempDir(), slog.New(slog.NewTextHandler(r, nil)))
	r.must(err)
	defer store.Close()
	tl, err := New(r.cfg, router, newSink(atOnce), store, slog.New(slog.NewTextHandler(r, nil)))
	r.must(err)
	if err := tl.Run(t.Context()); !errors.Is(err, bad) {
		t.Errorf("Run: %v", err)
	}
	router.Close()
	if _, err := New(Config{}, router, newSink(atOnce), store, slog.Default()); err == nil {
		t.Error("an empty Config is taken")
	}
}

type failing struct{ err error }

func (f failing) Submit(b *record.Batch) error { b.Discard(); return f.err }
func (f failing) Reject(int32, string, record.Position, []byte, *record.InvalidError) error {
	return f.err
}

// Killed at any moment, with files written and rotated all the time: what the
// checkpoints say then loses nothing, and repeats no more than was on its way.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mode = late
	stop := make(chan struct{})
	var writer sync.WaitGroup
	var mu sync.Mutex
	wrote := map[string]int{}
	writer.Go(func() {
		n := 0
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			name := r.path(fmt.Sprintf("%d.log", i%5))
			if i%97 == 96 {
				if _, err := os.Stat(name); err == nil {
					os.Rename(name, fmt.Sprintf("%s.%d", name, i))
				}
			}
			w, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			for range 20 {
				n++
				line := fmt.Sprintf("line %06d of many", n)
				wrote[line]++
				fmt.Fprintln(w, line)
			}
			mu.Unlock()
			w.Close()
		}
	})
	delivered := map[string]int{}
	for range 10 {
		r.start()
		time.Sleep(time.Duration(100+rand.IntN(200)) * time.Millisecond)
		slots := [2][]byte{} // this is what a kill leaves
		for i := range slots {
			slots[i], _ = os.ReadFile(filepath.Join(r.data, fmt.Sprint("checkpoint.", i)))
		}
		for line, n := range r.got() {
			delivered[line] += n
		}
		r.stop()
		r.seen = map[string]int{}
		for i, b := range slots {
			name := filepath.Join(r.data, fmt.Sprint("checkpoint.", i))
			if os.Remove(name); b != nil {
				r.must(os.WriteFile(name, b, 0o600))
			}
		}
	}
	close(stop)
	writer.Wait()
	r.wrote, r.seen = wrote, delivered
	r.start()
	r.delivered()
	time.Sleep(150 * time.Millisecond)
	r.stop()
	again := 0
	for line, n := range r.got() {
		if wrote[line] == 0 {
			t.Errorf("never written: %q", line)
		}
		again += n - 1
	}
	// 20,000 lines a second at most, 100 ms and the slow writing of a busy disk.
	if again > 10*8000 {
		t.Errorf("%d records were sent again by ten kills", again)
	}
	t.Logf("%d lines, %d sent again", len(wrote), again)
}

// The steady path allocates nothing for a record.
func TestAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := newRig(t)
	line := strings.Repeat("x", 99) + "\n"
	r.must(os.WriteFile(r.path("a.log"), []byte(strings.Repeat(line, 300_000)), 0o600))
	s := &counting{}
	router, err := ingest.NewRouter(ingest.RouterConfig{
		Batch: ingest.DefaultBatchConfig(), Routes: []ingest.Route{{Topic: "t", Encoder: r.enc}}, MaxRecordBytes: 8e6,
	}, s)
	r.must(err)
	store, err := checkpoint.Open(r.data, slog.New(slog.NewTextHandler(io.Discard, nil)))
	r.must(err)
	defer store.Close()
	r.cfg.RecordIDs, r.enc.RecordIDHeader = true, "id"
	tl, err := New(r.cfg, router, s, store, slog.New(slog.NewTextHandler(io.Discard, nil)))
	r.must(err)
	tl.mu.Lock() // as Run does
	defer tl.mu.Unlock()
	tl.begin()
	defer tl.end()
	tl.scan()
	f := tl.files[0]
	turn := func() {
		if n, err := tl.turn(f); err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}
	for range 20 {
		turn()
	}
	n := testing.AllocsPerRun(50, turn)
	if n > 6 { // of a turn, for its system calls
		t.Errorf("%v allocations for 2600 records", n)
	}
	if s.n < 150_000 {
		t.Errorf("%d records only", s.n)
	}
	if err := router.Close(); err != nil {
		t.Error(err)
	}
}

// counting is a Sink that settles at once.
type counting struct {
	o ingest.Origin
	n int
}

func (c *counting) Register(o ingest.Origin) int32 { c.o = o; return 1 }
func (c *counting) Release(int32)                  {}
func (c *counting) Submit(b *record.Batch) error {
	c.n += b.Len()
	c.o.Delivered(b.Pos)
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func (c *counting) Reject(int32, string, record.Position, []byte, *record.InvalidError) error {
	return nil
}

// A hundred files read at full speed take little memory, whatever their size.
func TestMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory")
	}
	r := newRig(t)
	text := strings.Repeat(strings.Repeat("x", 99)+"\n", 20_000)
	for i := range 100 {
		r.must(os.WriteFile(r.path(fmt.Sprint(i, ".log")), []byte(text), 0o600))
	}
	s := &counting{}
	router, err := ingest.NewRouter(ingest.RouterConfig{
		Batch: ingest.DefaultBatchConfig(), Routes: []ingest.Route{{Topic: "t", Encoder: r.enc}}, MaxRecordBytes: 8e6,
	}, several{s, newSink(atOnce)})
	r.must(err)
	store, err := checkpoint.Open(r.data, slog.New(slog.NewTextHandler(io.Discard, nil)))
	r.must(err)
	defer store.Close()
	sk := newSink(atOnce)
	r.cfg.Follow = false
	tl, err := New(r.cfg, router, sk, store, slog.New(slog.NewTextHandler(io.Discard, nil)))
	r.must(err)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r.must(tl.Run(context.Background()))
	r.must(router.Close())
	runtime.GC()
	runtime.ReadMemStats(&after)
	if s.n != 2_000_000 {
		t.Errorf("%d records", s.n)
	}
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 4<<20 {
		t.Errorf("%d bytes are kept", kept)
	}
	if grew := int64(after.HeapSys) - int64(before.HeapSys); grew > 16<<20 {
		t.Errorf("the heap grew by %d bytes", grew)
	}
	runtime.KeepAlive(tl)
}

// several counts records of any origin without settling them.
type several struct {
	*counting
	s *sink
}

func (s several) Submit(b *record.Batch) error {
	s.n += b.Len()
	b.Seal()
	b.Resolve(b.Len())
	return nil
}

func fromBase64(s string) string {
	b, _ := base64.StdEncoding.DecodeString(s)
	return string(b)
}
