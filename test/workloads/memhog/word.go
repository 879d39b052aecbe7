// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "encoding/binary"

func word(b []byte) uint64       { return binary.NativeEndian.Uint64(b) }
func putWord(b []byte, w uint64) { binary.NativeEndian.PutUint64(b, w) }
