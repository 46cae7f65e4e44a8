package token

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

const (
	testUser   = "11111111-2222-4222-8222-333333333333"
	testDevice = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
	testKey    = "signing"
	testScope  = "presence:read"
)

var (
	testKeys = Keys{"older", testKey}
	testNow  = time.UnixMilli(1_700_000_000_000)
)

// payload is a good token's with some JSON added behind, where a duplicate name replaces the good
// value.
func payload(more string) string {
	return fmt.Sprintf(`{"token_id":"t","user_id":%q,"device_id":"d","scope":[%q],"exp_ms":%d,`+
		`"issued_at_ms":1%s}`, testUser, testScope, testNow.UnixMilli()+60_000, more)
}

func sign(t testing.TB, key, payload string) []byte {
	t.Helper()
	text, err := SignPayload(key, []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

// TestVerify has one token for each reason; the server's tests have the forms of each.
func TestVerify(t *testing.T) {
	for name, test := range map[string]struct {
		text []byte
		want error
	}{
		"first key":   {sign(t, "older", payload("")), nil},
		"second key":  {sign(t, testKey, payload("")), nil},
		"more scopes": {sign(t, testKey, payload(`,"scope":["x","presence:read"]`)), nil},
		"another key": {sign(t, "other", payload("")), ErrInvalid},
		"line end":    {append(sign(t, testKey, payload("")), '\n'), ErrInvalid},
		"three parts": {append(sign(t, testKey, payload("")), ".x"...), ErrInvalid},
		"null":        {sign(t, testKey, "null"), ErrInvalid},
		"no JSON":     {sign(t, testKey, "{"), ErrInvalid},
		"ends now":    {sign(t, testKey, payload(`,"exp_ms":1700000000000`)), ErrExpired},
		"exp_ms text": {sign(t, testKey, payload(`,"exp_ms":"99999999999999"`)), ErrExpired},
		"other scope": {sign(t, testKey, payload(`,"scope":["presence:reads"]`)), ErrScope},
		"scope text":  {sign(t, testKey, payload(`,"scope":"presence:read"`)), ErrScope},
		"other user":  {sign(t, testKey, payload(`,"user_id":"`+testDevice+`"`)), ErrUser},
		"all of it bad": {sign(t, testKey, payload(`,"exp_ms":1,"scope":[],"user_id":5`)),
			ErrExpired},
	} {
		until, err := testKeys.Verify(test.text, testScope, testUser, testNow)
		if err != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if want := float64(testNow.UnixMilli() + 60_000); err == nil && until != want {
			t.Errorf("%s: until %g, want %g", name, until, want)
		}
	}
	if _, err := (Keys)(nil).Verify(sign(t, testKey, payload("")), testScope, testUser,
		testNow); err != ErrInvalid {
		t.Errorf("without keys: %v", err)
	}
}

func TestSign(t *testing.T) {
	exp := testNow.UnixMilli() + 1000
	text, err := Sign(testKey, Claims{
		TokenID: "t", UserID: testUser, DeviceID: testDevice, Scope: []string{testScope},
		ExpMS: exp, IssuedAtMS: 5,
	})
	if err != nil {
		t.Fatal(err)
	}
	first, second, _ := strings.Cut(text, ".")
	got, err := base64.RawURLEncoding.DecodeString(first)
	want := fmt.Sprintf(`{"token_id":"t","user_id":%q,"device_id":%q,"scope":["presence:read"],`+
		`"exp_ms":%d,"issued_at_ms":5}`, testUser, testDevice, exp)
	if err != nil || string(got) != want {
		t.Errorf("claims %s (%v)\n  want %s", got, err, want)
	}
	mac := hmac.New(sha256.New, []byte(testKey))
	mac.Write([]byte(first))
	if want := base64.RawURLEncoding.EncodeToString(mac.Sum(nil)); second != want {
		t.Errorf("signature %s, want %s", second, want)
	}
	if until, err := testKeys.Verify([]byte(text), testScope, testUser, testNow); err != nil ||
		int64(until) != exp {
		t.Errorf("verified until %g, %v", until, err)
	}
	for key, user := range map[string]string{
		"": testUser, "k": strings.ToUpper(testDevice), "k2": "bob", "k3": uuid.Nil.String(),
		"k4": uuid.Max.String(),
	} {
		if _, err := Sign(key, Claims{UserID: user}); err == nil {
			t.Errorf("Sign(%q, %q) is no error", key, user)
		}
	}
}

func TestShared(t *testing.T) {
	s := NewShared([]string{"one", "two"})
	for text, want := range map[string]bool{"one": true, "two": true, "": false, "three": false,
		"one ": false} {
		if s.Has([]byte(text)) != want {
			t.Errorf("has %q: %v", text, !want)
		}
	}
	if s.None() || !NewShared(nil).None() || NewShared(nil).Has(nil) {
		t.Error("an empty list is not empty, or has something")
	}
}

// TestCheck: every secret that cannot match is named by its place and not by its text.
func TestCheck(t *testing.T) {
	err := CheckShared("ingest token", []string{"fine", "two words", "", "é"})
	for _, want := range []string{"token 2", "token 3", "token 4"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "words") {
		t.Errorf("a secret is quoted: %v", err)
	}
	if err := (Keys{"a", ""}).Check(); err == nil || !strings.Contains(err.Error(), "key 2") {
		t.Errorf("an empty key: %v", err)
	}
	if err := testKeys.Check(); err != nil {
		t.Error(err)
	}
}

// FuzzVerify: no token passes but those that a key signed, and nothing makes the check panic.
func FuzzVerify(f *testing.F) {
	good := sign(f, testKey, payload(""))
	for _, text := range [][]byte{
		good, append(good, '.'), []byte("a.b"), []byte("."), nil,
		append(good[:len(good)-2:len(good)-2], "\r\n"...), sign(f, testKey, "null"),
	} {
		f.Add(text, []byte(payload("")))
	}
	f.Add(good, []byte(`{"exp_ms":1e999,"scope":[[],{}],"user_id":{}}`))
	f.Fuzz(func(t *testing.T, text, claims []byte) {
		first, second, _ := bytes.Cut(text, []byte("."))
		signed := false
		for _, key := range testKeys {
			signed = signed || base64.RawURLEncoding.EncodeToString(signature(key,
				first)) == string(second)
		}
		if _, err := testKeys.Verify(text, testScope, testUser, testNow); err == nil && !signed {
			t.Fatalf("%q passes", text)
		}
		until, err := testKeys.Verify(sign(t, testKey, string(claims)), testScope, testUser,
			testNow)
		if err == nil && !(until > float64(testNow.UnixMilli())) {
			t.Fatalf("%q passes, but ended at %g", claims, until)
		}
		if err != nil && string(claims) == payload("") {
			t.Fatalf("%q is refused: %v", claims, err)
		}
	})
}
