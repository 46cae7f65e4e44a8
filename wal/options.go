package wal

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"rollcall/internal/option"
)

// SyncMode says when a record counts as committed.
type SyncMode int

const (
	// SyncAlways syncs every batch before its waiters return. No crash loses anything
	// acknowledged. The default.
	SyncAlways SyncMode = iota
	// SyncInterval writes every batch before its waiters return, and syncs when the oldest unsynced
	// block is as old as Options.SyncInterval: before any waiter of that turn returns. A crash of
	// the process loses nothing acknowledged; one of the machine at most what was acknowledged
	// within one interval.
	SyncInterval
	// SyncNever writes every batch before its waiters return, and leaves syncing to the operating
	// system, except between segments, for checkpoints and at Close. The system is asked to begin
	// writing as a segment fills, so that the sync at its end is short. A crash of the process
	// loses nothing acknowledged; one of the machine what the system had not written back,
	// typically some 30 s.
	SyncNever
)

var syncModeNames = [...]string{SyncAlways: "always", SyncInterval: "interval", SyncNever: "never"}

// String returns the name that ParseSyncMode reads.
func (m SyncMode) String() string {
	if m < 0 || int(m) >= len(syncModeNames) {
		return fmt.Sprintf("SyncMode(%d)", int(m))
	}
	return syncModeNames[m]
}

// ParseSyncMode reads always, interval or never.
func ParseSyncMode(s string) (SyncMode, error) {
	for m, name := range syncModeNames {
		if s == name {
			return SyncMode(m), nil
		}
	}
	return 0, fmt.Errorf("wal: sync mode %q is not always, interval or never", s)
}

// Options of Open. The zero value works.
type Options struct {
	// FS holds the log's directory. Tests pass a crashable or a failing one. Default: vfs.Default.
	FS vfs.FS
	// Sync says when a record counts as committed. Default: SyncAlways.
	Sync SyncMode
	// SyncInterval is the longest time that a written record stays unsynced in mode SyncInterval.
	// Default: 100ms.
	SyncInterval time.Duration
	// SegmentBytes is the size to which segments grow, at least 4 times BufferBytes. Smaller
	// segments give disk space back sooner after a checkpoint, larger ones roll less often.
	// Default: 64 MiB.
	SegmentBytes int64
	// BufferBytes is the size of each of the two commit buffers: the most that can be appended
	// during one sync, so it bounds the throughput of a slow disk. 4 KiB to 256 MiB. Default: 2
	// MiB.
	BufferBytes int
	// Logger gets what an operator should know: a torn tail, a full disk. Default: slog.Default().
	Logger *slog.Logger
	// ObserveCommit gets, for each committed batch, how many records it has and how long its write
	// and sync took. The goroutine that committed it calls it, one at a time. Default: none.
	ObserveCommit func(records uint64, took time.Duration)

	prepareRetry time.Duration // between attempts to prepare the next segment; tests shorten it

	warnAfter, stallAfter time.Duration // of stall; tests shorten them
}

const (
	defaultSyncInterval = 100 * time.Millisecond
	defaultSegmentBytes = 64 << 20
	defaultBufferBytes  = 2 << 20
	defaultPrepareRetry = time.Second

	minBufferBytes = 4 << 10
	maxBufferBytes = 256 << 20
)

// Check reports every problem of the options at once, as Open does.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults returns a copy with every zero field filled in, or all that is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	option.Default(&o.Logger, slog.Default())
	option.Default(&o.SyncInterval, defaultSyncInterval)
	option.Default(&o.BufferBytes, defaultBufferBytes)
	leastSegment := segmentBuffers * int64(o.BufferBytes)
	option.Default(&o.SegmentBytes, max(defaultSegmentBytes, leastSegment))
	option.Default(&o.prepareRetry, defaultPrepareRetry)
	option.Default(&o.warnAfter, defaultWarnAfter)
	option.Default(&o.stallAfter, defaultStallAfter)

	problems := option.Problems{Package: "wal"}
	problems.When(o.Sync < SyncAlways || o.Sync > SyncNever, "Sync: unknown sync mode %d", o.Sync)
	option.NotNegative(&problems, "SyncInterval", o.SyncInterval)
	wrongBuffer := o.BufferBytes < minBufferBytes || o.BufferBytes > maxBufferBytes
	problems.When(wrongBuffer, "BufferBytes: a buffer of %d bytes is not within %d and %d",
		o.BufferBytes, minBufferBytes, maxBufferBytes)
	problems.When(!wrongBuffer && o.SegmentBytes < leastSegment,
		"SegmentBytes: a segment of %d bytes is less than %d buffers of %d",
		o.SegmentBytes, segmentBuffers, o.BufferBytes)
	return o, problems.Err()
}
