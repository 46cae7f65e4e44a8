package main

import (
	"fmt"
	"log/slog"
	"os"
)

// readableByOthers are the permissions of users who are neither the owner nor of the group.
const readableByOthers = 0o005

// warnReadable says when every user of the machine can read an existing data directory. The server
// does not take rights away that an operator gave. Of a directory of another user, such as the root
// of a volume, it says nothing: the command would be refused.
func warnReadable(logger *slog.Logger, dir string) {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&readableByOthers == 0 || !ownedByThisUser(info) {
		return
	}
	logger.Warn("every user of this machine can read the data directory, which holds user ids",
		"dir", dir, "mode", fmt.Sprintf("%04o", info.Mode().Perm()), "mend", "chmod -R go= "+dir)
}
