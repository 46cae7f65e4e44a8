// Package wheel is a hashed hierarchical timing wheel: it files references by tick and hands them
// over when their tick has come. It reads no clock and does not care how long a tick is; the
// engine's is 10 ms.
//
// The algorithm is scheme 7 of Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987
// (https://doi.org/10.1145/41457.37504). Levels of 64 buckets with a word of occupied ones, and
// their arithmetic as pure functions, are the shape of tokio's timer
// (https://github.com/tokio-rs/tokio/tree/master/tokio/src/runtime/time/wheel).
//
// One goroutine owns a wheel; nothing in it is locked or atomic. It is made for lazy use: an item
// is filed once and fires once, and the owner then looks up the real deadline and files the item
// again if the deadline has moved. So there is no removal and no update.
//
// # Picture
//
// Three rings of 64 buckets, and the cursor, which is the next tick to be handed over. Here the
// cursor is tick 4,230 (1*4096 + 2*64 + 6):
//
//	level 0, 1 tick a bucket      0 ... 5 [6] 7 ... 63   the cursor's 64 ticks: 4,224 to 4,287
//	level 1, 64 ticks a bucket    0  1 [2] 3 ...... 63   the cursor's 4,096: 4,096 to 8,191
//	level 2, 4,096 ticks a bucket 0 [1] 2 ......... 63   a ring: 63 buckets ahead, 258,048 ticks
//
// An item stands on the lowest level whose turn it shares with the cursor. When the cursor reaches
// a bucket of level 1 or 2, its items cascade: each is filed anew, on a lower level. When it
// reaches a bucket of level 0, its items are handed over. One word per level tells which buckets
// hold anything, so that empty ones cost nothing however far the time jumps.
//
// A bucket is a chain of 4 KiB blocks of 8-byte items. Blocks are the unit of work, too: Advance
// looks at its limit after each, and a crowd at one tick fires, or cascades, in slices.
//
// # Invariants
//
//   - H1 An item fires in the Advance whose ticks include its own, not before and not after.
//     What is filed for a tick that was handed over already is overdue and fires first.
//   - H2 The cursor rests on the first tick of a bucket above level 0 until that bucket is empty,
//     so that nothing from its later ticks fires before the bucket's items stand among them; a
//     cascade may stop in the middle.
//   - H3 Below the top no occupied bucket is behind the cursor's. On the top level none is more
//     than 63 ahead, so that the cursor's own bucket never means two different turns.
//   - H4 An item's tick never changes, whatever bucket it waits in: with 32 bits and at most 2^31
//     ticks ahead it is never ambiguous. Items beyond level 2 wait in its farthest bucket and are
//     filed anew from there, never early.
//   - H5 Drained blocks are kept up to half of those in use and a fixed few: a burst does not hold
//     its memory.
//
// # Why blocks
//
// Buckets as growing slices would copy a large bucket some times over and each hold the memory of
// its own largest moment. Items linked one by one, as intrusive lists do, cost a cache miss for
// each.
package wheel
