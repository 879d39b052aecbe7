// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package redisload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// keyName is the name of key i.
func keyName(i int) string { return "key:" + strconv.Itoa(i) }

// value is what key i holds in a version: a head that says so, for people, and
// pseudo-random bytes, size in all.
func value(i int, version uint32, size int) []byte {
	head := fmt.Sprintf("%d:%d:", i, version)
	b := make([]byte, max(size, len(head)))
	n := copy(b, head)
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(i))
	binary.LittleEndian.PutUint32(seed[8:], version)
	// Its Read never fails.
	_, _ = rand.NewChaCha8(seed).Read(b[n:])
	return b
}

// versionIn reads the head of a value, for the description of a loss.
func versionIn(i int, b []byte) (uint32, bool) {
	rest, ok := strings.CutPrefix(string(b[:min(len(b), 32)]), strconv.Itoa(i)+":")
	head, _, more := strings.Cut(rest, ":")
	if !ok || !more {
		return 0, false
	}
	v, err := strconv.ParseUint(head, 10, 32)
	return uint32(v), err == nil
}

// holds says whether b is key i's value in one of the versions.
func holds(b []byte, i, size int, versions ...uint32) bool {
	for _, v := range versions {
		if bytes.Equal(b, value(i, v, size)) {
			return true
		}
	}
	return false
}
