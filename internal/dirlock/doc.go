// Package dirlock keeps a directory to one process, and notices when the path leads elsewhere.
//
// Two locks are taken. A file in the directory is locked for the process (fcntl(2)), which is what
// tells the holder's process id and works on network file systems. The directory itself is locked
// for the open file (flock(2)), so that removing the file as stale lets no second process in; where
// the file system cannot do that, the file alone counts.
//
// Between opening a file and locking it, its name may get another file:
//
//	process A                        process B
//	has both locks                   opens the directory and LOCK
//	is refused: removes LOCK and
//	the directory that it made,
//	unlocks
//	                                 locks both: nothing leads to them
//
// So Take looks, after locking, whether the path leads to what it locked, and begins again if not.
// Check looks again, at any time later.
//
// A file system without descriptors, such as vfs.MemFS, has its own lock (vfs.FS.Lock); nothing can
// be put in the place of its files.
package dirlock
