package engine

import (
	"iter"
	"time"
)

// Log is what the engine needs of a write-ahead log. Package wal satisfies it; the methods mean
// what they mean there.
type Log interface {
	// Replay calls apply for every record above LSN after, in order. Of a store in the log it also
	// calls it for each value, as Load would have it: the LSN that the value begins with, and the
	// rest. The records that a value tells of came before, or are gone; values do not count as
	// gaps. Only before Start.
	Replay(after uint64, apply func(lsn uint64, record []byte) error) error
	// Replayed is how far Replay is: the LSN of the next record, and bytes read, of how many. Any
	// goroutine.
	Replayed() (next uint64, done, total int64)
	// Start makes the log ready for Append. It calls committed for each batch, in LSN order, one
	// call at a time, once the batch is as durable as the log promises. The records are valid
	// during the call and can be iterated over more than once; stamp is the first one, other than
	// 0, that came with one of them; took is how long write and sync lasted.
	Start(
		committed func(
			first, last uint64, records iter.Seq[[]byte], stamp int64, took time.Duration,
		),
	) error
	// Reserve takes the credit for one record of n bytes and waits up to maxWait for it.
	Reserve(n int, maxWait time.Duration) error
	// Release gives a credit back that was not used.
	Release(n int)
	// Append uses a credit. It neither blocks nor fails. The stamp is not written, see Start. The
	// record is committed when Wait, Commit or Kick ask for it, or earlier.
	Append(record []byte, stamp int64) uint64
	// Wait returns when the record is as durable as the log promises, with the log's failure, or
	// while the log is stalled: then the record may be stored or not.
	Wait(lsn uint64) error
	// Vouch is Wait, and returns only when this process has been shown to be the log's one writer
	// at an instant after the call: what the table said of records up to lsn was then the newest
	// there is. A log that no other process can write to has nothing to show. It may append, and
	// waits for that.
	Vouch(lsn uint64) error
	// Commit is Wait. It may do the work on the calling goroutine, unless another one is at it, and
	// is as long away as the disk is then.
	Commit(lsn uint64) error
	// Kick has all that was appended committed, and returns at once.
	Kick()
	// Committed is the highest LSN that is as durable as the log promises. After Start and before
	// the first Append it is the last one that was replayed.
	Committed() uint64
	// Committing is how long the commit in flight has lasted; 0: none is.
	Committing() time.Duration
	// Stalled reports that the commit in flight takes so long that Reserve and Wait refuse.
	Stalled() bool
	// Appended is the highest LSN given out.
	Appended() uint64
	// Sync returns when everything up to lsn is on stable storage, whatever the sync mode, or with
	// an error as Wait does.
	Sync(lsn uint64) error
	// Size is how many segments hold the log, and their size. Each start begins one.
	Size() (segments int, bytes int64)
	// TruncateBefore gives back the disk space of records below lsn.
	TruncateBefore(lsn uint64) error
	// NoSpace reports that there is no room to prepare the next segment.
	NoSpace() bool
	// Failed is closed after a failed write or sync; Err says which.
	Failed() <-chan struct{}
	Err() error
}

// Store keeps a checkpoint: keys and values as of an LSN. Package checkpoint satisfies it; the
// methods mean what they mean there. A nil Store: the log is never shortened.
type Store interface {
	LSN() uint64
	// InLog reports that the values lie in the log, between its records, from where Replay has
	// them; Load has none. Each checkpoint then writes every range, since the log before it goes.
	// Constant.
	InLog() bool
	// Start makes the store writable. Before, it is only read.
	Start() error
	Secret(fresh func() []byte) ([]byte, error)
	Load(lo, hi []byte, fn func(key, value []byte) error) error
	Room(n int64) error
	Replace(lo, hi []byte, items func(yield func(key, value []byte) bool)) error
	Install() error
	Discard() error
	SetClock(ms uint64) error
	Clock() (ms uint64, err error)
	SetEpochs(list []byte) error
	Epochs() ([]byte, error)
	SetForgotten(list []byte) error
	Forgotten() ([]byte, error)
	Commit(lsn uint64) error
}
