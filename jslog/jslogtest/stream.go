// Package jslogtest has a stream in memory, whose answers a test decides on.
package jslogtest

import (
	"bytes"
	"context"
	"sync"

	"rollcall/jslog"
)

// Stream is a jslog.Stream in memory. The hooks are set before it is used.
type Stream struct {
	// Before is called before a call has an effect, and may block. Its error is the call's, which
	// then has none, unless the test passes the call to Apply later. Default: nil.
	Before func(ctx context.Context, c *Call) error
	// After is called after a call had its effect, and may block. It decides on what the caller is
	// told. Default: the truth.
	After func(ctx context.Context, c *Call, seq uint64, err error) (uint64, error)
	// Sees is called for an Info, and for a Read before each message, and returns what the copy
	// holds that answers: as Messages, with nil for a message that is lost on its way. It may
	// block. Default: all there is.
	Sees func(c *Call) (first uint64, messages [][]byte)

	mu       sync.Mutex
	first    uint64   // guarded by mu: sequence of messages[0]
	messages [][]byte // guarded by mu
}

// Kind is which method was called.
type Kind string

// The methods.
const (
	Info    Kind = "info"
	Publish Kind = "publish"
	Read    Kind = "read"
	Purge   Kind = "purge"
)

// Call is one call of a method, by anyone that shares the stream.
type Call struct {
	Kind Kind
	By   string // whose view of the stream it came through, see As
	Seq  uint64 // what it expects, reads from or purges below
	Data []byte // of Publish
}

// New returns an empty stream.
func New() *Stream { return &Stream{first: 1} }

// As returns a view of the stream whose calls say that they are a certain owner's.
func (s *Stream) As(owner string) jslog.Stream { return view{s, owner} }

// Apply has a call's effect. Any goroutine.
func (s *Stream) Apply(c *Call) (seq uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.first + uint64(len(s.messages)) - 1
	switch c.Kind {
	case Publish:
		if c.Seq != last {
			return 0, &jslog.WrongLastError{Last: last}
		}
		s.messages = append(s.messages, bytes.Clone(c.Data))
		return last + 1, nil
	case Purge:
		if n := min(c.Seq, last+1); n > s.first {
			s.messages = s.messages[n-s.first:]
			s.first = n
		}
	}
	return 0, nil
}

// Messages returns the sequence of the first message, and all messages. Any goroutine.
func (s *Stream) Messages() (first uint64, messages [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, append([][]byte(nil), s.messages...)
}

// Set replaces the messages.
func (s *Stream) Set(first uint64, messages [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first, s.messages = first, messages
}

// view is the stream as one owner sees it.
type view struct {
	s  *Stream
	by string
}

func (v view) do(ctx context.Context, c *Call) (seq uint64, err error) {
	c.By = v.by
	if v.s.Before != nil {
		if err := v.s.Before(ctx, c); err != nil {
			return 0, err
		}
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	seq, err = v.s.Apply(c)
	if v.s.After != nil {
		seq, err = v.s.After(ctx, c, seq, err)
	}
	return seq, err
}

func (v view) Info(ctx context.Context) (first, last uint64, err error) {
	c := &Call{Kind: Info}
	if _, err := v.do(ctx, c); err != nil {
		return 0, 0, err
	}
	first, messages := v.s.Messages()
	if v.s.Sees != nil {
		first, messages = v.s.Sees(c)
	}
	return first, first + uint64(len(messages)) - 1, nil
}

func (v view) Publish(ctx context.Context, expect uint64, data []byte) (uint64, error) {
	return v.do(ctx, &Call{Kind: Publish, Seq: expect, Data: bytes.Clone(data)})
}

func (v view) Read(
	ctx context.Context, from uint64, fn func(seq uint64, data []byte) error,
) error {
	c := &Call{Kind: Read, Seq: from}
	if _, err := v.do(ctx, c); err != nil {
		return err
	}
	for seq := from; ; seq++ {
		at, data, ok := v.next(c, seq)
		if !ok {
			return nil
		}
		if seq = at; data == nil {
			continue
		}
		if err := fn(seq, data); err != nil {
			return err
		}
	}
}

// next is the first message from a sequence on.
func (v view) next(c *Call, from uint64) (seq uint64, data []byte, ok bool) {
	var first uint64
	var messages [][]byte
	if v.s.Sees != nil {
		first, messages = v.s.Sees(c)
	} else {
		v.s.mu.Lock()
		defer v.s.mu.Unlock()
		first, messages = v.s.first, v.s.messages
	}
	if seq = max(from, first); seq >= first+uint64(len(messages)) {
		return 0, nil, false
	}
	return seq, messages[seq-first], true
}

func (v view) Purge(ctx context.Context, before uint64) error {
	_, err := v.do(ctx, &Call{Kind: Purge, Seq: before})
	return err
}
