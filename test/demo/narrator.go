// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
	"godwit.dev/godwit/test/harness/redisload"
)

// narrator tells what is new in a Migration, each thing once.
type narrator struct {
	screen *screen
	stats  func() redisload.Stats
	begun  time.Time
	// first round's bytes, the measure of all bars.
	first int64
	told  map[string]bool
	// repaint of the live line.
	stop, done chan struct{}
	message    chan string
}

func newNarrator(s *screen, stats func() redisload.Stats) *narrator {
	n := &narrator{
		screen: s, stats: stats, begun: time.Now(), told: map[string]bool{},
		stop: make(chan struct{}), done: make(chan struct{}), message: make(chan string),
	}
	go n.repaint()
	return n
}

// repaint keeps the live line alive: what is going on, and what the client does.
func (n *narrator) repaint() {
	defer close(n.done)
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	message, operations := "", n.stats().Operations()
	for {
		select {
		case <-n.stop:
			return
		case message = <-n.message:
		case <-ticker.C:
			now := n.stats().Operations()
			client := fmt.Sprintf("client: %d operations/s", (now-operations)*5)
			if now == operations {
				client = "client: waiting"
			}
			operations = now
			n.screen.paint(fmt.Sprintf("%8s  %s · %s", seconds(time.Since(n.begun)), message, client))
		}
	}
}

func (n *narrator) end() {
	close(n.stop)
	<-n.done
	n.screen.paint("")
}

// once prints a line the first time it is called with the key.
func (n *narrator) once(key, format string, args ...any) {
	if !n.told[key] {
		n.told[key] = true
		n.screen.line("%8s  "+format, append([]any{seconds(time.Since(n.begun))}, args...)...)
	}
}

// tell prints what the Migration says that it did not say before.
func (n *narrator) tell(m *v1alpha1.Migration) {
	s := &m.Status
	n.message <- s.Message
	if s.Target != nil && s.Target.PodName != "" {
		n.once("pod", "target pod %s is being brought up behind its gate", s.Target.PodName)
	}
	if s.Source != nil {
		n.tellSource(s.Source)
	}
	if t := s.Target; t != nil && t.State == v1alpha1.TargetParked {
		n.once("parked", "target pod waits on %s, only the images are missing", t.NodeName)
	}
	if h := s.Handover; h != nil {
		n.once("handover"+string(h.State), "handover register: %s by %s", h.State, h.By)
	}
	if t := s.Target; t != nil && t.RestoredAt != nil {
		n.once("restored", "restored on %s", t.NodeName)
	}
	if s.Phase != "" {
		n.once("phase"+string(s.Phase), "%s: %s", s.Phase, s.Message)
	}
}

func (n *narrator) tellSource(src *v1alpha1.SourceStatus) {
	for _, c := range src.Containers {
		for _, r := range c.Rounds {
			if r.Index == 0 {
				n.first = r.MemoryBytes
			}
			n.once(fmt.Sprintf("round%s%d", c.Name, r.Index), "round %-2d %s %7s in %s, stopped for %s, %s dirty again", r.Index, n.bar(r.MemoryBytes),
				migration.FormatBytes(r.MemoryBytes), seconds(r.Duration.Duration), seconds(r.Frozen.Duration), migration.FormatBytes(r.DirtyBytes))
		}
	}
	if src.FrozenAt != nil {
		n.once("frozen", "frozen, the last difference is being written")
	}
	for _, c := range src.Containers {
		if f := c.FinalDump; f != nil {
			n.first = max(n.first, f.MemoryBytes)
			n.once("final"+c.Name, "final    %s %7s, frozen for %s", n.bar(f.MemoryBytes), migration.FormatBytes(f.MemoryBytes), seconds(f.Frozen.Duration))
		}
	}
}

func (n *narrator) bar(bytes int64) string {
	return bar(float64(bytes)/float64(max(n.first, 1)), 24)
}
