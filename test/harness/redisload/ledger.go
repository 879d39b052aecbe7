// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package redisload

import (
	"context"
	"fmt"
)

// Store is what the ledger needs of a Redis server. Client is one.
type Store interface {
	// Set sets a key and returns nil when the server has acknowledged it. After
	// an error it may or may not have been set.
	Set(ctx context.Context, key string, value []byte) error
	// SetMany sets many keys in one go; after an error any of them may be set.
	SetMany(ctx context.Context, keys []string, values [][]byte) error
	// Get returns the values of keys, nil for one that does not exist.
	Get(ctx context.Context, keys ...string) ([][]byte, error)
	// Size is the number of keys that exist.
	Size(ctx context.Context) (int, error)
}

// entry is what is known of one key. Version 0 is none at all.
type entry struct {
	size int
	// acked is the version of the last acknowledged write, tried that of the
	// last one sent. Between an error and the next acknowledged write either
	// of the two may be on the server.
	acked, tried uint32
}

// Ledger remembers every acknowledged write. It is not safe for concurrent use.
type Ledger struct {
	store   Store
	entries []entry
}

// NewLedger makes a ledger of a store without keys.
func NewLedger(s Store) *Ledger { return &Ledger{store: s} }

// Keys is the number of keys that were written.
func (l *Ledger) Keys() int { return len(l.entries) }

// Bytes is the size of all values together.
func (l *Ledger) Bytes() int64 {
	var n int64
	for _, e := range l.entries {
		n += int64(e.size)
	}
	return n
}

// fillBatch is how many bytes are sent before their acknowledgements are read.
const fillBatch = 2 << 20

// Fill adds count keys with values of size bytes. It calls progress, which may
// be nil, with the number of bytes acknowledged so far.
func (l *Ledger) Fill(ctx context.Context, count, size int, progress func(done int64)) error {
	var done int64
	for count > 0 {
		first := len(l.entries)
		n := min(count, max(1, fillBatch/size))
		keys, values := make([]string, n), make([][]byte, n)
		for j := range n {
			keys[j], values[j] = keyName(first+j), value(first+j, 1, size)
		}
		if err := l.store.SetMany(ctx, keys, values); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		for range n {
			l.entries = append(l.entries, entry{size: size, acked: 1, tried: 1})
		}
		count -= n
		done += int64(n) * int64(size)
		if progress != nil {
			progress(done)
		}
	}
	return nil
}

// Write writes the next version of key i, or adds the key when i is Keys().
// After an error the same version is written again by the next call: the store
// may hold it already.
func (l *Ledger) Write(ctx context.Context, i, size int) error {
	if i == len(l.entries) {
		l.entries = append(l.entries, entry{size: size})
	}
	e := &l.entries[i]
	if e.tried == e.acked {
		e.tried++
	}
	if err := l.store.Set(ctx, keyName(i), value(i, e.tried, e.size)); err != nil {
		return err
	}
	e.acked = e.tried
	return nil
}

// Loss is an acknowledged write that is not there.
type Loss struct {
	// Key is the key's name.
	Key string
	// Want is the version that was acknowledged.
	Want uint32
	// Found says what is there instead.
	Found string
}

// String is a sentence about the loss.
func (l Loss) String() string {
	return fmt.Sprintf("%s: version %d was acknowledged, found %s", l.Key, l.Want, l.Found)
}

// Read reads key i and compares it. The loss is nil when it is as it has to be.
func (l *Ledger) Read(ctx context.Context, i int) (*Loss, error) {
	values, err := l.store.Get(ctx, keyName(i))
	if err != nil {
		return nil, err
	}
	return l.check(i, values[0]), nil
}

// check compares a value that was read with what was acknowledged.
func (l *Ledger) check(i int, b []byte) *Loss {
	e := l.entries[i]
	switch {
	case b == nil && e.acked == 0:
		return nil // it was never acknowledged
	case b != nil && holds(b, i, e.size, e.acked, e.tried) && (e.acked > 0 || e.tried > 0):
		return nil
	}
	loss := &Loss{Key: keyName(i), Want: e.acked, Found: "nothing"}
	if b != nil {
		loss.Found = fmt.Sprintf("%d bytes of something else", len(b))
		if v, ok := versionIn(i, b); ok {
			loss.Found = fmt.Sprintf("version %d", v)
			if v == e.acked || v == e.tried {
				loss.Found = "that version with other bytes"
			}
		}
	}
	return loss
}

// Report is what Verify found.
type Report struct {
	// Keys that were compared, and their values' bytes.
	Keys  int   `json:"keys"`
	Bytes int64 `json:"bytes"`
	// Lost counts the acknowledged writes that are not there.
	Lost int `json:"lost"`
	// Surplus counts keys on the server that nobody wrote.
	Surplus int `json:"surplus"`
	// Losses describes the first of them.
	Losses []string `json:"losses,omitempty"`
}

// OK says that everything is as it has to be.
func (r Report) OK() bool { return r.Lost == 0 && r.Surplus == 0 }

// maxLosses bounds how many losses a report describes.
const maxLosses = 10

// verifyBatch is how many bytes are asked for at a time.
const verifyBatch = 1 << 20

// Verify reads every key and compares every byte.
func (l *Ledger) Verify(ctx context.Context) (Report, error) {
	var r Report
	var absent int
	for i := 0; i < len(l.entries); {
		var keys []string
		first := i
		for size := 0; i < len(l.entries) && (len(keys) == 0 || size+l.entries[i].size <= verifyBatch); i++ {
			keys = append(keys, keyName(i))
			size += l.entries[i].size
		}
		values, err := l.store.Get(ctx, keys...)
		if err != nil {
			return r, fmt.Errorf("verify: %w", err)
		}
		for j, b := range values {
			r.Keys++
			r.Bytes += int64(len(b))
			if b == nil {
				absent++
			}
			if loss := l.check(first+j, b); loss != nil {
				r.Lost++
				if len(r.Losses) < maxLosses {
					r.Losses = append(r.Losses, loss.String())
				}
			}
		}
	}
	n, err := l.store.Size(ctx)
	if err != nil {
		return r, fmt.Errorf("verify: %w", err)
	}
	r.Surplus = max(0, n-(len(l.entries)-absent))
	return r, nil
}
