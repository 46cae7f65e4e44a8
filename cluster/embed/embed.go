// Package embed runs the NATS server of a node, which keeps the cluster's logs and carries its
// messages.
package embed

import (
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Server is a node's NATS server, and the connection that this process has to it.
type Server struct {
	server *server.Server
	conn   *nats.Conn
}

// Conn is the connection to the server in this process.
func (s *Server) Conn() *nats.Conn { return s.conn }

// Name is the node's name.
func (s *Server) Name() string { return s.server.Name() }
