package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"rollcall/cluster"
	"rollcall/cluster/partition"
	"rollcall/cluster/transfer"
	"rollcall/datadir"
	"rollcall/engine"
	"rollcall/record"
)

type clusterImportCmd struct {
	operator
	Dir string `arg:"" type:"path" help:"The data directory of a stopped server that was alone, or a backup."`
	// Continue is for a second try.
	Continue bool `help:"Go on with an import that did not come to its end. Devices that are known stay as they are."`
}

// Help is what `rollcall cluster import --help` says beyond the flags.
func (clusterImportCmd) Help() string {
	return `Every device, what it has sent last, when it and its user were last seen: all that the server knew. It
only reads DIR. The way back is "rollcall backup --cluster".

The cluster must be empty. Keep heartbeats away from it until the import is done: a device that the
cluster has heard of stays as it is. After an import, devices have --recovery-grace to be heard
again, as after a restart.`
}

// Run brings the devices of a data directory into a cluster.
func (c clusterImportCmd) Run() error {
	if err := refuseCluster(c.Dir); err != nil {
		return err
	}
	partitions, err := c.emptyPartitions(c.Continue)
	if err != nil {
		return err
	}
	view, err := openData(c.Dir)
	if err != nil {
		return err
	}
	defer view.Close()
	found := lookInto(view)
	defer found.close()
	if found.damage != nil {
		return fmt.Errorf("nothing was imported: %w", datadir.Advise(found.damage))
	}
	i := importing{operator: c.operator, pages: make([][]byte, partitions)}
	began := time.Now()
	err = found.devices.EachExported(func(rec []byte) error { return i.add(rec) })
	if err = errors.Join(err, i.flushAll(err == nil)); err != nil {
		return fmt.Errorf("%w; %d devices are in the cluster. Go on with --continue", err, i.taken)
	}
	all, _ := found.devices.Devices()
	fmt.Printf("The cluster has the %d devices of %s, %d of them new (%v).\n", all, c.Dir, i.taken,
		time.Since(began).Round(time.Millisecond))
	return nil
}

// emptyPartitions returns how many partitions the cluster has. They must be empty, unless anyway.
func (o operator) emptyPartitions(anyway bool) (int, error) {
	var answer struct{ Devices []int }
	if err := o.retry(func() error { return o.get("/clusterz/devices", &answer) }); err != nil {
		return 0, err
	}
	devices := 0
	for _, n := range answer.Devices {
		devices += n
	}
	if devices > 0 && !anyway {
		return 0, fmt.Errorf("the cluster has %d devices, so nothing was imported: import into an "+
			"empty one. If they are from an import that did not end, go on with --continue", devices)
	}
	return len(answer.Devices), nil
}

// importing collects records into a page for each partition.
type importing struct {
	operator
	pages [][]byte
	user  [16]byte // of the last record, with its partition
	taken int
}

// add puts a record into its partition's page, and sends that when it is full: between two users,
// whose records belong together, or inside of one with very many devices.
func (i *importing) add(rec []byte) error {
	r, err := record.Parse(rec)
	if err != nil {
		return err
	}
	user := r.User()
	p := partition.Of(user, len(i.pages))
	if n := len(i.pages[p]); n > importPageBytes && (user != i.user || n > transfer.PageBytes) {
		if err := i.flush(p); err != nil {
			return err
		}
	}
	i.user = user
	i.pages[p] = append(i.pages[p], byte(len(rec)), byte(len(rec)>>8))
	i.pages[p] = append(i.pages[p], rec...)
	return nil
}

// importPageBytes is about the size of a page of an import. The pages of 1,024 partitions take 64
// MiB.
const importPageBytes = 64 << 10

// flush sends a page.
func (i *importing) flush(p int) error {
	var answer struct{ Taken int }
	page := transfer.Page{States: i.pages[p]}.Append(nil)
	err := i.retry(func() error {
		return i.send(http.MethodPost, fmt.Sprintf("/clusterz/import?partition=%d", p), page, &answer)
	})
	i.pages[p] = i.pages[p][:0]
	i.taken += answer.Taken
	return err
}

