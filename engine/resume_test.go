package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"rollcall/cursor"
	"rollcall/engine/broadcast"
	"rollcall/internal/testseed"
	"rollcall/internal/testwait"
	"rollcall/wal"
	"rollcall/wire"
)

// TestResume lets clients of list streams come back with every cursor that was ever seen, also from
// the middle of a snapshot, changed, from another directory, from before a restore or a lost tail,
// and with other lists, while heartbeats, expiries, forgetting and checkpoints go on. A cursor is
// honoured exactly when this directory has written what it names (Q1 to Q3), and never an error;
// afterwards the client has what a client has that follows for the first time, in both views and
// with a linger time, and one whose cursor was honoured got no more than what had changed.
//
// ROLLCALL_SEED runs one seed again; ROLLCALL_RESUME_ROUNDS says how many seeds there are.
func TestResume(t *testing.T) {
	rng := testseed.Rand(t)
	var sum resumeCounts
	for range testseed.Rounds(t, "ROLLCALL_RESUME_ROUNDS", 2, 5) {
		r := newResumes(t, rng.Uint64())
		r.run()
		sum.add(r.resumeCounts)
	}
	t.Logf("%+v", sum)
	if sum.Honoured == 0 || sum.Refused == 0 || sum.Mutants == 0 || sum.Cuts == 0 {
		t.Errorf("some kinds of cursors never came: %+v", sum)
	}
}

type resumeCounts struct{ Honoured, Refused, Mutants, Cuts, Forgotten, Unchanged int }

func (c *resumeCounts) add(o resumeCounts) {
	c.Honoured += o.Honoured
	c.Refused += o.Refused
	c.Mutants += o.Mutants
	c.Cuts += o.Cuts
	c.Forgotten += o.Forgotten
	c.Unchanged += o.Unchanged
}

// branch is a directory, and what is known of its history beside it.
type branch struct {
	*disk
	now   *atomic.Int64
	life  int          // of the server that runs
	lives map[int]bool // that this history has had
	wrote []int        // by LSN: the life that wrote the record
}

// note says which life wrote the records that came since.
func (b *branch) note() {
	for uint64(len(b.wrote)) <= b.log.Appended() {
		b.wrote = append(b.wrote, b.life)
	}
}

// seenCursor is a cursor and what its client had.
type seenCursor struct {
	text  string
	lsn   uint64 // its Newest
	life  int    // that made it
	wrote int    // which wrote the record at lsn; 0: none
	list  []uuid.UUID
	// partial: the client was in the middle of a snapshot.
	partial bool
	known   map[uuid.UUID]string // by device, or user
}

// resumes is one run.
type resumes struct {
	resumeCounts
	t       *testing.T
	rng     *rand.Rand
	sync    wal.SyncMode
	view    broadcast.View
	linger  time.Duration
	lives   int
	users   []uuid.UUID
	devices []*Heartbeat
	all     []*branch
	seen    []seenCursor
}

func newResumes(t *testing.T, seed uint64) *resumes {
	r := &resumes{t: t, rng: rand.New(rand.NewPCG(seed, 2))}
	if r.rng.IntN(2) == 0 {
		r.sync = wal.SyncNever
	}
	r.view = broadcast.View(r.rng.IntN(2))
	if r.view == broadcast.ViewUsers && r.rng.IntN(2) == 0 {
		r.linger = 25 * time.Second
	}
	for range 4 {
		r.users = append(r.users, uuid.New())
	}
	for i := range 12 {
		hb := newHeartbeat(0, 30_000)
		hb.User = r.users[i%len(r.users)]
		r.devices = append(r.devices, hb)
	}
	return r
}

func (r *resumes) run() {
	r.all = append(r.all, r.open(vfs.NewCrashableMem(), nil))
	for range 150 {
		b := r.all[r.rng.IntN(len(r.all))]
		switch r.rng.IntN(12) {
		case 0:
			r.restart(b)
		case 1:
			r.copy(b)
		case 2:
			b.now.Add(int64(r.rng.IntN(40)) * int64(time.Second))
			for b.expiry.turn(b.now.Load()) <= 0 {
			}
			b.events.Tick(b.now.Load())
		case 3:
			b.now.Add(int64(r.rng.IntN(40)) * int64(time.Minute)) // an hour: forgotten
			b.checkpoint(r.t)
		case 4, 5, 6:
			r.beat(b, r.rng.IntN(6))
		default:
			r.resume(b)
		}
		b.note()
	}
	for _, b := range r.all {
		b.shut()
	}
}

