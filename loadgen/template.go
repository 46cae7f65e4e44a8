package loadgen

import (
	"fmt"
	"strconv"
	"time"
)

// source is what the simulated daemons call themselves.
const source = "loadgen"

// requestTemplate is the bytes of a heartbeat with constant length; stamp fills in what changes.
// Single owner.
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
	body := head + zeros + `","device_id":"` + zeros +
		`","status":"online","source":"` + source + `","sent_at_ms":`
	t := requestTemplate{user: len(head), device: len(head) + 36 + len(`","device_id":"`)}
	t.sent = len(body)
	body += fmt.Sprintf("%0*d", msDigits, 0) + `,"seq":`
	t.seqs = len(body)
	body += fmt.Sprintf("%0*d", seqDigits, 0) +
		`,"ttl_ms":` + strconv.FormatInt(ttl.Milliseconds(), 10) + `}`
	t.request = []byte(body)
	return t
}

func newTemplate(host, path, token string, ttl time.Duration) requestTemplate {
	t := newBody(ttl)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, host, token,
		len(t.request))
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

// batchTemplate is the bytes of a batch.
type batchTemplate struct {
	head string // up to the number of bytes that follow the headers
	line requestTemplate
}

func newBatchTemplate(host, path, token string, ttl time.Duration) batchTemplate {
	line := newBody(ttl)
	line.request = append(line.request, '\n')
	return batchTemplate{
		head: fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"+
			"Content-Type: application/x-ndjson\r\nContent-Length: ", path, host, token),
		line: line,
	}
}

// begin appends the head of a request with n lines.
func (t *batchTemplate) begin(dst []byte, n int) []byte {
	dst = append(dst, t.head...)
	dst = strconv.AppendInt(dst, int64(n*len(t.line.request)), 10)
	return append(dst, "\r\n\r\n"...)
}
