package loadgen

import (
	"bytes"
	"errors"
	"strconv"
)

// answer is one parsed HTTP response.
type answer struct {
	status int
	body   []byte // aliases the input
	last   bool   // the server said Connection: close
}

var errMalformedAnswer = errors.New("loadgen: not an HTTP/1.1 response")

// parseAnswer reads one response from the start of buf. n is its length; 0 means that more is needed. It knows what an
// answer to a heartbeat can be: 204 without a body, or a body with Content-Length.
func parseAnswer(buf []byte) (a answer, n int, err error) {
	end := bytes.Index(buf, []byte("\r\n\r\n"))
	if end < 0 {
		if len(buf) > 64<<10 {
			return a, 0, errMalformedAnswer
		}
		return a, 0, nil
	}
	a, length, err := parseHead(buf[:end+2])
	if err != nil {
		return a, 0, err
	}
	end += 4
	if len(buf) < end+length {
		return a, 0, nil
	}
	a.body = buf[end : end+length]
	return a, end + length, nil
}

// parseHead reads a status line and the headers that matter. head ends with a line end.
func parseHead(head []byte) (a answer, length int, err error) {
	if len(head) < 14 || string(head[:7]) != "HTTP/1." {
		return a, 0, errMalformedAnswer
	}
	for _, c := range head[9:12] {
		if c < '0' || c > '9' {
			return a, 0, errMalformedAnswer
		}
		a.status = a.status*10 + int(c-'0')
	}
	if a.status == 204 {
		return a, 0, nil // its headers do not matter: if the server closes the connection, the next read will tell
	}
	for _, line := range bytes.Split(head, []byte("\r\n"))[1:] {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 || length > 1<<20 {
				return a, 0, errMalformedAnswer
			}
		case bytes.EqualFold(name, []byte("Connection")):
			a.last = bytes.EqualFold(value, []byte("close"))
		}
	}
	return a, length, nil
}

// lastSeq reads last_seq from the body of a 409; ok is false when the server does not say.
func lastSeq(body []byte) (seq int64, ok bool) {
	_, rest, found := bytes.Cut(body, []byte(`"last_seq":`))
	if !found {
		return 0, false
	}
	rest = bytes.TrimLeft(rest, " ")
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	seq, err := strconv.ParseInt(string(rest[:digits]), 10, 64)
	return seq, err == nil
}
