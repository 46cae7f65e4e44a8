// Package wire is the text of the wire contract: the names and limits of it, what daemons send and
// what streams get. It knows no connection and no table, and imports only package record.
//
//	routes.go     paths, query parameters, media types, header names
//	limits.go     how large things may be
//	codes.go      codes and bodies of errors, scopes of tokens
//	heartbeat.go  one heartbeat: the contract's checks in their order
//	decode.go     its JSON    shape.go  the same, for a text like the last    id.go  identifiers
//	split.go      a batch: its body, cut into the texts of heartbeats
//	frame.go      one event of a stream
//
// # A heartbeat's text
//
// decode.go is a strict single pass over the bytes: exact JSON grammar, exact field names, the last
// duplicate counts, integers written plainly. It does not judge: a field that is missing or of the
// wrong type gets a value that no check accepts, and heartbeat.go judges in the order of the
// contract. General decoders were tried first: they match names in any case, replace bad UTF-8
// silently, cannot tell missing from null from zero without pointers, and cost two to six times as
// much and five to thirteen allocations.
//
// # Identifiers
//
// An id is the canonical 36 characters of an RFC 9562 UUID of version 1 to 8 and the RFC's variant,
// lowercase. The nil and the max UUID have no version and are refused.
package wire
