package loadgen

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"rollcall/wire"
)

// fakeServer is a small presence server that keeps the contract, or breaks it where a test asks.
type fakeServer struct {
	url   string
	fault fault

	mu      sync.Mutex
	devices map[string]map[string]*fakeDevice // by user, device
	streams map[string]map[chan string]bool   // by user
	served  int
	onWay   map[string]int // heartbeats that arrived and are not answered, by device
	overlap int            // heartbeats that arrived while one of their device was on its way
	gaps    int            // accepted heartbeats whose number does not follow the last one

	lsn    int64 // of the last change
	users  map[string]*fakeUser
	lists  map[string]*fakeList // by stream id
	linger time.Duration        // of all lists with view=users
}

// fault is what to do wrong. The zero value is a good server.
type fault struct {
	dropLast    bool // from heartbeat 3 of each device on, keep it and tell no stream
	dropOne     bool // tell no stream of heartbeat 2
	double      bool // tell everything twice
	back        bool // tell of the heartbeat before again
	forget      bool // answer 204 and keep nothing, from heartbeat 2 on
	expireTwice bool
	expireEarly bool
	expireNever bool
	revive      bool // show an expired device online again
	conflict    bool // 409 for heartbeat 2 of each device
	acceptAll   bool // 204 for a stale seq
	invent      bool // frames with a seq from the future
	spaces      bool // frames with a space too many
	noSnapshot  bool // streams begin with what comes next
	forgetSome  bool // snapshots leave out a device
	miscount    bool // answers to batches say that one more was accepted

	delay time.Duration // before each answer
	// gate is called before each heartbeat, outside the lock.
	gate     func(served int)
	list     listFault
	cutEvery int // accept each n-th heartbeat, but cut the connection
	busy     int // 503 to each n-th heartbeat
	// answer is called before everything else, and reports whether it answered.
	answer func(w http.ResponseWriter, r *http.Request) (done bool)
}

type fakeDevice struct {
	beat    fakeBeat
	offline bool
	lsn     int64
	timer   *time.Timer
}

type fakeBeat struct {
	User   string `json:"user_id"`
	Device string `json:"device_id"`
	Status string `json:"status"`
	Source string `json:"source"`
	Sent   int64  `json:"sent_at_ms"`
	Seq    int64  `json:"seq"`
	TTL    int64  `json:"ttl_ms"`
}

func (b *fakeBeat) frame() string {
	return fmt.Sprintf(
		`data: {"schema_version":1,"user_id":"%s","device_id":"%s","status":"%s",`+
			`"source":"%s","sent_at_ms":%d,"seq":%d,"ttl_ms":%d}`+"\n\n",
		b.User, b.Device, b.Status, b.Source, b.Sent, b.Seq, b.TTL)
}

func startFake(t testing.TB, f fault) *fakeServer {
	s := &fakeServer{fault: f, devices: map[string]map[string]*fakeDevice{},
		streams: map[string]map[chan string]bool{}, onWay: map[string]int{},
		users: map[string]*fakeUser{}, lists: map[string]*fakeList{}}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	s.url = server.URL
	return s
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.fault.answer != nil && s.fault.answer(w, r) {
		return
	}
	switch {
	case r.URL.Path == wire.HeartbeatPath && r.Header.Get("Authorization") == "Bearer ingest":
		s.heartbeat(w, r)
	case r.URL.Path == wire.HeartbeatsPath && r.Header.Get("Authorization") == "Bearer ingest" &&
		r.Header.Get("Content-Type") == "application/x-ndjson":
		s.batch(w, r)
	case r.URL.Path == wire.StreamPath &&
		r.Header.Get("Authorization") == "Bearer token-"+r.URL.Query().Get("user_id"):
		s.stream(w, r)
	case strings.HasPrefix(r.URL.Path, wire.ListStreamPath) && r.Method == http.MethodPost:
		s.list(w, r)
	default:
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func (s *fakeServer) heartbeat(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var b fakeBeat
	if err != nil || json.Unmarshal(body, &b) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.served++
	served := s.served
	s.mu.Unlock()
	defer s.arrive(b)()
	if s.fault.gate != nil {
		s.fault.gate(served)
	}
	if s.fault.delay > 0 {
		<-time.After(s.fault.delay)
	}
	if s.fault.busy > 0 && served%s.fault.busy == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	status, last := s.apply(b)
	switch {
	case s.fault.cutEvery > 0 && served%s.fault.cutEvery == 0:
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			c.Close()
		}
	case status == http.StatusConflict:
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":"invalid_payload","details":"Non-monotonic seq","last_seq":%d}`,
			last)
	default:
		w.WriteHeader(status)
	}
}

// arrive notes that a heartbeat is on its way until done is called.
func (s *fakeServer) arrive(b fakeBeat) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onWay[b.Device]++; s.onWay[b.Device] > 1 {
		s.overlap++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.onWay[b.Device]--
	}
}

