package server

import (
	"errors"
	"strconv"

	"github.com/valyala/fasthttp"

	"rollcall/engine"
	"rollcall/wire"
)

// reply is a row of the table of everything that this package answers.
type reply uint8

const (
	none reply = iota // no refusal: go on

	accepted
	preflight
	streaming
	routeNotFound
	methodNotAllowed

	ingestNotConfigured
	unauthorized
	bodyTooLarge
	invalidJSON
	missingUserID
	invalidSchemaVersion
	invalidIDs
	upperCaseIDs
	invalidStatus
	invalidSource
	invalidSentAtMS
	invalidSeq
	invalidTTLMS
	staleSeq
	rateLimited
	unavailable
	tooManyDevices

	batchDone
	unknownBatchType
	unknownEncoding
	badEncoding
	batchTooLarge
	batchTooLong
	malformedBatch
	tooManyUnpacking

	invalidUserID
	signingNotConfigured
	invalidToken
	tokenExpired
	insufficientScope
	tokenUserMismatch
	draining
	streamUnavailable
	tooManyStreams
	tooManyStreamsOfUser
	tooManyConns
	tooManyConnsOfAddress

	malformedRequest
	headerTooLarge
	requestTimeout

	missingUserIDParam
	debugDisabled
	notByName
	notThePage

	replyCount
)

// answers is the table. A row without a code has no body. The details also name the row in the metrics.
var answers = [replyCount]answer{
	accepted:         {204, "", "Accepted", nil},
	preflight:        {204, "", "Preflight", nil},
	streaming:        {200, "", "Streaming", nil}, // its head is in stream.go
	routeNotFound:    {404, wire.CodeUnavailable, "Route not found", nil},
	methodNotAllowed: {405, wire.CodeUnavailable, "Method not allowed", nil},

	ingestNotConfigured:  {503, wire.CodeUnavailable, "Ingest token not configured", nil},
	unauthorized:         {401, wire.CodeUnauthorized, "Unauthorized", nil},
	bodyTooLarge:         {413, wire.CodeInvalid, "Payload too large", nil},
	invalidJSON:          {400, wire.CodeInvalid, wire.InvalidJSON.Details(), nil},
	missingUserID:        {400, wire.CodeInvalid, wire.MissingUserID.Details(), nil},
	invalidSchemaVersion: {400, wire.CodeInvalid, wire.InvalidSchemaVersion.Details(), nil},
	invalidIDs:           {400, wire.CodeInvalid, wire.InvalidIDs.Details(), nil},
	upperCaseIDs:         {400, wire.CodeInvalid, wire.UpperCaseIDs.Details(), nil},
	invalidStatus:        {400, wire.CodeInvalid, wire.InvalidStatus.Details(), nil},
	invalidSource:        {400, wire.CodeInvalid, wire.InvalidSource.Details(), nil},
	invalidSentAtMS:      {400, wire.CodeInvalid, wire.InvalidSentAtMS.Details(), nil},
	invalidSeq:           {400, wire.CodeInvalid, wire.InvalidSeq.Details(), nil},
	invalidTTLMS:         {400, wire.CodeInvalid, wire.InvalidTTLMS.Details(), nil},
	staleSeq:             {409, wire.CodeInvalid, "Non-monotonic seq", nil}, // with last_seq, see answerStale
	rateLimited:          {429, wire.CodeRateLimited, "Too many heartbeats from this address", nil},
	unavailable:          {503, wire.CodeUnavailable, "Heartbeat not stored", nil},
	tooManyDevices:       {503, wire.CodeUnavailable, "Too many devices", nil},

	batchDone:        {200, "", "Batch", nil}, // its body is in batch.go, as are the further members of those below
	unknownBatchType: {415, wire.CodeInvalid, "Content-Type must be application/x-ndjson or application/json", nil},
	unknownEncoding:  {415, wire.CodeInvalid, "Content-Encoding must be gzip, zstd or none", nil},
	badEncoding:      {400, wire.CodeInvalid, "The body is not what Content-Encoding says, or was cut", nil},
	batchTooLarge:    {413, wire.CodeInvalid, "A batch may have 4 MiB, unpacked", nil},
	batchTooLong:     {413, wire.CodeInvalid, "Too many heartbeats in one batch", nil},
	malformedBatch:   {400, wire.CodeInvalid, "Not a JSON array: a comma or bracket is missing or out of place", nil},
	tooManyUnpacking: {503, wire.CodeUnavailable, "Too many compressed batches at once", nil},

	invalidUserID:        {400, wire.CodeInvalid, "Invalid user_id", nil},
	signingNotConfigured: {503, wire.CodeUnavailable, "Token signing key not configured", nil},
	invalidToken:         {403, wire.CodeForbidden, "Invalid token", nil},
	tokenExpired:         {403, wire.CodeForbidden, "Token expired", nil},
	insufficientScope:    {403, wire.CodeForbidden, "Insufficient scope", nil},
	tokenUserMismatch:    {403, wire.CodeForbidden, "Token user mismatch", nil},
	draining:             {503, wire.CodeUnavailable, "Server is about to stop", nil},
	streamUnavailable:    {503, wire.CodeUnavailable, "Stream not available", nil},
	tooManyStreams:       {503, wire.CodeUnavailable, "Too many streams", nil},
	tooManyConns:         {503, wire.CodeUnavailable, "Too many connections", nil},

	tooManyStreamsOfUser:  {503, wire.CodeUnavailable, "Too many streams of this user", nil},
	tooManyConnsOfAddress: {503, wire.CodeUnavailable, "Too many connections from this address", nil},

	malformedRequest: {400, wire.CodeInvalid, "Malformed request", nil},
	headerTooLarge:   {431, wire.CodeInvalid, "Request header too large", nil},
	requestTimeout:   {408, wire.CodeUnavailable, "Request timeout", nil},

	missingUserIDParam: {400, wire.CodeInvalid, "Missing user_id query param", nil},
	debugDisabled:      {403, wire.CodeForbidden, "Not available in production", nil},
	notByName:          {403, wire.CodeForbidden, "Tokens are given to pages at an address or localhost only, not at a name", nil},
	notThePage:         {403, wire.CodeForbidden, "Tokens are given to the server's own page only", nil},
}

