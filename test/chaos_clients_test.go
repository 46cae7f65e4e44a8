package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// chaosCrowd is the daemons and the clients of a chaos run. Each heartbeat, query and stream goes
// to any node.
type chaosCrowd struct {
	ledger  *chaosLedger
	nodes   []string // addresses, which do not change
	admins  []string // likewise
	users   []string
	streams []*chaosStream
	posts   *http.Client
	quiet   chan struct{} // closed: daemons end
	once    sync.Once     // closes it
	over    chan struct{} // closed: streams end
	daemons sync.WaitGroup
	readers sync.WaitGroup

	moods sync.Mutex
	mood  chaosMood     // of the witnesses; guarded by moods
	moved chan struct{} // closed when it changes; guarded by moods
}

// chaosMood is what the witnesses do: the second device of most users. They send without a pause
// right before a fault and nothing from then on, not even what was not answered, until all is well
// and was looked at. What they were acknowledged last no later heartbeat can hide.
type chaosMood int

const (
	calm chaosMood = iota
	hurried
	mute
)

func (c *chaosCrowd) become(mood chaosMood) {
	c.moods.Lock()
	defer c.moods.Unlock()
	c.mood = mood
	close(c.moved)
	c.moved = make(chan struct{})
}

// mayTry waits before a try of a device, and reports whether the daemons go on.
func (c *chaosCrowd) mayTry(d *chaosDevice, pause time.Duration) bool {
	if !d.witness() {
		return c.rest(pause)
	}
	for due := time.After(pause); ; {
		c.moods.Lock()
		mood, moved := c.mood, c.moved
		c.moods.Unlock()
		switch {
		case mood == hurried:
			return c.rest(0)
		case mood == mute:
			due = nil
		case due == nil:
			due = time.After(0)
		}
		select {
		case <-c.quiet:
			return false
		case <-moved:
		case <-due:
			return true
		}
	}
}

const (
	chaosUsers   = 24
	chaosDevices = 2
	// chaosInBatches is how many users' heartbeats come from a gateway.
	chaosInBatches = 6
	// chaosTimeout is when a client gives up on an answer and tries another node.
	chaosTimeout = 3 * time.Second
	// chaosPause is the mean time between two heartbeats of a device.
	chaosPause = 300 * time.Millisecond
	// chaosVisit is how long a client waits that wants to know how a user is.
	chaosVisit = 300 * time.Millisecond
	// chaosSilence is how long a stream may say nothing until its client goes elsewhere. The
	// servers send a comment each second.
	chaosSilence = 6 * time.Second
)

// chaosTTLs are the ttls of devices: the first one runs out in many a fault.
var chaosTTLs = []time.Duration{4 * time.Second, 8 * time.Second, 30 * time.Second}

func newChaosCrowd(nodes, admins []string) *chaosCrowd {
	return &chaosCrowd{ledger: newChaosLedger(), nodes: nodes, admins: admins,
		quiet: make(chan struct{}), over: make(chan struct{}), moved: make(chan struct{}),
		posts: &http.Client{Timeout: chaosTimeout, Transport: &http.Transport{
			MaxIdleConnsPerHost: chaosUsers * chaosDevices,
			DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext}}}
}

// begin starts everything, with chance from the seed.
func (c *chaosCrowd) begin(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	id := func() string {
		var u uuid.UUID
		for i := range u {
			u[i] = byte(rng.Uint32())
		}
		u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
		return u.String()
	}
	gateway := &chaosGateway{crowd: c, rng: rand.New(rand.NewPCG(seed, 3))}
	for n := range chaosUsers {
		user := id()
		c.users = append(c.users, user)
		for range chaosDevices {
			d := c.ledger.add(user, id())
			if n < chaosInBatches {
				gateway.lines = append(gateway.lines, &chaosLine{device: d})
				continue
			}
			own := rand.New(rand.NewPCG(seed, rng.Uint64()))
			c.daemons.Go(func() { c.daemon(d, own) })
		}
	}
	c.daemons.Go(gateway.run)
	for _, user := range c.users {
		c.follow(&chaosStream{users: []string{user}, node: -1}, seed)
	}
	for node := range c.nodes {
		c.follow(&chaosStream{users: c.users, node: node, list: "devices"}, seed)
		c.follow(&chaosStream{users: c.users, node: node, list: "users"}, seed)
		visitor := rand.New(rand.NewPCG(seed, uint64(1000+node)))
		c.readers.Go(func() { c.visit(node, visitor) })
		inquirer := rand.New(rand.NewPCG(seed, uint64(2000+node)))
		c.daemons.Go(func() { c.inquire(node, inquirer) })
	}
	reader := rand.New(rand.NewPCG(seed, 2))
	c.daemons.Go(func() { c.ask(reader) })
}

