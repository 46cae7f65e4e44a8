// Package testwire has heartbeats for tests: a good one, and the table of the contract's checks. It
// reads the bytes that a test writes as text, too.
package testwire

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// The ids of Body.
const (
	User   = "11111111-2222-4222-8222-333333333333"
	Device = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
)

// Body is a heartbeat that passes every check.
const Body = `{"schema_version":1,"user_id":"` + User + `","device_id":"` + Device +
	`","status":"online","source":"daemon-do","sent_at_ms":1739030400000,"seq":42,"ttl_ms":12000}`

// With returns Body with the value of one field replaced; an empty value takes the field out.
func With(field, value string) string {
	start := strings.Index(Body, `"`+field+`":`)
	end := start + strings.IndexAny(Body[start:], ",}")
	if value != "" {
		return fmt.Sprintf(`%s"%s":%s%s`, Body[:start], field, value, Body[end:])
	}
	if Body[end] == ',' {
		return Body[:start] + Body[end+1:]
	}
	return Body[:start-1] + Body[end:]
}

// Case is a body, and the details of its refusal; "": it is accepted.
type Case struct{ Name, Body, Refusal string }

// What the details of a refusal say.
const (
	noJSON   = "Invalid JSON payload"
	noUser   = "Missing user_id"
	badIDs   = "Invalid user_id or device_id"
	lower    = "Identifiers must be lowercase"
	noSchema = "Invalid schema_version"
)

func quoted(s string) string { return `"` + s + `"` }

