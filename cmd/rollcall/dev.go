package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"rollcall/wire"

	"github.com/google/uuid"
)

// The pair that the printed lines use. They are examples, not special.
var (
	devUser   = uuid.MustParse("6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01")
	devDevice = uuid.MustParse("b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d")
)

const devTTL = 5 * time.Second

// printCurlLines prints what to open and what to paste: follow a user on the page or in one
// terminal, send a heartbeat in another. public and admin are addresses.
func printCurlLines(w io.Writer, scheme, public, admin, ingestToken, signingKey string) error {
	curl, base := "curl", scheme+"://"+public
	if scheme == "https" {
		curl = "curl -k" // the certificate is unlikely to be for this address
	}
	if path, ok := strings.CutPrefix(public, unixPrefix); ok {
		curl, base = curl+" --unix-socket "+path, scheme+"://localhost"
	}
	token, err := streamToken(signingKey, devUser, devDevice, 24*time.Hour)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, `
rollcall is running with throw-away secrets (--dev). Open this to see a user's devices and the
server's figures:

http://%s/?user=%s#devices

and paste this into a second terminal, as often as you like: the device shows online, and offline
%v after the last one:

%s

Without a browser, this follows the same user:

%s

And this tells of users, as many as the token covers, when they come and go:

%s -N -H 'Authorization: Bearer %s' \
  '%s`+wire.ListStreamPath+`?view=users'

Ctrl-C stops the server.

`, admin, devUser, devTTL, heartbeatLine(curl, base, ingestToken), streamLine(curl, base, token),
		curl, token, base)
	return err
}

// heartbeatLine is what to paste to send a heartbeat of the example's device to a server.
func heartbeatLine(curl, base, ingestToken string) string {
	return fmt.Sprintf(`%s -i -X POST -H 'Authorization: Bearer %s' \
  -d '{"schema_version":1,"user_id":"%s","device_id":"%s","status":"online","source":"curl",`+
		`"sent_at_ms":'$(date +%%s)000',"seq":'$(date +%%s)',"ttl_ms":%d}' \
  '%s'`, curl, ingestToken, devUser, devDevice, devTTL.Milliseconds(), base+wire.HeartbeatPath)
}

// streamLine is what to paste to follow the example's user.
func streamLine(curl, base, token string) string {
	return fmt.Sprintf(`%s -N -H 'Authorization: Bearer %s' \
  '%s?user_id=%s'`, curl, token, base+wire.StreamPath, devUser)
}
