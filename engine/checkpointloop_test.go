package engine

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"rollcall/internal/testwait"
)

// memStore is a Store that keeps nothing but its LSN.
type memStore struct {
	lsn, commits atomic.Uint64
	full         atomic.Bool   // Room refuses
	replacing    chan struct{} // nil, or where Replace waits: for a reader, then for a writer
}

var errStoreFull = errors.New("memStore: full")

func (s *memStore) LSN() uint64                                       { return s.lsn.Load() }
func (s *memStore) Start() error                                      { return nil }
func (s *memStore) Secret(fresh func() []byte) ([]byte, error)        { return fresh(), nil }
func (s *memStore) Load(_, _ []byte, _ func(k, v []byte) error) error { return nil }

func (s *memStore) Room(int64) error {
	if s.full.Load() {
		return errStoreFull
	}
	return nil
}

func (s *memStore) Replace(_, _ []byte, items func(yield func(key, value []byte) bool)) error {
	if s.replacing != nil {
		s.replacing <- struct{}{}
		<-s.replacing
	}
	items(func(_, _ []byte) bool { return true })
	return nil
}

func (s *memStore) Install() error { return nil }
func (s *memStore) Discard() error { return nil }

func (s *memStore) SetClock(uint64) error  { return nil }
func (s *memStore) Clock() (uint64, error) { return 0, nil }

func (s *memStore) SetEpochs([]byte) error     { return nil }
func (s *memStore) Epochs() ([]byte, error)    { return nil, nil }
func (s *memStore) SetForgotten([]byte) error  { return nil }
func (s *memStore) InLog() bool                { return false }
func (s *memStore) Forgotten() ([]byte, error) { return nil, nil }

// Commit counts before it shows the LSN: a test that sees the LSN sees the commit counted.
func (s *memStore) Commit(lsn uint64) error {
	s.commits.Add(1)
	s.lsn.Store(lsn)
	return nil
}

// startWithStore starts an engine with all of its loops.
func startWithStore(t *testing.T, store *memStore, o Options) *rig {
	t.Helper()
	o.Store = store
	r := newRig(t, newMemLog(), o)
	r.checkpoints.rangeDevices = 1
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.shut)
	return r
}

// TestCheckpointWhenTheLogHasGrown, as often as it has.
func TestCheckpointWhenTheLogHasGrown(t *testing.T) {
	store := &memStore{}
	r := startWithStore(t, store, Options{CheckpointBytes: 1000, CheckpointEvery: time.Hour})
	hb := newHeartbeat(0, 60_000)
	for checkpoints := range uint64(3) {
		for range 20 {
			hb.Seq++
			r.mustAccept(hb)
		}
		testwait.Until(t, "a checkpoint is taken",
			func() bool { return store.commits.Load() > checkpoints })
	}
	if s := r.Stats(); s.CheckpointFailures != 0 || s.CheckpointTook <= 0 {
		t.Errorf("%+v", s)
	}
}

// TestCheckpointAfterTime, once anything was appended.
func TestCheckpointAfterTime(t *testing.T) {
	store := &memStore{}
	r := startWithStore(t, store, Options{CheckpointEvery: time.Millisecond})
	hb := newHeartbeat(0, 60_000)
	for hb.Seq < 3 {
		testwait.Until(t, "a checkpoint is overdue", r.checkpoints.overdue.Load)
		if n := store.commits.Load(); n != hb.Seq {
			t.Fatalf("%d checkpoints after %d heartbeats", n, hb.Seq)
		}
		hb.Seq++
		r.mustAccept(hb)
		testwait.Until(t, "it is taken", func() bool { return store.lsn.Load() == hb.Seq })
	}
}

// TestCheckpointIsTriedAgain after a failure, which is counted.
func TestCheckpointIsTriedAgain(t *testing.T) {
	store := &memStore{}
	store.full.Store(true)
	r := startWithStore(t, store, Options{CheckpointEvery: time.Millisecond})
	r.mustAccept(newHeartbeat(1, 60_000))
	testwait.Until(t, "two fail", func() bool { return r.Stats().CheckpointFailures >= 2 })
	if store.commits.Load() != 0 {
		t.Error("one succeeded")
	}
	store.full.Store(false)
	testwait.Until(t, "one succeeds", func() bool { return store.lsn.Load() == 1 })
}

// TestCheckpointStops between two ranges when the engine drains.
func TestCheckpointStops(t *testing.T) {
	store := &memStore{replacing: make(chan struct{})}
	r := startWithStore(t, store, Options{CheckpointEvery: time.Hour, CheckpointBytes: 1000})
	for range 20 {
		r.mustAccept(newHeartbeat(1, 60_000))
	}
	testwait.For(t, "a range is written", store.replacing)
	drained := make(chan error, 1)
	go func() { drained <- r.Drain(t.Context(), 0) }()
	testwait.For(t, "the loops are told to stop", r.stop)
	store.replacing <- struct{}{}
	if err := testwait.For(t, "the engine has drained", drained); err != nil {
		t.Error(err)
	}
	if store.commits.Load() != 0 {
		t.Error("the checkpoint was committed")
	}
}
