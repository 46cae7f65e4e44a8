package loadgen

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// watch is one stream: it follows a user and shows the oracle what it is sent. It costs a
// descriptor and 8 bytes for each device of its user; a buffer only while it holds a part of a
// frame.
type watch struct {
	streams *streams
	user    uint32
	source  netip.Addr
	sock    socket
	id      socketID
	state   watchState
	leaving bool // is in streams.toOpen to hang up
	slow    bool // reads on purpose slower than it could
	check   bool // is one of the final checks: closes when it has seen the truth
	chunks  chunked
	part    []byte  // of a head or a frame
	shown   []shown // by the device's index within its user
	owed    int     // devices of the snapshot that were not shown so far; -1: it is measured
	due     int64   // when it was meant to connect
	since   int64   // of the state
	tries   int     // connects that failed in a row
	retryMS int64   // the last retry: of the server; -1: none
	skips   int64   // frames that it skipped on this connection
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

// shown is what a stream last said of a device. It outlives reconnects: a client's view must not go
// back either.
type shown struct {
	number uint32 // 0: nothing so far
	flags  shownFlags
}

type shownFlags uint8

const (
	shownOffline shownFlags = 1 << iota
	shownBefore             // on this connection
	shownOwed               // the snapshot of this connection must have it
)

// openSoon queues the connect that was meant for due. Few are opened in a turn, so that a storm of
// connects does not make the heartbeats late.
func (w *watch) openSoon(due int64) {
	w.due = due
	w.state = watchQueued
	w.streams.toOpen.push(w)
}

func (w *watch) open() {
	s := w.streams
	receiveBuffer := 0
	if w.slow {
		receiveBuffer = 4096
	}
	sock, id, err := s.reactor.open(w, w.source, receiveBuffer)
	if err != nil {
		w.failed()
		return
	}
	w.sock, w.id, w.state, w.since = sock, id, watchConnecting, s.now
}

func (w *watch) ready(in, out bool) {
	if w.state == watchConnecting {
		if w.sock.connected() != nil {
			w.failed()
		} else if out {
			w.request()
		}
		return
	}
	if in {
		w.read()
	}
}

func (w *watch) read() {
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
	w.receive(buf[:n])
	if w.throttled() && w.sock != nil {
		w.pause()
	}
}

// throttled reports whether the stream is being slow now. After the load it catches up.
func (w *watch) throttled() bool { return w.slow && w.streams.stage == loading }

// pause stops reading for a second.
func (w *watch) pause() {
	_ = w.sock.watch(false, false)
	id := w.id
	w.streams.after(int64(time.Second), func() { w.resume(id) })
}

func (w *watch) resume(id socketID) {
	if w.sock != nil && w.id == id && w.state >= watchHead {
		_ = w.sock.watch(true, false)
	}
}

// request asks for the stream and notes which devices its snapshot owes.
func (w *watch) request() {
	s := w.streams
	u := &s.crowd.users[w.user]
	if err := s.mint(u); err != nil {
		s.run.fail(err)
		return
	}
	w.owe()
	text := s.requestOf(u)
	// The buffer of a fresh socket takes a request whole.
	if n, err := w.sock.write(text); err != nil || n < len(text) {
		w.failed()
		return
	}
	_ = w.sock.watch(true, false)
	w.state, w.since, w.chunks, w.part, w.retryMS = watchHead, s.now, chunked{}, nil, -1
}

// owe notes which devices the snapshot must have.
func (w *watch) owe() {
	w.owed, w.skips = 0, 0
	devices := w.streams.crowd.devicesOf(w.user)
	for i := range w.shown {
		sh := &w.shown[i]
		sh.flags &= shownOffline
		switch d := &devices[i]; {
		case d.acked > 0:
			sh.flags |= shownOwed
			w.owed++
		case d.sent == 0:
			sh.flags |= shownBefore // no snapshot can have it, so its first frame is a live one
		}
	}
}

// receive takes input; it may end the connection.
func (w *watch) receive(input []byte) {
	if w.state == watchHead {
		input = w.whole(input)
		end := bytes.Index(input, []byte("\r\n\r\n"))
		if end < 0 {
			w.part = append(w.part, input...)
			return
		}
		if !w.admitted(input[:end+2], input[end+4:]) {
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
	w.frames(data)
	if end {
		w.over()
	}
}

// whole joins the part that was kept with what follows it.
func (w *watch) whole(input []byte) []byte {
	if len(w.part) > 0 {
		input = append(w.part, input...)
		w.part = nil
	}
	return input
}

// admitted reads the response's head.
func (w *watch) admitted(head, body []byte) bool {
	s := w.streams
	r, _, err := parseHead(head)
	switch {
	case err != nil:
		s.oracle.protocol("the head of a stream's response: %.80q", head)
		w.over()
		return false
	case r.status == 503:
		w.failed()
		return false
	case r.status != 200:
		s.run.fail(fmt.Errorf("loadgen: the server answers a stream with %d: %.200s", r.status,
			body))
		return false
	}
	w.state, w.since, w.tries = watchLive, s.now, 0
	s.meter.count(connects, 1)
	w.complete()
	return true
}

// frames cuts the body into frames.
func (w *watch) frames(data []byte) {
	data = w.whole(data)
	for {
		end := bytes.IndexByte(data, '\n')
		if end == 0 || end > 0 && data[0] == ':' { // a comment ends with its line
			if end > 0 {
				w.line(data[:end])
			}
			data = data[end+1:]
			continue
		}
		if end < 0 || end+1 == len(data) {
			break
		}
		if data[end+1] != '\n' {
			w.streams.oracle.protocol("a frame of more than one line: %.300q", data)
			end = bytes.Index(data, []byte("\n\n"))
			if end < 0 {
				break
			}
		}
		w.line(data[:end])
		if w.state != watchLive {
			return
		}
		data = data[end+2:]
	}
	if len(data) > 0 {
		w.part = append([]byte(nil), data...)
	}
}

// line takes one frame or comment, without its line ends.
func (w *watch) line(text []byte) {
	s := w.streams
	u := &s.crowd.users[w.user]
	if f, ok := parseFrame(text, u.prefix, s.suffix); ok {
		if index, ok := indexIn(f.device); ok && index < u.count {
			var own [36]byte
			d := &s.crowd.devices[u.first+index]
			d.id.put(own[:])
			if bytes.Equal(own[:], f.device) {
				w.event(d, &w.shown[index], &f)
				return
			}
		}
	}
	switch {
	case len(text) > 0 && text[0] == ':':
		s.meter.count(comments, 1)
	case bytes.HasPrefix(text, []byte("retry:")):
		value := string(bytes.TrimSpace(text[len("retry:"):]))
		if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
			w.retryMS = ms
		}
	default:
		s.oracle.protocol("not a frame of this user: %.300q", text)
	}
}

// event takes a frame of a device: the oracle judges it, then it is measured.
func (w *watch) event(d *device, sh *shown, f *frame) {
	s := w.streams
	s.meter.count(frames, 1)
	number := f.seq - s.run.seqBase
	if number < 1 || number > int64(d.sent) {
		s.oracle.found(invented, "device %v: a frame with seq %d, which was not sent", d.id, f.seq)
		return
	}
	n := uint32(number)
	s.oracle.event(w, d, sh, n, f.offline)
	first := sh.flags&shownBefore == 0
	if sh.flags&shownOwed != 0 && (!w.check || n >= d.acked) {
		sh.flags &^= shownOwed
		w.owed--
		w.complete()
	}
	if !first {
		w.measure(d, n, f.offline)
	}
	sh.number = max(sh.number, n)
	sh.flags |= shownBefore
	sh.flags &^= shownOffline
	if f.offline {
		sh.flags |= shownOffline
	}
}

// complete measures the snapshot when its last device was shown.
func (w *watch) complete() {
	s := w.streams
	if w.state != watchLive || w.owed > 0 {
		return
	}
	w.owed = -1
	if w.check {
		s.checked.record(s.now - w.due)
		return // checks closes it, when this read is over
	}
	s.meter.record(toSnapshot, w.due)
}

// measure counts the latency of a live frame. The moment of its heartbeat may be forgotten when the
// frame is very late. Then the oldest that is remembered stands in: the frame counts as late as can
// be said.
func (w *watch) measure(d *device, n uint32, offline bool) {
	s := w.streams
	if d.sent-n > d.mask {
		n = d.sent - d.mask
	}
	m := s.crowd.momentOf(d, n)
	switch {
	case offline:
		s.meter.count(offlines, 1)
		// After an outage the server grants a grace, so lateness would measure that.
		if !s.outage.near(s.now, int64(s.o.TTL+s.o.Grace)) {
			s.meter.record(toOffline, m.written+int64(s.o.TTL))
		}
	case w.slow:
		s.meter.record(toSlow, m.due)
	default:
		s.meter.record(toFrame, m.due)
	}
}

// failed handles a connect or a request that did not succeed. It is tried again later, and is still
// due when it was.
func (w *watch) failed() {
	s := w.streams
	s.meter.count(streamFailures, 1)
	w.close(true)
	w.tries++
	s.after(s.backoff(w.tries), func() { w.reopen(w.due) })
}

// over handles the end of a stream that was up.
func (w *watch) over() {
	s := w.streams
	if w.state == watchHead {
		w.failed()
		return
	}
	s.meter.count(ended, 1)
	delay := s.backoff(0)
	if w.retryMS >= 0 {
		delay = w.retryMS * 1e6
	}
	w.close(true)
	due := s.now + delay
	s.timers.add(due, func() { w.reopen(due) })
}

// reopen connects a stream that is down.
func (w *watch) reopen(due int64) {
	stage := w.streams.stage
	if w.state == watchDown && stage < finished && (!w.check || stage == verifying) {
		w.openSoon(due)
	}
}

// hangUp lets the stream close, as a client does that goes away, and come back at once. It is in
// the queue of those that connect, for the same reason.
func (w *watch) hangUp(due int64) {
	if w.state == watchLive && !w.leaving {
		w.leaving, w.due = true, due
		w.streams.toOpen.push(w)
	}
}

func (w *watch) close(abort bool) {
	if w.sock != nil {
		w.streams.reactor.release(w.sock, w.id, abort)
	}
	w.sock, w.state, w.since, w.part, w.leaving = nil, watchDown, w.streams.now, nil, false
}

func (w *watch) drop() { w.close(true) }
