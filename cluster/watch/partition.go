package watch

import (
	"time"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/record"
)

const (
	// freshNanos is how long ago an owner may have been the owner for reads to be answered here.
	freshNanos = int64(time.Second)
	// silentNanos is how long an owner may say nothing before what it said is in doubt.
	silentNanos = int64(3 * time.Second)
	// askNanos is after how long without any answer users are asked for again, and askAllNanos
	// after how long in any case: an answer to another question is no sign that this one came.
	askNanos    = int64(time.Second)
	askAllNanos = int64(3 * time.Second)
	// hasteNanos is how long ago all users were asked for before a doubt has them asked for at
	// once: sooner, and it is done with the next tick.
	hasteNanos = int64(100 * time.Millisecond)
	// askWindow is how many users of a partition are asked for at a time when very many are: the
	// others follow as answers come. So a claim does not fill the way from its owner, which the
	// answers to heartbeats take, too. Streams that open now do not wait for them.
	askWindow = 1024
	// maxUnwanted bounds the users of a partition that are to be unwatched since their owner tells
	// of them and no stream follows them. The owner tells again of those that were left out.
	maxUnwanted = 16 << 10
)

// partition is what an edge knows of one. Guarded by Edge.mu.
type partition struct {
	index int
	owner string // "": none is known
	epoch uint64 // of the newest claim that was heard of
	// number is that of the owner's last message to this node.
	number uint64
	// generation counts the doubts: users that were told in an earlier one are told anew (E3).
	generation uint32
	// question counts the WATCHes; since is the first of this generation. It goes on above those
	// of an earlier process of this node.
	question, since uint64

	users   map[uuid.UUID]*user
	begun   int // users whose states came in this generation
	doubted int // users whose states came in an earlier one
	joined  joined

	ask           []*user // who are to be asked for
	bulk          []*user // who are when others were answered, those that a stream waits for first
	flying        int     // users that were asked for in this round, and have not begun
	round         uint32  // of asking for all
	askAll        bool    // all who have not begun are
	askLater      bool    // the same, with the next tick
	movedNanos    int64   // when users were asked for last, or told of
	askedAllNanos int64   // when all were last
	unwanted      map[uuid.UUID]struct{}

	asOfNanos  int64   // the owner was the owner then, or later; 0: that is not known
	heardNanos int64   // when a message of the owner came
	silent     bool    // the silence was noticed
	doubtNanos int64   // since when users are in doubt; 0: they are not
	stale      []*wait // streams that wait until it is fresh
	mark       uint64  // see Edge.marks

	prove        bool   // the owner is to be asked to show that it is one
	proving      uint64 // the question that does, while it is not answered; 0: none
	provingNanos int64  // when the last one was sent
}

// user is one that is watched. Guarded by Edge.mu.
type user struct {
	id         uuid.UUID
	part       *partition
	refs       int    // streams
	generation uint32 // in which its states came last; 0: they never did
	asked      uint64 // the first question of its generation that named it
	askedNanos int64  // when that was sent
	round      uint32 // in which it was asked for last; 0: it has begun since
	// settling are states that lack a device that was on its way; nil: there are none such.
	settling  *settling
	waits     []*wait // streams that wait for it, and some that have ended
	queued    bool    // in idleUsers
	idleNanos int64   // when the last stream ended
}

// told reports whether all that the owner knew of a user was told in this generation, and every
// change since.
func (p *partition) told(u *user) bool {
	return u.generation == p.generation && u.settling == nil
}

// fresh reports whether the owner was the owner a moment ago: no other one had acknowledged
// anything then. What it has told is counted from when it appended, not from when it said so, since
// one that is cut off does not know, nor from when that came, since a route that was held up brings
// everything at once.
func (p *partition) fresh(nowNanos int64) bool {
	return p.asOfNanos != 0 && nowNanos-p.asOfNanos <= freshNanos
}

