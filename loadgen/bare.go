package loadgen

import (
	"net"

	"github.com/valyala/fasthttp"
)

// ServeBare answers 204 to everything, with nothing behind it: the most that this HTTP server can
// do on this machine. A figure of the real server is worth little without the ratio to it, from the
// same generator.
func ServeBare(ln net.Listener) error {
	s := fasthttp.Server{
		Handler: func(ctx *fasthttp.RequestCtx) {
			ctx.SetStatusCode(
				fasthttp.StatusNoContent)
		},
		NoDefaultServerHeader: true,
		Concurrency:           1 << 20,
	}
	return s.Serve(ln)
}
