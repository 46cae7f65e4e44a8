package read

import (
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/engine/broadcast"
	"rollcall/record"
)

// The layout of a request, little endian: format, op, and
//
//	opUsers    limit (4), users (16 each)
//	opDevices  user (16), after (16), limit (4)
//	opStreams  user (16)
//	opRecent   JSON of recentQuestion
//	opStream   a stream's id (24, text)
//	opRenew    a stream's id (24, text), when it ends by the wall clock in ms, 0 for never (8)
//
// and of its answer: format, status, and if that is statusOK
//
//	opUsers    for each user that fits, in order: how many devices (4), devices
//	opDevices  more (1), devices
//	opStreams  how many (4)
//	opRecent   JSON of recentAnswer
//	opStream   its owner (16), its users (16 each)
//	opRenew    nothing
//
// A device is:
//
//	offset  0      16     17         18      26  34  42           50      58      66   74  82
//	        device status source len sent_at seq ttl heartbeat_at offline updated seen lsn source
const (
	format = 1

	// maxAnswer is how many bytes an answer has at most.
	maxAnswer = 512 << 10
	// maxAsked is how many users a request has at most.
	maxAsked = 1024
	// maxLimit is how many devices of all users a request may ask for at most. They are gathered
	// before the answer is cut.
	maxLimit = 1 << 17
	// maxPage is how many devices a request asks for at most.
	maxPage = 1000

	deviceBytes = 82 // without the source
)

type op byte

const (
	opUsers op = iota
	opDevices
	opStreams
	opRecent
	opStream
	opRenew
)

type status byte

const (
	statusOK status = iota
	statusNotMine
	statusTooMany // devices
	statusFailed
	statusBusy
	statusNoStream
)

// errMessage says that bytes are no request, or no answer.
var errMessage = errors.New("read: a message cannot be read")

// statusOf is how an error travels.
func statusOf(err error) status {
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, engine.ErrTooManyDevicesAsked):
		return statusTooMany
	case errors.Is(err, engine.ErrNotMine):
		return statusNotMine
	case errors.Is(err, broadcast.ErrNoStream):
		return statusNoStream
	}
	return statusFailed
}

// err is what a status says.
func (s status) err() error {
	switch s {
	case statusOK:
		return nil
	case statusNotMine:
		return engine.ErrNotMine
	case statusTooMany:
		return engine.ErrTooManyDevicesAsked
	case statusBusy:
		return errBusy
	case statusNoStream:
		return broadcast.ErrNoStream
	}
	return errFailed
}

func appendUsers(dst []byte, limit int, ids []uuid.UUID) []byte {
	dst = binary.LittleEndian.AppendUint32(append(dst, format, byte(opUsers)), uint32(limit))
	for _, id := range ids {
		dst = append(dst, id[:]...)
	}
	return dst
}

func readUsers(text []byte) (limit int, ids []uuid.UUID, err error) {
	if len(text) < 4 || (len(text)-4)%16 != 0 || (len(text)-4)/16 > maxAsked {
		return 0, nil, errMessage
	}
	if limit, text = int(binary.LittleEndian.Uint32(text)), text[4:]; limit > maxLimit {
		return 0, nil, errMessage
	}
	ids = make([]uuid.UUID, len(text)/16)
	for i := range ids {
		ids[i] = uuid.UUID(text[16*i:])
	}
	return limit, ids, nil
}

func appendPage(dst []byte, user, after uuid.UUID, limit int) []byte {
	dst = append(dst, format, byte(opDevices))
	dst = append(append(dst, user[:]...), after[:]...)
	return binary.LittleEndian.AppendUint32(dst, uint32(limit))
}

func readPage(text []byte) (user, after uuid.UUID, limit int, err error) {
	if len(text) != 36 {
		return user, after, 0, errMessage
	}
	limit = int(binary.LittleEndian.Uint32(text[32:]))
	if limit < 1 || limit > maxPage {
		return user, after, 0, errMessage
	}
	return uuid.UUID(text[:16]), uuid.UUID(text[16:32]), limit, nil
}

