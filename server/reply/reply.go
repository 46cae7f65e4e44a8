// Package reply is the table of everything that the server answers, on the public listener and on
// the operators', and counts what it answered.
package reply

import (
	"rollcall/wire"
)

// Reply is a row of the table.
type Reply uint8

// The rows, and None, which is no answer yet.
const (
	None Reply = iota // no refusal: go on

	Accepted
	Preflight
	Streaming
	RouteNotFound
	MethodNotAllowed

	IngestNotConfigured
	Unauthorized
	BodyTooLarge
	InvalidJSON
	MissingUserID
	InvalidSchemaVersion
	InvalidIDs
	UpperCaseIDs
	InvalidStatus
	InvalidSource
	InvalidSentAtMS
	InvalidSeq
	InvalidTTLMS
	StaleSeq
	RateLimited
	Unavailable
	TooManyDevices
	TooManyDevicesOfUser
	TooManyNewDevices
	NotOwned

	BatchDone
	UnknownBatchType
	UnknownEncoding
	BadEncoding
	BatchTooLarge
	BatchTooLong
	MalformedBatch
	WindowTooLarge
	TooManyBatches
	TooManyUnpacking
	BodyTooSlow
	UnpackRateLimited

	Presence
	MissingUserIDs
	InvalidUserIDs
	InvalidView
	InvalidLinger
	TooManyUsers
	TooManyDevicesAsked
	TooManyLists
	TooManyQueries
	PresenceUnavailable

	InvalidUserID
	SigningNotConfigured
	InvalidToken
	TokenExpired
	InsufficientScope
	TokenUserMismatch
	Draining
	StreamUnavailable
	TooManyStreams
	TooManyStreamsOfUser
	TooManyFollows
	TooManyFollowsOfToken
	Renewed
	NoStream
	TokenUnfit
	TooManyConns
	TooManyConnsOfAddress

	MalformedRequest
	VersionNotSupported
	HeaderTooLarge
	TooManyHeaderLines
	TooManyParams
	RequestTimeout

	MissingUserIDParam
	InvalidPage
	InvalidUsersQuery
	DebugDisabled
	MintingOff
	NotByName
	OtherSite
	NotThePage

	Count
)

