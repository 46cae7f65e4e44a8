package wal

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"

	"rollcall/internal/faultfs"
	"rollcall/internal/testwait"
)

// dir is the log's directory in every in-memory test.
const dir = "data/wal"

// small are options with which a few hundred records roll segments.
func small(fs vfs.FS) Options {
	return Options{
		FS: fs, BufferBytes: minBufferBytes, SegmentBytes: segmentBuffers * minBufferBytes,
		Logger: slog.New(slog.DiscardHandler), prepareRetry: time.Millisecond,
	}
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func start(t testing.TB, o Options) *Log {
	t.Helper()
	l := open(t, o)
	if err := l.Start(nil); err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// segmentSyncs is a Holds of faultfs.Gate: while it is shut, a batch is written and not synced.
func segmentSyncs(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, segmentSuffix)
}

// awaitHeld waits until an operation waits at a gate that is shut.
func awaitHeld(t testing.TB, gate *faultfs.Gate) {
	t.Helper()
	testwait.Until(t, "the disk hangs", func() bool { return gate.Held() > 0 })
}

// add appends one record and lets the commit loop know.
func add(t testing.TB, l *Log, record string) uint64 {
	t.Helper()
	if err := l.Reserve(len(record), time.Minute); err != nil {
		t.Fatal(err)
	}
	defer l.Kick()
	return l.Append([]byte(record), 0)
}

// commit appends one record and waits for it, so that it becomes a block of its own.
func commit(t testing.TB, l *Log, record string) uint64 {
	t.Helper()
	lsn := add(t, l, record)
	if err := l.Wait(lsn); err != nil {
		t.Fatal(err)
	}
	return lsn
}

// acknowledge waits until a record may be acknowledged, by Commit or by Wait.
func acknowledge(l *Log, lsn uint64) error {
	if lsn%3 == 0 {
		return l.Wait(lsn)
	}
	return l.Commit(lsn)
}

// read opens and replays the log of a file system and checks that LSNs have no gap. The records
// come back joined with the error that ended them.
func read(fs vfs.FS, after uint64) (records []string, err error) {
	return readWith(small(fs), after)
}

func readWith(o Options, after uint64) (records []string, err error) {
	l, err := Open(dir, o)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	next := after + 1
	err = l.Replay(after, func(lsn uint64, record []byte) error {
		if lsn != next {
			return fmt.Errorf("test: lsn %d after %d", lsn, next-1)
		}
		next++
		records = append(records, string(record))
		return nil
	})
	return records, err
}

func segmentFile(number uint64) string {
	return fmt.Sprintf("%s/%020d.wal", dir, number)
}

func load(t testing.TB, fs *vfs.MemFS, path string) []byte {
	t.Helper()
	b, err := fs.UnsafeGetFileDataBuffer(path)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), b...)
}

func store(t testing.TB, fs vfs.FS, path string, b []byte) {
	t.Helper()
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(append([]byte(nil), b...)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// files returns the segments of a file system by number.
func files(t testing.TB, fs *vfs.MemFS) map[uint64][]byte {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint64][]byte{}
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok {
			found[n] = load(t, fs, segmentFile(n))
		}
	}
	return found
}

// disk makes a file system that holds just these segments, and a control file that knows which is
// the newest and nothing of what is in it, as after a crash.
func disk(t testing.TB, segments map[uint64][]byte) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("data", 0o755); err != nil {
		t.Fatal(err)
	}
	known := controlState{since: 1, id: testID}
	for n, b := range segments {
		store(t, fs, segmentFile(n), b)
		h, err := decodeSegmentHeader(b[:min(segmentHeaderBytes, len(b))], "", n)
		if err == nil && h.version == formatVersion && n >= known.newest.number {
			known.newest = segmentName{number: n, first: h.first, size: h.size}
			known.id = h.id
		}
	}
	if known.newest.number > 0 {
		storeControl(t, fs, known)
	}
	return fs
}

// blocksIn returns the offsets of the blocks of a segment and where the last one ends.
func blocksIn(b []byte, number uint64) (offsets []int64, end int64) {
	var s headerSums
	at := int64(segmentHeaderBytes)
	for at+blockHeaderBytes <= int64(len(b)) {
		h, ok := s.decode(b[at:], number, at)
		if !ok {
			break
		}
		offsets = append(offsets, at)
		at += h.bytes()
	}
	return offsets, at
}

// tagged returns a record that names its writer and its number there, with some bytes behind.
func tagged(writer, n, padding int) []byte {
	b := make([]byte, 8+padding)
	binary.LittleEndian.PutUint32(b, uint32(writer))
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	return b
}

// testID is the id of directories that a test makes by hand.
var testID = uuid.MustParse("11111111-2222-4333-8444-555555555555")

// storeControl writes a control file whose two copies say the same.
func storeControl(t testing.TB, fs vfs.FS, s controlState) {
	t.Helper()
	b := make([]byte, controlSlots*controlSlotBytes)
	copy(b, s.encode())
	s.generation++
	copy(b[controlSlotBytes:], s.encode())
	store(t, fs, dir+"/"+ControlName, b)
}

// resized returns a segment that was made with the size that it has.
func resized(t testing.TB, b []byte, number uint64) []byte {
	t.Helper()
	h, err := decodeSegmentHeader(b[:segmentHeaderBytes], "", number)
	if err != nil {
		t.Fatal(err)
	}
	h.size = int64(len(b))
	return append(h.encode(), b[segmentHeaderBytes:]...)
}

// idOf returns the directory's id in a segment.
func idOf(t testing.TB, segment []byte) uuid.UUID {
	t.Helper()
	h, err := decodeSegmentHeader(segment[:segmentHeaderBytes], "", 1)
	if err != nil {
		t.Fatal(err)
	}
	return h.id
}
