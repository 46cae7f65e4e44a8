package test

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
)

// deviceAttacks fill tables that all share.
func deviceAttacks() []attack {
	return []attack{
		{name: "new devices at full speed", crowd: 2, fills: true, do: (*attackers).flood,
			flags: []string{"--max-devices=50000"}, setup: func(h *hostile) { h.warm(50_000) }},
		{name: "new devices of one user at full speed", crowd: 2, fills: true,
			do: (*attackers).floodOne, setup: (*hostile).crowded, probe: (*hostile).newSource},
		{name: "70,000 distinct sources", crowd: 1, do: (*attackers).nameSources,
			setup: (*hostile).manySources, probe: (*hostile).newSource},
		{name: "forgetting 40,000 devices of one user", crowd: 1, do: (*attackers).goOffline,
			flags: []string{"--max-devices-per-user=0", "--forget-after=200ms",
				"--checkpoint-interval=100ms"},
			longer: 3, settled: (*hostile).hasForgotten},
		{name: "presence at full rate", crowd: 4, fills: true, setup: (*hostile).crowded,
			do: func(a *attackers, _ int) { a.ask(a.Admin, 0, a.presenceRequest) }},
		{name: "presence of 300,000 devices, 5 a second", crowd: 1, do: (*attackers).askPresence,
			flags: []string{"--max-devices-per-user=0"},
			setup: func(h *hostile) { h.user = h.crowdOf(300_000, "online") }},
	}
}

// flood sends batches of devices that were never there before.
func (a *attackers) flood(int) {
	a.ask(a.Addr, 0, func() string { return newDevicesOf("", 10_000, "online", "flood") })
}

// floodOne is flood with one user's devices.
func (a *attackers) floodOne(int) {
	a.ask(a.Addr, 0, func() string { return newDevicesOf(a.User, 10_000, "online", "flood") })
}

// newDevicesOf is a batch of new devices of a user; without one each has its own.
func newDevicesOf(user string, n int, status, source string) string {
	var body strings.Builder
	for range n {
		device, of := uuid.NewString(), user
		if of == "" {
			of = device
		}
		body.WriteString(heartbeatLine(of, device, status, source, 1, 600_000))
	}
	return batch(body.String())
}

// nameSources sends 20,000 new sources a second, with heartbeats of known devices.
func (a *attackers) nameSources(int) {
	seq := time.Now().UnixMicro() // so that it grows, from one time to the next
	a.ask(a.Addr, 50*time.Millisecond, func() string {
		seq++
		return newSources(rand.New(rand.NewPCG(2, 0)), 1000, seq)
	})
}

// newSources is a batch of n devices, each with a source that was never there before.
func newSources(devices *rand.Rand, n int, seq int64) string {
	var body strings.Builder
	for range n {
		id := randomUUID(devices)
		body.WriteString(heartbeatLine(id, id, "online", "host-"+uuid.NewString(), seq, 600_000))
	}
	return batch(body.String())
}

func (h *hostile) manySources() {
	devices := rand.New(rand.NewPCG(2, 0))
	for range 7 {
		h.send(newSources(devices, 10_000, 1))
	}
}

// newSource is what others do: a new device, with a source that was never there before.
func (h *hostile) newSource() error {
	id := uuid.NewString()
	return h.wants(204, request("POST", heartbeatPath,
		heartbeatLine(id, id, "offline", "mine-"+id, 1, 1000), bearer(ingestToken)))
}

// goOffline brings 40,000 devices of one user, offline at once, which the server then forgets.
func (a *attackers) goOffline(int) {
	left := 4
	a.ask(a.Addr, 0, func() string {
		if left == 0 {
			<-a.stop
			return ""
		}
		left--
		return newDevicesOf(a.User, 10_000, "offline", "gone")
	})
}

// hasForgotten tells whether the devices of the attack are gone.
func (h *hostile) hasForgotten() bool {
	return value(h.t, h.scrape(), "devices", "status=offline") < 10
}

func (a *attackers) askPresence(int) {
	a.ask(a.Admin, time.Second/5, a.presenceRequest)
}

func (a *attackers) presenceRequest() string {
	return request("GET", "/debug/presence?user_id="+a.User, "")
}
