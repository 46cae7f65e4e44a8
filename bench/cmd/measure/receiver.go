package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"rollcall/token"
	"rollcall/wire"
)

const signingKey = "signing-key-of-the-benchmarks---"

// readerToken is the n-th reader's, who may read every user, on the routes of many.
func readerToken(n int) string { return mustSign(userID(n), wire.ScopeReadAny) }

func mustSign(user, scope string) string {
	text, err := token.Sign(signingKey, token.Claims{UserID: user, Scope: []string{scope},
		ExpMS: time.Now().Add(time.Hour).UnixMilli()})
	if err != nil {
		panic(err)
	}
	return text
}

// singleRequest asks for the stream of one user.
func singleRequest(user string) []byte {
	return fmt.Appendf(nil, "GET "+wire.StreamPath+"?user_id=%s HTTP/1.1\r\nHost: bench\r\n"+
		"Authorization: Bearer %s\r\n\r\n", user, mustSign(user, wire.ScopeRead))
}

// listRequest asks for the n-th reader's stream of many users. cursor "": for the first time.
func listRequest(n int, query string, users []string, cursor string) []byte {
	body := listBody(users)
	if cursor != "" {
		cursor = "Last-Event-ID: " + cursor + "\r\n"
	}
	return fmt.Appendf(nil, "POST "+wire.ListStreamPath+"?%s HTTP/1.1\r\nHost: bench\r\n"+
		"Authorization: Bearer %s\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		query, readerToken(n), cursor, len(body), body)
}

func listBody(users []string) []byte {
	body, err := json.Marshal(map[string][]string{"user_ids": users})
	if err != nil {
		panic(err)
	}
	return body
}

// receiver is many streams as descriptors, read by one goroutine. Single owner.
type receiver struct {
	epoll   int
	streams []*received
	events  [256]unix.EpollEvent
	buf     [256 << 10]byte

	bytes   int // of all
	frames  int // lines with data, but for those of synced
	synced  int // streams that have their snapshot
	refused error
	seq     func(seq int) // is told the seq of each frame of a device; may be nil
}

// received is one stream.
type received struct {
	fd     int
	rest   []byte // of a line that is not whole
	id     []byte // the last
	bytes  int
	synced bool
}

func newReceiver() (*receiver, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &receiver{epoll: fd}, err
}

func (r *receiver) close() {
	r.drop()
	unix.Close(r.epoll)
}

// drop closes all streams.
func (r *receiver) drop() {
	for _, s := range r.streams {
		unix.Close(s.fd)
	}
	r.streams, r.synced = nil, 0
}

// open connects and sends a request. The answer comes with receive.
func (r *receiver) open(port int, request []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n := len(r.streams)
	r.streams = append(r.streams, &received{fd: fd})
	from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + n%200)}}
	if err := unix.Bind(fd, from); err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	if _, err := unix.Write(fd, request); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd,
		&unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(n)})
}

// receive reads until done says so, or for a time that is too long.
func (r *receiver) receive(done func() bool) error {
	for until := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(until) {
			return errors.New("the streams are not told what they are owed")
		}
		if err := r.poll(20); err != nil {
			return err
		}
	}
	return nil
}

// poll reads what is there, or comes within some milliseconds.
func (r *receiver) poll(ms int) error {
	n, err := unix.EpollWait(r.epoll, r.events[:], ms)
	if err != nil && err != unix.EINTR {
		return err
	}
	for _, e := range r.events[:max(n, 0)] {
		s := r.streams[e.Fd]
		n, err := unix.Read(s.fd, r.buf[:])
		if err == unix.EAGAIN {
			continue
		}
		if err != nil || n <= 0 {
			return fmt.Errorf("a stream has ended: %w", errors.Join(err, net.ErrClosed))
		}
		r.bytes += n
		s.bytes += n
		r.lines(s, r.buf[:n])
	}
	return r.refused
}

var (
	idLine     = []byte("id: ")
	dataLine   = []byte("data: ")
	syncedLine = []byte("event: synced")
	seqField   = []byte(`"seq":`)
	goodHead   = []byte("HTTP/1.1 ")
)

// lines looks at the whole lines of a stream. Those that frame chunks are among them.
func (r *receiver) lines(s *received, text []byte) {
	if len(s.rest) > 0 {
		text = append(s.rest, text...)
		s.rest = s.rest[:0:0]
	}
	for {
		end := bytes.IndexByte(text, '\n')
		if end < 0 {
			break
		}
		line := text[:end]
		text = text[end+1:]
		switch {
		case bytes.HasPrefix(line, idLine):
			s.id = append(s.id[:0], line[len(idLine):]...)
		case bytes.HasPrefix(line, syncedLine):
			s.synced = true
			r.synced++
			r.frames-- // its data
		case bytes.HasPrefix(line, dataLine):
			r.frames++
			if r.seq == nil {
				continue
			}
			if i := bytes.Index(line, seqField); i >= 0 {
				digits := line[i+len(seqField):]
				n := bytes.IndexAny(digits, ",}")
				seq, _ := strconv.Atoi(string(digits[:n]))
				r.seq(seq)
			}
		case bytes.HasPrefix(line, goodHead) && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")):
			r.refused = fmt.Errorf("a stream was answered %q %q", line, text)
		}
	}
	s.rest = append(s.rest, text...)
}
