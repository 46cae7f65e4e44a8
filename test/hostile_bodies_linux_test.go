package test

import (
	"bytes"
	"compress/gzip"
	endian "encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// bodyAttacks are what holders of an ingest token send.
func bodyAttacks() []attack {
	return []attack{
		{name: "4 MiB of line ends in 134 bytes of zstd", crowd: 64, do: sendsPacked("zstd",
			func() string { return string(zstdRun('\n', 4<<20)) })},
		{name: "4 MiB of line ends in 4 kB of gzip", crowd: 64, do: sendsPacked("gzip",
			func() string { return gzipped(strings.Repeat("\n", 4<<20)) })},
		{name: "4 MiB of spaces in 4 kB of gzip", crowd: 64, do: sendsPacked("gzip",
			func() string { return gzipped(strings.Repeat(" ", 4<<20)) })},
		{name: "10,000 equal heartbeats in 15 kB of gzip", crowd: 64, do: sendsPacked("gzip",
			func() string { return gzipped(strings.Repeat(newBeat().json()+"\n", 10_000)) })},
		{name: "64 gzip bodies that stall", crowd: 64, do: (*attackers).stallBodies,
			probe: (*hostile).packedBatch},
		{name: "4 MiB of line ends as they are", crowd: 4, fills: true, do: sends(0,
			func() string { return batch(strings.Repeat("\n", 4<<20)) })},
		{name: "10,000 bad lines a batch", crowd: 4, fills: true, do: sends(0,
			func() string { return batch(strings.Repeat("{}\n", 10_000)) })},
		{name: "4 MiB of brackets", crowd: 4, fills: true, do: sends(0, func() string {
			return batch(strings.Repeat("[", 4<<20), "Content-Type: application/json")
		})},
		{name: "one line of 4 MiB", crowd: 4, fills: true, do: sends(0,
			func() string { return batch(strings.Repeat(" ", 4<<20)) })},
		{name: "four busy batch connections", crowd: 4, fills: true, do: (*attackers).sendBatches,
			setup: func(h *hostile) { h.knows(4, 600_000) }},
		{name: "single heartbeats of 16 KiB nested JSON", crowd: 8, fills: true, do: sends(0,
			func() string {
				return request("POST", heartbeatPath, `{"x":`+strings.Repeat("[", 16000),
					bearer(ingestToken))
			})},
		{name: "bodies a byte at a time", crowd: 200, do: (*attackers).dripBodies},
	}
}

// sends is an attack that sends one request over and over, which is made when it begins.
func sends(every time.Duration, text func() string) func(*attackers, int) {
	text = sync.OnceValue(text)
	return func(a *attackers, _ int) { a.ask(a.Addr, every, text) }
}

// sendsPacked is an attack that sends one packed batch 40 times a second.
func sendsPacked(coding string, packed func() string) func(*attackers, int) {
	return sends(time.Second/40, func() string {
		return batch(packed(), "Content-Encoding: "+coding)
	})
}

func gzipped(text string) string {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic(err)
	}
	io.WriteString(w, text)
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

// zstdRun is n times one byte as Zstandard, in blocks of a run each (RFC 8878, section 3.1.1).
func zstdRun(b byte, n int) []byte {
	const largest, window128KiB = 128 << 10, 7 << 3
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, window128KiB}
	for n > 0 {
		size := min(n, largest)
		n -= size
		header := uint32(size)<<3 | 1<<1
		if n == 0 {
			header |= 1 // the last
		}
		frame = append(endian.LittleEndian.AppendUint32(frame, header)[:len(frame)+3], b)
	}
	return frame
}

// sendBatches sends the largest legal batches of known devices, each heartbeat a new one.
func (a *attackers) sendBatches(i int) { a.resend(knownBatch("", i, 600_000)) }

// resend sends a batch over and over, with a new seq each time.
func (a *attackers) resend(b *growingBatch) {
	b.seq = time.Now().UnixMicro() // above those of the time before, and of 16 digits
	a.ask(a.Addr, 0, b.next)
}

