package wire

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"

	"github.com/google/uuid"
)

// ListProblem is what is wrong with a list of users.
type ListProblem uint8

// The problems of a list.
const (
	ListValid       ListProblem = iota
	ListInvalidJSON             // the body is not one JSON object
	ListMissing                 // there is none, or it is null or empty
	ListInvalid                 // it is no array, or an element is no id: Users.Bad
)

// NoIndex is Users.Bad where no single element is at fault.
const NoIndex = -1

// Users reads lists of users. It may be used again and again, by one goroutine at a time; its zero
// value works.
type Users struct {
	// IDs are the users in the order of the list, each once: what a list repeats is left out. At
	// most as many as the limit.
	IDs []uuid.UUID
	// Count is how many elements the list has, repeated ones too.
	Count int
	// Bad is the index of the first element that is no id, from 0; else NoIndex.
	Bad int

	limit int
	seen  seen
}

// Begin empties the list. limit is how many users it may have.
func (u *Users) Begin(limit int) {
	u.IDs, u.Count, u.Bad, u.limit = u.IDs[:0], 0, NoIndex, limit
	u.seen.begin()
}

// TooMany reports that the list has more elements than it may.
func (u *Users) TooMany() bool { return u.Count > u.limit }

// Add appends an id to the list, given as text of any case. False: it is none.
func (u *Users) Add(text []byte) bool {
	var id uuid.UUID
	form := IDCanonical
	if !parseCanonicalID(&id, text) {
		id, form = ParseID(text)
	}
	if u.Count++; form == IDInvalid {
		if u.Bad == NoIndex {
			u.Bad = u.Count - 1
		}
		return false
	}
	u.keep(id)
	return true
}

// keep adds an id that was counted.
func (u *Users) keep(id uuid.UUID) {
	if u.Count <= u.limit && u.seen.add(u.IDs, id) {
		u.IDs = append(u.IDs, id)
	}
}

// addPlain adds the element that is next if it is an id in the canonical form, as nearly all are.
func (u *Users) addPlain(p *parser) bool {
	const quoted = idBytes + 2
	if len(p.json)-p.at < quoted || p.json[p.at] != '"' || p.json[p.at+quoted-1] != '"' {
		return false
	}
	var id uuid.UUID
	if !parseCanonicalID(&id, p.json[p.at+1:p.at+1+idBytes]) {
		return false
	}
	p.at += quoted
	u.Count++
	u.keep(id)
	return true
}

// Decode reads a list from a request's body: one JSON object whose member user_ids is an array of
// ids. Other members are ignored; of a member that comes twice the last counts. body is changed.
func (u *Users) Decode(body []byte, limit int) ListProblem {
	u.Begin(limit)
	problem := ListMissing
	p := parser{json: body}
	p.space()
	if !p.take('{') {
		return ListInvalidJSON
	}
	for p.space(); !p.take('}'); p.space() {
		key, ok := p.key()
		if !ok {
			return ListInvalidJSON
		}
		if string(key) == "user_ids" {
			problem, ok = u.decodeArray(&p)
		} else {
			ok = p.skip(1)
		}
		if !ok || !p.more('}') {
			return ListInvalidJSON
		}
	}
	if p.space(); p.at < len(p.json) {
		return ListInvalidJSON
	}
	return problem
}

// decodeArray reads the value of user_ids.
func (u *Users) decodeArray(p *parser) (problem ListProblem, ok bool) {
	u.Begin(u.limit)
	switch p.peek() {
	case '[':
	case 'n':
		return ListMissing, p.literal("null")
	default:
		return ListInvalid, p.skip(1)
	}
	p.at++
	for p.space(); !p.take(']'); p.space() {
		if !u.addPlain(p) && !u.addElement(p) {
			return ListInvalid, false
		}
		if !p.more(']') {
			return ListInvalid, false
		}
	}
	switch {
	case u.Count == 0:
		return ListMissing, true
	case u.Bad != NoIndex:
		return ListInvalid, true
	}
	return ListValid, true
}

// addElement adds the element that is next, whatever it is; false: it is no JSON.
func (u *Users) addElement(p *parser) (ok bool) {
	text := notText
	if p.peek() == '"' {
		text, ok = p.quoted()
	} else {
		ok = p.skip(2)
	}
	if ok {
		u.Add(text)
	}
	return ok
}

// seen finds ids that a list has already, in constant time whatever the ids are: a table of their
// places in the list, open addressing with linear probing. The hash depends on random keys.
type seen struct {
	places []uint32 // in the list, from 1; 0: free. A power of two, never more than half full
}

const leastPlaces = 64

var seenKeys = [2]uint64{rand.Uint64() | 1, rand.Uint64() | 1}

func (s *seen) begin() { clear(s.places) }

// add reports whether the list has no such id, and expects it to be appended then.
func (s *seen) add(list []uuid.UUID, id uuid.UUID) bool {
	if 2*(len(list)+1) > len(s.places) {
		s.grow(list)
	}
	mask := uint64(len(s.places) - 1)
	for i := hashID(&id) & mask; ; i = (i + 1) & mask {
		place := s.places[i]
		if place == 0 {
			s.places[i] = uint32(len(list) + 1)
			return true
		}
		if list[place-1] == id {
			return false
		}
	}
}

// grow makes room for the list and as much again.
func (s *seen) grow(list []uuid.UUID) {
	s.places = make([]uint32, max(leastPlaces, 2*len(s.places)))
	for i := range list {
		s.add(list[:i], list[i])
	}
}

// hashID is a folded multiplication, as in wyhash (https://github.com/wangyi-fudan/wyhash).
func hashID(id *uuid.UUID) uint64 {
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(id[:8])^seenKeys[0],
		binary.LittleEndian.Uint64(id[8:])^seenKeys[1])
	return hi ^ lo
}
