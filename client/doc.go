// Package client speaks to a rollcall server: Daemon reports a device, Gateway many, Watch follows
// a user's devices, WatchMany a list of users, Query asks once, Mint makes tokens. It needs only
// the standard library and nothing else of this repository, so that it can be copied into another
// one.
//
//	d, err := client.StartDaemon(client.DaemonOptions{
//		URL:      "https://presence.example.com",
//		Token:    client.StaticToken(os.Getenv("PRESENCE_DO_INGEST_TOKEN")),
//		UserID:   "6a0f5a1e-2b7c-4c55-9f10-0c5a3c1d7e01",
//		DeviceID: "b3c1d2e4-8f9a-4b6c-a7d8-1e2f3a4b5c6d",
//		TTL:      30 * time.Second,
//	})
//	if err != nil {
//		return err // an option is wrong; a server that is away is not an error
//	}
//	defer d.Close(ctx) // says offline
//
//	o := client.WatchOptions{URL: url, UserID: user, Token: mint}
//	for ev, err := range client.Watch(ctx, o) {
//		if err != nil {
//			log.Print(err) // interrupted; going on with the loop reconnects
//			continue
//		}
//		fmt.Println(ev.DeviceID, ev.Status)
//	}
//
//	o := client.WatchManyOptions{URL: url, UserIDs: contacts, Token: mint}
//	for up, err := range client.WatchMany(ctx, o) {
//		if err == nil && up.User != nil {
//			fmt.Println(up.User.UserID, up.User.Status)
//		}
//	}
//
// # What a Daemon keeps
//
//   - K1 A seq stands for one heartbeat. While it is not known whether it was accepted (503, a cut
//     connection, no answer in time) the same bytes are sent again under the same seq; a 409 whose
//     last_seq equals it then says that it was. A change in the meantime is another heartbeat and
//     takes the next seq.
//   - K2 Seqs begin at the wall clock's milliseconds. So after a restart they are above everything
//     that was sent before, with nothing stored and no refused heartbeat. Where that fails, because
//     the clock went back or another program counted differently, a 409 names the last seq and the
//     daemon goes on from there.
//   - K3 The time between two heartbeats is random, three quarters of the interval to a whole one,
//     so that devices that started together spread out.
//   - K4 After a failure it waits at random up to a bound that doubles, and before that as long as
//     Retry-After says. The bound stops at half of the TTL and 10 s: a server that restarts gives
//     each device min(TTL, 15 s) to send a heartbeat.
//   - K5 A refusal that needs an operator (400, 401, 403, 404) is reported and tried again every 15
//     to 30 s with what Token returns then.
//
// # What a Gateway keeps
//
// K1 to K5 for each device, and
//
//   - K12 One request is on its way at a time, and a device is in it once. What the answer does not
//     say of a line is taken as not known (K1); a line behind unavailable_from, or that was not
//     read, is sent again as it was. The devices bound the queue: each waits with its newest
//     status.
//
// # What a Watch keeps
//
//   - K6 It yields what changed. The server repeats all it knows at each connect. The watch leaves
//     out what it has yielded already, so a reconnect shows only what was missed, in its newest
//     state.
//   - K7 It reads on the goroutine of the loop and has no queue. A slow loop slows the socket, and
//     the server keeps the newest state of each device for it.
//   - K8 A connection that brings no byte for IdleTimeout is dead: the server sends a comment every
//     15 s.
//   - K9 It reconnects after the time that the server asked for (retry:, Retry-After), else after a
//     random time up to a bound that doubles. A token is renewed in its last fifth, on the open
//     stream where the server can do that and by a reconnect where not, and after a 401 or 403.
//   - K10 Whatever a server or a proxy sends, memory is bounded: lines, frames, error bodies, the
//     devices remembered.
//
// # What a WatchMany keeps
//
// K7 to K10, and
//
//   - K11 Its cursor is the id of the last event that is in the Roster, never of a later one. A
//     server that can resume from there tells what changed since; one that cannot tells everything,
//     and then the Roster has what it told and nothing else. Either way the caller is told what
//     differs from what it was told before, and then a Sync.
//
// None needs a clock of its own: tests run it in the fake time of testing/synctest.
package client
