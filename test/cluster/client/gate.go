// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package client

import (
	"io"
	"sync"
)

// gate is a writer that can be closed while others still write to it: when a
// command is given up, its output may still be on the way.
type gate struct {
	mu sync.Mutex
	to io.Writer
}

// Write passes p on, or drops it when the gate is closed or leads nowhere.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.to == nil {
		return len(p), nil
	}
	return g.to.Write(p)
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to = nil
}
