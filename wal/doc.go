// Package wal is a write-ahead log of opaque records with group commit.
package wal
