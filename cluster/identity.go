package cluster

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/cluster/embed"
	"rollcall/internal/dirsync"
)

// markerFile says whose logs a data directory has.
const markerFile = "cluster.json"

// marker is the contents of markerFile.
type marker struct {
	Format int    `json:"format"`
	Node   string `json:"node"`
	ID     string `json:"id"` // of this directory, random
	// Cluster is what the cluster was made with, that the node belongs to; none: it is being made.
	Cluster map[string]string `json:"cluster,omitempty"`
	Nodes   map[string]string `json:"nodes,omitempty"` // the ids of all nodes that were met
}

const markerFormat = 1

// ErrKnownNode says that the cluster knows another data directory by the name of this node. To
// start with an empty one would lose what the others believe that this node has.
var ErrKnownNode = errors.New("cluster: the cluster knows a node of this name with other data")

// ErrNoLogs says that a data directory has the marker of a node, and its logs are gone.
var ErrNoLogs = errors.New("cluster: the logs of this node are gone")

// identity is who this node is, on its disk. Any goroutine may call its methods.
type identity struct {
	path   string
	logger *slog.Logger
	found  bool // it was there at the start

	mu sync.Mutex
	m  marker // guarded by mu
}

// openIdentity reads the marker of a directory, or makes a new one, which is not written yet.
func openIdentity(dir, node string, logger *slog.Logger) (*identity, error) {
	i := &identity{path: filepath.Join(dir, markerFile), logger: logger}
	text, err := os.ReadFile(i.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		i.m = marker{Format: markerFormat, Node: node, ID: rand.Text(), Nodes: map[string]string{}}
		return i, nil
	case err != nil:
		return nil, fmt.Errorf("cluster: %w", err)
	}
	i.found = true
	if err := json.Unmarshal(text, &i.m); err != nil {
		return nil, fmt.Errorf("cluster: %s cannot be read: %w", i.path, err)
	}
	if i.m.Nodes == nil {
		i.m.Nodes = map[string]string{}
	}
	switch {
	case i.m.Format != markerFormat:
		return nil, fmt.Errorf("cluster: %s has format %d, this program reads %d", i.path,
			i.m.Format, markerFormat)
	case i.m.Node != node:
		return nil, fmt.Errorf("cluster: option Node is %q: the data directory is that of %q", node,
			i.m.Node)
	}
	return i, nil
}

// get returns the marker without the nodes that were met.
func (i *identity) get() marker {
	i.mu.Lock()
	defer i.mu.Unlock()
	m := i.m
	m.Nodes = nil
	return m
}

// known is the id of a node that was met; "": it was not.
func (i *identity) known(node string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if node == i.m.Node {
		return i.m.ID
	}
	return i.m.Nodes[node]
}

// named returns the name of a node that a log server names, see embed.Named.
func (i *identity) named(shown string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return embed.Named(shown, slices.Collect(maps.Keys(i.m.Nodes)))
}

// maxMet bounds the nodes that a marker names.
const maxMet = 1024

// met notes a node: its first id is its id for ever.
func (i *identity) met(node, id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if node == i.m.Node || id == "" || i.m.Nodes[node] != "" || len(i.m.Nodes) >= maxMet {
		return
	}
	i.m.Nodes[node] = id
	if err := i.saveLocked(); err != nil {
		i.logger.Warn("the marker of the data directory could not be written", "err", err)
	}
}

// change changes the marker and writes it.
func (i *identity) change(fn func(m *marker)) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	fn(&i.m)
	return i.saveLocked()
}

// saveLocked replaces the file, which is whole whatever happens.
func (i *identity) saveLocked() error {
	text, err := json.MarshalIndent(i.m, "", "  ")
	if err != nil {
		panic("bug: a marker is not JSON: " + err.Error())
	}
	fresh := i.path + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cluster: write the marker: %w", err)
	}
	if err := os.Rename(fresh, i.path); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return dirsync.Sync(vfs.Default, filepath.Dir(i.path))
}
