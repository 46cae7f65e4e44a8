package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Checkpoint is a store of opaque keys and values as of an LSN: Pebble in a directory of its own. What it holds may be newer
// than its LSN, never older; the log from LSN+1 on brings it up to date.
//
// It is written a range of keys at a time: the range's content becomes one sorted table, which takes the place of all that
// was there (Pebble's ingest with excise). Nothing is compacted, and a range costs one sequential write however much of it
// changed. The LSN is written the same way, last. Pebble's own log and memory are not used: what a full disk refuses is an
// error here, where Pebble would try to flush its memory again and again.
//
// One goroutine writes; any may read.
type Checkpoint struct {
	fs    vfs.FS
	dir   string
	db    *pebble.DB
	spare int64
	lsn   atomic.Uint64
	fatal *storeFailure

	readOnly bool // of a View
}

// The keys of the store: what it is as of, and the owner's keys behind their prefix.
var (
	checkpointVersionKey = []byte("\x00version")
	checkpointLSNKey     = []byte("\x00lsn")
	checkpointSecretKey  = []byte("\x00secret")
)

const (
	checkpointPrefix  = 1
	checkpointVersion = 1
)

// CheckpointOptions of OpenCheckpoint. The zero value works.
type CheckpointOptions struct {
	// FS holds the store. Default vfs.Default.
	FS vfs.FS
	// SpareBytes must be free on the disk, beside what is to be written, for a checkpoint to go on. Above the size of the
	// segments that the log may prepare meanwhile. Default 256 MiB.
	SpareBytes int64
	// Logger: slog.Default().
	Logger *slog.Logger
}

// maxOpenTables bounds the descriptors that the store holds: it is read from end to end at a start, and hardly ever after.
const maxOpenTables = 74 // of which Pebble takes 10 for itself

// tableBlockBytes is what is read and compressed at a time. 8 KiB take half the calls of 4 KiB, and the devices of larger blocks
// compress worse.
const tableBlockBytes = 8 << 10

// OpenCheckpoint opens the store in dir, or makes an empty one as of LSN 0. A *VersionError says that a later format wrote it.
func OpenCheckpoint(dir string, o CheckpointOptions) (*Checkpoint, error) {
	return openCheckpoint(dir, o, false)
}

