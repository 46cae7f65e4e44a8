package read

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"rollcall/cluster/bus"
	"rollcall/engine"
	"rollcall/engine/broadcast"
)

const subject bus.Subject = "read"

const (
	// timeout is how long an owner has for its answer, usersTimeout for all answers that a question
	// about users needs, and recentTimeout to look at all users.
	timeout       = 2500 * time.Millisecond
	usersTimeout  = 10 * time.Second
	recentTimeout = 10 * time.Second
	// maxServed is how many questions of other nodes a node answers at once.
	maxServed = 256
)

// Why there is no answer.
var (
	errNoAnswer = fmt.Errorf("%w, which did not answer in time", engine.ErrNotMine)
	errBusy     = fmt.Errorf("%w, which has too many questions", engine.ErrNotMine)
	errFailed   = errors.New("the owner of the user could not answer")
)

// Engine is what a Reader needs of an engine.Engine.
type Engine interface {
	Users(ids []uuid.UUID, limit int, fn func(u *engine.User)) error
	Devices(user, after uuid.UUID, limit int) (page []engine.Device, more bool, err error)
	Recent(ctx context.Context, q engine.UserQuery) ([]engine.ListedUser, error)
}

// Edge is what the streams of this node were sent.
type Edge interface {
	// Fresh says that what is held of a user is at most a second older than the newest there is.
	Fresh(user uuid.UUID) bool
	Users(ids []uuid.UUID, limit int, fn func(u *engine.User)) error
	Devices(user, after uuid.UUID, limit int) (page []engine.Device, more bool)
	Streams(user uuid.UUID) int
	// Renew moves the end of a stream of this node's.
	Renew(name string, expiresNanos int64, fits broadcast.Fits) error
}

// Partitions is what a Reader needs to know of the cluster. Any goroutine may use it.
type Partitions struct {
	Count int
	Of    func(user uuid.UUID) int
	Owner func(p int) (node string) // "": none is known
	// Mine returns the engine of a partition that is this node's, and that it is sure of, until
	// release is called.
	Mine func(p int) (e Engine, release func(), ok bool)
}

// Reader answers questions about users. Any goroutine may call its methods.
type Reader struct {
	bus        bus.Bus
	partitions Partitions
	edge       Edge
	clock      engine.Clock
	serving    chan struct{} // has room for questions of other nodes
}

// New makes the Reader of a node. It takes over the bus' subject read.
func New(b bus.Bus, p Partitions, edge Edge, clock engine.Clock) *Reader {
	r := &Reader{
		bus: b, partitions: p, edge: edge, clock: clock, serving: make(chan struct{}, maxServed),
	}
	b.Handle(subject, r.serve)
	return r
}

// Users is engine.Engine.Users, of all partitions. Owners that have not answered all of it within
// usersTimeout are as those that do not answer: so many devices may need very many answers of one
// owner, each of which comes in time.
func (r *Reader) Users(ids []uuid.UUID, limit int, fn func(u *engine.User)) error {
	ctx, cancel := context.WithTimeout(context.Background(), usersTimeout)
	defer cancel()
	a := asking{of: r, ids: ids, limit: limit, users: make([]engine.User, len(ids))}
	if err := a.ask(ctx); err != nil {
		return err
	}
	devices := 0
	for i := range a.users {
		if devices += len(a.users[i].Devices); devices > limit {
			return engine.ErrTooManyDevicesAsked
		}
	}
	for i := range a.users {
		fn(&a.users[i])
	}
	return nil
}

// Devices is engine.Engine.Devices.
func (r *Reader) Devices(user, after uuid.UUID, limit int) (
	page []engine.Device, more bool, err error,
) {
	p := r.partitions.Of(user)
	if e, release, ok := r.partitions.Mine(p); ok {
		defer release()
		return e.Devices(user, after, limit)
	}
	if r.edge.Fresh(user) {
		page, more = r.edge.Devices(user, after, limit)
		if r.edge.Fresh(user) { // it was not let go of meanwhile
			return page, more, nil
		}
	}
	return r.pageOf(context.Background(), r.partitions.Owner(p), user, after, limit)
}

