package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/google/uuid"

	"rollcall/checkpoint"
	"rollcall/datadir"
	"rollcall/engine"
	"rollcall/wal"
)

type inspectCmd struct {
	Dir     string    `arg:"" type:"path" help:"A data directory: a stopped server's, a running one's, or a backup."`
	JSON    bool      `name:"json" help:"Print one JSON object per line; \"kind\" says what the line is about."`
	Devices int       `default:"10" placeholder:"N" help:"List at most N devices; -1 lists all (${default})."`
	User    uuid.UUID `placeholder:"UUID" help:"List the devices of this user only."`
}

// Help is what `rollcall inspect --help` says beyond the flags.
func (inspectCmd) Help() string {
	return `Nothing is written, and a running server is not disturbed. It shows what a server would know that
started on the directory now: the checkpoint, and the log after it. Memory: about 140 bytes for each
device.

Exit status 1: a server would not start on it. The last line says where the first damage is and what
can be done.`
}

// Validate checks the flags. Kong calls it.
func (c inspectCmd) Validate() error {
	if c.Devices < -1 {
		return fmt.Errorf("--devices must be -1 (all), 0 or more, not %d", c.Devices)
	}
	return nil
}

// Run shows a data directory.
func (c inspectCmd) Run() error {
	pid, err := datadir.Holder(c.Dir)
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
	var out printer = textPrinter{os.Stdout}
	if c.JSON {
		out = jsonPrinter{json.NewEncoder(os.Stdout)}
	}
	found.print(out, c, pid)
	if found.damage != nil {
		return exitCode{1, "a server would not start on " + c.Dir}
	}
	return nil
}

// findings is what a data directory holds. checkpoint, log and devices are nil where damage leaves
// nothing to say of them.
type findings struct {
	checkpoint *checkpoint.Store
	log        *wal.Log
	devices    *engine.Recovered
	damage     error // the first
}

// lookInto recovers what the view shows, up to the first damage.
func lookInto(view *datadir.View) (f findings) {
	quiet := slog.New(slog.DiscardHandler)
	log, err := view.Log(quiet)
	if err != nil {
		f.damage = err
		return f
	}
	f.log = log
	f.checkpoint, f.damage = view.Checkpoint(log, quiet)
	if f.damage != nil { // the devices are unknown then, but the log can be read
		_ = log.Replay(max(log.First(), 1)-1, func(uint64, []byte) error { return nil })
		return f
	}
	var store engine.Store
	if f.checkpoint != nil {
		store = f.checkpoint
	}
	f.devices, f.damage = engine.Recover(log, store, quiet)
	return f
}

func (f findings) close() {
	if f.devices != nil {
		f.devices.Close()
	}
	if f.log != nil {
		f.log.Close()
	}
	if f.checkpoint != nil {
		f.checkpoint.Close()
	}
}

// The lines of --json. The text has the same figures.
type (
	directoryLine struct {
		Kind string `json:"kind"`
		Dir  string `json:"dir"`
		PID  int    `json:"held_by_pid"` // 0: no server works on it
	}
	checkpointLine struct {
		Kind    string `json:"kind"`
		LSN     uint64 `json:"lsn"`
		Devices int    `json:"devices"`
		Bytes   uint64 `json:"bytes"`
	}
	segmentLine struct {
		Kind string `json:"kind"`
		wal.Segment
	}
	logLine struct {
		Kind       string   `json:"kind"`
		Next       uint64   `json:"next_lsn"`
		TornBytes  int64    `json:"torn_bytes"`
		TornOffset int64    `json:"torn_offset"`
		Prepared   []uint64 `json:"prepared_segments"`
		Closed     bool     `json:"closed"`       // in order, by the server that wrote it
		ID         string   `json:"directory_id"` // empty: of format version 1
	}
	devicesLine struct {
		Kind    string `json:"kind"`
		Total   int    `json:"total"`
		Online  int    `json:"online"`
		Offline int    `json:"offline"`
	}
	deviceLine struct {
		Kind          string `json:"kind"`
		User          string `json:"user_id"`
		Device        string `json:"device_id"`
		Status        string `json:"status"`
		Source        string `json:"source"`
		SentAtMS      uint64 `json:"sent_at_ms"`
		Seq           uint64 `json:"seq"`
		TTLMS         uint64 `json:"ttl_ms"`
		HeartbeatAtMS uint64 `json:"last_heartbeat_ms"`
		SeenAtMS      uint64 `json:"last_seen_ms"` // 0: never
		UpdatedAtMS   uint64 `json:"updated_at_ms"`
		LSN           uint64 `json:"lsn"`
	}
	damageLine struct {
		Kind    string `json:"kind"`
		Path    string `json:"path,omitempty"`
		Segment uint64 `json:"segment,omitempty"`
		Offset  int64  `json:"offset"`
		LSN     uint64 `json:"lsn,omitempty"`
		Error   string `json:"error"` // and what can be done
	}
)

// printer prints one of the lines above.
type printer interface{ print(line any) }

