package feed_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"rollcall/checkpoint"
	"rollcall/feed"
	"rollcall/internal/testlog"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
	"rollcall/wal"
)

var (
	_ feed.Log   = (*wal.Reader)(nil)
	_ feed.Store = (*checkpoint.Store)(nil)
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// segmentBytes is the size of the largest segment in these tests.
const segmentBytes = 16 << 10

// rig is a log and a store over one file system, with a feed of the log.
type rig struct {
	t      testing.TB
	log    *wal.Log
	store  *checkpoint.Store
	reader *wal.Reader
	feed   *feed.Feed
	truth  *truth
}

// setup says how a rig is made. The zero value works.
type setup struct {
	fs    vfs.FS // default: in memory
	sync  wal.SyncMode
	keep  int64                       // default: plenty
	store func(feed.Store) feed.Store // wraps the store; default: as it is
	truth *truth                      // of the lives before; default: none
	every time.Duration               // default: 1ns, so that each Read saves
	log   *slog.Logger
}

func start(t testing.TB, s setup) *rig {
	t.Helper()
	if s.fs == nil {
		s.fs = vfs.NewMem()
	}
	if s.keep == 0 {
		s.keep = 1 << 30
	}
	if s.truth == nil {
		s.truth = &truth{records: map[uint64]string{}}
	}
	if s.every == 0 {
		s.every = 1
	}
	if s.log == nil {
		s.log = quiet
	}
	r := &rig{t: t, truth: s.truth}
	var err error
	r.log, err = wal.Open("data", wal.Options{
		FS: s.fs, Sync: s.sync, SyncInterval: time.Millisecond,
		BufferBytes: segmentBytes / 4, SegmentBytes: segmentBytes, Logger: quiet,
	})
	r.must(err)
	r.store, err = checkpoint.Open("data/checkpoint", checkpoint.Options{FS: s.fs, Logger: quiet})
	r.must(err)
	r.must(r.store.Start())
	var store feed.Store = r.store
	if s.store != nil {
		store = s.store(store)
	}
	r.reader = r.log.NewReader(0, s.keep)
	r.feed, err = feed.Open(feed.Options{
		Name: "test", Log: r.reader, Store: store, SaveEvery: s.every, BatchBytes: 2000,
		Logger: s.log,
	})
	r.must(err)
	r.must(s.truth.replay(r.log))
	r.must(r.log.Start(s.truth.committed))
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) close() {
	r.t.Helper()
	r.must(errors.Join(r.feed.Close(), r.reader.Close(), r.store.Close(), r.log.Close()))
}

// add commits n records of some size.
func (r *rig) add(n, size int) (last uint64) {
	r.t.Helper()
	for range n {
		record := make([]byte, size)
		binary.LittleEndian.PutUint64(record, rand.Uint64())
		r.must(r.log.Reserve(size, time.Minute))
		last = r.log.Append(record, 0)
	}
	r.must(r.log.Wait(last))
	return last
}

// read delivers what one Read gives.
func (r *rig) read() (lsns []uint64, err error) {
	err = r.feed.Read(r.t.Context(), func(lsn uint64, _ []byte) error {
		lsns = append(lsns, lsn)
		return nil
	})
	return lsns, err
}

// readThrough reads and is done with everything up to an LSN, which is there.
func (r *rig) readThrough(lsn uint64) {
	r.t.Helper()
	for r.feed.Stats().Next <= lsn {
		_, err := r.read()
		r.must(err)
		r.feed.Done(r.feed.Stats().Next - 1)
	}
}

// truth is what the log holds or held at each LSN, by replay and by the commit loop.
type truth struct {
	mu      sync.Mutex
	records map[uint64]string
}

func (h *truth) committed(first, _ uint64, records iter.Seq[[]byte], _ int64, _ time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for record := range records {
		h.records[first] = string(record)
		first++
	}
}

// replay takes over what a crash left: no record beyond the end of the log ever was.
func (h *truth) replay(l *wal.Log) error {
	next := max(l.First(), 1)
	if err := l.Replay(next-1, func(lsn uint64, record []byte) error {
		h.records[lsn] = string(record)
		next = lsn + 1
		return nil
	}); err != nil {
		return err
	}
	for lsn := range h.records {
		if lsn >= next {
			delete(h.records, lsn)
		}
	}
	return nil
}

// TestLives kills a log and its feed at random moments, while records are appended, checkpoints
// truncate the log and files are recycled. In each life the feed goes on behind its saved cursor
// and delivers in order (F1), nothing that the log did not commit. In the end every record was
// delivered as it is in the log: also those whose LSNs belonged to other records before a crash, in
// the modes in which that may be (F3).
func TestLives(t *testing.T) {
	for _, mode := range []wal.SyncMode{wal.SyncAlways, wal.SyncInterval, wal.SyncNever} {
		t.Run(mode.String(), func(t *testing.T) {
			rng := testseed.Rand(t)
			fs, history := vfs.NewCrashableMem(), &truth{records: map[uint64]string{}}
			delivered := map[uint64]string{}
			again := 0
			for range 6 {
				l := live(t, setup{fs: fs, sync: mode, truth: history}, rng)
				fs = l.consumeUntilCrash(fs)
				l.stop()
				again += l.check(delivered)
			}
			r := start(t, setup{fs: fs, sync: mode, truth: history})
			defer r.close()
			last := r.log.Committed()
			for r.feed.Stats().Next <= last {
				r.must(r.feed.Read(t.Context(), func(lsn uint64, record []byte) error {
					delivered[lsn] = string(record)
					return nil
				}))
			}
			for lsn := uint64(1); lsn <= last; lsn++ {
				if record, ok := delivered[lsn]; !ok || record != history.records[lsn] {
					t.Fatalf("record %d was not delivered as it is; another one there: %v", lsn, ok)
				}
			}
			if last < 500 || again == 0 {
				t.Errorf("%d records, %d of them delivered again: too few to show anything", last, again)
			}
		})
	}
}

// life is a rig in use.
type life struct {
	*rig
	rng       *rand.Rand
	from      uint64
	stopped   atomic.Bool
	work      sync.WaitGroup
	delivered []string // from the LSN from on
}

func live(t *testing.T, s setup, rng *rand.Rand) *life {
	l := &life{rig: start(t, s), rng: rng}
	l.from = l.feed.Stats().Next
	for range 3 {
		l.work.Go(l.append)
	}
	l.work.Go(l.truncate)
	return l
}

func (l *life) append() {
	for n := uint64(0); !l.stopped.Load(); n++ {
		record := binary.LittleEndian.AppendUint64(nil, rand.Uint64())
		record = append(record, make([]byte, n%400)...)
		if l.log.Reserve(len(record), time.Minute) != nil ||
			l.log.Wait(l.log.Append(record, 0)) != nil {
			return
		}
	}
}

// truncate does what checkpoints do, as often as it can.
func (l *life) truncate() {
	for !l.stopped.Load() {
		through := l.log.Appended()
		if l.log.Sync(through) != nil {
			return
		}
		if err := l.log.TruncateBefore(through + 1); err != nil {
			l.t.Error(err)
			return
		}
	}
}

// consumeUntilCrash reads a random number of records, is done with them some time later, and
// returns what a crash in between two Reads leaves on the disk.
func (l *life) consumeUntilCrash(fs *vfs.MemFS) *vfs.MemFS {
	l.t.Helper()
	for want := 200 + l.rng.IntN(800); len(l.delivered) < want; {
		l.must(l.feed.Read(l.t.Context(), func(lsn uint64, record []byte) error {
			if l.from = max(l.from, 1); lsn != l.from+uint64(len(l.delivered)) {
				return fmt.Errorf("record %d after %d records from %d", lsn, len(l.delivered), l.from)
			}
			l.delivered = append(l.delivered, string(record))
			return nil
		}))
		if next := l.feed.Stats().Next; l.rng.IntN(2) == 0 {
			l.feed.Done(next - 1 - uint64(l.rng.IntN(min(20, len(l.delivered)))))
		}
	}
	return fs.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: l.rng.IntN(101), RNG: rand.New(rand.NewPCG(l.rng.Uint64(), 0)),
	})
}