// open starts a server on a directory whose history is that of another branch so far.
func (r *resumes) open(fs *vfs.MemFS, from *branch) *branch {
	b := &branch{now: new(atomic.Int64), lives: map[int]bool{}, wrote: []int{0}}
	b.now.Store(1)
	if from != nil {
		b.now.Store(from.now.Load())
		b.lives, b.wrote = maps.Clone(from.lives), slices.Clone(from.wrote)
	}
	b.disk = openDiskOn(r.t, fs, wal.Options{Sync: r.sync}, Options{ForgetAfter: time.Hour}, b.now)
	b.disk.fs = fs
	r.lives++
	b.life = r.lives
	b.lives[b.life] = true
	b.wrote = b.wrote[:b.log.Appended()+1] // what a crash has left
	return b
}

// restart ends a server and starts it again, or crashes it.
func (r *resumes) restart(b *branch) {
	fs := b.fs
	if r.rng.IntN(2) == 0 {
		fs = r.clone(fs, r.rng.IntN(101))
	}
	b.shut()
	*b = *r.open(fs, b)
}

// clone is what is on a disk of which so much was stored that was not synced.
func (r *resumes) clone(fs *vfs.MemFS, percent int) *vfs.MemFS {
	return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r.rng})
}

// copy begins another branch, in place of an old one when there are many.
func (r *resumes) copy(b *branch) {
	next := r.open(r.clone(b.fs, 100), b)
	if len(r.all) < 3 {
		r.all = append(r.all, next)
		return
	}
	i := r.rng.IntN(len(r.all))
	r.all[i].shut()
	r.all[i] = next
}

func (r *resumes) beat(b *branch, times int) {
	for range times {
		hb := *r.devices[r.rng.IntN(len(r.devices))]
		hb.Status = Status(min(1, r.rng.IntN(5)))
		hb.Seq = uint64(r.lives)<<32 | b.log.Appended()
		if res := b.Heartbeat(&hb); res.Outcome == Unavailable {
			r.t.Errorf("%+v", res)
		}
	}
}

// resume lets a client come with some cursor, or none.
func (r *resumes) resume(b *branch) {
	var with seenCursor
	if len(r.seen) > 0 && r.rng.IntN(10) > 0 {
		with = r.seen[r.rng.IntN(len(r.seen))]
	}
	list := slices.Clone(with.list)
	if list == nil || r.rng.IntN(3) == 0 {
		r.rng.Shuffle(len(r.users), func(i, j int) {
			r.users[i], r.users[j] = r.users[j], r.users[i]
		})
		list = slices.Clone(r.users[:1+r.rng.IntN(len(r.users))])
	}
	text, mutant := r.mutate(with.text)
	given, honoured := b.History().Parse([]byte(text))
	written := b.lives[with.life] && with.lsn < uint64(len(b.wrote)) &&
		b.wrote[with.lsn] == with.wrote
	if want := with.text != "" && !mutant && written; honoured != want {
		r.t.Fatalf("a cursor of life %d at %d, changed: %v, is honoured: %v; life %d has had %v",
			with.life, with.lsn, mutant, honoured, b.life, b.lives)
	}
	switch {
	case mutant:
		r.Mutants++
	case honoured:
		r.Honoured++
	case text != "":
		r.Refused++
	}
	l := &broadcast.List{After: given.LSN, Resumed: honoured, View: r.view, Linger: r.linger}
	forgotten := func(user uuid.UUID) bool {
		return honoured && b.History().Forgotten(user) > given.LSN
	}
	if slices.ContainsFunc(list, forgotten) {
		if r.Forgotten++; r.view == broadcast.ViewDevices {
			l.Resumed, l.After = false, 0
		}
	}
	var rest []uuid.UUID
	for _, user := range list {
		if l.Resumed && slices.Contains(with.list, user) && !forgotten(user) &&
			r.toldAll(b, user, given) {
			l.Users = append(l.Users, user)
		} else {
			rest = append(rest, user)
		}
	}
	l.Known = len(l.Users)
	l.Users = append(l.Users, rest...)
	r.follow(b, l, given, with)
}

// toldAll reports that a cursor was made after the end of the user's linger.
func (r *resumes) toldAll(b *branch, user uuid.UUID, given cursor.Cursor) bool {
	at, online := b.Turned(user)
	return r.linger == 0 || online || at+uint64(r.linger.Milliseconds())+1000 <= given.ToldMS
}

// mutate may change a cursor a bit.
func (r *resumes) mutate(text string) (mutant string, changed bool) {
	if text == "" || r.rng.IntN(4) > 0 {
		return text, false
	}
	b, i := []byte(text), r.rng.IntN(len(text))
	switch r.rng.IntN(3) {
	case 0:
		b[i] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_\n= "[r.rng.IntN(67)]
	case 1:
		b = b[:i]
	case 2:
		b = slices.Insert(b, i, byte(r.rng.IntN(256)))
	}
	return string(b), string(b) != text
}

