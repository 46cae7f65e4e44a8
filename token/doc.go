// Package token has the tokens of the wire contract: signed ones, which carry claims, and the
// shared secrets that a sender shows as they are.
//
//	base64url(claims) . base64url(HMAC-SHA256(key, base64url(claims)))
//
// Both parts are unpadded, and there are exactly two. Secrets are compared in constant time, all of
// a list each time, so that neither the bytes of one nor its place in the list can be timed. Claims
// are not parsed before the signature holds.
//
// The package imports nothing of this project.
package token