// Cases is the table of the single route, which the batch route is held to, too. It is only read.
var Cases = []Case{
	{"as it should be", Body, ""},
	{"offline", With("status", `"offline"`), ""},
	{"space around", " \t\r\n" + Body + "\n ", ""},
	{"unknown fields", `{"extra":{"a":[1,{"b":null}]},` + Body[1:], ""},
	{"escaped key", strings.Replace(Body, `"seq"`, `"s\u0065q"`, 1), ""},

	{"schema_version missing", With("schema_version", ""), noSchema},
	{"schema_version null", With("schema_version", "null"), noSchema},
	{"schema_version 2", With("schema_version", "2"), noSchema},
	{"schema_version text", With("schema_version", `"1"`), noSchema},
	{"schema_version true", With("schema_version", "true"), noSchema},
	{"schema_version 1.0", With("schema_version", "1.0"), noSchema},
	{"schema_version 1e0", With("schema_version", "1e0"), noSchema},

	{"user_id missing", With("user_id", ""), noUser},
	{"user_id null", With("user_id", "null"), noUser},
	{"user_id empty", With("user_id", `""`), noUser},
	{"user_id blank", With("user_id", `" \u00a0\ufeff "`), noUser},
	{"user_id number", With("user_id", "123"), badIDs},
	{"user_id true", With("user_id", "true"), badIDs},
	{"user_id array", With("user_id", `["`+User+`"]`), badIDs},
	{"user_id object", With("user_id", `{}`), badIDs},
	{"user_id upper case", With("user_id", quoted(strings.ToUpper(Device))), lower},
	{"user_id with space around", With("user_id", quoted(" "+User+" ")), lower},
	{"user_id v7", With("user_id", quoted("11111111-2222-7222-8222-333333333333")), ""},
	{"user_id bad UTF-8", With("user_id", "\"\xff\""), badIDs},
	{"user_id nil", With("user_id", quoted(uuid.Nil.String())), badIDs},
	{"user_id max", With("user_id", quoted(uuid.Max.String())), badIDs},
	{"device_id missing", With("device_id", ""), badIDs},
	{"device_id null", With("device_id", "null"), badIDs},
	{"device_id number", With("device_id", "123"), badIDs},
	{"device_id empty", With("device_id", `""`), badIDs},
	{"device_id no UUID", With("device_id", `"bob"`), badIDs},
	{"device_id upper case", With("device_id", quoted(strings.ToUpper(Device))), lower},
	{"device_id variant c", With("device_id", quoted("aaaaaaaa-bbbb-4ccc-cddd-eeeeeeeeeeee")),
		badIDs},
	{"device_id v9", With("device_id", quoted("aaaaaaaa-bbbb-9ccc-8ddd-eeeeeeeeeeee")), badIDs},
	{"device_id in braces", With("device_id", quoted("{"+Device+"}")), badIDs},
	{"device_id urn", With("device_id", quoted("urn:uuid:"+Device)), badIDs},
	{"device_id no dashes", With("device_id", quoted(strings.ReplaceAll(Device, "-", ""))), badIDs},
	{"user_id upper case, device_id bad",
		strings.Replace(With("user_id", quoted(strings.ToUpper(Device))), Device, "x", 1), badIDs},

	{"status missing", With("status", ""), "Invalid status"},
	{"status null", With("status", "null"), "Invalid status"},
	{"status Online", With("status", `"Online"`), "Invalid status"},
	{"status space", With("status", `"online "`), "Invalid status"},
	{"status number", With("status", "1"), "Invalid status"},
	{"status escaped", With("status", `"\u006fnline"`), ""},

	{"source missing", With("source", ""), "Invalid source"},
	{"source null", With("source", "null"), "Invalid source"},
	{"source number", With("source", "5"), "Invalid source"},
	{"source empty", With("source", `""`), "Invalid source"},
	{"source blank", With("source", `"   "`), "Invalid source"},
	{"source 128 bytes", With("source", `"  `+strings.Repeat("é", 64)+` "`), ""},
	{"source 129 bytes", With("source", `"`+strings.Repeat("x", 129)+`"`), "Invalid source"},
	{"source lone high surrogate", With("source", `"x\ud800y"`), "Invalid source"},
	{"source lone low surrogate", With("source", `"x\udc00y"`), "Invalid source"},
	{"source surrogates swapped", With("source", `"\udc00\ud800"`), "Invalid source"},
	{"source bad UTF-8", With("source", "\"x\xffy\""), "Invalid source"},
	{"source raw surrogate", With("source", "\"x\xed\xa0\x80y\""), "Invalid source"},
	{"bad UTF-8 elsewhere", `{"x\ud800":"` + "\xff" + `",` + Body[1:], ""},

	{"sent_at_ms missing", With("sent_at_ms", ""), "Invalid sent_at_ms"},
	{"sent_at_ms null", With("sent_at_ms", "null"), "Invalid sent_at_ms"},
	{"sent_at_ms text", With("sent_at_ms", `"1"`), "Invalid sent_at_ms"},
	{"sent_at_ms -1", With("sent_at_ms", "-1"), "Invalid sent_at_ms"},
	{"sent_at_ms 0", With("sent_at_ms", "0"), ""},
	{"sent_at_ms 1.5", With("sent_at_ms", "1.5"), "Invalid sent_at_ms"},
	{"sent_at_ms 1e20", With("sent_at_ms", "1e20"), "Invalid sent_at_ms"},
	{"seq missing", With("seq", ""), "Invalid seq"},
	{"seq null", With("seq", "null"), "Invalid seq"},
	{"seq 0", With("seq", "0"), ""},
	{"seq -0", With("seq", "-0"), ""},
	{"seq -1", With("seq", "-1"), "Invalid seq"},
	{"seq 1.0", With("seq", "1.0"), "Invalid seq"},
	{"seq 1E2", With("seq", "1E2"), "Invalid seq"},
	{"seq true", With("seq", "true"), "Invalid seq"},
	{"seq 2^53-1", With("seq", "9007199254740991"), ""},
	{"seq 2^53", With("seq", "9007199254740992"), "Invalid seq"},
	{"seq 2^64", With("seq", "18446744073709551616"), "Invalid seq"},
	{"seq 2^64+1", With("seq", "18446744073709551617"), "Invalid seq"},
	{"seq of 400 digits", With("seq", strings.Repeat("9", 400)), "Invalid seq"},
	{"seq 01", With("seq", "01"), noJSON},
	{"seq NaN", With("seq", "NaN"), noJSON},
	{"seq +1", With("seq", "+1"), noJSON},
	{"seq 1.", With("seq", "1."), noJSON},
	{"seq .5", With("seq", ".5"), noJSON},
	{"seq 1e", With("seq", "1e"), noJSON},
	{"seq -", With("seq", "-"), noJSON},
	{"SEQ is no seq", strings.Replace(Body, `"seq"`, `"SEQ"`, 1), "Invalid seq"},
	{"ttl_ms missing", With("ttl_ms", ""), "Invalid ttl_ms"},
	{"ttl_ms null", With("ttl_ms", "null"), "Invalid ttl_ms"},
	{"ttl_ms 0", With("ttl_ms", "0"), "Invalid ttl_ms"},
	{"ttl_ms -0", With("ttl_ms", "-0"), "Invalid ttl_ms"},
	{"ttl_ms 1", With("ttl_ms", "1"), ""},
	{"ttl_ms 2^53-1", With("ttl_ms", "9007199254740991"), ""},
	{"ttl_ms 2^53", With("ttl_ms", "9007199254740992"), "Invalid ttl_ms"},

	{"duplicate, last is good", `{"seq":"x",` + Body[1:], ""},
	{"duplicate, last is bad", strings.TrimSuffix(Body, "}") + `,"seq":null}`, "Invalid seq"},
	{"all wrong", `{"user_id":"x","schema_version":0,"device_id":1,"status":1,"source":1,"seq":-1}`, noSchema},
	{"ids and more wrong", `{"user_id":"x","schema_version":1,"device_id":1,"status":1}`,
		badIDs},

	{"empty body", "", noJSON},
	{"array", `[` + Body + `]`, noJSON},
	{"null", "null", noJSON},
	{"number", "5", noJSON},
	{"text", `"x"`, noJSON},
	{"empty object", "{}", noUser},
	{"not closed", "{not-json", noJSON},
	{"cut", Body[:len(Body)-1], noJSON},
	{"garbage behind", Body + "x", noJSON},
	{"two documents", Body + Body, noJSON},
	{"NUL behind", Body + "\x00", noJSON},
	{"byte order mark", "\ufeff" + Body, noJSON},
	{"trailing comma", Body[:len(Body)-1] + ",}", noJSON},
	{"leading comma", "{," + Body[1:], noJSON},
	{"trailing comma in an array", `{"x":[1,],` + Body[1:], noJSON},
	{"control character in a string", `{"x":"` + "\n" + `",` + Body[1:], noJSON},
	{"NUL in a string", `{"x":"` + "\x00" + `",` + Body[1:], noJSON},
	{"unknown escape", `{"x":"\x",` + Body[1:], noJSON},
	{"short escape", `{"x":"\u12",` + Body[1:], noJSON},
	{"control character behind an escape", `{"x":"\n` + "\n" + `",` + Body[1:], noJSON},
	{"single quotes", `{'x':1,` + Body[1:], noJSON},
	{"comment", `{/**/` + Body[1:], noJSON},
	{"form feed", "{\f" + Body[1:], noJSON},
	{"nested 63 deep", `{"x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `,` +
		Body[1:], ""},
	{"nested 64 deep", `{"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `,` +
		Body[1:], noJSON},
	{"brackets crossed", `{"x":[{]},` + Body[1:], noJSON},
}

// Unhex reads bytes in hex, with white space between them or not.
func Unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
