package server

import (
	"io"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
)

const (
	// maxBodyBytes bounds a request's body.
	maxBodyBytes = 16 << 10
	// maxSourceBytes bounds a heartbeat's source, trimmed.
	maxSourceBytes = 128
)

// request is what one heartbeat needs; pooled, so that the handler does not allocate (S5).
type request struct {
	body   []byte // read by readBody, changed by reader; hb.Source points into it (S1)
	reader reader
	hb     engine.Heartbeat
}

var requests = sync.Pool{New: func() any { return &request{body: make([]byte, 0, 1024)} }}

// heartbeat answers POST heartbeatPath.
func (s *Server) heartbeat(ctx *fasthttp.RequestCtx) {
	if refusal := s.ingest(ctx); refusal != none {
		s.refuseHeartbeat(ctx, refusal)
		return
	}
	r := requests.Get().(*request)
	refusal := r.readBody(ctx)
	if refusal == none {
		refusal = r.read()
	}
	if refusal == none {
		s.apply(ctx, &r.hb)
	} else {
		s.refuseHeartbeat(ctx, refusal)
	}
	requests.Put(r)
}

// refuseHeartbeat answers a heartbeat that the engine does not get to see.
func (s *Server) refuseHeartbeat(ctx *fasthttp.RequestCtx, refusal reply) {
	s.metrics.heartbeats[refusal].Add(1)
	s.answer(ctx, refusal)
}

// readBody reads the request's body, which fasthttp has begun to read at most. A body that it read to the end it takes
// off the request, so that the connection can be used again.
func (r *request) readBody(ctx *fasthttp.RequestCtx) reply {
	r.body = r.body[:0]
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return none // without a body
	}
	if ctx.Request.Header.ContentLength() > maxBodyBytes {
		return bodyTooLarge
	}
	for len(r.body) <= maxBodyBytes {
		r.body = slices.Grow(r.body, 512)
		n, err := stream.Read(r.body[len(r.body):cap(r.body)])
		r.body = r.body[:len(r.body)+n]
		if err == io.EOF && len(r.body) <= maxBodyBytes {
			_ = ctx.Request.CloseBodyStream()
			return none
		}
		if err != nil && err != io.EOF {
			return unreadable(err)
		}
	}
	return bodyTooLarge
}

// apply hands a valid heartbeat to the engine and answers with what came of it.
func (s *Server) apply(ctx *fasthttp.RequestCtx, hb *engine.Heartbeat) {
	if s.overRate(ctx, hb) {
		s.refuseHeartbeat(ctx, rateLimited)
		return
	}
	switch result := s.presence.Heartbeat(hb); result.Outcome {
	case engine.Accepted:
		s.answer(ctx, accepted)
	case engine.Stale:
		s.answerStale(ctx, result.LastSeq)
	default:
		s.answerUnavailable(ctx, result.Err)
	}
}

// overRate counts a valid heartbeat and reports whether it is too many of its address. A stale one is told so even over the
// rate, and does not count.
func (s *Server) overRate(ctx *fasthttp.RequestCtx, hb *engine.Heartbeat) bool {
	return s.limiter != nil && !s.presence.Stale(hb) && !s.limiter.allow(ctx.RemoteAddr())
}

// read fills r.hb from the body and judges it.
func (r *request) read() reply { return r.reader.read(r.body, &r.hb) }

// read fills hb from the text of one heartbeat and judges it; the checks stand in the order of the wire contract (S2). text
// is changed, and hb.Source points into it (S1).
func (f *fields) read(text []byte, hb *engine.Heartbeat) reply {
	if !f.decode(text) {
		return invalidJSON
	}
	if len(trim(f.userID)) == 0 {
		return missingUserID
	}
	if f.schemaVersion != 1 {
		return invalidSchemaVersion
	}
	if refusal := f.readIDs(hb); refusal != none {
		return refusal
	}
	switch string(f.status) {
	case "online":
		hb.Status = engine.Online
	case "offline":
		hb.Status = engine.Offline
	default:
		return invalidStatus
	}
	hb.Source, hb.SentAtMS, hb.Seq, hb.TTLMS = trim(f.source), f.sentAtMS, f.seq, f.ttlMS
	switch {
	case len(hb.Source) == 0 || len(hb.Source) > maxSourceBytes || !utf8.Valid(hb.Source):
		return invalidSource
	case hb.SentAtMS > maxInteger:
		return invalidSentAtMS
	case hb.Seq > maxInteger:
		return invalidSeq
	case hb.TTLMS < 1 || hb.TTLMS > maxInteger:
		return invalidTTLMS
	}
	return none
}

// readIDs judges the two ids together: both must be ids before either must be lowercase.
func (f *fields) readIDs(hb *engine.Heartbeat) reply {
	user, userForm := parseID(f.userID)
	device, deviceForm := parseID(f.deviceID)
	switch {
	case userForm == idInvalid || deviceForm == idInvalid:
		return invalidIDs
	case userForm != idCanonical || deviceForm != idCanonical:
		return upperCaseIDs
	}
	hb.User, hb.Device = user, device
	return none
}
