package engine

import (
	"errors"
	"fmt"
	"testing"

	"rollcall/engine/table"
)

func TestSourcesSweep(t *testing.T) {
	tab := table.New(table.Options{Shards: 1})
	defer tab.Close()
	s := newSources()
	keep := newHeartbeat(1, 1)
	_, entry, err := tab.FindOrInsert(keep.User, keep.Device)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := s.intern([]byte("kept"), tab, 1)
	if err != nil {
		t.Fatal(err)
	}
	entry.Claim(keep.User, keep.Device)
	entry.Commit(&table.State{LSN: 1, Source: kept})
	s.unpin(kept)
	pinned, err := s.intern([]byte("pinned"), tab, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		id, err := s.intern(fmt.Appendf(nil, "source %d", i), tab, 1)
		if err != nil {
			t.Fatal(err)
		}
		s.unpin(id)
		if s.used == maxSources {
			break
		}
	}
	again, err := s.intern([]byte("kept"), tab, 1)
	if err != nil || again != kept {
		t.Errorf("a full table forgets a known source: %d, %v", again, err)
	}
	if id, err := s.intern([]byte("one more"), tab, 2); err != nil || id == kept || id == pinned {
		t.Errorf("after a sweep: id %d, %v", id, err)
	}
	if s.name(kept) != "kept" || s.name(pinned) != "pinned" {
		t.Errorf("the sweep took a source in use: %q %q", s.name(kept), s.name(pinned))
	}
}

func TestSourcesFull(t *testing.T) {
	tab := table.New(table.Options{Shards: 1})
	defer tab.Close()
	s := newSources()
	for i := range maxSources { // all stay pinned
		if _, err := s.intern(fmt.Appendf(nil, "source %d", i), tab, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.intern([]byte("one more"), tab, 2); !errors.Is(err, errSourcesFull) {
		t.Errorf("error %v", err)
	}
}
