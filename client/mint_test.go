package client

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestMint: the claims of the wire contract. That the server takes them is tested with it.
func TestMint(t *testing.T) {
	inFakeTime(t, func(t *testing.T) {
		digest, err := UsersSHA256([]string{user, friend})
		if err != nil {
			t.Fatal(err)
		}
		token, err := Mint("key", MintOptions{UserID: user, Contacts: []string{friend},
			Users: []string{friend, user}, AnyUser: true, TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		payload, signature, _ := strings.Cut(token, ".")
		text, err := base64.RawURLEncoding.DecodeString(payload)
		if err != nil || len(signature) != 43 {
			t.Fatalf("%s: %v", token, err)
		}
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		now := float64(time.Now().UnixMilli())
		if id, _ := got["token_id"].(string); len(id) != 32 || got["user_id"] != user ||
			got["issued_at_ms"] != now || got["exp_ms"] != now+60_000 ||
			got["users_sha256"] != digest || got["user_ids"].([]any)[0] != friend ||
			got["scope"].([]any)[0] != "presence:read" ||
			got["scope"].([]any)[1] != "presence:read:any" {
			t.Errorf("claims %s", text)
		}
		plain, err := Mint("key", MintOptions{UserID: user, TTL: time.Minute})
		if err != nil || plain == token {
			t.Fatal(plain, err)
		}
		text, _ = base64.RawURLEncoding.DecodeString(plain[:strings.Index(plain, ".")])
		if strings.Contains(string(text), "user_ids") || strings.Contains(string(text), "any") {
			t.Errorf("claims that were not asked for: %s", text)
		}
	})
}

func TestMintRefuses(t *testing.T) {
	for want, change := range map[string]func(o *MintOptions){
		"user \"bob\"":     func(o *MintOptions) { o.UserID = "bob" },
		"user \"eve\"":     func(o *MintOptions) { o.Contacts = []string{"eve"} },
		"users[1] \"mal\"": func(o *MintOptions) { o.Users = []string{user, "mal"} },
		"TTL 0s":           func(o *MintOptions) { o.TTL = 0 },
		"Users takes more": func(o *MintOptions) { o.Contacts = make([]string, 201) },
		"the key is empty": func(*MintOptions) {},
	} {
		o, key := MintOptions{UserID: user, TTL: time.Minute}, "key"
		if change(&o); strings.Contains(want, "key") {
			key = ""
		}
		if _, err := Mint(key, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestUsersSHA256 has the digest as another program made it:
// printf ID1ID2 without dashes | xxd -r -p | sha256sum
func TestUsersSHA256(t *testing.T) {
	const want = "HqWYKfekfmbl8ubjJoqnessR4IvdHECgdj35HCiy2Mk"
	for _, list := range [][]string{{user, friend}, {friend, strings.ToUpper(user), friend}} {
		if got, err := UsersSHA256(list); got != want || err != nil {
			t.Errorf("%v: %s, %v", list, got, err)
		}
	}
}
