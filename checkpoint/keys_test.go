package checkpoint

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestKeys counts what Load yields, of several ranges and after a replacement, and the few of the
// store's own.
func TestKeys(t *testing.T) {
	s := openStore(t, vfs.NewMem())
	defer s.Close()
	own, err := s.Keys()
	if err != nil || own > 3 {
		t.Fatalf("an empty store has %d keys, %v", own, err)
	}
	replace(t, s, "a", "b", "a1", "1", "a2", "2")
	replace(t, s, "b", "c", "b1", "1", "b2", "2", "b3", "3")
	replace(t, s, "a", "b", "a3", "3")
	install(t, s)
	if n, err := s.Keys(); err != nil || n != own+4 {
		t.Errorf("%d keys, %v, want %d and 4", n, err, own)
	}
}