func openCheckpoint(dir string, o CheckpointOptions, readOnly bool) (_ *Checkpoint, err error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	setDefault(&o.SpareBytes, 256<<20)
	c := &Checkpoint{fs: o.FS, dir: dir, spare: o.SpareBytes, fatal: newStoreFailure(o.Logger), readOnly: readOnly}
	options := &pebble.Options{
		FS:                 storeFS{o.FS, c.fatal},
		DisableWAL:         true,
		MaxOpenFiles:       maxOpenTables,
		FormatMajorVersion: pebble.FormatNewest,
		ReadOnly:           readOnly,
		Logger:             c.fatal,
		EventListener: &pebble.EventListener{
			// Whoever read it gets an error as well. Pebble's own answer would be to end the process.
			DataCorruption: func(info pebble.DataCorruptionInfo) { o.Logger.Error("the checkpoint is damaged", "file", info.Path) },
		},
	}
	if err := c.fatal.do(func() (err error) { c.db, err = pebble.Open(dir, options); return err }); err != nil {
		return nil, readError(fmt.Errorf("wal: open the checkpoint in %s: %w", dir, err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	version, found, err := c.number(checkpointVersionKey)
	switch {
	case err != nil:
		return nil, err
	case found && version > checkpointVersion:
		return nil, &VersionError{Path: dir, Found: uint32(version), Reads: checkpointVersion}
	case !found && !readOnly:
		if err := c.set(checkpointVersionKey, binary.LittleEndian.AppendUint64(nil, checkpointVersion)); err != nil {
			return nil, err
		}
	}
	lsn, _, err := c.number(checkpointLSNKey)
	if err != nil {
		return nil, err
	}
	c.lsn.Store(lsn)
	return c, nil
}

// LSN is what the store is as of: every change up to it is in there.
func (c *Checkpoint) LSN() uint64 { return c.lsn.Load() }

// Secret returns bytes that the owner keeps with the store: what fresh returns the first time, the same ever after.
func (c *Checkpoint) Secret(fresh func() []byte) ([]byte, error) {
	value, err := c.get(checkpointSecretKey)
	if err != nil || value != nil {
		return value, err
	}
	if value = fresh(); c.readOnly {
		return value, nil
	}
	return value, c.set(checkpointSecretKey, value)
}

// Load calls fn for each key in [lo, hi) in ascending order; hi nil means to the end. Key and value are valid during the call.
func (c *Checkpoint) Load(lo, hi []byte, fn func(key, value []byte) error) error {
	it, err := c.db.NewIter(&pebble.IterOptions{LowerBound: inner(lo), UpperBound: innerEnd(hi)})
	if err != nil {
		return fmt.Errorf("wal: read the checkpoint: %w", err)
	}
	for valid := it.First(); valid && err == nil; valid = it.Next() {
		err = fn(it.Key()[1:], it.Value())
	}
	return readError(errors.Join(err, it.Close()))
}

// readError says what to do where an error of Pebble means damage.
func readError(err error) error {
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		return &DamagedCheckpointError{Path: info.Path, Err: info.Details}
	}
	return err
}

// Replace makes [lo, hi) hold exactly what items yields, which must be in ascending order of keys and within the range. It is
// durable when it returns, but not part of a checkpoint before Commit.
func (c *Checkpoint) Replace(lo, hi []byte, items func(yield func(key, value []byte) bool)) error {
	return c.replace(pebble.KeyRange{Start: inner(lo), End: innerEnd(hi)}, func(yield func(k, v []byte) bool) {
		var key []byte
		items(func(k, v []byte) bool {
			key = append(append(key[:0], checkpointPrefix), k...)
			return yield(key, v)
		})
	})
}

// replace is Replace with the store's own keys.
func (c *Checkpoint) replace(span pebble.KeyRange, items func(yield func(key, value []byte) bool)) error {
	path := c.fs.PathJoin(c.dir, "range.tmp")
	n, err := c.writeTable(path, items)
	if err != nil {
		return fmt.Errorf("wal: write a range of the checkpoint: %w", errors.Join(err, c.fs.Remove(path)))
	}
	err = c.fatal.do(func() error {
		if n == 0 {
			return errors.Join(c.fs.Remove(path), c.db.Excise(context.Background(), span))
		}
		_, err := c.db.IngestAndExcise(context.Background(), []string{path}, nil, nil, span)
		return err
	})
	if err != nil {
		return fmt.Errorf("wal: replace a range of the checkpoint: %w", err)
	}
	return nil
}

// writeTable writes a sorted table and syncs it.
func (c *Checkpoint) writeTable(path string, items func(yield func(key, value []byte) bool)) (n int, err error) {
	file, err := c.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return 0, err
	}
	table := sstable.NewWriter(objstorageprovider.NewFileWritable(file), sstable.WriterOptions{
		TableFormat: c.db.TableFormat(), BlockSize: tableBlockBytes,
	})
	items(func(k, v []byte) bool {
		err = table.Set(k, v)
		n++
		return err == nil
	})
	return n, errors.Join(err, table.Close())
}

// Room reports whether the disk has room for a range of n bytes and some more. Pebble cannot go on when its own bookkeeping
// meets a full disk, so a checkpoint is not begun without.
func (c *Checkpoint) Room(n int64) error {
	usage, err := c.fs.GetDiskUsage(c.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wal: free space for the checkpoint: %w", err)
	}
	if usage.AvailBytes < uint64(n+c.spare) {
		return fmt.Errorf("%w: %d bytes are left for the checkpoint, which wants %d", ErrNoSpace, usage.AvailBytes, n+c.spare)
	}
	return nil
}

// Commit makes the store the checkpoint as of lsn: what was replaced since the last Commit must hold every change up to it, as
// must what was left alone. It is durable when Commit returns.
func (c *Checkpoint) Commit(lsn uint64) error {
	if err := c.set(checkpointLSNKey, binary.LittleEndian.AppendUint64(nil, lsn)); err != nil {
		return err
	}
	c.lsn.Store(lsn)
	return nil
}

// Bytes is the size of the store on disk.
func (c *Checkpoint) Bytes() uint64 { return c.db.Metrics().DiskSpaceUsage() }

// Failed returns a channel that is closed when the store cannot go on: the process should stop. Err says why.
func (c *Checkpoint) Failed() <-chan struct{} { return c.fatal.failed }

// Err returns why the store cannot go on, wrapped in ErrStoreFailed; nil while it can. Any goroutine.
func (c *Checkpoint) Err() error { return c.fatal.failure() }

// Close closes the store. One that has failed stays as it is until the process ends.
func (c *Checkpoint) Close() error { return c.fatal.do(c.db.Close) }

func (c *Checkpoint) set(key, value []byte) error {
	after := append(key[:len(key):len(key)], 0)
	return c.replace(pebble.KeyRange{Start: key, End: after}, func(yield func(k, v []byte) bool) { yield(key, value) })
}

func (c *Checkpoint) get(key []byte) ([]byte, error) {
	value, closer, err := c.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("wal: read the checkpoint: %w", readError(err))
	}
	return append([]byte(nil), value...), closer.Close()
}

func (c *Checkpoint) number(key []byte) (n uint64, found bool, err error) {
	value, err := c.get(key)
	if err != nil || value == nil {
		return 0, false, err
	}
	if len(value) != 8 {
		return 0, false, fmt.Errorf("wal: the checkpoint's %q has %d bytes, not 8", key, len(value))
	}
	return binary.LittleEndian.Uint64(value), true, nil
}

func inner(key []byte) []byte { return append([]byte{checkpointPrefix}, key...) }

func innerEnd(key []byte) []byte {
	if key == nil {
		return []byte{checkpointPrefix + 1}
	}
	return inner(key)
}
