package main

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
)

const (
	// reservedDescriptors are left for the log, the admin listener, which takes server.AdminConns
	// of them at most, and what the runtime needs: clients must never take the descriptor that the
	// next log segment wants.
	reservedDescriptors = 200

	// usualDescriptors is how many are used when --max-streams does not ask for more, whatever the
	// system permits.
	usualDescriptors = 1 << 20

	// usualAcceptQueue is what kernels since 5.4 queue of new connections.
	usualAcceptQueue = 4096
)

// limits are how many connections and streams there may be. A tenth of the connections is left to
// daemons.
type limits struct {
	descriptors    uint64 // 0: the system knows no limit
	conns, streams int
}

// limitsFor returns what a descriptor limit permits when so many streams are asked for; 0 asks for
// as many as there can be.
func limitsFor(descriptors uint64, streams int) limits {
	usable := int(min(descriptors, max(usualDescriptors, descriptorsFor(streams))))
	l := limits{descriptors: descriptors, conns: max(1, usable-reservedDescriptors)}
	l.streams = l.conns - l.conns/10
	if 0 < streams && streams < l.streams {
		l.streams = streams
	}
	return l
}

// descriptorsFor is the lowest descriptor limit that permits some streams.
func descriptorsFor(streams int) uint64 {
	return uint64(streams+(max(streams, 1)-1)/9) + reservedDescriptors
}

// limits raises the descriptor limit, where that is needed and permitted, and returns what it
// permits. Go has raised the soft limit to the hard one. Only root may raise the hard one.
func (c serveCmd) limits() limits {
	descriptors, ok := descriptorLimit()
	if !ok {
		return limits{streams: c.MaxStreams} // 0: the defaults of the packages
	}
	if need := descriptorsFor(c.MaxStreams); descriptors < need && raiseDescriptorLimit(need) {
		descriptors = need
	}
	return limitsFor(descriptors, c.MaxStreams)
}

// log reports what the limits permit, and what to change when that is less than was asked for.
func (l limits) log(logger *slog.Logger, asked, acceptQueue int) {
	if l.descriptors == 0 {
		return
	}
	logger.Info("limits", "descriptors", l.descriptors, "max_connections", l.conns,
		"max_streams", l.streams, "accept_queue", acceptQueue,
		"for_more", "ulimit -n, LimitNOFILE= of a systemd unit")
	if l.streams < asked {
		need := descriptorsFor(asked)
		logger.Warn("the descriptor limit permits fewer streams than --max-streams asks for",
			"asked", asked, "permitted", l.streams,
			"remedy", fmt.Sprintf("ulimit -n %d, or LimitNOFILE=%d in the systemd unit; "+
				"above %d also sysctl -w fs.nr_open=%d", need, need, usualDescriptors, need))
	}
	if 0 < acceptQueue && acceptQueue < usualAcceptQueue {
		logger.Warn("the kernel queues few new connections: when many clients come back at once, "+
			"some will time out", "accept_queue", acceptQueue,
			"remedy", fmt.Sprintf("sysctl -w net.core.somaxconn=%d", usualAcceptQueue))
	}
}

// acceptQueue is how many new connections the kernel holds until they are accepted; 0: unknown.
func acceptQueue() int {
	text, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}