// stop ends the life, after its crash.
func (l *life) stop() {
	l.t.Helper()
	l.stopped.Store(true)
	l.work.Wait()
	l.must(errors.Join(l.reader.Close(), l.store.Close(), l.log.Close()))
}

// check compares what was delivered with what was committed. It returns how many records were
// delivered before.
func (l *life) check(delivered map[uint64]string) (again int) {
	l.t.Helper()
	for i, record := range l.delivered {
		lsn := l.from + uint64(i)
		if l.truth.records[lsn] != record {
			l.t.Fatalf("record %d was delivered, but the log committed another one there", lsn)
		}
		if _, before := delivered[lsn]; before {
			again++
		}
		delivered[lsn] = record
	}
	return again
}

// The log keeps what the feed needs, over a restart, and gives it back when the cursor moves (F4).
func TestTruncationWaitsForTheCursor(t *testing.T) {
	fs := vfs.NewCrashableMem()
	r := start(t, setup{fs: fs})
	r.readThrough(r.add(5, 100))
	_, err := r.read0() // saves the cursor
	r.must(err)
	last := r.add(300, 1000)
	r.must(r.log.TruncateBefore(last + 1))
	if first := r.log.First(); first > 6 {
		t.Fatalf("the cursor is at record 5, but the log begins with record %d", first)
	}
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	r.close()

	r = start(t, setup{fs: crashed})
	defer r.close()
	if s := r.feed.Stats(); s.Cursor != 5 || s.Next != 6 {
		t.Fatalf("after a restart: %+v", s)
	}
	r.must(r.log.TruncateBefore(last + 1))
	if first := r.log.First(); first > 6 {
		t.Fatalf("after a restart the log begins with record %d", first)
	}
	r.readThrough(last)
	_, err = r.read0()
	r.must(err)
	if first := r.log.First(); first < last-50 {
		t.Errorf("the cursor is at record %d, but the log still begins with record %d", last, first)
	}
}

