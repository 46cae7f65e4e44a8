package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// Servers of the steps below, each with an admin port above it.
const port, otherPort = 8797, 8801

// lists is what streams of many users and queries cost, each beside what an app would do without
// them.
func (m *measurement) lists() error {
	var all []string
	for _, step := range []struct {
		name string
		run  func() ([]string, error)
	}{
		{"lists-memory", m.resident},
		{"lists-views", m.views},
		{"lists-fanout", m.listFanout},
		{"lists-query", m.query},
		{"lists-reconnect", m.reconnect},
	} {
		if !m.wanted(step.name) {
			continue
		}
		lines, err := step.run()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		for _, line := range lines {
			fmt.Fprintln(os.Stderr, "         ", line)
		}
		all = append(all, lines...)
	}
	if len(all) == 0 {
		return nil
	}
	return m.writeLines("lists", all,
		"cd bench && go run ./cmd/measure -rollcall ../bin/rollcall -only lists")
}

// startRollcall starts a server with a directory of its own.
func (m *measurement) startRollcall(port int) (s *server, done func() error, err error) {
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return nil, nil, err
	}
	if s, err = m.startIn(dir, port); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, func() error { return errors.Join(s.stop(), os.RemoveAll(dir)) }, nil
}

// startIn starts a server on a directory.
func (m *measurement) startIn(dir string, port int) (*server, error) {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	cmd := exec.Command(m.rollcall, "serve", "--listen", addr, "--admin-listen",
		fmt.Sprintf("127.0.0.1:%d", port+1), "--data-dir", filepath.Join(dir, "data"))
	return startServer(cmd, "rollcall serve --listen "+addr, addr, dir)
}

// A contact list: so many users, of two devices each, that beat every 12 s; a twentieth of the
// users goes away or comes back in a minute.
const (
	contacts     = 500
	beatsEvery   = 12
	flipsPerTick = 5 // of 500 users, every 12 s
	viewsTicks   = 20
	tickTime     = time.Second // stands for 12 s: what is sent depends on beats, not on time
)

// views is what view=users sends beside view=devices, to two streams of the same users.
func (m *measurement) views() (lines []string, err error) {
	s, done, err := m.startRollcall(port)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	report := newReporter(s.address)
	if err := report.introduce(contacts, 2); err != nil {
		return nil, err
	}
	r, err := newReceiver()
	if err != nil {
		return nil, err
	}
	defer r.close()
	for _, view := range []string{"devices", "users"} {
		users := userIDs(0, contacts, contacts)
		if err := r.open(port, listRequest(0, "view="+view, users, "")); err != nil {
			return nil, err
		}
	}
	if err := r.receive(func() bool { return r.synced == 2 }); err != nil {
		return nil, err
	}
	devices, users := r.streams[0], r.streams[1]
	before, beforeUsers := devices.bytes, users.bytes
	frames := r.frames
	away := make([]bool, contacts)
	next := 0
	for tick := range viewsTicks {
		began := time.Now()
		for range flipsPerTick {
			away[next%contacts] = !away[next%contacts]
			if next++; next%(2*flipsPerTick) == 0 { // the same come back in the tick after the next
				next -= 2 * flipsPerTick
			}
		}
		for part := range 10 { // spread over the tick, as beats are
			for u := part; u < contacts; u += 10 {
				for d := range 2 {
					status := "online"
					if away[u] {
						status = "offline"
					}
					report.add(userID(u), d, 2+tick, status)
				}
			}
			if err := report.send(); err != nil {
				return nil, err
			}
			for time.Since(began) < tickTime*time.Duration(part+1)/10 {
				if err := r.poll(10); err != nil {
					return nil, err
				}
			}
		}
	}
	if want := frames + viewsTicks*contacts*2; r.frames < want {
		if err := r.receive(func() bool { return r.frames >= want }); err != nil {
			return nil, err
		}
	}
	byDevices := float64(devices.bytes-before) / viewsTicks / beatsEvery
	byUsers := float64(users.bytes-beforeUsers) / viewsTicks / beatsEvery
	return []string{fmt.Sprintf("BenchmarkLists/figure=views/users=%d/devices=2 1 "+
		"%.0f devices-B/s %.0f users-B/s %.4f ratio",
		contacts, byDevices, byUsers, byUsers/byDevices)}, nil
}

const (
	fanStreams   = 9_900
	fanUsers     = 100 // of a list
	fanFollowers = 2   // streams of each user
	fanRounds    = 12

	steadyEvents = 20_000 // heartbeats per second
	steadyBatch  = 200
	steadyTime   = 4 * time.Second
)