// problemReplies are the replies to a heartbeat that fails one of the contract's checks.
var problemReplies = [wire.ProblemCount]reply{
	wire.InvalidJSON:          invalidJSON,
	wire.MissingUserID:        missingUserID,
	wire.InvalidSchemaVersion: invalidSchemaVersion,
	wire.InvalidIDs:           invalidIDs,
	wire.UpperCaseIDs:         upperCaseIDs,
	wire.InvalidStatus:        invalidStatus,
	wire.InvalidSource:        invalidSource,
	wire.InvalidSentAtMS:      invalidSentAtMS,
	wire.InvalidSeq:           invalidSeq,
	wire.InvalidTTLMS:         invalidTTLMS,
}

type answer struct {
	status        int
	code, details string
	body          []byte // from code and details, shared by all answers: never written to
}

func init() {
	for i := range answers {
		if a := &answers[i]; a.code != "" {
			a.body = wire.AppendError(nil, a.code, a.details)
		}
	}
}

// The media types, as fasthttp takes them.
var jsonType, ndjsonType = []byte(wire.JSONType), []byte(wire.NDJSONType)

// answer answers with a row of the table.
func (s *Server) answer(ctx *fasthttp.RequestCtx, r reply) {
	a := &answers[r]
	s.metrics.answers[r].Add(1)
	ctx.SetStatusCode(a.status)
	if s.draining.Load() { // fasthttp would say so too, but only from when Shutdown has closed the parked connections
		ctx.SetConnectionClose()
	}
	if a.code == "" {
		return
	}
	ctx.Response.Header.SetContentTypeBytes(jsonType)
	ctx.Response.SetBodyRaw(a.body)
	switch r {
	case unauthorized:
		ctx.Response.Header.Set(fasthttp.HeaderWWWAuthenticate, "Bearer")
	case rateLimited:
		setRetryAfter(ctx, s.retryAfter)
	case tooManyUnpacking:
		setRetryAfter(ctx, "1")
	}
}

// setRetryAfter says when to come back, to another origin's page, too.
func setRetryAfter(ctx *fasthttp.RequestCtx, seconds string) {
	h := &ctx.Response.Header
	h.Set(fasthttp.HeaderRetryAfter, seconds)
	h.Set(fasthttp.HeaderAccessControlExposeHeaders, fasthttp.HeaderRetryAfter)
}

// answerStale answers a heartbeat whose seq is not above lastSeq, so that a restarted daemon can go on from lastSeq+1.
func (s *Server) answerStale(ctx *fasthttp.RequestCtx, lastSeq uint64) {
	s.answer(ctx, staleSeq)
	var scratch [128]byte
	body := append(scratch[:0], answers[staleSeq].body...)
	body = append(body[:len(body)-1], `,"last_seq":`...)
	body = append(strconv.AppendUint(body, lastSeq, 10), '}')
	ctx.Response.SetBody(body)
}

// answerUnavailable answers a heartbeat that the engine could not take. Why is the operator's business: it goes to the log
// and to /readyz, not to the daemon.
func (s *Server) answerUnavailable(ctx *fasthttp.RequestCtx, why error) {
	if errors.Is(why, engine.ErrTooManyDevices) {
		s.answer(ctx, tooManyDevices)
		return
	}
	s.answer(ctx, unavailable)
	s.logRefusal(why)
}

// logRefusal tells the operator, once a second at most.
func (s *Server) logRefusal(why error) {
	if s.refusals.now() {
		s.opts.Logger.Warn("heartbeats are refused", "error", why)
	}
}
