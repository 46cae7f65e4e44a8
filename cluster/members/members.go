package members

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Options of Members. All are required.
type Options struct {
	Node    string // this one
	Servers *Servers
	// Journal returns the log in which deeds are written, which it makes if there is none.
	Journal func(ctx context.Context) (Journal, error)
	Logger  *slog.Logger
	// Moves is told when the move of a copy begins, of which kind of deed, and returns what is told
	// when it is over: an error says that it failed.
	Moves func(kind string) (over func(error))
}

// Members does what doc.go says, from one node. Any goroutine may call its methods.
type Members struct {
	o    Options
	stop context.CancelFunc
	ctx  context.Context
	runs sync.WaitGroup
}

// New returns the Members of a node.
func New(o Options) *Members {
	m := &Members{o: o}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// Close ends what is being done here, after the step that it is at, and waits for that.
func (m *Members) Close() {
	m.stop()
	m.runs.Wait()
}

const (
	// lookEvery is how often the servers are asked while something is waited for.
	lookEvery = 250 * time.Millisecond
	// moveWithin is how long the move of one copy may take, and how long a step waits until it may
	// be done.
	moveWithin = 30 * time.Minute
)

// Leave has a node give its copies away and be no member any more. It returns when that has begun,
// or a *RefusedError; Last says how it goes on.
func (m *Members) Leave(ctx context.Context, node string) error {
	if node == m.o.Node {
		return &RefusedError{fmt.Sprintf("%s cannot see itself off. Give the command to another "+
			"node: --admin", node)}
	}
	return m.begin(ctx, Deed{Kind: leave, Node: node},
		func(s *State) string { return s.mayLeave(node) },
		func(ctx context.Context, l *lock) error { return m.depart(ctx, l, node, "") })
}

// Replace has others take the copies of a node that is gone, and it is no member any more. by is
// the one that was started in its place. Otherwise it is like Leave.
func (m *Members) Replace(ctx context.Context, old, by string) error {
	return m.begin(ctx, Deed{Kind: replace, Node: old, By: by},
		func(s *State) string { return s.mayReplace(old, by) },
		func(ctx context.Context, l *lock) error { return m.depart(ctx, l, old, old) })
}

// Balance moves one copy where a node has two more than another, and reports whether it did. The
// leader of the cluster calls it, now and then.
func (m *Members) Balance(ctx context.Context) (moved bool, err error) {
	s, err := m.o.Servers.Look(ctx)
	if err != nil {
		return false, err
	}
	log, from, ok := s.toBalance()
	if !ok {
		return false, nil
	}
	l, err := m.lock(ctx, Deed{Kind: balance, Node: from})
	if err != nil {
		return false, err
	}
	err = m.locked(l, func(ctx context.Context, l *lock) error {
		l.left(1)
		l.at("moving the copy of %s from %s", log, from)
		return m.move(ctx, l, log, from, "")
	})
	return err == nil, err
}

// Last is the newest deed, of any node; ok is false when there was none.
func (m *Members) Last(ctx context.Context) (d Deed, ok bool, err error) {
	j, err := m.o.Journal(ctx)
	if err != nil {
		return d, false, err
	}
	d, seq, err := last(ctx, j)
	if seq > 0 && !d.Done && time.Since(time.UnixMilli(d.AtMS)).Abs() > lease {
		d.Done, d.Failed = true, d.Runner+" has not been heard since; give the command again, "+
			"which goes on from there"
	}
	return d, seq > 0, err
}

// Look asks the servers how things are.
func (m *Members) Look(ctx context.Context) (*State, error) { return m.o.Servers.Look(ctx) }

// HandOver has another copy of a log lead it.
func (m *Members) HandOver(ctx context.Context, log, to string) error {
	return m.o.Servers.handOver(ctx, log, to)
}

// begin looks, takes the lock, and does a deed in the background.
func (m *Members) begin(
	ctx context.Context, d Deed, may func(s *State) (why string),
	do func(ctx context.Context, l *lock) error,
) error {
	s, err := m.o.Servers.Look(ctx)
	if err != nil {
		return &RefusedError{err.Error()}
	}
	if why := may(s); why != "" {
		return &RefusedError{why}
	}
	l, err := m.lock(ctx, d)
	if err != nil {
		return err
	}
	m.o.Logger.Info("the cluster is being changed", "deed", d.String())
	m.runs.Go(func() {
		if err := m.locked(l, do); err != nil {
			m.o.Logger.Error("the cluster was not changed to the end", "deed", d.String(),
				"error", err)
			return
		}
		m.o.Logger.Info("the cluster was changed", "deed", d.String())
	})
	return nil
}

// lock takes the lock for a deed.
func (m *Members) lock(ctx context.Context, d Deed) (*lock, error) {
	j, err := m.o.Journal(ctx)
	if err != nil {
		return nil, fmt.Errorf("members: the journal: %w", err)
	}
	d.Runner, d.Step = m.o.Node, "looking"
	return take(ctx, j, d, time.Now())
}

// locked does a deed, and gives the lock back.
func (m *Members) locked(l *lock, do func(ctx context.Context, l *lock) error) error {
	ctx, cancel := context.WithCancelCause(m.ctx)
	defer cancel(nil)
	l.cancel = cancel
	stop := make(chan struct{})
	var holder sync.WaitGroup
	holder.Go(func() { l.hold(ctx, stop) })
	err := do(ctx, l)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	close(stop)
	holder.Wait()
	l.done(context.WithoutCancel(ctx), err)
	return err
}

// depart moves all copies from a node, the one of the lead of the cluster too, and removes it.
// except is the node itself when it is gone.
func (m *Members) depart(ctx context.Context, l *lock, node, except string) error {
	for {
		s, err := m.settled(ctx, l, except)
		if err != nil {
			return err
		}
		log, left := s.nextOn(node)
		l.left(left)
		if left == 0 {
			break
		}
		l.at("moving the copy of %s from %s; %d to go", log, node, left)
		if err := m.move(ctx, l, log, node, except); err != nil {
			return err
		}
	}
	if err := m.stepDown(ctx, l, node, except); err != nil {
		return err
	}
	l.at("removing %s", node)
	return m.remove(ctx, node, except)
}

// nextOn returns the log whose copy on a node is to be moved next, and how many there are. One that
// leads comes last.
func (s *State) nextOn(node string) (log string, left int) {
	leads := ""
	for i := range s.Logs {
		l := &s.Logs[i]
		switch {
		case !l.has(node):
			continue
		case l.Leader == node:
			leads = l.Name
		default:
			log = l.Name
		}
		left++
	}
	if log == "" {
		log = leads
	}
	return log, left
}

// move moves one copy.
func (m *Members) move(
	ctx context.Context, l *lock, log, from, except string,
) (err error) {
	moved := m.o.Moves(l.deed.Kind)
	defer func() { moved(err) }()
	if err := m.o.Servers.moveFrom(ctx, log, from); err != nil {
		return err
	}
	return m.until(ctx, l, func(s *State) string {
		for i := range s.Logs {
			if s.Logs[i].Name == log && s.Logs[i].has(from) {
				return fmt.Sprintf("the copy of %s on %s is being moved", log, from)
			}
		}
		return s.unsettled(except)
	})
}

// stepDown waits until another node than this one leads the cluster.
func (m *Members) stepDown(ctx context.Context, l *lock, node, except string) error {
	s, err := m.settled(ctx, l, except)
	if err != nil || s.Leader != node {
		return err
	}
	l.at("having another node than %s lead the cluster", node)
	if err := m.o.Servers.stepDown(ctx); err != nil {
		return err
	}
	return m.until(ctx, l, func(s *State) string {
		if s.Leader == node {
			return node + " leads the cluster"
		}
		return s.unsettled(except)
	})
}

// remove makes a node no member, if it may be removed (M2, M3).
func (m *Members) remove(ctx context.Context, node, except string) error {
	s, err := m.o.Servers.Look(ctx)
	if err != nil {
		return err
	}
	if why := s.mayRemove(node); why != "" {
		return &RefusedError{why}
	}
	if n := s.node(node); n == nil || n.InReach && except != "" {
		return &RefusedError{node + " is in reach again. It has no copies any more: let it leave"}
	}
	return m.o.Servers.remove(ctx, node)
}

// settled waits until a step may be done (M1).
func (m *Members) settled(ctx context.Context, l *lock, except string) (s *State, err error) {
	err = m.until(ctx, l, func(now *State) string {
		s = now
		return now.unsettled(except)
	})
	return s, err
}

// until waits until there is no reason to.
func (m *Members) until(ctx context.Context, l *lock, why func(s *State) string) error {
	ctx, cancel := context.WithTimeout(ctx, moveWithin)
	defer cancel()
	reason := "the servers do not answer"
	for {
		s, err := m.o.Servers.Look(ctx)
		if err == nil {
			if reason = why(s); reason == "" {
				return nil
			}
		}
		l.at("waiting: %s", reason)
		select {
		case <-ctx.Done():
			return fmt.Errorf("members: %w while waiting: %s", context.Cause(ctx), reason)
		case <-time.After(lookEvery):
		}
	}
}