// rows is the table. A row without a code has no body. The details also name the row in the
// metrics.
var rows = [Count]row{
	Accepted:         {204, "", "Accepted"},
	Preflight:        {204, "", "Preflight"},
	Streaming:        {200, "", "Streaming"},
	RouteNotFound:    {404, wire.CodeUnavailable, "Route not found"},
	MethodNotAllowed: {405, wire.CodeUnavailable, "Method not allowed"},

	IngestNotConfigured:  {503, wire.CodeUnavailable, "Ingest token not configured"},
	Unauthorized:         {401, wire.CodeUnauthorized, "Unauthorized"},
	BodyTooLarge:         {413, wire.CodeInvalid, "Payload too large"},
	InvalidJSON:          {400, wire.CodeInvalid, wire.InvalidJSON.Details()},
	MissingUserID:        {400, wire.CodeInvalid, wire.MissingUserID.Details()},
	InvalidSchemaVersion: {400, wire.CodeInvalid, wire.InvalidSchemaVersion.Details()},
	InvalidIDs:           {400, wire.CodeInvalid, wire.InvalidIDs.Details()},
	UpperCaseIDs:         {400, wire.CodeInvalid, wire.UpperCaseIDs.Details()},
	InvalidStatus:        {400, wire.CodeInvalid, wire.InvalidStatus.Details()},
	InvalidSource:        {400, wire.CodeInvalid, wire.InvalidSource.Details()},
	InvalidSentAtMS:      {400, wire.CodeInvalid, wire.InvalidSentAtMS.Details()},
	InvalidSeq:           {400, wire.CodeInvalid, wire.InvalidSeq.Details()},
	InvalidTTLMS:         {400, wire.CodeInvalid, wire.InvalidTTLMS.Details()},
	StaleSeq:             {409, wire.CodeInvalid, "Non-monotonic seq"}, // and last_seq
	RateLimited:          {429, wire.CodeRateLimited, "Too many heartbeats from this address"},
	Unavailable:          {503, wire.CodeUnavailable, "Heartbeat not stored"},
	TooManyNewDevices:    {429, wire.CodeRateLimited, "Too many new devices from this address"},
	TooManyDevices:       {503, wire.CodeUnavailable, "Too many devices"},
	TooManyDevicesOfUser: {429, wire.CodeRateLimited, "Too many devices of this user"},
	NotOwned:             {503, wire.CodeUnavailable, "The owner of this user is not in reach"},

	BatchDone: {200, "", "Batch"}, // its members are in batch.go, as are more of those below
	UnknownBatchType: {415, wire.CodeInvalid,
		"Content-Type must be " + wire.NDJSONType + " or " + wire.JSONType},
	UnknownEncoding: {415, wire.CodeInvalid, "Content-Encoding must be gzip, zstd or none"},
	BadEncoding: {400, wire.CodeInvalid,
		"The body is not what Content-Encoding says, or was cut"},
	BatchTooLarge: {413, wire.CodeInvalid, "A batch may have 4 MiB, unpacked"},
	BatchTooLong:  {413, wire.CodeInvalid, "Too many heartbeats in one batch"},
	MalformedBatch: {400, wire.CodeInvalid,
		"Not a JSON array: a comma or bracket is missing or out of place"},
	WindowTooLarge:   {415, wire.CodeInvalid, "The window of a zstd body may have 8 MiB"},
	TooManyBatches:   {503, wire.CodeUnavailable, "Too many batches at once"},
	TooManyUnpacking: {503, wire.CodeUnavailable, "Too many zstd batches at once"},
	BodyTooSlow: {408, wire.CodeUnavailable,
		"The body came too slowly while others waited for its place"},
	UnpackRateLimited: {429, wire.CodeRateLimited,
		"Too many unpacked bytes from this address"},

	Presence:            {200, "", "Presence"}, // in query.go
	MissingUserIDs:      {400, wire.CodeInvalid, "Missing user_ids"},
	InvalidUserIDs:      {400, wire.CodeInvalid, "Invalid user_ids"}, // and index
	InvalidView:         {400, wire.CodeInvalid, "Invalid view"},
	InvalidLinger:       {400, wire.CodeInvalid, "Invalid linger_ms"},
	TooManyUsers:        {413, wire.CodeInvalid, "Too many users in one request"},
	TooManyDevicesAsked: {413, wire.CodeInvalid, "These users have too many devices for one answer"},
	TooManyLists:        {503, wire.CodeUnavailable, "Too many lists of users at once"},
	TooManyQueries:      {503, wire.CodeUnavailable, "Too many answers at once"},
	PresenceUnavailable: {503, wire.CodeUnavailable, "Presence not available"},

	InvalidUserID:        {400, wire.CodeInvalid, "Invalid user_id"},
	SigningNotConfigured: {503, wire.CodeUnavailable, "Token signing key not configured"},
	InvalidToken:         {403, wire.CodeForbidden, "Invalid token"},
	TokenExpired:         {403, wire.CodeForbidden, "Token expired"},
	InsufficientScope:    {403, wire.CodeForbidden, "Insufficient scope"},
	TokenUserMismatch:    {403, wire.CodeForbidden, "Token user mismatch"},
	Draining:             {503, wire.CodeUnavailable, "Server is about to stop"},
	StreamUnavailable:    {503, wire.CodeUnavailable, "Stream not available"},
	TooManyStreams:       {503, wire.CodeUnavailable, "Too many streams"},
	TooManyConns:         {503, wire.CodeUnavailable, "Too many connections"},

	TooManyStreamsOfUser: {503, wire.CodeUnavailable, "Too many streams of this user"},
	TooManyConnsOfAddress: {503, wire.CodeUnavailable,
		"Too many connections from this address"},
	TooManyFollows: {503, wire.CodeUnavailable, "Too many users followed"},
	TooManyFollowsOfToken: {503, wire.CodeUnavailable,
		"Too many users followed by this token's subject"},

	Renewed:    {204, "", "Renewed"},
	NoStream:   {404, wire.CodeUnavailable, "No such stream"},
	TokenUnfit: {403, wire.CodeForbidden, "The token does not fit the stream"},

	MalformedRequest:    {400, wire.CodeInvalid, "Malformed request"},
	HeaderTooLarge:      {431, wire.CodeInvalid, "Request header too large"},
	TooManyHeaderLines:  {431, wire.CodeInvalid, "Too many header lines"},
	TooManyParams:       {400, wire.CodeInvalid, "Too many query parameters"},
	VersionNotSupported: {505, wire.CodeInvalid, "Only HTTP/1.1 and HTTP/1.0 are spoken here"},
	RequestTimeout:      {408, wire.CodeUnavailable, "Request timeout"},

	MissingUserIDParam: {400, wire.CodeInvalid, "Missing user_id query param"},
	InvalidPage: {400, wire.CodeInvalid,
		"Invalid after or limit: a device's id, and a number in 1..1000"},
	InvalidUsersQuery: {400, wire.CodeInvalid, "Invalid q, status, source or limit: the beginning " +
		"of a user's id, online or offline, at most 256 bytes, and a number in 1..200"},
	DebugDisabled: {403, wire.CodeForbidden, "Not available in production"},
	MintingOff: {403, wire.CodeForbidden,
		"Tokens are given where an admin token is set, or in development"},
	NotByName: {403, wire.CodeForbidden,
		"Host must be an address, localhost or a name that this listener was given"},
	OtherSite: {403, wire.CodeForbidden,
		"Requests of other sites are refused: open the address by hand"},
	NotThePage: {403, wire.CodeForbidden, "Tokens are given to the server's own page only"},
}

type row struct {
	status        int
	code, details string
}

// bodies are the bodies of the rows that have a code. They are shared by all answers.
var bodies = func() (bodies [Count][]byte) {
	for i, r := range rows {
		if r.code != "" {
			bodies[i] = wire.AppendError(nil, r.code, r.details)
		}
	}
	return bodies
}()

// Status returns the status of the answer.
func (r Reply) Status() int { return rows[r].status }

// Details returns the text of an error, or the name of an answer that is none.
func (r Reply) Details() string { return rows[r].details }

// Body returns the body of an error, nil for any other answer. It must not be changed.
func (r Reply) Body() []byte { return bodies[r] }

// problems are the replies to a heartbeat that fails one of the contract's checks.
var problems = [wire.ProblemCount]Reply{
	wire.InvalidJSON:          InvalidJSON,
	wire.MissingUserID:        MissingUserID,
	wire.InvalidSchemaVersion: InvalidSchemaVersion,
	wire.InvalidIDs:           InvalidIDs,
	wire.UpperCaseIDs:         UpperCaseIDs,
	wire.InvalidStatus:        InvalidStatus,
	wire.InvalidSource:        InvalidSource,
	wire.InvalidSentAtMS:      InvalidSentAtMS,
	wire.InvalidSeq:           InvalidSeq,
	wire.InvalidTTLMS:         InvalidTTLMS,
}

// OfProblem returns the reply to a heartbeat with a problem, None for one without.
func OfProblem(p wire.Problem) Reply { return problems[p] }
