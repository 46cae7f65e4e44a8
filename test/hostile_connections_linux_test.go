package test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// connectionAttacks need no token.
func connectionAttacks() []attack {
	return []attack{
		{name: "send the head a byte at a time", crowd: 200, do: func(a *attackers, _ int) {
			text := a.streamRequest()
			a.drip(text[:len(text)-1], 0)
		}},
		{name: "wrong tokens at full rate", crowd: 8, fills: true, do: sends(0, func() string {
			return request("POST", heartbeatPath, newBeat().json(), bearer("wrong"))
		})},
		{name: "streams with wrong tokens at full rate", crowd: 8, fills: true,
			do: func(a *attackers, _ int) {
				text := request("GET", streamPath+"?user_id="+a.User, "",
					bearer(signToken("another key", a.User, time.Hour)))
				a.ask(a.Addr, 0, func() string { return text })
			}},
		{name: "heads of 15 KiB at full rate", crowd: 8, fills: true, do: sends(0, func() string {
			return request("POST", heartbeatPath, newBeat().json(), bearer("wrong"),
				"Cookie: "+strings.Repeat("c", 15<<10))
		})},
		{name: "3,000 header lines at full rate", crowd: 8, fills: true, do: sends(0,
			func() string {
				return request("POST", heartbeatPath, newBeat().json(),
					strings.Repeat("a:b\r\n", 3000)+bearer("wrong"))
			})},
		{name: "heads without an end", crowd: 50, fills: true, do: sends(0, func() string {
			return "GET / HTTP/1.1\r\nCookie: " + strings.Repeat("c", 1<<20)
		})},
		{name: "connect and leave", crowd: 8, fills: true, do: (*attackers).connectAndLeave},
		{name: "ask and never read an answer", crowd: 50, fills: true, do: (*attackers).pipeline},
		{name: "idle connections to the limit", crowd: 120, do: (*attackers).idle,
			descriptors: 256 + 16, probe: (*hostile).newConnectionSoon},
		{name: "half a request to the limit", crowd: 120, do: (*attackers).halfRequest,
			descriptors: 256 + 16, probe: (*hostile).newConnectionSoon},
		{name: "connections that come back at once, with a limit for an address", crowd: 120,
			do: func(a *attackers, _ int) { a.hold(holding{addr: a.Addr}) }, descriptors: 256 + 16,
			flags: []string{"--max-connections-per-ip=40"}, probe: (*hostile).newConnection},
		{name: "260 admin POSTs whose body never comes", crowd: 260, do: (*attackers).holdAdmin,
			descriptors: 300, probe: (*hostile).newConnectionAndProbe},
		{name: "50 who ask for presence and never read", crowd: 50, do: func(a *attackers, _ int) {
			a.hold(holding{dialer: narrow, addr: a.Admin, begin: a.presenceRequest(), deaf: true})
		}, setup: (*hostile).crowded, probe: (*hostile).newConnectionAndProbe},
		{name: "metrics at full rate", crowd: 4, fills: true, do: func(a *attackers, _ int) {
			a.ask(a.Admin, 0, func() string { return request("GET", "/metrics", "") })
		}},
	}
}

func (a *attackers) connectAndLeave(int) {
	for a.pause(0) {
		if c := a.dial(a.Addr); c != nil {
			a.done.Add(1)
			c.Close()
		}
	}
}

// pipeline sends requests and reads none of the answers.
func (a *attackers) pipeline(int) {
	text := strings.Repeat(request("POST", heartbeatPath, "{}", bearer("wrong")), 100)
	for a.pause(0) {
		if c := a.dialWith(narrow, a.Addr); c != nil {
			release := a.held(c)
			for {
				if _, err := io.WriteString(c, text); err != nil {
					break
				}
				a.done.Add(100)
			}
			release()
		}
	}
}

// idle holds a connection, says nothing, and takes another when it loses it.
func (a *attackers) idle(int) { a.hold(holding{addr: a.Addr, pause: time.Second}) }

func (a *attackers) halfRequest(int) {
	a.hold(holding{addr: a.Addr, pause: time.Second,
		begin: "POST " + heartbeatPath + " HTTP/1.1\r\nHost: rollcall\r\n"})
}

func (a *attackers) holdAdmin(int) {
	a.hold(holding{addr: a.Admin,
		begin: "POST /debug/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"})
}

// holding is a connection that is kept for nothing.
type holding struct {
	dialer net.Dialer
	addr   string
	begin  string        // what is sent
	deaf   bool          // it reads nothing, and so does not notice the server's close
	pause  time.Duration // before another is taken when the server has closed it
}

// hold holds one connection after the other.
func (a *attackers) hold(h holding) {
	for a.pause(5 * time.Millisecond) {
		c := a.dialWith(h.dialer, h.addr)
		if c == nil {
			continue
		}
		release := a.held(c)
		io.WriteString(c, h.begin)
		a.done.Add(1)
		if h.deaf {
			<-a.stop
		} else {
			io.Copy(io.Discard, c)
		}
		release()
		a.pause(h.pause)
	}
}

// newConnection is what others do: a heartbeat on a connection of its own.
func (h *hostile) newConnection() error {
	h.probed++
	return h.wants(204, request("POST", heartbeatPath,
		h.known.with("seq", h.probed).json(), bearer(ingestToken)))
}

// newConnectionSoon tries again, as daemons do: connections that just came keep their place for a
// while, also at the limit.
func (h *hostile) newConnectionSoon() error { return soon(h.newConnection) }

// newConnectionAndProbe asks the admin listener too, as an orchestrator does, which tries again.
func (h *hostile) newConnectionAndProbe() error {
	if err := h.newConnection(); err != nil {
		return err
	}
	client := http.Client{Timeout: probeLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	return soon(func() error {
		resp, err := client.Get("http://" + h.admin + "/livez")
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	})
}

// soon tries for two seconds.
func soon(try func() error) (err error) {
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(probeEvery) {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}
