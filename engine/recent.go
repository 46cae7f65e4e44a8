package engine

import (
	"bytes"
	"container/heap"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"rollcall/engine/table"
)

// UserQuery says which users Recent lists: all that meet each of its conditions.
type UserQuery struct {
	// ID is how the user's id begins. Default: anything.
	ID IDPrefix
	// Status is what the user is, if HasStatus.
	Status    Status
	HasStatus bool
	// Source is part of the source of one of the user's devices, in any case. Default: any.
	Source string
	// Limit is how many users are listed at most: the last changed.
	Limit int
}

// ListedUser is a user as Recent lists it.
type ListedUser struct {
	ID          uuid.UUID
	Online      int    // of its devices
	Devices     int    // that are known
	SeenAtMS    uint64 // receipt of the last heartbeat that said online; 0: none
	ChangedAtMS uint64 // of the last change of Online; 0: there was none
	Source      string // of the device that changed last
}

// Recent lists users, those whose number of devices online changed last first. It looks at every
// user, and at every device where the question is about sources or the users that ever turned are
// not enough: in slices between which it rests, so that heartbeats wait for none of it. It is over
// early, with ctx's error, when ctx is.
func (e *Engine) Recent(ctx context.Context, q UserQuery) ([]ListedUser, error) {
	s := search{
		devices: e.devices, UserQuery: q, ctx: ctx, listed: map[uuid.UUID]bool{},
		pace: pace{began: time.Now(), stop: ctx.Done()},
	}
	s.find()
	listed, newest := s.describe()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return listed, e.log.Vouch(newest) // I2
}

// search is one call of Recent. Single owner.
type search struct {
	*devices
	UserQuery
	ctx  context.Context
	pace pace

	found  oldestFirst        // the last changed so far
	listed map[uuid.UUID]bool // who is in found

	sourceMatches map[string]bool // by text, of those that were looked at
}

// changedUser is a user and when it changed.
type changedUser struct {
	id        uuid.UUID
	changedMS uint64
}

// compareChanged goes by the last change, and by id where that is the same.
func compareChanged(a, b changedUser) int {
	switch {
	case a.changedMS < b.changedMS:
		return -1
	case a.changedMS > b.changedMS:
		return 1
	}
	return bytes.Compare(b.id[:], a.id[:])
}

// oldestFirst is a heap of users with the one that changed first on top.
type oldestFirst []changedUser

func (h oldestFirst) Len() int           { return len(h) }
func (h oldestFirst) Less(i, j int) bool { return compareChanged(h[i], h[j]) < 0 }
func (h oldestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *oldestFirst) Push(u any)        { *h = append(*h, u.(changedUser)) }
func (h *oldestFirst) Pop() any {
	u := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return u
}

// find fills found.
func (s *search) find() {
	if user, whole := s.ID.Whole(); whole {
		s.eachDevice(user, func(d Device) bool {
			matches := s.Source == "" || s.matchesSource(d.Source)
			if matches {
				s.look(user)
			}
			return !matches
		})
		return
	}
	if s.Source != "" {
		s.findDevices()
		return
	}
	for shard := 0; shard < s.table.Shards() && s.ctx.Err() == nil; shard++ {
		s.table.RangeAggregates(shard, func(user uuid.UUID, a table.Aggregate) {
			s.take(user, a)
		})
		s.pace.step()
	}
	// Users whose devices have only ever said offline have no aggregate. They are last.
	if len(s.found) < s.Limit && !(s.HasStatus && s.Status == Online) {
		s.findDevices()
	}
}

// findDevices takes up the users of all devices whose source matches; without a source, of those
// that never said online.
func (s *search) findDevices() {
	n := 0
	s.table.Range(func(_ table.Ref, entry *table.Entry) bool {
		if n++; n%paceItems == 0 {
			if s.pace.step(); s.ctx.Err() != nil {
				return false
			}
		}
		if s.Source == "" {
			if d, _ := entry.Load(); d.Online || d.SeenAtMS > 0 {
				return true // its user has an aggregate
			}
		}
		user, _, _, source, ok := s.read(entry)
		if !ok || !s.ID.matches(user) || s.listed[user] {
			return true
		}
		if s.Source != "" && !s.matchesSource(source) {
			return true
		}
		s.look(user)
		return true
	})
}

