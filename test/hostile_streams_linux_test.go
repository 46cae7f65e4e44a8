package test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// streamAttacks are what holders of a stream token do.
func streamAttacks() []attack {
	return []attack{
		{name: "never read", crowd: 50, do: (*attackers).neverRead, setup: (*hostile).busy},
		{name: "read a byte now and then", crowd: 50, do: (*attackers).sip, setup: (*hostile).busy},
		{name: "close their half", crowd: 8, do: (*attackers).closeHalf, setup: (*hostile).busy},
		{name: "reset in the middle of a frame", crowd: 8, do: (*attackers).reset,
			setup: (*hostile).busy},
		{name: "send garbage behind the request", crowd: 8, do: (*attackers).talk,
			setup: (*hostile).busy},
		{name: "open and drop", crowd: 4, do: (*attackers).openAndDrop, setup: (*hostile).busy},
		{name: "200 slow streams of 10,000 devices", crowd: 200, do: (*attackers).readSlowly,
			setup: (*hostile).crowded},
		{name: "200 slow streams of 10,000 devices that all change", crowd: 201,
			do: (*attackers).readSlowlyWhatChanges, fills: true,
			setup: func(h *hostile) { h.mustTake(knownBatch(h.user, 0, 600_000).next()) }},
		{name: "500 reading streams of 10,000 devices", crowd: 500, do: (*attackers).readAll,
			setup: (*hostile).crowded, fills: true},
		{name: "500 streams of a device that beats without a pause", crowd: 501,
			do: (*attackers).readWhatBeats, fills: true},
		{name: "20 opens a second of 200,000 devices", crowd: 1, do: (*attackers).openAndLeave,
			flags: []string{"--max-devices-per-user=0"},
			setup: func(h *hostile) { h.user = h.crowdOf(200_000, "online") }},
		{name: "streams over the limit of a user", crowd: 50, fills: true, do: (*attackers).readAll,
			flags: []string{"--max-streams-per-user=10"}, setup: (*hostile).busy},
		{name: "500 streams of 10,000 devices that never read", crowd: 500,
			do: (*attackers).neverRead, setup: (*hostile).crowded, kernel: 96 << 20},
	}
}

// crowded makes the user one with as many devices as one may have.
func (h *hostile) crowded() { h.user = h.crowdOf(10_000, "online") }

// narrow takes little from the server: what it sends stays in the server's kernel.
var narrow = net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048)
	}); e != nil {
		return e
	}
	return err
}}

// onStreams does something with stream after stream.
func (a *attackers) onStreams(d net.Dialer, do func(net.Conn)) {
	for a.pause(0) {
		if c := a.openStream(d); c != nil {
			do(c)
			c.Close()
		}
	}
}

func (a *attackers) neverRead(int) {
	a.onStreams(narrow, func(net.Conn) { <-a.stop })
}

func (a *attackers) sip(int) {
	a.onStreams(narrow, func(c net.Conn) {
		for a.pause(100 * time.Millisecond) {
			c.Read(make([]byte, 1))
		}
	})
}

func (a *attackers) readSlowly(int) {
	a.onStreams(net.Dialer{}, func(c net.Conn) {
		for a.pause(100 * time.Millisecond) {
			if _, err := c.Read(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
}

// readSlowlyWhatChanges is readSlowly, while the first of them changes all devices of the user.
func (a *attackers) readSlowlyWhatChanges(i int) {
	if i > 0 {
		a.readSlowly(i)
		return
	}
	a.resend(knownBatch(a.User, 0, 600_000))
}

// readWhatBeats is readAll, while the first of them sends heartbeats of one device of the user.
func (a *attackers) readWhatBeats(i int) {
	if i > 0 {
		a.readAll(i)
		return
	}
	seq := time.Now().UnixMicro() // grows faster than it is used
	a.ask(a.Addr, 0, func() string {
		var body strings.Builder
		for range 1000 {
			seq++
			body.WriteString(heartbeatLine(a.User, a.User, "online", "beats", seq, 600_000))
		}
		return batch(body.String())
	})
}

func (a *attackers) readAll(int) {
	a.onStreams(net.Dialer{}, func(c net.Conn) { io.Copy(io.Discard, c) })
}

// openAndLeave opens 20 streams a second, and closes each without reading more than its beginning.
func (a *attackers) openAndLeave(int) {
	a.onStreams(net.Dialer{}, func(net.Conn) { a.pause(50 * time.Millisecond) })
}

func (a *attackers) closeHalf(int) {
	a.onStreams(net.Dialer{}, func(c net.Conn) {
		c.(heldConn).Conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		a.pause(5 * time.Millisecond)
	})
}

func (a *attackers) reset(int) {
	a.onStreams(net.Dialer{}, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 700)) // somewhere in the first frames
		a.pause(5 * time.Millisecond)
	})
}

func (a *attackers) talk(int) {
	a.onStreams(net.Dialer{}, func(c net.Conn) {
		for range 100 { // more than the server bears
			if _, err := c.Write(make([]byte, 4096)); err != nil {
				break
			}
		}
		a.pause(5 * time.Millisecond)
	})
}

// openAndDrop opens a thousand streams a second, as one of four.
func (a *attackers) openAndDrop(int) {
	for a.pause(4 * time.Millisecond) {
		if c := a.dial(a.Addr); c != nil {
			io.WriteString(c, a.streamRequest())
			a.done.Add(1)
			c.Close()
		}
	}
}

// kernelTCPMemory is what the system's TCP buffers take.
func kernelTCPMemory() (bytes int64) {
	for _, line := range linesOf("/proc/net/sockstat") {
		var inuse, orphan, wait, alloc, pages int64
		if n, _ := fmt.Sscanf(line, "TCP: inuse %d orphan %d tw %d alloc %d mem %d",
			&inuse, &orphan, &wait, &alloc, &pages); n == 5 {
			return pages * int64(unix.Getpagesize())
		}
	}
	return 0
}
