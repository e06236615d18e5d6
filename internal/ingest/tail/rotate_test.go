package tail

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// scenario is what happens to files, step by step.
type scenario struct {
	name    string
	include string // below the directory; *.log when empty
	links   bool
	slow    bool // what comes and goes between two looks is never seen: no glob includes the copies
	gone    bool // lines are destroyed that only the agent has by then
	steps   []func(r *rig)
}

func gz(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

// compress replaces a file by a compressed one, as gzip does: it is written
// beside it, gets its time, and then the file goes.
func (r *rig) compress(name, end string) {
	r.t.Helper()
	info, err := os.Stat(r.path(name))
	r.must(err)
	text, err := os.ReadFile(r.path(name))
	r.must(err)
	packed := gz(string(text))
	if end == ".zst" {
		w, err := zstd.NewWriter(nil)
		r.must(err)
		packed = w.EncodeAll(text, nil)
		r.must(w.Close())
	}
	half := len(packed) / 2
	r.must(os.WriteFile(r.path(name+end), packed[:half], 0o600))
	time.Sleep(5 * time.Millisecond)
	r.must(os.WriteFile(r.path(name+end), packed, 0o600))
	r.must(os.Chtimes(r.path(name+end), info.ModTime(), time.Now().Add(-time.Minute)))
	r.remove(name)
}

// copytruncate does what logrotate's option of that name does.
func (r *rig) copytruncate(from, to string) {
	r.t.Helper()
	text, err := os.ReadFile(r.path(from))
	r.must(err)
	r.must(os.WriteFile(r.path(to), text, 0o600))
	r.must(os.Truncate(r.path(from), 0))
}

func rotations() []scenario {
	steps := func(s ...func(r *rig)) []func(r *rig) { return s }
	a := func(n int) func(r *rig) { return func(r *rig) { r.append("a.log", n) } }
	banner := strings.Repeat("the same at the head of every file. ", 40) + "\n" // more than a KiB
	with := func(banner string, s ...func(r *rig)) []func(r *rig) {
		head := func(r *rig) {
			r.wrote[strings.TrimSuffix(banner, "\n")]++
			r.write("a.log", banner)
		}
		out := []func(r *rig){func(r *rig) { head(r); r.append("a.log", 5) }}
		for _, step := range s {
			out = append(out, func(r *rig) { step(r); head(r); r.append("a.log", 8) })
		}
		return out
	}
	return []scenario{
		{name: "grows", steps: steps(a(10), a(1), a(5000), a(3))},
		{name: "rename and create", steps: steps(a(10),
			func(r *rig) { r.append("a.log", 2); r.rename("a.log", "a.log.1"); r.append("a.log", 5) },
			func(r *rig) { r.rename("a.log.1", "a.log.2"); r.rename("a.log", "a.log.1"); r.append("a.log", 7) })},
		{name: "rename and create, all names match", include: "a.log*", steps: steps(a(10),
			func(r *rig) { r.append("a.log", 2); r.rename("a.log", "a.log.1"); r.append("a.log", 5) },
			func(r *rig) { r.rename("a.log.1", "a.log.2"); r.rename("a.log", "a.log.1"); r.append("a.log", 7) })},
		{name: "renamed with a date", steps: steps(a(100),
			func(r *rig) { r.append("a.log", 2); r.rename("a.log", "a-20260102.log.old"); r.append("a.log", 5) },
			func(r *rig) { r.append("a.log", 200); r.rename("a.log", "a.log-20260103"); r.append("a.log", 5) })},
		{name: "written to after the rename", steps: steps(a(10),
			func(r *rig) { r.rename("a.log", "a.log.1"); r.append("a.log.1", 3); r.append("a.log", 5) },
			func(r *rig) { r.append("a.log.1", 1); r.append("a.log", 1) })},
		{name: "copytruncate", slow: true, steps: steps(a(50),
			func(r *rig) { r.append("a.log", 20); r.copytruncate("a.log", "a.log.1") }, a(3),
			func(r *rig) {
				r.rename("a.log.1", "a.log.2")
				r.copytruncate("a.log", "a.log.1")
				r.append("a.log", 90)
			})},
		{name: "copytruncate, the copies match", include: "a.log*", steps: steps(a(50),
			func(r *rig) { r.append("a.log", 20); r.copytruncate("a.log", "a.log.1") }, a(3),
			func(r *rig) {
				r.rename("a.log.1", "a.log.2")
				r.copytruncate("a.log", "a.log.1")
				r.append("a.log", 90)
			})},
		{name: "copytruncate of a short file", include: "a.log*", steps: steps(a(1),
			func(r *rig) { r.copytruncate("a.log", "a.log.1") }, a(1),
			func(r *rig) {
				r.rename("a.log.1", "a.log.2")
				r.append("a.log", 1)
				r.copytruncate("a.log", "a.log.1")
				r.append("a.log", 1)
			})},
		{name: "delete and create", gone: true, steps: steps(a(10), func(r *rig) { r.remove("a.log"); r.append("a.log", 5) },
			func(r *rig) { r.remove("a.log"); r.append("a.log", 50) })},
		{name: "inode used again", gone: true, steps: steps(a(10), func(r *rig) {
			for range 20 { // where the file system gives inodes out again, one of these is it
				r.remove("a.log")
				r.must(os.WriteFile(r.path("a.log"), nil, 0o600))
			}
			r.append("a.log", 30)
		}, func(r *rig) { r.remove("a.log"); r.append("a.log", 60) })},
		{name: "begins alike, deleted and created", gone: true, steps: with("started\n", func(r *rig) { r.remove("a.log") }, func(r *rig) { r.remove("a.log") })},
		{name: "begins alike, renamed", include: "a.log*", steps: with(banner,
			func(r *rig) { r.rename("a.log", "a.log.1") },
			func(r *rig) { r.rename("a.log.1", "a.log.2"); r.rename("a.log", "a.log.1") })},
		{name: "begins alike, truncated", gone: true, steps: with(banner, func(r *rig) { r.must(os.Truncate(r.path("a.log"), 0)) })},
		{name: "truncated and grown past where reading was", gone: true, steps: steps(a(10),
			func(r *rig) { r.must(os.Truncate(r.path("a.log"), 0)); r.append("a.log", 500) })},
		{name: "symlink swapped", include: "current.log", links: true, steps: steps(
			func(r *rig) { r.append("one.txt", 10); r.must(os.Symlink("one.txt", r.path("current.log"))) },
			func(r *rig) {
				r.append("one.txt", 3)
				r.append("two.txt", 5)
				r.must(os.Symlink("two.txt", r.path("new")))
				r.rename("new", "current.log")
			},
			func(r *rig) { r.append("two.txt", 5) })},
		{name: "rotated and gzipped", steps: steps(a(100), func(r *rig) {
			r.append("a.log", 20)
			r.rename("a.log", "a.log.1")
			r.compress("a.log.1", ".gz")
			r.append("a.log", 5)
		}, func(r *rig) { r.rename("a.log.1.gz", "a.log.2.gz"); r.append("a.log", 5) })},
		{name: "rotated and gzipped, all names match", include: "a.log*", steps: steps(a(100), func(r *rig) {
			r.append("a.log", 20)
			r.rename("a.log", "a.log.1")
			r.compress("a.log.1", ".gz")
			r.append("a.log", 5)
		}, func(r *rig) { r.rename("a.log.1.gz", "a.log.2.gz"); r.append("a.log", 5) })},
		{name: "rotated, compressed later with zstd", include: "a.log*", steps: steps(a(3000),
			func(r *rig) { r.append("a.log", 20); r.rename("a.log", "a.log.1"); r.append("a.log", 5) },
			func(r *rig) { r.compress("a.log.1", ".zst"); r.append("a.log", 5) })},
		{name: "copytruncate and compressed", include: "a.log*", steps: steps(a(100), func(r *rig) {
			r.append("a.log", 20)
			r.copytruncate("a.log", "a.log.1")
			r.compress("a.log.1", ".gz")
			r.append("a.log", 5)
		}, a(5))},
		{name: "partial last line", steps: steps(a(3),
			func(r *rig) {
				text := r.lines(2)
				r.write("a.log", text[:len(text)-8])
				time.Sleep(30 * time.Millisecond)
				r.write("a.log", text[len(text)-8:])
			},
			func(r *rig) {
				text := r.lines(2)
				r.write("a.log", text[:len(text)-1]) // never ended
				r.rename("a.log", "a.log.1")
				r.append("a.log", 1)
			})},
		{name: "many generations", include: "a.log*", steps: steps(a(10),
			func(r *rig) {
				for i := 9; i > 0; i-- {
					for j := 9; j > 0; j-- {
						_ = os.Rename(r.path("a.log."+strconv.Itoa(j)), r.path("a.log."+strconv.Itoa(j+1)))
					}
					r.rename("a.log", "a.log.1")
					r.append("a.log", i*7)
				}
			})},
	}
}

// Each line once, whatever happens, with the agent running, restarted at every
// step, and down while it all happens.
func TestRotations(t *testing.T) {
	t.Parallel()
	ways := []struct {
		name string
		mode settle
		run  func(r *rig, s scenario)
	}{
		{"running", atOnce, func(r *rig, s scenario) {
			r.start()
			for _, step := range s.steps {
				step(r)
				r.delivered()
			}
		}},
		{"running, settled late", late, func(r *rig, s scenario) {
			r.start()
			for _, step := range s.steps {
				step(r)
				r.delivered()
			}
		}},
		{"restarted", atOnce, func(r *rig, s scenario) {
			for _, step := range s.steps {
				step(r)
				r.start()
				r.delivered()
				r.stop()
			}
			r.start()
		}},
		{"some never settled", some, func(r *rig, s scenario) {
			for i, step := range s.steps {
				step(r)
				if i == len(s.steps)-1 {
					r.mode = atOnce
				}
				r.start()
				before := -1
				r.until("nothing more comes", func() bool {
					n := len(r.got())
					defer func() { before = n }()
					time.Sleep(200 * time.Millisecond)
					return n == before
				})
				r.stop()
			}
			r.start()
			r.delivered()
		}},
		{"down meanwhile", atOnce, func(r *rig, s scenario) {
			s.steps[0](r)
			r.start()
			r.delivered()
			r.stop()
			s.steps[1](r)
			r.start()
			r.delivered()
			for _, step := range s.steps[2:] {
				step(r)
				if s.slow {
					r.delivered()
				}
			}
			r.delivered()
		}},
	}
	for _, s := range rotations() {
		for _, way := range ways {
			if s.gone && way.mode == some {
				continue
			}
			t.Run(s.name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				r.mode = way.mode
				if s.include != "" {
					r.cfg.Include = []string{filepath.Join(r.dir, s.include)}
				}
				r.cfg.FollowSymlinks = s.links
				way.run(r, s)
				r.delivered()
				time.Sleep(150 * time.Millisecond) // for what should not come
				r.stop()
				r.judge()
			})
		}
	}
}

