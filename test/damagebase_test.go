package test

import (
	"bufio"
	"bytes"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"rollcall/internal/testproc"
	"rollcall/internal/testwait"
)

// What the suites of damage work on: data directories that a real server made, each made once and
// copied for each case; and files that are changed and compared.

// base is a data directory as a server left it, and what it had acknowledged.
type base struct {
	dir   string
	user  string
	acked map[string]int // seq by device

	segments []baseSegment // those that were begun, ascending
	next     uint64        // LSN of the next record
	untold   int           // how many of the last records the control file does not call durable
}

// baseSegment is a segment by what inspect says of it.
type baseSegment struct {
	file        string
	bytes, used int64
	first       uint64
}

// The names of the bases. What makes them different is at baseDir.
const (
	closedBase = "closed"
	killedBase = "killed"
	struckBase = "struck"
	shortBase  = "short"
)

var bases struct {
	sync.Mutex
	made map[string]*base // guarded by Mutex
}

// baseDir returns a base, which is made by the first call for it:
//
//	       segment 1        2               3               4
//	       ┌─────────────┐ ┌─────────────┐ ┌─────────────┐ ┌───────────────┐
//	closed │ checkpoint  │ │ full,       │ │ full,       │ │ part, closed  │ starts at record 1
//	killed │ as of all   │ │ rolled to 3 │ │ rolled to 4 │ │ part, kill -9 │ the same
//	struck └─────────────┘ └─────────────┘ └─────────────┘ └───────────────┘ the same
//	short    a later checkpoint took the first segments off the log, which was closed in order;
//	         the first checkpoint lies at older
//
// killed came to rest before it was killed: its control file knows the last record. struck did not:
// of its last records only later blocks say that they are durable, and of the last block nothing.
func baseDir(t *testing.T, name string) *base {
	t.Helper()
	bases.Lock()
	defer bases.Unlock()
	if b := bases.made[name]; b != nil {
		return b
	}
	b := makeBase(t, name)
	if bases.made == nil {
		bases.made = map[string]*base{}
	}
	bases.made[name] = b
	return b
}

// makeBase makes one. A start that finds more than one segment takes a checkpoint soon, so there
// are few starts.
func makeBase(t *testing.T, name string) *base {
	t.Helper()
	b := &base{
		dir:  filepath.Join(scratch, "base-"+name),
		user: uuid.NewString(), acked: map[string]int{},
	}
	const few, segment = 400, 8 << 20
	serve := func(flags ...string) *rig {
		return startServerIn(t, b.dir, append(flags, fmt.Sprint("--segment-bytes=", segment))...)
	}
	r := serve("--checkpoint-bytes=1")
	b.fill(r, damageDevices)
	awaitCheckpoint(t, r, damageDevices)
	r.terminate()
	if name == shortBase {
		copyDir(t, filepath.Join(b.dir, checkpointDir), b.older())
	}
	r = serve()
	b.fillSegment(r, segment)
	if name == shortBase {
		r.terminate()
		r = serve("--checkpoint-bytes=1")
		b.fill(r, few)
		r.until("a checkpoint takes segments off the log", func() bool {
			first, err := filepath.Glob(filepath.Join(b.dir, "0000000000000000000[12].wal"))
			return err == nil && first == nil
		})
		r.terminate()
		b.look(t)
		return b
	}
	b.fillSegment(r, segment)
	switch name {
	case closedBase:
		r.terminate()
	case killedBase:
		r.until("the control file knows the last record", func() bool {
			return b.controlNumber(t, controlDurable) == b.sent()
		})
		r.kill()
	case struckBase:
		b.fill(r, few)
		r.kill()
		if b.controlNumber(t, controlDurable) == b.sent() { // it was refreshed just then
			if err := os.RemoveAll(b.dir); err != nil {
				t.Fatal(err)
			}
			return makeBase(t, name)
		}
	}
	b.look(t)
	return b
}

