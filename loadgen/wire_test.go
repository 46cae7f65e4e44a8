package loadgen

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"
	"time"

	"rollcall/internal/testseed"
	"rollcall/wire"
)

// TestTemplateMakesAHeartbeat reads a stamped request with net/http and encoding/json.
func TestTemplateMakesAHeartbeat(t *testing.T) {
	rng := testseed.Rand(t)
	tpl := newTemplate("example:80", wire.HeartbeatPath, "secret", 12*time.Second)
	user, device := newUUID(rng), newUUID(rng)
	sent, seq := time.Now().UnixMilli(), time.Now().UnixMilli()*1000+7
	text := tpl.stamp([]byte("before"), &user, &device, sent, seq)
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text[len("before"):])))
	if err != nil {
		t.Fatal(err)
	}
	if req.Method != "POST" || req.URL.Path != wire.HeartbeatPath || req.Host != "example:80" ||
		req.Header.Get("Authorization") != "Bearer secret" {
		t.Errorf("%+v", req)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(
		`{"schema_version":1,"user_id":"%s","device_id":"%s","status":"online",`+
			`"source":"loadgen","sent_at_ms":%d,"seq":%d,"ttl_ms":12000}`,
		user, device, sent, seq)
	if string(body) != want || !json.Valid(body) {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}

func TestAnswersAreParsedAtEveryCut(t *testing.T) {
	conflict := "HTTP/1.1 409 Conflict\r\nServer: x\r\ncontent-length: 16\r\nConnection: " +
		"close\r\n\r\n{\"last_seq\":123}"
	whole := "HTTP/1.1 204 No Content\r\nDate: today\r\n\r\n" + conflict
	for cut := range len(whole) + 1 {
		var got []string
		var buf []byte
		for _, part := range []string{whole[:cut], whole[cut:]} {
			buf = append(buf, part...)
			for len(buf) > 0 {
				a, n, err := parseResponse(buf)
				if err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				if n == 0 {
					break
				}
				got = append(got, fmt.Sprint(a.status, string(a.body), a.last))
				buf = buf[n:]
			}
		}
		if strings.Join(got, ";") != "204false;409{\"last_seq\":123}true" &&
			strings.Join(got, ";") != "204 false;409 {\"last_seq\":123} true" {
			t.Fatalf("cut at %d: %q", cut, got)
		}
	}
	if seq, ok := lastSeq([]byte(`{"last_seq":123}`)); !ok || seq != 123 {
		t.Error(seq, ok)
	}
	for _, bad := range []string{"HTTP/2 204 No\r\n\r\n", "garbage that is long enough\r\n\r\n",
		"HTTP/1.1 2x4 No Content\r\n\r\n",
		"HTTP/1.1 400 Bad\r\nContent-Length: -1\r\n\r\n"} {
		if _, _, err := parseResponse([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// TestChunksAreDecodedAtEveryCut compares with the standard library's writer and any two cuts.
func TestChunksAreDecodedAtEveryCut(t *testing.T) {
	rng := testseed.Rand(t)
	for range 50 {
		var body, plain bytes.Buffer
		w := httputil.NewChunkedWriter(&body)
		for range rng.IntN(4) {
			piece := bytes.Repeat([]byte{byte('a' + rng.IntN(26))}, 1+rng.IntN(40))
			plain.Write(piece)
			if _, err := w.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		body.WriteString("\r\n")
		for cut := range body.Len() {
			var c chunked
			var got []byte
			ended := false
			for _, part := range [][]byte{body.Bytes()[:cut], body.Bytes()[cut:]} {
				data, end, err := c.decode(bytes.Clone(part))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, data...)
				ended = ended || end
			}
			if !bytes.Equal(got, plain.Bytes()) || !ended {
				t.Fatalf("cut at %d of %q: %q, ended %t", cut, body.String(), got, ended)
			}
		}
	}
}

func FuzzChunks(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 3)
	f.Add([]byte("ffffffffffffffff\r\n"), 1)
	f.Fuzz(func(t *testing.T, body []byte, cut int) {
		cut = max(0, min(cut, len(body)))
		var whole, parts chunked
		a, endA, errA := whole.decode(bytes.Clone(body))
		b, endB, errB := parts.decode(bytes.Clone(body[:cut]))
		if errB == nil && !endB {
			var more []byte
			more, endB, errB = parts.decode(bytes.Clone(body[cut:]))
			b = append(b, more...)
		}
		if (errA == nil) != (errB == nil) || errA == nil && (!bytes.Equal(a, b) || endA != endB) {
			t.Errorf("whole: %q %t %v; in two: %q %t %v", a, endA, errA, b, endB, errB)
		}
	})
}

// TestFramesAreReadByPosition: what is not the contract's to the byte is no frame (G5).
func TestFramesAreReadByPosition(t *testing.T) {
	const user, device = "6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01",
		"b3c1d2e4-8f9a-4b6c-a7d8-1e2f0000002a"
	prefix, suffix := framePrefix(user), frameSuffix(12000)
	good := `data: {"schema_version":1,"user_id":"` + user + `","device_id":"` + device +
		`","status":"offline","source":"loadgen",` +
		`"sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000}`
	f, ok := parseFrame([]byte(good), prefix, suffix)
	if !ok || string(f.device) != device || !f.offline || f.sentMS != 1739030400000 || f.seq != 42 {
		t.Fatalf("%+v %t", f, ok)
	}
	if i, ok := indexIn(f.device); !ok || i != 42 {
		t.Error(i, ok)
	}
	for _, change := range [][2]string{{`"seq":42`, `"seq":4.2`}, {`"seq":42`, `"seq": 42`},
		{"offline", "away"}, {"12000}", "12001}"},
		{"12000}", "12000} "}, {"loadgen", "other"}, {"6a0f", "6a0e"}, {"data: ", "data:"}} {
		if _, ok := parseFrame([]byte(strings.Replace(good, change[0], change[1], 1)), prefix,
			suffix); ok {
			t.Errorf("%v was taken", change)
		}
	}
	for cut := range good { // and no prefix of it is a frame, or out of bounds
		if _, ok := parseFrame([]byte(good[:cut]), prefix, suffix); ok {
			t.Errorf("%q was taken", good[:cut])
		}
	}
}

// BenchmarkStreamRead is the cost of a frame once its bytes are read: chunks, position, oracle,
// histogram.
func BenchmarkStreamRead(b *testing.B) {
	for _, perRead := range []int{1, 8} {
		b.Run(fmt.Sprintf("frames=%d", perRead), func(b *testing.B) {
			w, s := benchWatch()
			d := &w.crowd.devices[0]
			const rounds = 512
			var reads [rounds][]byte
			for i := range reads {
				var frames []byte
				for range perRead {
					d.sent++
					frames = append(frames, frameText(w, d.id, d.sent)...)
				}
				reads[i] = chunkOf(frames)
			}
			buf := make([]byte, len(reads[rounds-1]))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if i%rounds == 0 {
					s.shown[0].number = 0
				}
				s.receive(buf[:copy(buf, reads[i%rounds])])
				i++
			}
			b.ReportMetric(float64(w.oracle.checked.Frames)/b.Elapsed().Seconds(), "frames/s")
			if !w.oracle.clean() {
				b.Fatal(w.oracle.examples)
			}
		})
	}
}

func frameText(w *worker, device uuid, n uint32) string {
	return fmt.Sprintf("%s%s\",\"status\":\"online\",\"source\":\"loadgen\","+
		"\"sent_at_ms\":1739030400000,\"seq\":%d%s\n\n",
		framePrefix(w.crowd.users[0].text), device, w.run.seq(n), w.streams.suffix)
}

func chunkOf(data []byte) []byte { return fmt.Appendf(nil, "%x\r\n%s\r\n", len(data), data) }

func benchWatch() (*worker, *watch) {
	o := &Options{DevicesPerUser: 1, Rate: 1, TTL: time.Hour, Grace: time.Second}
	r := &runner{o: o, orders: &orders{seqBase: 1739030400000000}, plan: []phase{{end: never}}}
	w := newWorker(r, 0, nil, []target{{}})
	w.crowd.add(o, w.rng, 1)
	w.follow(1)
	w.crowd.users[0].prefix = framePrefix(w.crowd.users[0].text)
	s := w.streams.watches[0]
	s.state, s.owed = watchLive, -1
	s.shown[0].flags = shownBefore
	return w, s
}

// BenchmarkStamp is the cost of making a request.
func BenchmarkStamp(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	tpl := newTemplate("example:80", wire.HeartbeatPath, "secret", 12*time.Second)
	user, device := newUUID(rng), newUUID(rng)
	var dst []byte
	b.ReportAllocs()
	for i := range b.N {
		dst = tpl.stamp(dst[:0], &user, &device, 1739030400000, 1739030400000000+int64(i))
	}
}
