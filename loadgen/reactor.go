package loadgen

import (
	"net/netip"
	"time"
)

// reactor opens a worker's sockets and serves those that are ready. Single owner: the worker's
// goroutine.
type reactor struct {
	net     sockets
	targets []target
	places  []place // of sockets, by socketID
	vacant  []uint32
	ready   []readiness
	input   []byte // what is read from any socket
}

// place is where a socket is found; used counts its tenants, so that a late report of a closed
// socket is recognised.
type place struct {
	used   uint32
	tenant tenant
}

// tenant is the owner of a socket.
type tenant interface {
	// ready is called when the socket has input or room for output.
	ready(in, out bool)
	// drop closes the socket.
	drop()
}

// open opens a socket to a node for t. The caller keeps id to give the place back.
func (r *reactor) open(t tenant, node int, source netip.Addr, receiveBuffer int) (socket, socketID,
	error) {
	if len(r.vacant) == 0 {
		r.vacant = append(r.vacant, uint32(len(r.places)))
		r.places = append(r.places, place{})
	}
	at := r.vacant[len(r.vacant)-1]
	p := &r.places[at]
	id := socketID(at) | socketID(p.used)<<32
	s, err := r.net.open(id, r.targets[node].addr, source, receiveBuffer)
	if err == nil {
		r.vacant = r.vacant[:len(r.vacant)-1]
		p.tenant = t
	}
	return s, id, err
}

// release closes a socket and frees its place.
func (r *reactor) release(s socket, id socketID, abort bool) {
	s.close(abort)
	p := &r.places[uint32(id)]
	p.tenant = nil
	p.used++
	r.vacant = append(r.vacant, uint32(id))
}

// wait returns the sockets that are ready, after at most timeout. They are valid until the next
// call.
func (r *reactor) wait(timeout time.Duration) (ready []readiness, err error) {
	r.ready, err = r.net.wait(timeout, r.ready[:0])
	return r.ready, err
}

// serve lets the tenant of a ready socket serve it.
func (r *reactor) serve(ready readiness) {
	p := &r.places[uint32(ready.id)]
	if p.tenant != nil && p.used == uint32(ready.id>>32) {
		p.tenant.ready(ready.in, ready.out)
	}
}

// close closes all sockets.
func (r *reactor) close() {
	for _, p := range r.places {
		if p.tenant != nil {
			p.tenant.drop()
		}
	}
	r.net.close()
}