const (
	damageDevices = 40
	checkpointDir = "checkpoint"
)

// older is where the short base's first checkpoint lies.
func (b *base) older() string { return b.dir + "-older" }

// fill sends n heartbeats, the devices in turn, in one batch.
func (b *base) fill(r *rig, n int) {
	r.t.Helper()
	if len(b.acked) == 0 {
		for range damageDevices {
			b.acked[uuid.NewString()] = 0
		}
	}
	var body strings.Builder
	for sent := 0; sent < n; {
		for device := range b.acked {
			b.acked[device]++
			body.WriteString(newBeat().with("user_id", b.user).with("device_id", device).
				with("seq", b.acked[device]).with("source", strings.Repeat("s", 120)).json() + "\n")
			if sent++; sent == n {
				break
			}
		}
	}
	a := r.send(request("POST", batchPath, body.String(), bearer(ingestToken),
		"Content-Type: application/x-ndjson"))
	if want := fmt.Sprintf(`{"accepted":%d,"rejected":0,"errors":[]}`, n); a.status != 200 || a.body != want {
		r.t.Fatalf("%d %s, want %s", a.status, a.body, want)
	}
}

// sent is how many records the base has: one for each heartbeat.
func (b *base) sent() (n uint64) {
	for _, seq := range b.acked {
		n += uint64(seq)
	}
	return n
}

// fillSegment fills more than a segment, so that the log rolls.
func (b *base) fillSegment(r *rig, bytes int) {
	const recordBytes, batch = 198, 9000
	for n := bytes/recordBytes + 100; n > 0; n -= batch {
		b.fill(r, min(n, batch))
	}
}

// look notes what is in the directory.
func (b *base) look(t *testing.T) {
	t.Helper()
	found := inspect(t, 0, b.dir)
	for _, s := range found["segment"] {
		b.segments = append(b.segments, baseSegment{
			file:  fmt.Sprintf("%020d.wal", int(s["segment"].(float64))),
			bytes: int64(s["bytes"].(float64)), used: int64(s["used_bytes"].(float64)),
			first: uint64(s["first_lsn"].(float64)),
		})
	}
	b.next = uint64(found.field(t, "log", "next_lsn").(float64))
	b.untold = int(b.next - 1 - b.controlNumber(t, controlDurable))
	if b.next != b.sent()+1 {
		t.Fatalf("%s: the next record is %d after %d", b.dir, b.next, b.sent())
	}
}

// The numbers of the control file, by their offset: docs/wal-format.md.
const (
	controlFile       = "CONTROL"
	controlSlotBytes  = 4096
	controlGeneration = 16
	controlDurable    = 72
)

// controlNumber reads a number of the newer copy in the control file, 0 while there is none.
func (b *base) controlNumber(t *testing.T, offset int) uint64 {
	t.Helper()
	all, err := os.ReadFile(filepath.Join(b.dir, controlFile))
	if err != nil {
		t.Fatal(err)
	}
	return endian.LittleEndian.Uint64(all[newerSlot(all)+offset:])
}

// newerSlot is where the newer copy of a control file begins.
func newerSlot(control []byte) int {
	if endian.LittleEndian.Uint64(control[controlGeneration:]) >
		endian.LittleEndian.Uint64(control[controlSlotBytes+controlGeneration:]) {
		return 0
	}
	return controlSlotBytes
}

// damaged is a copy of a base that a case may change.
type damaged struct {
	*base
	t   *testing.T
	dir string
}

func (b *base) copy(t *testing.T) *damaged {
	t.Helper()
	d := &damaged{base: b, t: t, dir: filepath.Join(t.TempDir(), "data")}
	copyDir(t, b.dir, d.dir)
	return d
}

