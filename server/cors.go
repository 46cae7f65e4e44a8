package server

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"rollcall/wire"
)

// The CORS headers of every answer (S3), in fasthttp's canonical spelling.
var (
	allowOrigin, anyOrigin   = []byte("Access-Control-Allow-Origin"), []byte("*")
	allowMethods, allMethods = []byte("Access-Control-Allow-Methods"), []byte(wire.AllowedMethods)
	allowHeaders, allHeaders = []byte("Access-Control-Allow-Headers"), []byte(wire.AllowedHeaders)
	streamHeaders            = []byte(wire.AllowedStreamHeaders)
	listStreamPath           = []byte(wire.ListStreamPath)
	exposeHeaders            = []byte(fasthttp.HeaderAccessControlExposeHeaders)
	exposedOnStreams         = []byte(wire.ExposedStreamHeaders)
	vary, originName         = []byte("Vary"), []byte("Origin")
)

// origins are the origins whose pages may read the answers, each under itself. Nil: any page may,
// and the answers do not depend on the origin.
type origins map[string]string

func newOrigins(list []string) origins {
	if len(list) == 0 || list[0] == "*" {
		return nil
	}
	set := make(origins, len(list))
	for _, origin := range list {
		set[origin] = origin
	}
	return set
}

// allowed is what Access-Control-Allow-Origin says to a request with this Origin header; "":
// nothing. The text is ours and not the request's (S1).
func (o origins) allowed(origin []byte) string {
	if o == nil {
		return "*"
	}
	return o[string(origin)]
}

// allow sets the CORS headers.
func (o origins) allow(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	if o == nil {
		h.SetCanonical(allowOrigin, anyOrigin)
	} else {
		h.SetCanonical(vary, originName)
		if origin := o.allowed(origin(ctx)); origin != "" {
			h.SetCanonical(allowOrigin, []byte(origin))
		}
	}
	h.SetCanonical(allowMethods, allMethods)
	headers := allHeaders
	switch path := ctx.URI().PathOriginal(); {
	case string(path) == wire.StreamPath:
		headers = streamHeaders
	case bytes.HasPrefix(path, listStreamPath):
		headers = streamHeaders
		h.SetCanonical(exposeHeaders, exposedOnStreams)
	}
	h.SetCanonical(allowHeaders, headers)
}

// origin is the request's Origin header, which points into the request (S1).
func origin(ctx *fasthttp.RequestCtx) []byte { return ctx.Request.Header.PeekBytes(originName) }

// append appends the same headers to a head that is not fasthttp's. allowed is what allowed said,
// headers what is in Access-Control-Allow-Headers.
func (o origins) append(head []byte, allowed, headers string) []byte {
	if o != nil {
		head = append(head, "Vary: Origin\r\n"...)
	}
	if allowed != "" {
		head = append(head, "Access-Control-Allow-Origin: "...)
		head = append(append(head, allowed...), "\r\n"...)
	}
	return append(head, "Access-Control-Allow-Methods: "+wire.AllowedMethods+"\r\n"+
		"Access-Control-Allow-Headers: "+headers+"\r\n"...)
}

// checkOrigin refuses an origin that no browser would send, since comparing is by bytes.
func checkOrigin(origin string) error {
	u, err := url.Parse(origin)
	switch {
	case origin == "*":
		return fmt.Errorf("server: CORS origin %q allows every origin: leave the others out",
			origin)
	case err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin ||
		strings.ContainsAny(origin, "*, \t"):
		return fmt.Errorf("server: CORS origin %q: want * or what browsers send, "+
			"such as https://example.com, without a path", origin)
	case origin != strings.ToLower(origin):
		return fmt.Errorf("server: CORS origin %q: browsers send it in lowercase", origin)
	case u.Scheme == "http" && u.Port() == "80" || u.Scheme == "https" && u.Port() == "443":
		return fmt.Errorf("server: CORS origin %q: browsers leave a scheme's own port out", origin)
	}
	return nil
}