// Lines that are written between copying and truncating, and read in time, are
// not in the copy: neither they nor the rest of it are read again.
func TestCopyIsOlder(t *testing.T) {
	t.Parallel()
	f := func(include string, down bool) {
		t.Run(fmt.Sprint(include, down), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.cfg.Include = []string{r.path(include)}
			r.append("a.log", 100)
			r.start()
			for i := range 3 {
				r.delivered()
				for j := i; j > 0; j-- {
					r.rename(fmt.Sprint("a.log.", j), fmt.Sprint("a.log.", j+1))
				}
				text, err := os.ReadFile(r.path("a.log"))
				r.must(err)
				r.must(os.WriteFile(r.path("a.log.1"), text, 0o600))
				r.append("a.log", 5)
				r.delivered()
				if down {
					r.stop()
				}
				r.must(os.Truncate(r.path("a.log"), 0))
				n := 3 + i
				if down { // by the checkpoint alone a copy of less than a KiB is not known
					n += 30
				}
				r.append("a.log", n)
				r.start()
			}
			r.delivered()
			time.Sleep(100 * time.Millisecond) // it finds the last copy
			r.stop()
			r.start()
			time.Sleep(200 * time.Millisecond)
			r.stop()
			r.judge()
		})
	}
	f("a.log*", false)
	f("a.log*", true)
	f("*.log", false)
	f("*.log", true)
}

