// Package embed runs the NATS server of a node, which keeps the cluster's logs and carries its
// messages.
package embed

import (
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// MaxMessage is the most bytes that a message may have.
	MaxMessage = 4 << 20
	// startWithin is how long the server may take until it answers this process. What is on disk
	// is read before that.
	startWithin = 5 * time.Minute
	// routePing is how often a silent route is asked for a sign of life; after two without one it
	// is closed, so that a new one is made when the network is back.
	routePing = 2 * time.Second
	// unlimited is more than a disk has: what bounds the logs is the disk.
	unlimited = 1 << 50
	// maxLocal bounds the connections to the port for clients, which is on loopback and of no use
	// to other processes: else those could take all descriptors. This process has a few.
	maxLocal = 64
	// User is the name with which a node shows its key.
	User = "rollcall"
	// systemUser is who may ask for what concerns servers, in this process.
	systemUser = "system"
	// noAddress is what a node says of where it can be reached, so that others connect only to the
	// peers that they were given: connections there are refused.
	noAddress = "127.0.0.1:1"
)

// Guest is what the name of a server begins with that is no node yet: it keeps no logs and only
// asks. Peers does not name it.
const Guest = "_"

// Options of a Server. All but Key, Accepts, TLS, Quorum and Expect are required.
type Options struct {
	Node    string // the server's name
	Cluster string // whose servers it accepts
	Dir     string // of the logs; "": it keeps none and takes part in none
	Listen  string // HOST:PORT for the other servers
	// Peers are the HOST:PORT of the other servers; the server itself may be among them. A name
	// that is the only peer stands for all of its addresses: then the servers tell each other where
	// they are. Else this one connects to its peers only.
	Peers []string
	// Expect is how many servers a new cluster has at least. Default: as many as there are Peers.
	Expect int
	Key    string // shown to other servers; "": none is shown or asked for
	// Accepts are the keys that other servers may show. Required with a Key. Any goroutine calls
	// it.
	Accepts func() []string
	TLS     *tls.Config
	// Quorum acknowledges what a majority of the replicas have in memory. Default: what they have
	// on stable storage.
	Quorum bool
	Logger *slog.Logger
}

// Server is a node's NATS server, and the connections that this process has to it. Any goroutine
// may call its methods.
type Server struct {
	server *server.Server
	conn   *nats.Conn // for the logs
	token  string

	groupsMu sync.Mutex
	groups   map[string]group // by stream. guarded by groupsMu
}

// Start starts a server, and returns when it answers this process; the others may not be in reach
// yet.
func Start(o Options) (*Server, error) {
	s := &Server{token: rand.Text()}
	so, err := s.options(&o)
	if err != nil {
		return nil, err
	}
	if s.server, err = server.NewServer(so); err != nil {
		return nil, fmt.Errorf("cluster/embed: %w", err)
	}
	log := &logger{to: o.Logger, refused: map[string]time.Time{}}
	s.server.SetLoggerV2(log, false, false, false)
	s.server.Start()
	if err := s.awaitStart(log); err != nil {
		s.server.Shutdown()
		return nil, fmt.Errorf("cluster/embed: the server on %s does not start: %w", o.Listen, err)
	}
	if o.Dir != "" && !s.server.JetStreamEnabled() {
		s.server.Shutdown()
		return nil, fmt.Errorf("cluster/embed: the logs in %s cannot be opened", o.Dir)
	}
	if s.conn, err = s.Dial("log"); err != nil {
		s.server.Shutdown()
		return nil, err
	}
	return s, nil
}

// awaitStart waits until the server takes connections, or says why it never will.
func (s *Server) awaitStart(log *logger) error {
	const look = 50 * time.Millisecond
	for end := time.Now().Add(startWithin); time.Now().Before(end); {
		if s.server.ReadyForConnections(look) {
			return nil
		}
		if why := log.fatal.Load(); why != nil {
			return errors.New(*why)
		}
	}
	return fmt.Errorf("it took more than %v", startWithin)
}

