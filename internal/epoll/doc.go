// Package epoll watches many descriptors for one goroutine, which holds no thread while it waits:
// Go's own poller watches the epoll's descriptor. Linux only.
package epoll