// follow opens a stream and checks what its client has when all is quiet.
func (r *resumes) follow(
	b *branch, l *broadcast.List, given cursor.Cursor, with seenCursor,
) {
	c := &resumeClient{known: map[uuid.UUID]string{}, users: l.Users, clock: b.clock}
	before := r.truth(b, l.Users)
	for device, text := range with.known {
		if slices.Contains(l.Users, userOfFrame(text)) { // it knows only later what was honoured
			c.known[device] = text
		}
	}
	c.given, c.resumed, c.kept = given, l.Resumed, l.Known
	c.history, c.committed = b.History(), b.log.Committed
	quiet := r.rng.IntN(2) == 0
	var beats sync.WaitGroup
	if !quiet {
		n := r.rng.IntN(8)
		beats.Go(func() { r.beatAlone(b, n) })
	}
	l.IDs = c
	if err := b.Subscribe(broadcast.Subscription{Conn: c, List: l}); err != nil {
		r.t.Fatal(err)
	}
	beats.Wait()
	b.note()
	truth := r.truth(b, l.Users)
	differs := func() string { return c.differs(truth) }
	if r.view == broadcast.ViewUsers {
		first := r.first(b, l)
		differs = func() string { return c.differsFrom(first) }
	}
	wrong := ""
	testwait.Until(r.t, "a client has what changed", func() bool {
		wrong = differs()
		return wrong == "" || c.isTooMuch()
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if wrong != "" {
		r.t.Fatalf("resumed %v at %d: %s", l.Resumed, l.After, wrong)
	}
	if quiet && l.Resumed && r.view == broadcast.ViewDevices {
		changed := 0
		for _, d := range before {
			if !slices.Contains(l.Users[:l.Known], d.User) || d.LSN > l.After {
				changed++
			}
		}
		if c.events != changed {
			r.t.Fatalf("resumed at %d: %d events, %d devices have changed", l.After, c.events,
				changed)
		}
		if changed == 0 {
			r.Unchanged++
		}
	}
	for _, s := range c.seen {
		if s.text == "" {
			continue // the client begins anew
		}
		if s.life, s.wrote, s.list = b.life, b.wrote[s.lsn], l.Users; s.partial {
			r.Cuts++
			s.list = l.Users[:l.Known]
		}
		r.seen = append(r.seen, s)
	}
	if many := len(r.seen) - 300; many > 0 {
		r.seen = r.seen[many:]
	}
}

// first is a client that follows the same users for the first time.
func (r *resumes) first(b *branch, l *broadcast.List) *resumeClient {
	c := &resumeClient{
		known: map[uuid.UUID]string{}, users: l.Users, clock: b.clock, history: b.History(),
		committed: b.log.Committed,
	}
	again := *l
	again.Known, again.After, again.Resumed, again.IDs = 0, 0, false, c
	if err := b.Subscribe(broadcast.Subscription{Conn: c, List: &again}); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// beatAlone sends heartbeats beside the test's own goroutine.
func (r *resumes) beatAlone(b *branch, times int) {
	for i := range times {
		hb := *r.devices[i%len(r.devices)]
		hb.Status, hb.Seq = Status(i%2), uint64(r.lives)<<32|b.log.Appended()
		if res := b.Heartbeat(&hb); res.Outcome == Unavailable {
			r.t.Errorf("%+v", res)
		}
	}
}

// truth is every device of some users.
func (r *resumes) truth(b *branch, users []uuid.UUID) map[uuid.UUID]Device {
	all := map[uuid.UUID]Device{}
	for _, user := range users {
		devices, err := allDevices(b, user)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, d := range devices {
			all[d.Device] = d
		}
	}
	return all
}

// resumeClient is a client of a list stream, and the maker of its ids.
type resumeClient struct {
	testConn  // all but Write
	history   *cursor.History
	users     []uuid.UUID
	given     cursor.Cursor // the client's when it came
	resumed   bool          // it was honoured
	kept      int           // of the users, those of which the client has something
	committed func() uint64
	clock     Clock
	toldMS    uint64 // when no user was overdue last

	mu     sync.Mutex
	rest   []byte
	known  map[uuid.UUID]string // guarded by mu
	fresh  map[uuid.UUID]string // guarded by mu: of this stream alone
	events int                  // guarded by mu: before synced
	synced bool                 // guarded by mu
	seen   []seenCursor         // guarded by mu
	wrong  string               // guarded by mu
	lsns   map[string]uint64    // guarded by mu: of cursors
}

func (c *resumeClient) AppendID(dst []byte, at broadcast.Position) []byte {
	if !at.Overdue || c.toldMS == 0 {
		c.toldMS = c.clock().WallMS
	}
	with := cursor.Cursor{
		List: c.history.List(c.users), LSN: at.Through, Newest: at.Newest, ToldMS: c.toldMS,
	}
	if !at.Synced {
		if c.kept == 0 {
			return dst
		}
		with = c.given
		with.Newest = max(at.Newest, with.Newest)
		with.List = c.history.List(c.users[:c.kept])
	}
	from := len(dst)
	dst = c.history.Append(dst, with)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lsns == nil {
		c.lsns = map[string]uint64{}
	}
	c.lsns[string(dst[from:])] = with.Newest
	if with.Newest > c.committed() {
		c.wrong = fmt.Sprintf("a cursor at %d, which is not committed", with.Newest)
	}
	return dst
}

func (c *resumeClient) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, p...)
	for {
		block, rest, ok := bytes.Cut(c.rest, []byte("\n\n"))
		if !ok {
			return len(p), nil
		}
		c.rest = rest
		c.take(string(block))
	}
}

// take takes up one event.
func (c *resumeClient) take(block string) {
	id, rest, ok := strings.Cut(block, "\n")
	id, isID := strings.CutPrefix(id, "id: ")
	event, data, ok2 := strings.Cut(rest, "\ndata: ")
	if !ok || !ok2 || !isID && id != "id:" {
		if !strings.HasPrefix(block, ":") && !strings.HasPrefix(block, "retry") {
			c.wrong = fmt.Sprintf("%q is no event", block)
		}
		return
	}
	if c.fresh == nil {
		c.fresh = map[uuid.UUID]string{}
	}
	switch event {
	case "event: presence", "event: user":
		var e struct {
			User   uuid.UUID `json:"user_id"`
			Device uuid.UUID `json:"device_id"`
		}
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			c.wrong = err.Error()
		}
		if event == "event: user" {
			e.Device = e.User
		}
		if c.known[e.Device] = data; !c.synced {
			c.events++
			c.fresh[e.Device] = data
		}
	case "event: synced":
		if c.synced = true; !strings.Contains(data, `"resumed":true`) {
			c.known = c.fresh
		}
	default:
		c.wrong = event
	}
	c.seen = append(c.seen, seenCursor{
		text: id, lsn: c.lsns[id], partial: !c.synced, known: maps.Clone(c.known),
	})
}

