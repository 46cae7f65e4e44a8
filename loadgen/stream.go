package loadgen

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// stream is the connection of a stream: its socket, its state, its framing. What it follows and
// what the frames mean, its reader knows. A buffer is kept only while it holds a part of a frame.
type stream struct {
	streams *streams
	reader  reader
	node    int // which of the targets
	source  netip.Addr
	sock    socket
	id      socketID
	state   watchState
	leaving bool // is in streams.toOpen to hang up
	slow    bool // reads on purpose slower than it could
	check   bool // is one of the final checks
	chunks  chunked
	part    []byte // of a head or a frame
	unsent  []byte // of the request
	due     int64  // when it was meant to connect
	since   int64  // of the state
	tries   int    // connects that failed in a row
	retryMS int64  // the last retry: of the server; -1: none
	skips   int64  // frames that it skipped on this connection
}

// reader is what a stream is for.
type reader interface {
	// ask returns the request, valid until the next call, and notes what the snapshot owes.
	ask() (request []byte, err error)
	// admitted takes the head of the response that lets the stream in.
	admitted(head []byte)
	// read counts what came from the socket.
	read(bytes int)
	// ended is called when the server ends the stream.
	ended()
	// moved is called when the next connection goes to another node: the client begins anew.
	moved()
	// frames takes the whole frames of data and returns what is left.
	frames(data []byte) (rest []byte)
}

type watchState uint8

const (
	watchDown       watchState = iota // closed, or a timer will open it
	watchQueued                       // in streams.toOpen
	watchConnecting                   //
	watchHead                         // the request is written
	watchLive
	watchGone // a check that is over
)

// openSoon queues the connect that was meant for due. Few are opened in a turn, so that a storm of
// connects does not make the heartbeats late.
func (w *stream) openSoon(due int64) {
	w.due = due
	w.state = watchQueued
	w.streams.toOpen.push(w)
}

func (w *stream) open() {
	s := w.streams
	receiveBuffer := 0
	if w.slow {
		receiveBuffer = 4096
	}
	sock, id, err := s.reactor.open(w, w.node, w.source, receiveBuffer)
	if err != nil {
		w.failed()
		return
	}
	w.sock, w.id, w.state, w.since = sock, id, watchConnecting, s.now
}

func (w *stream) ready(in, out bool) {
	if w.state == watchConnecting {
		if w.sock.connected() != nil {
			w.failed()
		} else if out {
			w.request()
		}
		return
	}
	if out && len(w.unsent) > 0 && !w.send() {
		return
	}
	if in {
		w.receiveSome()
	}
}

func (w *stream) receiveSome() {
	s := w.streams
	buf := s.reactor.input
	if w.throttled() {
		buf = buf[:s.o.SlowBytes]
	}
	n, err := w.sock.read(buf)
	s.readClock()
	switch {
	case err == errAgain:
		return
	case err != nil || n == 0:
		w.over()
		return
	}
	w.reader.read(n)
	w.receive(buf[:n])
	if w.throttled() && w.sock != nil {
		w.pause()
	}
}

// throttled reports whether the stream is being slow now. After the load it catches up.
func (w *stream) throttled() bool { return w.slow && w.streams.stage == loading }

// pause stops reading for a second.
func (w *stream) pause() {
	_ = w.sock.watch(false, false)
	id := w.id
	w.streams.after(int64(time.Second), func() { w.resume(id) })
}

func (w *stream) resume(id socketID) {
	if w.sock != nil && w.id == id && w.state >= watchHead {
		_ = w.sock.watch(true, len(w.unsent) > 0)
	}
}

// request asks for the stream.
func (w *stream) request() {
	s := w.streams
	text, err := w.reader.ask()
	if err != nil {
		s.run.fail(err)
		return
	}
	w.state, w.since, w.chunks, w.part, w.retryMS = watchHead, s.now, chunked{}, nil, -1
	w.skips, w.unsent = 0, text
	w.send()
}

// send writes what is left of the request. False: the connection has failed.
func (w *stream) send() bool {
	n, err := w.sock.write(w.unsent)
	switch {
	case err == errAgain:
		n = 0
	case err != nil:
		w.failed()
		return false
	}
	// What is left is copied: the request is in a buffer of all streams.
	if w.unsent = w.unsent[n:]; len(w.unsent) > 0 {
		w.unsent = bytes.Clone(w.unsent)
	} else {
		w.unsent = nil
	}
	_ = w.sock.watch(true, len(w.unsent) > 0)
	return true
}