// growingBatch is a batch of known devices, whose seq grows with each request.
type growingBatch struct {
	text     []byte // lines of one length, so that a further batch is the same but for seq
	line, at int    // length of a line; where seq is in it
	seq      int64
}

// knownBatch is of 10,000 devices of a user, the same for the same number; without a user each has
// its own.
func knownBatch(user string, number int, ttl int64) *growingBatch {
	const devices = 10_000
	b := &growingBatch{seq: 1e15}
	rng := rand.New(rand.NewPCG(1, uint64(number)))
	for range devices {
		device, of := randomUUID(rng), user
		if of == "" {
			of = device
		}
		b.text = append(b.text, heartbeatLine(of, device, "online", "batch", b.seq, ttl)...)
	}
	b.line = len(b.text) / devices
	b.at = bytes.Index(b.text, []byte(`"seq":`)) + len(`"seq":`)
	return b
}

func (b *growingBatch) next() string {
	b.seq++
	now := strconv.FormatInt(b.seq, 10)
	for at := b.at; at < len(b.text); at += b.line {
		copy(b.text[at:], now)
	}
	return batch(string(b.text))
}

// knows lets the server know the devices of so many batches.
func (h *hostile) knows(batches int, ttl int64) {
	for i := range batches {
		h.mustTake(knownBatch("", i, ttl).next())
	}
}

// randomUUID is a random UUID of version 4 from a generator.
func randomUUID(rng *rand.Rand) string {
	var id uuid.UUID
	endian.LittleEndian.PutUint64(id[:8], rng.Uint64())
	endian.LittleEndian.PutUint64(id[8:], rng.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id.String()
}

// stallBodies sends most of a packed batch, and no more.
func (a *attackers) stallBodies(int) {
	for a.pause(0) {
		if c := a.dial(a.Addr); c != nil {
			release := a.held(c)
			io.WriteString(c, unfinishedBatch())
			io.Copy(io.Discard, c) // until the server has enough of it
			a.refused.Add(1)
			release()
		}
	}
}

// unfinishedBatch is 20 kB of a packed batch, and announces more.
var unfinishedBatch = sync.OnceValue(func() string {
	var lines strings.Builder
	for range 1000 {
		id := uuid.NewString()
		lines.WriteString(heartbeatLine(id, id, "online", "stalls", 1, 600_000))
	}
	return batch(gzipped(lines.String()), "Content-Encoding: gzip")[:20_000]
})

// dripBodies sends the body of a heartbeat a byte at a time.
func (a *attackers) dripBodies(int) {
	text := request("POST", heartbeatPath, newBeat().json(), bearer(ingestToken))
	a.drip(text[:len(text)-1], strings.Index(text, "\r\n\r\n")+4)
}

// drip sends a text's beginning at once and the rest a byte at a time.
func (a *attackers) drip(text string, begin int) {
	for a.pause(0) {
		c := a.dial(a.Addr)
		if c == nil {
			continue
		}
		io.WriteString(c, text[:begin])
		for i := begin; i < len(text) && a.pause(20*time.Millisecond); i++ {
			if _, err := io.WriteString(c, text[i:i+1]); err != nil {
				break // the server has had enough
			}
			a.done.Add(1)
		}
		c.Close()
	}
}

// packedBatch is what others send: a small packed batch, which has to be answered 200.
func (h *hostile) packedBatch() error {
	id := uuid.NewString()
	return h.wants(200, batch(gzipped(heartbeatLine(id, id, "offline", "packed", 1, 1000)),
		"Content-Encoding: gzip"))
}

// wants sends a request on a new connection, as one who does not belong to the attackers.
func (h *hostile) wants(status int, text string) error {
	resp, err := h.ask(text)
	if err == nil && resp.StatusCode != status {
		err = fmt.Errorf("answered %d, want %d", resp.StatusCode, status)
	}
	return err
}
