package watch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/record"
)

// world is a cluster on one goroutine, with a clock of its own: hubs and edges as they are, and
// logs, tables, followers and a bus that are simple enough to be right.
type world struct {
	testing.TB
	rng    *rand.Rand
	nanos  int64
	quiet  bool // nothing is lost
	calm   bool // and windows and chunks are as they are
	nodes  []*testNode
	parts  []*testPartition
	epochs uint64
	queues map[route][]message
	cut    map[[2]string]bool
	work   []func() // of goroutines of hubs
	upTo   uint64   // the LSN through which a node knows all with the message that it gets
	trace  []string
}

type route struct {
	from, to string
	subject  bus.Subject
}

// message is one on the bus: ours, or the pulse of a node.
type message struct {
	data  []byte
	pulse []pulsed
}

type pulsed struct {
	partition     int
	epoch, number uint64
	nanos         int64 // when the last append began that was acknowledged
}

const worldUsers, worldDevices = 4, 3 // users of a partition, devices of a user

func newWorld(t testing.TB, seed uint64, nodes, partitions int, calm bool) *world {
	w := &world{TB: t, quiet: calm, calm: calm, rng: rand.New(rand.NewPCG(seed, 1)), nanos: 1e12,
		queues: map[route][]message{}, cut: map[[2]string]bool{}}
	for p := range partitions {
		w.parts = append(w.parts, &testPartition{index: p, devices: map[deviceKey][]uint64{}})
	}
	for n := range nodes {
		w.nodes = append(w.nodes, w.newNode(fmt.Sprintf("n%d", n)))
	}
	return w
}

func (w *world) clock() engine.Instant {
	return engine.Instant{Nanos: w.nanos, WallMS: uint64(w.nanos / 1e6)}
}

func (w *world) pass(d time.Duration) { w.nanos += int64(d) }

func (w *world) say(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%d ms: ", (w.nanos-1e12)/1e6)+fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.Helper()
	for _, line := range w.trace[max(0, len(w.trace)-60):] {
		w.Log(line)
	}
	w.Fatalf(format, args...)
}

func userOf(partition, n int) uuid.UUID { return uuid.UUID{0: byte(partition), 15: byte(n + 1)} }

// link is a node's bus.
type link struct {
	w    *world
	name string
}

func (l link) Self() string { return l.name }

func (l link) Peers() (peers []string) {
	for _, n := range l.w.nodes {
		if n.name != l.name && !l.w.cut[[2]string{l.name, n.name}] {
			peers = append(peers, n.name)
		}
	}
	return peers
}

func (l link) Send(to string, s bus.Subject, data []byte) bool {
	return l.w.send(route{l.name, to, s}, message{data: data})
}

// send drops a message now and then, and everything that waits on a connection that breaks.
func (w *world) send(r route, m message) bool {
	lossy := !w.quiet && r.from != r.to
	if w.cut[[2]string{r.from, r.to}] || lossy && w.rng.IntN(40) == 0 {
		return w.rng.IntN(2) == 0 // the bus may find out or not
	}
	w.queues[r] = append(w.queues[r], m)
	return true
}

// deliver delivers the next message of some route; false: none waits.
func (w *world) deliver() bool {
	var routes []route
	for r, waiting := range w.queues {
		if len(waiting) > 0 {
			routes = append(routes, r)
		}
	}
	if len(routes) == 0 {
		return false
	}
	slices.SortFunc(routes, func(a, b route) int {
		return slices.Compare([]string{a.from, a.to, string(a.subject)},
			[]string{b.from, b.to, string(b.subject)})
	})
	r := routes[w.rng.IntN(len(routes))]
	m := w.queues[r][0]
	w.queues[r] = w.queues[r][1:]
	to := w.node(r.to)
	switch p, _ := Ours(m.data); {
	case w.cut[[2]string{r.from, r.to}]:
	case m.pulse != nil:
		for _, p := range m.pulse {
			to.edge.Pulsed(r.from, p.partition, p.epoch, p.number, p.nanos)
		}
	case r.subject == EdgeSubject:
		to.receive(bus.Message{From: r.from, Data: m.data})
	default:
		if o := to.owns[p]; o != nil {
			if err := o.hub.Receive(r.from, m.data); err != nil {
				w.fail("%s to %s: %v", r.from, r.to, err)
			}
		}
	}
	return true
}