// hush lets the daemons end.
func (c *chaosCrowd) hush() {
	c.once.Do(func() { close(c.quiet) })
	c.daemons.Wait()
}

// end ends everything.
func (c *chaosCrowd) end() {
	c.hush()
	close(c.over)
	c.readers.Wait()
}

func (c *chaosCrowd) follow(s *chaosStream, seed uint64) {
	s.crowd = c
	s.rng = rand.New(rand.NewPCG(seed, uint64(4+len(c.streams))))
	c.streams = append(c.streams, s)
	c.readers.Go(s.run)
}

// rest waits, and reports whether the daemons go on.
func (c *chaosCrowd) rest(d time.Duration) bool {
	select {
	case <-c.quiet:
		return false
	case <-time.After(d):
		return true
	}
}

// daemon sends heartbeats. Now and then it is silent until it must be offline, or says that it is.
func (c *chaosCrowd) daemon(d *chaosDevice, rng *rand.Rand) {
	ttl := chaosTTLs[rng.IntN(len(chaosTTLs))]
	for seq := int64(1); ; seq++ {
		pause := chaosPause/2 + time.Duration(rng.Int64N(int64(chaosPause)))
		if ttl < 10*time.Second && rng.IntN(60) == 0 {
			pause = ttl + 2*time.Second
		}
		if !c.mayTry(d, pause) {
			return
		}
		b := chaosBeat{status: "online", sentMS: time.Now().UnixMilli(), ttl: ttl}
		if rng.IntN(25) == 0 {
			b.status = "offline"
		}
		if !c.send(d, seq, b, rng) {
			return
		}
	}
}

// send tries until the heartbeat is known to be accepted; false: the run ended before.
func (c *chaosCrowd) send(d *chaosDevice, seq int64, b chaosBeat, rng *rand.Rand) bool {
	body := d.body(seq, b)
	for {
		written := c.ledger.now()
		c.ledger.written(d, seq, b, written)
		status, answer, err := c.post(rng.IntN(len(c.nodes)), heartbeatPath, body, ingestToken)
		now := c.ledger.now()
		switch {
		case err != nil:
			c.ledger.count("cut, timed out or not connected", 1)
		case status == 204:
			c.ledger.accepted(d, seq, written, now)
			return true
		case status == 409:
			var told struct {
				Last int64 `json:"last_seq"`
			}
			if err := json.Unmarshal(answer, &told); err != nil {
				c.ledger.found(ruleWire, "409 %q: %v", answer, err)
			}
			// One that was refused wrongly ends the daemon: its seqs mean nothing any more.
			return c.ledger.conflict(d, seq, told.Last, written, now)
		case status == 503:
			c.ledger.count("503", 1)
		default:
			c.ledger.found(ruleWire, "a heartbeat is answered %d %q", status, answer)
		}
		if !c.mayTry(d, time.Duration(30+rng.IntN(30))*time.Millisecond) {
			return false
		}
	}
}

// body is a heartbeat of the device.
func (d *chaosDevice) body(seq int64, b chaosBeat) string {
	return fmt.Sprintf(`{"schema_version":1,"user_id":"%s","device_id":"%s","status":"%s",`+
		`"source":"chaos","sent_at_ms":%d,"seq":%d,"ttl_ms":%d}`, d.user.id, d.id, b.status,
		b.sentMS, seq, b.ttl.Milliseconds())
}

