package members

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// Servers asks the NATS servers of a cluster, and tells them what to do. Any goroutine.
type Servers struct {
	// App is a connection of the account that has the logs.
	App *nats.Conn
	// System makes a connection of the system account. It is closed after use.
	System func() (*nats.Conn, error)
	// Copies is how many copies each log is to have.
	Copies int
	// Reach reports whether a node is in reach of this one. The servers notice a node that ended
	// without a word after more than a minute only. Default: what the servers say.
	Reach func(node string) bool
	// Named is the name of a node that the servers name, which may be one that they have not met
	// since their start; PeerID is what they call it then. Default: they have met all.
	Named  func(shown string) string
	PeerID func(name string) string
	// Missing is how many messages a node's copy of a log lacks, since they were damaged on its
	// disk: the servers call it current all the same. Default: none.
	Missing func(node, log string) uint64
	// Unusable reports whether a node says that it cannot use its copy of a log, so that it is not
	// to lead it. Default: all can.
	Unusable func(node, log string) bool
}

// name gives a node its name that the servers have not met.
func (s *Servers) name(p *peerInfo) {
	if s.Named != nil {
		p.Name = s.Named(p.Name)
	}
}

// reaches reports whether a node is in reach: both have to say so.
func (s *Servers) reaches(p *peerInfo) bool {
	return !p.Offline && (s.Reach == nil || s.Reach(p.Name))
}

const (
	evacuateSubject = "$JS.API.STREAM.PEER.EVACUATE."
	stepDownSubject = "$JS.API.STREAM.LEADER.STEPDOWN."
	namesSubject    = "$JS.API.STREAM.NAMES"
	infoSubject     = "$JS.API.STREAM.INFO."
	metaStepDown    = "$JS.API.META.LEADER.STEPDOWN"
	removeSubject   = "$JS.API.SERVER.REMOVE"
	metaSubject     = "$SYS.REQ.SERVER.PING.JSZ"
)

// peerInfo is what an answer says of a node.
type peerInfo struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	Offline bool   `json:"offline"`
	Pending bool   `json:"pending"`
	Lag     uint64 `json:"lag"`
}

// apiError is what an answer says of an error.
type apiError struct {
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

// Look asks for the state. An error says that no server answered in time: there is no leader, then.
func (s *Servers) Look(ctx context.Context) (*State, error) {
	state := &State{Copies: s.Copies}
	if err := s.lookAtNodes(ctx, state); err != nil {
		return nil, err
	}
	names, err := s.names(ctx)
	if err != nil {
		return nil, fmt.Errorf("members: names of the logs: %w", err)
	}
	if state.Logs, err = s.lookAtLogs(ctx, names); err != nil {
		return nil, err
	}
	slices.SortFunc(state.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return state, nil
}

// names are those of the logs, in order.
func (s *Servers) names(ctx context.Context) (all []string, err error) {
	for {
		var page struct {
			Error   *apiError `json:"error"`
			Total   int       `json:"total"`
			Streams []string  `json:"streams"`
		}
		err := request(ctx, s.App, namesSubject, map[string]int{"offset": len(all)}, &page)
		if err == nil && page.Error != nil {
			err = errors.New(page.Error.Description)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, page.Streams...)
		if len(all) >= page.Total || len(page.Streams) == 0 {
			slices.Sort(all)
			return all, nil
		}
	}
}

// lookingAtOnce is how many logs are asked at a time: one without a leader does not answer.
const lookingAtOnce = 16

func (s *Servers) lookAtLogs(ctx context.Context, names []string) ([]Log, error) {
	logs, errs := make([]Log, len(names)), make([]error, len(names))
	var asking sync.WaitGroup
	var next atomic.Int64
	for range min(lookingAtOnce, len(names)) {
		asking.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(names); i = int(next.Add(1)) - 1 {
				if logs[i], errs[i] = s.lookAtLog(ctx, names[i]); errs[i] != nil {
					errs[i] = fmt.Errorf("members: look at %s: %w", names[i], errs[i])
				}
			}
		})
	}
	asking.Wait()
	return logs, errors.Join(errs...)
}

