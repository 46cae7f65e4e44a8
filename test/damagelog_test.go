package test

import (
	endian "encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
)

const (
	cutTail     = "cut the torn tail of the log"
	damagedCopy = "one of the two copies in the control file is damaged"
)

// logCases are damages of segments.
var logCases = []damageCase{
	{name: "none", bases: anyBase, harm: func(*damaged) {}},

	{name: "last segment cut to half of its file", bases: whole,
		harm: func(d *damaged) { d.truncate(d.last().file, d.last().bytes/2) },
		says: []string{"{LAST}", "made with 8388608", "cut off", restore, startOver}},
	{name: "last segment cut to half of what is in it", bases: whole,
		harm: func(d *damaged) { d.truncate(d.last().file, d.last().used/2) },
		says: []string{"{LAST}", "unreadable record", restore, startOver}},
	{name: "last segment cut to its header", bases: whole,
		harm: func(d *damaged) { d.truncate(d.last().file, 64) },
		says: []string{"{LAST}", "unreadable record", restore, startOver}},
	{name: "last segment cut within its header", bases: whole,
		harm: func(d *damaged) { d.truncate(d.last().file, 30) },
		says: []string{"{LAST}", "begun", "8388608 bytes", restore, startOver}},
	{name: "last segment empty", bases: whole,
		harm: func(d *damaged) { d.truncate(d.last().file, 0) },
		says: []string{"{LAST}", "begun", "8388608 bytes", restore, startOver}},
	{name: "last segment zero from its middle on", bases: whole,
		harm: func(d *damaged) { d.zero(d.last().file, d.last().used/2&^7, d.last().used) },
		says: []string{"{LAST}", "unreadable record", restore, startOver}},
	{name: "end of the last segment zero, behind the last durable word", bases: struck, untold: true,
		logs: cutTail,
		harm: func(d *damaged) { d.zero(d.last().file, d.last().used-200, d.last().used) }},
	{name: "one bit flipped behind the last durable word", bases: struck, untold: true,
		logs: cutTail,
		harm: func(d *damaged) { d.flip(d.last().file, d.last().used-200) }},
	{name: "last segment zero from the last word of CONTROL on", bases: struck, untold: true,
		harm: func(d *damaged) { d.zero(d.last().file, 64, d.last().used) }},
	{name: "last segment cut off behind the last durable word", bases: struck,
		harm: func(d *damaged) { d.truncate(d.last().file, d.last().used-200) },
		says: []string{"{LAST}", "made with 8388608", "cut off", restore, startOver}},
	{name: "last segment zero", bases: whole,
		harm: func(d *damaged) { d.zero(d.last().file, 0, d.last().bytes) },
		says: []string{"{LAST}", "begun", restore, startOver}},
	{name: "last segment missing", bases: whole,
		harm: func(d *damaged) { d.removeFrom(d.last().file) },
		says: []string{"{LAST}", "missing", restore, startOver}},
	{name: "middle and last segment missing", bases: whole,
		harm: func(d *damaged) { d.removeFrom(d.middle().file) },
		says: []string{"{MIDDLE}", "missing", restore, startOver}},
	{name: "all segments missing", bases: anyBase,
		harm: func(d *damaged) { d.removeFrom("") },
		says: []string{"has no log segment", "backup", startOver}},

	{name: "middle segment cut to half", bases: whole,
		harm: func(d *damaged) { d.truncate(d.middle().file, d.middle().bytes/2) },
		says: []string{"{MIDDLE}", "unreadable record", restore, startOver}},
	{name: "middle segment cut to its header", bases: whole,
		harm: func(d *damaged) { d.truncate(d.middle().file, 64) },
		says: []string{"{MIDDLE}", "unreadable record", restore, startOver}},
	{name: "middle segment empty", bases: whole,
		harm: func(d *damaged) { d.truncate(d.middle().file, 0) },
		says: []string{"{MIDDLE}", "begun", "segment 4, the newest", restore, startOver}},
	{name: "middle segment zero from its middle on", bases: whole,
		harm: func(d *damaged) { d.zero(d.middle().file, d.middle().bytes/2, d.middle().bytes) },
		says: []string{"{MIDDLE}", "unreadable record", restore, startOver}},
	{name: "middle segment missing", bases: whole,
		harm: func(d *damaged) { d.remove(d.middle().file) },
		says: []string{"{MIDDLE}", "missing", restore, startOver}},

	{name: "first needed segment cut to half", bases: whole,
		harm: func(d *damaged) { d.truncate(d.first().file, d.first().bytes/2) },
		says: []string{"{FIRST}", "unreadable record", restore, startOver}},
	{name: "first needed segment cut to its header", bases: whole,
		harm: func(d *damaged) { d.truncate(d.first().file, 64) },
		says: []string{"{FIRST}", "unreadable record", restore, startOver}},
	{name: "first needed segment empty", bases: whole,
		harm: func(d *damaged) { d.truncate(d.first().file, 0) },
		says: []string{"{FIRST}", "begun", "segment 4, the newest", restore, startOver}},
	{name: "first needed segment zero from its middle on", bases: whole,
		harm: func(d *damaged) { d.zero(d.first().file, d.first().used/2&^7, d.first().used) },
		says: []string{"{FIRST}", "unreadable record", restore, startOver}},
	{name: "all segments up to the first needed one missing", bases: whole,
		harm: func(d *damaged) { d.remove(d.segments[0].file); d.remove(d.first().file) },
		says: []string{"an older segment is missing", restore, startOver}},
	{name: "a segment that the checkpoint covers missing", bases: whole,
		harm: func(d *damaged) { d.remove(d.segments[0].file) }},

	{name: "one bit of a header flipped", bases: whole,
		harm: func(d *damaged) { d.flip(d.last().file, 33) },
		says: []string{"{LAST}", "header", restore, startOver}},
	{name: "one bit of a block flipped", bases: whole,
		harm: func(d *damaged) { d.flip(d.last().file, 64+40+1000) },
		says: []string{"{LAST}", "checksum", restore, startOver}},
	{name: "one bit of a block's header flipped", bases: whole,
		harm: func(d *damaged) { d.flip(d.middle().file, 64+20) },
		says: []string{"{MIDDLE}", "unreadable record", restore, startOver}},
	{name: "the file of a segment under another's name", bases: whole,
		harm: func(d *damaged) {
			d.check(os.Rename(d.path(d.middle().file), d.path("x")),
				os.Rename(d.path(d.last().file), d.path(d.middle().file)),
				os.Rename(d.path("x"), d.path(d.last().file)))
		},
		says: []string{"another segment than the file name", restore, startOver}},
	{name: "a segment of format version 1", bases: whole,
		harm: func(d *damaged) {
			old := unpackVersion1(d.t, "closed")
			d.check(copyFile(old.path(d.first().file), d.path(d.first().file)))
		},
		says: []string{"{FIRST}", "format version 1", "another log's", restore, startOver}},
	{name: "last segment of a later format", bases: whole,
		harm: func(d *damaged) { d.change(d.last().file, func(b []byte) { b[8] = 3 }) },
		says: []string{"{LAST}", "format version 3", "start the version that wrote it"}},
	{name: "the last segment's end made longer", bases: whole,
		harm: func(d *damaged) { d.truncate(d.last().file, d.last().bytes+4096) }},
}

