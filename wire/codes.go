package wire

// The codes of errors.
const (
	CodeUnauthorized = "unauthorized"
	CodeForbidden    = "forbidden"
	CodeRateLimited  = "rate_limited"
	CodeUnavailable  = "unavailable"
	CodeInvalid      = "invalid_payload"
)

// The scopes of a token.
const (
	ScopeRead    = "presence:read"     // to read the users that it names
	ScopeReadAny = "presence:read:any" // to read every user, on the routes of many
)

// AppendError appends the body of an error to dst.
func AppendError(dst []byte, code, details string) []byte {
	dst = append(dst, `{"error":`...)
	dst = AppendString(dst, code)
	dst = append(dst, `,"details":`...)
	dst = AppendString(dst, details)
	return append(dst, '}')
}