// batch lists two rejected lines of an answer at most.
func (s *fakeServer) batch(w http.ResponseWriter, r *http.Request) {
	const listed = 2
	var a batchAnswer
	var errors []string
	cut := false
	lines := bufio.NewScanner(r.Body)
	for line := 1; lines.Scan(); line++ {
		var b fakeBeat
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.served++
		served := s.served
		s.mu.Unlock()
		status, last := http.StatusServiceUnavailable, int64(0)
		if s.fault.busy == 0 || served%s.fault.busy > 0 {
			status, last = s.apply(b)
		}
		cut = cut || s.fault.cutEvery > 0 && served%s.fault.cutEvery == 0
		if status == http.StatusNoContent {
			a.Accepted++
			continue
		}
		a.Rejected++
		if len(errors) < listed {
			text := fmt.Sprintf(`{"line":%d,"status":%d`, line, status)
			if status == http.StatusConflict {
				text += fmt.Sprintf(`,"last_seq":%d`, last)
			}
			errors = append(errors, text+"}")
		}
	}
	if cut {
		if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
			c.Close()
		}
		return
	}
	if s.fault.miscount {
		a.Accepted++
	}
	fmt.Fprintf(w, `{"accepted":%d,"rejected":%d,"errors_omitted":%d,"errors":[%s]}`, a.Accepted,
		a.Rejected, a.Rejected-len(errors),
		strings.Join(errors, ","))
}

// apply is the state machine. Heartbeats are numbered by the last three digits of seq: the run's
// base ends with zeros.
func (s *fakeServer) apply(b fakeBeat) (status int, last int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, number := s.fault, b.Seq%1000
	if s.devices[b.User] == nil {
		s.devices[b.User] = map[string]*fakeDevice{}
	}
	d := s.devices[b.User][b.Device]
	if d != nil && b.Seq <= d.beat.Seq && !f.acceptAll || f.conflict && number == 2 {
		return http.StatusConflict, d.beat.Seq
	}
	if f.forget && number >= 2 {
		return http.StatusNoContent, 0
	}
	before, last := b, b.Seq-number
	if d != nil {
		last = d.beat.Seq
	}
	if b.Seq > last+1 {
		s.gaps++
	}
	turned := d == nil || d.offline
	if d == nil {
		d = &fakeDevice{}
		s.devices[b.User][b.Device] = d
	} else {
		before = d.beat
		d.timer.Stop()
	}
	d.beat, d.offline = b, false
	s.lsn++
	d.lsn = s.lsn
	s.beaten(b.User, turned)
	ttl := time.Duration(b.TTL) * time.Millisecond
	if f.expireEarly {
		ttl /= 2
	}
	seq := b.Seq // the timer runs without the lock at first, and b is changed below
	d.timer = time.AfterFunc(ttl, func() { s.expire(d, seq) })
	switch {
	case f.dropLast && number >= 3, f.dropOne && number == 2:
		return http.StatusNoContent, 0
	case f.invent:
		b.Seq += 100
	}
	s.tell(b.User, b.frame())
	if f.double {
		s.tell(b.User, b.frame())
	}
	if f.back && before.Seq < b.Seq {
		s.tell(b.User, before.frame())
	}
	return http.StatusNoContent, 0
}

func (s *fakeServer) expire(d *fakeDevice, seq int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	never := s.fault.expireNever || s.fault.invent // which told of a higher seq
	if d.beat.Seq != seq || d.offline || never {
		return
	}
	d.offline = true
	online := d.beat
	d.beat.Status, d.beat.Sent = "offline", time.Now().UnixMilli()
	s.lsn++
	d.lsn = s.lsn
	s.lapsed(d.beat.User)
	s.tell(d.beat.User, d.beat.frame())
	if s.fault.expireTwice {
		s.tell(d.beat.User, d.beat.frame())
	}
	if s.fault.revive {
		s.tell(d.beat.User, online.frame())
	}
}

// tell is called with mu held.
func (s *fakeServer) tell(user, text string) {
	if s.fault.spaces {
		text = strings.Replace(text, `"seq":`, `"seq": `, 1)
	}
	for c := range s.streams[user] {
		c <- text
	}
	s.tellLists(user, text)
}

func (s *fakeServer) stream(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user_id")
	events := make(chan string, 1<<16)
	s.mu.Lock()
	left := s.fault.forgetSome
	for _, d := range s.devices[user] {
		if left {
			left = false
			continue
		}
		if !s.fault.noSnapshot {
			events <- d.beat.frame()
		}
	}
	if s.streams[user] == nil {
		s.streams[user] = map[chan string]bool{}
	}
	s.streams[user][events] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.streams[user], events)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	flush := w.(http.Flusher)
	flush.Flush()
	for {
		select {
		case text := <-events:
			if _, err := io.WriteString(w, ": keepalive\n"+text); err != nil {
				return
			}
			for n := len(events); n > 0; n-- {
				io.WriteString(w, <-events)
			}
			flush.Flush()
		case <-r.Context().Done():
			return
		}
	}
}
