//go:build !linux

package conns

import (
	"context"
	"net"
	"time"

	"github.com/valyala/fasthttp"
)

// haveLoops: there is no epoll.
const haveLoops = false

// loops is nothing here: fasthttp has all connections.
type loops struct{ after, timeout time.Duration }

func newLoops(*counts, *Config, *fasthttp.Server) (*loops, error) { return nil, nil }

func (*loops) takes(net.Conn) bool { return false }

func (*loops) servesPlain() bool { return false }

func (*loops) enter(net.Conn, peer, time.Time, uint8) bool { return false }

func (*loops) evict(time.Duration) bool { return false }

func (*loops) addStats(*Stats) {}

func (*loops) close(context.Context) error { return nil }