// A copy that goes its own way is a file of its own.
func TestCopyDiverges(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.Include = []string{r.path("a.log*")}
	r.append("a.log", 10)
	r.start()
	r.delivered()
	text, err := os.ReadFile(r.path("a.log"))
	r.must(err)
	r.must(os.WriteFile(r.path("a.log.bak"), text, 0o600))
	time.Sleep(100 * time.Millisecond)
	r.judge()
	r.append("a.log", 10)
	for line := range strings.Lines(string(text)) {
		r.wrote[strings.TrimSuffix(line, "\n")]++
	}
	r.append("a.log.bak", 10)
	r.delivered()
	r.stop()
	r.judge()
}

// The real thing, by its common settings.
func TestLogrotate(t *testing.T) {
	t.Parallel()
	bin, err := exec.LookPath("logrotate")
	if err != nil {
		t.Skip("no logrotate here")
	}
	f := func(name, include, settings string, down bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if os.Getuid() == 0 {
				settings = "su root root\n" + settings
			}
			r.cfg.Include = []string{filepath.Join(r.dir, include)}
			conf := filepath.Join(r.data, "logrotate.conf")
			r.must(os.Chmod(r.dir, 0o700))
			r.must(os.WriteFile(conf, []byte(r.path("a.log")+" {\n"+settings+"\nrotate 9\nmissingok\n}\n"), 0o600))
			r.append("a.log", 100)
			r.start()
			for i := range 5 {
				r.delivered()
				if down {
					r.stop()
				}
				r.append("a.log", 10*i+1)
				out, err := exec.Command(bin, "-f", "-s", filepath.Join(r.data, "status"), conf).CombinedOutput()
				if err != nil {
					t.Fatalf("logrotate: %v\n%s", err, out)
				}
				r.append("a.log", 30)
				r.start()
			}
			r.delivered()
			time.Sleep(150 * time.Millisecond)
			r.stop()
			r.judge()
		})
	}
	for _, down := range []bool{false, true} {
		way := map[bool]string{false: "", true: ", down meanwhile"}[down]
		f("create"+way, "*.log", "create", down)
		f("create, all match"+way, "a.log*", "create", down)
		f("copytruncate"+way, "*.log", "copytruncate", down)
		f("copytruncate, all match"+way, "a.log*", "copytruncate", down)
		f("compress"+way, "*.log", "create\ncompress", down)
		f("compress, all match"+way, "a.log*", "create\ncompress", down)
		f("delaycompress, all match"+way, "a.log*", "create\ncompress\ndelaycompress", down)
		f("copytruncate, compress, all match"+way, "a.log*", "copytruncate\ncompress", down)
	}
}
