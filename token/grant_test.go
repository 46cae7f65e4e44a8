package token

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
)

const everyScope = "presence:read:any"

func ids(n int) (ids []uuid.UUID) {
	for i := range n {
		ids = append(ids, uuid.MustParse(fmt.Sprintf("%08x-0000-4000-8000-000000000000", n-i)))
	}
	return ids
}

func quoted(ids []uuid.UUID) string {
	var text []string
	for _, id := range ids {
		text = append(text, `"`+id.String()+`"`)
	}
	return "[" + strings.Join(text, ",") + "]"
}

func grant(t testing.TB, more string) (Grant, error) {
	t.Helper()
	return testKeys.Grant(sign(t, testKey, payload(more)), testScope, everyScope, testNow)
}

// TestGrantChecks has the checks in their order: a token that is bad in several ways is refused
// for the first.
func TestGrantChecks(t *testing.T) {
	const scopeless, ended = `,"scope":["x"]`, `,"exp_ms":1`
	for more, want := range map[string]error{
		"":                                             nil,
		`,"scope":["presence:read:any"]`:               nil,
		`,"scope":["x","presence:read"]`:               nil,
		`,"user_ids":null,"users_sha256":null`:         nil,
		`,"user_ids":[]`:                               nil,
		`,"user_id":null`:                              nil,
		`,"user_id":5`:                                 nil,
		`,"user_ids":` + quoted(ids(200)):              nil,
		`,"user_ids":` + quoted(ids(201)):              ErrInvalid,
		`,"user_ids":"x"`:                              ErrInvalid,
		`,"user_ids":{}`:                               ErrInvalid,
		`,"user_ids":["x"]`:                            ErrInvalid,
		`,"user_ids":[null]`:                           ErrInvalid,
		`,"user_ids":["` + uuid.Nil.String() + `"]`:    ErrInvalid,
		`,"user_ids":["{` + testUser + `}"]`:           ErrInvalid,
		`,"user_ids":["` + testUser[:35] + `g"]`:       ErrInvalid,
		`,"users_sha256":5`:                            ErrInvalid,
		`,"users_sha256":""`:                           ErrInvalid,
		`,"users_sha256":"AAAA"`:                       ErrInvalid,
		`,"users_sha256":"` + UsersSHA256(nil) + `="`:  nil,
		`,"users_sha256":"` + UsersSHA256(nil) + `=="`: ErrInvalid,
		`,"users_sha256":"` + UsersSHA256(nil) + `AA"`: ErrInvalid,
		`,"user_ids":5` + ended + scopeless:            ErrInvalid,
		ended + scopeless:                              ErrExpired,
		`,"exp_ms":"99999999999999"`:                   ErrExpired,
		scopeless:                                      ErrScope,
		`,"scope":"presence:read:any"`:                 ErrScope,
		`,"scope":["presence:read:anything"]`:          ErrScope,
	} {
		if _, err := grant(t, more); err != want {
			t.Errorf("%.80s: %v, want %v", more, err, want)
		}
	}
	other := sign(t, "other", payload(`,"user_ids":5`))
	if _, err := testKeys.Grant(other, testScope, everyScope, testNow); err != ErrInvalid {
		t.Errorf("another key: %v", err)
	}
}

// TestCovers: all of a list must be named, or it must be the very list that was signed.
func TestCovers(t *testing.T) {
	me, five, six := uuid.MustParse(testUser), ids(5), ids(6)
	backwards := []uuid.UUID{five[4], five[1], five[0], five[3], five[2]}
	named := `,"user_ids":` + strings.ToUpper(quoted(append(five, me, five[0])))
	hashed := `,"users_sha256":"` + UsersSHA256(five) + `"`
	for _, test := range []struct {
		more string
		list []uuid.UUID
		want bool
	}{
		{"", []uuid.UUID{me}, true},
		{"", []uuid.UUID{five[0]}, false},
		{"", []uuid.UUID{me, five[0]}, false},
		{named, append(five, me), true},
		{named, backwards, true},
		{named, six, false},
		{hashed, five, true},
		{hashed, backwards, true},
		{hashed, five[:4], false},
		{hashed, six, false},
		{hashed, append(five, me), false},
		{hashed, []uuid.UUID{me}, true},
		{`,"scope":["presence:read:any"]`, six, true},
		{`,"user_id":"service"`, []uuid.UUID{me}, false},
	} {
		g, err := grant(t, test.more)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Covers(test.list); got != test.want {
			t.Errorf("%.60s covers %v: %v", test.more, test.list, got)
		}
	}
	if none := (Grant{}); none.Covers(five) || none.Is(me) || none.Any() {
		t.Error("the zero grant covers something")
	}
	g, _ := grant(t, named)
	if len(g.Users) != 6 || g.Users[0] != me || g.Users[1] != five[0] {
		t.Errorf("the token's users are %v", g.Users)
	}
}