// matchesSource looks at each text once.
func (s *search) matchesSource(source string) bool {
	matches, known := s.sourceMatches[source]
	if !known {
		if s.sourceMatches == nil || len(s.sourceMatches) == maxSourceMatches {
			s.sourceMatches = map[string]bool{}
		}
		matches = strings.Contains(strings.ToLower(source), strings.ToLower(s.Source))
		s.sourceMatches[source] = matches
	}
	return matches
}

const maxSourceMatches = 1 << 12

// look takes a user up as it is now.
func (s *search) look(user uuid.UUID) {
	a, _ := s.table.Aggregate(user)
	s.take(user, a)
}

// take takes a user up if it changed later than those that were found. It is short: a shard's
// turns may wait for it.
func (s *search) take(user uuid.UUID, a table.Aggregate) {
	u := changedUser{user, a.ChangedAtMS}
	full := len(s.found) == s.Limit
	if full && compareChanged(u, s.found[0]) <= 0 || !s.ID.matches(user) ||
		s.HasStatus && (a.Online > 0) != (s.Status == Online) || s.listed[user] {
		return
	}
	s.listed[user] = true
	if full {
		delete(s.listed, s.found[0].id)
		s.found[0] = u
		heap.Fix(&s.found, 0)
		return
	}
	heap.Push(&s.found, u)
}

// describe says what is known of the users that were found, the last changed first, and the newest
// LSN in that. What is gone, or is not what was asked for any more, is left out.
func (s *search) describe() (listed []ListedUser, newest uint64) {
	for _, found := range s.found {
		if s.ctx.Err() != nil {
			return nil, 0
		}
		a, _ := s.table.Aggregate(found.id)
		u := ListedUser{ID: found.id, SeenAtMS: a.SeenAtMS, ChangedAtMS: a.ChangedAtMS}
		last := s.addDevices(&u)
		if u.Devices == 0 || s.HasStatus && (u.Online > 0) != (s.Status == Online) {
			continue
		}
		newest = max(newest, a.TurnLSN, last)
		listed = append(listed, u)
	}
	slices.SortFunc(listed, func(a, b ListedUser) int {
		return compareChanged(changedUser{b.ID, b.ChangedAtMS}, changedUser{a.ID, a.ChangedAtMS})
	})
	return listed, newest
}

// addDevices adds what a user's devices say, and returns the LSN of the last change of one.
func (s *search) addDevices(u *ListedUser) (newest uint64) {
	for i, ref := range s.table.Devices(u.ID, nil) {
		if i%paceItems == paceItems-1 {
			s.pace.step()
		}
		d, ok := s.recordOf(u.ID, ref)
		if !ok {
			continue
		}
		u.Devices++
		seen := d.SeenAtMS
		if d.Status == Online {
			u.Online++
			seen = d.UpdatedAtMS
		}
		u.SeenAtMS = max(u.SeenAtMS, seen)
		if d.LSN > newest {
			newest, u.Source = d.LSN, d.Source
		}
	}
	return newest
}

// IDPrefix is how an id begins.
type IDPrefix struct{ bits, mask uuid.UUID }

// String returns the text that ParseIDPrefix reads.
func (p IDPrefix) String() string {
	digits := 0
	for digits < 2*len(p.mask) && p.mask[digits/2]&(0xf0>>(4*(digits%2))) != 0 {
		digits++
	}
	if digits > 0 {
		digits += strings.Count(p.bits.String()[:digits+min(4, max(0, digits-4)/4)], "-")
	}
	return p.bits.String()[:digits]
}

// ParseIDPrefix reads the beginning of an id in its usual form, in any case: 0 to 36 characters,
// dashes in their places.
func ParseIDPrefix(text string) (p IDPrefix, ok bool) {
	if len(text) > len(uuid.Nil.String()) {
		return p, false
	}
	digits := 0
	for i := range len(text) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if text[i] != '-' {
				return p, false
			}
			continue
		}
		value := strings.IndexByte("0123456789abcdefABCDEF", text[i])
		if value < 0 {
			return p, false
		}
		if value > 0xf {
			value -= 6
		}
		shift := 4 * (1 - digits%2)
		p.bits[digits/2] |= byte(value) << shift
		p.mask[digits/2] |= 0xf << shift
		digits++
	}
	return p, true
}

func (p *IDPrefix) matches(id uuid.UUID) bool {
	for i, m := range p.mask {
		if m == 0 {
			break
		}
		if id[i]&m != p.bits[i] {
			return false
		}
	}
	return true
}

// Whole returns the id of a prefix that is one.
func (p *IDPrefix) Whole() (id uuid.UUID, ok bool) {
	return p.bits, p.mask[len(p.mask)-1] == 0xff
}
