package client

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// maxRetryAfter bounds Retry-After: an hour, the longest that rollcall asks for.
const maxRetryAfter = time.Hour

// refusedPause is how long to wait, at most, after a refusal that needs an operator (K5).
const refusedPause = 30 * time.Second

// backoff is how long to wait after failures in a row: at random up to a bound that doubles from
// first to limit (K4).
type backoff struct {
	first, limit time.Duration
	bound        time.Duration // of the next wait; 0: first
}

func (b *backoff) next() time.Duration {
	bound := min(max(b.bound, b.first), b.limit)
	b.bound = 2 * bound
	return between(0, bound)
}

func (b *backoff) reset() { b.bound = 0 }

// between is a random time in [low, high].
func between(low, high time.Duration) time.Duration { return low + rand.N(high-low+1) }

// retryAfter reads a Retry-After header, seconds or a date; 0 if it is neither.
func retryAfter(header string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(header, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(header); err == nil {
		return min(max(t.Sub(now), 0), maxRetryAfter)
	}
	return 0
}

// sleep waits for d, or for wake if it is not nil, and reports false when ctx ended first.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer.C:
	}
	return ctx.Err() == nil
}