// TestSubject: whose token it is. A token that names none is only like itself.
func TestSubject(t *testing.T) {
	subject := func(more string) [16]byte {
		g, err := grant(t, more)
		if err != nil {
			t.Fatal(err)
		}
		return g.Subject
	}
	me := uuid.MustParse(testUser)
	if subject("") != subject(`,"token_id":"other"`) || subject("") == me {
		t.Error("the subject is not a digest of the token's user")
	}
	const noUser = `,"user_id":null`
	seen := map[[16]byte]string{}
	for _, more := range []string{
		"", noUser, noUser + `,"token_id":"other"`, `,"user_id":"t"`, `,"user_id":"other"`,
		noUser + `,"token_id":null`, noUser + `,"token_id":null,"device_id":"other"`,
	} {
		s := subject(more)
		if other, taken := seen[s]; taken || s == [16]byte{} {
			t.Errorf("%q has the subject of %q", more, other)
		}
		seen[s] = more
	}
	for more, want := range map[string]bool{
		"": true, `,"user_ids":["` + testDevice + `"]`: true, `,"scope":["presence:read:any"]`: false, `,"user_id":"service"`: false, noUser: false,
	} {
		if g, _ := grant(t, more); g.Is(me) != want {
			t.Errorf("%q is of the user: %v", more, !want)
		}
	}
}

// TestSignUsers: what Sign makes, Grant reads; what no server takes, it refuses.
func TestSignUsers(t *testing.T) {
	five := ids(5)
	c := Claims{UserID: testUser, Scope: []string{testScope}, ExpMS: testNow.UnixMilli() + 1,
		UserIDs: []string{five[0].String()}, UsersSHA256: UsersSHA256(five)}
	text, err := Sign(testKey, c)
	if err != nil {
		t.Fatal(err)
	}
	g, err := testKeys.Grant([]byte(text), testScope, everyScope, testNow)
	if err != nil || len(g.Users) != 2 || !g.Covers(five) || !g.Covers(five[:1]) {
		t.Errorf("%+v, %v", g, err)
	}
	for _, bad := range [][]string{{"bob"}, {strings.ToUpper(five[0].String()) + "A"},
		strings.Split(strings.Trim(strings.ReplaceAll(quoted(ids(201)), `"`, ""), "[]"), ",")} {
		if c.UserIDs = bad; len(bad) > 0 {
			if _, err := Sign(testKey, c); err == nil {
				t.Errorf("Sign takes %.60v", bad)
			}
		}
	}
}

// FuzzGrant: no claims make the check panic, and a grant covers what its token names.
func FuzzGrant(f *testing.F) {
	f.Add(payload(""))
	f.Add(payload(`,"user_ids":` + quoted(ids(3)) + `,"users_sha256":"` + UsersSHA256(ids(2)) + `"`))
	f.Add(`{"exp_ms":1e999,"scope":[[],{}],"user_id":{},"user_ids":[[["x"]],1e9]}`)
	f.Fuzz(func(t *testing.T, claims string) {
		g, err := testKeys.Grant(sign(t, testKey, claims), testScope, everyScope, testNow)
		if err != nil {
			if len(g.Users) != 0 || g.Any() {
				t.Fatalf("%q is refused and grants %+v", claims, g)
			}
			return
		}
		if len(g.Users) > MaxUserIDs+1 || (g.one || g.any) && !g.Covers(g.Users) {
			t.Fatalf("%q: %+v", claims, g)
		}
		if g.Any() != g.Covers(append(ids(1000), uuid.UUID{1})) {
			t.Fatalf("%q covers what it does not name", claims)
		}
	})
}

func BenchmarkGrant(b *testing.B) {
	for name, more := range map[string]string{
		"users=1": "", "users=200": `,"user_ids":` + quoted(ids(200)),
	} {
		text := sign(b, testKey, payload(more))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := testKeys.Grant(text, testScope, everyScope, testNow); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
