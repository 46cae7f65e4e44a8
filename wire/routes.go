package wire

// The public routes. Those of operators are in package server/admin.
const (
	HeartbeatPath  = "/api/v1/daemon/presence/heartbeat"
	HeartbeatsPath = "/api/v1/daemon/presence/heartbeats" // many in one request
	StreamPath     = "/api/v1/mobile/presence/stream"
)

// The query parameters.
const (
	UserParam  = "user_id"
	TokenParam = "access_token" // a stream's token, where the server takes it from the query
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
