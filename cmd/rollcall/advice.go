package main

import (
	"errors"
	"fmt"

	"rollcall/datadir"
	"rollcall/engine"
)

// advise adds to an error what an operator can do about it. Packages say facts; only cmd knows the
// flags.
func advise(err error) error {
	switch {
	case errors.Is(err, engine.ErrLogShort):
		return fmt.Errorf("%w: the disk lost what it had confirmed, or segments were taken away; "+
			"restore the data directory from a backup", err)
	case errors.Is(err, engine.ErrTableTooSmall):
		return fmt.Errorf("%w; raise --max-devices", err)
	}
	return datadir.Advise(err)
}
