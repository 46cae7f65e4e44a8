package loadgen

import (
	"bytes"
	"errors"
	"strconv"
)

// response is one parsed HTTP response.
type response struct {
	status int
	body   []byte // aliases the input
	last   bool   // the server said Connection: close
}

var errMalformedResponse = errors.New("loadgen: not an HTTP/1.1 response")

// parseResponse reads one response from the start of buf. n is its length; 0 means that more is
// needed. It knows what an answer to a heartbeat can be: 204 without a body, or a body with
// Content-Length.
func parseResponse(buf []byte) (r response, n int, err error) {
	end := bytes.Index(buf, []byte("\r\n\r\n"))
	if end < 0 {
		if len(buf) > 64<<10 {
			return r, 0, errMalformedResponse
		}
		return r, 0, nil
	}
	r, length, err := parseHead(buf[:end+2])
	if err != nil {
		return r, 0, err
	}
	end += 4
	if len(buf) < end+length {
		return r, 0, nil
	}
	r.body = buf[end : end+length]
	return r, end + length, nil
}

// parseHead reads a status line and the headers that matter. head ends with a line end.
func parseHead(head []byte) (r response, length int, err error) {
	if len(head) < 14 || string(head[:7]) != "HTTP/1." {
		return r, 0, errMalformedResponse
	}
	for _, c := range head[9:12] {
		if c < '0' || c > '9' {
			return r, 0, errMalformedResponse
		}
		r.status = r.status*10 + int(c-'0')
	}
	if r.status == 204 {
		// its headers do not matter: if the server closes the connection, the next read will tell
		return r, 0, nil
	}
	for _, line := range bytes.Split(head, []byte("\r\n"))[1:] {
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, err = strconv.Atoi(string(value))
			if err != nil || length < 0 || length > 1<<20 {
				return r, 0, errMalformedResponse
			}
		case bytes.EqualFold(name, []byte("Connection")):
			r.last = bytes.EqualFold(value, []byte("close"))
		}
	}
	return r, length, nil
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
