package faultfs

import (
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// GuardLinks returns fs with a Link that holds mu, as a caller of CrashClone must: MemFS.Link of
// Pebble 2.1 takes its lock for reading twice, and one that waits to write in between, as
// CrashClone does, stops both for ever.
func GuardLinks(fs *vfs.MemFS, mu *sync.Mutex) vfs.FS { return linkFS{fs, mu} }

type linkFS struct {
	vfs.FS
	mu *sync.Mutex
}

func (f linkFS) Link(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.FS.Link(from, to)
}
