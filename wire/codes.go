package wire

// The codes of errors.
const (
	CodeUnauthorized = "unauthorized"
	CodeForbidden    = "forbidden"
	CodeRateLimited  = "rate_limited"
	CodeUnavailable  = "unavailable"
	CodeInvalid      = "invalid_payload"
)

// ScopeRead is the scope of a token that opens a stream of its user.
const ScopeRead = "presence:read"

// AppendError appends the body of an error to dst.
func AppendError(dst []byte, code, details string) []byte {
	dst = append(dst, `{"error":`...)
	dst = AppendString(dst, code)
	dst = append(dst, `,"details":`...)
	dst = AppendString(dst, details)
	return append(dst, '}')
}