// listFanout lets a server with streams of lists and one with streams of one user take turns at
// telling all of their streams something, each user's event to as many of them, read by the same
// receiver. Then it is lists alone, at a steady rate: from the sending of a heartbeat to the last
// of its frames.
func (m *measurement) listFanout() (lines []string, err error) {
	singles := fanStreams / fanFollowers
	listed := fanStreams * fanUsers / fanFollowers
	list, err := m.newFan(port, listed, func(n int) []byte {
		users := make([]string, 0, fanUsers)
		for i := range fanUsers { // hardly two streams share two users
			users = append(users, userID(singles*i+(n+97*i)%fanStreams/fanFollowers))
		}
		return listRequest(n, "", users, "")
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, list.close()) }()
	single, err := m.newFan(otherPort, singles, func(n int) []byte {
		return singleRequest(userID(n / fanFollowers))
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, single.close()) }()
	var ratios, ours, beside []float64
	for range fanRounds {
		// as many events, each to as many streams
		a, err := list.round(singles)
		if err != nil {
			return nil, err
		}
		b, err := single.round(singles)
		if err != nil {
			return nil, err
		}
		ours, beside = append(ours, a), append(beside, b)
		ratios = append(ratios, a/b)
	}
	lines = append(lines, fmt.Sprintf("BenchmarkLists/figure=fan-out/streams=%d/users=%d 1 "+
		"%.0f frames/s %.0f single-frames/s %.3f ratio",
		fanStreams, fanUsers, middle(ours), middle(beside), middle(ratios)))
	p50, p99, err := list.steady()
	return append(lines, fmt.Sprintf("BenchmarkLists/figure=delivery/streams=%d/users=%d/"+
		"events=%d 1 %.2f p50-ms %.2f p99-ms", fanStreams, fanUsers, steadyEvents, p50, p99)), err
}

func middle(all []float64) float64 {
	all = slices.Clone(all)
	slices.Sort(all)
	return all[len(all)/2]
}

// fan is a server with many streams, and who reads them.
type fan struct {
	*receiver
	server *server
	done   func() error
	report *reporter
	users  int
	next   int // user whose turn it is
	seq    int
}

func (m *measurement) newFan(port, users int, request func(n int) []byte) (f *fan, err error) {
	f = &fan{users: users, seq: 1}
	if f.receiver, err = newReceiver(); err != nil {
		return nil, err
	}
	if f.server, f.done, err = m.startRollcall(port); err != nil {
		return nil, err
	}
	f.report = newReporter(f.server.address)
	err = f.report.introduce(users, 1)
	for n := 0; n < fanStreams && err == nil; n++ {
		if err = f.open(port, request(n)); err == nil && n%50 == 0 {
			err = f.poll(0)
		}
	}
	if err == nil { // each stream has a frame of each user
		of := fanStreams
		if users > of {
			of *= fanUsers
		}
		err = f.receive(func() bool { return f.frames >= of })
	}
	if err != nil {
		err = errors.Join(err, f.close())
	}
	return f, err
}

func (f *fan) close() error {
	f.receiver.close()
	return f.done()
}

// round tells so many users' streams an event and returns the frames per second, from the sending
// of the heartbeats on.
func (f *fan) round(events int) (rate float64, err error) {
	if f.next == 0 {
		f.seq++
	}
	for range events {
		f.report.add(userID(f.next), 0, f.seq, "online")
		f.next = (f.next + 1) % f.users
	}
	want := f.frames + events*fanFollowers
	began := time.Now()
	if err := f.report.send(); err != nil {
		return 0, err
	}
	err = f.receive(func() bool { return f.frames >= want })
	return float64(events*fanFollowers) / time.Since(began).Seconds(), err
}

// steady tells events at a steady rate, and returns how long each took from when its heartbeat was
// due until the last of its streams had read it, in milliseconds.
func (f *fan) steady() (p50, p99 float64, err error) {
	const events = steadyEvents * int(steadyTime) / int(time.Second)
	base := f.seq + 1
	due := make([]time.Time, events) // by event; before it is sent
	left := make([]int, events)      // frames
	took := make([]time.Duration, 0, events)
	for i := range left {
		left[i] = fanFollowers
	}
	began := time.Now().Add(100 * time.Millisecond)
	for i := range due {
		due[i] = began.Add(time.Duration(i/steadyBatch*steadyBatch) * time.Second / steadyEvents)
	}
	f.receiver.seq = func(seq int) {
		i := seq - base
		if left[i]--; left[i] == 0 {
			took = append(took, time.Since(due[i]))
		}
	}
	sent := make(chan error, 1)
	go func() {
		for i := 0; i < events; {
			time.Sleep(time.Until(due[i]))
			for range steadyBatch {
				f.report.add(userID((f.next+i)%f.users), 0, base+i, "online")
				i++
			}
			if err := f.report.send(); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	err = f.receive(func() bool { return len(took) == events })
	if err = errors.Join(err, <-sent); err != nil {
		return 0, 0, err
	}
	slices.Sort(took)
	return float64(took[events/2]) / 1e6, float64(took[events*99/100]) / 1e6, nil
}
