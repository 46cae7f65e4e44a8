package test

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestQueryTokenIsNotLogged: with --stream-query-token a token stands in the URL, and no request,
// good or broken in any way, brings it into the log, not even at the lowest level.
func TestQueryTokenIsNotLogged(t *testing.T) {
	r := startServer(t, "--stream-query-token", "--log-level=debug")
	user := uuid.NewString()
	token := tokenFor(user, time.Hour)
	target := streamPath + "?user_id=" + user + "&access_token=" + token
	good := request("GET", target, "")

	s := r.followRaw(good)
	if s.head.status != 200 {
		t.Fatalf("stream: %d", s.head.status)
	}
	s.conn.(*net.TCPConn).SetLinger(0) // a reset
	s.conn.Close()
	for _, raw := range []string{
		request("GET", target+"x", ""),                              // a bad signature
		request("GET", strings.Replace(target, user, "bob", 1), ""), // a bad user
		request("GET", "/nope"+target, ""),                          // no route
		request("PUT", target, ""),                                  // no method
		request("GET", target+strings.Repeat("x", 5000), ""),        // a line too long
		"GET " + target + "\r\n\r\n",                                // no version
		"GET " + target + " HTTP/1.1\r\nHost x\r\n\r\n",             // no header
		"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer " + token + "\r\n\r\n",
		"GET " + target + " HTTP/1.1\r\nContent-Length: -1\r\n\r\n",  // no length
		request("POST", heartbeatPath+"?access_token="+token, "x\n"), // not there
	} {
		if a := r.send(raw); a.status < 400 {
			t.Errorf("%q: %d", raw, a.status)
		}
	}
	for _, cut := range []int{20, len(good) / 2, len(good) - 2} { // gone in the middle
		c := r.dial()
		io.WriteString(c, good[:cut])
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	r.terminate()
	if logs := r.logs(); strings.Contains(logs, token[:40]) ||
		strings.Contains(logs, token[len(token)-20:]) || strings.Contains(logs, "access_token") {
		t.Errorf("the token is in the log:\n%s", logs)
	}
}
