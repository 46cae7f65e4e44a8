package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"rollcall/datadir"
)

type backupCmd struct {
	Dir            string `arg:"" type:"path" help:"The data directory: of a running server or of a stopped one. Not with --cluster."`
	Target         string `arg:"" optional:"" type:"path" help:"The directory to make. It may exist if it is empty."`
	Cluster        string `placeholder:"URL" help:"Copy the devices of a cluster, from the admin listener of one of its nodes: http://HOST:PORT. Off: a data directory's."`
	AdminTokenFile string `type:"path" placeholder:"FILE" help:"With --cluster, a file with an operators' token, where the node asks for one."`
}

// Validate checks the arguments. Kong calls it.
func (c backupCmd) Validate() error {
	switch {
	case c.Cluster == "" && c.Target == "":
		return errors.New("expected \"<dir> <target>\", or --cluster=URL and \"<target>\"")
	case c.Cluster != "" && c.Target != "":
		return errors.New("with --cluster there is one directory, the one to make")
	case c.Cluster == "" && c.AdminTokenFile != "":
		return errors.New("--admin-token-file is for --cluster: a data directory is only read")
	}
	return nil
}

// Help is what `rollcall backup --help` says beyond the arguments.
func (backupCmd) Help() string {
	return `A running server is not disturbed: its files are only read. TARGET gets every heartbeat that was
acknowledged before the backup began, and perhaps later ones. It is a data directory:
"rollcall serve --data-dir TARGET" starts on it.

Everything is checked while it is read, and the copy is read once more before it gets its name;
until then it is called TARGET.partial. Damage in DIR ends the backup with exit status 1 and no
TARGET.

With --cluster the devices come from the owners of the partitions, each as it was at one moment,
and TARGET is as whole: "rollcall serve --data-dir TARGET" is the way out of a cluster, and
"rollcall cluster import TARGET" brings the devices into an empty one.`
}

// partialSuffix is what the name of an unfinished backup ends with.
const partialSuffix = ".partial"

// Run makes a backup and says what is in it.
func (c backupCmd) Run() error {
	if err := needsServingSystem("backup"); err != nil {
		return err
	}
	createForOwner()
	if c.Cluster != "" {
		return c.backupCluster(c.Dir)
	}
	partial := c.Target + partialSuffix
	if err := checkTarget(c.Dir, c.Target, partial); err != nil {
		return err
	}
	view, err := openData(c.Dir)
	if err != nil {
		return err
	}
	defer view.Close()
	if err := removeEmpty(c.Target); err != nil {
		return err
	}
	if err := makePartial(partial); err != nil {
		return err
	}
	began := time.Now()
	copied, err := makeBackup(view, partial)
	if err != nil {
		return errors.Join(fmt.Errorf("no backup was made: %w", datadir.Advise(err)),
			os.RemoveAll(partial))
	}
	if err := nameBackup(partial, c.Target); err != nil {
		return err
	}
	fmt.Printf("%s holds %d devices of the checkpoint and %d records of the log after it, "+
		"read back and whole (%v).\nTo go on from it: rollcall serve --data-dir %s\n",
		c.Target, copied.Items.Load(), copied.Records.Load(),
		time.Since(began).Round(time.Millisecond), c.Target)
	return nil
}

// openData opens a data directory to read it.
func openData(dir string) (*datadir.View, error) {
	view, err := datadir.OpenView(dir, nil)
	if err != nil {
		return nil, err
	}
	if view.Empty() {
		err := fmt.Errorf("%s holds neither a log nor a checkpoint: it is not a data directory of "+
			"rollcall, or one whose first start did not come to its end", dir)
		return nil, errors.Join(err, view.Close())
	}
	return view, nil
}

// checkTarget refuses to write over anything, and into what is copied. It changes nothing.
func checkTarget(dir, target, partial string) error {
	for _, path := range []string{target, partial} {
		overlap, err := overlaps(path, dir)
		if err != nil {
			return err
		}
		if overlap {
			return fmt.Errorf("one of %s and the data directory %s lies in the other: name a "+
				"directory outside of it, best on another disk", path, dir)
		}
	}
	return checkFree(target, partial)
}

// checkFree refuses to write over anything. It changes nothing.
func checkFree(target, partial string) error {
	if _, err := os.Lstat(partial); err == nil {
		return errPartial(partial)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	names, err := os.ReadDir(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(names) > 0:
		return fmt.Errorf("%s is not empty: name a directory that does not exist yet", target)
	}
	return nil
}

func errPartial(partial string) error {
	return fmt.Errorf("%s exists: another backup is running, or one did not finish; "+
		"if none is running, remove it", partial)
}

// makePartial makes the directory of an unfinished backup. Of two backups that found it free one is
// refused here, before it could write into what the other writes, or remove it.
func makePartial(partial string) error {
	if err := os.MkdirAll(filepath.Dir(partial), 0o700); err != nil {
		return err
	}
	err := os.Mkdir(partial, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return errPartial(partial)
	}
	return err
}

// removeEmpty removes the empty directory where the backup goes, if there is one.
func removeEmpty(target string) error {
	err := os.Remove(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; name a directory below it", err) // a mount point, for example
	}
	return nil
}

// makeBackup copies the view into dir and reads the copy back.
func makeBackup(view *datadir.View, dir string) (*datadir.Copied, error) {
	quiet := slog.New(slog.DiscardHandler)
	var copied, found datadir.Copied
	stop := reportEverySecond(os.Stderr, "copied", &copied)
	err := datadir.Copy(view, dir, quiet, &copied)
	stop()
	if err != nil {
		return nil, err
	}
	written, err := datadir.OpenView(dir, nil)
	if err != nil {
		return nil, err
	}
	defer written.Close()
	stop = reportEverySecond(os.Stderr, "read back", &found)
	err = written.Walk(quiet, &found)
	stop()
	if err != nil {
		return nil, fmt.Errorf("reading the copy back: %w", err)
	}
	if found.Items.Load() != copied.Items.Load() || found.Records.Load() != copied.Records.Load() {
		return nil, fmt.Errorf("reading the copy back: %d devices and %d records were written, "+
			"%d and %d were read: check the target's disk",
			copied.Items.Load(), copied.Records.Load(), found.Items.Load(), found.Records.Load())
	}
	return &copied, nil
}

// nameBackup gives a finished backup its name, durably.
func nameBackup(partial, target string) error {
	if err := os.Rename(partial, target); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(target))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// reportEverySecond writes a line about the counts each second, until it is stopped.
func reportEverySecond(w io.Writer, deed string, n *datadir.Copied) (stop func()) {
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				fmt.Fprintf(w, "%s so far: %d devices of the checkpoint, %d records of the log, "+
					"%d MiB\n",
					deed, n.Items.Load(), n.Records.Load(), n.Bytes.Load()>>20)
			}
		}
	}()
	return func() {
		close(quit)
		<-gone
	}
}
