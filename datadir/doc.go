// Package datadir knows a data directory as a whole: a log, a checkpoint beside it, and the lock
// that one process holds on both. It opens both and finds out whether they belong together (Open),
// opens a directory for looking at it (View), copies it (Copy), names the process that holds its
// lock (Holder), and advises what to do about damage (Advise).
//
//	DIR/LOCK           locked by package wal while a process uses the directory
//	DIR/CONTROL        the log's control file: package wal
//	DIR/*.wal, *.old   the log: package wal
//	DIR/checkpoint/    the checkpoint: package checkpoint
//
// # How the parts are known to belong together
//
// Log and checkpoint have one id, made when the first of them is started, derived for a directory
// of format version 1 (package checkpoint). A part without one takes the other's. A copy has an id
// of its own. And the log knows through which LSN a checkpoint must hold everything, because it
// gave up segments for it: an older checkpoint is refused, and so is none, unless the log reaches
// back to record 1.
//
// # How a view beside a running server is whole
//
// All of its files are open, so that none can go away. They belong together, since nothing was
// removed or replaced while they were being opened, or it was tried again:
//
//	the checkpoint's manifest did not change    ► every table that it names was there, and is open
//	... and so neither did the checkpoint's LSN ► no segment was removed that it needs
//	the control file was read after it          ► what it says of the checkpoint is true of it
//	... and before the segments                 ► and what it says of the log, of these
//	segments were opened after the manifest     ► they hold every record that the checkpoint has
//	                                              seen: the log is synced past a table's content
//	                                              before the manifest names it
//
// A view may or may not show what a server writes to the segments afterwards: blocks come in order,
// and reading stops at the first that is not there. A block that calls others durable was written
// after them. A shared lock on each open segment keeps the server from recycling its file.
package datadir
