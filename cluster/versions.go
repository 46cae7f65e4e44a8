package cluster

import "slices"

// formats are the versions of the logs' messages, and of what nodes send to each other, that this
// program reads. Each such message begins with its format, and a reader refuses one that is not its
// own, whole.
//
// A version that adds a format reads it before any writes it: first all nodes are updated, one
// after the other, and only then the new format is written, see directory.allRead. So nodes of two
// versions understand each other, and the way back is open until then.
var formats = []int{1}

// allRead reports whether every member reads a format, by its last pulse. One that was not heard
// since this node began may come back with an older program, so it says no.
func (d *directory) allRead(format int, members []string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, name := range members {
		p := d.nodes[name]
		if p == nil || !slices.Contains(p.Formats, format) {
			return false
		}
	}
	return len(members) > 0
}
