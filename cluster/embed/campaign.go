package embed

import (
	"errors"
	"slices"
	"strings"
	_ "unsafe" // for go:linkname

	"github.com/nats-io/nats-server/v2/server"
)

// lookupRaftNode returns the raft node of a group on this server, or nil. NATS exports what a raft
// node can do, and no way to it: so this one name is taken from within, and TestThreeServers fails
// when it is gone.
//
//go:linkname lookupRaftNode github.com/nats-io/nats-server/v2/server.(*Server).lookupRaftNode
func lookupRaftNode(s *server.Server, group string) server.RaftNode

// getHash is taken from within, too; TestThreeServers fails when it is not what PeerID says.
//
//go:linkname getHash github.com/nats-io/nats-server/v2/server.getHash
func getHash(name string) string

// PeerID is what raft groups call a server of this name.
func PeerID(name string) string { return getHash(name) }

// Named returns the name of a server that an answer names: one that the answering server has not
// met since its start is a text with a hash there, and may be one of those that are known.
func Named(shown string, known []string) string {
	_, hash, unknown := strings.Cut(strings.TrimSuffix(shown, ")"), "(peerID: ")
	if unknown {
		for _, name := range known {
			if PeerID(name) == hash {
				return name
			}
		}
	}
	return shown
}

// metaGroup is the raft group that decides where streams are.
const metaGroup = "_meta_"

// ErrNoGroup says that this server is in no such raft group, or does not know it yet.
var ErrNoGroup = errors.New("cluster/embed: this server is not in the raft group")

// Campaign has this server stand for election in the raft group of a stream, within 0.8 s. It does
// nothing if it leads it. Campaign is the only way: CampaignImmediately has an empty log win with
// the votes of empty ones.
func (s *Server) Campaign(stream string) error { return s.campaign(s.group(stream).name) }

// CampaignMeta is Campaign for the lead of the cluster.
func (s *Server) CampaignMeta() error { return s.campaign(metaGroup) }

func (s *Server) campaign(group string) error {
	node := s.raft(group)
	if node == nil {
		return ErrNoGroup
	}
	if node.Leader() {
		return nil
	}
	return node.Campaign()
}

// StepDown has this server give the lead of a stream to another one, which is elected at once if it
// is there and its copy is current. It asks no other server, and does nothing if it does not lead
// the stream. ErrNoGroup: a stream of one copy has no other.
func (s *Server) StepDown(stream, to string) error {
	node := s.raft(s.group(stream).name)
	if node == nil {
		return ErrNoGroup
	}
	if !node.Leader() {
		return nil
	}
	return node.StepDown(PeerID(to))
}

// Copies are the servers, of those that are named, that have a copy of a stream that this one
// leads, and whether it has all that is committed. It asks no other server: one that is gone counts
// as it was.
func (s *Server) Copies(stream string, of []string) (current map[string]bool) {
	node := s.raft(s.group(stream).name)
	if node == nil || !node.Leader() {
		return nil
	}
	current = map[string]bool{}
	for _, peer := range node.Peers() {
		i := slices.IndexFunc(of, func(name string) bool { return PeerID(name) == peer.ID })
		if i >= 0 {
			current[of[i]] = peer.Current
		}
	}
	return current
}

func (s *Server) raft(group string) server.RaftNode {
	if group == "" {
		return nil
	}
	return lookupRaftNode(s.server, group)
}

// group is the raft group of a stream.
type group struct {
	name    string
	servers []string // that have a copy
}

// Replicas are the servers that have a copy of a stream, if this one has one, as of LearnGroups.
func (s *Server) Replicas(stream string) []string { return s.group(stream).servers }

func (s *Server) group(stream string) group {
	s.groupsMu.Lock()
	defer s.groupsMu.Unlock()
	return s.groups[stream]
}

// LearnGroups looks up the raft groups of the streams of which this server has a copy. They change
// when a copy comes or goes.
func (s *Server) LearnGroups() {
	detail, err := s.server.JszAccount(&server.JSzOptions{
		Account: global, Streams: true, RaftGroups: true,
	})
	if err != nil {
		return
	}
	groups := make(map[string]group, len(detail.Streams))
	for i := range detail.Streams {
		d := &detail.Streams[i]
		g := group{name: d.RaftGroup, servers: []string{s.Name()}}
		if d.Cluster != nil {
			if d.Cluster.Leader != "" {
				g.servers = append(g.servers, d.Cluster.Leader)
			}
			for _, r := range d.Cluster.Replicas {
				g.servers = append(g.servers, r.Name)
			}
			slices.Sort(g.servers)
			g.servers = slices.Compact(g.servers)
		}
		groups[d.Name] = g
	}
	s.groupsMu.Lock()
	defer s.groupsMu.Unlock()
	s.groups = groups
}

// Missing is how many messages the copies on this server lack, by stream, of those that lack any.
// All that was between their first message and their last one was there once, and none is taken out
// there. The server leaves out what it finds damaged when it starts, and calls the copy current all
// the same.
func (s *Server) Missing() map[string]uint64 {
	return s.eachCopy(func(is *server.StreamState) uint64 { return uint64(is.NumDeleted) })
}

// First are the sequences of the first messages of the copies on this server, by stream.
func (s *Server) First() map[string]uint64 {
	return s.eachCopy(func(is *server.StreamState) uint64 { return is.FirstSeq })
}

// eachCopy asks for a number of each copy on this server, and leaves out those of which it is 0.
// nil: the streams are switched off.
func (s *Server) eachCopy(number func(is *server.StreamState) uint64) map[string]uint64 {
	detail, err := s.server.JszAccount(&server.JSzOptions{Account: global, Streams: true})
	if err != nil {
		return nil
	}
	numbers := map[string]uint64{}
	for i := range detail.Streams {
		if n := number(&detail.Streams[i].State); n != 0 {
			numbers[detail.Streams[i].Name] = n
		}
	}
	return numbers
}
