package loadgen

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// watch is one stream: it follows a user and tells the oracle what it is shown. It costs a descriptor and 8 bytes for each
// device of its user; a buffer only while it holds a part of a frame.
type watch struct {
	w       *worker
	user    uint32
	source  netip.Addr
	sock    socket
	id      socketID
	state   watchState
	leaving bool // is in worker.toOpen to hang up
	slow    bool // reads on purpose slower than it could
	check   bool // is one of the final checks: closes when it has seen the truth
	chunks  chunked
	part    []byte  // of a head or a frame
	shown   []shown // by the device's index within its user
	owed    int     // devices of the snapshot that were not shown so far
	due     int64   // when it was meant to connect
	since   int64   // of the state
	tries   int     // connects that failed in a row
	retryMS int64   // what the server asked for; -1: nothing
	skips   int64   // frames that it skipped on this connection
}

type watchState uint8

const (
	watchDown       watchState = iota // closed, or a timer will open it
	watchQueued                       // in worker.toOpen
	watchConnecting                   //
	watchHead                         // the request is written
	watchLive
	watchGone // a check that is over
)

// shown is what a stream last said of a device. It outlives reconnects: a client's view must not go back either.
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

func newWatch(w *worker, user uint32) *watch {
	return &watch{w: w, user: user, retryMS: -1, shown: make([]shown, w.users[user].count)}
}

// openSoon queues the connect that was meant for due. Few are opened in a turn, so that a storm of connects does not make
// the heartbeats late.
func (s *watch) openSoon(due int64) {
	s.due = due
	s.state = watchQueued
	s.w.toOpen.push(s)
}

const opensPerTurn = 8

func (w *worker) openStreams() {
	for n := 0; n < opensPerTurn && w.toOpen.len() > 0; n++ {
		s := w.toOpen.pop()
		if s.leaving {
			s.close(false)
			s.state = watchQueued
		}
		if s.state == watchQueued {
			s.open()
		}
		s.leaving = false
	}
}

func (s *watch) open() {
	w := s.w
	receiveBuffer := 0
	if s.slow {
		receiveBuffer = 4096
	}
	sock, id, err := w.connect(s, s.source, receiveBuffer)
	if err != nil {
		s.failed(fmt.Errorf("loadgen: open a stream: %w", err))
		return
	}
	s.sock, s.id, s.state, s.since = sock, id, watchConnecting, w.now
}

func (s *watch) ready(in, out bool) {
	w := s.w
	if s.state == watchConnecting {
		if err := s.sock.connected(); err != nil {
			s.failed(err)
		} else if out {
			s.request()
		}
		return
	}
	if !in {
		return
	}
	buf := w.input
	if s.throttled() {
		buf = buf[:w.o.SlowBytes]
	}
	n, err := s.sock.read(buf)
	w.now = w.run.clock()
	switch {
	case err == errAgain:
		return
	case err != nil || n == 0:
		s.over()
		return
	}
	s.receive(buf[:n])
	if s.throttled() && s.sock != nil {
		s.pause()
	}
}

// throttled says whether the stream is being slow now. After the load it catches up.
func (s *watch) throttled() bool { return s.slow && s.w.stage == loading }

// pause stops reading for a second.
func (s *watch) pause() {
	_ = s.sock.watch(false, false)
	id := s.id
	s.w.timers.after(s.w.now+int64(time.Second), func() { s.resume(id) })
}

func (s *watch) resume(id socketID) {
	if s.sock != nil && s.id == id && s.state >= watchHead {
		_ = s.sock.watch(true, false)
	}
}

