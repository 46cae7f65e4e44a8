//go:build linux || darwin || freebsd

package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/rootfs"
	"rollcall/internal/testtree"
)

// changes are the ways in which a path can come to lead elsewhere under a log that works there.
var changes = map[string]func(dir string) error{
	"removed": os.RemoveAll,
	"moved away, a copy put in its place": func(dir string) error {
		return errors.Join(os.Rename(dir, dir+".away"), os.CopyFS(dir, os.DirFS(dir+".away")))
	},
	"LOCK made again": func(dir string) error {
		path := filepath.Join(dir, LockName)
		return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
	},
}

// guarded is a started log on the disk, with some segments.
func guarded(t *testing.T, dir string) *Log {
	t.Helper()
	files := rootfs.New(dir)
	t.Cleanup(func() {
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	})
	l, err := Open(dir, small(files))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		commit(t, l, strings.Repeat("r", 1200))
	}
	return l
}

// wantMoved checks that the log has failed since its directory is another one.
func wantMoved(t *testing.T, l *Log, dir string) {
	t.Helper()
	<-l.Failed()
	err := l.Err()
	if !errors.Is(err, ErrFailed) || !errors.Is(err, ErrMoved) ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("the log failed with %v", err)
	}
	for range 2 {
		if err := l.Reserve(1, 0); !errors.Is(err, ErrMoved) {
			t.Errorf("a credit afterwards: %v", err)
		}
	}
	if err := l.Wait(l.Appended() + 1); !errors.Is(err, ErrMoved) {
		t.Errorf("a wait afterwards: %v", err)
	}
}

// TestMovedDirectoryFailsTheLog (W11): whatever happens to the directory, the log notices within a
// second, or at once where something is made or removed or a checkpoint asks. It then acknowledges
// nothing, and what is there now is as it was.
func TestMovedDirectoryFailsTheLog(t *testing.T) {
	for what, change := range changes {
		for by, notice := range map[string]func(t *testing.T, l *Log){
			"the second": func(_ *testing.T, l *Log) {
				time.Sleep(guardEvery)
				synctest.Wait()
				select {
				case <-l.Failed():
				default:
					t.Errorf("%s: the log has not failed after %v", what, guardEvery)
				}
			},
			"Sync": func(t *testing.T, l *Log) {
				err := l.Sync(l.Durable())
				if !errors.Is(err, ErrFailed) || !errors.Is(err, ErrMoved) {
					t.Errorf("%s: Sync says %v", what, err)
				}
			},
			"TruncateBefore": func(t *testing.T, l *Log) {
				if err := l.TruncateBefore(l.Durable()); !errors.Is(err, ErrMoved) {
					t.Errorf("%s: TruncateBefore says %v", what, err)
				}
			},
			"a new segment": func(t *testing.T, l *Log) {
				for range 2 * l.o.SegmentBytes / 1200 {
					if l.Reserve(1200, time.Minute) != nil {
						return
					}
					if l.Wait(l.Append(make([]byte, 1200), 0)) != nil {
						return
					}
				}
				t.Errorf("%s: a new segment was begun", what)
			},
			"Close": func(t *testing.T, l *Log) {
				if err := l.Close(); !errors.Is(err, ErrMoved) {
					t.Errorf("%s: Close says %v", what, err)
				}
			},
		} {
			t.Run(what+", noticed by "+by, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "data")
				synctest.Test(t, func(t *testing.T) {
					l := guarded(t, dir)
					synctest.Wait() // nothing makes a file beside the change
					began := time.Now()
					if err := change(dir); err != nil {
						t.Fatal(err)
					}
					before := testtree.Of(t, dir)
					notice(t, l)
					wantMoved(t, l, dir)
					if took := time.Since(began); took > guardEvery {
						t.Errorf("it took %v", took)
					}
					if err := l.Close(); !errors.Is(err, ErrMoved) {
						t.Errorf("Close says %v", err)
					}
					diff := before.Changes(testtree.Of(t, dir))
					if runtime.GOOS == "linux" && what != "LOCK made again" && diff != "" {
						t.Errorf("what is there now was changed:\n%s", diff)
					}
				})
			})
		}
	}
}

// TestReplacedFileFailsTheLog (W11): so it is when a file that the log works on is removed, cut or
// replaced, and LOCK left alone, as when a backup is copied into the directory.
func TestReplacedFileFailsTheLog(t *testing.T) {
	newest := func(dir string) string {
		l, err := OpenReadOnly(dir, small(vfs.Default))
		if err != nil {
			t.Fatal(err)
		}
		defer closeLog(t, l)
		return filepath.Join(dir, nameOf(l.control.known().newest.number))
	}
	for what, change := range map[string]func(dir, older, other string) error{
		"CONTROL removed": func(dir, _, _ string) error {
			return os.Remove(filepath.Join(dir, ControlName))
		},
		"CONTROL an older one": func(dir, older, _ string) error {
			return overwrite(filepath.Join(older, ControlName), filepath.Join(dir, ControlName))
		},
		"CONTROL another directory's": func(dir, _, other string) error {
			return overwrite(filepath.Join(other, ControlName), filepath.Join(dir, ControlName))
		},
		"the newest segment removed": func(dir, _, _ string) error { return os.Remove(newest(dir)) },
		"the newest segment cut":     func(dir, _, _ string) error { return os.Truncate(newest(dir), 100) },
		"the newest segment another's": func(dir, _, other string) error {
			path := newest(dir)
			return overwrite(filepath.Join(other, filepath.Base(path)), path)
		},
	} {
		t.Run(what, func(t *testing.T) {
			top := t.TempDir()
			dir, older, other := filepath.Join(top, "data"), filepath.Join(top, "older"),
				filepath.Join(top, "other")
			synctest.Test(t, func(t *testing.T) {
				closeLog(t, guarded(t, dir))
				if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					closeLog(t, guarded(t, other))
				}
				l := guarded(t, dir)
				time.Sleep(2 * refreshEvery) // all is well
				synctest.Wait()
				if err := l.Err(); err != nil {
					t.Fatal(err)
				}
				if err := change(dir, older, other); err != nil {
					t.Fatal(err)
				}
				time.Sleep(refreshEvery)
				synctest.Wait()
				if err := l.Err(); !errors.Is(err, ErrFailed) || !errors.Is(err, ErrReplaced) ||
					!strings.Contains(err.Error(), dir) {
					t.Errorf("the log failed with %v", err)
				}
				if err := l.Close(); !errors.Is(err, ErrReplaced) {
					t.Errorf("Close says %v", err)
				}
			})
		})
	}
}

