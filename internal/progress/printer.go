// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/internal/migration"
)

// Printer shows a migration while it goes on.
type Printer struct {
	w io.Writer
	// width of the terminal in cells, 0 when it is none.
	width int
	drawn int
	said  map[string]bool
}

// NewPrinter returns a Printer. On a terminal of the given width what is there
// is drawn again with each update; with width 0 every line is printed once, as
// soon as it does not change any more.
func NewPrinter(w io.Writer, width int) *Printer {
	return &Printer{w: w, width: width, said: map[string]bool{}}
}

// Update shows the migration's present status.
func (p *Printer) Update(m *v1alpha1.Migration) error {
	var b strings.Builder
	if p.width > 0 {
		p.redraw(&b, m)
	} else {
		p.tell(&b, m)
	}
	if b.Len() == 0 {
		return nil
	}
	if _, err := io.WriteString(p.w, b.String()); err != nil {
		return fmt.Errorf("show progress: %w", err)
	}
	return nil
}

func (p *Printer) tell(b *strings.Builder, m *v1alpha1.Migration) {
	for _, l := range Lines(m) {
		if l.Final && !p.said[l.Key] {
			p.said[l.Key] = true
			b.WriteString(clean(l.Text) + "\n")
		}
	}
}

// redraw goes up over what it drew before. No line may wrap, or more would have
// been drawn than it knows of. The last time lines are left whole.
func (p *Printer) redraw(b *strings.Builder, m *v1alpha1.Migration) {
	if p.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dA", p.drawn)
	}
	b.WriteString("\r\x1b[J")
	lines := Lines(m)
	for _, l := range lines {
		text := clean(l.Text)
		if !migration.Finished(m.Status.Phase) {
			text = cut(text, p.width-1)
		}
		b.WriteString(text + "\n")
	}
	p.drawn = len(lines)
}

// clean keeps control sequences, which a message may have picked up anywhere,
// away from the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width-1, 0)]) + "…"
}
