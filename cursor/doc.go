// Package cursor has the ids of a stream's events: what a client that comes back has already. It
// knows no log, no store and no stream; their owner tells it what they hold.
//
//	base64url( version, view, epoch, linger, list, LSN, newest, told, check )      unpadded, one line
//
// # Terms
//
// A cursor says: everything that is shown of these users in this view through this LSN, and when it
// was told. One from the middle of a snapshot also says how new is what the client has in part. A
// history is one line of LSNs: each number stands for one record. An epoch is the part of a history
// that one life of a server wrote: each start begins one, under a random id, with the first LSN
// that it may write. A history branches when a data directory is copied and both copies go on, or
// when a crash takes the tail of the log and others follow under the same numbers: from there on
// one LSN stands for two records, and the epochs tell which.
//
//	            1 ......... 100 ......... 200 ........... 300
//	directory   epoch a     │ epoch b     │ epoch c
//	a backup of it at 150         └─ epoch d ..............
//
//	cursor      directory                 the restored backup
//	a,  90      honoured: 90 < 100        honoured
//	b, 140      honoured: 140 < 200       honoured: 140 < 151
//	b, 170      honoured                  refused: d began at 151, its 170 is another record
//	d, 160      refused: d is unknown     honoured
//
// A device that was forgotten leaves nothing behind that a client could be told. So a history also
// knows when a device of a user was forgotten: exactly for the last MaxForgotten users, and for all
// others that it was not later than the oldest of these. A cursor from before does not bring that
// user up to date.
//
// # Invariants
//
//   - Q1: Parse honours a cursor only when its epoch is known and its LSNs lie before the first one
//     of every later epoch; one of the running epoch when they are committed. So what the cursor
//     names is what this history has under those numbers.
//   - Q2: an epoch is durable before the first cursor of it is made, and before its first record is
//     written. So after a crash no cursor is taken for one of another branch.
//   - Q3: Parse refuses every text that differs from a cursor of this history in up to 32 bits that
//     follow each other, one character for instance, and every cursor of another secret.
//   - Q4: Forgotten never falls, in one life and from one to the next.
//   - Q5: everything is bounded: MaxEpochs epochs, of which the oldest goes first, and with it its
//     cursors; MaxForgotten users; MaxText bytes of text.
//
// # What the check is for
//
// It is a CRC-32C that begins with a number made of the store's secret: it finds texts that were
// cut, changed or mixed up, and cursors of other servers. It does not stop an attacker, and need
// not: a cursor grants nothing. One who forges it is left without events of users that the token
// covers anyway. The secret itself does not leave: the number is cut from a SHA-256.
package cursor