// overwrite copies a file over another, whose inode stays.
func overwrite(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// TestPutBackIsTooLate: a log that was found elsewhere stays failed.
func TestPutBackIsTooLate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	l := guarded(t, dir)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(1); !errors.Is(err, ErrMoved) {
		t.Errorf("Sync says %v", err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	wantMoved(t, l, dir)
	if err := l.Sync(1); !errors.Is(err, ErrMoved) {
		t.Errorf("Sync says %v", err)
	}
	if err := l.Close(); !errors.Is(err, ErrMoved) {
		t.Errorf("Close says %v", err)
	}
}

// A log that was closed does not mind what becomes of its directory.
func TestClosedLogIsNotGuarded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	l := guarded(t, dir)
	closeLog(t, l)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Sync(l.Durable() + 1); err != ErrClosed {
		t.Errorf("Sync says %v", err)
	}
	if err := l.Err(); err != nil {
		t.Error(err)
	}
}

// TestMovedBeforeStart: nothing is written into a directory that came after Open.
func TestMovedBeforeStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	closeLog(t, guarded(t, dir))
	l, err := Open(dir, small(vfs.Default))
	if err != nil {
		t.Fatal(err)
	}
	if err := changes["moved away, a copy put in its place"](dir); err != nil {
		t.Fatal(err)
	}
	before := testtree.Of(t, dir)
	if err := l.Start(nil); !errors.Is(err, ErrMoved) {
		t.Errorf("Start says %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if diff := before.Changes(testtree.Of(t, dir)); diff != "" {
		t.Errorf("what is there now was changed:\n%s", diff)
	}
}

// TestUnstartedLogLeavesNoTrace: Open and Close of a log that is never started make nothing, and
// change nothing of what is there.
func TestUnstartedLogLeavesNoTrace(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "data")
	l, err := Open(dir, small(vfs.Default))
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	if names, err := os.ReadDir(top); err != nil || len(names) > 0 {
		t.Errorf("%v stay behind, %v", names, err)
	}
	closeLog(t, guarded(t, dir))
	before := testtree.Of(t, dir)
	for _, prepare := range []bool{false, true} {
		if l, err = Open(dir, small(vfs.Default)); err != nil {
			t.Fatal(err)
		}
		if prepare {
			err := l.Replay(0, func(uint64, []byte) error { return nil })
			if err = errors.Join(err, l.Prepare()); err != nil {
				t.Fatal(err)
			}
		}
		closeLog(t, l)
		if diff := before.Changes(testtree.Of(t, dir)); diff != "" {
			t.Errorf("the directory was changed, prepared: %v:\n%s", prepare, diff)
		}
	}
}

// anothers is a file system with a file that may be read only.
type anothers struct {
	vfs.FS
	path string
}

func (a anothers) OpenReadWrite(
	path string, c vfs.DiskWriteCategory, o ...vfs.OpenOption,
) (vfs.File, error) {
	if path == a.path {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
	}
	return a.FS.OpenReadWrite(path, c, o...)
}

// TestUnwritableFileIsFoundByPrepare: a start that may not write to a file that is there, since
// another user owns it for example, ends before it has changed anything.
func TestUnwritableFileIsFoundByPrepare(t *testing.T) {
	for _, name := range []string{ControlName, "newest segment"} {
		dir := filepath.Join(t.TempDir(), "data")
		l := guarded(t, dir)
		if name != ControlName {
			name = nameOf(l.control.known().newest.number)
		}
		closeLog(t, l)
		before := testtree.Of(t, dir)
		l, err := Open(dir, small(anothers{vfs.Default, filepath.Join(dir, name)}))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Replay(0, func(uint64, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := l.Prepare(); !errors.Is(err, fs.ErrPermission) ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		closeLog(t, l)
		if diff := before.Changes(testtree.Of(t, dir)); diff != "" {
			t.Errorf("%s: the directory was changed:\n%s", name, diff)
		}
	}
}

// TestLockedNamesTheHolder: here it is this process.
func TestLockedNamesTheHolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	l := guarded(t, dir)
	defer closeLog(t, l)
	_, err := Open(dir, small(vfs.Default))
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("%v", err)
	}
}
