package cluster

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"rollcall/engine"
)

// fakeRaft notes for what a node campaigned.
type fakeRaft struct {
	leader string
	began  []string
}

var threeNames = []string{"n1", "n2", "n3"}

func (*fakeRaft) Leads(string) bool          { return false }
func (*fakeRaft) LearnGroups()               {}
func (*fakeRaft) Replicas(string) []string   { return threeNames }
func (r *fakeRaft) Meta() (string, []string) { return r.leader, threeNames }
func (r *fakeRaft) Campaign(stream string) error {
	r.began = append(r.began, stream)
	return nil
}

func (r *fakeRaft) CampaignMeta() error {
	r.began = append(r.began, "meta")
	return nil
}

// campaignRig is what n1 and n2 know of a cluster whose partitions n3 owns.
type campaignRig struct {
	now   int64
	drain string // the node that drains
	// unusable are the logs that a node cannot use.
	unusable map[string][]string
	nodes    [2]*campaigns
	rafts    [2]fakeRaft
}

func newCampaignRig() *campaignRig {
	const partitions = 16
	r := &campaignRig{now: int64(time.Hour)}
	clock := engine.Clock(func() engine.Instant { return engine.Instant{Nanos: r.now} })
	for i := range r.nodes {
		d := newDirectory(clock, partitions)
		r.rafts[i].leader = "n3"
		r.nodes[i] = newCampaigns(threeNames[i], clock, d, &r.rafts[i], partitions,
			func() bool { return true }, slog.New(slog.DiscardHandler))
		d.reached(threeNames[i], threeNames)
	}
	owned := make([]pulsePartition, partitions)
	for p := range owned {
		owned[p] = pulsePartition{Partition: p, Epoch: 1}
	}
	r.hear(&pulse{Node: "n3", Partitions: owned})
	return r
}

// hear has both nodes hear pulses of both, and one more.
func (r *campaignRig) hear(more *pulse) {
	for _, c := range r.nodes {
		for _, name := range threeNames[:2] {
			c.directory.hear(&pulse{
				Node: name, Draining: name == r.drain, Unusable: r.unusable[name],
			})
		}
		if more != nil {
			c.directory.hear(more)
		}
	}
}

// pass lets time pass, in which n1 and n2 are heard.
func (r *campaignRig) pass(d time.Duration) {
	for end := r.now + int64(d); r.now < end; r.now += int64(campaignEvery) {
		r.hear(nil)
		for _, c := range r.nodes {
			c.look(r.now)
		}
	}
}

// began are the streams for which one of the nodes campaigned, and those for which both did.
func (r *campaignRig) began() (one, both int) {
	for p := range 16 {
		in := 0
		for i := range r.rafts {
			if slices.Contains(r.rafts[i].began, streamOf(p)) {
				in++
			}
		}
		switch in {
		case 1:
			one++
		case 2:
			both++
		}
	}
	return one, both
}

// TestCampaigns: for each log of a node that is gone one node campaigns, and the first one by name
// does for the cluster.
func TestCampaigns(t *testing.T) {
	for name, lose := range map[string]func(r *campaignRig){
		"its connection is gone": func(r *campaignRig) {
			for i, c := range r.nodes {
				c.directory.reached(threeNames[i], threeNames[:2])
			}
			r.pass(time.Second)
		},
		"it is silent": func(r *campaignRig) { r.pass(3 * time.Second) },
	} {
		r := newCampaignRig()
		r.pass(time.Second)
		if one, both := r.began(); one+both > 0 {
			t.Fatalf("%s: %d campaigns before", name, one+both)
		}
		lose(r)
		if one, both := r.began(); one != 16 || both != 0 {
			t.Errorf("%s: one node campaigns for %d logs, both for %d", name, one, both)
		}
		if !slices.Contains(r.rafts[0].began, "meta") || slices.Contains(r.rafts[1].began, "meta") {
			t.Errorf("%s: %q campaign for the cluster", name, r.rafts)
		}
	}
}

// TestCampaignAtOnce: no time passes between the loss of a connection and a campaign.
func TestCampaignAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newCampaignRig()
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			r.nodes[0].run(stop)
		}()
		synctest.Wait()
		r.nodes[0].directory.reached("n1", threeNames[:2])
		r.nodes[0].rouse()
		synctest.Wait()
		close(stop)
		<-done
		if one, _ := r.began(); one == 0 {
			t.Error("n1 has not campaigned")
		}
	})
}

// TestNoCampaignAfterAPause: a process that was paused has heard no node meanwhile.
func TestNoCampaignAfterAPause(t *testing.T) {
	r := newCampaignRig()
	r.pass(time.Second)
	r.now += int64(10 * time.Second)
	for _, c := range r.nodes {
		c.look(r.now)
	}
	if one, both := r.began(); one+both > 0 {
		t.Fatalf("%d campaigns", one+both)
	}
	r.pass(4 * time.Second)
	if one, _ := r.began(); one != 16 {
		t.Fatalf("%d campaigns for a node that is still silent", one)
	}
}

// TestNodesWithoutAUsableCopyCampaignLast: where one says that it cannot use its copy of a log the
// other one campaigns, and where both do, one of them.
func TestNodesWithoutAUsableCopyCampaignLast(t *testing.T) {
	r := newCampaignRig()
	r.unusable = map[string][]string{"n2": {streamOf(5), streamOf(6)}}
	for p := range 16 {
		r.unusable["n1"] = append(r.unusable["n1"], streamOf(p))
	}
	r.pass(3 * time.Second) // n3 is silent
	if one, both := r.began(); one != 16 || both != 0 {
		t.Errorf("one node campaigns for %d logs, both for %d", one, both)
	}
	for p := range 16 {
		if p != 5 && p != 6 && slices.Contains(r.rafts[0].began, streamOf(p)) {
			t.Errorf("n1 campaigns for partition %d", p)
		}
	}
}

// TestNoTurnForANodeThatDrains: it would not campaign, and not claim what it leads. The other one
// campaigns for all logs, and for the cluster.
func TestNoTurnForANodeThatDrains(t *testing.T) {
	r := newCampaignRig()
	r.drain = "n1"
	r.nodes[0].may = func() bool { return false }
	r.pass(time.Second)
	r.pass(3 * time.Second) // n3 is silent
	if one, both := r.began(); one != 16 || both != 0 {
		t.Errorf("one node campaigns for %d logs, both for %d", one, both)
	}
	if !slices.Contains(r.rafts[1].began, "meta") {
		t.Errorf("%q campaigns", r.rafts[1].began)
	}
}
