package broadcast

import (
	"testing"
	"unsafe"
)

// TestSizes pins what there is one of for each stream, user and queued event: an idle stream costs
// the stream and the user, one or two cells of the index, an item of the ring, and its socket.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		what      string
		got, want uintptr
	}{
		{"stream", unsafe.Sizeof(stream{}), 96},
		{"follow, inside it", unsafe.Sizeof(follow{}), 24},
		{"follow of a list stream", unsafe.Sizeof(listFollow{}), 12},
		{"user of list streams", unsafe.Sizeof(listUser{}), 20},
		{"entry of the journal", unsafe.Sizeof(entry{}), entryBytes},
		{"user", unsafe.Sizeof(user{}), 64},
		{"piece of the ring", unsafe.Sizeof(ringPiece{}), 512},
		{"event", unsafe.Sizeof(event{}), eventBytes},
	} {
		if c.got != c.want {
			t.Errorf("a %s takes %d bytes, not %d", c.what, c.got, c.want)
		}
	}
}