// removeFrom removes the segments from one on, and those behind that were prepared.
func (d *damaged) removeFrom(file string) {
	d.t.Helper()
	for _, name := range d.glob("0*.wal") {
		if name >= file {
			d.remove(name)
		}
	}
}

// controlCases are damages of the control file.
var controlCases = []damageCase{
	{name: "CONTROL missing", bases: anyBase, harm: func(d *damaged) { d.remove(controlFile) },
		says: []string{controlFile, "missing", restore, startOver}},
	{name: "CONTROL empty", bases: anyBase,
		harm: func(d *damaged) { d.truncate(controlFile, 0) },
		says: []string{controlFile, "checksum", restore, startOver}},
	{name: "CONTROL zero", bases: whole,
		harm: func(d *damaged) { d.zero(controlFile, 0, 2*controlSlotBytes) },
		says: []string{controlFile, "checksum", restore, startOver}},
	{name: "CONTROL short", bases: whole,
		harm: func(d *damaged) { d.truncate(controlFile, 100) },
		says: []string{controlFile, "checksum", restore, startOver}},
	{name: "one copy in CONTROL cut off", bases: whole, logs: damagedCopy,
		harm: func(d *damaged) { d.truncate(controlFile, controlSlotBytes) }},
	{name: "older copy in CONTROL damaged", bases: anyBase, logs: damagedCopy, harm: func(d *damaged) {
		d.change(controlFile, func(b []byte) { b[controlSlotBytes-newerSlot(b)+60] ^= 1 })
	}},
	{name: "newer copy in CONTROL damaged", bases: anyBase, logs: damagedCopy, harm: func(d *damaged) {
		d.change(controlFile, func(b []byte) { b[newerSlot(b)+60] ^= 1 })
	}},
	{name: "both copies in CONTROL damaged", bases: anyBase,
		harm: func(d *damaged) {
			d.change(controlFile, func(b []byte) { b[60] ^= 1; b[controlSlotBytes+60] ^= 1 })
		},
		says: []string{controlFile, "checksum", restore, startOver}},
	{name: "CONTROL of a later format", bases: whole,
		harm: func(d *damaged) {
			d.change(controlFile, func(b []byte) { b[8], b[controlSlotBytes+8] = 3, 3 })
		},
		says: []string{controlFile, "format version 3", "start the version that wrote it"}},
	{name: "CONTROL marks an unfinished copy", bases: onlyShut,
		harm: func(d *damaged) { d.unfinished() },
		says: []string{"never finished", "make the backup again"}},
	{name: "CONTROL of another server", bases: whole,
		harm: func(d *damaged) {
			d.check(copyFile(filepath.Join(d.other().dir, controlFile), d.path(controlFile)))
		},
		says: []string{controlFile, "another", restore, startOver}},
}

// other is a base of another server.
func (d *damaged) other() *base {
	d.t.Helper()
	if name := filepath.Base(d.base.dir); name == "base-"+closedBase {
		return baseDir(d.t, killedBase)
	}
	return baseDir(d.t, closedBase)
}

// unfinished marks the directory as a copy that was not finished, in both copies of its control
// file.
func (d *damaged) unfinished() {
	d.t.Helper()
	const sum, flags, size = 12, 88, 128 // docs/wal-format.md
	table := crc32.MakeTable(crc32.Castagnoli)
	d.change(controlFile, func(b []byte) {
		for _, slot := range [][]byte{b[:size], b[controlSlotBytes:][:size]} {
			slot[flags] |= 2
			endian.LittleEndian.PutUint32(slot[sum:],
				crc32.Update(crc32.Checksum(slot[:sum], table), table, slot[sum+4:]))
		}
	})
}