func (i *importing) flushAll(whole bool) error {
	for p := range i.pages {
		if whole && len(i.pages[p]) > 0 {
			if err := i.flush(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// retryFor is how long is tried again what a cluster cannot do in the moment: while a partition has
// no owner.
const retryFor = time.Minute

// sayAfter is how long that lasts until it is said.
const sayAfter = 2 * time.Second

// retry calls fn until it has no error that may go away, and says once what it waits for.
func (o operator) retry(fn func() error) error {
	began, said := time.Now(), false
	for ; ; time.Sleep(200 * time.Millisecond) {
		err := fn()
		var later *laterError
		if !errors.As(err, &later) || time.Since(began) > retryFor {
			return err
		}
		if !said && time.Since(began) > sayAfter {
			said = true
			fmt.Fprintf(os.Stderr, "waiting, for %v at most: %v\n", retryFor, err)
		}
	}
}

// backupCluster makes a data directory of a cluster's devices.
func (c backupCmd) backupCluster(target string) error {
	partial := target + partialSuffix
	if err := checkFree(target, partial); err != nil {
		return err
	}
	o := operator{Admin: c.Cluster, AdminTokenFile: c.AdminTokenFile}
	var status cluster.Status
	if err := o.get(clusterPath, &status); err != nil {
		return err
	}
	if len(status.Partitions) == 0 {
		return fmt.Errorf("%s: the cluster has not been made", c.Cluster)
	}
	if err := removeEmpty(target); err != nil {
		return err
	}
	if err := makePartial(partial); err != nil {
		return err
	}
	began := time.Now()
	if err := writeBackup(o, len(status.Partitions), partial); err != nil {
		return errors.Join(fmt.Errorf("no backup was made: %w", err), os.RemoveAll(partial))
	}
	devices, err := countDevices(partial)
	if err == nil {
		err = nameBackup(partial, target)
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s holds the %d devices of %d partitions, read back and whole (%v).\n"+
		"To go on from it: rollcall serve --data-dir %[1]s\n", target, devices,
		len(status.Partitions), time.Since(began).Round(time.Millisecond))
	return nil
}

// writeBackup writes what all partitions have into a new data directory.
func writeBackup(o operator, partitions int, dir string) error {
	quiet := slog.New(slog.DiscardHandler)
	var copied datadir.Copied
	defer reportEverySecond(os.Stderr, "copied", &copied)()
	return datadir.Write(dir, quiet, &copied, func(add func([]byte) error) error {
		for p := range partitions {
			if err := o.eachRecord(p, add); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachRecord calls fn for each record of a partition's devices.
func (o operator) eachRecord(p int, fn func(rec []byte) error) error {
	var after []byte
	for {
		var page transfer.Page
		path := fmt.Sprintf("/clusterz/export?partition=%d&after=%s", p, hex.EncodeToString(after))
		err := o.retry(func() error { return o.page(path, &page) })
		if err != nil {
			return err
		}
		whole := engine.EachState(page.States, func(rec []byte) bool {
			err = fn(rec)
			return err == nil
		})
		switch {
		case err != nil:
			return err
		case !whole:
			return fmt.Errorf("partition %d: %w", p, transfer.ErrFormat)
		case len(page.Next) == 0:
			return nil
		case bytes.Compare(page.Next, after) <= 0:
			return fmt.Errorf("partition %d: %w: the export does not go on", p, transfer.ErrFormat)
		}
		after = page.Next
	}
}

// page asks for a page, which has to be whole.
func (o operator) page(path string, page *transfer.Page) error {
	return o.request(http.MethodGet, path, nil, func(body io.Reader) error {
		b, err := io.ReadAll(body)
		if err != nil {
			return &laterError{err}
		}
		*page, err = transfer.ParsePage(b)
		return err
	})
}

// countDevices recovers what was written, as a server would.
func countDevices(dir string) (int, error) {
	view, err := datadir.OpenView(dir, nil)
	if err != nil {
		return 0, err
	}
	defer view.Close()
	found := lookInto(view)
	defer found.close()
	if found.damage != nil {
		return 0, fmt.Errorf("reading the backup back: %w", found.damage)
	}
	all, _ := found.devices.Devices()
	return all, nil
}