// copyDir copies a directory with its modes, and leaves holes where there are zeros.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(path, from)
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			return errors.Join(os.MkdirAll(target, 0o700), os.Chmod(target, info.Mode()))
		}
		return errors.Join(copyFile(path, target), os.Chmod(target, info.Mode()))
	}); err != nil {
		t.Fatal(err)
	}
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	b, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(in, b)
		if n > 0 && !bytes.Equal(b[:n], zeros[:n]) {
			if _, err := out.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		if at += int64(n); err != nil {
			return out.Truncate(at)
		}
	}
}

// last, middle and first are segments by where they are. first is the first one that is needed
// beside the checkpoint.
func (d *damaged) last() baseSegment   { return d.segments[len(d.segments)-1] }
func (d *damaged) middle() baseSegment { return d.segments[max(0, len(d.segments)-2)] }
func (d *damaged) first() baseSegment  { return d.segments[min(1, len(d.segments)-1)] }

func (d *damaged) path(name string) string { return filepath.Join(d.dir, name) }

// check ends the test when the case cannot be made.
func (d *damaged) check(errs ...error) {
	d.t.Helper()
	if err := errors.Join(errs...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *damaged) truncate(name string, size int64) {
	d.t.Helper()
	d.check(os.Truncate(d.path(name), size))
}
func (d *damaged) remove(name string) { d.t.Helper(); d.check(os.Remove(d.path(name))) }

// glob returns the names of files, of which there must be some.
func (d *damaged) glob(pattern string) []string {
	d.t.Helper()
	paths, err := filepath.Glob(d.path(pattern))
	if err != nil || len(paths) == 0 {
		d.t.Fatalf("no file %s: %v", pattern, err)
	}
	for i, path := range paths {
		paths[i] = strings.TrimPrefix(path, d.dir+"/")
	}
	return paths
}

// change reads a file, lets do change it in place, and writes it back.
func (d *damaged) change(name string, do func(content []byte)) {
	d.t.Helper()
	content, err := os.ReadFile(d.path(name))
	d.check(err)
	do(content)
	info, err := os.Stat(d.path(name))
	d.check(err)
	d.check(os.WriteFile(d.path(name), content, info.Mode()))
}

func (d *damaged) flip(name string, at int64) {
	d.t.Helper()
	d.change(name, func(content []byte) { content[at] ^= 1 << 3 })
}

func (d *damaged) zero(name string, from, to int64) {
	d.t.Helper()
	d.change(name, func(content []byte) { clear(content[from:min(to, int64(len(content)))]) })
}

// trial starts a server on the directory and returns whether it came to serve; if not, it has
// ended.
func (d *damaged) trial(flags ...string) (r *rig, serves bool) {
	d.t.Helper()
	r = &rig{t: d.t, dir: d.dir, flags: flags, env: slices.Clone(secretsEnv)}
	r.proc = testproc.Start(d.t, r.command(), &r.stderr)
	testwait.Until(d.t, "the server serves or ends", func() bool {
		ended := false
		select {
		case <-r.proc.Exited:
			ended = true
		default:
		}
		m := servingLine.FindStringSubmatch(r.logs())
		if serves = m != nil; serves {
			r.addr, r.admin = m[1], m[2]
		}
		return serves || ended
	})
	return r, serves
}

// devices are the seqs of the devices that inspect lists.
func (i inspected) devices() map[string]int {
	seqs := map[string]int{}
	for _, d := range i["device"] {
		seqs[d["device_id"].(string)] = int(d["seq"].(float64))
	}
	return seqs
}

// lacks names the first device that stands below what was acknowledged.
func (b *base) lacks(seqs map[string]int) string {
	for device, acked := range b.acked {
		if seq, ok := seqs[device]; !ok || seq < acked {
			return fmt.Sprintf("device %s stands at %d of %d (known: %v)", device, seq, acked, ok)
		}
	}
	return ""
}

// lastLine is what a command says at its end.
func lastLine(text string) string {
	last := ""
	s := bufio.NewScanner(strings.NewReader(text))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			last = line
		}
	}
	return last
}
