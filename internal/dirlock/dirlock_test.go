//go:build linux || darwin || freebsd

package dirlock

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/rootfs"
)

const lockName = "LOCK"

// childDir names the directory that a child process tries to lock.
const childDir = "ROLLCALL_TEST_DIRLOCK"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		l, err := Take(vfs.Default, dir, lockName)
		if err == nil {
			err = errors.Join(errors.New("locked"), l.Close())
		}
		fmt.Print(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// takeInChild returns what another process gets.
func takeInChild(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func mustTake(t *testing.T, fsys vfs.FS, dir string) *Lock {
	t.Helper()
	l, err := Take(fsys, dir, lockName)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func wantHeld(t *testing.T, what string, err error, pid int) {
	t.Helper()
	var held *HeldError
	if !errors.As(err, &held) || held.PID != pid {
		t.Errorf("%s: %v, want it held by %d", what, err, pid)
	}
}

func wantMoved(t *testing.T, what string, err error) {
	t.Helper()
	var moved *MovedError
	if !errors.As(err, &moved) {
		t.Errorf("%s: %v, not a MovedError", what, err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestOneHolder: no second opener, in this process or another, also when LOCK is removed as stale;
// each is told the holder. A refused attempt gives up nothing of the holder's lock.
func TestOneHolder(t *testing.T) {
	dir := t.TempDir()
	self := fmt.Sprintf("process %d has locked", os.Getpid())
	l := mustTake(t, vfs.Default, dir)
	for range 2 {
		_, err := Take(vfs.Default, dir, lockName)
		wantHeld(t, "a second Take", err, os.Getpid())
		rooted := rootfs.New(dir)
		_, err = Take(rooted, dir, lockName)
		wantHeld(t, "one by another path", errors.Join(err, rooted.Close()), os.Getpid())
		if got := takeInChild(t, dir); !strings.Contains(got, self) {
			t.Errorf("another process: %s", got)
		}
	}
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	if got := takeInChild(t, dir); !strings.Contains(got, "has locked "+dir) {
		t.Errorf("without LOCK another process: %s", got)
	} else if exists("/proc/locks") && !strings.Contains(got, self) {
		t.Errorf("without LOCK another process is not told the holder: %s", got)
	}
	if exists(filepath.Join(dir, lockName)) {
		t.Error("the refused process made a LOCK")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := takeInChild(t, dir); !strings.HasPrefix(got, "locked") {
		t.Errorf("after Close another process: %s", got)
	}
	if pid, err := Holder(dir, lockName); pid != 0 || err != nil {
		t.Errorf("after Close held by %d, %v", pid, err)
	}
}

// TestHolderThatCannotBeTold is said in words.
func TestHolderThatCannotBeTold(t *testing.T) {
	if got := (&HeldError{Dir: "data"}).Error(); strings.ContainsAny(got, "0123456789") ||
		!strings.Contains(got, "cannot be told") {
		t.Error(got)
	}
}

// TestCheck finds each way in which the path may lead elsewhere.
func TestCheck(t *testing.T) {
	for what, change := range map[string]func(dir string) error{
		"removed":    os.RemoveAll,
		"moved away": func(dir string) error { return os.Rename(dir, dir+".old") },
		"replaced": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".old"), os.CopyFS(dir, os.DirFS(dir+".old")))
		},
		"a file in its place": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600))
		},
		"LOCK removed": func(dir string) error { return os.Remove(filepath.Join(dir, lockName)) },
		"LOCK made again": func(dir string) error {
			path := filepath.Join(dir, lockName)
			return errors.Join(os.Rename(path, path+".old"), os.WriteFile(path, nil, 0o600))
		},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		l := mustTake(t, vfs.Default, dir)
		if err := l.Check(); err != nil {
			t.Errorf("before: %v", err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		wantMoved(t, what, l.Check())
		before, _ := os.ReadDir(dir)
		if err := l.Abandon(); err != nil {
			t.Error(err)
		}
		if after, _ := os.ReadDir(dir); len(after) != len(before) {
			t.Errorf("%s: Abandon removed something of what is there now", what)
		}
	}
	// A link that leads to the directory is as good as its path.
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	l := mustTake(t, vfs.Default, link)
	defer l.Close()
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(link), os.Symlink(t.TempDir(), link)); err != nil {
		t.Fatal(err)
	}
	wantMoved(t, "a link that leads elsewhere", l.Check())
}

// TestAbandonLeavesNoTrace of what Take made, and everything else.
func TestAbandonLeavesNoTrace(t *testing.T) {
	for name, fsys := range map[string]func(dir string) vfs.FS{
		"kernel": func(string) vfs.FS { return vfs.Default },
		"root":   func(dir string) vfs.FS { return rootfs.New(dir) },
	} {
		top := t.TempDir()
		dir := filepath.Join(top, "a", "b")
		if err := mustTake(t, fsys(dir), dir).Abandon(); err != nil {
			t.Fatal(err)
		}
		if exists(filepath.Join(top, "a")) {
			t.Errorf("%s: a directory stays behind", name)
		}
		l := mustTake(t, fsys(dir), dir)
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		err := l.Abandon()
		lock := filepath.Join(dir, lockName)
		if err != nil || !exists(filepath.Join(dir, "x")) || exists(lock) {
			t.Errorf("%s: a directory that is not empty: %v", name, err)
		}
		if err := mustTake(t, fsys(dir), dir).Close(); err != nil {
			t.Fatal(err)
		}
		if err := mustTake(t, fsys(dir), dir).Abandon(); err != nil || !exists(lock) {
			t.Errorf("%s: a LOCK that was there before is gone, %v", name, err)
		}
	}
	mem := vfs.NewMem()
	if err := mustTake(t, mem, "a/b").Abandon(); err != nil {
		t.Fatal(err)
	}
	if names, err := mem.List(""); err != nil || len(names) > 0 {
		t.Errorf("in memory %q stays behind, %v", names, err)
	}
}

// A failed attempt removes what it made, too.
func TestFailedTakeLeavesNoTrace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	fsys := &hookFS{FS: vfs.Default, before: func(string) error { return errors.New("broken") }}
	if _, err := Take(fsys, dir, lockName); err == nil || exists(filepath.Dir(dir)) {
		t.Errorf("%v; it stays behind: %v", err, exists(filepath.Dir(dir)))
	}
}

// hookFS calls before and after when LOCK is opened, and opened when the directory was.
type hookFS struct {
	vfs.FS
	before, after func(path string) error
	opened        func()
	openDir       func(name string) (vfs.File, error)
}

func (f *hookFS) OpenReadWrite(
	name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption,
) (vfs.File, error) {
	if f.before != nil {
		if err := f.before(name); err != nil {
			return nil, err
		}
	}
	file, err := f.FS.OpenReadWrite(name, c, o...)
	if err == nil && f.after != nil {
		err = f.after(name)
	}
	return file, err
}

func (f *hookFS) OpenDir(name string) (vfs.File, error) {
	if f.openDir != nil {
		return f.openDir(name)
	}
	file, err := f.FS.OpenDir(name)
	if err == nil && f.opened != nil && f.PathBase(name) == "data" {
		f.opened()
	}
	return file, err
}

// TestRefusedStartMeetsAnother: a process opens the directory that another one made, which then is
// refused and removes it. The lock on what nothing leads to does not count.
func TestRefusedStartMeetsAnother(t *testing.T) {
	for _, rooted := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "data")
		first := mustTake(t, vfs.Default, dir)
		var fsys vfs.FS = vfs.Default
		if rooted {
			fsys = rootfs.New(dir)
		}
		abandon := sync.OnceFunc(func() {
			if err := first.Abandon(); err != nil {
				t.Error(err)
			}
		})
		second := mustTake(t, &hookFS{FS: fsys, opened: abandon}, dir)
		if err := second.Check(); err != nil {
			t.Errorf("rooted %v: %v", rooted, err)
		}
		_, err := Take(vfs.Default, dir, lockName)
		wantHeld(t, "a third one", err, os.Getpid())
		if err := second.Abandon(); err != nil || exists(dir) {
			t.Errorf("rooted %v: %v, or the directory stays behind", rooted, err)
		}
	}
}

