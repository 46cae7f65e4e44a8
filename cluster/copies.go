package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// copiesFor is how long an answer about the copies is used again: each asks the leaders of all
	// logs.
	copiesFor = time.Second
	// copiesWait is how long one page of it may take.
	copiesWait = 2 * time.Second
	// listSubject is where the logs are listed, with what their leaders know of the copies.
	listSubject = "$JS.API.STREAM.LIST"
)

// copies asks which nodes have a copy of which log, and what each lacks. Any goroutine may use it;
// one asks at a time, and the others take its answer.
type copies struct {
	// named is the name of a node that an answer names.
	named func(shown string) string
	// missing is how many messages a node's copy of a log has lost.
	missing func(node, log string) uint64

	mu   sync.Mutex
	nc   *nats.Conn                 // guarded by mu; nil: not yet
	at   time.Time                  // guarded by mu: of the answer
	logs map[string][]ReplicaStatus // guarded by mu: by the log's name; never changed
	err  error                      // guarded by mu
}

// connect says which connection to ask over.
func (c *copies) connect(nc *nats.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = nc
}

// get returns the copies by the log's name, a second old at most. A log without a leader is not
// among them.
func (c *copies) get(ctx context.Context) (map[string][]ReplicaStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nc == nil && c.logs == nil {
		return nil, errors.New("cluster: the logs are not open yet")
	}
	if time.Since(c.at) > copiesFor {
		c.logs, c.err = c.ask(ctx)
		c.at = time.Now()
	}
	return c.logs, c.err
}

// damaged says that a copy has lost so many messages.
func (r *ReplicaStatus) damaged(missing uint64) {
	if missing > 0 {
		r.Missing, r.Current = missing, false
		r.Lag += missing
	}
}

// listed is a page of the list.
type listed struct {
	Total   int `json:"total"`
	Streams []struct {
		Config  struct{ Name string }
		Cluster *struct {
			Leader   string
			Replicas []struct {
				Node    string `json:"name"`
				Current bool
				Offline bool
				Lag     uint64
			}
		}
	} `json:"streams"`
	Error *struct{ Description string } `json:"error"`
}

func (c *copies) ask(ctx context.Context) (map[string][]ReplicaStatus, error) {
	logs := map[string][]ReplicaStatus{}
	for offset := 0; ; {
		page, err := c.page(ctx, offset)
		if err != nil {
			return nil, fmt.Errorf("cluster: list the copies: %w", err)
		}
		for _, s := range page.Streams {
			if s.Cluster == nil || s.Cluster.Leader == "" {
				continue
			}
			all := []ReplicaStatus{{Node: s.Cluster.Leader, Current: true}}
			for _, r := range s.Cluster.Replicas {
				all = append(all, ReplicaStatus{c.named(r.Node), r.Current, r.Offline, r.Lag, 0})
			}
			for i := range all {
				all[i].damaged(c.missing(all[i].Node, s.Config.Name))
			}
			logs[s.Config.Name] = all
		}
		offset += len(page.Streams)
		if len(page.Streams) == 0 || offset >= page.Total {
			return logs, nil
		}
	}
}

func (c *copies) page(ctx context.Context, offset int) (page listed, err error) {
	ctx, cancel := context.WithTimeout(ctx, copiesWait)
	defer cancel()
	answer, err := c.nc.RequestWithContext(ctx, listSubject,
		fmt.Appendf(nil, `{"offset":%d}`, offset))
	if err != nil {
		return page, err
	}
	if err := json.Unmarshal(answer.Data, &page); err != nil {
		return page, err
	}
	if page.Error != nil {
		return page, errors.New(page.Error.Description)
	}
	return page, nil
}