// lookAtNodes asks the leader of the cluster, the one that answers.
func (s *Servers) lookAtNodes(ctx context.Context, state *State) error {
	var answer struct {
		Data struct {
			Meta struct {
				Leader   string      `json:"leader"`
				Replicas []*peerInfo `json:"replicas"`
			} `json:"meta_cluster"`
		} `json:"data"`
	}
	err := s.asSystem(func(c *nats.Conn) error {
		return request(ctx, c, metaSubject, map[string]any{"leader_only": true}, &answer)
	})
	if err != nil {
		return fmt.Errorf("members: no node says that it leads the cluster, so that a majority may "+
			"not be in reach: %w", err)
	}
	state.Leader = answer.Data.Meta.Leader
	state.Nodes = append(state.Nodes, Node{Name: state.Leader, InReach: true, Current: true})
	for _, r := range answer.Data.Meta.Replicas {
		s.name(r)
		if r.Name != state.Leader {
			state.Nodes = append(state.Nodes, Node{r.Name, s.reaches(r), r.Current})
		}
	}
	return nil
}

func (s *Servers) lookAtLog(ctx context.Context, name string) (Log, error) {
	var answer struct {
		Error   *apiError `json:"error"`
		Cluster struct {
			Leader   string          `json:"leader"`
			Replicas []*peerInfo     `json:"replicas"`
			Desired  json.RawMessage `json:"desired"`
		} `json:"cluster"`
	}
	l := Log{Name: name}
	err := request(ctx, s.App, infoSubject+name, nil, &answer)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return l, nil // without a leader the log does not answer
	case err != nil:
		return l, err
	case answer.Error != nil && answer.Error.Code == codeNoLeader:
		return l, nil
	case answer.Error != nil:
		return l, errors.New(answer.Error.Description)
	}
	l.Leader = answer.Cluster.Leader
	l.Moving = len(answer.Cluster.Desired) > 0
	if l.Leader != "" {
		l.Copies = append(l.Copies, Copy{Node: l.Leader, Current: true, InReach: true})
	}
	for _, r := range answer.Cluster.Replicas {
		s.name(r)
		l.Moving = l.Moving || r.Pending
		reach := s.reaches(r)
		l.Copies = append(l.Copies, Copy{r.Name, r.Current && reach, reach, r.Lag, 0, false})
	}
	for i := range l.Copies {
		c := &l.Copies[i]
		if s.Missing != nil {
			c.Missing = s.Missing(c.Node, name)
		}
		if s.Unusable != nil {
			c.Unusable = s.Unusable(c.Node, name)
		}
	}
	return l, nil
}

// codeNoLeader is the server's code for a log, or a cluster, without a leader.
const codeNoLeader = 10008

// moveFrom has the copy of a log on a node moved to another one, which the servers choose: the one
// in reach that has the fewest.
func (s *Servers) moveFrom(ctx context.Context, log, node string) error {
	return s.tell(ctx, s.App, evacuateSubject+log, map[string]any{"peer": node})
}

// handOver has another copy of a log lead it.
func (s *Servers) handOver(ctx context.Context, log, to string) error {
	return s.tell(ctx, s.App, stepDownSubject+log, preferring(to))
}

// stepDown has another node lead the cluster.
func (s *Servers) stepDown(ctx context.Context) error {
	return s.asSystem(func(c *nats.Conn) error {
		return s.tell(ctx, c, metaStepDown, map[string]any{})
	})
}

// remove makes a node no member.
func (s *Servers) remove(ctx context.Context, node string) error {
	return s.asSystem(func(c *nats.Conn) error {
		peer := map[string]any{"peer": node}
		if s.PeerID != nil {
			peer["peer_id"] = s.PeerID(node)
		}
		return s.tell(ctx, c, removeSubject, peer)
	})
}

// asSystem calls fn with a connection of the system account.
func (s *Servers) asSystem(fn func(c *nats.Conn) error) error {
	c, err := s.System()
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

func preferring(node string) map[string]any {
	return map[string]any{"placement": map[string]any{"preferred": node}}
}

// tell sends a request that is answered with success, or an error.
func (s *Servers) tell(ctx context.Context, c *nats.Conn, subject string, body any) error {
	var answer struct {
		Error   *apiError `json:"error"`
		Success bool      `json:"success"`
	}
	what := strings.TrimPrefix(subject, "$JS.API.")
	if err := request(ctx, c, subject, body, &answer); err != nil {
		return fmt.Errorf("members: %s: %w", what, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("members: %s: %s", what, answer.Error.Description)
	}
	return nil
}

// requestWait is how long one request is waited for.
const requestWait = 4 * time.Second

func request(ctx context.Context, c *nats.Conn, subject string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, requestWait)
	defer cancel()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			panic("bug: " + err.Error())
		}
	}
	m, err := c.RequestWithContext(ctx, subject, data)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}
