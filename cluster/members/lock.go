package members

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Journal is the replicated log in which deeds are written. An append says after which one it comes
// and fails when there is a later one.
type Journal interface {
	Info(ctx context.Context) (first, last uint64, err error)
	Publish(ctx context.Context, expect uint64, data []byte) (seq uint64, err error)
	Read(ctx context.Context, from uint64, fn func(seq uint64, data []byte) error) error
	Purge(ctx context.Context, before uint64) error
}

// The kinds of deeds.
const (
	leave   = "leave"
	replace = "replace"
	balance = "balance"
)

// Kinds are the kinds of deeds.
func Kinds() []string { return []string{leave, replace, balance} }

// Deed is a change of the cluster, as the journal has it.
type Deed struct {
	Kind string `json:"kind"` // one of the three of doc.go
	Node string `json:"node"` // whose copies go
	// By is the node that takes the place of one that is replaced.
	By      string `json:"by,omitempty"`
	Runner  string `json:"runner"`   // the node that does it
	BeganMS int64  `json:"began_ms"` // wall clock
	AtMS    int64  `json:"at_ms"`    // of this entry
	Step    string `json:"step"`     // what is being done, or waited for
	// Moved is how many copies have been moved, and Left how many are to be.
	Moved  int    `json:"moved"`
	Left   int    `json:"left"`
	Done   bool   `json:"done"` // it is over
	Failed string `json:"failed,omitempty"`
}

// String says what is done, in a few words.
func (d *Deed) String() string {
	switch {
	case d.By != "":
		return fmt.Sprintf("%s %s by %s", d.Kind, d.Node, d.By)
	case d.Kind == balance:
		return "move a copy from " + d.Node + " to a node with fewer"
	}
	return d.Kind + " " + d.Node
}

const (
	// lease is how long a deed runs without a word in the journal before it counts as given up:
	// the node that did it has died.
	lease = 30 * time.Second
	// tellEvery is how often it says something.
	tellEvery = lease / 6
	// doneTries is how often the end of a deed is told: the journal's copies move, too.
	doneTries = 5
	// keptDeeds is how many entries the journal keeps.
	keptDeeds = 256
)

// lock is the right to do a deed (M4): the newest entry in the journal is of this one. Each entry
// is appended behind the one before, so of two nodes that begin at a time one fails; and a node
// that was away for longer than the lease, while another began, fails with its next word. The step
// that it was at meanwhile is one that the servers do whole, or not at all. run appends; the
// deed's goroutine says what it is at.
type lock struct {
	journal Journal
	cancel  context.CancelCauseFunc // ends the deed

	mu   sync.Mutex
	deed Deed   // guarded by mu
	seq  uint64 // of the newest entry. guarded by mu
}

// RefusedError says why something was not done. Nothing has changed.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// last reads the newest entry; seq 0: there is none.
func last(ctx context.Context, j Journal) (d Deed, seq uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	_, end, err := j.Info(ctx)
	if err != nil || end == 0 {
		return d, 0, err
	}
	err = j.Read(ctx, end, func(at uint64, data []byte) error {
		seq = at
		return json.Unmarshal(data, &d)
	})
	if err == nil && seq == 0 {
		err = errors.New("the newest entry cannot be read now: ask again")
	}
	return d, seq, err
}

// take gets the lock for a deed. It is given back with done.
func take(ctx context.Context, j Journal, d Deed, now time.Time) (*lock, error) {
	held, seq, err := last(ctx, j)
	if err != nil {
		return nil, fmt.Errorf("members: read the journal: %w", err)
	}
	// One in the future was written by a clock that was wrong, and would hold for as long.
	if age := now.Sub(time.UnixMilli(held.AtMS)).Abs(); seq > 0 && !held.Done && age < lease {
		return nil, &RefusedError{fmt.Sprintf("%s does something else: %s, since %s: %s. "+
			"Wait until that is done", held.Runner, &held,
			time.UnixMilli(held.BeganMS).UTC().Format(time.RFC3339), held.Step)}
	}
	l := &lock{journal: j, deed: d, seq: seq}
	l.deed.BeganMS = now.UnixMilli()
	if err := l.tell(ctx, now); err != nil {
		return nil, &RefusedError{"another node has begun something just now: " + err.Error()}
	}
	return l, nil
}

// at says what the deed is at.
func (l *lock) at(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deed.Step = fmt.Sprintf(format, args...)
}

// left says how many copies are to be moved yet. Each time it says one fewer, one was.
func (l *lock) left(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deed.Moved += max(0, l.deed.Left-n)
	l.deed.Left = n
}

// tell appends an entry.
func (l *lock) tell(ctx context.Context, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deed.AtMS = now.UnixMilli()
	data, err := json.Marshal(&l.deed)
	if err != nil {
		panic("bug: " + err.Error())
	}
	publish, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	seq, err := l.journal.Publish(publish, l.seq, data)
	if err != nil {
		return errors.Join(err, l.again(ctx))
	}
	l.seq = seq
	return nil
}

// again finds out, after an entry whose answer did not come, where the next one goes: behind what
// may be there of this deed. mu is held.
func (l *lock) again(ctx context.Context) error {
	newest, seq, err := last(ctx, l.journal)
	if err != nil {
		return err
	}
	if newest.Runner == l.deed.Runner && newest.BeganMS == l.deed.BeganMS {
		l.seq = seq
	}
	return nil
}

// hold appends an entry now and then until stop is closed, and ends the deed when it cannot.
func (l *lock) hold(ctx context.Context, stop <-chan struct{}) {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	failing := 0
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			err := l.tell(ctx, now)
			if err == nil {
				failing = 0
				continue
			}
			if failing++; failing*int(tellEvery) >= int(lease)/2 {
				l.cancel(fmt.Errorf("members: the journal takes no entry: %w", err))
				return
			}
		}
	}
}

// done gives the lock back.
func (l *lock) done(ctx context.Context, err error) {
	l.mu.Lock()
	l.deed.Done = true
	if err != nil {
		l.deed.Failed = err.Error()
	}
	l.mu.Unlock()
	for range doneTries {
		if l.tell(ctx, time.Now()) == nil {
			break
		}
	} // else the lease ends by itself
	if l.seq > keptDeeds {
		_ = l.journal.Purge(ctx, l.seq-keptDeeds)
	}
}
