package wire

// The public routes. Those of operators are in package server/admin.
const (
	HeartbeatPath  = "/api/v1/daemon/presence/heartbeat"
	HeartbeatsPath = "/api/v1/daemon/presence/heartbeats" // many in one request
	StreamPath     = "/api/v1/mobile/presence/stream"

	ListStreamPath = "/api/v1/presence/stream"                   // many users on one stream
	RenewPath      = "/api/v1/presence/stream/{stream_id}/token" // of an open stream
	PresencePath   = "/api/v1/presence"                          // asking once
	QueryPath      = "/api/v1/presence/query"                    // the same, of a list in the body
)

// The query parameters, and StreamParam, which is a part of a path.
const (
	UserParam   = "user_id"
	TokenParam  = "access_token" // a stream's token, where the server takes it from the query
	ViewParam   = "view"
	LingerParam = "linger_ms"
	ResumeParam = "resume"
	StreamParam = "stream_id"
)

// The media types.
const (
	JSONType   = "application/json"
	NDJSONType = "application/x-ndjson"
	EventsType = "text/event-stream"
)

// What every answer says to pages of other origins: the values of Access-Control-Allow-Methods and
// Access-Control-Allow-Headers. On a stream's route the headers are those that stand-ins for
// EventSource send, too.
const (
	AllowedMethods       = "GET, POST, OPTIONS"
	AllowedHeaders       = "Content-Type, Authorization"
	AllowedStreamHeaders = AllowedHeaders + ", Cache-Control, Last-Event-ID"
)

// StreamHeader is on the response of each stream: its id. ExposedStreamHeaders are what pages of
// other origins may read of the answers to streams.
const (
	StreamHeader         = "Rollcall-Stream"
	ExposedStreamHeaders = StreamHeader + ", Retry-After"
)
