package jslog

import (
	"context"
	"errors"
	"fmt"
)

// fence is the right to append to a stream: there is one only where a claim was acknowledged, and
// it is over with the first append that is not (C1, C3). The next append expects the sequence that
// the last one was acknowledged with, which nothing but append sets. One goroutine at a time.
//
//	owner 1                    stream          owner 2
//	append, expects 7          8 of owner 1
//	                           9 claim         claims, expects 8
//	append, expects 8: refused                 append, expects 9
type fence struct {
	stream Stream
	last   uint64 // sequence of the last append that was acknowledged
	over   error  // why there is no right any more
}

// claim appends a claim behind the newest message: from then on no
// earlier fence of the stream appends anything. It tries until ctx is done.
func claim(ctx context.Context, s Stream, data []byte) (*fence, error) {
	_, last, err := s.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("jslog: claim: %w", err)
	}
	for {
		f := &fence{stream: s, last: last} // a guess, and no fence before the claim's own answer
		_, err := f.append(ctx, data)
		if err == nil {
			return f, nil
		}
		var wrong *WrongLastError
		if !errors.As(err, &wrong) || ctx.Err() != nil {
			return nil, fmt.Errorf("jslog: claim: %w", err)
		}
		last = wrong.Last
	}
}

// append appends a message and returns its sequence. After an error the message may be in the
// stream or not, and no further append is tried.
func (f *fence) append(ctx context.Context, data []byte) (seq uint64, err error) {
	if f.over != nil {
		return 0, f.over
	}
	seq, err = f.stream.Publish(ctx, f.last, data)
	if err == nil && seq != f.last+1 {
		err = fmt.Errorf("acknowledged as message %d, not as %d", seq, f.last+1)
	}
	if err != nil {
		f.over = fmt.Errorf("%w: append behind message %d: %w", ErrLost, f.last, err)
		return 0, f.over
	}
	f.last = seq
	return seq, nil
}