// TestLockReplacedWhileItIsLocked once is tried again; again and again is refused.
func TestLockReplacedWhileItIsLocked(t *testing.T) {
	for times, wantError := range map[int]bool{1: false, 2: true} {
		dir := t.TempDir()
		replaced := 0
		fsys := &hookFS{FS: vfs.Default, after: func(path string) error {
			if replaced++; replaced > times {
				return nil
			}
			return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
		}}
		l, err := Take(fsys, dir, lockName)
		if wantError {
			wantMoved(t, "replaced twice", err)
			continue
		}
		if err != nil || l.Check() != nil {
			t.Fatalf("replaced once: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRacingStarts: of many that take and abandon a directory again and again, one has it at a
// time.
func TestRacingStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "data")
	var holders, taken atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				fsys := rootfs.New(dir)
				l, err := Take(fsys, dir, lockName)
				var held *HeldError
				var moved *MovedError
				switch {
				case err == nil:
					taken.Add(1)
					if n := holders.Add(1); n != 1 {
						t.Errorf("%d have it", n)
					}
					holders.Add(-1)
					err = l.Abandon()
				case errors.As(err, &held), errors.As(err, &moved):
					err = nil
				}
				if err := errors.Join(err, fsys.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if taken.Load() == 0 {
		t.Error("none ever had it")
	}
}
