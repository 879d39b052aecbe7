// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"godwit.dev/godwit/internal/progress"
)

// screen prints lines. On a terminal its last line may be a live one, which is
// painted over.
type screen struct {
	mu   sync.Mutex
	out  io.Writer
	live bool
	// width of the terminal, 0 for no terminal.
	width int
}

func newScreen(f *os.File) *screen {
	s := &screen{out: f}
	if fd := int(f.Fd()); term.IsTerminal(fd) {
		if w, _, err := term.GetSize(fd); err == nil {
			s.width = w
		}
	}
	return s
}

// line prints a line that stays.
func (s *screen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wipe()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// paint shows text as the live line; without a terminal it does nothing.
func (s *screen) paint(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.width == 0 {
		return
	}
	s.wipe()
	if r := []rune(text); len(r) >= s.width {
		text = string(r[:s.width-1])
	}
	fmt.Fprint(s.out, text)
	s.live = true
}

func (s *screen) wipe() {
	if s.live {
		fmt.Fprint(s.out, "\r\033[K")
		s.live = false
	}
}

// section begins a part of the output.
func (s *screen) section(title string) {
	s.line("\n%s\n%s", title, strings.Repeat("─", len([]rune(title))))
}

// step prints what is done, and how long it took.
func (s *screen) step(what string, do func() error) error {
	return s.progress(what, func(func(float64)) error { return do() })
}

// progress is step with a bar, from 0 to 1.
func (s *screen) progress(what string, do func(show func(float64)) error) error {
	begun := time.Now()
	s.paint(what + " …")
	if s.width == 0 {
		s.line("%s …", what)
	}
	err := do(func(part float64) {
		s.paint(fmt.Sprintf("%s %s %3.0f %%", what, progress.Bar(30, 1000, int64(1000*part)), part*100))
	})
	if err != nil {
		s.line("%s: failed after %s", what, progress.Duration(time.Since(begun)))
		return fmt.Errorf("%s: %w", strings.ToLower(what[:1])+what[1:], err)
	}
	s.line("%s: done in %s", what, progress.Duration(time.Since(begun)))
	return nil
}
