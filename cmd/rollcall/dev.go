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

http://%[9]s/?user=%[4]s#devices

and paste this into a second terminal, as often as you like: the device shows online, and offline
%[6]s after the last one:

%[8]s -i -X POST -H 'Authorization: Bearer %[3]s' \
  -d '{"schema_version":1,"user_id":"%[4]s","device_id":"%[5]s","status":"online","source":"curl","sent_at_ms":'$(date +%%s)000',"seq":'$(date +%%s)',"ttl_ms":%[7]d}' \
  '%[1]s`+wire.HeartbeatPath+`'

Without a browser, this follows the same user:

%[8]s -N -H 'Authorization: Bearer %[2]s' \
  '%[1]s`+wire.StreamPath+`?user_id=%[4]s'

And this tells of users, as many as the token covers, when they come and go:

%[8]s -N -H 'Authorization: Bearer %[2]s' \
  '%[1]s`+wire.ListStreamPath+`?view=users'

Ctrl-C stops the server.

`, base, token, ingestToken, devUser, devDevice, devTTL, devTTL.Milliseconds(), curl, admin)
	return err
}
