package tail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// pattern is one glob: a directory that is given, and what is looked for below.
type pattern struct {
	text  string // absolute
	dir   string
	parts []string // one for each level below dir
}

const meta = `*?[\`

var errDoubleStar = errors.New("** is not known here: write one * for each directory")

// checkGlob tells what is wrong with a glob.
func checkGlob(text string) error {
	if text == "" {
		return errors.New("empty: name a file or a glob")
	}
	if strings.Contains(text, "**") {
		return errDoubleStar
	}
	if _, err := filepath.Match(text, ""); err != nil {
		return errors.New("a [ without its ], or a \\ at the end: write \\[ for the character itself")
	}
	return nil
}

func parsePattern(text string) (pattern, error) {
	if err := checkGlob(text); err != nil {
		return pattern{}, err
	}
	if strings.HasSuffix(text, "/") {
		return pattern{}, fmt.Errorf("a directory: name the files in it, as in %s*.log", text)
	}
	abs, err := filepath.Abs(text)
	if err != nil {
		return pattern{}, err
	}
	p := pattern{text: abs}
	parts := strings.Split(abs[1:], "/")
	fixed := 0
	for fixed < len(parts)-1 && !strings.ContainsAny(parts[fixed], meta) {
		fixed++
	}
	p.dir, p.parts = "/"+strings.Join(parts[:fixed], "/"), parts[fixed:]
	if p.parts[len(p.parts)-1] == "" {
		return pattern{}, errors.New("a directory: name the files in it")
	}
	return p, nil
}

// root is the directory that a glob begins with. Files are opened through it,
// so that no name and no link leads out of it.
type root struct {
	dir  string
	r    *os.Root // nil: not there
	info fs.FileInfo
}

// refresh makes sure that r is what is at its path now.
func (r *root) refresh() error {
	info, err := os.Stat(r.dir)
	if err == nil && r.r != nil && os.SameFile(info, r.info) {
		return nil
	}
	r.close()
	if err != nil {
		return err
	}
	if r.r, err = os.OpenRoot(r.dir); err != nil {
		return err
	}
	if r.info, err = r.r.Stat("."); err != nil {
		r.close()
	}
	return err
}

func (r *root) close() {
	if r.r != nil {
		_ = r.r.Close() // it was only read
		r.r = nil
	}
}

// key is what the file system knows a file by.
type key struct{ dev, inode uint64 }

// place is a file that was found somewhere.
type place struct {
	path     string // absolute
	as       string // the path a glob found it by, which may be a link to it
	root     *root
	rel      string // below root
	included bool   // by a glob, not only looked at as what another one was rotated to
	key      key
	info     fs.FileInfo
}

// stat looks at a path below r. Symbolic links are told of, not followed,
// unless they may be.
func (t *Tail) stat(r *root, rel string) (fs.FileInfo, error) {
	if t.cfg.FollowSymlinks {
		return os.Stat(filepath.Join(r.dir, rel))
	}
	if r.r == nil {
		return nil, fs.ErrNotExist
	}
	return r.r.Lstat(rel)
}

// open opens a regular file and nothing else: what is not, or is not what was
// found there, is not read, and nobody waits for a pipe's writer.
func (t *Tail) open(p *place) (*os.File, error) {
	f, err := t.openAny(p)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) { // hold fewer from here on
		t.limit = max(t.opened*3/4, 1)
		t.problem("/", "the system gives no more open files; fewer are held open: raise the limit of open files, or lower max_open", err)
		t.makeRoom(nil)
		f, err = t.openAny(p)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || keyOf(info) != p.key) {
		err = fs.ErrNotExist // another one took its place, and is found by the next look
	}
	if err == nil && !t.cfg.FollowSymlinks {
		if now, lerr := p.root.r.Lstat(p.rel); lerr == nil && now.Mode()&fs.ModeSymlink != 0 {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	p.info = info
	return f, nil
}

func (t *Tail) openAny(p *place) (*os.File, error) {
	const flags = os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if t.cfg.FollowSymlinks {
		return os.OpenFile(p.path, flags, 0)
	}
	if p.root.r == nil {
		return nil, fs.ErrNotExist
	}
	return p.root.r.OpenFile(p.rel, flags, 0)
}

// list returns the names in a directory below r.
func (t *Tail) list(r *root, rel string) ([]string, error) {
	var d *os.File
	var err error
	switch {
	case t.cfg.FollowSymlinks:
		d, err = os.Open(filepath.Join(r.dir, rel))
	case r.r == nil:
		return nil, fs.ErrNotExist
	default:
		d, err = r.r.Open(rel)
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// find returns all files that the globs include.
func (t *Tail) find() []place {
	var found []place
	seen := map[string]bool{}
	for _, r := range t.roots {
		if err := r.refresh(); err != nil {
			t.problem(r.dir+"/", "cannot read a directory of the include list; it is tried again", err)
			continue
		}
		t.well(r.dir + "/") // a name of its own: descend tells of the same directory
	}
	for i := range t.patterns {
		p := &t.patterns[i]
		if r := t.roots[p.dir]; r.r != nil {
			t.descend(r, ".", p.parts, func(pl place) {
				if !seen[pl.path] && !t.excluded(pl.path) {
					seen[pl.path] = true
					found = append(found, pl)
				}
			})
		}
	}
	return found
}

// descend looks for parts below a directory.
func (t *Tail) descend(r *root, at string, parts []string, add func(place)) {
	dir := filepath.Join(r.dir, at)
	t.dirs[dir] = true
	names := []string{parts[0]}
	if strings.ContainsAny(parts[0], meta) {
		var err error
		if names, err = t.list(r, at); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				t.problem(dir, "cannot read a directory; the others are read", err)
			}
			return
		}
		t.well(dir)
	}
	for _, name := range names {
		if ok, _ := filepath.Match(parts[0], name); !ok {
			continue
		}
		rel := filepath.Join(at, name)
		path := filepath.Join(dir, name)
		info, err := t.stat(r, rel)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			t.problem(path, "cannot look at a file; the others are read", err)
		case info.Mode()&fs.ModeSymlink != 0:
			t.problem(path, "a symbolic link is not followed: set follow_symlinks, or include what it points to", nil)
		case info.IsDir() && len(parts) > 1:
			t.descend(r, rel, parts[1:], add)
		case info.Mode().IsRegular() && len(parts) == 1:
			if !t.excluded(path) {
				add(place{path: t.target(path), as: path, root: r, rel: rel, included: true, key: keyOf(info), info: info})
			}
		case !info.IsDir() && len(parts) == 1:
			t.problem(path, "no regular file, so it is not read: files are followed, pipes and devices are not", nil)
		}
	}
}

// target is where a path leads when links are followed: what was rotated away is
// looked for there.
func (t *Tail) target(path string) string {
	if t.cfg.FollowSymlinks {
		if to, err := filepath.EvalSymlinks(path); err == nil {
			return to
		}
	}
	return path
}

func (t *Tail) excluded(path string) bool {
	for _, text := range t.cfg.Exclude {
		of := path
		if !strings.Contains(text, "/") {
			of = filepath.Base(path)
		}
		if ok, _ := filepath.Match(text, of); ok {
			return true
		}
	}
	return false
}

// includes tells whether a path is one that a glob may find.
func (t *Tail) includes(path string) bool {
	for i := range t.patterns {
		if ok, _ := filepath.Match(t.patterns[i].text, path); ok {
			return !t.excluded(path)
		}
	}
	return false
}

// kinship is how a file's name resembles another's.
type kinship int

const (
	stranger kinship = iota
	cousin           // app-20240131.log of app.log: could as well be a second program's
	brother          // app.log.1, app.log-20240131.gz of app.log
	same             // app.log
)

var packedEnds = []string{".gz", ".zst", ".zstd", ".bz2", ".xz", ".lz4", ".Z"}

// kin tells by their names whether path could be what of was rotated to.
func kin(path, of string) kinship {
	if path == of {
		return same
	}
	if filepath.Dir(path) != filepath.Dir(of) {
		return stranger
	}
	name, of := filepath.Base(path), filepath.Base(of)
	if rest, ok := strings.CutPrefix(name, of); ok && rest != "" {
		if strings.ContainsRune(".-_~", rune(rest[0])) {
			return brother
		}
		return stranger
	}
	for _, end := range packedEnds {
		name = strings.TrimSuffix(name, end)
	}
	ext := filepath.Ext(of)
	rest, ok := strings.CutPrefix(name, strings.TrimSuffix(of, ext))
	if ok && ext != "" {
		rest, ok = strings.CutSuffix(rest, ext)
	}
	if !ok || len(rest) < 2 || !strings.ContainsRune(".-_", rune(rest[0])) || !strings.ContainsAny(rest, "0123456789") ||
		strings.Trim(rest, "0123456789.-_:TZ") != "" {
		return stranger
	}
	return cousin
}