// What a crash takes off the end of a log in the other sync modes, no cursor has seen (F3): the
// LSNs there may be given to other records.
func TestCursorIsNotAheadOfTheDisk(t *testing.T) {
	fs := vfs.NewCrashableMem()
	r := start(t, setup{fs: fs, sync: wal.SyncNever})
	last := r.add(20, 100)
	r.must(r.reader.Wait(t.Context(), last))
	r.readThrough(last)
	_, err := r.read0()
	r.must(err)
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	r.close()
	r = start(t, setup{fs: crashed, sync: wal.SyncNever})
	defer r.close()
	if s := r.feed.Stats(); s.Cursor != last || r.log.Committed() < s.Cursor {
		t.Errorf("the cursor is at record %d, the log ends with %d", s.Cursor, r.log.Committed())
	}
}

// read0 is a Read that ends because there is nothing to read; it saves the cursor.
func (r *rig) read0() (lsns []uint64, err error) {
	ctx, cancel := context.WithCancel(r.t.Context())
	cancel()
	err = r.feed.Read(ctx, func(lsn uint64, _ []byte) error {
		lsns = append(lsns, lsn)
		return nil
	})
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return lsns, err
}

// A feed that falls behind its bound is told the gap before anything else is delivered, also by a
// restart as long as it is not done with it (F2), and the log keeps no more than the bound (F5).
func TestGap(t *testing.T) {
	const keep = 4 * segmentBytes
	fs := vfs.NewCrashableMem()
	r := start(t, setup{fs: fs, keep: keep})
	r.readThrough(r.add(5, 100))
	var last uint64
	for range 20 {
		last = r.add(50, 1000)
		r.must(r.log.TruncateBefore(last + 1))
		// Beside what is kept there is the current segment, and the one that the cut is in.
		if n := int64(r.log.Stats().Segments) * segmentBytes; n > keep+2*segmentBytes {
			t.Fatalf("the log keeps %d bytes", n)
		}
	}
	gap := func() feed.GapError {
		t.Helper()
		lsns, err := r.read()
		var gap *feed.GapError
		if !errors.As(err, &gap) || len(lsns) > 0 || gap.From != 6 || gap.To != r.log.First()-1 {
			t.Fatalf("%v delivered, %v; the log begins with record %d", lsns, err, r.log.First())
		}
		if want := fmt.Sprintf("records 6 to %d are gone", gap.To); !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
		return *gap
	}
	gap()
	_, err := r.read()
	r.must(err)
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	r.close()

	r = start(t, setup{fs: crashed, keep: keep})
	defer r.close()
	g := gap()
	lsns, err := r.read()
	if err != nil || len(lsns) == 0 || lsns[0] != g.To+1 {
		t.Fatalf("behind the gap to %d: %v, %v", g.To, lsns, err)
	}
	r.feed.Done(g.To)
	if s := r.feed.Stats(); s.Gaps != g.To-g.From+1 || s.Done != g.To {
		t.Errorf("%+v", s)
	}
	r.readThrough(last)
}

