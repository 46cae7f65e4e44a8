package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	backStreams = 9_900
	backUsers   = 100    // of a list
	backKnown   = 10_000 // users in all, of two devices each
	backChanged = 100
	backRounds  = 2
)

// reconnect is what streams of a hundred users cost that come back after a restart, with their
// cursors and without, when one user in a hundred has changed meanwhile; and what a connect costs
// in any case: token, request, socket.
func (m *measurement) reconnect() (lines []string, err error) {
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s, err := m.startIn(dir, port)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	report := newReporter(s.address)
	if err := report.introduce(backKnown, 2); err != nil {
		return nil, err
	}
	r, err := newReceiver()
	if err != nil {
		return nil, err
	}
	defer r.close()
	alone := make([][]byte, backStreams) // of one user, whom the server has never heard of
	for n := range alone {
		alone[n] = listRequest(n, "", []string{userID(backKnown + n)}, "")
	}
	request := func(n int, cursor string) []byte {
		users := make([]string, 0, backUsers)
		for i := range backUsers {
			users = append(users, userID((n+i*97)%backKnown))
		}
		return listRequest(n, "", users, cursor)
	}
	first := make([][]byte, backStreams)
	for n := range first {
		first[n] = request(n, "")
	}
	// open returns what opening all streams cost.
	open := func(requests [][]byte) (bytes, cpu float64, err error) {
		r.drop()
		time.Sleep(time.Second) // the server notices
		before, used := r.bytes, s.cpu()
		for _, request := range requests {
			if err := r.open(port, request); err != nil {
				return 0, 0, err
			}
			if err := r.poll(0); err != nil {
				return 0, 0, err
			}
		}
		err = r.receive(func() bool { return r.synced == len(requests) })
		return float64(r.bytes - before), s.cpu() - used, err
	}
	if _, _, err := open(first); err != nil {
		return nil, err
	}
	again := make([][]byte, backStreams)
	for n, stream := range r.streams {
		again[n] = request(n, string(stream.id))
	}
	r.drop()
	if err := s.stop(); err != nil {
		return nil, err
	}
	if s, err = m.startIn(dir, port); err != nil {
		return nil, err
	}
	for n := range backChanged {
		for d := range 2 {
			report.add(userID(n*(backKnown/backChanged)), d, 2, "online")
		}
	}
	if err := report.send(); err != nil {
		return nil, err
	}
	var bytesOf, cpuOf [3][]float64
	for range backRounds {
		for i, requests := range [][][]byte{again, first, alone} {
			bytes, cpu, err := open(requests)
			if err != nil {
				return nil, err
			}
			bytesOf[i], cpuOf[i] = append(bytesOf[i], bytes), append(cpuOf[i], cpu)
		}
	}
	bytes, whole := middle(bytesOf[0]), middle(bytesOf[1])
	cpu, wholeCPU, connect := middle(cpuOf[0]), middle(cpuOf[1]), middle(cpuOf[2])
	return []string{fmt.Sprintf("BenchmarkLists/figure=reconnect/streams=%d/users=%d 1 "+
		"%.0f B/stream %.0f whole-B/stream %.4f bytes-ratio "+
		"%.0f cpu-us/stream %.0f whole-cpu-us/stream %.3f cpu-ratio "+
		"%.0f connect-cpu-us/stream %.3f beyond-connect-ratio",
		backStreams, backUsers, bytes/backStreams, whole/backStreams, bytes/whole,
		cpu/backStreams*1e6, wholeCPU/backStreams*1e6, cpu/wholeCPU,
		connect/backStreams*1e6, (cpu-connect)/(wholeCPU-connect))}, nil
}
