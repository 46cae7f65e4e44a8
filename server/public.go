package server

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"rollcall/server/conns"
	"rollcall/wire"
)

// newPublic makes the HTTP server of the public listeners, with the two of routes.
func newPublic(o *Options, a *answers, serve fasthttp.RequestHandler,
	expect func(*fasthttp.RequestCtx) int) *fasthttp.Server {
	return &fasthttp.Server{
		Handler:            serve,
		ExpectHandler:      expect,
		HeaderReceived:     receive,
		ErrorHandler:       a.unreadable,
		Logger:             debugLogger{o.Logger},
		ReadBufferSize:     o.MaxHeaderBytes,
		ReadTimeout:        o.ReadTimeout,
		WriteTimeout:       o.WriteTimeout,
		IdleTimeout:        o.IdleTimeout,
		MaxRequestBodySize: wire.MaxBodyBytes,
		// Never reached: above MaxConns the listener answers, in JSON.
		Concurrency: 2*o.MaxConns + 1024,

		// So that the route and the token come before the body (S2).
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		SecureErrorLogMessage:        true,
		LazyRequestTime:              true,
		KeepHijackedConns:            true,
		CloseOnShutdown:              true,
		ConnState:                    conns.Follow,
	}
}

// debugLogger takes fasthttp's own messages. They are about clients, not about the server, and
// every connection can cause one. Its errors quote what they could not read, SecureErrorLogMessage
// or not, and that may be a line with a token: they end at the quote.
type debugLogger struct{ *slog.Logger }

func (l debugLogger) Printf(format string, args ...any) {
	if !l.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if err, ok := arg.(error); ok {
			args[i], _, _ = strings.Cut(err.Error(), `"`)
		}
	}
	l.Debug(fmt.Sprintf(format, args...), "from", "fasthttp")
}
