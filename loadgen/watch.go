package loadgen

import "bytes"

// watch is a stream of one user: it shows the oracle what it is sent. It costs a descriptor and 8
// bytes for each device of its user.
type watch struct {
	stream
	user  uint32
	shown []shown // by the device's index within its user
	owed  int     // devices of the snapshot that were not shown so far; -1: it is measured
}

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
	shownBehind             // a list's: what was shown is older than what was acknowledged
	shownHeld               // a list's: the cursor that this connection began with has it
)

// ask asks for the stream and notes which devices its snapshot owes.
func (w *watch) ask() ([]byte, error) {
	s := w.streams
	u := &s.crowd.users[w.user]
	if err := s.mint(u); err != nil {
		return nil, err
	}
	w.owe()
	return s.requestOf(u, &w.stream), nil
}

// owe notes which devices the snapshot must have.
func (w *watch) owe() {
	w.owed = 0
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

func (w *watch) admitted([]byte) { w.complete() }

func (w *watch) read(int) {}

func (w *watch) ended() {}

func (w *watch) moved() { clear(w.shown) }

// frames cuts the body into frames.
func (w *watch) frames(data []byte) (rest []byte) {
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
			return nil
		}
		data = data[end+2:]
	}
	return data
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
	if !w.aside(text) {
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

// measure counts the latency of a live frame.
func (w *watch) measure(d *device, n uint32, offline bool) {
	s := w.streams
	m := s.crowd.oldest(d, n)
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
