package watch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/record"
)

func someUser(n byte) uuid.UUID { return uuid.UUID{0: 1, 15: n} }

// someRecord is a record of a device.
func someRecord(user uuid.UUID, device byte, seq uint64) []byte {
	s := record.State{
		Seq: seq, Online: true, UpdatedAtMS: 1000 + seq, SeenAtMS: 1000 + seq, TTLMS: 9,
	}
	return record.AppendUser(nil, user, uuid.UUID{15: device}, &s, []byte("test"),
		&record.User{Online: 1, SeenAtMS: 1})
}

// someMessages are one of each kind, as hub and edge make them.
func someMessages() map[string][]byte {
	user := someUser(1)
	h := head{partition: 7, epoch: 1 << 40}
	kind := func(k byte) head { h.kind = k; return h }
	watch := append(appendHead(nil, kind(kindWatch)), 9, 0, 0, 0, 0, 0, 0, 0)
	watch = append(watch, user[:]...)
	unwatch := append(appendHead(nil, kind(kindUnwatch)), user[:]...)
	blank := make([]byte, numberedBytes-headBytes)
	snapshot := append(appendHead(nil, kind(kindSnapshot)), blank...)
	numbered{number: 3, through: 4, word: 9}.put(snapshot)
	snapshot = appendPart(snapshot, &part{
		user: user, told: engine.Told{SeenAtMS: 5, ChangedAtMS: 6}, until: 8, flags: flagMore,
		states: appendState(appendState(nil, someRecord(user, 1, 2)), someRecord(user, 2, 3)),
	})
	snapshot = appendPart(snapshot, &part{user: someUser(2)})
	delta := append(appendHead(nil, kind(kindDelta)), blank...)
	numbered{number: 4, through: 5, word: noAge}.put(delta)
	delta = appendState(delta, someRecord(user, 1, 4))
	return map[string][]byte{
		"watch": watch, "unwatch": unwatch, "snapshot": snapshot, "delta": delta,
	}
}

// TestGolden fixes the bytes of messages, which nodes of other versions read, see
// docs/cluster-formats.md. TestMessages reads them.
func TestGolden(t *testing.T) {
	const (
		user    = "01000000000000000000000000000001"
		number3 = "03000000000000000400000000000000" + "0900000000000000"
		number4 = "04000000000000000500000000000000" + "ffffffffffffffff"
	)
	rec := func(device, seq, at string) string { // docs/wal-format.md
		return "6400" + "03010401" + user + "000000000000000000000000000000" + device + seq +
			"0000000000000000" + "0000000000000000" + "0900000000000000" + at + at +
			"0100000000000000" + "01000000" + hex.EncodeToString([]byte("test"))
	}
	m := someMessages()
	for name, want := range map[string]string{
		"watch":   "01010700" + "0000000000010000" + "0900000000000000" + user,
		"unwatch": "01020700" + "0000000000010000" + user,
		"snapshot": "01030700" + "0000000000010000" + number3 +
			user + "01" + "0500000000000000" + "0600000000000000" + "0800000000000000" + "cc000000" +
			rec("01", "0200000000000000", "ea03000000000000") +
			rec("02", "0300000000000000", "eb03000000000000") +
			"01000000000000000000000000000002" + "00" + "0000000000000000" + "0000000000000000" +
			"0000000000000000" + "00000000",
		"delta": "01040700" + "0000000000010000" + number4 +
			rec("01", "0400000000000000", "ec03000000000000"),
	} {
		if got := hex.EncodeToString(m[name]); got != want {
			t.Errorf("%s: %s\nwant %s", name, got, want)
		}
	}
}

func TestMessages(t *testing.T) {
	m := someMessages()
	for name, data := range m {
		if p, ok := Ours(data); !ok || p != 7 {
			t.Errorf("%s is of partition %d, %v", name, p, ok)
		}
		if err := readAny(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		newer := bytes.Clone(data)
		newer[0]++
		if err := readAny(newer); !errors.Is(err, errFormat) {
			t.Errorf("%s of the next format: %v", name, err)
		}
		for n := range data {
			if n >= headBytes && name == "unwatch" || n == headBytes+8 && name == "watch" ||
				n == numberedBytes && (name == "snapshot" || name == "delta") {
				continue // as good with no user
			}
			if err := readAny(data[:n]); err == nil && n != len(data)-partBytes {
				t.Errorf("%s of %d bytes is taken", name, n)
			}
		}
	}
	if _, ok := Ours([]byte(`{"node":"n1"}  `)); ok {
		t.Error("a pulse is taken for one of ours")
	}
	h, rest, err := cutHead(m["snapshot"])
	n, rest, nErr := cutNumbered(rest)
	parts, pErr := cutParts(nil, rest)
	if err = errors.Join(err, nErr, pErr); err != nil || h.epoch != 1<<40 || n.number != 3 ||
		n.through != 4 || n.word != 9 || len(parts) != 2 || parts[0].until != 8 ||
		parts[0].told != (engine.Told{SeenAtMS: 5, ChangedAtMS: 6}) || parts[0].flags != flagMore ||
		parts[1].user != someUser(2) || len(parts[1].states) != 0 {
		t.Errorf("read back: %+v %+v %+v, %v", h, n, parts, err)
	}
}

// readAny reads a message as its receiver does.
func readAny(data []byte) error {
	h, rest, err := cutHead(data)
	if err != nil {
		return err
	}
	switch h.kind {
	case kindWatch:
		_, _, err = cutWatch(rest)
		return err
	case kindUnwatch:
		_, err = cutUsers(rest)
		return err
	}
	_, rest, err = cutNumbered(rest)
	if err == nil && h.kind == kindSnapshot {
		_, err = cutParts(nil, rest)
	} else if err == nil {
		_, err = cutStates(nil, rest)
	}
	return err
}

// TestForeignStates: a SNAPSHOT cannot tell of a user what belongs to another.
func TestForeignStates(t *testing.T) {
	for name, p := range map[string]part{
		"another user": {user: someUser(3), states: appendState(nil, someRecord(someUser(1), 1, 2))},
		"a forgotten device": {user: someUser(1), states: appendState(nil,
			record.AppendForget(nil, record.View(someRecord(someUser(1), 1, 2))))},
		"unknown flags": {user: someUser(1), flags: 4},
		"no record":     {user: someUser(1), states: []byte{2, 0, 1, 1}},
	} {
		if _, err := cutParts(nil, appendPart(nil, &p)); !errors.Is(err, errMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzMessages(f *testing.F) {
	for _, data := range someMessages() {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		Ours(data)
		if readAny(data) != nil {
			return
		}
		h, rest, _ := cutHead(data)
		if h.kind != kindSnapshot {
			return
		}
		n, rest, _ := cutNumbered(rest)
		parts, _ := cutParts(nil, rest)
		again := append(appendHead(nil, h), make([]byte, numberedBytes-headBytes)...)
		n.put(again)
		for i := range parts {
			again = appendPart(again, &parts[i])
		}
		if !bytes.Equal(again, data) {
			t.Errorf("%x is written as %x", data, again)
		}
	})
}