func (c *resumeClient) isTooMuch() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrong != ""
}

// differs says in what the client's devices are not those of the engine. A device that was
// forgotten while it was offline is no event: the client may have it.
func (c *resumeClient) differs(truth map[uuid.UUID]Device) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong != "" || !c.synced {
		return "not synced: " + c.wrong
	}
	for device, d := range truth {
		want := strings.TrimSuffix(strings.TrimPrefix(string(wire.AppendFrame(nil, &d.Event)),
			"data: "), "\n\n")
		if got := c.known[device]; got != want {
			return fmt.Sprintf("it has %s, not %s", got, want)
		}
	}
	for device, text := range c.known {
		if _, ok := truth[device]; !ok && !strings.Contains(text, `"status":"offline"`) {
			return "it still has " + text
		}
	}
	return ""
}

func userOfFrame(data string) uuid.UUID {
	var e struct {
		User uuid.UUID `json:"user_id"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		panic(err)
	}
	return e.User
}

// differsFrom says in what the client's users are not those of a client that came for the first
// time. When an online user was seen last is as of when it was told; a device that was forgotten
// while the user was offline is no event.
func (c *resumeClient) differsFrom(first *resumeClient) string {
	first.mu.Lock()
	wanted, ready := maps.Clone(first.known), first.synced
	first.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong != "" || !c.synced || !ready {
		return "not synced: " + c.wrong
	}
	for _, user := range c.users {
		var got, want struct {
			Status  string
			Online  int     `json:"devices_online"`
			Seen    *uint64 `json:"last_seen_ms"`
			Changed *uint64 `json:"changed_at_ms"`
		}
		if json.Unmarshal([]byte(c.known[user]), &got) != nil ||
			json.Unmarshal([]byte(wanted[user]), &want) != nil {
			return fmt.Sprintf("it has %q, not %q", c.known[user], wanted[user])
		}
		same := got.Status == want.Status && got.Online == want.Online
		if same && got.Status == "offline" && got.Seen != nil && want.Seen != nil {
			same = *got.Seen == *want.Seen && *got.Changed == *want.Changed
		}
		if !same {
			return fmt.Sprintf("it has %s, not %s", c.known[user], wanted[user])
		}
	}
	return ""
}
