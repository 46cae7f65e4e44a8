package faultfs

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Gate makes a file system hang, as one that is frozen for a snapshot does: while it is shut each
// operation that writes waits before it has done anything, for as long as it takes. The zero value
// is open. Any number of goroutines may use it.
type Gate struct {
	// Holds says which operations wait; nil: all that write or sync.
	Holds func(op errorfs.Op) bool

	mu     sync.Mutex
	opened chan struct{} // guarded by mu: closed by Open; nil: the gate is open
	held   int           // guarded by mu: operations that wait
}

// Wrap returns fs behind the gate.
func (g *Gate) Wrap(fs vfs.FS) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if g.holds(op) {
			g.pass()
		}
		return nil
	}))
}

// Syncs is a Holds: only syncs hang, while writes go to the operating system's cache.
func Syncs(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return true
	}
	return false
}

func (g *Gate) holds(op errorfs.Op) bool {
	if g.Holds != nil {
		return g.Holds(op)
	}
	return Syncs(op) || op.Kind.ReadOrWrite() == errorfs.OpIsWrite
}

func (g *Gate) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.opened != nil {
		opened := g.opened
		g.held++
		g.mu.Unlock()
		<-opened
		g.mu.Lock()
		g.held--
	}
}

// Shut makes operations wait from now on.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
}

// Open lets every operation go on.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// Held is how many operations wait.
func (g *Gate) Held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}
