package cluster

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"

	"rollcall/engine"
)

const (
	// silentNanos is for how long a node may say nothing before others campaign for what it owned.
	// It speaks five times meanwhile.
	silentNanos = int64(2500 * time.Millisecond)
	// campaignNanos is when a node campaigns again for a log that has no owner since.
	campaignNanos = int64(1500 * time.Millisecond)
	// campaignMetaNanos is the same for the lead of the cluster.
	campaignMetaNanos = int64(3 * time.Second)
	// learnNanos is how often the raft groups of the logs are looked up.
	learnNanos = int64(5 * time.Second)
	// pausedNanos is the longest time between two looks, of campaignEvery, after which this process
	// counts as one that was paused: it has heard nothing since, and judges no silence.
	pausedNanos = int64(time.Second)
	// campaignEvery is how often a node looks whether an owner is gone; when a connection is, it
	// looks at once.
	campaignEvery = 100 * time.Millisecond
)

// campaigns has this node campaign for the logs of an owner that is gone: its connection, or its
// pulses for 2.5 s. Of the nodes that are in reach and have a copy of the log, the next one in
// rendezvous order that does not drain does. Who campaigns, and when, is no matter of safety: the
// group elects only a node that has all that was acknowledged, and a needless campaign costs a
// blink. One goroutine calls look.
type campaigns struct {
	rouser // of run

	self      string
	clock     engine.Clock
	directory *directory
	raft      raft
	may       func() bool
	count     prometheus.Counter
	logger    *slog.Logger

	lastOwner []string // by partition: the last one that was known
	tried     []int64  // when this node campaigned for each partition
	meta      int64    // and for the cluster
	learned   int64
	looked    int64
	resumed   int64 // when this process was paused last
}

// raft is what campaigns need of an embed.Server.
type raft interface {
	Leads(stream string) bool
	LearnGroups()
	Replicas(stream string) []string
	Campaign(stream string) error
	Meta() (leader string, servers []string)
	CampaignMeta() error
}

func newCampaigns(self string, clock engine.Clock, d *directory, r raft, partitions int,
	may func() bool, logger *slog.Logger,
) *campaigns {
	return &campaigns{
		self: self, clock: clock, directory: d, raft: r, may: may, logger: logger,
		count: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rollcall_campaigns_total",
			Help: "Elections that this node called for, since an owner or the leader was gone.",
		}),
		lastOwner: make([]string, partitions), tried: make([]int64, partitions),
		rouser: newRouser(),
	}
}

// run looks until stop is closed.
func (c *campaigns) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		c.look(c.clock.Nanos())
		timer.Reset(c.clock.Until(campaignEvery))
		select {
		case <-timer.C:
		case <-c.rouser:
		case <-stop:
			return
		}
	}
}

// look campaigns for what has lost its owner.
func (c *campaigns) look(now int64) {
	if c.looked != 0 && now-c.looked > pausedNanos {
		c.resumed = now
	}
	c.looked = now
	if c.resumed != 0 && now-c.resumed < silentNanos || !c.may() {
		return
	}
	if now-c.learned >= learnNanos {
		c.learned = now
		c.raft.LearnGroups()
	}
	lost := false
	for p := range c.tried {
		if owner := c.directory.ownership(p).node; owner != "" {
			c.lastOwner[p] = owner
		}
		owner := c.lastOwner[p]
		if owner == "" || owner == c.self || c.alive(owner) {
			continue
		}
		lost = true
		if stream := streamOf(p); now-c.tried[p] >= campaignNanos && !c.raft.Leads(stream) &&
			c.next(stream, p, owner) == c.self {
			c.tried[p] = now
			c.begun(stream, c.raft.Campaign(stream))
		}
	}
	if lost && now-c.meta >= campaignMetaNanos {
		c.meta = now
		c.lookMeta()
	}
}

// lookMeta campaigns for the lead of the cluster if its leader is gone: the first by name does.
func (c *campaigns) lookMeta() {
	leader, servers := c.raft.Meta()
	if leader == c.self || leader != "" && c.alive(leader) {
		return
	}
	for _, name := range servers {
		if name < c.self && c.stands(name) {
			return
		}
	}
	c.begun("the cluster", c.raft.CampaignMeta())
}

func (c *campaigns) begun(of string, err error) {
	if err != nil {
		c.logger.Debug("a campaign was not begun", "for", of, "error", err)
		return
	}
	c.count.Inc()
	c.logger.Info("campaigns", "for", of)
}

// alive reports whether a node is in reach, and was heard of late.
func (c *campaigns) alive(node string) bool {
	if node == c.self {
		return true
	}
	silence, heard := c.directory.silence(node)
	return heard && silence < silentNanos && c.directory.reaches(node)
}

// stands reports whether a node campaigns when it is its turn: one that drains does not.
func (c *campaigns) stands(node string) bool {
	return c.alive(node) && !c.directory.drains(node)
}

// next is the node that is to campaign for a log. One that says that it cannot use its copy is the
// last: its claim may succeed all the same.
func (c *campaigns) next(stream string, p int, gone string) (next string) {
	best, bestUsable := uint64(0), false
	for _, name := range c.raft.Replicas(stream) {
		if name == gone || !c.stands(name) {
			continue
		}
		w, usable := weight(name, p), !c.directory.unusable(name, stream)
		if next == "" || usable && !bestUsable || usable == bestUsable && w > best {
			next, best, bestUsable = name, w, usable
		}
	}
	return next
}

// weight is a node's place in the rendezvous order of a partition
// (https://en.wikipedia.org/wiki/Rendezvous_hashing).
func weight(node string, p int) uint64 { return xxhash.Sum64String(node + "/" + strconv.Itoa(p)) }
