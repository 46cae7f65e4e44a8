// Package record is what the log holds: the whole state of one device after a change.
//
// A record needs nothing else to be replayed, and to replay it twice is as good as once. It does
// not carry its LSN, which the log gives, nor a deadline, which is counted from the receipt. The
// source travels as its text. docs/wal-format.md draws the bytes; TestGolden and TestGoldenUser
// keep both true.
//
// The package knows neither the log nor the table, and imports nothing of this project.
package record
