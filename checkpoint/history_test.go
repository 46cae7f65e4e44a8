package checkpoint

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What the owner keeps of its history is durable when it is set, is no part of the checkpoint, and
// goes along with a copy.
func TestHistoryIsKept(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := openStore(t, fs)
	defer s.Close()
	check := func(s *Store, epochs, forgotten []byte) {
		t.Helper()
		e, err := s.Epochs()
		f, err2 := s.Forgotten()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(e, epochs) || !bytes.Equal(f, forgotten) ||
			(e == nil) != (epochs == nil) || (f == nil) != (forgotten == nil) {
			t.Errorf("epochs %q, forgotten %q, want %q, %q", e, f, epochs, forgotten)
		}
	}
	copyOf := func(s *Store) *Store {
		t.Helper()
		c, err := Open("copy", Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			err = c.CopyFrom(s, func(_, _ []byte) {})
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	check(s, nil, nil)
	check(copyOf(s), nil, nil)
	for _, list := range []string{"first", "second"} {
		if err := s.SetEpochs([]byte(list)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetForgotten([]byte("gone")); err != nil {
		t.Fatal(err)
	}
	replace(t, s, "", "", "k", "v")
	install(t, s)
	crashed := openStore(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	defer crashed.Close()
	for _, s := range []*Store{s, crashed, copyOf(crashed)} {
		check(s, []byte("second"), []byte("gone"))
		if s.LSN() != 0 {
			t.Errorf("as of %d", s.LSN())
		}
		want(t, s, "k", "v")
	}
}
