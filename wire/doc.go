// Package wire is the text of the wire contract: what daemons send and what streams are told. It
// knows no connection and no table.
package wire
