package loadgen

import (
	"net/netip"
	"time"

	"rollcall/wire"
)

// renewals gives the open lists of a node new tokens, one request at a time on a connection of its
// own. Single owner: the worker's goroutine.
type renewals struct {
	*turn
	streams *streams
	node    int

	due  fifo[renewal]
	sock socket
	id   socketID
	up   bool
	busy bool // the first of due is asked for
	in   []byte
	out  []byte
}

// renewal is a list's connection whose token is to be renewed.
type renewal struct {
	list       *list
	connection socketID
	valid      int64 // until when the new token is valid
}

// plan renews the token of a list that is synced, when half of its time is over.
func (r *renewals) plan(l *list) {
	if r.o.ListTokenTTL == 0 {
		return
	}
	if len(l.streamID) == 0 {
		r.streams.oracle.protocol("a list's response without Rollcall-Stream")
		return
	}
	id := l.id
	r.after((l.expires-r.now)/2, func() {
		if l.sock != nil && l.id == id && l.state == watchLive && !l.check {
			r.due.push(renewal{list: l, connection: id})
			r.ask()
		}
	})
}

// open reports whether the connection of a renewal still stands.
func (w *renewal) open() bool {
	return w.list.sock != nil && w.list.id == w.connection && w.list.state == watchLive
}

// ask sends the first request that is due.
func (r *renewals) ask() {
	for r.due.len() > 0 && !r.due.front().open() {
		if r.busy {
			return // its answer is still to come
		}
		r.due.pop()
	}
	switch {
	case r.busy || r.due.len() == 0:
	case r.sock == nil:
		sock, id, err := r.streams.reactor.open(r, r.node, netip.Addr{}, 0)
		if err != nil {
			r.later()
			return
		}
		r.sock, r.id, r.up = sock, id, false
	case r.up:
		r.post(r.due.front())
	}
}

// post writes the request of a renewal.
func (r *renewals) post(w *renewal) {
	l := w.list
	token, err := r.streams.mintList(l, r.o.ListTokenTTL)
	if err != nil {
		r.run.fail(err)
		return
	}
	w.valid = r.now + int64(r.o.ListTokenTTL)
	b := append(r.out[:0], "POST "+wire.ListStreamPath+"/"...)
	b = append(b, l.streamID...)
	b = append(b, "/token HTTP/1.1\r\nHost: "+r.streams.hostOf(&l.stream)+
		"\r\nContent-Length: 0\r\nAuthorization: Bearer "+token+"\r\n\r\n"...)
	r.out = b
	if n, err := r.sock.write(b); err != nil || n < len(b) { // it fits into an empty buffer
		r.broken()
		return
	}
	r.busy = true
}

func (r *renewals) ready(_, out bool) {
	if !r.up {
		if r.sock.connected() != nil {
			r.broken()
		} else if out {
			r.up = true
			_ = r.sock.watch(true, false)
			r.ask()
		}
		return
	}
	n, err := r.sock.read(r.streams.reactor.input)
	r.readClock()
	switch {
	case err == errAgain:
	case err != nil || n == 0:
		r.broken()
	default:
		r.in = append(r.in, r.streams.reactor.input[:n]...)
		r.answers()
	}
}

func (r *renewals) answers() {
	for {
		a, n, err := parseResponse(r.in)
		if err != nil || n > 0 && !r.busy {
			r.streams.oracle.protocol("an answer to a renewal that is none: %.200q", r.in)
			r.broken()
			return
		}
		if n == 0 {
			return
		}
		r.busy = false
		r.answered(r.due.pop(), a)
		r.in = append(r.in[:0], r.in[n:]...)
		if a.last {
			r.broken()
			return
		}
		r.ask()
	}
}

// answered judges the answer to a renewal.
func (r *renewals) answered(w renewal, a response) {
	l := w.list
	switch {
	case a.status == 204 && w.open():
		r.streams.meter.count(listRenewals, 1)
		r.streams.oracle.checked.Renewals++
		l.renewed, l.expires = l.expires, w.valid
		r.plan(l)
	case a.status == 204, a.status == 404 && !w.open():
	case a.status == 503 || a.status == 429:
		r.due.push(w)
	case a.status == 404:
		// The server may have ended the stream, and its end is on its way.
		r.after(int64(r.o.MaxWait), func() {
			if w.open() {
				r.streams.oracle.found(notRenewed, "404 for a stream that is open: %.200s", a.body)
			}
		})
	default:
		r.streams.oracle.found(notRenewed, "a renewal is answered with %d: %.200s", a.status, a.body)
	}
}

// broken closes the connection and tries again later.
func (r *renewals) broken() {
	r.drop()
	r.later()
}

func (r *renewals) later() { r.after(int64(100*time.Millisecond), r.ask) }

func (r *renewals) drop() {
	if r.sock != nil {
		r.streams.reactor.release(r.sock, r.id, false)
	}
	r.sock, r.up, r.busy, r.in = nil, false, false, r.in[:0]
}