// receive takes a message of an owner. It checks that of all users that are told the node has then
// what the log has through the LSN that the message names (E1, E2).
func (n *testNode) receive(m bus.Message) {
	h, rest, err := cutHead(m.Data)
	if err != nil {
		n.w.Fatal(err)
	}
	of, _, err := cutNumbered(rest)
	if err != nil {
		n.w.Fatal(err)
	}
	n.w.upTo = of.through
	n.edge.Receive(m)
	p := &n.edge.parts[h.partition]
	if p.epoch != h.epoch || p.number != of.number || n.follower.err != nil {
		return
	}
	for id, u := range p.users {
		if p.told(u) {
			n.follower.compare(id)
		}
	}
}

// testNode is a node: an edge, and what it owns or thinks to own.
type testNode struct {
	w        *world
	name     string
	edge     *Edge
	follower *testFollower
	owns     map[int]*testOwner
}

func (w *world) newNode(name string) *testNode {
	n := &testNode{w: w, name: name, owns: map[int]*testOwner{}}
	n.follower = &testFollower{w: w, node: n, table: map[uuid.UUID]map[uuid.UUID]record.View{},
		streams: map[*testStream]bool{}}
	var err error
	n.edge, err = NewEdge(EdgeOptions{
		Bus: link{w, name}, Follower: n.follower, Clock: w.clock, Partitions: len(w.parts),
		Of:     func(user uuid.UUID) int { return int(user[0]) },
		Linger: 5 * time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.Fatal(err)
	}
	if n.edge.window = askWindow; w.rng.IntN(2) == 0 && !w.calm {
		n.edge.window = 1 + w.rng.IntN(3)
	}
	return n
}

func (w *world) node(name string) *testNode {
	i := slices.IndexFunc(w.nodes, func(n *testNode) bool { return n.name == name })
	return w.nodes[i]
}

// pulse sends what a node owns to another.
func (n *testNode) pulse(to *testNode) {
	m := message{pulse: []pulsed{}}
	for p := range n.w.parts {
		if o := n.owns[p]; o != nil {
			m.pulse = append(m.pulse, pulsed{p, o.epoch, o.hub.Sent(to.name), o.ackNanos})
		}
	}
	n.w.send(route{n.name, to.name, EdgeSubject}, m)
}

// deviceKey is one device.
type deviceKey struct{ user, device uuid.UUID }

// testPartition is the replicated log of a partition: what is committed.
type testPartition struct {
	index   int
	log     []change
	devices map[deviceKey][]uint64 // the seqs of each, in order; 0: it was forgotten
	owner   *testOwner             // of the newest claim; nil: none

	users    map[uuid.UUID]*testUser // see userThrough
	usersLSN uint64
}

// forgot reports whether a device was forgotten with a change or after it.
func (p *testPartition) forgot(key deviceKey, c change) bool {
	seqs := p.devices[key]
	return c.rec.Forget() ||
		slices.Contains(seqs[slices.Index(seqs, c.rec.State().Seq):], 0)
}

// userThrough is what the log has of a user through an LSN.
func (p *testPartition) userThrough(user uuid.UUID, lsn uint64) *testUser {
	if p.users == nil || p.usersLSN != lsn {
		p.users, p.usersLSN = map[uuid.UUID]*testUser{}, lsn
		for _, c := range p.log[:lsn] {
			userIn(p.users, c.rec.User()).put(c)
		}
	}
	return userIn(p.users, user)
}

// userIn returns a user of a table.
func userIn(table map[uuid.UUID]*testUser, id uuid.UUID) *testUser {
	u := table[id]
	if u == nil {
		u = &testUser{devices: map[uuid.UUID]change{}}
		table[id] = u
	}
	return u
}

// testUser is a user in a table.
type testUser struct {
	devices map[uuid.UUID]change
	told    engine.Told
	turnLSN uint64 // of the change of told.ChangedAtMS
	forgot  uint64 // LSN of the last device that was forgotten
}

func (u *testUser) put(c change) {
	if u.devices[c.rec.Device()] = c; c.rec.Forget() {
		u.forgot = c.lsn
		delete(u.devices, c.rec.Device())
		return
	}
	if c.rec.Turn() {
		u.told.ChangedAtMS, u.turnLSN = c.rec.UpdatedAt(), c.lsn
	}
	u.told.SeenAtMS = max(u.told.SeenAtMS, c.rec.UserSeen())
}

// change is one record of a log. Its LSN is its place.
type change struct {
	lsn   uint64
	rec   record.View
	nanos int64 // when it was committed
}

func (p *testPartition) commit(c change, nanos int64) {
	c.nanos = nanos
	key := deviceKey{c.rec.User(), c.rec.Device()}
	seq := c.rec.State().Seq
	if c.rec.Forget() {
		seq = 0
	}
	p.log = append(p.log, c)
	p.devices[key] = append(p.devices[key], seq)
}

// testOwner is the engine of a partition by one claim. It may not know that there is a newer one.
type testOwner struct {
	w         *world
	node      *testNode
	partition *testPartition
	epoch     uint64
	hub       *Hub
	table     map[uuid.UUID]*testUser
	pending   []change // in the table, and not committed
	ackNanos  int64
	vouches   int
	beside    func() // what happens while states are read without the hub's lock; nil: nothing
}

// claim gives a partition to a node. What the former owner has appended may be committed or not.
func (w *world) claim(p *testPartition, n *testNode) {
	if old := p.owner; old != nil {
		for _, c := range old.pending[:w.rng.IntN(len(old.pending)+1)] {
			p.commit(c, w.nanos)
		}
	}
	w.epochs++
	o := &testOwner{w: w, node: n, partition: p, epoch: w.epochs, ackNanos: w.nanos,
		table: map[uuid.UUID]*testUser{}}
	for _, c := range p.log {
		o.put(c)
	}
	var err error
	o.hub, err = NewHub(HubOptions{Partition: p.index, Epoch: o.epoch, Bus: link{w, n.name},
		Clock: w.clock, Vouch: o.vouch, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.Fatal(err)
	}
	o.hub.spawn = func(fn func()) { w.work = append(w.work, fn) }
	if !w.calm {
		o.hub.chunk = 100 + w.rng.IntN(400)
		o.hub.many, o.hub.few = w.rng.IntN(4), w.rng.IntN(500)
		o.beside = func() {
			for range w.rng.IntN(3) {
				o.heartbeat()
			}
			if w.rng.IntN(2) == 0 {
				o.commit()
			}
		}
	}
	o.hub.Open(o)
	o.hub.Lose(0)
	o.hub.Flush(0, uint64(len(p.log)), 0)
	if mine := n.owns[p.index]; mine != nil {
		mine.hub.Close()
	}
	n.owns[p.index] = o
	p.owner = o
	w.say("%s claims %d, epoch %d", n.name, p.index, o.epoch)
}

func (o *testOwner) put(c change) { o.user(c.rec.User()).put(c) }

func (o *testOwner) user(id uuid.UUID) *testUser { return userIn(o.table, id) }

// leads reports whether an append would be committed.
func (o *testOwner) leads() bool {
	return o.partition.owner == o && o.node.owns[o.partition.index] == o
}

func (o *testOwner) vouch(uint64) error {
	o.vouches++
	if !o.leads() {
		return ErrHubClosed
	}
	o.ackNanos = o.w.nanos
	return nil
}

// heartbeat changes a device in the table, as an engine does before the log has it.
func (o *testOwner) heartbeat() {
	rng := o.w.rng
	user := userOf(o.partition.index, rng.IntN(worldUsers))
	device := uuid.UUID{15: byte(1 + rng.IntN(worldDevices))}
	lsn := uint64(len(o.partition.log) + len(o.pending) + 1)
	var rec record.View
	u := o.user(user)
	if old, known := u.devices[device]; known && rng.IntN(20) == 0 {
		rec = record.AppendForget(nil, old.rec)
	} else {
		s := record.State{Seq: lsn, Online: rng.IntN(3) > 0, UpdatedAtMS: lsn}
		rec = record.AppendUser(nil, user, device, &s, []byte("x"), &record.User{
			SeenAtMS: max(u.told.SeenAtMS, lsn*uint64(rng.IntN(2))),
			Turn:     s.Online != (known && old.rec.State().Online),
		})
	}
	c := change{lsn: lsn, rec: rec}
	o.pending = append(o.pending, c)
	o.put(c)
}

// commit commits what was appended, in the order of an engine.
func (o *testOwner) commit() {
	if !o.leads() || len(o.pending) == 0 {
		return
	}
	o.ackNanos = o.w.nanos
	n := 1 + o.w.rng.IntN(len(o.pending))
	for _, c := range o.pending[:n] {
		o.partition.commit(c, o.w.nanos)
	}
	for _, c := range o.pending[:n] {
		o.hub.Publish(0, c.rec.User(), c.lsn, slices.Clone(c.rec))
	}
	o.hub.Flush(0, o.pending[n-1].lsn, o.w.nanos)
	o.pending = o.pending[n:]
}

func (o *testOwner) AppendStates(dst []byte, user uuid.UUID, through uint64) (
	out []byte, newer uint64, told engine.Told) {
	u := o.user(user)
	if told = u.told; u.turnLSN > through {
		newer, told.ChangedAtMS = u.turnLSN, 0
	}
	devices := slices.SortedFunc(maps.Keys(u.devices), func(a, b uuid.UUID) int {
		return bytes.Compare(a[:], b[:])
	})
	for _, device := range devices {
		if o.beside != nil && o.hub.mu.TryLock() {
			o.hub.mu.Unlock()
			o.beside()
		}
		switch c, ok := u.devices[device]; {
		case !ok:
		case c.lsn > through:
			newer = max(newer, c.lsn)
		default:
			dst = binary.LittleEndian.AppendUint16(dst, uint16(len(c.rec)))
			dst = append(dst, c.rec...)
		}
	}
	if u.forgot > through {
		newer = max(newer, u.forgot)
	}
	return dst, newer, told
}

func (o *testOwner) DeviceCount(user uuid.UUID) int { return len(o.user(user).devices) }

// testFollower is the table of a node, and its streams, which get everything at once.
type testFollower struct {
	w       *world
	node    *testNode
	table   map[uuid.UUID]map[uuid.UUID]record.View
	streams map[*testStream]bool
	updates int
	err     error  // of Change and Replace
	taking  func() // called before Subscribe; nil: nothing
}

// testStream is a stream, with what it was told of each device.
type testStream struct {
	users []uuid.UUID
	hold  *broadcast.Hold
	begun bool
	nanos int64 // when it was opened
	ends  int64 // when it ends, since it was shed; 0: it is not to
	done  func()
	told  map[deviceKey]toldDevice
}

type toldDevice struct{ seq, generation uint64 }

func (f *testFollower) Update(_ int64, fn func(c Changes)) {
	f.updates++
	fn(f)
}

func (f *testFollower) Shed(over time.Duration) {
	for s := range f.streams {
		if ends := f.w.nanos + f.w.rng.Int64N(int64(over)+1); s.ends == 0 || ends < s.ends {
			s.ends = ends
		}
	}
}

func (f *testFollower) Subscribe(s broadcast.Subscription) error {
	if f.taking != nil {
		f.taking()
	}
	st := &testStream{users: []uuid.UUID{s.User}, hold: s.Hold, done: s.Done, nanos: f.w.nanos,
		told: map[deviceKey]toldDevice{}}
	if s.List != nil {
		st.users = s.List.Users
	}
	f.streams[st] = true
	if s.Hold == nil {
		f.start(st)
	}
	return nil
}

func (f *testFollower) Begin(h *broadcast.Hold) {
	for s := range f.streams {
		if s.hold == h {
			s.ends = 0 // as those of a broadcaster, whose ends are then the tokens'
			f.start(s)
			return
		}
	}
}

// start gives a stream its snapshot. It checks E4.
func (f *testFollower) start(s *testStream) {
	if s.begun {
		f.w.fail("a stream begins twice")
	}
	s.begun = true
	f.complete(s)
	for _, user := range s.users {
		p := &f.node.edge.parts[user[0]]
		u := p.users[user]
		if u.generation != p.generation || u.settling != nil {
			f.w.fail("a stream begins before user %v is told", user)
		}
		for _, rec := range f.table[user] {
			f.tell(s, rec)
		}
	}
}

// complete checks that a stream begins with all of its users that was committed, by any owner,
// before it was opened and more than a second ago.
func (f *testFollower) complete(s *testStream) {
	known := min(s.nanos, f.w.nanos-int64(time.Second))
	users := map[uuid.UUID]bool{}
	for _, user := range s.users {
		users[user] = true
	}
	newest := map[deviceKey]change{}
	for _, p := range f.w.parts {
		for _, c := range p.log {
			if c.nanos < known && users[c.rec.User()] {
				newest[deviceKey{c.rec.User(), c.rec.Device()}] = c
			}
		}
	}
	for key, c := range newest {
		got := f.table[key.user][key.device]
		switch {
		case got == nil && f.w.parts[key.user[0]].forgot(key, c):
		case got == nil:
			f.w.fail("%s: a stream begins without device %v", f.node.name, key)
		case got.State().Seq < c.rec.State().Seq:
			f.w.fail("%s: a stream begins with device %v at seq %d, and %d was committed %v before",
				f.node.name, key, got.State().Seq, c.rec.State().Seq,
				time.Duration(f.w.nanos-c.nanos))
		}
	}
}

func (f *testFollower) end(s *testStream) {
	delete(f.streams, s)
	s.done()
}

// tell gives a stream an event. It checks E5, and that nothing is missing without a doubt (E1, E3).
func (f *testFollower) tell(s *testStream, rec record.View) {
	key := deviceKey{rec.User(), rec.Device()}
	p := f.w.parts[key.user[0]]
	generation := uint64(f.node.edge.parts[p.index].generation)
	seq, was, known := rec.State().Seq, toldDevice{}, false
	if was, known = s.told[key]; known && seq <= was.seq {
		f.w.fail("%s: device %v is told seq %d after %d", f.node.name, key, seq, was.seq)
	}
	if known && was.generation == generation {
		seqs := p.devices[key]
		at := slices.Index(seqs, was.seq)
		next := slices.IndexFunc(seqs[at+1:], func(q uint64) bool { return q != 0 })
		if next < 0 || seqs[at+1+next] != seq {
			f.w.fail("%s: device %v is told seq %d after %d of %v, without a doubt", f.node.name, key,
				seq, was.seq, seqs)
		}
	}
	s.told[key] = toldDevice{seq, generation}
}

func (f *testFollower) Change(rec []byte) error {
	if f.err != nil {
		return f.err
	}
	r := record.View(slices.Clone(rec))
	user := r.User()
	if r.Forget() {
		delete(f.table[user], r.Device())
		return nil
	}
	if f.table[user] == nil {
		f.table[user] = map[uuid.UUID]record.View{}
	}
	if string(f.table[user][r.Device()]) == string(r) {
		return nil
	}
	f.table[user][r.Device()] = r
	for s := range f.streams {
		if s.begun && slices.Contains(s.users, user) {
			f.tell(s, r)
		}
	}
	return nil
}

// Replace checks what is said of the user (E2).
func (f *testFollower) Replace(user uuid.UUID, told engine.Told, recs iter.Seq[[]byte]) error {
	if f.err != nil {
		return f.err
	}
	named := map[uuid.UUID]bool{}
	for rec := range recs {
		named[record.View(rec).Device()] = true
		if err := f.Change(rec); err != nil {
			return err
		}
	}
	maps.DeleteFunc(f.table[user], func(device uuid.UUID, _ record.View) bool {
		return !named[device]
	})
	is := f.compare(user).told
	if told.ChangedAtMS != is.ChangedAtMS || told.SeenAtMS < is.SeenAtMS {
		f.w.fail("%s: of %v it is told %+v, the log has %+v", f.node.name, user, told, is)
	}
	return nil
}

// compare checks what is held of a user, and returns what the log has of it.
func (f *testFollower) compare(user uuid.UUID) *testUser {
	is, held := f.w.parts[user[0]].userThrough(user, f.w.upTo), f.table[user]
	same := len(held) == len(is.devices)
	for device, rec := range held {
		same = same && string(rec) == string(is.devices[device].rec)
	}
	if !same {
		f.w.fail("%s: of %v it has %v, and through %d the log has %v", f.node.name, user, held,
			f.w.upTo, is.devices)
	}
	return is
}

func (f *testFollower) Drop(user uuid.UUID) {
	for s := range f.streams {
		if slices.Contains(s.users, user) {
			f.w.fail("%s: user %v is dropped, and has a stream", f.node.name, user)
		}
	}
	delete(f.table, user)
}

// tick ends streams that have waited for too long, or were shed.
func (f *testFollower) tick() {
	for s := range f.streams {
		if !s.begun && f.w.nanos >= s.hold.UntilNanos || s.ends != 0 && f.w.nanos >= s.ends {
			f.end(s)
		}
	}
}
