package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"strings"
	"syscall"

	"rollcall/cluster"
	"rollcall/datadir"
	"rollcall/engine"
	"rollcall/loadgen"
	"rollcall/server"
	"rollcall/wal"
)

// advice is what an operator can do about each of some errors. Packages report facts; only cmd
// knows the flags.
type advice []struct {
	err  error
	text string
}

// add adds its text to an error that the list has; false: it has none.
func (list advice) add(err error) (_ error, found bool) {
	for _, a := range list {
		if errors.Is(err, a.err) {
			return fmt.Errorf("%w; %s", err, a.text), true
		}
	}
	return err, false
}

// reported are errors of all packages.
var reported = advice{
	{wal.ErrLocked, "stop the other process, or give --data-dir another directory"},
	{engine.ErrLogShort, "the disk lost what it had confirmed, or segments were taken away: " +
		"restore the data directory from a backup"},
	{engine.ErrOverMaxDevices, moreDevices},
	{engine.ErrTooManyDevices, moreDevices},
	{cluster.ErrKey, "what a node shows, the first of its --cluster-key-file, must be in that of each " +
		"other one; what is shown changes with a restart, what is accepted with SIGHUP. Where the " +
		"address is none of a node, a stranger tries to get in: close the port to it"},
	{cluster.ErrTLS, "each node needs --cluster-tls-cert by an authority of the others' " +
		"--cluster-tls-ca, in date, for its name or address in --cluster-peers, and for servers and " +
		"clients; SIGHUP reads a new one. All speak TLS, or none. Where the address is none of a " +
		"node, a stranger tries to get in: close the port to it"},
	{cluster.ErrNoNode, "--cluster-peers needs the address of each node's --cluster-listen"},
	{cluster.ErrOtherNumber, "give the number that the cluster was made with: it can never be changed"},
	{syscall.EADDRINUSE, "stop what listens there, or give another address"},
	{server.ErrHeadTooLarge, "raise --max-header-bytes, or find what adds to the requests: often " +
		"cookies, or a proxy"},
	{server.ErrLongTTL, "if none should, set --max-ttl"},
	{loadgen.ErrConnections, "lower --connections, or raise the server's limits"},
}

// movedAdvice is for a log that failed with wal.ErrMoved.
const movedAdvice = "what was acknowledged is in the directory that was locked, wherever it is " +
	"now. Start again to go on with what is at the path, or move the other one back first. A " +
	"server must be stopped before its directory is moved, removed or restored, and its LOCK " +
	"is never stale"

// replacedAdvice is for a log that failed with wal.ErrReplaced.
const replacedAdvice = "put the file back if it is still there, else restore a backup: rollcall " +
	"inspect says what a start makes of the directory. A server must be stopped before a file " +
	"in its directory is moved, removed or restored"

// refused are what the system answers in the data directory.
var refused = advice{
	{fs.ErrPermission, "the server's user must be able to write there: chown the directory, or " +
		"give --data-dir another one"},
	{syscall.EROFS, "mount it writable, or give --data-dir another directory"},
	{syscall.EISDIR, "something else was put there: move it away"},
	{syscall.ENOTDIR, "something else is there: move it away, or give --data-dir another directory"},
	{syscall.ENOSPC, "free disk space and start again"},
}

// moreDevices is how more devices may be known. --max-devices that is not set follows the limit.
const moreDevices = "raise the memory limit, or --max-devices where it is set, and restart, " +
	"or let --forget-after forget devices sooner"

// advise adds to an error what an operator can do about it, and to a wrong option its flag; to each
// of several that are joined its own.
func advise(err error) error {
	all, ok := err.(interface{ Unwrap() []error })
	if ok && errors.Join(all.Unwrap()...).Error() == err.Error() {
		var advised []error
		for _, one := range all.Unwrap() {
			advised = append(advised, advise(one))
		}
		return errors.Join(advised...)
	}
	if advised, found := reported.add(err); found {
		return nameFlag(advised)
	}
	return nameFlag(datadir.Advise(err))
}

// adviseOnDirectory adds to what the system refuses in the data directory what an operator can do
// about it.
func adviseOnDirectory(err error) error {
	err, _ = refused.add(err)
	return err
}

// adviseLogged is advise for the errors that packages log. It is a ReplaceAttr of slog.
func adviseLogged(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindAny {
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.AnyValue(advise(err))
		}
	}
	return a
}

// flags are those whose values become options, by package and option. In loadgen the names agree.
var flags = map[string]string{
	"wal SyncInterval":             "sync-interval",
	"wal SegmentBytes":             "segment-bytes",
	"engine RecoveryGrace":         "recovery-grace",
	"engine MaxDevices":            "max-devices",
	"engine MaxDevicesPerUser":     "max-devices-per-user",
	"engine ForgetAfter":           "forget-after",
	"engine MaxTTL":                "max-ttl",
	"engine CheckpointBytes":       "checkpoint-bytes",
	"engine CheckpointEvery":       "checkpoint-interval",
	"broadcast Keepalive":          "stream-keepalive",
	"broadcast WriteTimeout":       "stream-write-timeout",
	"broadcast BacklogBytes":       "stream-backlog",
	"broadcast MaxStreams":         "max-streams",
	"broadcast MaxStreamsPerUser":  "max-streams-per-user",
	"broadcast MaxFollows":         "max-follows",
	"broadcast MaxFollowsPerOwner": "max-follows-per-token",
	"server MaxUsersPerStream":     "max-users-per-stream",
	"server RatePerIP":             "rate-per-ip",
	"server UnpackRatePerIP":       "unpack-rate-per-ip",
	"server NewDevicesPerIP":       "new-devices-per-ip",
	"server MaxTTL":                "max-ttl",
	"server MaxBatch":              "max-batch",
	"server MaxConnsPerIP":         "max-connections-per-ip",
	"server CORSOrigins":           "cors-origin",
	"server MaxHeaderBytes":        "max-header-bytes",
	"server TrustedProxies":        "trusted-proxies",
	"server AdminHosts":            "admin-hosts",
	"cluster Node":                 "cluster-node",
	"cluster Name":                 "cluster-name",
	"cluster Listen":               "cluster-listen",
	"cluster Peers":                "cluster-peers",
	"cluster Bootstrap":            "cluster-bootstrap",
	"cluster Partitions":           "cluster-partitions",
	"cluster Replicas":             "cluster-replicas",
	"cluster Keys":                 "cluster-key-file",
	"cluster MaxSkew":              "cluster-max-skew",
}

// option is how the packages begin the report of a wrong option.
var option = regexp.MustCompile(`^(\w+): option (\w+)`)

// upper is where a word of an option's name begins.
var upper = regexp.MustCompile(`([a-z])([A-Z])`)

// nameFlag adds its flag to a wrong option.
func nameFlag(err error) error {
	if err == nil {
		return nil
	}
	name := option.FindStringSubmatch(err.Error())
	if name == nil {
		return err
	}
	flag := flags[name[1]+" "+name[2]]
	if name[1] == "loadgen" {
		flag = strings.ToLower(upper.ReplaceAllString(name[2], "$1-$2"))
	}
	if flag == "" {
		return err
	}
	return fmt.Errorf("%w (--%s)", err, flag)
}