// request asks for the stream and notes which devices its snapshot owes.
func (s *watch) request() {
	w := s.w
	u := &w.users[s.user]
	if u.token == "" {
		token, err := w.o.StreamToken(u.text, w.o.wholeRun())
		if err != nil {
			w.run.fail(fmt.Errorf("loadgen: mint a stream token: %w", err))
			return
		}
		u.token, u.prefix = token, framePrefix(u.text)
	}
	s.owed, s.skips = 0, 0
	for i := range s.shown {
		sh := &s.shown[i]
		sh.flags &= shownOffline
		switch d := &w.devices[u.first+uint32(i)]; {
		case d.acked > 0:
			sh.flags |= shownOwed
			s.owed++
		case d.sent == 0:
			sh.flags |= shownBefore // no snapshot can have it, so its first frame is a live one
		}
	}
	w.scratch = append(w.scratch[:0], "GET "+streamPath+"?user_id="...)
	w.scratch = append(w.scratch, u.text...)
	w.scratch = append(w.scratch, " HTTP/1.1\r\nHost: "...)
	w.scratch = append(w.scratch, w.host...)
	w.scratch = append(w.scratch, "\r\nAccept: text/event-stream\r\nAuthorization: Bearer "...)
	w.scratch = append(w.scratch, u.token...)
	w.scratch = append(w.scratch, "\r\n\r\n"...)
	// The buffer of a fresh socket takes a request whole.
	if n, err := s.sock.write(w.scratch); err != nil || n < len(w.scratch) {
		s.failed(fmt.Errorf("loadgen: request a stream: %w", err))
		return
	}
	_ = s.sock.watch(true, false)
	s.state, s.since, s.chunks, s.part, s.retryMS = watchHead, w.now, chunked{}, nil, -1
}

// receive takes input; it may end the connection.
func (s *watch) receive(input []byte) {
	if s.state == watchHead {
		if len(s.part) > 0 {
			input = append(s.part, input...)
			s.part = nil
		}
		end := bytes.Index(input, []byte("\r\n\r\n"))
		if end < 0 {
			s.part = append(s.part, input...)
			return
		}
		if !s.admitted(input[:end+2], input[end+4:]) {
			return
		}
		input = input[end+4:]
	}
	data, end, err := s.chunks.decode(input)
	if err != nil {
		s.w.oracle.protocol("a stream's body is not chunked as it should be: %v", err)
		s.over()
		return
	}
	s.read(data)
	if end {
		s.over()
	}
}

// admitted reads the response's head.
func (s *watch) admitted(head, body []byte) bool {
	w := s.w
	a, _, err := parseHead(head)
	switch {
	case err != nil:
		w.oracle.protocol("the head of a stream's response: %.80q", head)
		s.over()
		return false
	case a.status == 503:
		s.failed(fmt.Errorf("loadgen: a stream is answered 503"))
		return false
	case a.status != 200:
		w.run.fail(fmt.Errorf("loadgen: the server answers a stream with %d: %.200s", a.status, body))
		return false
	}
	s.state, s.since, s.tries = watchLive, w.now, 0
	w.count(connects, 1)
	s.complete()
	return true
}

// read cuts the body into frames.
func (s *watch) read(data []byte) {
	if len(s.part) > 0 {
		data = append(s.part, data...)
		s.part = nil
	}
	for {
		end := bytes.IndexByte(data, '\n')
		if end < 0 || end+1 == len(data) {
			break
		}
		if data[end+1] != '\n' {
			s.w.oracle.protocol("a frame of more than one line: %.300q", data)
			end = bytes.Index(data, []byte("\n\n"))
			if end < 0 {
				break
			}
		}
		s.line(data[:end])
		if s.state != watchLive {
			return
		}
		data = data[end+2:]
	}
	if len(data) > 0 {
		s.part = append([]byte(nil), data...)
	}
}

// line takes one frame or comment, without its line ends.
func (s *watch) line(text []byte) {
	w := s.w
	u := &w.users[s.user]
	if f, ok := parseFrame(text, u.prefix, w.suffix); ok {
		if index, ok := deviceIndex(f.device); ok && index < u.count {
			var own [36]byte
			w.devices[u.first+index].id.put(own[:])
			if bytes.Equal(own[:], f.device) {
				s.event(index, &f)
				return
			}
		}
	}
	switch {
	case len(text) > 0 && text[0] == ':':
		w.count(comments, 1)
	case bytes.HasPrefix(text, []byte("retry:")):
		if ms, err := strconv.ParseInt(string(bytes.TrimSpace(text[len("retry:"):])), 10, 64); err == nil {
			s.retryMS = ms
		}
	default:
		w.oracle.protocol("not a frame of this user: %.300q", text)
	}
}

