package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	// Slopes, so that what a server takes in any case does not count.
	fewIdle, manyIdle   = 2_000, 12_000 // streams of one user
	fewLists, manyLists = 4, 204        // streams of listUsers
	listUsers           = 500
)

// resident is what idle streams take of the server's resident memory, seen from outside: nothing
// asks it to collect or to give back.
func (m *measurement) resident() (lines []string, err error) {
	single, err := m.slope(fewIdle, manyIdle, func(n int) []byte {
		return singleRequest(userID(n))
	})
	if err != nil {
		return nil, err
	}
	list, err := m.slope(fewLists, manyLists, func(n int) []byte {
		users := userIDs(n*listUsers, (n+1)*listUsers, manyLists*listUsers)
		return listRequest(n, "view=users", users, "")
	})
	if err != nil {
		return nil, err
	}
	beyond := (list - single) / listUsers
	return []string{
		fmt.Sprintf("BenchmarkResident/streams=%d/users=1 1 %.0f B/stream", manyIdle, single),
		fmt.Sprintf("BenchmarkResident/streams=%d/users=%d 1 %.0f B/stream %.1f B/user "+
			"%.3f of-single", manyLists, listUsers, list, beyond, list/listUsers/single),
	}, nil
}

// slope is what each stream takes between some and more.
func (m *measurement) slope(few, many int, request func(n int) []byte) (bytes float64, err error) {
	s, done, err := m.startRollcall(port)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	r, err := newReceiver()
	if err != nil {
		return 0, err
	}
	defer r.close()
	grow := func(to int) (float64, error) {
		for len(r.streams) < to {
			before := r.bytes
			if err := r.open(port, request(len(r.streams))); err != nil {
				return 0, err
			}
			if err := r.receive(func() bool { return r.bytes > before }); err != nil {
				return 0, err
			}
		}
		return s.settled(r)
	}
	before, err := grow(few)
	if err != nil {
		return 0, err
	}
	after, err := grow(many)
	fmt.Fprintf(os.Stderr, "          %d streams: %.0f KiB, %d: %.0f KiB\n",
		few, before/1024, many, after/1024)
	return (after - before) / float64(many-few), err
}

// settled is the server's memory once it has hardly changed for some seconds. It gives back what
// the opening of streams left when it was quiet for a while.
func (s *server) settled(r *receiver) (bytes float64, err error) {
	const wait, least, most = 250 * time.Millisecond, 8 * time.Second, 40 * time.Second
	const steady = 4 * time.Second
	began, since := time.Now(), time.Now()
	for {
		for until := time.Now().Add(wait); time.Now().Before(until); {
			if err := r.poll(20); err != nil {
				return 0, err
			}
		}
		now := s.anonymous()
		if max(now-bytes, bytes-now) > 128<<10 {
			bytes, since = now, time.Now()
		}
		waited := time.Since(began)
		if waited >= least && time.Since(since) >= steady || waited >= most {
			return now, nil
		}
	}
}

// anonymous is the server's resident memory without that of files, in bytes.
func (s *server) anonymous() float64 {
	var kb float64
	status := fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid)
	_, _ = fmt.Sscanf(fieldOf(status, "RssAnon"), "%f", &kb)
	return kb * 1024
}
