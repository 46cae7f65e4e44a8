package broadcast

import (
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"rollcall/internal/testwait"
)

// sinkConn is a connection that takes everything and remembers how much: a stream without a socket.
type sinkConn struct{ bytes int64 }

func (c *sinkConn) Attach(Notifier, StreamID) error { return nil }
func (c *sinkConn) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}
func (c *sinkConn) Discard([]byte) (int, bool) { return 0, false }
func (c *sinkConn) Held() int                  { return 0 }
func (c *sinkConn) CloseWrite() error          { return nil }
func (c *sinkConn) Close() error               { return nil }

// maxStreamBytes is what a stream may cost on the heap, its connection and its user included.
const maxStreamBytes = 400

// TestBytesPerStream: what a stream costs at a size that descriptors would not allow.
// ROLLCALL_STREAMS=1000000 is the size that is meant; the default shows the same, but that Go's
// maps and slices grow in steps: at a full million they are anywhere between half and all used.
func TestBytesPerStream(t *testing.T) {
	streams := 50_000
	if given := os.Getenv("ROLLCALL_STREAMS"); given != "" {
		var err error
		if streams, err = strconv.Atoi(given); err != nil {
			t.Fatal(err)
		}
	}
	frame := sinkFrame{text: make([]byte, 259)}
	b := mustNew(t, Options{Codec: frame, MaxStreams: streams, MaxStreamsPerUser: 10,
		QueueBytes: 1 << 30, PendingBytes: 1 << 30, Keepalive: 15 * time.Second, portable: true})
	defer b.Close()
	b.Start(second)
	conns := make([]sinkConn, streams)
	before := liveHeap()
	for i := range conns {
		mustSubscribe(t, b, Subscription{User: userOf(i), Conn: &conns[i], Chunked: true})
	}
	opened := func() bool { return b.Stats().Opened == uint64(streams) }
	testwait.Until(t, "all streams are open", opened)
	// sinkConn takes 8 bytes, a socket 16.
	each := float64(liveHeap()-before)/float64(streams) + 8
	t.Logf("%.0f bytes per stream at %d streams", each, streams)
	if each > maxStreamBytes {
		t.Errorf("a stream takes %.0f bytes of heap, more than %d", each, maxStreamBytes)
	}

	began := time.Now()
	for i := range conns {
		b.Publish(0, userOf(i), uint64(i+1), nil)
		if i%1000 == 999 || i == streams-1 {
			b.Flush(0, uint64(i+1), 0)
		}
	}
	sent := func() bool { return b.Stats().Frames == uint64(streams) }
	testwait.Until(t, "each has its frame", sent)
	nanos := int(time.Since(began)) / streams
	t.Logf("%d ns per frame, one for each of %d streams, without a socket", nanos, streams)
	b.Close()
	for i := range conns {
		if want := int64(len(appendChunk(nil, string(frame.text), true))); conns[i].bytes < want {
			t.Fatalf("stream %d was told %d bytes, want %d", i, conns[i].bytes, want)
		}
	}
}

// sinkFrame is a codec of one frame for everything, and no snapshot.
type sinkFrame struct {
	noUsers
	text []byte
}

func (f sinkFrame) AppendFrame(dst, _ []byte) []byte { return append(dst, f.text...) }

func (f sinkFrame) Ahead(Source, []uuid.UUID)                                  {}
func (f sinkFrame) AppendDevices(dst []uint32, _ Source, _ uuid.UUID) []uint32 { return dst }

func (f sinkFrame) AppendState(
	dst []byte, _ Source, _ uuid.UUID, _ uint32, _, _ uint64,
) (text []byte, newer uint64) {
	return dst, 0
}

// liveHeap is the heap in use after a collection.
func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