// appendDevice appends a device without its user.
func appendDevice(dst []byte, d *engine.Device) []byte {
	dst = append(dst, d.Device[:]...)
	dst = append(dst, byte(d.Status), byte(len(d.Source)))
	for _, n := range [...]uint64{
		d.SentAtMS, d.Seq, d.TTLMS, d.HeartbeatAtMS, d.OfflineAtMS, d.UpdatedAtMS, d.SeenAtMS,
		d.LSN,
	} {
		dst = binary.LittleEndian.AppendUint64(dst, n)
	}
	return append(dst, d.Source...)
}

// readDevice reads a device of a user, and returns what comes behind it.
func readDevice(text []byte, user uuid.UUID) (d engine.Device, rest []byte, err error) {
	if len(text) < deviceBytes {
		return d, nil, errMessage
	}
	size := deviceBytes + int(text[17])
	if len(text) < size || text[17] > record.MaxSourceBytes || text[16] > byte(engine.Online) {
		return d, nil, errMessage
	}
	d.User, d.Device, d.Status = user, uuid.UUID(text[:16]), engine.Status(text[16])
	for i, n := range [...]*uint64{
		&d.SentAtMS, &d.Seq, &d.TTLMS, &d.HeartbeatAtMS, &d.OfflineAtMS, &d.UpdatedAtMS,
		&d.SeenAtMS, &d.LSN,
	} {
		*n = binary.LittleEndian.Uint64(text[18+8*i:])
	}
	d.Source = string(text[deviceBytes:size])
	return d, text[size:], nil
}

// appendDevices appends a user's devices and how many they are.
func appendDevices(dst []byte, devices []engine.Device) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(devices)))
	for i := range devices {
		dst = appendDevice(dst, &devices[i])
	}
	return dst
}

// readDevices reads a user's devices, and returns what comes behind them.
func readDevices(text []byte, user uuid.UUID) (devices []engine.Device, rest []byte, err error) {
	if len(text) < 4 {
		return nil, nil, errMessage
	}
	n := int(binary.LittleEndian.Uint32(text))
	if text = text[4:]; n > len(text)/deviceBytes {
		return nil, nil, errMessage
	}
	devices = make([]engine.Device, n)
	for i := range devices {
		if devices[i], text, err = readDevice(text, user); err != nil {
			return nil, nil, err
		}
	}
	return devices, text, nil
}

// recentQuestion is an engine.UserQuery.
type recentQuestion struct {
	ID        string        `json:"id"`
	Status    engine.Status `json:"status"`
	HasStatus bool          `json:"has_status"`
	Source    string        `json:"source"`
	Limit     int           `json:"limit"`
}

// recentAnswer is what a node knows.
type recentAnswer struct {
	Partitions []int               `json:"partitions"` // that were looked at
	Users      []engine.ListedUser `json:"users"`
}

const (
	maxRecent       = 200
	maxRecentSource = 256
)

func appendRecent(dst []byte, q engine.UserQuery) ([]byte, error) {
	text, err := json.Marshal(recentQuestion{
		ID: q.ID.String(), Status: q.Status, HasStatus: q.HasStatus, Source: q.Source,
		Limit: q.Limit,
	})
	return append(append(dst, format, byte(opRecent)), text...), err
}

func readRecent(text []byte) (q engine.UserQuery, err error) {
	var r recentQuestion
	if err = json.Unmarshal(text, &r); err != nil {
		return q, errMessage
	}
	id, ok := engine.ParseIDPrefix(r.ID)
	if !ok || r.Limit < 1 || r.Limit > maxRecent || len(r.Source) > maxRecentSource {
		return q, errMessage
	}
	return engine.UserQuery{
		ID: id, Status: r.Status, HasStatus: r.HasStatus, Source: r.Source, Limit: r.Limit,
	}, nil
}
