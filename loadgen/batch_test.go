package loadgen

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"rollcall/internal/testseed"
	"rollcall/wire"
)

// TestBatchTemplateMakesLines reads a batch with net/http.
func TestBatchTemplateMakesLines(t *testing.T) {
	rng := testseed.Rand(t)
	tpl := newBatchTemplate("example:80", wire.HeartbeatsPath, "secret", 12*time.Second)
	user, devices := newUUID(rng), []uuid{newUUID(rng), newUUID(rng), newUUID(rng)}
	text := tpl.begin([]byte("before"), len(devices))
	want := ""
	for i, d := range devices {
		text = tpl.line.stamp(text, &user, &d, 1739030400000, 1739030400000007+int64(i))
		want += fmt.Sprintf(
			`{"schema_version":1,"user_id":"%s","device_id":"%s","status":"online",`+
				`"source":"loadgen","sent_at_ms":1739030400000,"seq":%d,"ttl_ms":12000}`+"\n",
			user, d, 1739030400000007+i)
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text[len("before"):])))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil || string(body) != want || req.URL.Path != wire.HeartbeatsPath ||
		req.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("%v %+v\ngot  %s\nwant %s", err, req, body, want)
	}
}

func TestLargestBatchFits(t *testing.T) {
	tpl := newBatchTemplate("example:80", wire.HeartbeatsPath, "secret", 1000*time.Hour)
	if size := maxBatch * len(tpl.line.request); size > wire.MaxBatchBytes {
		t.Errorf("a batch of %d heartbeats has %d bytes, the server takes %d", maxBatch, size,
			wire.MaxBatchBytes)
	}
}

// TestBatchAnswersAreRead: what a list leaves open is sent again, and a list that cannot be true
// says nothing.
func TestBatchAnswersAreRead(t *testing.T) {
	for _, test := range []struct{ body, want string }{
		{`{"accepted":3,"rejected":0,"errors":[]}`, "[{204 0 false} {204 0 false} {204 0 false}]"},
		{`{"accepted":2,"rejected":1,"errors":[{"line":2,"status":409,"last_seq":0}]}`,
			"[{204 0 false} {409 0 true} {204 0 false}]"},
		{`{"accepted":1,"rejected":2,"errors_omitted":1,"errors":[{"line":1,"status":429}]}`,
			"[{429 0 false} {0 0 false} {0 0 false}]"},
		{`{"accepted":1,"rejected":2,"errors_omitted":1,"unavailable_from":2,` +
			`"errors":[{"line":2,"status":503}]}`, "[{0 0 false} {503 0 false} {503 0 false}]"},
		{`{"accepted":3,"rejected":1,"errors":[{"line":2,"status":409}]}`, "wrong"},
		{`{"accepted":2,"rejected":1,"errors":[]}`, "wrong"},
		{`{"accepted":2,"rejected":1,"errors":[{"line":4,"status":409}]}`, "wrong"},
		{`{"accepted":1,"rejected":2,"errors":[{"line":2,"status":409},{"line":2,"status":409}]}`,
			"wrong"},
		{`nonsense`, "wrong"},
	} {
		lines, err := readLines([]byte(test.body), 3)
		got := fmt.Sprint(lines)
		if err != nil {
			if got != "[{0 0 false} {0 0 false} {0 0 false}]" {
				t.Errorf("%s: %s with %v", test.body, got, err)
			}
			got = "wrong"
		}
		if got != test.want {
			t.Errorf("%s: %s, %v, want %s", test.body, got, err, test.want)
		}
	}
	if !allAccepted([]byte(`{"accepted":3,"rejected":0,"errors":[]}`), 3) ||
		allAccepted([]byte(`{"accepted":3,"rejected":0,"errors":[]}`), 4) ||
		allAccepted([]byte(`{"accepted":3,"rejected":01,"errors":[]}`), 3) {
		t.Error("allAccepted")
	}
}