func (c *chaosCrowd) post(node int, path, body, token string) (status int, answer []byte,
	err error) {
	req, err := http.NewRequest("POST", "http://"+c.nodes[node]+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.posts.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// ask asks any node for some users, again and again.
func (c *chaosCrowd) ask(rng *rand.Rand) {
	for c.rest(50 * time.Millisecond) {
		from := rng.IntN(len(c.users) - 3)
		node := rng.IntN(len(c.nodes))
		if rng.IntN(4) == 0 {
			c.debug(node, c.users[from])
		} else {
			c.query(node, c.users[from:from+3], false)
		}
	}
}

// debug asks a node's operators' route for a user. A node that cannot know has another answer.
func (c *chaosCrowd) debug(node int, user string) {
	begun := c.ledger.now()
	resp, err := c.posts.Get("http://" + c.admins[node] + "/debug/presence?user_id=" + user)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	var told struct {
		Records map[string]chaosState `json:"records"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&told); err != nil || resp.StatusCode != 200 {
		return
	}
	states := slices.Collect(maps.Values(told.Records))
	c.ledger.read([]string{user}, states, begun, c.ledger.now(), false,
		fmt.Sprintf("/debug/presence of node %d", node+1))
}

// chaosUserState is a user as a query or a list with view=users shows it.
type chaosUserState struct {
	User   string `json:"user_id"`
	Status string `json:"status"`
	Online int    `json:"devices_online"`
}

// query asks a node. The ledger judges the answer; nil: there was none.
func (c *chaosCrowd) query(node int, users []string, last bool) (states []chaosState,
	totals []chaosUserState) {
	list, _ := json.Marshal(map[string]any{"user_ids": users})
	begun := c.ledger.now()
	status, answer, err := c.post(node, "/api/v1/presence/query", string(list), anyToken)
	if err != nil || status == 503 {
		c.ledger.count("queries without an answer", 1)
		return nil, nil
	}
	var told struct {
		Users []struct {
			chaosUserState
			Devices []chaosState `json:"devices"`
		} `json:"users"`
	}
	if err := json.Unmarshal(answer, &told); status != 200 || err != nil {
		c.ledger.found(ruleWire, "a query is answered %d %q", status, answer)
		return nil, nil
	}
	for _, u := range told.Users {
		totals = append(totals, u.chaosUserState)
		states = append(states, u.Devices...)
	}
	where := fmt.Sprintf("a query of node %d", node+1)
	c.ledger.read(users, states, begun, c.ledger.now(), last, where)
	return states, totals
}

// anyToken reads every user, for an hour.
var anyToken = func() string {
	payload, _ := json.Marshal(map[string]any{"token_id": "chaos", "user_id": uuid.NewString(),
		"device_id": uuid.NewString(), "scope": []string{"presence:read:any"},
		"exp_ms": time.Now().Add(6 * time.Hour).UnixMilli(), "issued_at_ms": time.Now().UnixMilli()})
	return signPayload(signingKey, payload)
}()

// inquire asks one node for one user after the other: a node that is cut off cannot answer for
// users of several owners, and must not answer for those that it owned.
func (c *chaosCrowd) inquire(node int, rng *rand.Rand) {
	for c.rest(50 * time.Millisecond) {
		user := rng.IntN(len(c.users))
		c.query(node, c.users[user:user+1], false)
	}
}

// visit opens streams of users at a node, one after the other, for what they begin with: those that
// stay say nothing of a node that lets them go on and knows nothing new.
func (c *chaosCrowd) visit(node int, rng *rand.Rand) {
	for {
		user := rng.IntN(len(c.users))
		s := &chaosStream{crowd: c, users: c.users[user : user+1], node: node, list: "devices",
			visits: true}
		s.once()
		c.ledger.count("visits", 1)
		select {
		case <-c.over:
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// chaosStream is a client that follows users, and connects again whenever its stream ends: one of a
// single user to any node, a list to its own one, with its cursor.
type chaosStream struct {
	crowd *chaosCrowd
	rng   *rand.Rand
	users []string
	list  string // the view; "": a stream of one user
	node  int    // -1: any
	// visits: it ends when its users' states have come, or chaosVisit is over.
	visits bool

	cursor string
	mu     sync.Mutex
	view   *chaosView                // of the open connection; nil: none
	last   *chaosView                // of the last one that was synced
	totals map[string]chaosUserState // of view=users
	opened int                       // how often it was connected
}

func (s *chaosStream) run() {
	for {
		select {
		case <-s.crowd.over:
			return
		case <-time.After(time.Duration(50+s.rng.IntN(100)) * time.Millisecond):
		}
		s.once()
		s.crowd.ledger.count("streams ended", 1)
	}
}

// once is one connection.
func (s *chaosStream) once() {
	node := s.node
	if node < 0 {
		node = s.rng.IntN(len(s.crowd.nodes))
	}
	conn, err := net.DialTimeout("tcp", s.crowd.nodes[node], time.Second)
	if err != nil {
		return
	}
	done := make(chan struct{})
	defer close(done)
	defer conn.Close()
	go func() {
		select {
		case <-s.crowd.over:
			conn.Close()
		case <-done:
		}
	}()
	begun := s.crowd.ledger.now()
	conn.SetWriteDeadline(time.Now().Add(chaosSilence))
	if s.visits {
		defer time.AfterFunc(chaosVisit, func() { conn.Close() }).Stop()
	}
	io.WriteString(conn, s.request())
	resp, err := http.ReadResponse(bufio.NewReader(patient{conn}), nil)
	if err != nil {
		return
	}
	if resp.StatusCode != 200 {
		if resp.StatusCode != 503 {
			s.crowd.ledger.found(ruleWire, "a stream is answered %d", resp.StatusCode)
		}
		return
	}
	where := fmt.Sprintf("a %s stream on node %d", s.list, node+1)
	s.read(bufio.NewReader(resp.Body), s.crowd.ledger.view(where, begun))
	s.mu.Lock()
	s.view = nil
	s.mu.Unlock()
}

// patient is a connection of which a read takes chaosSilence at most.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(chaosSilence))
	return p.Conn.Read(b)
}

func (s *chaosStream) request() string {
	if s.list == "" {
		return request("GET", streamPath+"?user_id="+s.users[0], "",
			bearer(tokenFor(s.users[0], 6*time.Hour)), "Accept: text/event-stream")
	}
	list, _ := json.Marshal(map[string]any{"user_ids": s.users})
	headers := []string{bearer(anyToken), "Accept: text/event-stream"}
	if s.cursor != "" {
		headers = append(headers, "Last-Event-ID: "+s.cursor)
	}
	return request("POST", "/api/v1/presence/stream?view="+s.list, string(list), headers...)
}

// read takes the events of a connection. What comes before synced is judged when it is known
// whether the list was resumed: then it goes on with what it had.
func (s *chaosStream) read(body *bufio.Reader, v *chaosView) {
	type arrival struct {
		data []byte
		at   time.Duration
	}
	var early []arrival
	known := s.list == ""
	if known {
		s.mu.Lock()
		s.view = v
		s.mu.Unlock()
	}
	for {
		id, name, data, err := readEvent(body)
		if err != nil {
			return
		}
		at := s.crowd.ledger.now()
		switch {
		case data == nil: // retry
		case name == "synced":
			var told struct{ Resumed bool }
			if err := json.Unmarshal(data, &told); err != nil {
				s.crowd.ledger.found(ruleWire, "%s: synced: %q", v.where, data)
			}
			s.resumed(told.Resumed, v)
			for _, a := range early {
				s.take(v, a.data, a.at)
			}
			early, known = nil, true
			if s.list == "devices" {
				v.synced(s.users)
			}
			if s.visits {
				return
			}
		case !known:
			early = append(early, arrival{data, at})
		default:
			s.take(v, data, at)
		}
		if id != "" {
			s.cursor = id
		}
	}
}

// resumed makes a connection's view the stream's. One that was resumed begins with what the last
// one showed.
func (s *chaosStream) resumed(yes bool, v *chaosView) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if yes && s.last != nil {
		v.shown, v.ranks = s.last.shown, s.last.ranks
		s.crowd.ledger.count("lists resumed", 1)
	}
	if !yes || s.totals == nil {
		s.totals = map[string]chaosUserState{}
	}
	s.view, s.last = v, v
}

// take takes one event.
func (s *chaosStream) take(v *chaosView, data []byte, at time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dec := json.NewDecoder(bytes.NewReader(data))
	if s.list == "users" {
		var u chaosUserState
		if err := dec.Decode(&u); err != nil {
			s.crowd.ledger.found(ruleWire, "%s: %q", v.where, data)
		}
		s.totals[u.User] = u
		return
	}
	var state chaosState
	if err := dec.Decode(&state); err != nil {
		s.crowd.ledger.found(ruleWire, "%s: %q", v.where, data)
		return
	}
	v.frame(state, at)
}

// behind says what the stream lacks of the truth; empty: nothing.
func (s *chaosStream) behind(states []chaosState, totals []chaosUserState) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.view == nil:
		return "a stream is not open"
	case s.list == "users":
		for _, u := range totals {
			if s.totals[u.User] != u {
				return fmt.Sprintf("%s shows %+v, a query %+v", s.view.where, s.totals[u.User], u)
			}
		}
		return ""
	case s.list == "":
		states = slices.DeleteFunc(slices.Clone(states), func(st chaosState) bool {
			return st.User != s.users[0]
		})
	}
	return s.view.behind(states)
}

// readEvent reads up to a blank line; comments, which are lines alone, are passed over.
func readEvent(body *bufio.Reader) (id, name string, data []byte, err error) {
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			return "", "", nil, err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ": ")
		switch field {
		case "": // a blank line, or a comment
			if line == "" {
				return id, name, data, nil
			}
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = []byte(value)
		}
	}
}
