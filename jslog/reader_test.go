package jslog_test

import (
	"context"
	"errors"

	"rollcall/jslog"
)

// lagging reads from a replica that is behind at first, or for ever.
type lagging struct {
	jslog.Stream
	upTo    uint64 // the newest message of the replica
	arrives bool   // one more with each reading
}

func (s *lagging) Read(
	ctx context.Context, from uint64, fn func(seq uint64, data []byte) error,
) error {
	end := errors.New("end")
	err := s.Stream.Read(ctx, from, func(seq uint64, data []byte) error {
		if seq > s.upTo {
			return end
		}
		return fn(seq, data)
	})
	if s.arrives {
		s.upTo++
	}
	if err == end {
		return nil
	}
	return err
}

// losing reads a stream some of whose messages do not come the first time.
type losing struct {
	jslog.Stream
	from, to  uint64 // the first of them, and the one behind the last
	meanwhile func() // called once, before the rest comes
}

func (s *losing) Read(
	ctx context.Context, from uint64, fn func(seq uint64, data []byte) error,
) error {
	if s.from == 0 {
		return s.Stream.Read(ctx, from, fn)
	}
	lost := s.from
	s.from = 0
	err := s.Stream.Read(ctx, from, func(seq uint64, data []byte) error {
		if lost <= seq && seq < s.to {
			return nil
		}
		return fn(seq, data)
	})
	s.meanwhile()
	return err
}