// pageOf asks an owner for a page of a user's devices.
func (r *Reader) pageOf(ctx context.Context, owner string, user, after uuid.UUID, limit int) (
	page []engine.Device, more bool, err error,
) {
	text, err := r.request(ctx, owner, appendPage(nil, user, after, min(limit, maxPage)))
	if err != nil {
		return nil, false, err
	}
	if len(text) < 1 {
		return nil, false, errMessage
	}
	more = text[0] != 0
	if page, text, err = readDevices(text[1:], user); err != nil || len(text) > 0 {
		return nil, false, errMessage
	}
	return page, more, nil
}

// Streams is how many streams follow a user now, on all nodes that answer.
func (r *Reader) Streams(user uuid.UUID) int {
	counts := make(chan int)
	peers := r.bus.Peers()
	for _, peer := range peers {
		go func() {
			question := append([]byte{format, byte(opStreams)}, user[:]...)
			text, err := r.request(context.Background(), peer, question)
			n := 0
			if err == nil && len(text) == 4 {
				n = int(binary.LittleEndian.Uint32(text))
			}
			counts <- n
		}()
	}
	sum := r.edge.Streams(user)
	for range peers {
		sum += <-counts
	}
	return sum
}

// Recent is engine.Engine.Recent, of all partitions.
func (r *Reader) Recent(ctx context.Context, q engine.UserQuery) ([]engine.ListedUser, error) {
	ctx, cancel := context.WithTimeout(ctx, recentTimeout)
	defer cancel()
	question, err := appendRecent(nil, q)
	if err != nil {
		return nil, err
	}
	peers := r.bus.Peers()
	answers := make(chan recentAnswer, len(peers)+1)
	go func() { answers <- r.recent(ctx, q) }()
	for _, peer := range peers {
		go func() {
			var a recentAnswer
			if text, err := r.ask(ctx, peer, question); err == nil {
				_ = json.Unmarshal(text, &a) // else its partitions are missing
			}
			answers <- a
		}()
	}
	var all []engine.ListedUser
	seen := map[int]bool{}
	for range len(peers) + 1 {
		a := <-answers
		for _, p := range a.Partitions {
			seen[p] = true
		}
		all = append(all, a.Users...)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(seen) < r.partitions.Count {
		return nil, errNoAnswer
	}
	return lastChanged(all, q.Limit), nil
}

// lastChanged returns the users that changed last, each once: a partition may have moved.
func lastChanged(all []engine.ListedUser, limit int) []engine.ListedUser {
	slices.SortFunc(all, func(a, b engine.ListedUser) int {
		return cmp.Or(cmp.Compare(b.ChangedAtMS, a.ChangedAtMS), bytes.Compare(b.ID[:], a.ID[:]))
	})
	seen := map[uuid.UUID]bool{}
	return slices.DeleteFunc(all, func(u engine.ListedUser) bool {
		if seen[u.ID] || len(seen) == limit {
			return true
		}
		seen[u.ID] = true
		return false
	})
}

// recent looks at this node's partitions.
func (r *Reader) recent(ctx context.Context, q engine.UserQuery) (a recentAnswer) {
	for p := range r.partitions.Count {
		e, release, ok := r.partitions.Mine(p)
		if !ok {
			continue
		}
		users, err := e.Recent(ctx, q)
		release()
		if err != nil {
			continue
		}
		a.Partitions = append(a.Partitions, p)
		a.Users = append(a.Users, users...)
	}
	a.Users = lastChanged(a.Users, q.Limit)
	return a
}

// request asks a node and returns what its answer says, which it has timeout for.
func (r *Reader) request(ctx context.Context, node string, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return r.ask(ctx, node, question)
}

func (r *Reader) ask(ctx context.Context, node string, question []byte) ([]byte, error) {
	if node == "" || node == r.bus.Self() {
		return nil, engine.ErrNotMine
	}
	text, err := r.bus.Request(ctx, node, subject, question)
	switch {
	case errors.Is(err, bus.ErrNoNode):
		return nil, engine.ErrNotMine
	case err != nil:
		return nil, errNoAnswer
	case len(text) < 2 || text[0] != format:
		return nil, errMessage
	}
	return text[2:], status(text[1]).err()
}

// asking is one call of Users.
type asking struct {
	of    *Reader
	ids   []uuid.UUID
	limit int
	users []engine.User // of each id
}

// ask fills in the users, all places at the same time.
func (a *asking) ask(ctx context.Context) error {
	owners := map[string][]int{}
	var here, watched []int // indexes of ids
	for i, id := range a.ids {
		p := a.of.partitions.Of(id)
		switch owner := a.of.partitions.Owner(p); {
		case owner == a.of.bus.Self():
			here = append(here, i)
		case a.of.edge.Fresh(id):
			watched = append(watched, i)
		default:
			owners[owner] = append(owners[owner], i)
		}
	}
	for _, i := range a.atEdge(watched) { // it is not fresh any more
		owner := a.of.partitions.Owner(a.of.partitions.Of(a.ids[i]))
		owners[owner] = append(owners[owner], i)
	}
	var all sync.WaitGroup
	errs := make(chan error, len(owners)+1)
	all.Go(func() { errs <- a.here(here) })
	for owner, at := range owners {
		all.Go(func() { errs <- a.owner(ctx, owner, at) })
	}
	all.Wait()
	close(errs)
	var first error
	for err := range errs {
		if errors.Is(err, engine.ErrTooManyDevicesAsked) {
			return err
		}
		first = cmp.Or(first, err)
	}
	return first
}

func (a *asking) some(at []int) []uuid.UUID {
	ids := make([]uuid.UUID, len(at))
	for i, index := range at {
		ids[i] = a.ids[index]
	}
	return ids
}

// here asks this node's engines.
func (a *asking) here(at []int) error {
	users, err := a.of.local(a.some(at), a.limit)
	for i := range users {
		a.users[at[i]] = users[i]
	}
	return err
}

// atEdge takes what the edge holds, and returns the indexes of what it let go of meanwhile.
func (a *asking) atEdge(at []int) (gone []int) {
	if len(at) == 0 {
		return nil
	}
	next := 0
	err := a.of.edge.Users(a.some(at), a.limit, func(u *engine.User) {
		a.users[at[next]] = clone(u)
		next++
	})
	if err != nil {
		return at // the owners say it again
	}
	for _, i := range at {
		if !a.of.edge.Fresh(a.ids[i]) {
			gone = append(gone, i)
		}
	}
	return gone
}

// owner asks an owner, and again for what did not fit into its answer.
func (a *asking) owner(ctx context.Context, node string, at []int) error {
	for len(at) > 0 {
		asked := at[:min(len(at), maxAsked)]
		text, err := a.of.request(ctx, node, appendUsers(nil, a.limit, a.some(asked)))
		if err != nil {
			return err
		}
		if len(text) == 0 { // the first has too many for one answer
			if err := a.pages(ctx, node, asked[0]); err != nil {
				return err
			}
			at = at[1:]
			continue
		}
		for ; len(text) > 0; at = at[1:] {
			if len(asked) == 0 {
				return errMessage
			}
			u := &a.users[asked[0]]
			u.ID = a.ids[asked[0]]
			if u.Devices, text, err = readDevices(text, u.ID); err != nil {
				return err
			}
			sum(u)
			asked = asked[1:]
		}
	}
	return nil
}

// pages asks an owner for a user with very many devices.
func (a *asking) pages(ctx context.Context, node string, index int) error {
	u := &a.users[index]
	u.ID = a.ids[index]
	var after uuid.UUID
	for more := true; more; {
		page, others, err := a.of.pageOf(ctx, node, u.ID, after, maxPage)
		if err != nil {
			return err
		}
		if u.Devices = append(u.Devices, page...); len(u.Devices) > a.limit {
			return engine.ErrTooManyDevicesAsked
		}
		if more = others && len(page) > 0; more {
			after = page[len(page)-1].Device
		}
	}
	sum(u)
	return nil
}

// sum fills in what the devices of a user say together.
func sum(u *engine.User) {
	for i := range u.Devices {
		d := &u.Devices[i]
		if d.Status == engine.Online {
			u.Online++
		}
		u.SeenAtMS = max(u.SeenAtMS, d.SeenAtMS)
	}
}

func clone(u *engine.User) engine.User {
	c := *u
	c.Devices = slices.Clone(u.Devices)
	return c
}

// local asks this node's engines for users, those of each partition at the same time: each is
// vouched for by an append of its own.
func (r *Reader) local(ids []uuid.UUID, limit int) ([]engine.User, error) {
	byPartition := map[int][]int{}
	for i, id := range ids {
		p := r.partitions.Of(id)
		byPartition[p] = append(byPartition[p], i)
	}
	users := make([]engine.User, len(ids))
	var all sync.WaitGroup
	errs := make(chan error, len(byPartition))
	for p, at := range byPartition {
		all.Go(func() { errs <- r.partition(p, ids, at, limit, users) })
	}
	all.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return users, nil
}

// partition fills in the users of one partition.
func (r *Reader) partition(p int, ids []uuid.UUID, at []int, limit int, users []engine.User) error {
	e, release, ok := r.partitions.Mine(p)
	if !ok {
		return engine.ErrNotMine
	}
	defer release()
	asked := make([]uuid.UUID, len(at))
	for i, index := range at {
		asked[i] = ids[index]
	}
	next := 0
	return e.Users(asked, limit, func(u *engine.User) {
		users[at[next]] = clone(u)
		next++
	})
}

// serve answers a question of another node, on a goroutine of its own.
func (r *Reader) serve(m bus.Message) {
	if m.Reply == nil {
		return
	}
	select {
	case r.serving <- struct{}{}:
	default:
		m.Reply([]byte{format, byte(statusBusy)})
		return
	}
	go func() {
		defer func() { <-r.serving }()
		m.Reply(r.answer(m.Data))
	}()
}

// answer answers a question.
func (r *Reader) answer(text []byte) []byte {
	answer, err := []byte{format, byte(statusOK)}, errMessage
	if len(text) >= 2 && text[0] == format {
		switch question := text[2:]; op(text[1]) {
		case opUsers:
			answer, err = r.answerUsers(answer, question)
		case opDevices:
			answer, err = r.answerPage(answer, question)
		case opStreams:
			answer, err = r.answerStreams(answer, question)
		case opRecent:
			answer, err = r.answerRecent(answer, question)
		case opStream:
			answer, err = r.answerStream(answer, question)
		case opRenew:
			answer, err = r.answerRenew(answer, question)
		}
	}
	if err != nil {
		return []byte{format, byte(statusOf(err))}
	}
	return answer
}

func (r *Reader) answerUsers(dst, question []byte) ([]byte, error) {
	limit, ids, err := readUsers(question)
	if err != nil {
		return nil, err
	}
	users, err := r.local(ids, limit)
	if err != nil {
		return nil, err
	}
	for i := range users {
		whole := len(dst)
		if dst = appendDevices(dst, users[i].Devices); len(dst) > maxAnswer {
			return dst[:whole], nil
		}
	}
	return dst, nil
}

func (r *Reader) answerPage(dst, question []byte) ([]byte, error) {
	user, after, limit, err := readPage(question)
	if err != nil {
		return nil, err
	}
	e, release, ok := r.partitions.Mine(r.partitions.Of(user))
	if !ok {
		return nil, engine.ErrNotMine
	}
	defer release()
	page, more, err := e.Devices(user, after, limit)
	dst = append(dst, 0)
	if more {
		dst[len(dst)-1] = 1
	}
	return appendDevices(dst, page), err
}

func (r *Reader) answerStreams(dst, question []byte) ([]byte, error) {
	if len(question) != 16 {
		return nil, errMessage
	}
	n := r.edge.Streams(uuid.UUID(question))
	return binary.LittleEndian.AppendUint32(dst, uint32(n)), nil
}

func (r *Reader) answerRecent(dst, question []byte) ([]byte, error) {
	q, err := readRecent(question)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), recentTimeout)
	defer cancel()
	text, err := json.Marshal(r.recent(ctx, q))
	return append(dst, text...), err
}