// Records that go away in between two looks are a gap like any other (F2), while appends,
// truncation and recycling go on.
func TestGapsUnderLoad(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"memory": vfs.NewMem(), "disk": vfs.Default} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			l := live(t, setup{fs: fs, keep: 2 * segmentBytes}, testseed.Rand(t))
			next, gaps := uint64(1), 0
			delivered := map[uint64]string{}
			for n, pause := 0, 300; n < 1500 || gaps < 3; {
				err := l.feed.Read(t.Context(), func(lsn uint64, record []byte) error {
					if lsn != next {
						return fmt.Errorf("record %d, not %d", lsn, next)
					}
					delivered[lsn] = string(record)
					next++
					n++
					return nil
				})
				var gap *feed.GapError
				if errors.As(err, &gap) && gap.From == next {
					gaps++
					next = gap.To + 1
				} else if err != nil {
					t.Fatal(err)
				}
				l.feed.Done(next - 1)
				if behind := l.log.Committed(); n > pause { // falls behind
					pause = n + 300
					testwait.Until(t, "the log goes on", func() bool {
						return l.log.Committed() > behind+250
					})
				}
			}
			l.must(l.feed.Close())
			l.stop()
			for lsn, record := range delivered {
				if l.truth.records[lsn] != record {
					t.Fatalf("record %d is not what was committed", lsn)
				}
			}
		})
	}
}

// A record that the consumer refuses comes again, first (F1).
func TestRefusedRecord(t *testing.T) {
	r := start(t, setup{})
	defer r.close()
	r.add(3, 10)
	refused := errors.New("not now")
	var got []uint64
	fn := func(lsn uint64, _ []byte) error {
		got = append(got, lsn)
		if lsn == 2 && len(got) < 3 {
			return refused
		}
		return nil
	}
	if err := r.feed.Read(t.Context(), fn); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	r.must(r.feed.Read(t.Context(), fn))
	if fmt.Sprint(got) != "[1 2 2 3]" {
		t.Errorf("delivered %v", got)
	}
}

// Read waits for a commit, for its context, and for the end of the log.
func TestReadWaits(t *testing.T) {
	r := start(t, setup{})
	got := make(chan uint64, 1)
	ended := make(chan error, 1)
	go func() {
		err := r.feed.Read(t.Context(), func(lsn uint64, _ []byte) error { got <- lsn; return nil })
		if err == nil {
			_, err = r.read()
		}
		ended <- err
	}()
	r.add(1, 10)
	if lsn := testwait.For(t, "the record is delivered", got); lsn != 1 {
		t.Errorf("record %d", lsn)
	}
	r.must(r.log.Close())
	if err := testwait.For(t, "Read returns", ended); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("after Close of the log: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.feed.Read(ctx, nil); !errors.Is(err, wal.ErrClosed) {
		t.Errorf("Read of a closed log: %v", err)
	}
	r.must(errors.Join(r.reader.Close(), r.store.Close()))
}