// event takes a frame of a device: the oracle judges it, then it is measured.
func (s *watch) event(index uint32, f *frame) {
	w := s.w
	d := &w.devices[w.users[s.user].first+index]
	w.count(frames, 1)
	number := f.seq - w.run.seqBase
	if number < 1 || number > int64(d.sent) {
		w.oracle.found(invented, "device %v: a frame with seq %d, which was not sent", d.id, f.seq)
		return
	}
	n := uint32(number)
	sh := &s.shown[index]
	w.oracle.event(s, d, sh, n, f.offline)
	first := sh.flags&shownBefore == 0
	if sh.flags&shownOwed != 0 && (!s.check || n >= d.acked) {
		sh.flags &^= shownOwed
		s.owed--
		s.complete()
	}
	if !first {
		s.measure(d, n, f.offline)
	}
	sh.number = max(sh.number, n)
	sh.flags |= shownBefore
	sh.flags &^= shownOffline
	if f.offline {
		sh.flags |= shownOffline
	}
}

// complete measures the snapshot when its last device was shown.
func (s *watch) complete() {
	w := s.w
	if s.state != watchLive || s.owed > 0 {
		return
	}
	s.owed = -1 // measured
	if s.check {
		w.checks.histogram.record(w.now - s.due)
		return // worker.checkDone closes it, when this read is over
	}
	w.record(toSnapshot, s.due)
}

// measure counts the latency of a live frame. The moment of its heartbeat may be forgotten when the frame is very late;
// the oldest that is remembered stands in, so that such a frame counts as late as can be said.
func (s *watch) measure(d *device, n uint32, offline bool) {
	w := s.w
	if d.sent-n > d.mask {
		n = d.sent - d.mask
	}
	m := w.moments[d.ring+n&d.mask]
	switch {
	case offline:
		w.count(offlines, 1)
		// After an outage the server grants a grace, so lateness would measure that.
		if due := m.written + int64(w.o.TTL); !w.outage.near(w.now, int64(w.o.TTL+w.o.Grace)) {
			w.record(toOffline, due)
		}
	case s.slow:
		w.record(toSlow, m.due)
	default:
		w.record(toFrame, m.due)
	}
}

// failed handles a connect or a request that came to nothing: again later, still due when it was.
func (s *watch) failed(error) {
	w := s.w
	w.count(streamFailures, 1)
	s.close(true)
	s.tries++
	w.timers.after(w.now+w.backoff(s.tries), func() { s.reopen(s.due) })
}

// over handles the end of a stream that was up: the server's doing, or the network's.
func (s *watch) over() {
	w := s.w
	if s.state == watchHead {
		s.failed(nil)
		return
	}
	w.count(ended, 1)
	delay := w.backoff(0)
	if s.retryMS >= 0 {
		delay = s.retryMS * 1e6
	}
	s.close(true)
	due := w.now + delay
	w.timers.after(due, func() { s.reopen(due) })
}

// reopen connects a stream that is down.
func (s *watch) reopen(due int64) {
	if s.state == watchDown && s.w.stage < finished && (!s.check || s.w.stage == verifying) {
		s.openSoon(due)
	}
}

// hangUp lets the stream close, as a client does that goes away, and come back at once. It is in the queue of those that
// connect, for the same reason.
func (s *watch) hangUp(due int64) {
	if s.state == watchLive && !s.leaving {
		s.leaving, s.due = true, due
		s.w.toOpen.push(s)
	}
}

func (s *watch) close(abort bool) {
	if s.sock != nil {
		s.w.disconnect(s.sock, s.id, abort)
	}
	s.sock, s.state, s.since, s.part, s.leaving = nil, watchDown, s.w.now, nil, false
}

func (s *watch) drop() { s.close(true) }

// checkWatches gives up on streams that are not answered.
func (w *worker) checkWatches(limit int64) {
	for _, s := range w.watches {
		if (s.state == watchConnecting || s.state == watchHead) && s.since < limit {
			s.failed(nil)
		}
	}
}