// receive takes input; it may end the connection.
func (w *stream) receive(input []byte) {
	if w.state == watchHead {
		input = w.whole(input)
		end := bytes.Index(input, []byte("\r\n\r\n"))
		if end < 0 {
			w.part = append(w.part, input...)
			return
		}
		if !w.admit(input[:end+2], input[end+4:]) {
			return
		}
		input = input[end+4:]
	}
	data, end, err := w.chunks.decode(input)
	if err != nil {
		w.streams.oracle.protocol("a stream's body is not chunked as it should be: %v", err)
		w.over()
		return
	}
	rest := w.reader.frames(w.whole(data))
	if w.state == watchLive && len(rest) > 0 {
		w.part = bytes.Clone(rest)
	}
	if end {
		w.over()
	}
}

// whole joins the part that was kept with what follows it.
func (w *stream) whole(input []byte) []byte {
	if len(w.part) > 0 {
		input = append(w.part, input...)
		w.part = nil
	}
	return input
}

// admit reads the response's head.
func (w *stream) admit(head, body []byte) bool {
	s := w.streams
	r, _, err := parseHead(head)
	switch {
	case err != nil:
		s.oracle.protocol("the head of a stream's response: %.80q", head)
		w.over()
		return false
	case r.status == 503, r.status == 429:
		w.failed()
		return false
	case r.status != 200:
		s.run.fail(fmt.Errorf("loadgen: the server answers a stream with %d: %.200s", r.status,
			body))
		return false
	}
	w.state, w.since, w.tries = watchLive, s.now, 0
	s.meter.count(connects, 1)
	w.reader.admitted(head)
	return true
}

// aside takes a line that is no frame: a comment or the time to come back. False: it is neither.
func (w *stream) aside(text []byte) bool {
	switch {
	case len(text) > 0 && text[0] == ':':
		w.streams.meter.count(comments, 1)
		return true
	case bytes.HasPrefix(text, []byte("retry:")):
		value := string(bytes.TrimSpace(text[len("retry:"):]))
		if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
			w.retryMS = ms
		}
		return true
	}
	return false
}

// failed handles a connect or a request that did not succeed. It is tried again later, and is still
// due when it was.
func (w *stream) failed() {
	s := w.streams
	s.meter.count(streamFailures, 1)
	w.close(true)
	w.move()
	w.tries++
	s.after(s.backoff(w.tries), func() { w.reopen(w.due) })
}

// over handles the end of a stream that was up.
func (w *stream) over() {
	s := w.streams
	if w.state == watchHead {
		w.failed()
		return
	}
	s.meter.count(ended, 1)
	w.reader.ended()
	delay := s.backoff(0)
	if w.retryMS >= 0 {
		delay = w.retryMS * 1e6
	}
	w.close(true)
	w.move()
	due := s.now + delay
	s.timers.add(due, func() { w.reopen(due) })
}

// move takes a stream whose server failed or sent it away to the next node, as a balancer does.
func (w *stream) move() {
	if n := len(w.streams.reactor.targets); n > 1 {
		w.node = (w.node + 1) % n
		w.reader.moved()
	}
}

// reopen connects a stream that is down.
func (w *stream) reopen(due int64) {
	stage := w.streams.stage
	if w.state == watchDown && stage < finished && (!w.check || stage == verifying) {
		w.openSoon(due)
	}
}

// hangUp lets the stream close, as a client does that goes away, and come back at once. It is in
// the queue of those that connect, for the same reason.
func (w *stream) hangUp(due int64) {
	if w.state == watchLive && !w.leaving {
		w.leaving, w.due = true, due
		w.streams.toOpen.push(w)
	}
}

func (w *stream) close(abort bool) {
	if w.sock != nil {
		w.streams.reactor.release(w.sock, w.id, abort)
	}
	w.sock, w.state, w.since, w.leaving = nil, watchDown, w.streams.now, false
	w.part, w.unsent = nil, nil
}

func (w *stream) drop() { w.close(true) }
