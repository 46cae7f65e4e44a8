package loadgen

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"rollcall/wire"
)

// makeLists makes the lists of the worker: every o.Workers-th, from its first users.
func (w *worker) makeLists(population, index int) {
	o := w.o
	if o.Lists == 0 {
		return
	}
	d := newDraw(population, o.ListSkew)
	for i := index; i < o.Lists; i += o.Workers {
		byUsers := o.ListView == "users" || o.ListView == "both" && i/o.Workers%2 == 1
		digest := o.ListAuth == "digest" || o.ListAuth == "both" && i/o.Workers/2%2 == 1
		l := w.streams.newList(d.draw(o.ListSize, w.rng), byUsers, digest)
		l.node = len(w.streams.all) % len(w.reactor.targets)
		l.source = o.source(len(w.streams.all)*o.Workers + w.index)
		l.slow = o.SlowShare > 0 && w.rng.Float64() < o.SlowShare
		w.streams.lists = append(w.streams.lists, l)
		w.streams.all = append(w.streams.all, &l.stream)
	}
}

// linger is the list's linger_ms, in nanoseconds.
func (l *list) linger() int64 {
	if !l.byUsers {
		return 0
	}
	return l.streams.o.ListLinger.Milliseconds() * 1e6
}

// mintList makes a token for a list.
func (s *streams) mintList(l *list, valid time.Duration) (string, error) {
	var users [][16]byte
	if l.digest {
		users = make([][16]byte, len(l.users))
		for i, user := range l.users {
			users[i] = s.crowd.users[user].id
		}
	}
	token, err := s.o.ListToken(l.subject.String(), users, valid)
	if err != nil {
		return "", fmt.Errorf("loadgen: mint a list's token: %w", err)
	}
	return token, nil
}

// requestOfList is the request for a list, valid until the next call. Cursors go into the header
// and into the query by turns.
func (s *streams) requestOfList(l *list, token string) []byte {
	inHeader := l.resuming && s.rng.IntN(2) == 0
	b := append(s.scratch[:0], "POST "+wire.ListStreamPath+"?view="...)
	if l.byUsers {
		b = append(b, "users"...)
	} else {
		b = append(b, "devices"...)
	}
	if ms := l.linger() / 1e6; ms > 0 {
		b = append(b, "&linger_ms="...)
		b = strconv.AppendInt(b, ms, 10)
	}
	if l.resuming && !inHeader {
		b = append(b, "&resume="...)
		b = appendQuery(b, l.cursor)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, s.hostOf(&l.stream)...)
	if inHeader {
		b = append(b, "\r\nLast-Event-ID: "...)
		b = append(b, l.cursor...)
	}
	b = append(b, "\r\nAccept: text/event-stream\r\nContent-Type: application/json"+
		"\r\nAuthorization: Bearer "...)
	b = append(b, token...)
	const head, each, tail = `{"user_ids":[`, 36 + len(`"",`), `]}`
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(head)+each*len(l.users)-1+len(tail)), 10)
	b = append(b, "\r\n\r\n"+head...)
	for i, user := range l.users {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, s.crowd.users[user].text...)
		b = append(b, '"')
	}
	b = append(b, tail...)
	s.scratch = b
	return b
}

// appendQuery escapes what cannot stand in a query as it is.
func appendQuery(dst, text []byte) []byte {
	const digits = "0123456789ABCDEF"
	for _, b := range text {
		switch {
		case b >= '0' && b <= '9', b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z',
			b == '-', b == '_', b == '.', b == '~':
			dst = append(dst, b)
		default:
			dst = append(dst, '%', digits[b>>4], digits[b&15])
		}
	}
	return dst
}

// draw draws the users of lists.
type draw struct {
	weights *alias // nil: all alike
	taken   []bool
}

func newDraw(population int, skew float64) *draw {
	d := &draw{taken: make([]bool, population)}
	if skew > 0 {
		d.weights = newAlias(zipfWeights(population, skew))
	}
	return d
}

// draw returns size different users, ascending.
func (d *draw) draw(size int, rng *rand.Rand) []uint32 {
	users := make([]uint32, 0, size)
	take := func(i int) {
		if !d.taken[i] {
			d.taken[i] = true
			users = append(users, uint32(i))
		}
	}
	for tries := 0; len(users) < size && tries < 20*size; tries++ {
		if d.weights != nil {
			take(d.weights.draw(rng))
		} else {
			take(rng.IntN(len(d.taken)))
		}
	}
	for i := 0; len(users) < size; i++ { // a list that is most of the population: the popular ones
		take(i)
	}
	for _, i := range users {
		d.taken[i] = false
	}
	slices.Sort(users)
	return users
}
