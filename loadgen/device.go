package loadgen

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"
)

// source is what the simulated daemons call themselves.
const source = "loadgen"

// uuid is an id in binary. Users and devices are random version 4 ones, but the last four bytes of a device's id are its
// index among its user's devices: a stream finds the device of a frame without a map.
type uuid [16]byte

func newUUID(rng *rand.Rand) (id uuid) {
	for i := 0; i < 16; i += 8 {
		bits := rng.Uint64()
		for j := range 8 {
			id[i+j] = byte(bits >> (8 * j))
		}
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// put writes the canonical text into dst[:36].
func (id *uuid) put(dst []byte) {
	dst = dst[:36]
	le := binary.LittleEndian
	a, b := hexDigits(le.Uint32(id[:])), hexDigits(le.Uint32(id[4:]))
	c, d := hexDigits(le.Uint32(id[8:])), hexDigits(le.Uint32(id[12:]))
	dst[8], dst[13], dst[18], dst[23] = '-', '-', '-', '-'
	le.PutUint64(dst, a)
	le.PutUint32(dst[9:], uint32(b))
	le.PutUint32(dst[14:], uint32(b>>32))
	le.PutUint32(dst[19:], uint32(c))
	le.PutUint32(dst[24:], uint32(c>>32))
	le.PutUint64(dst[28:], d)
}

// hexDigits is the eight digits of four bytes, both as they lie in memory. All at once: a generator at a million heartbeats per
// second writes 64 million digits.
func hexDigits(four uint32) uint64 {
	const each = 0x0101010101010101
	x := uint64(four)
	x = (x | x<<16) & 0x0000ffff0000ffff
	x = (x | x<<8) & 0x00ff00ff00ff00ff // a byte in every two
	x = (x>>4 | x<<8) & (each * 0x0f)   // its upper half, its lower half
	letters := (x + each*6) >> 4 & each // 1 where a digit is over 9
	return x + each*'0' + letters*('a'-10-'0')
}

func (id uuid) String() string {
	var text [36]byte
	id.put(text[:])
	return string(text[:])
}

// user is one simulated user: some devices, some streams that follow them.
type user struct {
	id     uuid
	text   string
	token  string // of its streams; minted at the first connect
	prefix []byte // of its frames; set with the token
	first  uint32 // its devices are worker.devices[first : first+count]
	count  uint32 //
	turn   uint32 // under skew: which of its devices sends next
}

// device is one simulated daemon. Its heartbeats are numbered 1, 2, …; on the wire seq is the run's base plus the number.
// A number is used until it is known to be accepted, so accepted numbers have no gaps and a gap on a stream is a finding.
type device struct {
	id     uuid
	userID uuid // here too, since a batch names thousands of devices and each look at a user is a cache miss
	user   uint32
	acked  uint32 // number of the last heartbeat that is known to be accepted; 0: none
	sent   uint32 // highest number that was written to a socket
	ring   uint32 // its moments are worker.moments[ring : ring+mask+1], by number
	mask   uint32
	busy   bool  // a heartbeat is outstanding or waits for its retry
	silent int64 // from this instant of the run's clock on it sends nothing
} // 64 bytes, a cache line: devices are met in random order

// idle reports whether a closed loop may use the device.
func (d *device) idle(now int64) bool { return !d.busy && now < d.silent }

// moment is when a heartbeat was due and when it was first written. The last few of each device are kept, for the latency
// of frames and the lateness of expiries.
type moment struct{ due, written int64 }

// requestTemplate is the bytes of a heartbeat with constant length; stamp fills in what changes. Single owner.
type requestTemplate struct {
	request                  []byte
	user, device, sent, seqs int // offsets in request

	// What of it stands in request already, being the same for many heartbeats.
	sentAtMS int64
	seqUpper int64 // seq without its last lowerDigits
}

const (
	msDigits    = 13 // of unix milliseconds, until the year 2286
	seqDigits   = 16
	lowerDigits = 8
	lowerUnit   = 1e8
)

// newBody is a template of the body alone.
func newBody(ttl time.Duration) requestTemplate {
	const zeros = "00000000-0000-0000-0000-000000000000"
	head := `{"schema_version":1,"user_id":"`
	body := head + zeros + `","device_id":"` + zeros + `","status":"online","source":"` + source + `","sent_at_ms":`
	t := requestTemplate{user: len(head), device: len(head) + 36 + len(`","device_id":"`)}
	t.sent = len(body)
	body += fmt.Sprintf("%0*d", msDigits, 0) + `,"seq":`
	t.seqs = len(body)
	body += fmt.Sprintf("%0*d", seqDigits, 0) + `,"ttl_ms":` + strconv.FormatInt(ttl.Milliseconds(), 10) + `}`
	t.request = []byte(body)
	return t
}

func newTemplate(host, path, token string, ttl time.Duration) requestTemplate {
	t := newBody(ttl)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n", path, host, token, len(t.request))
	for _, at := range []*int{&t.user, &t.device, &t.sent, &t.seqs} {
		*at += len(head)
	}
	t.request = append([]byte(head), t.request...)
	return t
}

// stamp appends the request of one heartbeat to dst.
func (t *requestTemplate) stamp(dst []byte, user, device *uuid, sentAtMS, seq int64) []byte {
	if sentAtMS != t.sentAtMS {
		t.sentAtMS = sentAtMS
		putDigits(t.request[t.sent:t.sent+msDigits], sentAtMS)
	}
	if upper := seq / lowerUnit; upper != t.seqUpper {
		t.seqUpper = upper
		putDigits(t.request[t.seqs:t.seqs+seqDigits-lowerDigits], upper)
	}
	at := len(dst)
	dst = append(dst, t.request...)
	r := dst[at:]
	user.put(r[t.user:])
	device.put(r[t.device:])
	putDigits(r[t.seqs+seqDigits-lowerDigits:t.seqs+seqDigits], seq%lowerUnit)
	return dst
}

// putDigits fills dst with the last decimal digits of v.
func putDigits(dst []byte, v int64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
}