// failingStore cannot save while it is full.
type failingStore struct {
	feed.Store
	full  atomic.Bool
	saves atomic.Int64
}

func (s *failingStore) SetCursor(name string, lsn uint64) error {
	if s.full.Load() {
		return errors.New("no room")
	}
	s.saves.Add(1)
	return s.Store.SetCursor(name, lsn)
}

// A store that cannot save is no failure of the feed: it is logged once, and the cursor follows
// later. The mark stays with the saved cursor (F4).
func TestStoreFails(t *testing.T) {
	store := &failingStore{}
	var out testlog.Output
	r := start(t, setup{
		log:   out.Logger(),
		store: func(s feed.Store) feed.Store { store.Store = s; return store },
	})
	defer r.close()
	r.readThrough(r.add(5, 1000))
	_, err := r.read0()
	r.must(err)
	store.full.Store(true)
	last := r.add(100, 1000)
	r.readThrough(last)
	r.must(r.log.TruncateBefore(last + 1))
	if s := r.feed.Stats(); s.Cursor != 5 || s.Done != last || r.log.First() > 6 {
		t.Errorf("%+v, the log begins with record %d", s, r.log.First())
	}
	store.full.Store(false)
	_, err = r.read0()
	r.must(err)
	if s := r.feed.Stats(); s.Cursor != last {
		t.Errorf("there is room again: %+v", s)
	}
	if n := strings.Count(out.String(), "WARN"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
}

// A Done that comes while Read waits is saved soon, without another record.
func TestDoneIsSavedWhileReadWaits(t *testing.T) {
	r := start(t, setup{every: time.Millisecond})
	last := r.add(3, 10)
	_, err := r.read()
	r.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.feed.Read(ctx, func(uint64, []byte) error { return nil }) }()
	r.feed.Done(last)
	testwait.Until(t, "the cursor is saved", func() bool { return r.feed.Stats().Cursor == last })
	cancel()
	if err := testwait.For(t, "Read returns", ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r.close()
}

// A cursor beyond the end of the log belongs to another log (F3 excludes a crash).
func TestCursorBeyondTheLog(t *testing.T) {
	fs := vfs.NewMem()
	r := start(t, setup{fs: fs})
	r.must(r.store.SetCursor("test", 100))
	r.add(3, 10)
	r.reader.Close()
	r.must(errors.Join(r.store.Close(), r.log.Close()))
	r = start(t, setup{fs: fs})
	defer r.close()
	if _, err := r.read(); err == nil || !strings.Contains(err.Error(), "ends at record 3") {
		t.Errorf("%v", err)
	}
}

// A consumer that hands its records to others may be done with one before its call returns.
func TestDoneDuringDelivery(t *testing.T) {
	r := start(t, setup{})
	defer r.close()
	last := r.add(3, 10)
	for r.feed.Stats().Next <= last {
		r.must(r.feed.Read(t.Context(), func(lsn uint64, _ []byte) error {
			done := make(chan struct{})
			go func() { defer close(done); r.feed.Done(lsn) }()
			<-done
			return nil
		}))
	}
	if s := r.feed.Stats(); s.Done != last {
		t.Errorf("%+v, want all %d done", s, last)
	}
}

func TestDoneBeforeDelivery(t *testing.T) {
	r := start(t, setup{})
	defer r.close()
	last := r.add(1, 10)
	defer func() {
		if recover() == nil {
			t.Error("a record that was not delivered can be done")
		}
	}()
	r.feed.Done(last)
}

func TestOptions(t *testing.T) {
	err := feed.Options{SaveEvery: -1, BatchBytes: -1}.Check()
	for _, want := range []string{"Name", "Log", "Store", "SaveEvery", "BatchBytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s: %v", want, err)
		}
	}
	if _, err := feed.Open(feed.Options{}); err == nil {
		t.Error("Open accepts what Check does not")
	}
}
