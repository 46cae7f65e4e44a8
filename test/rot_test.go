package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rollcall/internal/testwait"
)

// TestDamagedCopies: bytes change on the disk of one node, in its copy of every log. Whether the
// node notices, as after a crash, or does not, as after a stop in order: nothing that was
// acknowledged is missing when it owns partitions again. What it notices an operator is told, and
// the copies are made whole.
func TestDamagedCopies(t *testing.T) {
	if testing.Short() {
		t.Skip("drives the built binary only")
	}
	n := newNodes(t, nil)
	n.start()
	first := n.rigs[0]
	var sent []beat
	beats := func() {
		t.Helper()
		for i := range 60 {
			b := newBeat()
			n.mustBeat(1+i%2, b)
			sent = append(sent, b)
		}
	}
	lead := func() { // and serve what was acknowledged
		t.Helper()
		for _, r := range n.rigs[1:] {
			r.terminate()
			testwait.Until(t, "two nodes own everything", func() bool {
				return len(first.owners()) == n.partitions
			})
			n.serveAll(sent)
			r.start()
			n.well()
		}
		owns := 0
		for _, owner := range first.owners() {
			if owner == n.names[0] {
				owns++
			}
		}
		if owns == 0 {
			t.Fatalf("the node of the damaged copies owns nothing\n%s", n.logs())
		}
	}

	beats()
	first.terminate()
	n.flipCopies(first)
	first.start()
	n.well()
	lead()

	beats()
	first.kill()
	n.flipCopies(first)
	from := len(first.logs())
	first.start()
	first.until("the damage is noticed and the copies are made whole", func() bool {
		said := first.logs()[from:]
		noticed := strings.Count(said, "on this node's disk was damaged")
		return noticed > 0 && strings.Count(said, "on this node's disk is whole again") == noticed
	})
	n.well()
	lead()
}

// well waits until all is well in the eyes of every node.
func (n *nodeSet) well() {
	n.t.Helper()
	testwait.Until(n.t, "all is well", func() bool {
		for i := range n.rigs {
			if _, code := n.askStatus(i); code != 0 {
				return false
			}
		}
		return n.whole()
	})
}

// serveAll checks through the first node that each heartbeat was kept: it is refused when it comes
// again.
func (n *nodeSet) serveAll(sent []beat) {
	n.t.Helper()
	for _, b := range sent {
		var a answer
		testwait.Until(n.t, "a heartbeat is answered", func() bool {
			a = n.rigs[0].beat(b)
			return a.status != 503
		})
		if a.status != 409 || !strings.Contains(a.body, fmt.Sprintf(`"last_seq":%v`, b["seq"])) {
			n.t.Fatalf("what was acknowledged is gone: %d %s\n%s", a.status, a.body, n.logs())
		}
	}
}

// flipCopies changes a bit in the middle of each file of a stopped node's copies of the logs.
func (n *nodeSet) flipCopies(r *rig) {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "js/jetstream/$G/streams/P*/msgs/*.blk"))
	if err != nil || len(files) < n.partitions {
		n.t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil || len(data) == 0 {
			n.t.Fatalf("%s: %d bytes, %v", name, len(data), err)
		}
		data[len(data)/2] ^= 0x10
		if err := os.WriteFile(name, data, 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
}