// options are the server's.
func (s *Server) options(o *Options) (*server.Options, error) {
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("cluster/embed: %w", err)
	}
	system := server.NewAccount(server.DEFAULT_SYSTEM_ACCOUNT)
	so := &server.Options{
		ServerName: o.Node,
		// Other processes do not connect, but the server wants to listen before it meets others.
		Host: "127.0.0.1", Port: server.RANDOM_PORT,
		Accounts: []*server.Account{system}, SystemAccount: system.Name,
		Users: []*server.User{
			{Username: User, Password: s.token},
			{Username: systemUser, Password: s.token, Account: system},
		},
		NoSigs: true, NoFastProducerStall: true, DisableShortFirstPing: true,
		MaxPayload: MaxMessage, MaxConn: maxLocal,
		Routes: s.routes(o),
		Cluster: server.ClusterOpts{
			Name: o.Cluster, Host: host, Advertise: noAddress, NoAdvertise: true, PoolSize: 1,
			PingInterval: routePing, MaxPingsOut: 2,
			Compression: server.CompressionOpts{Mode: server.CompressionOff},
		},
	}
	if oneName(o.Peers) {
		so.Cluster.Advertise = ""
		// What elects the first leader goes by the number of routes.
		for len(so.Routes) < o.Expect {
			so.Routes = append(so.Routes, so.Routes[0])
		}
	}
	if so.Cluster.Port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("cluster/embed: %w", err)
	}
	if so.Cluster.Port == 0 {
		so.Cluster.Port = server.RANDOM_PORT
	}
	if o.Key != "" {
		so.Cluster.Username, so.Cluster.Password = User, o.Key
		so.Cluster.AuthTimeout = 2
		so.CustomRouterAuthentication = keyCheck{o.Accepts}
	}
	if o.TLS != nil {
		so.Cluster.TLSConfig, so.Cluster.TLSTimeout = o.TLS.Clone(), 2
	}
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("cluster/embed: %w", err)
		}
		so.JetStream, so.StoreDir, so.SyncAlways = true, o.Dir, !o.Quorum
		so.JetStreamMaxStore, so.JetStreamMaxMemory = unlimited, 64<<20
	}
	return so, nil
}

// oneName reports whether the only peer is a name that may have several addresses.
func oneName(peers []string) bool {
	if len(peers) != 1 {
		return false
	}
	host, _, err := net.SplitHostPort(peers[0])
	return err == nil && host != "localhost" && net.ParseIP(host) == nil
}

// routes are the peers as the server wants them.
func (s *Server) routes(o *Options) (all []*url.URL) {
	for _, peer := range o.Peers {
		u := &url.URL{Scheme: "nats-route", Host: peer}
		if o.Key != "" {
			u.User = url.UserPassword(User, o.Key)
		}
		all = append(all, u)
	}
	return all
}

// keyCheck accepts servers that show a key.
type keyCheck struct{ accepts func() []string }

// Check implements server.Authentication.
func (k keyCheck) Check(c server.ClientAuthentication) bool {
	shown := []byte(c.GetOpts().Password)
	known := 0
	for _, key := range k.accepts() {
		known |= subtle.ConstantTimeCompare(shown, []byte(key))
	}
	return known == 1
}

// Dial makes one more connection to the server, in memory.
func (s *Server) Dial(purpose string) (*nats.Conn, error) {
	conn, err := nats.Connect("", nats.InProcessServer(s.server), nats.UserInfo(User, s.token),
		nats.Name(purpose), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond),
		nats.PingInterval(time.Minute))
	if err != nil {
		return nil, fmt.Errorf("cluster/embed: connect: %w", err)
	}
	return conn, nil
}

// Conn is the connection for the logs.
func (s *Server) Conn() *nats.Conn { return s.conn }

// Name is the node's name.
func (s *Server) Name() string { return s.server.Name() }

// Routes are the names of the servers that this one is connected to.
func (s *Server) Routes() map[string]bool {
	names := map[string]bool{}
	if rs, err := s.server.Routez(nil); err == nil {
		for _, r := range rs.Routes {
			names[r.RemoteName] = true
		}
	}
	return names
}

// ClusterAddr is where the server listens for others.
func (s *Server) ClusterAddr() net.Addr {
	if addr := s.server.ClusterAddr(); addr != nil {
		return addr
	}
	return nil
}

// Close stops the server, and returns when it has closed its files.
func (s *Server) Close() {
	s.conn.Close()
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// ErrNoLogs says that the server was started without logs.
var ErrNoLogs = errors.New("cluster/embed: the server keeps no logs")
