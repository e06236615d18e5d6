package spool

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// memDisk as a file system of the kernel's: the spool under test makes real
// system calls, and the power still goes when the test wants it to.

type fuseRoot struct {
	fs.Inode
	d *memDisk
}

type fuseFile struct {
	fs.Inode
	d    *memDisk
	name string
	f    *memFile
}

func errno(err error) syscall.Errno {
	var n syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &n):
		return n
	case errors.Is(err, iofs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, iofs.ErrExist):
		return syscall.EEXIST
	}
	return syscall.EIO
}

func (r *fuseRoot) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Owner = syscall.S_IFDIR|0o700, *fuse.CurrentOwner()
	return 0
}

func (r *fuseRoot) child(ctx context.Context, name string, f *memFile, out *fuse.EntryOut) *fs.Inode {
	c := &fuseFile{d: r.d, name: name, f: f}
	var attr fuse.AttrOut
	c.Getattr(ctx, nil, &attr)
	out.Attr = attr.Attr
	return r.NewInode(ctx, c, fs.StableAttr{Mode: syscall.S_IFREG})
}

func (r *fuseRoot) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	var f *memFile
	r.d.set(func(d *memDisk) { f = d.files[name] })
	if f == nil {
		return nil, syscall.ENOENT
	}
	return r.child(ctx, name, f, out), 0
}

func (r *fuseRoot) Create(ctx context.Context, name string, _, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	h, err := r.d.create(name)
	if err != nil {
		return nil, nil, 0, errno(err)
	}
	return r.child(ctx, name, h.(*memHandle).f, out), nil, fuse.FOPEN_DIRECT_IO, 0
}

func (r *fuseRoot) Unlink(_ context.Context, name string) syscall.Errno {
	return errno(r.d.remove(name))
}

func (r *fuseRoot) OpendirHandle(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	all, err := r.d.list()
	return &fuseDir{r.d, all}, 0, errno(err)
}

type fuseDir struct {
	d    *memDisk
	left []fileInfo
}

func (h *fuseDir) Readdirent(context.Context) (*fuse.DirEntry, syscall.Errno) {
	if len(h.left) == 0 {
		return nil, 0
	}
	e := &fuse.DirEntry{Name: h.left[0].name, Mode: syscall.S_IFREG}
	h.left = h.left[1:]
	return e, 0
}

func (h *fuseDir) Fsyncdir(context.Context, uint32) syscall.Errno { return errno(h.d.syncDir()) }

func (f *fuseFile) handle() *memHandle { return &memHandle{f.d, f.name, f.f} }

func (f *fuseFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.d.set(func(*memDisk) { out.Size = uint64(len(f.f.now)) })
	out.Mode, out.Owner, out.Nlink = syscall.S_IFREG|0o600, *fuse.CurrentOwner(), 1
	return 0
}

func (f *fuseFile) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if err := f.handle().Truncate(int64(size)); err != nil {
			return errno(err)
		}
	}
	return f.Getattr(ctx, h, out)
}

func (f *fuseFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *fuseFile) Read(_ context.Context, _ fs.FileHandle, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := f.handle().ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errno(err)
	}
	return fuse.ReadResultData(p[:n]), 0
}

func (f *fuseFile) Write(_ context.Context, _ fs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	n, err := f.handle().WriteAt(p, off)
	if n > 0 {
		err = nil // a short write, as the kernel's file systems do it
	}
	return uint32(n), errno(err)
}

func (f *fuseFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return errno(f.handle().Sync())
}

// mountDisk mounts d, or skips the test.
func mountDisk(t *testing.T, d *memDisk) (dir string, unmount func()) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Getuid() != 0 {
		t.Skip("it takes root and /dev/fuse")
	}
	dir = t.TempDir()
	server, err := fs.Mount(dir, &fuseRoot{d: d}, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true, Name: "memdisk", MaxBackground: 4}})
	if err != nil {
		t.Skip("cannot mount:", err)
	}
	return dir, sync.OnceFunc(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
		server.Wait()
	})
}

// F2, F6 over real system calls: 50 power cuts at any operation. What was said
// to be durable is there.
func TestPowerCutFUSE(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	disk, owed, sent, next := newMemDisk(), map[string]int64{}, map[string]bool{}, 0
	for cut := range 51 {
		if disk.cutAt = 5 + r.IntN(120); cut == 50 {
			disk.cutAt = 0
		}
		disk.ops = 0
		dir, unmount := mountDisk(t, disk)
		defer unmount()
		cfg := testConfig(dir)
		cfg.segment, cfg.RAMBytes = 2<<10, int64(cut%2)<<20
		s, err := Open(cfg, silent)
		if err != nil {
			if !disk.dark {
				t.Fatal(err)
			}
			unmount()
			disk = disk.cut(r)
			continue
		}
		if cut == 50 {
			for _, p := range drain(t, s) {
				if !sent[p] {
					t.Fatalf("%q was never appended", p)
				}
				delete(owed, p)
			}
			if len(owed) > 0 || next < 500 {
				t.Errorf("%d records of %d lost: %+v", len(owed), next, s.Stats())
			}
			closeSpool(t, s)
			unmount()
			return
		}
		next = useUntilDark(t, s, r, Always, owed, sent, next)
		_ = s.Close()
		unmount()
		disk = disk.cut(r)
	}
}

// F6 on a file system of the kernel's that is full.
func TestDiskFullTmpfs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it takes root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount:", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	cfg := testConfig(dir)
	cfg.RAMBytes = 0
	s := openSpool(t, cfg)
	var accepted []int
	for n, refused := 0, 0; refused < 2; n += 100 {
		err := put(t, s, batchOf("t", n, n+100))
		switch {
		case err == nil:
			accepted = append(accepted, n)
		case errors.Is(err, syscall.ENOSPC):
			refused++
			if err := s.Room(t.Context()); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatal(err)
		}
	}
	got := numbers(t, drain(t, s)) // and so there is room again
	for _, n := range accepted {
		if !got[n] || !got[n+99] {
			t.Errorf("records %d to %d were accepted and did not come", n, n+99)
		}
	}
	if len(got) != 100*len(accepted) || len(got) < 5000 {
		t.Errorf("%d records came, %d were accepted", len(got), 100*len(accepted))
	}
	waitFor(t, "the buffer to take batches again", func() bool {
		err := put(t, s, batchOf("t", 0, 100))
		return err == nil || s.Room(t.Context()) != nil
	})
	closeSpool(t, s)
	if !slices.Contains(accepted, 0) {
		t.Error("nothing was accepted at all")
	}
}
