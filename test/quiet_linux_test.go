package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mostWakes is how often the threads of a server with nothing to do may wake in a second. It is
// some 65 times; every timer of its own phase costs four to six more each time.
const mostWakes = 95

// TestQuietServerSleeps: a server whose devices neither beat nor expire wakes seldom. The quietest
// of some seconds counts, since the collector works now and then.
func TestQuietServerSleeps(t *testing.T) {
	r := startServer(t)
	for range 20 {
		r.mustBeat(newBeat().with("ttl_ms", 1_000_000))
	}
	fewest := int64(1 << 62)
	for range 20 {
		before, began := r.sleeps(), time.Now()
		time.Sleep(time.Second)
		n := (r.sleeps() - before) * int64(time.Second) / int64(time.Since(began))
		if fewest = min(fewest, n); fewest <= mostWakes {
			t.Logf("its threads wake %d times a second", fewest)
			return
		}
	}
	t.Errorf("its threads wake %d times a second at least, want %d at most", fewest, mostWakes)
}

// sleeps is how often the server's threads have gone to sleep until now.
func (r *rig) sleeps() (n int64) {
	r.t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", r.proc.Cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		r.t.Fatal("no threads: ", err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if os.IsNotExist(err) {
			continue // the thread has ended
		}
		_, rest, found := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		var of int64
		if _, scan := fmt.Sscan(rest, &of); err != nil || !found || scan != nil {
			r.t.Fatal(task, err, scan)
		}
		n += of
	}
	return n
}