func (f findings) print(out printer, c inspectCmd, pid int) {
	out.print(directoryLine{"directory", c.Dir, pid})
	if f.checkpoint != nil && f.devices != nil {
		out.print(checkpointLine{"checkpoint", f.checkpoint.LSN(), f.devices.Stored(),
			f.checkpoint.Bytes()})
	}
	if f.log != nil {
		printLog(out, f.log.Survey())
	}
	if f.devices != nil {
		all, online := f.devices.Devices()
		out.print(devicesLine{"devices", all, online, all - online})
		f.printDevices(out, c)
	}
	if f.damage != nil {
		out.print(damaged(f.damage))
	}
}

func printLog(out printer, s wal.Survey) {
	for _, segment := range s.Segments {
		out.print(segmentLine{"segment", segment})
	}
	// An empty slice is [], not null.
	line := logLine{Kind: "log", Next: s.Next, TornBytes: s.TornBytes,
		Prepared: append([]uint64{}, s.Prepared...), Closed: s.Closed, ID: s.ID}
	if s.TornBytes > 0 {
		line.TornOffset = s.Segments[len(s.Segments)-1].Used
	}
	out.print(line)
}

func (f findings) printDevices(out printer, c inspectCmd) {
	left := c.Devices
	one := func(r engine.Device) bool {
		if left == 0 {
			return false
		}
		left--
		out.print(lineOf(r))
		return true
	}
	if c.User != uuid.Nil {
		f.devices.User(c.User, one)
		return
	}
	f.devices.Range(one)
}

func lineOf(r engine.Device) deviceLine {
	status := "offline"
	if r.Status == engine.Online {
		status = "online"
	}
	return deviceLine{"device", r.User.String(), r.Device.String(), status, r.Source,
		r.SentAtMS, r.Seq, r.TTLMS, r.HeartbeatAtMS, r.SeenAtMS, r.UpdatedAtMS, r.LSN}
}

func damaged(err error) damageLine {
	line := damageLine{Kind: "damage", Error: advise(err).Error()}
	var c *wal.CorruptionError
	if errors.As(err, &c) {
		line.Path, line.Segment, line.Offset, line.LSN = c.Path, c.Segment, c.Offset, c.LSN
	}
	var d *checkpoint.DamagedError
	if errors.As(err, &d) {
		line.Path = d.Path
	}
	return line
}

type jsonPrinter struct{ enc *json.Encoder }

func (p jsonPrinter) print(line any) {
	_ = p.enc.Encode(line) // fails when the reader closes the pipe
}

type textPrinter struct{ w io.Writer }

func (p textPrinter) print(line any) {
	say := func(subject, format string, args ...any) {
		fmt.Fprintf(p.w, "%-11s %s\n", subject, fmt.Sprintf(format, args...))
	}
	switch l := line.(type) {
	case directoryLine:
		say("directory", "%s", l.Dir)
		if l.PID != 0 {
			say("server", "process %d works on it: what follows is of this moment", l.PID)
		} else {
			say("server", "none works on it")
		}
	case checkpointLine:
		say("checkpoint", "as of record %d, %d devices, %d bytes", l.LSN, l.Devices, l.Bytes)
	case segmentLine:
		p.segment(say, l)
	case logLine:
		if l.TornBytes > 0 {
			say("torn tail", "%d bytes at offset %d of the last segment: an unfinished write of a crash, "+
				"as far as can be told", l.TornBytes, l.TornOffset)
		}
		closed := ""
		if l.Closed {
			closed = "closed in order; "
		}
		say("log", "%sthe next record is %d; segments prepared and not begun: %d", closed, l.Next,
			len(l.Prepared))
	case devicesLine:
		say("devices", "%d: %d online, %d offline", l.Total, l.Online, l.Offline)
	case deviceLine:
		seen := "never"
		if l.SeenAtMS > 0 {
			seen = utc(l.SeenAtMS)
		}
		say("device", "%s %s %s seq %d, ttl %d ms, source %q, sent %s, stored %s, last seen %s, "+
			"record %d", l.User, l.Device, l.Status, l.Seq, l.TTLMS, l.Source, utc(l.SentAtMS),
			utc(l.UpdatedAtMS), seen, l.LSN)
	case damageLine:
		say("DAMAGE", "%s", l.Error)
	}
}

func (p textPrinter) segment(say func(subject, format string, args ...any), l segmentLine) {
	switch {
	case !l.Read:
		say("segment", "%d: %d bytes, begins with record %d, not read", l.Number, l.Bytes, l.First)
	case l.Records == 0:
		say("segment", "%d: %d of %d bytes, no record yet, the next is %d", l.Number, l.Used,
			l.Bytes, l.First)
	default:
		say("segment", "%d: %d of %d bytes, records %d to %d in %d blocks, "+
			"durable through %d as far as it says",
			l.Number, l.Used, l.Bytes, l.First, l.Last, l.Blocks, l.Durable)
	}
}

func utc(ms uint64) string {
	return time.UnixMilli(int64(ms)).UTC().Format("2006-01-02T15:04:05.000Z")
}
