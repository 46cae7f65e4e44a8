package server

import (
	"bytes"
	"errors"
	"net/url"

	"github.com/valyala/fasthttp"

	"rollcall/server/reply"
	"rollcall/wire"
)

// maxHeaderLines is how many header lines a request may have. fasthttp keeps some 80 bytes for each
// beside the text, and a client could hold them for as long as it does not send its body.
const maxHeaderLines = 128

// maxParams is how many parameters a query may have: fasthttp keeps 70 bytes for each, and a client
// could hold them by a next request that it does not end.
const maxParams = 128

var errTooManyHeaderLines = errors.New("server: a request has too many header lines")

// The header names of a request's framing.
var (
	lengthName = []byte("Content-Length")
	codingName = []byte("Transfer-Encoding")
)

// receive judges a request's head before its body is awaited, where fasthttp has read it but is
// more lenient than RFC 9112: what two servers on the way could read differently is refused. It is
// fasthttp's HeaderReceived, which cannot answer: so a head that is refused becomes an empty one
// that says why, and refused tells the handler. What fasthttp kept of it is let go.
func receive(h *fasthttp.RequestHeader) (unchanged fasthttp.RequestConfig) {
	if r := judgeHead(h); r != reply.None {
		*h = fasthttp.RequestHeader{}
		h.SetMethodBytes([]byte{refusedMethod, byte(r)})
		h.SetConnectionClose()
	}
	return unchanged
}

// refusedMethod begins the method of a head that was refused; fasthttp takes none like it from a
// client.
const refusedMethod = ' '

// refused is why receive refused the head of a request, or None.
func refused(ctx *fasthttp.RequestCtx) reply.Reply {
	if m := ctx.Method(); len(m) == 2 && m[0] == refusedMethod {
		return reply.Reply(m[1])
	}
	return reply.None
}

func judgeHead(h *fasthttp.RequestHeader) reply.Reply {
	switch string(h.Protocol()) {
	case "HTTP/1.1", "HTTP/1.0":
	default: // fasthttp would serve HTTP/2.0 as 1.0 (RFC 9110, section 15.6.6)
		return reply.VersionNotSupported
	}
	if !validTarget(h) || len(h.Host()) > 0 && !validAuthority(h.Host()) {
		return reply.MalformedRequest
	}
	if bytes.Count(h.RequestURI(), []byte("&")) >= maxParams {
		if path, _, _ := bytes.Cut(h.RequestURI(), []byte("?")); string(path) == wire.PresencePath {
			return reply.TooManyUsers // each would be one
		}
		return reply.TooManyParams
	}
	return judgeLines(h)
}

// judgeLines judges the header lines as they were sent. fasthttp has found a colon in each, and no
// control characters.
func judgeLines(h *fasthttp.RequestHeader) reply.Reply {
	length, coding := false, false
	rest := h.RawHeaders()
	for lines := 0; len(rest) > len("\r\n"); lines++ {
		if lines == maxHeaderLines {
			return reply.TooManyHeaderLines
		}
		// A line that ends without CR, or that goes on in the next (RFC 9112, sections 2.2, 5.2).
		end := bytes.IndexByte(rest, '\n')
		if end < 1 || rest[end-1] != '\r' || rest[0] == ' ' || rest[0] == '\t' {
			return reply.MalformedRequest
		}
		name := 0
		for ; name < end && rest[name] != ':'; name++ {
			if rest[name] == ' ' { // section 5.1
				return reply.MalformedRequest
			}
		}
		switch name {
		case len(lengthName):
			length = length || bytes.EqualFold(rest[:name], lengthName)
		case len(codingName):
			coding = coding || bytes.EqualFold(rest[:name], codingName)
		}
		rest = rest[end+1:]
	}
	// Two answers to where the body ends, or a coding other than chunked (section 6.3).
	if len(rest) == 1 || coding && (length || h.ContentLength() != chunkedLength) {
		return reply.MalformedRequest
	}
	return reply.None
}

// chunkedLength is fasthttp's ContentLength of a chunked body.
const chunkedLength = -1

// validTarget reports whether a request's target has one of the forms of RFC 9112, section 3.2.
// fasthttp has seen to its control characters and to the asterisk of OPTIONS.
func validTarget(h *fasthttp.RequestHeader) bool {
	target := h.RequestURI()
	if bytes.IndexByte(target, '#') >= 0 { // a fragment is the client's own business
		return false
	}
	switch {
	case bytes.HasPrefix(target, []byte("//")) && // fasthttp may take what follows for a host
		(len(h.Host()) == 0 || bytes.Contains(target, []byte("://"))):
		return false
	case target[0] == '/':
		path, _, _ := bytes.Cut(target, []byte("?"))
		return validEscapes(path)
	case target[0] == '*':
		return true
	case h.IsConnect():
		return validURL("http://" + string(target))
	}
	return validURL(string(target))
}

// validEscapes reports whether a hexadecimal number follows each percent sign (RFC 3986, section
// 2.1): fasthttp takes another one as it is, and the next server may refuse it, or read it
// otherwise.
func validEscapes(path []byte) bool {
	if bytes.IndexByte(path, '%') < 0 {
		return true
	}
	_, err := url.PathUnescape(string(path))
	return err == nil
}

// validURL reports whether a target that names its host is one that this server could have.
func validURL(target string) bool {
	u, err := url.ParseRequestURI(target)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil &&
		validAuthority([]byte(u.Host))
}

// authorityBytes are what a host and a port are made of (RFC 3986, section 3.2). The user before an
// @ is not among them: no request may have one (RFC 9110, section 4.2.4).
var authorityBytes = func() (set [256]bool) {
	const others = "-._~" + "!$&'()*+,;=" + "%:[]"
	for c := range set {
		set[c] = '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 ||
			bytes.IndexByte([]byte(others), byte(c)) >= 0
	}
	return set
}()

func validAuthority(text []byte) bool {
	for _, c := range text {
		if !authorityBytes[c] {
			return false
		}
	}
	return len(text) > 0
}
