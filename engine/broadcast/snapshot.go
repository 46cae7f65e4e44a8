package broadcast

import "slices"

const (
	pieceCost  = 32 << 10 // of a piece, one frame more at most: bytes, and lookCost for each device
	keptPieces = 16       // of a worker, for the streams that come next
	spareSnaps = 64       // of at most spareNames devices
	spareNames = 64
)

// snapshot is the newest state of each device of a user that changed in (after, through]. It is
// text of any length, so streams take it a piece at a time, each as fast as it reads, and only the
// names of the devices are kept: a piece is made when a stream takes it. A device that changed
// above through by then is left out of its piece, which is as right as it was before: its frame is
// owed to the stream when the snapshot is over (B2, B8).
type snapshot struct {
	id             uint64 // names it among the pieces; never used twice
	user           *user
	after, through uint64
	devices        []uint32
	streams        int // in the middle of it
}

// taking is how far a stream is in a snapshot.
type taking struct {
	snapshot *snapshot // nil: it has not begun
	at       int       // devices of it that the stream has
	queued   bool      // it is in snapshots.waiting
}

// piece is a part of a snapshot: the devices from one number up to, but not including, another.
type piece struct {
	snapshot uint64
	from, to int
	parcel
}

// snapshots makes the pieces of snapshots, and has the streams that wait for one. Streams in step
// share each piece; those that open while the user has no event share the snapshot. Single owner:
// the worker.
type snapshots struct {
	codec   Codec
	most    int // of a piece: pieceCost but in tests
	ids     uint64
	newest  map[*user]*snapshot // of those that are kept
	last    *snapshot           // made last: kept for the streams that come next
	spare   []*snapshot         // to be used again
	pieces  [keptPieces]piece
	oldest  int        // of pieces
	waiting []streamAt // streams that can take a piece, in turn; each once
	taking  int        // streams in the middle of a snapshot
}

// streamAt names a stream in the worker's slots.
type streamAt struct{ slot, reuse uint32 }

// of is the snapshot of what changed above after, for a stream of the user. One that was made
// before will do when the user has had no event since: it begins there.
func (ss *snapshots) of(u *user, after, through uint64) *snapshot {
	if sn := ss.newest[u]; sn != nil && sn.after == after && u.last <= sn.through {
		return sn
	}
	sn := &snapshot{}
	if n := len(ss.spare); n > 0 {
		sn, ss.spare = ss.spare[n-1], ss.spare[:n-1]
	}
	ss.ids++
	*sn = snapshot{
		id: ss.ids, user: u, after: after, through: through,
		devices: ss.codec.AppendDevices(sn.devices[:0], u.source, u.id),
	}
	ss.newest[u] = sn
	was := ss.last
	ss.last = sn
	ss.drop(was)
	return sn
}

// drop forgets a snapshot that no stream needs any more.
func (ss *snapshots) drop(sn *snapshot) {
	if sn == nil || sn.streams > 0 || sn == ss.last {
		return
	}
	if ss.newest[sn.user] == sn {
		delete(ss.newest, sn.user)
	}
	sn.user = nil
	if cap(sn.devices) <= spareNames && len(ss.spare) < spareSnaps {
		ss.spare = append(ss.spare, sn)
	}
}

// piece is the part of a snapshot that begins with a device, and what making it has cost now.
func (ss *snapshots) piece(sn *snapshot, from int) (p *piece, cost int) {
	for i := range ss.pieces {
		if p := &ss.pieces[i]; p.snapshot == sn.id && p.from == from {
			return p, 0
		}
	}
	p = &ss.pieces[ss.oldest]
	ss.oldest = (ss.oldest + 1) % keptPieces
	text := p.begin()
	to := from
	for ; to < len(sn.devices) && (to == from || len(text)+cost < ss.most); cost += lookCost {
		text, _ = ss.codec.AppendState(
			text, sn.user.source, sn.user.id, sn.devices[to], sn.after, sn.through)
		to++
	}
	p.snapshot, p.from, p.to = sn.id, from, to
	p.seal(text, 0, sn.through)
	return p, cost
}

// begin says that a stream is to take a snapshot: its first, or another.
func (ss *snapshots) begin(s *stream) {
	s.taking = &taking{}
	ss.taking++
}

// join makes a stream one of those that take a snapshot.
func (ss *snapshots) join(t *taking, sn *snapshot) {
	t.snapshot = sn
	sn.streams++
}

// leave ends what a stream takes, at its end or in the middle.
func (ss *snapshots) leave(s *stream) {
	t := s.taking
	if t == nil {
		return
	}
	s.taking = nil
	ss.taking--
	if sn := t.snapshot; sn != nil {
		sn.streams--
		ss.drop(sn)
	}
}

// wait queues a stream that can take a piece.
func (ss *snapshots) wait(s *stream) {
	if t := s.taking; t != nil && !t.queued {
		t.queued = true
		ss.waiting = append(ss.waiting, streamAt{s.slot, s.reuse})
	}
}

// next takes the stream whose turn it is out of the queue; nil: the stream has ended, or takes
// nothing any more.
func (ss *snapshots) next(slots *slots) *stream {
	at := ss.waiting[0]
	if ss.waiting = ss.waiting[1:]; len(ss.waiting) == 0 {
		ss.waiting = nil
	}
	s := slots.at(at.slot)
	if s.reuse != at.reuse || s.taking == nil {
		return nil
	}
	s.taking.queued = false
	return s
}

// trim gives the memory of rare peaks back.
func (ss *snapshots) trim() {
	if ss.taking > 0 {
		return
	}
	ss.pieces = [keptPieces]piece{}
	ss.spare = slices.Clip(ss.spare[:min(len(ss.spare), 1)])
	was := ss.last
	ss.last = nil
	ss.drop(was)
}
