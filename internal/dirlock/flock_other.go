//go:build darwin || freebsd

package dirlock

// flockHolder returns 0: on this system such a lock does not tell its holder.
func flockHolder(inode) (pid int) { return 0 }
