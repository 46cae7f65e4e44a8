// Package faultfs has file systems that fail, for the tests of packages that keep files.
package faultfs

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Fault is what happens to an operation.
type Fault struct {
	Name string
	// Err is what the operation returns.
	Err error
	// Half makes a write leave the first half of its bytes behind.
	Half bool
}

// Kinds are the faults that a disk has: it cannot, it is full, it is full in the middle of a write.
var Kinds = []Fault{
	{Name: "EIO", Err: syscall.EIO},
	{Name: "ENOSPC", Err: syscall.ENOSPC},
	{Name: "short", Err: syscall.ENOSPC, Half: true},
}

// Faults counts the operations of a file system and makes some fail: the one with number At, the
// first being 0, and with Stuck every later one that writes.
type Faults struct {
	Fault
	At    int64
	Stuck bool

	count atomic.Int64
	hit   atomic.Pointer[string]
	half  atomic.Bool // the next write is to leave its first half behind
}

// Wrap returns fs with the faults. Any number of goroutines may use it.
func (f *Faults) Wrap(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(halfFS{fs, f}, errorfs.InjectorFunc(f.before))
}

// Operations is how many there were.
func (f *Faults) Operations() int64 { return f.count.Load() }

// Hit says which operation was the first to fail; empty: none yet.
func (f *Faults) Hit() string {
	if s := f.hit.Load(); s != nil {
		return *s
	}
	return ""
}

func (f *Faults) before(op errorfs.Op) error {
	n := f.count.Add(1) - 1
	stuck := f.Stuck && n > f.At && op.Kind.ReadOrWrite() == errorfs.OpIsWrite
	if f.Err == nil || n != f.At && !stuck {
		return nil
	}
	what := fmt.Sprintf("%s at operation %d, %v of %s", f.Name, n, op.Kind, op.Path)
	f.hit.CompareAndSwap(nil, &what)
	if f.Half && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpFileWriteAt) {
		f.half.Store(true)
		return nil
	}
	return f.Err
}

// halfFS makes files whose writes can stop in the middle, which an errorfs.Injector cannot.
type halfFS struct {
	vfs.FS
	faults *Faults
}

func (h halfFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return h.file(h.FS.Create(name, category))
}

func (h halfFS) OpenReadWrite(
	name string, category vfs.DiskWriteCategory, o ...vfs.OpenOption,
) (vfs.File, error) {
	return h.file(h.FS.OpenReadWrite(name, category, o...))
}

func (h halfFS) file(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &halfFile{f, h.faults}, nil
}

// Unwrap returns the file system below.
func (h halfFS) Unwrap() vfs.FS { return h.FS }

type halfFile struct {
	vfs.File
	faults *Faults
}

func (f *halfFile) Write(b []byte) (int, error) {
	if f.faults.half.CompareAndSwap(true, false) {
		n, _ := f.File.Write(b[:len(b)/2])
		return n, f.faults.Err
	}
	return f.File.Write(b)
}

func (f *halfFile) WriteAt(b []byte, at int64) (int, error) {
	if f.faults.half.CompareAndSwap(true, false) {
		n, _ := f.File.WriteAt(b[:len(b)/2], at)
		return n, f.faults.Err
	}
	return f.File.WriteAt(b, at)
}
