package wire

import (
	"unicode/utf8"

	"github.com/google/uuid"

	"rollcall/record"
)

// Heartbeat is a daemon's report of one device, as it passed the checks.
type Heartbeat struct {
	User, Device uuid.UUID
	Status       record.Status
	Source       []byte // trimmed, 1 to MaxSourceBytes bytes of valid UTF-8
	SentAtMS     uint64 // at most MaxInteger, as are Seq and TTLMS
	Seq          uint64
	TTLMS        uint64 // at least 1
}

// Problem is the first of the contract's checks that a text fails. The problems are in the order of
// the checks.
type Problem uint8

// The checks of a heartbeat.
const (
	Valid Problem = iota
	InvalidJSON
	MissingUserID
	InvalidSchemaVersion
	InvalidIDs
	UpperCaseIDs // past this check, the ids are known
	InvalidStatus
	InvalidSource
	InvalidSentAtMS
	InvalidSeq
	InvalidTTLMS

	ProblemCount
)

var problemDetails = [ProblemCount]string{
	InvalidJSON:          "Invalid JSON payload",
	MissingUserID:        "Missing user_id",
	InvalidSchemaVersion: "Invalid schema_version",
	InvalidIDs:           "Invalid user_id or device_id",
	UpperCaseIDs:         "Identifiers must be lowercase",
	InvalidStatus:        "Invalid status",
	InvalidSource:        "Invalid source",
	InvalidSentAtMS:      "Invalid sent_at_ms",
	InvalidSeq:           "Invalid seq",
	InvalidTTLMS:         "Invalid ttl_ms",
}

// Details returns the text of the error, "" for Valid.
func (p Problem) Details() string { return problemDetails[p] }

// learnEvery is how many texts of other shapes there must be before one of them is learned: where
// shapes alternate, as when daemons of two versions share a decoder of a pool, most texts still
// have the learned one, and few are copied in vain.
const learnEvery = 8

// Decoder reads the texts of heartbeats, one after the other. The zero value is ready. Single
// owner.
//
//	text ──► shape.match ─────────── of the last text's shape ───────────► Heartbeat
//	             └─ other ─► members.parse ─► members.check ─► Heartbeat, or the Problem
//	                                              └─ every eighth ─► shape.learn
type Decoder struct {
	members members
	shape   shape
	missed  uint8 // texts that were not of the shape
}

// Decode fills hb from the text of one heartbeat, or says why it cannot. It changes text, and
// hb.Source points into it. When the problem is past UpperCaseIDs, the ids of hb are set.
func (d *Decoder) Decode(text []byte, hb *Heartbeat) Problem {
	if d.shape.match(text, hb) {
		return Valid
	}
	if !d.members.parse(text) {
		return InvalidJSON
	}
	problem := d.members.check(hb)
	if problem == Valid {
		if !d.shape.learned || d.missed%learnEvery == 0 {
			d.shape.learn(text, &d.members, hb)
		}
		d.missed++
	}
	return problem
}

// check fills hb. The checks stand in the order of the wire contract, and the first that fails ends
// them.
func (m *members) check(hb *Heartbeat) Problem {
	if len(TrimSpace(m.userID)) == 0 {
		return MissingUserID
	}
	if m.schemaVersion != 1 {
		return InvalidSchemaVersion
	}
	if problem := m.checkIDs(hb); problem != Valid {
		return problem
	}
	switch string(m.status) {
	case "online":
		hb.Status = record.Online
	case "offline":
		hb.Status = record.Offline
	default:
		return InvalidStatus
	}
	hb.Source, hb.SentAtMS, hb.Seq, hb.TTLMS = TrimSpace(m.source), m.sentAtMS, m.seq, m.ttlMS
	switch {
	case len(hb.Source) == 0 || len(hb.Source) > MaxSourceBytes || !utf8.Valid(hb.Source):
		return InvalidSource
	case hb.SentAtMS > MaxInteger:
		return InvalidSentAtMS
	case hb.Seq > MaxInteger:
		return InvalidSeq
	case hb.TTLMS < 1 || hb.TTLMS > MaxInteger:
		return InvalidTTLMS
	}
	return Valid
}

// checkIDs judges the two ids together: both must be ids before either must be lowercase.
func (m *members) checkIDs(hb *Heartbeat) Problem {
	user, userForm := ParseID(m.userID)
	device, deviceForm := ParseID(m.deviceID)
	switch {
	case userForm == IDInvalid || deviceForm == IDInvalid:
		return InvalidIDs
	case userForm != IDCanonical || deviceForm != IDCanonical:
		return UpperCaseIDs
	}
	hb.User, hb.Device = user, device
	return Valid
}
