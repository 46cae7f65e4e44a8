package read

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/uuid"

	"rollcall/engine"
	"rollcall/internal/testwire"
	"rollcall/wire"
)

var (
	goldenUser   = uuid.MustParse("11111111-1111-4111-8111-111111111111")
	goldenDevice = engine.Device{
		Event: wire.Event{
			User: goldenUser, Device: uuid.MustParse("22222222-2222-4222-8222-222222222222"),
			Status: engine.Online, Source: "tv", SentAtMS: 1, Seq: 2, TTLMS: 3,
		},
		HeartbeatAtMS: 4, OfflineAtMS: 5, UpdatedAtMS: 6, SeenAtMS: 7, LSN: 8,
	}
	goldenQuery = engine.UserQuery{
		Status: engine.Online, HasStatus: true, Source: "tv", Limit: 9,
	}
	goldenRecent = recentAnswer{Partitions: []int{0, 3}, Users: []engine.ListedUser{{
		ID: goldenUser, Online: 1, Devices: 2, SeenAtMS: 3, ChangedAtMS: 4, Source: "tv",
	}}}
)

// What travels between nodes, see TestGolden.
const (
	goldenUserHex   = "11111111111141118111111111111111"
	goldenDeviceHex = "22222222222242228222222222222222" + "01" + "02" +
		"0100000000000000" + "0200000000000000" + "0300000000000000" + "0400000000000000" +
		"0500000000000000" + "0600000000000000" + "0700000000000000" + "0800000000000000" + "7476"
	goldenStreamID = "0123456789abcdef01234567"

	goldenQuestionJSON = `{"id":"","status":1,"has_status":true,"source":"tv","limit":9}`
	goldenRecentJSON   = `{"partitions":[0,3],"users":[{` +
		`"ID":"11111111-1111-4111-8111-111111111111","Online":1,"Devices":2,"SeenAtMS":3,` +
		`"ChangedAtMS":4,"Source":"tv"}]}`
)

// TestGolden fixes the bytes of questions and answers: nodes of other versions read them, see
// docs/cluster-formats.md.
func TestGolden(t *testing.T) {
	question, err := appendRecent(nil, goldenQuery)
	if err != nil {
		t.Fatal(err)
	}
	recent, err := json.Marshal(goldenRecent)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"users": {appendUsers(nil, 258, []uuid.UUID{goldenUser}), "0100" + "02010000" + goldenUserHex},
		"devices": {appendPage(nil, goldenUser, goldenDevice.Device, 258),
			"0101" + goldenUserHex + "22222222222242228222222222222222" + "02010000"},
		"recent": {question, "0103" + hex.EncodeToString([]byte(goldenQuestionJSON))},
		"renew": {appendRenew(nil, goldenStreamID, 258),
			"0105" + hex.EncodeToString([]byte(goldenStreamID)) + "0201000000000000"},
		"answer: devices": {appendDevices(nil, []engine.Device{goldenDevice}),
			"01000000" + goldenDeviceHex},
		"answer: recent": {recent, hex.EncodeToString([]byte(goldenRecentJSON))},
		"kinds of questions": {[]byte{byte(opUsers), byte(opDevices), byte(opStreams),
			byte(opRecent), byte(opStream), byte(opRenew)}, "000102030405"},
		"statuses": {[]byte{byte(statusOK), byte(statusNotMine), byte(statusTooMany),
			byte(statusFailed), byte(statusBusy), byte(statusNoStream)}, "000102030405"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	}
}

// TestGoldenIsRead: what was written so is read so.
func TestGoldenIsRead(t *testing.T) {
	limit, ids, err := readUsers(testwire.Unhex(t, "02010000"+goldenUserHex))
	if limit != 258 || !slices.Equal(ids, []uuid.UUID{goldenUser}) || err != nil {
		t.Errorf("users: %d %v, %v", limit, ids, err)
	}
	user, after, limit, err := readPage(testwire.Unhex(t, goldenUserHex+goldenUserHex+"02010000"))
	if user != goldenUser || after != goldenUser || limit != 258 || err != nil {
		t.Errorf("devices: %v %v %d, %v", user, after, limit, err)
	}
	devices, rest, err := readDevices(testwire.Unhex(t, "01000000"+goldenDeviceHex+"ff"), goldenUser)
	if !slices.Equal(devices, []engine.Device{goldenDevice}) || len(rest) != 1 || err != nil {
		t.Errorf("a device: %+v %x, %v", devices, rest, err)
	}
	if q, err := readRecent([]byte(goldenQuestionJSON)); q != goldenQuery || err != nil {
		t.Errorf("recent: %+v, %v", q, err)
	}
	var a recentAnswer
	if err := json.Unmarshal([]byte(goldenRecentJSON), &a); err != nil ||
		!slices.Equal(a.Partitions, goldenRecent.Partitions) ||
		!slices.Equal(a.Users, goldenRecent.Users) {
		t.Errorf("recent: %+v, %v", a, err)
	}
}