// hear notes that a message of the owner came.
func (p *partition) hear(nowNanos int64) { p.heardNanos, p.silent = nowNanos, false }

// doubt begins a new generation: nothing that was told counts any more, and all users are asked for
// anew.
func (p *partition) doubt(nowNanos int64) {
	p.generation++
	p.since = p.question + 1
	p.doubted += p.begun
	p.begun = 0
	p.joined = joined{}
	p.ask, p.bulk, p.flying = nil, nil, 0
	p.round++
	p.askAll = nowNanos-p.askedAllNanos >= hasteNanos
	p.askLater = !p.askAll
	if p.doubtNanos == 0 && p.doubted > 0 {
		p.doubtNanos = nowNanos
	}
}

// begin notes that the states of a user came, all of them if it is not settling.
func (p *partition) begin(u *user, s *settling) {
	p.forget(u)
	u.generation, u.settling = p.generation, s
	p.begun++
}

// flies notes that a user is being asked for.
func (p *partition) flies(u *user) {
	if u.round != p.round {
		u.round = p.round
		p.flying++
	}
}

// forget takes back what begin and flies noted.
func (p *partition) forget(u *user) {
	if u.round == p.round {
		p.flying--
	}
	u.round = 0
	switch u.generation {
	case 0:
	case p.generation:
		p.begun--
	default:
		p.doubted--
	}
	u.generation, u.settling = 0, nil
}

// unwant has a user unwatched that is not followed here.
func (p *partition) unwant(id uuid.UUID) {
	if p.unwanted == nil {
		p.unwanted = make(map[uuid.UUID]struct{})
	}
	if len(p.unwanted) < maxUnwanted {
		p.unwanted[id] = struct{}{}
	}
}

// settling are the states of a user of which some were left out, since their changes were not
// committed yet: they come as changes, up to an LSN, and then all is told at once. To tell what is
// there would make the device that was left out one that is gone.
type settling struct {
	told    engine.Told
	until   uint64
	states  []byte
	changes []byte // in the form of states
}

// add takes a change. What it says of the user is newer than what the states came with.
func (s *settling) add(rec record.View) {
	s.changes = appendState(s.changes, rec)
	hear(&s.told, rec)
}

// hear notes what a change says of its user.
func hear(told *engine.Told, rec record.View) {
	if rec.Turn() {
		told.ChangedAtMS = rec.UpdatedAt()
	}
	told.SeenAtMS = max(told.SeenAtMS, rec.UserSeen())
}

// all calls yield for the newest record of each device.
func (s *settling) all(yield func(rec []byte) bool) {
	newest := make(map[uuid.UUID]record.View)
	engine.EachState(s.changes, func(rec []byte) bool {
		newest[record.View(rec).Device()] = rec
		return true
	})
	goes := engine.EachState(s.states, func(rec []byte) bool {
		_, changed := newest[record.View(rec).Device()]
		goes := changed || yield(rec)
		return goes
	})
	if !goes {
		return
	}
	for _, rec := range newest {
		if !rec.Forget() && !yield(rec) {
			return
		}
	}
}

// joined are the parts so far of a user whose states come in several messages.
type joined struct {
	user   uuid.UUID
	states []byte
	open   bool // there are more to come
}

// maxJoined bounds the states of one user: more than a million devices have.
const maxJoined = 256 << 20

// add takes the next part; whole reports that it was the last one, and pt has all of them then.
func (j *joined) add(pt *part) (whole bool) {
	first, last := pt.flags&flagRest == 0, pt.flags&flagMore == 0
	if first && last {
		*j = joined{}
		return true
	}
	if first {
		*j = joined{user: pt.user, open: true}
	}
	if !j.open || j.user != pt.user || len(j.states)+len(pt.states) > maxJoined {
		*j = joined{}
		return false // the beginning is missing
	}
	j.states = append(j.states, pt.states...)
	if last {
		pt.states = j.states
		*j = joined{}
	}
	return last
}
